"""Volatile state at rest: what TPM_SaveState keeps, and all of it, to go on in another process.

docs/engine-state.md describes both blobs.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

from hwtpm.errors import Busy
from hwtpm.softtpm.engine.daa_sessions import MAX_DAA_SESSIONS, DaaSession
from hwtpm.softtpm.engine.keys import MAX_KEYS
from hwtpm.softtpm.engine.rsa import load_stored_key, stored_key
from hwtpm.softtpm.engine.sessions import MAX_SESSIONS, Session
from hwtpm.softtpm.engine.state import (
    AES_KEY_SIZE,
    MAX_CONTEXTS,
    MAX_NV_AREAS,
    Stclear,
    StoredKey,
    open_blob,
    seal_blob,
)
from hwtpm.softtpm.engine.transports import MAX_TRANSPORTS, TransportSession
from hwtpm.tpm12.const import DIGEST_SIZE, NUM_PCRS
from hwtpm.tpm12.types import U8, U16, U32, U64, AuthValue, Bool, Digest, Nonce, StclearFlags
from hwtpm.tpm12.types.delegation import DelegatePublic
from hwtpm.tpm12.types.transport import TransportPublic
from hwtpm.wire import Array, Blob, Fixed, Nested, SizedNested, Struct, Uint, structure

if TYPE_CHECKING:
    from hwtpm.softtpm.engine.tpm import Engine

__all__ = [
    "Resources",
    "Saved",
    "SinceStartup",
    "StoredSession",
    "StoredTransport",
    "Volatile",
    "decode_saved",
    "encode_saved",
    "export_volatile",
    "import_volatile",
]

_MAGIC_SAVED: Final = b"HWTPM12S"
_MAGIC_VOLATILE: Final = b"HWTPM12V"
_REF: Final = "docs/engine-state.md"
_MAX_REASON: Final = 200

_Contexts = Annotated[tuple[int, ...], Array(Uint("UINT32", 4), MAX_CONTEXTS)]
_NvIndices = Annotated[tuple[int, ...], Array(Uint("UINT32", 4), MAX_NV_AREAS)]


@structure("stored session", ref=_REF)
class StoredSession(Struct):
    """An authorisation session at rest. Entity type 0 stands for none: OIAP."""

    handle: U32
    nonce_even: Nonce
    entity_type: U16
    entity: Annotated[bytes, Blob(DIGEST_SIZE)]
    shared_secret: Annotated[bytes, Blob(DIGEST_SIZE, secret=True)]
    adip: U8
    delegation: Annotated[DelegatePublic | None, SizedNested(DelegatePublic)]

    @classmethod
    def of(cls, session: Session) -> StoredSession:
        """The session as it is now."""
        kind, entity = session.entity or (0, b"")
        return cls(
            session.handle,
            session.nonce_even,
            kind,
            entity,
            session.shared_secret,
            session.adip,
            session.delegation,
        )

    def open(self, handle: int) -> Session:
        """The session, open again under that handle."""
        entity = (self.entity_type, self.entity) if self.entity_type else None
        return Session(
            handle, self.nonce_even, entity, self.shared_secret, self.adip, self.delegation
        )


@structure("stored transport session", ref=_REF)
class StoredTransport(Struct):
    """A transport session at rest."""

    handle: U32
    nonce_even: Nonce
    auth: AuthValue
    public: TransportPublic
    log: Digest

    @classmethod
    def of(cls, session: TransportSession) -> StoredTransport:
        """The session as it is now."""
        return cls(session.handle, session.nonce_even, session.auth, session.public, session.log)

    def open(self, handle: int) -> TransportSession:
        """The session, open again under that handle."""
        return TransportSession(
            handle, self.nonce_even, auth=self.auth, public=self.public, log=self.log
        )


@structure("resources", ref=_REF)
class Resources(Struct):
    """All that is loaded, each kind in the order in which the slots were filled; of the keys also
    those that the owner has stay."""

    keys: Annotated[tuple[StoredKey, ...], Array(Nested(StoredKey), MAX_KEYS)]
    sessions: Annotated[tuple[StoredSession, ...], Array(Nested(StoredSession), MAX_SESSIONS)]
    transports: Annotated[
        tuple[StoredTransport, ...], Array(Nested(StoredTransport), MAX_TRANSPORTS)
    ]
    daa: Annotated[tuple[DaaSession, ...], Array(Nested(DaaSession), MAX_DAA_SESSIONS)]

    @classmethod
    def of(cls, tpm: Engine) -> Resources:
        """What the TPM has loaded now."""
        return cls(
            tuple(stored_key(key) for key in tpm.keys),
            tuple(StoredSession.of(session) for session in tpm.sessions),
            tuple(StoredTransport.of(session) for session in tpm.transports),
            tuple(tpm.daa),
        )

    def load_into(self, tpm: Engine) -> None:
        """Have the TPM loaded with these and nothing else."""
        tpm.forget_volatile()
        for key in self.keys:
            tpm.keys.put_later(key.handle, partial(load_stored_key, key))
        for session in self.sessions:
            tpm.sessions.put(session.open(session.handle))
        for transport in self.transports:
            tpm.transports.put(transport.open(transport.handle))
        for daa in self.daa:
            tpm.daa.put(daa)


@structure("state since TPM_Startup", ref=_REF)
class SinceStartup(Struct):
    """`Stclear` as far as TPM_Startup(ST_STATE) restores it."""

    flags: StclearFlags
    pcrs: Annotated[bytes, Fixed("TPM_PCRVALUE[24]", NUM_PCRS * DIGEST_SIZE)]
    active_counter: U32
    owner_reference: U32
    read_locked: _NvIndices
    write_locked: _NvIndices
    audit_digest: Digest
    context_nonce_key: Nonce
    context_nonce_session: Nonce
    context_count: U32
    context_list: _Contexts
    deferred_presence: U32

    @classmethod
    def of(cls, state: Stclear) -> SinceStartup:
        """The part of the state that can be restored."""
        return cls(
            state.flags,
            b"".join(state.pcrs),
            state.active_counter,
            state.owner_reference,
            tuple(sorted(state.read_locked)),
            tuple(sorted(state.write_locked)),
            state.audit_digest,
            state.context_nonce_key,
            state.context_nonce_session,
            state.context_count,
            state.context_list,
            state.deferred_presence,
        )

    def restore(
        self,
        *,
        tos_present: bool = False,
        exclusive_transport: int = 0,
        old_context_key: bytes = b"",
        old_context_list: tuple[int, ...] = (),
    ) -> Stclear:
        """The state, with these for what is not restored."""
        size = DIGEST_SIZE
        return Stclear(
            self.flags,
            tuple(self.pcrs[at : at + size] for at in range(0, len(self.pcrs), size)),
            self.active_counter,
            self.owner_reference,
            frozenset(self.read_locked),
            frozenset(self.write_locked),
            tos_present,
            self.audit_digest,
            self.context_nonce_key,
            self.context_nonce_session,
            self.context_count,
            self.context_list,
            self.deferred_presence,
            exclusive_transport,
            old_context_key,
            old_context_list,
        )


@structure("saved state", ref=_REF)
class Saved(Struct):
    """What TPM_SaveState keeps for TPM_Startup(ST_STATE)."""

    since_startup: SinceStartup
    resources: Resources


def encode_saved(tpm: Engine) -> bytes:
    """The blob that TPM_SaveState stores."""
    since = SinceStartup.of(tpm.volatile.without_old_contexts())
    return seal_blob(_MAGIC_SAVED, Saved(since, Resources.of(tpm)))


def decode_saved(blob: bytes) -> Saved:
    """What is in a saved blob.

    Raises:
        StateError: the blob is not one, is damaged, or comes from another version.
    """
    return open_blob(_MAGIC_SAVED, blob, Saved, "saved")


@structure("volatile state", ref=_REF)
class Volatile(Struct):
    """All that a TPM loses with its power, times as durations."""

    since_startup: Annotated[SinceStartup | None, SizedNested(SinceStartup)]  # before it: None
    tos_present: Bool
    exclusive_transport: U32
    old_context_key: Annotated[bytes, Blob(AES_KEY_SIZE, secret=True)]
    old_context_list: _Contexts
    resources: Resources
    failure: Annotated[bytes, Blob(_MAX_REASON)]  # UTF-8; empty outside failure mode
    untested: Bool
    ticks: U64  # microseconds
    tick_nonce: Nonce
    lockout_us: U64  # left to wait
    reset_blocked: Bool
    saved: Bool  # the state that TPM_SaveState stored is the present one


def export_volatile(tpm: Engine) -> bytes:
    """The volatile state of a TPM between two commands. A SHA-1 calculation is not part of it: any
    command that is not its own may end one (Part 3 section 13.1).

    Raises:
        Busy: between TPM_HASH_START and TPM_HASH_END; half a measurement cannot be moved.
    """
    if tpm.measuring:
        raise Busy(
            f"{tpm.description}: a launch is being measured",
            hint="export the state after its TPM_HASH_END",
        )
    state = tpm.stclear
    return seal_blob(
        _MAGIC_VOLATILE,
        Volatile(
            since_startup=None if state is None else SinceStartup.of(state),
            tos_present=state is not None and state.tos_present,
            exclusive_transport=0 if state is None else state.exclusive_transport,
            old_context_key=b"" if state is None else state.old_context_key,
            old_context_list=() if state is None else state.old_context_list,
            resources=Resources.of(tpm),
            failure=tpm.failure.encode()[:_MAX_REASON],
            untested=tpm.untested,
            ticks=tpm.current_ticks.current_ticks,
            tick_nonce=tpm.tick_nonce,
            lockout_us=tpm.lockout.wait_us,
            reset_blocked=tpm.lockout.is_reset_blocked,
            saved=tpm.saved is not None,
        ),
    )


def import_volatile(tpm: Engine, blob: bytes) -> None:
    """Power the TPM on, and go on where `export_volatile` was called.

    Raises:
        StateError: the blob is not one, is damaged, or comes from another version; the TPM is as
            it was before. Or what `Engine.power_on` raises.
    """
    state = open_blob(_MAGIC_VOLATILE, blob, Volatile, "volatile")
    tpm.power_on()
    if state.since_startup is not None:
        tpm.stclear = state.since_startup.restore(
            tos_present=state.tos_present,
            exclusive_transport=state.exclusive_transport,
            old_context_key=state.old_context_key,
            old_context_list=state.old_context_list,
        )
    state.resources.load_into(tpm)
    tpm.failure = state.failure.decode(errors="replace")
    tpm.untested = state.untested
    # Half a tick more, so that rounding does not turn the counter back.
    tpm.ticks_start_s = tpm.clock.now() - (state.ticks + 0.5) / 1_000_000
    tpm.tick_nonce = state.tick_nonce
    tpm.lockout.go_on(state.lockout_us, reset_blocked=state.reset_blocked)
    if state.saved:
        tpm.save_state()
