"""The permanent state of a TPM 1.2 as libtpms stores it (its `permall` blob).

Tag 0x0001, TPM_PERMANENT_DATA, TPM_PERMANENT_FLAGS, the owner-evict keys, the NV areas, SHA-1 over
all of it. Private keys stand in clear. Source: what libtpms 0.9.2 writes (tpm_permanent.c,
tpm_key.c, tpm_nvram.c, tpm_delegate.c, tpm_counter.c).
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final

from hwtpm.errors import StateError
from hwtpm.softtpm.engine.state import NvArea
from hwtpm.tpm12.const import DIGEST_SIZE, Tag
from hwtpm.tpm12.types import (
    U8,
    U16,
    U32,
    AuthValue,
    Bool,
    CounterValue,
    Data,
    Digest,
    KeyParms,
    Nonce,
    NvAttributes,
    NvDataPublic,
    PcrInfoShort,
    PcrSelection,
    PubKey,
)
from hwtpm.tpm12.types.delegation import DelegateTableRow
from hwtpm.wire import (
    Array,
    Blob,
    Fault,
    Fixed,
    Nested,
    OneOf,
    Struct,
    WireError,
    structure,
)

__all__ = [
    "AES_KEY_SIZE",
    "COUNTERS",
    "DELEGATE_ROWS",
    "FAMILIES",
    "MAX_STATE_SIZE",
    "OWNER_EVICT_KEYS",
    "AesKey",
    "CounterSlot",
    "DelegateRowSlot",
    "EkInClear",
    "EkPrivate",
    "EvictKey",
    "FamilySlot",
    "FlagBits",
    "KeyInClear",
    "State",
    "decode",
    "encode",
    "is_gpio",
]

_REF: Final = "libtpms 0.9.2"

MAX_STATE_SIZE: Final = 29835
"""TPM_MAX_NV_SPACE: a larger state puts libtpms into failure mode at its next store."""
COUNTERS: Final = 8
FAMILIES: Final = 16
DELEGATE_ROWS: Final = 4
OWNER_EVICT_KEYS: Final = 10
AES_KEY_SIZE: Final = 16
_STATE_TAG: Final = b"\x00\x01"
_DATA_TAG: Final = Tag.PERMANENT_DATA.to_bytes(2, "big")
_AUDIT_BYTES: Final = 32
_MAX_MODULUS: Final = 256
_MAX_PRIME: Final = 256
_MAX_PRIVATE: Final = 1 + 3 * DIGEST_SIZE + 4 + _MAX_PRIME  # TPM_STORE_ASYMKEY
_MAX_NV_AREAS: Final = 512
_GPIO_FIRST: Final = 0x00011600
_GPIO_LAST: Final = 0x000116FF


class _Times:
    """A fixed number of items, without a count."""

    __slots__ = ("count", "item", "spec_name")

    def __init__(self, item: type[Struct], count: int) -> None:
        self.item = Nested(item)
        self.count = count
        self.spec_name = f"{self.item.spec_name}[{count}]"

    def read(self, data: bytes, at: int, end: int) -> tuple[tuple[Any, ...], int]:
        values = []
        for _ in range(self.count):
            value, at = self.item.read(data, at, end)
            values.append(value)
        return tuple(values), at

    def write(self, value: tuple[Struct, ...], out: bytearray) -> None:
        if len(value) != self.count:
            raise WireError("", len(out), Fault.VALUE, f"{len(value)} items, not {self.count}")
        for item in value:
            self.item.write(item, out)


@structure("AES key", ref=_REF, head=b"\x00\x15")
class AesKey(Struct):
    """A TPM_SYMMETRIC_KEY_DATA; `valid` once the TPM has made the key."""

    valid: Bool
    fill: U8
    key: Annotated[bytes, Fixed("AES key", AES_KEY_SIZE, secret=True)]


@structure("TPM_STORE_ASYMKEY of the EK", ref=_REF)
class EkPrivate(Struct):
    """What is kept of the EK's private part."""

    pub_data_digest: Digest
    prime: Annotated[bytes, Blob(_MAX_PRIME, secret=True)]


