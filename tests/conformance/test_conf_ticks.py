"""Timing ticks (Part 3 section 23)."""

from __future__ import annotations

from conformance_rig import Device

from hwtpm.tpm12.commands.ticks import GetTicks


def test_ticks_do_not_go_back_and_their_nonce_stays(new: Device) -> None:
    values = [new.run(GetTicks()).current_time for _ in range(3)]
    assert values == sorted(values, key=lambda value: value.current_ticks)
    assert len({value.tick_nonce for value in values}) == 1
    assert len({value.tick_rate for value in values}) == 1
    assert values[0].tick_rate > 0


def test_a_new_start_has_a_new_tick_nonce(new: Device) -> None:
    before = new.run(GetTicks()).current_time
    new.restart()
    after = new.run(GetTicks()).current_time
    assert after.tick_nonce != before.tick_nonce
