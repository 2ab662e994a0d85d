"""Loaded keys: the volatile key slots and the two keys that live in the TPM."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hwtpm.softtpm.engine.call import Refuse
from hwtpm.tpm12.const import AuthDataUsage, EntityType, KeyFlag, KeyHandleValue
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import LEGACY_FORM, Key, PcrInfo, PcrInfoLong
from hwtpm.wire import WireError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

__all__ = ["MAX_KEYS", "KeyTable", "LoadedKey", "ReleaseCondition"]

MAX_KEYS: Final = 20


@dataclass(frozen=True, slots=True)
class ReleaseCondition:
    """PCRs (by index), their composite hash and the localities that a use depends on."""

    pcr_selection: bytes  # encoded TPM_PCR_SELECTION
    indices: tuple[int, ...]
    digest: bytes
    localities: int = 0x1F

    @classmethod
    def of(cls, form: int, info: bytes) -> ReleaseCondition | None:
        """The condition in a pcrInfo of a key or sealed blob of that form; None if empty.

        Raises:
            Refuse: INVALID_PCR_INFO if it is not such a structure.
        """
        if not info:
            return None
        try:
            if form == LEGACY_FORM:
                short = PcrInfo.decode(info)
                selection, digest, localities = short.pcr_selection, short.digest_at_release, 0x1F
            else:
                long = PcrInfoLong.decode(info)
                selection, digest = long.release_pcr_selection, long.digest_at_release
                localities = long.locality_at_release
        except WireError:
            raise Refuse(Rc.INVALID_PCR_INFO) from None
        return cls(selection.encode(), selection.indices, digest, localities)


@dataclass(slots=True)
class LoadedKey:
    """A key in a slot. `private` is the RSA key, `prime` one of its primes for saving."""

    handle: int
    key: Key
    usage_auth: bytes
    migration_auth: bytes
    payload: int
    private: RSAPrivateKey
    condition: ReleaseCondition | None
    parent_condition: bool = False  # the parent, or one of its parents, is bound to PCRs
    parent_handle: int = 0

    @property
    def entity(self) -> tuple[int, bytes]:
        """What an OSAP session for this key is bound to."""
        if self.handle == KeyHandleValue.SRK:
            return int(EntityType.SRK), SRK_ENTITY_VALUE
        return int(EntityType.KEYHANDLE), hashlib.sha1(self.key.pub_key).digest()

    @property
    def needs_auth(self) -> bool:
        """True unless anybody may use the key."""
        return self.key.auth_data_usage != AuthDataUsage.NEVER

    @property
    def migratable(self) -> bool:
        """True if the key may leave for another TPM."""
        return bool(self.key.key_flags & KeyFlag.MIGRATABLE)


SRK_ENTITY_VALUE: Final = int(KeyHandleValue.SRK).to_bytes(4, "big")


class KeyTable:
    """The volatile key slots."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._slots: dict[int, LoadedKey] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[LoadedKey]:
        return iter(tuple(self._slots.values()))

    def get(self, handle: int) -> LoadedKey | None:
        """The key with that handle."""
        return self._slots.get(handle)

    def new_handle(self) -> int:
        """A handle that nothing has; Refuse(NOSPACE) if all slots are taken."""
        if len(self._slots) >= MAX_KEYS:
            raise Refuse(Rc.NOSPACE)
        handle = 0
        while handle == 0 or handle in self._slots:
            handle = int.from_bytes(self._random(3), "big") | 0x05000000
        return handle

    def put(self, key: LoadedKey) -> None:
        """Fill a slot under the key's own handle."""
        self._slots[key.handle] = key

    def drop(self, handle: int) -> bool:
        """Empty a slot; False if it was empty."""
        return self._slots.pop(handle, None) is not None

    def clear(self) -> None:
        """Empty all slots."""
        self._slots.clear()