_Private = Annotated[bytes, Blob(_MAX_PRIVATE, secret=True)]


@structure("endorsement key", ref=_REF)
class EkInClear(Struct):
    """A TPM_KEY without pcrInfo; `private` is an `EkPrivate`, or empty if there is no EK."""

    form: U32
    key_usage: U16
    key_flags: U32
    auth_data_usage: U8
    algorithm_parms: KeyParms
    pub_key: Annotated[bytes, Blob(_MAX_MODULUS)]
    private: _Private


@structure("key in clear", ref=_REF)
class KeyInClear(Struct):
    """A TPM_KEY or TPM_KEY12 whose encData is its TPM_STORE_ASYMKEY in clear, or empty if there is
    no key."""

    form: U32
    key_usage: U16
    key_flags: U32
    auth_data_usage: U8
    algorithm_parms: KeyParms
    pcr_info: Data
    pub_key: Annotated[bytes, Blob(_MAX_MODULUS)]
    private: _Private


@structure("counter slot", ref=_REF)
class CounterSlot(Struct):
    """A monotonic counter; its handle is the slot's number. A released one keeps its value, above
    which the next counter starts."""

    value: CounterValue
    auth: AuthValue
    valid: Bool


@structure("family slot", ref=_REF)
class FamilySlot(Struct):
    """A TPM_FAMILY_TABLE_ENTRY without its tag."""

    family_label: U8
    family_id: U32
    verification_count: U32
    flags: U32
    valid: Bool


@structure("delegate row slot", ref=_REF)
class DelegateRowSlot(Struct):
    """A row of the delegate table."""

    row: DelegateTableRow
    valid: Bool


@structure("owner-evict key", ref=_REF)
class EvictKey(Struct):
    """A key that stays loaded."""

    handle: U32
    key: KeyInClear
    parent_pcr_status: Bool
    key_control: U32


@structure("TPM_PCR_INFO_SHORT, short form", ref=_REF)
class _PcrInfoHead(Struct):
    pcr_selection: PcrSelection
    locality_at_release: U8


class _PcrInfo:
    """TPM_PCR_INFO_SHORT whose digestAtRelease is only there if a PCR is selected."""

    __slots__ = ()
    spec_name = PcrInfoShort.layout.spec_name
    _head = Nested(_PcrInfoHead)
    _digest = Fixed("TPM_DIGEST", DIGEST_SIZE)

    def read(self, data: bytes, at: int, end: int) -> tuple[PcrInfoShort, int]:
        head, at = self._head.read(data, at, end)
        assert isinstance(head, _PcrInfoHead)
        digest = bytes(DIGEST_SIZE)
        if any(head.pcr_selection.select):
            digest, at = self._digest.read(data, at, end)
        return PcrInfoShort(head.pcr_selection, head.locality_at_release, digest), at

    def write(self, value: PcrInfoShort, out: bytearray) -> None:
        self._head.write(_PcrInfoHead(value.pcr_selection, value.locality_at_release), out)
        if any(value.pcr_selection.select):
            self._digest.write(value.digest_at_release, out)


@structure("NV area head", ref=_REF, head=b"\x00\x19" + Tag.NV_DATA_PUBLIC.to_bytes(2, "big"))
class _NvHead(Struct):
    nv_index: U32
    pcr_info_read: Annotated[PcrInfoShort, _PcrInfo()]
    pcr_info_write: Annotated[PcrInfoShort, _PcrInfo()]
    permission: NvAttributes
    read_st_clear: Bool
    write_st_clear: Bool
    write_define: Bool
    data_size: U32
    auth: AuthValue


def is_gpio(index: int) -> bool:
    """True for an index of general-purpose I/O, which has no stored contents (Part 2 19.1.1)."""
    return _GPIO_FIRST <= index <= _GPIO_LAST


