"""Recipes for what the TPM itself keeps: NV areas, registers, settings, hashes under way."""

from __future__ import annotations

from typing import Any, Final

from fuzz_grammar import OTHER_AUTH
from fuzz_recipes import Bench, Skip, recipe

from hwtpm.tpm12.const import KeyHandleValue, NvPermission, SetArea
from hwtpm.tpm12.types import NvAttributes, NvDataPublic, PcrInfoShort, PcrSelection

AREA: Final = 0x3000
SIZE: Final = 32
ANY_STATE: Final = PcrInfoShort(PcrSelection(bytes(3)), 0x1F, bytes(20))
OF_OWNER: Final = NvPermission.OWNERWRITE | NvPermission.OWNERREAD
OF_AUTH: Final = NvPermission.AUTHWRITE | NvPermission.AUTHREAD
OF_ALL: Final = NvPermission.PPWRITE | NvPermission.PPREAD


@recipe("TPM_NV_DefineSpace", "TPM_NV_WriteValueAuth", "TPM_NV_ReadValueAuth")
def area_with_auth(bench: Bench) -> None:
    _use(bench, OF_AUTH, "TPM_NV_WriteValueAuth", "TPM_NV_ReadValueAuth", OTHER_AUTH)


@recipe("TPM_NV_WriteValue", "TPM_NV_ReadValue")
def area_of_owner(bench: Bench) -> None:
    if bench.chance(0.3):
        _use(bench, OF_ALL, "TPM_NV_WriteValue", "TPM_NV_ReadValue")
    else:
        _use(bench, OF_OWNER, "TPM_NV_WriteValue", "TPM_NV_ReadValue", "owner")


def _use(bench: Bench, access: int, write: str, read: str, *proof: str | bytes) -> None:
    """Define an area, write to it and read it, perhaps after a restart."""
    limits = bench.pick(0, 0, 0, NvPermission.WRITEDEFINE, NvPermission.WRITE_STCLEAR)
    limits |= bench.pick(0, 0, 0, NvPermission.READ_STCLEAR, NvPermission.WRITEALL)
    attributes = NvAttributes(access | limits)
    info = NvDataPublic(AREA, ANY_STATE, ANY_STATE, attributes, False, False, False, SIZE)
    (auth,) = bench.auths("owner", osap=True)
    define = {"pub_info": info, "enc_auth": bench.encrypted(auth, OTHER_AUTH)}
    bench.send("TPM_NV_DefineSpace", define, (auth,))
    for _ in range(bench.pick(1, 2, 4)):
        where = {"nv_index": AREA, "offset": bench.pick(0, 0, 0, 8, 31)}
        size = bench.pick(SIZE, SIZE, 1, 8, 0)
        try:
            if bench.chance(0.5):
                data = bench.rng.randbytes(size)
                bench.send(write, {**where, "data": data}, bench.auths(*proof))
            else:
                bench.send(read, {**where, "data_size": size}, bench.auths(*proof))
        except Skip:
            continue
        if bench.chance(0.03):
            bench.episode.power_cycle()


@recipe("TPM_PCR_Reset")
def reset(bench: Bench) -> None:
    pcrs = bench.pick((16,), (16,), (23,), (16, 23), (20,), (21, 22), (15, 16))
    bench.send("TPM_PCR_Reset", {"pcr_selection": PcrSelection.of(pcrs)})


@recipe("TPM_OwnerReadInternalPub")
def read_internal(bench: Bench) -> None:
    handle = bench.pick(KeyHandleValue.SRK, KeyHandleValue.EK, 3)
    bench.send("TPM_OwnerReadInternalPub", {"key_handle": int(handle)}, bench.auths("owner"))


@recipe("TPM_DirRead", "TPM_DirWriteAuth")
def register(bench: Bench) -> None:
    if bench.chance(0.5):
        fields = {"dir_index": 0, "new_contents": bench.rng.randbytes(20)}
        bench.send("TPM_DirWriteAuth", fields, bench.auths("owner"))
    bench.send("TPM_DirRead", {"dir_index": 0})


@recipe("TPM_SetCapability")
def set_flag(bench: Bench) -> None:
    """Flags that the owner sets (Part 2 section 7.1)."""
    area, flag, value = bench.pick(*_FLAGS)
    fields: dict[str, Any] = {
        "cap_area": area,
        "sub_cap": flag.to_bytes(4, "big"),
        "set_value": bytes([value]),
    }
    bench.send("TPM_SetCapability", fields, bench.auths("owner"))


_FLAGS: Final = (
    (SetArea.PERM_FLAGS, 4, 0),  # readPubek
    (SetArea.PERM_FLAGS, 4, 1),
    (SetArea.PERM_FLAGS, 17, 0),  # readSRKPub
    (SetArea.PERM_FLAGS, 17, 1),
    (SetArea.PERM_FLAGS, 20, 1),  # disableFullDALogicInfo
    (SetArea.STCLEAR_FLAGS, 1, 0),  # none to set
)


@recipe("TPM_SHA1Start", "TPM_SHA1Update", "TPM_SHA1Complete", "TPM_SHA1CompleteExtend")
def hashing(bench: Bench) -> None:
    bench.send("TPM_SHA1Start", {})
    for _ in range(bench.rng.randrange(3)):
        bench.send("TPM_SHA1Update", {"hash_data": bench.rng.randbytes(bench.pick(64, 128, 640))})
    last = {"hash_data": bench.rng.randbytes(bench.pick(0, 1, 63, 64))}
    if bench.chance(0.5):
        bench.send("TPM_SHA1Complete", last)
    else:
        bench.send("TPM_SHA1CompleteExtend", {**last, "pcr_num": bench.pick(0, 9, 16, 23)})
