"""Quirks by identity: rows, strict default, bounds from the interface's own registers."""

from __future__ import annotations

import pytest

from hwtpm.tis import ChipInfo
from hwtpm.tis.registers import Sts
from hwtpm.tis_spi.quirks import CHIPS, STRICT, ChipRow, quirks_of

CAPS_64 = 0x30000697


def info(did_vid: int, capability: int = CAPS_64, rid: int = 0) -> ChipInfo:
    return ChipInfo(did_vid, rid, capability, interface_id=0x00002100)


@pytest.mark.parametrize(
    ("did_vid", "capability", "name", "limit", "static"),
    [
        (0x001B15D1, CAPS_64, "SLB9670", 64, False),
        (0x001D15D1, CAPS_64, "SLB9672", 64, False),
        (0x0003104A, 0x30000415, "ST33KTPM2X", 32, False),
        (0x0000104A, CAPS_64, "ST33TPHF2X", 32, False),
        (0x00FC1050, CAPS_64, "NPCT75x", 64, False),
        (0x32051114, 0x30000695, "ATTPM20P", 64, False),
        (0x07019999, 0x30000615, "NS350", 64, False),
        (0x00832406, 0x30000797, "QVault TPM", 64, True),
        (0x00281AE0, CAPS_64, "cr50", 64, False),
        (0x504A6666, CAPS_64, "ti50", 64, False),
        (0x00FF15D1, CAPS_64, "Infineon, part unknown", 64, False),
        (0x00FF104A, CAPS_64, "STMicroelectronics, part unknown", 32, False),
        (0x00FF1050, CAPS_64, "Nuvoton, part unknown", 64, False),
        (0x00FF1114, CAPS_64, "Atmel or Microchip, part unknown", 64, False),
        (0x12345678, 0x30000797, "unknown chip", 64, False),
        (0x001B15D1, 0x30000297, "SLB9670", 8, False),
        (0x12345678, 0x00000097, "unknown chip", 4, False),
    ],
)
def test_quirks_by_identity_and_capability(
    did_vid: int, capability: int, name: str, limit: int, static: bool
) -> None:
    quirks = quirks_of(info(did_vid, capability))
    assert (quirks.name, quirks.transfer_limit, quirks.burst_static) == (name, limit, static)


def test_an_unknown_chip_is_treated_strictly() -> None:
    assert quirks_of(info(0x12345678)) == STRICT
    assert STRICT.waits
    assert STRICT.status_before_chunk
    assert STRICT.max_sck_hz == 10_000_000


def test_a_row_can_be_of_some_revisions_only() -> None:
    row = ChipRow(STRICT, 0x15D1, 0x001B, frozenset({0x16}))
    assert [row.fits(0x001B15D1, rid) for rid in (0x16, 0x10)] == [True, False]


def test_only_chips_known_for_it_are_trusted_not_to_wait() -> None:
    trusted = {row.quirks.name for row in CHIPS if not row.quirks.waits}
    assert trusted == {"SLB9670", "SLB9672"}


@pytest.mark.parametrize(
    ("did_vid", "canceled"),
    [
        (0x12345678, {Sts.COMMAND_READY}),
        (0x0003104A, {Sts.VALID | Sts.COMMAND_READY}),
        (0x00FC1050, {Sts.VALID, Sts.VALID | Sts.COMMAND_READY}),
    ],
)
def test_what_says_that_a_command_was_cancelled(did_vid: int, canceled: set[int]) -> None:
    quirks = quirks_of(info(did_vid))
    burst_count = 0x00004000
    shown = {low for low in range(256) if quirks.shows_cancel(burst_count | low)}
    assert shown == canceled


def test_every_row_says_where_it_comes_from_and_none_claims_a_bench() -> None:
    for quirks in (STRICT, *(row.quirks for row in CHIPS)):
        assert quirks.source
        assert quirks.name
        assert not quirks.verified_on_hardware
