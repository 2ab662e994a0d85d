"""Random values for the fields of commands, by codec, name or type; some are wrong on purpose."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from engine_rig import KEY_AUTH, key12, pcr_info, pcr_info_long, template

from hwtpm.tpm12.const import (
    AuthDataUsage,
    Capability,
    CapProperty,
    EncScheme,
    KeyUsage,
    NvPermission,
    ResourceType,
    SigScheme,
)
from hwtpm.tpm12.table import TABLE
from hwtpm.tpm12.types import (
    Key,
    KeyParms,
    NvAttributes,
    NvDataPublic,
    PcrInfoShort,
    PcrSelection,
    PubKey,
    StoredData,
    pcr_composite_hash,
)
from hwtpm.wire import Array, Blob, BoolByte, Fixed, Nested, OneOf, Rest, SizedNested, Uint

__all__ = ["BY_NAME", "PCR_AT_RESET", "TEMPLATES", "KeyModel", "Values"]

NV_INDICES: Final = (0x1000, 0x1001, 0x2000, 0x50001000, 0x11600, 0, 0xFFFFFFFF, 0x10000001)
PCR_AT_RESET: Final = pcr_composite_hash(PcrSelection.of((16,)), {16: bytes(20)})

NUMBERS: Final = (0, 1, 2, 3, 4, 7, 8, 16, 20, 32, 64, 255, 256, 1024, 0x7FFFFFFF, 0xFFFFFFFF)


@dataclass(frozen=True)
class KeyModel:
    """A key that both TPMs can load, under the SRK that they share or a loaded key by its name."""

    key: Key
    auth: bytes = KEY_AUTH
    parent: str = "srk"

    @property
    def public(self) -> PubKey:
        return PubKey(self.key.algorithm_parms, self.key.pub_key)

    @property
    def needs_auth(self) -> bool:
        return self.key.auth_data_usage != AuthDataUsage.NEVER


class Values:
    """Makes values. One random source decides everything.

    Args:
        rng: decides.
        keys: what can be loaded.
    """

    def __init__(self, rng: random.Random, keys: list[KeyModel]) -> None:
        self.rng = rng
        self.shelf = list(keys)
        self.sealed: list[str] = []
        self.wrapped: list[str] = []
        self.counters: list[str] = []

    def pick(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def value(self, codec: Any) -> Any:
        """Something that the codec takes."""
        if isinstance(codec, OneOf):
            return self.rng.choice(sorted(codec.values))
        if isinstance(codec, Uint):
            return self.rng.choice(NUMBERS) % (1 << 8 * codec.width)
        if isinstance(codec, BoolByte):
            return self.chance(0.5)
        if isinstance(codec, Fixed):
            return bytes(codec.size) if self.chance(0.3) else self.rng.randbytes(codec.size)
        if isinstance(codec, Blob | Rest):
            size = min(codec.limit, self.pick(0, 1, 4, 20, 20, 32, 100, 256))
            return self.rng.randbytes(size)
        if isinstance(codec, Array):
            return tuple(
                self.value(codec.item) for _ in range(min(codec.limit, self.pick(0, 1, 2)))
            )
        if isinstance(codec, SizedNested) and self.chance(0.3):
            return None
        if isinstance(codec, Nested):
            special = _BY_TYPE.get(codec.of)
            return special(self) if special else self.structure(codec.of)
        raise AssertionError(f"the fuzzer knows no {type(codec).__name__}")

    def structure(self, of: type[Any]) -> Any:
        """A random structure of that type."""
        return of(**{name: self.value(codec) for name, codec in of.layout.codecs.items()})

    # --- by name or type -------------------------------------------------------------------------

    def pcr(self) -> int:
        return self.pick(*range(26), 0xFFFFFFFF)

    def selection(self) -> PcrSelection:
        if self.chance(0.05):
            return PcrSelection(self.rng.randbytes(self.pick(0, 1, 2, 3, 3, 4)))
        return PcrSelection.of(self.rng.sample(range(24), self.pick(0, 1, 1, 2, 5)))

    def pcr_data(self) -> bytes:
        if self.chance(0.6):
            return b""
        info = pcr_info_long if self.chance(0.5) else pcr_info
        encoded = info((16,), PCR_AT_RESET if self.chance(0.8) else bytes(20))
        if self.chance(0.1):
            at = self.rng.randrange(len(encoded))
            encoded = encoded[:at] + self.rng.randbytes(1) + encoded[at + 1 :]
        return encoded

    def key_template(self) -> Key:
        usage = self.pick(*KeyUsage)
        bits = 2048 if usage in (KeyUsage.STORAGE, KeyUsage.IDENTITY) else self.pick(512, 1024)
        key = template(usage, bits)
        if self.chance(0.4):
            key = key12(key)
        if self.chance(0.4):
            key = replace(key, key_flags=self.pick(0, 1, 2, 3, 4, 6, 8, 16, 18, 32))
        if self.chance(0.2):
            key = replace(key, auth_data_usage=self.pick(0, 1, 1, 3, 2))
        if self.chance(0.2):
            key = replace(key, pcr_info=self.pcr_data())
        if self.chance(0.1):
            parms = replace(
                key.algorithm_parms,
                enc_scheme=self.pick(*EncScheme),
                sig_scheme=self.pick(*SigScheme),
            )
            key = replace(key, algorithm_parms=parms)
        return key

    def key_parms(self) -> KeyParms:
        return self.structure(KeyParms) if self.chance(0.1) else self.key_template().algorithm_parms

    def identity_template(self) -> Key:
        return template(KeyUsage.IDENTITY) if self.chance(0.7) else self.key_template()

    def storage_template(self) -> Key:
        return template(KeyUsage.STORAGE) if self.chance(0.7) else self.key_template()

    def wrapped_key(self) -> Any:
        if self.wrapped and self.chance(0.2):
            name = self.rng.choice(self.wrapped)
            return lambda side: side.blobs[name]
        key = self.rng.choice(self.shelf).key
        if self.chance(0.08):
            damaged = bytearray(key.enc_data)
            damaged[self.rng.randrange(len(damaged))] ^= 1 << self.rng.randrange(8)
            return replace(key, enc_data=bytes(damaged))
        if self.chance(0.04):
            return replace(key, key_flags=key.key_flags ^ self.pick(1, 2, 4))
        return key

    def sealed_data(self) -> Any:
        if self.sealed and self.chance(0.95):
            name = self.rng.choice(self.sealed)
            return lambda side: side.blobs[name]
        return self.structure(StoredData)

    def public(self) -> PubKey:
        return self.rng.choice(self.shelf).public

    def nv_index(self) -> int:
        return self.pick(*NV_INDICES, *NV_INDICES[:3], *NV_INDICES[:3])

    def nv_public(self) -> NvDataPublic:
        def condition() -> PcrInfoShort:
            if self.chance(0.8):
                return PcrInfoShort(PcrSelection(bytes(3)), 0x1F, bytes(20))
            digest = PCR_AT_RESET if self.chance(0.7) else bytes(20)
            return PcrInfoShort(self.selection(), self.pick(0, 1, 2, 0x1F, 0x1F, 0x20), digest)

        bits = [int(bit) for bit in NvPermission]
        chosen = self.rng.sample(bits, self.pick(0, 1, 1, 2, 3))
        size = self.pick(0, 1, 8, 20, 32, 32, 32, 256)
        flags = (self.chance(0.05), self.chance(0.05), self.chance(0.05))
        attributes = NvAttributes(sum(chosen))
        return NvDataPublic(self.nv_index(), condition(), condition(), attributes, *flags, size)

    def capability(self) -> int:
        return self.pick(*Capability, self.rng.choice(NUMBERS))

    def sub_capability(self) -> bytes:
        number = self.pick(*CapProperty, *(row.ordinal for row in TABLE), *NUMBERS, *NV_INDICES)
        if self.chance(0.1):
            return self.rng.randbytes(self.pick(0, 1, 2, 3, 5, 8))
        return int(number).to_bytes(4, "big")

    def counter(self) -> Any:
        if self.counters and self.chance(0.9):
            name = self.rng.choice(self.counters)
            return lambda side: side.handles.get(name, 0)
        return self.rng.choice(NUMBERS)

    def ordinal(self) -> int:
        return self.pick(*(row.ordinal for row in TABLE), *NUMBERS)

    def resource(self) -> int:
        return self.pick(*ResourceType, self.rng.choice(NUMBERS))


BY_NAME: Final[dict[str, Callable[[Values], Any]]] = {
    "pcr_num": Values.pcr,
    "pcr_index": Values.pcr,
    "pcr_info": Values.pcr_data,
    "nv_index": Values.nv_index,
    "offset": lambda values: values.pick(0, 0, 0, 0, 1, 8, 31, 32, 33, 255, 0x7FFFFFF0),
    "data_size": lambda values: values.pick(0, 1, 8, 20, 32, 32, 33, 256),
    "data": lambda values: values.rng.randbytes(values.pick(0, 1, 8, 20, 32, 32, 33)),
    "cap_area": Values.capability,
    "sub_cap": Values.sub_capability,
    "count_id": Values.counter,
    "ordinal_to_audit": Values.ordinal,
    "resource_type": Values.resource,
    "hash_data": lambda values: values.rng.randbytes(values.pick(0, 1, 63, 64, 64, 65, 128)),
    "area_to_sign": lambda values: values.rng.randbytes(values.pick(20, 20, 20, 20, 0, 1, 35)),
    "bytes_requested": lambda values: values.pick(0, 1, 20, 64, 1000),
    "physical_presence": lambda values: values.pick(0x8, 0x8, 0x8, 0x10, 0x20, 0x18, 0x1, 0x300),
    "protocol_id": lambda values: values.pick(5, 5, 5, 4, 0),
    "migration_scheme": lambda values: values.pick(1, 2, 3, 4, 5, 0),
    "migration_type": lambda values: values.pick(1, 2, 3, 4, 5, 0),
    "entity_type": lambda values: values.pick(1, 2, 4, 5, 6, 10, 11, 0x602, 0x102),
    # Not close to 2^32, where libtpms begins again with the first ordinal (8.3 action 3).
    "start_ordinal": lambda values: values.pick(0, 0, 10, 11, 0x7F, 0xF2, 0x4000000A, 0x7FFFFFFF),
    "startup_type": lambda values: values.pick(1, 2, 3, 0),
}

TEMPLATES: Final[dict[str, Callable[[Values], Any]]] = {
    "key_info": Values.key_template,
    "id_key_params": Values.identity_template,
    "srk_params": Values.storage_template,
}
"""Keys that are to be made; any other is one that was."""

_BY_TYPE: Final[dict[type[Any], Callable[[Values], Any]]] = {
    Key: Values.wrapped_key,
    KeyParms: Values.key_parms,
    StoredData: Values.sealed_data,
    PubKey: Values.public,
    PcrSelection: Values.selection,
    NvDataPublic: Values.nv_public,
}
