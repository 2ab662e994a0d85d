"""Non-volatile storage (TPM Main 1.2, Part 3 section 20; Part 2 section 19)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hwtpm.client.info import capability
from hwtpm.client.session import Tpm
from hwtpm.errors import ProtocolError, UsageError
from hwtpm.secret import WELL_KNOWN, Secret
from hwtpm.tpm12.commands.nv import (
    NvDefineSpace,
    NvReadValue,
    NvReadValueAuth,
    NvWriteValue,
    NvWriteValueAuth,
)
from hwtpm.tpm12.const import (
    DIGEST_SIZE,
    EVERY_LOCALITY,
    Capability,
    EntityType,
    KeyHandleValue,
    NvIndex,
    NvPermission,
)
from hwtpm.tpm12.types import NvAttributes, NvDataPublic, PcrInfoShort, PcrSelection

__all__ = [
    "NvArea",
    "area",
    "define",
    "delete",
    "indices",
    "lock",
    "read",
    "unrestricted",
    "write",
]

_PIECE: Final = 512
"""Bytes in one command: the smallest input buffers of chips are little more than 1 KiB."""


@dataclass(frozen=True, slots=True)
class NvArea:
    """The public description of an NV area."""

    index: int
    size: int
    permissions: NvPermission
    read_locked: bool
    write_locked: bool
    defined_locked: bool
    read_pcrs: tuple[int, ...]
    write_pcrs: tuple[int, ...]


def indices(tpm: Tpm) -> tuple[int, ...]:
    """The indices of all areas that are defined, ascending."""
    raw = capability(tpm, Capability.NV_LIST)
    if len(raw) % 4:
        raise ProtocolError(f"{tpm.attached.address}: a list of NV indices of {len(raw)} bytes")
    return tuple(sorted(int.from_bytes(raw[at : at + 4], "big") for at in range(0, len(raw), 4)))


def area(tpm: Tpm, index: int) -> NvArea:
    """The public description of one area.

    Raises:
        TpmError: TPM_BADINDEX if it is not defined.
    """
    public = NvDataPublic.decode(capability(tpm, Capability.NV_INDEX, index.to_bytes(4, "big")))
    return NvArea(
        public.nv_index,
        public.data_size,
        NvPermission(public.permission.attributes),
        public.read_st_clear,
        public.write_st_clear,
        public.write_define,
        public.pcr_info_read.pcr_selection.indices,
        public.pcr_info_write.pcr_selection.indices,
    )


def unrestricted() -> PcrInfoShort:
    """Access in any PCR state, from any locality."""
    return PcrInfoShort(PcrSelection.of(()), EVERY_LOCALITY, bytes(DIGEST_SIZE))


def define(
    tpm: Tpm,
    index: int,
    size: int,
    permissions: NvPermission,
    *,
    owner_auth: Secret | None = None,
    area_auth: Secret = WELL_KNOWN,
    read_policy: PcrInfoShort | None = None,
    write_policy: PcrInfoShort | None = None,
) -> None:
    """Define an area, with owner authorisation or, left out, with physical presence.

    Where it exists already it is defined anew and its content lost. Without an owner the area's
    AuthData travels in clear, as the specification has it.
    """
    public = NvDataPublic(
        index,
        read_policy or unrestricted(),
        write_policy or unrestricted(),
        NvAttributes(permissions),
        False,
        False,
        False,
        size,
    )
    if owner_auth is None:
        tpm.execute(NvDefineSpace(public, area_auth.reveal()))
        return
    with tpm.osap(EntityType.OWNER, KeyHandleValue.OWNER, owner_auth) as session:
        request = NvDefineSpace(public, session.encrypt_auth(area_auth))
        tpm.execute(request, session, last=True)


def delete(tpm: Tpm, index: int, *, owner_auth: Secret | None = None) -> None:
    """Delete an area and its content: defining it with size 0 does that.

    Raises:
        TpmError: TPM_BADINDEX if it is not there.
    """
    permissions = area(tpm, index).permissions
    define(tpm, index, 0, permissions, owner_auth=owner_auth)


def lock(tpm: Tpm) -> None:
    """Make the TPM enforce NV authorisations from now on; it cannot be undone.

    Before, as delivered, it lets everybody define and use areas.
    """
    define(tpm, NvIndex.LOCK, 0, NvPermission(0))


def write(
    tpm: Tpm,
    index: int,
    data: bytes,
    *,
    offset: int = 0,
    owner_auth: Secret | None = None,
    area_auth: Secret | None = None,
) -> None:
    """Write to an area: authorised by the owner, by the area's own AuthData, or by neither.

    Long data goes in pieces; an error can leave the first ones written.
    """
    _one_at_most(owner_auth, area_auth)
    # No data is a command of its own: it sets the locks of the area.
    for at in range(0, max(len(data), 1), _PIECE):
        piece = data[at : at + _PIECE]
        if area_auth is not None:
            tpm.execute_with(NvWriteValueAuth(index, offset + at, piece), area_auth)
        else:
            tpm.execute_with(NvWriteValue(index, offset + at, piece), *_given(owner_auth))


def read(
    tpm: Tpm,
    index: int,
    size: int | None = None,
    *,
    offset: int = 0,
    owner_auth: Secret | None = None,
    area_auth: Secret | None = None,
) -> bytes:
    """Read from an area, to its end if `size` is left out; authorised as `write`."""
    _one_at_most(owner_auth, area_auth)
    left = area(tpm, index).size - offset if size is None else size
    if left < 0:
        raise UsageError(f"NV area {index:#010x} ends before offset {offset}")
    data = bytearray()
    while len(data) < left:
        at, count = offset + len(data), min(left - len(data), _PIECE)
        if area_auth is not None:
            piece = tpm.execute_with(NvReadValueAuth(index, at, count), area_auth).data
        else:
            piece = tpm.execute_with(NvReadValue(index, at, count), *_given(owner_auth)).data
        if len(piece) != count:
            raise ProtocolError(
                f"NV area {index:#010x} on {tpm.attached.address}: {len(piece)} bytes for {count}"
            )
        data += piece
    return bytes(data)


def _one_at_most(owner_auth: Secret | None, area_auth: Secret | None) -> None:
    if owner_auth is not None and area_auth is not None:
        raise UsageError("an NV area is used with the owner's or its own AuthData, not with both")


def _given(owner_auth: Secret | None) -> tuple[Secret, ...]:
    return () if owner_auth is None else (owner_auth,)
