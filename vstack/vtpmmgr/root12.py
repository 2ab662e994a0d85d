"""A TPM 1.2 chip as the manager's root of trust.

Source: TPM Main 1.2, Part 3. The sequence is that of Xen's vtpmmgr, without its global session:
each command has sessions of its own, so one that fails takes nothing from the next.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from typing import Final

from hwtpm.client import entropy, identity, info, keys, owner, pcr, quote, seal, testing
from hwtpm.client.identity import Credential
from hwtpm.client.quote import Quote
from hwtpm.client.session import Tpm
from hwtpm.errors import HwtpmError, StateError, TpmError
from hwtpm.secret import WELL_KNOWN, Secret
from hwtpm.tpm12.const import (
    CapProperty,
    ResourceType,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import Key, PubKey, StoredData
from hwtpm.wire import WireError
from vstack.vtpmmgr.root import ChipIdentity, IdentityKey, Quoted

__all__ = ["KIND", "Tpm12Root"]

KIND: Final = "tpm12"

_LOG: Final = logging.getLogger(__name__)

# What a crashed run of ours can have left behind. Saved contexts, counters and DAA sessions are
# other people's, so they stay.
_LEFTOVERS: Final = (ResourceType.KEY, ResourceType.AUTH, ResourceType.TRANS)

_NOT_OURS: Final = frozenset(
    (Rc.NOTSEALED_BLOB, Rc.BAD_VERSION, Rc.DECRYPT_ERROR, Rc.INVALID_STRUCTURE, Rc.BAD_DATASIZE)
)
"""Answers to TPM_Unseal of a blob that is damaged or from another SRK. A wrong password is none."""


class Tpm12Root:
    """`RootOfTrust` on a TPM 1.2 that has been started (TPM_Startup) and is enabled and active.

    Args:
        tpm: the chip; `close` closes it.
        owner_auth: AuthData of the owner, also for an owner yet to be.
        srk_auth: AuthData of the storage root key.
        exclusive: nobody else uses the chip, so all keys and sessions that are loaded at the start
            are flushed: they are what a crash left behind.
    """

    def __init__(
        self,
        tpm: Tpm,
        *,
        owner_auth: Secret = WELL_KNOWN,
        srk_auth: Secret = WELL_KNOWN,
        exclusive: bool = True,
    ) -> None:
        self._tpm = tpm
        self._owner_auth = owner_auth
        self._srk = keys.srk(srk_auth)
        self._srk_auth = srk_auth
        self._exclusive = exclusive
        self._resident: tuple[bytes, keys.KeyRef] | None = None

    def identity(self) -> ChipIdentity:
        testing.continue_self_test(self._tpm)
        if self._exclusive:
            self._flush_leftovers()
        return self._observe()

    def take(self) -> ChipIdentity:
        chip = self._observe()
        if chip.owned:
            return chip
        ek = PubKey.decode(chip.endorsement_key) if chip.name else owner.create_ek(self._tpm)
        owner.take_ownership(self._tpm, self._owner_auth, self._srk_auth, ek=ek)
        owner.disable_pubek_read(self._tpm, self._owner_auth)
        return self._observe()

    def seal(self, secret: Secret) -> bytes:
        return seal.seal(self._tpm, self._srk, secret).encode()

    def unseal(self, blob: bytes) -> Secret:
        try:
            return seal.unseal(self._tpm, self._srk, StoredData.decode(blob))
        except WireError as error:
            raise self._not_sealed_here(error) from error
        except TpmError as error:
            if error.rc in _NOT_OURS:
                raise self._not_sealed_here(error) from error
            raise

    def random(self, count: int) -> bytes:
        return entropy.get_random(self._tpm, count).data

    def pcr_read(self, index: int) -> bytes:
        return pcr.read(self._tpm, index)

    def make_identity(self, label_digest: bytes, auth: Secret) -> IdentityKey:
        made = identity.make(
            self._tpm, self._owner_auth, auth, label_digest, srk_auth=self._srk_auth
        )
        return IdentityKey(made.key.encode(), made.public.encode(), label_digest, made.binding)

    def quote(
        self, key: IdentityKey, auth: Secret, external_data: bytes, pcrs: Iterable[int]
    ) -> Quoted:
        wanted = tuple(pcrs)
        try:
            signed = self._quote(key, auth, external_data, wanted)
        except TpmError as error:
            # Somebody flushed the key that was left loaded, or the chip has been restarted.
            if error.rc != Rc.INVALID_KEYHANDLE:
                raise
            signed = self._quote(key, auth, external_data, wanted)
        self._make_room()
        return Quoted(signed.signature, signed.pcrs)

    def activate(self, key: IdentityKey, auth: Secret, blob: bytes) -> Secret:
        # Rare, so the key is loaded for it anew: no question of what became of the resident one.
        self._unload()
        with keys.loaded(self._tpm, self._srk, Key.decode(key.wrapped), auth) as ref:
            opened = identity.activate(self._tpm, self._owner_auth, ref, Credential(blob, b""))
        return Secret(opened.encode())

    def close(self) -> None:
        try:
            self._unload()
        except HwtpmError as error:
            _LOG.warning("the identity key stays loaded: %s", error.message)
        self._tpm.close()

    def _observe(self) -> ChipIdentity:
        description = self._describe()
        owned = bool(info.property_value(self._tpm, CapProperty.OWNER))
        ek = self._read_ek(owned)
        attached = self._tpm.attached
        return ChipIdentity(
            KIND,
            attached.address,
            description,
            attached.real_hardware,
            owned,
            b"" if ek is None else ek.encode(),
            "" if ek is None else hashlib.sha256(ek.encode()).hexdigest(),
        )

    def _describe(self) -> str:
        """Vendor, versions and the timing that the chip asks for."""
        version, timing = info.version(self._tpm), info.timing(self._tpm)
        vendor = version.tpm_vendor_id.rstrip(b"\0 ").decode("ascii", "replace")
        text = (
            f"{self._tpm.attached.detail or self._tpm.attached.backend}: TPM"
            f" {version.version.major}.{version.version.minor}, vendor {vendor},"
            f" firmware {version.version.rev_major}.{version.version.rev_minor}"
        )
        if timing is None:
            return text
        return f"{text}, long commands up to {timing.long_us / 1e6:.0f} s"

    def _flush_leftovers(self) -> None:
        self._resident = None
        for kind in _LEFTOVERS:
            for handle in keys.loaded_handles(self._tpm, kind):
                try:
                    keys.flush(self._tpm, handle, kind)
                except TpmError as error:
                    # A key that its owner has pinned, for one; the others still have to go.
                    _LOG.info("left loaded: %s", error.message)

    def _read_ek(self, owned: bool) -> PubKey | None:
        if owned:
            return owner.read_ek_as_owner(self._tpm, self._owner_auth)
        try:
            return owner.read_ek(self._tpm)
        except TpmError as error:
            if error.rc != Rc.NO_ENDORSEMENT:
                raise
            return None

    def _not_sealed_here(self, error: HwtpmError) -> StateError:
        return StateError(
            f"{self._tpm.attached.address} does not open this sealed secret: {error.message}",
            hint="the chip was cleared since, or the blob is damaged: restore both from one time",
        )

    def _load(self, key: IdentityKey, auth: Secret) -> keys.KeyRef:
        """The key, loaded; it stays so until another one is wanted or slots are short."""
        if self._resident is not None and self._resident[0] == key.wrapped:
            return self._resident[1]
        self._unload()
        ref = keys.load(self._tpm, self._srk, Key.decode(key.wrapped), auth)
        self._resident = (key.wrapped, ref)
        return ref

    def _quote(
        self, key: IdentityKey, auth: Secret, external_data: bytes, pcrs: tuple[int, ...]
    ) -> Quote:
        try:
            return quote.quote(self._tpm, self._load(key, auth), external_data, pcrs)
        except TpmError:
            # Whatever became of the key that was left loaded, it does not spoil the next quote.
            self._unload()
            raise

    def _make_room(self) -> None:
        """Unload the key if no slot is free for anybody else's."""
        if not info.property_value(self._tpm, CapProperty.KEYS):
            self._unload()

    def _unload(self) -> None:
        resident, self._resident = self._resident, None
        if resident is None:
            return
        try:
            keys.flush(self._tpm, resident[1].handle)
        except TpmError as error:
            # It is gone already, which is what was wanted.
            _LOG.debug("key was not loaded: %s", error.message)
