"""Keys: create, load, use, flush (TPM Main 1.2, Part 3 sections 10, 13.5 and 22)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hwtpm.client.info import capability
from hwtpm.client.rsa import oaep_encrypt, rsa_parms
from hwtpm.client.session import AuthSession, Tpm
from hwtpm.errors import HwtpmError, UsageError
from hwtpm.secret import WELL_KNOWN, Secret
from hwtpm.tpm12.commands.cryptography import Sign
from hwtpm.tpm12.commands.eviction import FlushSpecific
from hwtpm.tpm12.commands.storage import CreateWrapKey, GetPubKey, LoadKey2, UnBind
from hwtpm.tpm12.const import (
    AuthDataUsage,
    Capability,
    EncScheme,
    EntityType,
    KeyFlag,
    KeyHandleValue,
    KeyUsage,
    Payload,
    ResourceType,
    SigScheme,
)
from hwtpm.tpm12.types import (
    KEY12_FORM,
    LEGACY_FORM,
    BoundData,
    Key,
    KeyHandleList,
    PcrInfoLong,
    PubKey,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

__all__ = [
    "KeyRef",
    "bind",
    "binding_key",
    "create",
    "flush",
    "flush_all",
    "get_pub",
    "load",
    "loaded",
    "loaded_handles",
    "sign",
    "signing_key",
    "srk",
    "storage_key",
    "unbind",
]

_FLUSHABLE: Final = (ResourceType.KEY, ResourceType.AUTH, ResourceType.TRANS)


@dataclass(frozen=True, slots=True)
class KeyRef:
    """A loaded key: its handle and its usage AuthData, None for a key that needs none."""

    handle: int
    auth: Secret | None

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The authorisations that using the key takes."""
        return () if self.auth is None else (self.auth,)

    def osap(self, tpm: Tpm) -> AuthSession:
        """An OSAP session for a command that makes a new entity under this key.

        Such a command needs a session even where the key needs none: it carries the new AuthData.
        """
        is_srk = self.handle == KeyHandleValue.SRK
        kind = EntityType.SRK if is_srk else EntityType.KEYHANDLE
        return tpm.osap(kind, self.handle, self.auth or WELL_KNOWN)


def srk(auth: Secret = WELL_KNOWN) -> KeyRef:
    """The storage root key, parent of all others."""
    return KeyRef(KeyHandleValue.SRK, auth)


def signing_key(
    *,
    bits: int = 2048,
    scheme: SigScheme = SigScheme.RSA_PKCS_V15_SHA1,
    needs_auth: bool = True,
    flags: int = 0,
    pcr_info: PcrInfoLong | None = None,
) -> Key:
    """Template of a key for TPM_Sign; `flags` are KeyFlag bits, here and in its siblings."""
    return _template(KeyUsage.SIGNING, EncScheme.NONE, scheme, bits, needs_auth, flags, pcr_info)


def storage_key(
    *,
    needs_auth: bool = True,
    flags: int = 0,
    pcr_info: PcrInfoLong | None = None,
) -> Key:
    """Template of a parent for other keys and sealed data; those are always RSA 2048."""
    scheme = EncScheme.RSA_OAEP_SHA1_MGF1
    return _template(KeyUsage.STORAGE, scheme, SigScheme.NONE, 2048, needs_auth, flags, pcr_info)


def binding_key(
    *,
    bits: int = 2048,
    needs_auth: bool = True,
    flags: int = 0,
    pcr_info: PcrInfoLong | None = None,
) -> Key:
    """Template of a key that others encrypt to with `bind`."""
    scheme = EncScheme.RSA_OAEP_SHA1_MGF1
    return _template(KeyUsage.BIND, scheme, SigScheme.NONE, bits, needs_auth, flags, pcr_info)


