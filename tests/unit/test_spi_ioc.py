"""Messages of spidev: their bytes, and how a batch is cut into them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtpm.tis_spi.bus import AwaitIrq, Captured, Pause, Step, Transfer
from hwtpm.tis_spi.flow import read_transfer, write_transfer
from hwtpm.tis_spi.spi_ioc import (
    MOST_TRANSFERS,
    Buffer,
    IocTransfer,
    captured,
    encode,
    in_messages,
    request,
)

WIDE = Buffer(1 << 20, 8)
READ = read_transfer(0xF00, 4)
WRITE = write_transfer(0x18, b"\x40")
ON_WIRE = {READ: READ.header + bytes(4), WRITE: WRITE.header + b"\x40"}


def test_request_and_structures_are_those_of_the_kernels_header() -> None:
    # SPI_IOC_MESSAGE(2) and struct spi_ioc_transfer, printed by a C program on x86-64.
    assert request(2) == 0x40406B00
    assert request(MOST_TRANSFERS) == 0x7FE06B00
    raw = encode([IocTransfer(b"ab", True, 0x1234), IocTransfer(b"c")], 0x1000, 0x2000)
    assert raw.hex(" ", 8) == (
        "0010000000000000 0020000000000000 0200000000000000 3412000100000000 "
        "0210000000000000 0220000000000000 0100000000000000 0000000000000000"
    )


@pytest.mark.parametrize(
    ("steps", "pieces"),
    [
        ([], []),
        ([READ], [(IocTransfer(ON_WIRE[READ]),)]),
        (
            [WRITE, READ, READ],
            [
                (
                    IocTransfer(ON_WIRE[WRITE], True),
                    IocTransfer(ON_WIRE[READ], True),
                    IocTransfer(ON_WIRE[READ]),
                )
            ],
        ),
        (
            [WRITE, Pause(0.001), Pause(0.0005), READ],
            [(IocTransfer(ON_WIRE[WRITE], True, 1500), IocTransfer(ON_WIRE[READ]))],
        ),
        (
            [WRITE, Pause(0.0655351), READ],
            [(IocTransfer(ON_WIRE[WRITE]),), Pause(0.0655351), (IocTransfer(ON_WIRE[READ]),)],
        ),
        (
            [Pause(0.001), WRITE, Pause(0.002)],
            [Pause(0.001), (IocTransfer(ON_WIRE[WRITE]),), Pause(0.002)],
        ),
        (
            [WRITE, Pause(0.001), AwaitIrq(1.0), READ],
            [
                (IocTransfer(ON_WIRE[WRITE]),),
                Pause(0.001),
                AwaitIrq(1.0),
                (IocTransfer(ON_WIRE[READ]),),
            ],
        ),
    ],
)
def test_a_batch_in_messages(steps: list[Step], pieces: list[object]) -> None:
    assert in_messages(steps, WIDE) == pieces


def test_without_delays_pauses_stand_between_messages() -> None:
    assert in_messages([WRITE, Pause(1e-6), READ], WIDE, 0) == [
        (IocTransfer(ON_WIRE[WRITE]),),
        Pause(1e-6),
        (IocTransfer(ON_WIRE[READ]),),
    ]


def test_a_pause_is_never_shorter() -> None:
    ((first, _),) = in_messages([WRITE, Pause(0.0000011), READ], WIDE)  # type: ignore[misc]
    assert first.delay_us == 2


@pytest.mark.parametrize(
    ("size", "alignment", "transfers"),
    [(4096, 128, 32), (4096, 64, 32), (4096, 8, 56), (65536, 8, 511), (64, 8, 1), (0, 128, 1)],
)
def test_transactions_that_fit_into_a_message(size: int, alignment: int, transfers: int) -> None:
    assert Buffer(size, alignment).transfers == transfers


def test_nothing_but_the_ioctls_number_bounds_a_wide_buffer() -> None:
    sizes = [len(piece) for piece in in_messages([READ] * 1023, WIDE) if isinstance(piece, tuple)]
    assert sizes == [511, 511, 1]


transfers = st.one_of(
    st.builds(read_transfer, st.just(0x24), st.integers(1, 64)),
    st.builds(write_transfer, st.just(0x24), st.binary(min_size=1, max_size=64)),
)
steps = st.lists(
    st.one_of(
        transfers,
        transfers,
        st.builds(Pause, st.floats(1e-6, 0.1)),
        st.builds(AwaitIrq, st.just(1.0)),
    ),
    max_size=40,
)
buffers = st.builds(Buffer, st.integers(128, 4096), st.sampled_from([1, 8, 64, 128]))


@given(steps, buffers, st.sampled_from([0, 1000, 0xFFFF]))
def test_any_batch(batch: list[Step], buffer: Buffer, longest_delay_us: int) -> None:
    pieces = in_messages(batch, buffer, longest_delay_us)
    paused_s = 0.0
    sent = []
    for piece in pieces:
        if isinstance(piece, tuple):
            *others, last = piece
            assert all(transfer.cs_change for transfer in others)
            assert not last.cs_change
            assert not last.delay_us
            assert sum(buffer.takes(len(transfer.tx)) for transfer in piece) <= buffer.size
            assert all(transfer.delay_us <= longest_delay_us for transfer in piece)
            paused_s += sum(transfer.delay_us for transfer in piece) / 1e6
            sent += [transfer.tx for transfer in piece]
        elif isinstance(piece, Pause):
            paused_s += piece.duration_s
    wanted = [step for step in batch if isinstance(step, Transfer)]
    assert sent == [step.header + (step.data or bytes(step.size)) for step in wanted]
    assert paused_s >= sum(s.duration_s for s in batch if isinstance(s, Pause)) - 1e-9
    assert [p for p in pieces if isinstance(p, AwaitIrq)] == [
        s for s in batch if isinstance(s, AwaitIrq)
    ]
    assert len(encode([IocTransfer(tx) for tx in sent], 0, 0)) == len(sent) * struct.calcsize(
        "QQIIHBBBBBB"
    )


@given(st.lists(transfers, min_size=1, max_size=32))
def test_within_the_limit_a_batch_is_one_message(batch: list[Step]) -> None:
    assert len(in_messages(batch, Buffer())) == 1


def test_what_came_back_is_given_to_its_transfers() -> None:
    received = bytes.fromhex("00000001 d1151b00") + bytes.fromhex("00000000 ff")
    assert captured([READ, Pause(0.1), WRITE], received) == [
        Captured(1, bytes.fromhex("d1151b00")),
        Captured(0, b""),
    ]
