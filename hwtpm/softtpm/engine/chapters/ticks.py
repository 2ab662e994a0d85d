"""Timing ticks (Part 3 section 23)."""

from __future__ import annotations

from typing import Final

from hwtpm.softtpm.engine.call import Call, serves
from hwtpm.tpm12.commands.ticks import GetTicks, GetTicksReply
from hwtpm.tpm12.types import CurrentTicks

__all__: list[str] = []

TICK_RATE_US: Final = 1


@serves(GetTicks)
def get_ticks(call: Call, request: GetTicks) -> GetTicksReply:
    """23.1."""
    tpm = call.tpm
    ticks = int((tpm.clock.now() - tpm.ticks_start_s) * 1_000_000)
    return GetTicksReply(CurrentTicks(ticks, TICK_RATE_US, tpm.tick_nonce))
