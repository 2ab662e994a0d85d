"""The data integrity register (Part 3 section 27.3); the NV commands know it as an index."""

from __future__ import annotations

from dataclasses import replace

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.tpm12.commands.deprecated import DirRead, DirReadReply, DirWriteAuth
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply

__all__: list[str] = []


def _check(index: int) -> None:
    """Version 1.2 has one register."""
    if index:
        raise Refuse(Rc.BADINDEX)


@serves(DirWriteAuth)
def dir_write_auth(call: Call, request: DirWriteAuth) -> NoReply:
    """27.3.1."""
    _check(request.dir_index)
    call.tpm.permanent = replace(call.tpm.permanent, dir=request.new_contents)
    return NoReply()


@serves(DirRead)
def dir_read(call: Call, request: DirRead) -> DirReadReply:
    """27.3.2."""
    _check(request.dir_index)
    return DirReadReply(call.tpm.permanent.dir)
