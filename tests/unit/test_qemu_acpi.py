"""The walk from the RSDP to the event log, in memory that we lay out and in hostile memory."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtpm.errors import ProtocolError
from vstack.qemu_tis.acpi import LOG_LIMIT, LogArea, find_log_area, read_event_log


class Memory:
    """Sparse guest memory of 256 MiB, zero where nothing was put; limits each read."""

    def __init__(self) -> None:
        self.pieces: dict[int, bytes] = {}

    def put(self, address: int, data: bytes) -> None:
        self.pieces[address] = data

    def read(self, address: int, length: int) -> bytes:
        assert 0 < length <= LOG_LIMIT
        if address + length > 256 << 20:
            return b""
        memory = bytearray(length)
        for start, data in self.pieces.items():
            for index in range(max(start, address), min(start + len(data), address + length)):
                memory[index - address] = data[index - start]
        return bytes(memory)


def summed(data: bytes, at: int, length: int | None = None) -> bytes:
    total = -sum(data[:length]) & 0xFF
    return data[:at] + bytes([total]) + data[at + 1 :]


def table(signature: bytes, body: bytes) -> bytes:
    return summed(signature + struct.pack("<I", 36 + len(body)) + bytes(28) + body, 9)


def rsdp(root: int, *, wide: bool) -> bytes:
    data = b"RSD PTR \0VSTACK" + bytes([2 if wide else 0])
    data += struct.pack("<I", 0 if wide else root)
    data = summed(data, 8)
    if not wide:
        return data
    return summed(data + struct.pack("<IQ4x", 36, root), 32)


CLIENT = table(b"TCPA", struct.pack("<HIQ", 0, 99, 0x7000000))
SERVER = table(b"TCPA", struct.pack("<HHQQ", 1, 0, 99, 0x7000000))


def machine(tcpa: bytes, *, wide: bool = False, rsdp_at: int = 0xF5B60) -> Memory:
    memory = Memory()
    entry = "<QQ" if wide else "<II"
    memory.put(rsdp_at, rsdp(0x3FE0000, wide=wide))
    memory.put(
        0x3FE0000,
        table(b"XSDT" if wide else b"RSDT", struct.pack(entry, 0x3FE1000, 0x3FE2000)),
    )
    memory.put(0x3FE1000, table(b"FACP", bytes(80)))
    memory.put(0x3FE2000, tcpa)
    memory.put(0x7000000, b"log" * 33)
    return memory


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("tcpa", [CLIENT, SERVER])
def test_log_area_is_found_and_read(tcpa: bytes, wide: bool) -> None:
    memory = machine(tcpa, wide=wide)
    assert find_log_area(memory.read) == LogArea(0x7000000, 99)
    assert read_event_log(memory.read) == b"log" * 33


def test_root_pointer_is_found_in_the_ebda() -> None:
    memory = machine(CLIENT, rsdp_at=0x9FC00 + 1008)
    memory.put(0x40E, b"\xc0\x9f")
    assert find_log_area(memory.read).length == 99


def test_root_pointer_with_a_wrong_checksum_is_passed_over() -> None:
    memory = machine(CLIENT)
    memory.put(0xE0000, b"RSD PTR " + b"\xff" * 28)
    assert find_log_area(memory.read).length == 99


@pytest.mark.parametrize(
    ("tcpa", "complaint"),
    [
        (table(b"SSDT", bytes(40)), "no TCPA table"),
        (CLIENT[:-1] + b"\1", "checksum"),
        (table(b"TCPA", b"\0\0"), "only 38 bytes"),
        (table(b"TCPA", struct.pack("<HIQ", 7, 99, 0)), "platform class 7"),
        (table(b"TCPA", struct.pack("<HIQ", 0, 2**32 - 1, 0)), "4294967295 bytes"),
        (table(b"TCPA", struct.pack("<HIQ", 0, 0, 0)), "log area of 0 bytes"),
        (table(b"TCPA", struct.pack("<HIQ", 0, 99, 2**64 - 1)), "guest memory at"),
        (b"TCPA\xff\xff\xff\xff" + bytes(28), "claims 4294967295 bytes"),
    ],
)
def test_damaged_tables_are_named(tcpa: bytes, complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        read_event_log(machine(tcpa).read)


def test_memory_without_tables_says_to_wait_for_firmware() -> None:
    with pytest.raises(ProtocolError, match="RSDP") as caught:
        find_log_area(Memory().read)
    assert "firmware" in caught.value.hint


@given(
    st.integers(0, 2**32 - 1),
    st.binary(min_size=8, max_size=60),
    st.booleans(),
    st.sampled_from([0x3FE0000, 0x3FE1000, 0x3FE2000, 0xF5B60]),
)
def test_hostile_memory_is_a_protocol_error_and_reads_stay_bounded(
    root: int, noise: bytes, wide: bool, where: int
) -> None:
    memory = machine(CLIENT, wide=wide)
    memory.put(where, noise)
    if where != 0xF5B60:
        memory.put(0xF5B60, rsdp(root or 0x3FE0000, wide=wide))
    try:
        log = read_event_log(memory.read)
    except ProtocolError:
        return
    assert len(log) <= LOG_LIMIT