def create(
    tpm: Tpm,
    parent: KeyRef,
    template: Key,
    usage_auth: Secret = WELL_KNOWN,
    migration_auth: Secret | None = None,
) -> Key:
    """A new key, wrapped under its parent; it is not loaded.

    `migration_auth` is for templates with KeyFlag.MIGRATABLE only.
    """
    if (migration_auth is not None) != bool(template.key_flags & KeyFlag.MIGRATABLE):
        raise UsageError("a migration AuthData goes with a migratable key, and only with one")
    with parent.osap(tpm) as session:
        request = CreateWrapKey(
            parent.handle,
            session.encrypt_auth(usage_auth),
            session.encrypt_second_auth(migration_auth or WELL_KNOWN),
            template,
        )
        return tpm.execute(request, session, last=True).wrapped_key


def load(tpm: Tpm, parent: KeyRef, key: Key, usage_auth: Secret = WELL_KNOWN) -> KeyRef:
    """Load a wrapped key; the caller flushes it. See `loaded` for a `with` block that does."""
    reply = tpm.execute_with(LoadKey2(parent.handle, key), *parent.secrets)
    needs_auth = key.auth_data_usage != AuthDataUsage.NEVER
    return KeyRef(reply.inkey_handle, usage_auth if needs_auth else None)


@contextmanager
def loaded(tpm: Tpm, parent: KeyRef, key: Key, usage_auth: Secret = WELL_KNOWN) -> Iterator[KeyRef]:
    """Load a key for a `with` block and flush it at its end."""
    ref = load(tpm, parent, key, usage_auth)
    try:
        yield ref
    except BaseException as error:
        try:
            flush(tpm, ref.handle)
        except HwtpmError as flush_error:
            # What went wrong first is what the caller has to see.
            error.add_note(f"key {ref.handle:#010x} not flushed: {flush_error.message}")
        raise
    flush(tpm, ref.handle)


def flush(tpm: Tpm, handle: int, kind: ResourceType = ResourceType.KEY) -> None:
    """Make the TPM forget a loaded resource."""
    tpm.execute(FlushSpecific(handle, kind))


def loaded_handles(tpm: Tpm, kind: ResourceType = ResourceType.KEY) -> tuple[int, ...]:
    """The handles of one kind that are loaded now."""
    raw = capability(tpm, Capability.HANDLE, kind.to_bytes(4, "big"))
    return KeyHandleList.decode(raw).handles


def flush_all(tpm: Tpm) -> int:
    """Flush all keys and sessions, whoever made them; returns how many."""
    flushed = 0
    for kind in _FLUSHABLE:
        for handle in loaded_handles(tpm, kind):
            flush(tpm, handle, kind)
            flushed += 1
    return flushed


def get_pub(tpm: Tpm, key: KeyRef) -> PubKey:
    """The public part of a loaded key."""
    return tpm.execute_with(GetPubKey(key.handle), *key.secrets).pub_key


def sign(tpm: Tpm, key: KeyRef, area: bytes) -> bytes:
    """Sign with a signing key: a SHA-1 digest, or what the key's scheme takes instead."""
    return tpm.execute_with(Sign(key.handle, area), *key.secrets).sig


def bind(public_key: RSAPublicKey, data: bytes) -> bytes:
    """Encrypt to a binding key, without its TPM.

    Raises:
        Unsupported: `data` is too long for the key.
    """
    return oaep_encrypt(public_key, BoundData(Payload.BIND, data).encode())


def unbind(tpm: Tpm, key: KeyRef, blob: bytes) -> Secret:
    """Decrypt what was made with `bind`."""
    return Secret(tpm.execute_with(UnBind(key.handle, blob), *key.secrets).out_data)


def _template(
    usage: KeyUsage,
    enc_scheme: EncScheme,
    sig_scheme: SigScheme,
    bits: int,
    needs_auth: bool,
    flags: int,
    pcr_info: PcrInfoLong | None,
) -> Key:
    return Key(
        LEGACY_FORM if pcr_info is None else KEY12_FORM,
        usage,
        flags,
        AuthDataUsage.ALWAYS if needs_auth else AuthDataUsage.NEVER,
        rsa_parms(enc_scheme, sig_scheme, bits=bits),
        b"" if pcr_info is None else pcr_info.encode(),
        b"",
        b"",
    )
