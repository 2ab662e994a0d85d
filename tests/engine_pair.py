"""Our engine and libtpms side by side: the same commands, and what both answer."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from engine_rig import Identity, Rig, owned_engine, owned_libtpms

from hwtpm.softtpm.base import MemoryStorage
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.libtpms import LibtpmsTpm
from hwtpm.tpm12.frame import build_request
from hwtpm.tpm12.table import Request
from hwtpm.wire import Struct

STARTUP = struct.pack(">HIIH", 0xC1, 12, 0x99, 1)


def frame(request: Request[Struct]) -> bytes:
    """The request without authorisation."""
    return build_request(request.command.ordinal, request.encode())


def rc_of(response: bytes) -> int:
    return int.from_bytes(response[6:10], "big")


class Pair:
    """The two TPMs; `same` is a test that they answer alike."""

    def __init__(self, engine: Engine, libtpms: LibtpmsTpm) -> None:
        self.engine = engine
        self.libtpms = libtpms
        self.rigs = Rig(engine), Rig(libtpms)

    def power_cycle(self) -> None:
        for tpm in (self.engine, self.libtpms):
            tpm.power_on()
            assert rc_of(tpm.execute(STARTUP)) == 0

    def raw(self, command: bytes, locality: int = 0) -> tuple[bytes, bytes]:
        return self.engine.execute(command, locality), self.libtpms.execute(command, locality)

    def same(self, request: Request[Struct], locality: int = 0) -> bytes:
        """Both give the same bytes to an unauthorised command; returns them."""
        ours, theirs = self.raw(frame(request), locality)
        assert ours == theirs, f"{request}: {ours.hex()} instead of {theirs.hex()}"
        return ours

    def same_rc(self, request: Request[Struct], *secrets: bytes) -> int:
        """Both give the same return code to an authorised command; returns it."""
        ours, theirs = (rig.refusal(request, *secrets) for rig in self.rigs)
        assert ours == theirs, f"{request}: {ours:#x} instead of {theirs:#x}"
        return ours


@contextmanager
def unowned_pair() -> Iterator[Pair]:
    """Both fresh from the factory, after TPM_Startup(ST_CLEAR)."""
    libtpms = LibtpmsTpm(MemoryStorage())
    try:
        pair = Pair(Engine(MemoryStorage()), libtpms)
        pair.power_cycle()
        yield pair
    finally:
        libtpms.close()


@contextmanager
def owned_pair(identity: Identity) -> Iterator[Pair]:
    """Both with an owner (`engine_rig.OWNER_AUTH`), after TPM_Startup(ST_CLEAR)."""
    libtpms = owned_libtpms(MemoryStorage())
    try:
        yield Pair(owned_engine(identity), libtpms)
    finally:
        libtpms.close()