class _NvArea:
    """TPM_NV_DATA_SENSITIVE; how long the contents are stands in the public description."""

    __slots__ = ()
    spec_name = "TPM_NV_DATA_SENSITIVE"
    _head = Nested(_NvHead)

    def read(self, data: bytes, at: int, end: int) -> tuple[NvArea, int]:
        head, at = self._head.read(data, at, end)
        assert isinstance(head, _NvHead)
        *public, auth = (getattr(head, name) for name in _NvHead.layout.codecs)
        size = 0 if is_gpio(head.nv_index) else head.data_size
        contents, at = Fixed("BYTE[]", size, secret=True).read(data, at, end)
        return NvArea(NvDataPublic(*public), auth, contents), at

    def write(self, value: NvArea, out: bytearray) -> None:
        public = (getattr(value.public, name) for name in NvDataPublic.layout.codecs)
        fields: tuple[Any, ...] = (*public, value.auth)
        head = _NvHead(*fields)
        self._head.write(head, out)
        size = 0 if is_gpio(head.nv_index) else head.data_size
        Fixed("BYTE[]", size, secret=True).write(value.data, out)


@structure("TPM_PERMANENT_FLAGS as bits", ref=_REF)
class FlagBits(Struct):
    """The permanent flags: bit 0 is the first of the structure. Tag 1 is that of revision 94, which
    lacks the last flag."""

    tag: Annotated[int, OneOf("TPM_TAG", 2, (1, 2))]
    bits: U32


@structure("permanent state of libtpms", ref=_REF, head=_STATE_TAG + _DATA_TAG)
class State(Struct):
    """Everything but the checksum."""

    tpm_proof: AuthValue
    ek_reset: Nonce
    owner_auth: AuthValue
    operator_auth: AuthValue
    auth_dir: Digest
    has_manu_maint_pub: Annotated[int, OneOf("BYTE", 1, (1,))]
    manu_maint_pub: PubKey
    ek: EkInClear
    srk: KeyInClear
    context_key: AesKey
    delegate_key: AesKey
    audit_counter: CounterSlot
    counters: Annotated[tuple[CounterSlot, ...], _Times(CounterSlot, COUNTERS)]
    audit_status: Annotated[bytes, Fixed("BYTE[32]", _AUDIT_BYTES)]
    families: Annotated[tuple[FamilySlot, ...], _Times(FamilySlot, FAMILIES)]
    delegate_rows: Annotated[tuple[DelegateRowSlot, ...], _Times(DelegateRowSlot, DELEGATE_ROWS)]
    last_family_id: U32
    no_owner_nv_write: U32
    restrict_delegate: U32
    daa_seed: AuthValue
    owner_installed: Bool
    tsc_audit_status: U8
    allow_load_maint_pub: Bool
    daa_proof: AuthValue
    daa_blob_key: AesKey
    flags: FlagBits
    owner_evict_tag: Annotated[int, OneOf("TPM_TAG", 2, (1,))]
    owner_evict: Annotated[
        tuple[EvictKey, ...], Array(Nested(EvictKey), OWNER_EVICT_KEYS, prefix=2)
    ]
    nv_tag: Annotated[int, OneOf("TPM_TAG", 2, (2,))]
    nv_areas: Annotated[tuple[NvArea, ...], Array(_NvArea(), _MAX_NV_AREAS)]


def decode(blob: bytes) -> State:
    """The state in a `permall` blob.

    Raises:
        StateError: it is cut off, damaged, or no such blob.
    """
    body, digest = blob[:-DIGEST_SIZE], blob[-DIGEST_SIZE:]
    if hashlib.sha1(body).digest() != digest:
        raise StateError(
            f"the libtpms state is damaged: its checksum over {len(body)} bytes does not match",
            hint="restore it from a backup; a state of a TPM 2.0 cannot be used either",
        )
    try:
        return State.decode(body)
    except WireError as error:
        raise StateError(
            f"the libtpms state is none of a TPM 1.2 that this program knows: {error.message}",
            hint="nothing was changed; start it once with a current libtpms, then try again",
        ) from error


def encode(state: State) -> bytes:
    """The `permall` blob.

    Raises:
        WireError: a value has no place in the format.
    """
    body = state.encode()
    return body + hashlib.sha1(body).digest()
