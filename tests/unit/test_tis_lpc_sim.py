"""The simulated chip: memory window, software TPM behind it, power, measurements."""

from __future__ import annotations

import pytest

from hwtpm.clock import FakeClock
from hwtpm.errors import StateError, UsageError
from hwtpm.tis import PC_CLIENT_TPM20, Personality, TisTransport
from hwtpm.tis.registers import ACCESS, DATA_FIFO, HASH_END, HASH_START, STS, Access, Sts
from hwtpm.tis.states import State
from hwtpm.tis_lpc_sim import ExecutorTpm, LpcPort, LpcWindow, SimulatedChip
from hwtpm.tis_lpc_sim.faults import BitFault, FaultyRegisters, Since

BASE = 0xFED40000
COMMAND = bytes.fromhex("00c1 0000000a 00000050")
OK = bytes.fromhex("00c4 0000000a 00000000")
FAIL = bytes.fromhex("00c4 0000000a 00000009")


class Notebook:
    """A TPM that writes down what reaches it."""

    description = "notebook"

    def __init__(self, response: bytes = OK) -> None:
        self.response = response
        self.notes: list[object] = []
        self.established = False

    def power_on(self) -> None:
        self.notes.append("power on")

    def execute(self, command: bytes, locality: int = 0) -> bytes:
        self.notes.append((command, locality))
        return self.response

    def reset_established(self, locality: int) -> int:
        self.notes.append(("reset established", locality))
        self.established = False
        return 0

    def hash_start(self) -> None:
        self.notes.append("hash start")
        self.established = True

    def hash_data(self, data: bytes) -> None:
        self.notes.append(data)

    def hash_end(self) -> None:
        self.notes.append("hash end")

    def close(self) -> None:
        self.notes.append("close")


def transport(chip: SimulatedChip, locality: int = 0) -> TisTransport:
    return TisTransport(
        LpcPort(LpcWindow(chip)), FakeClock(), duration_s=lambda _: 1.0, locality=locality
    )


def test_window_has_a_page_for_each_locality() -> None:
    window = LpcWindow(SimulatedChip(ExecutorTpm(lambda *_: OK), Personality(did_vid=0x12345678)))
    for locality in range(5):
        assert window.read(BASE + 0x1000 * locality + 0xF00, 4) == 0x12345678
    for outside in (BASE - 4, BASE + 0x5F00):
        window.write(outside, 0, 4)
        assert window.read(outside, 4) == 0xFFFFFFFF


def test_window_takes_accesses_of_any_alignment() -> None:
    window = LpcWindow(SimulatedChip(ExecutorTpm(lambda *_: OK), Personality(did_vid=0x12345678)))
    assert window.read(BASE + 0xF00, 1) == 0x78
    assert window.read(BASE + 0xF01, 2) == 0x3456
    assert window.read(BASE + 0xF02, 4) == 0xFF011234
    assert window.read(BASE - 2, 4) == 0xFF81FFFF
    window.write(BASE - 1, 0x0200, 2)
    assert window.read(BASE, 1) & Access.ACTIVE


def test_window_refuses_widths_a_bus_does_not_have() -> None:
    window = LpcWindow(SimulatedChip(ExecutorTpm(lambda *_: OK)))
    for size in (0, 3, 8):
        with pytest.raises(UsageError):
            window.read(BASE, size)


def test_port_loops_at_the_fifo_and_counts_up_elsewhere() -> None:
    class Recorder:
        def __init__(self) -> None:
            self.accesses: list[tuple[int, int]] = []

        def read(self, locality: int, offset: int, size: int) -> bytes:
            self.accesses.append((offset, size))
            return bytes(size)

        def write(self, locality: int, offset: int, data: bytes) -> None:
            self.accesses.append((offset, len(data)))

    recorder = Recorder()
    port = LpcPort(LpcWindow(recorder))
    port.read(DATA_FIFO.offset, 11)
    port.write(STS.offset, bytes(4))
    port.write(ACCESS.offset, bytes(1))
    assert recorder.accesses == [(0x24, 4), (0x24, 4), (0x24, 2), (0x24, 1), (0x18, 4), (0, 1)]


def test_commands_reach_the_tpm_with_their_locality() -> None:
    tpm = Notebook()
    chip = SimulatedChip(tpm)
    chip.power_on()
    with transport(chip, locality=2) as tis:
        assert tis.execute(COMMAND) == OK
    assert tpm.notes == ["power on", (COMMAND, 2)]


@pytest.mark.parametrize(
    "answer", [b"", OK[:9], OK + b"x", bytes.fromhex("00c4 00001001 00000000") + bytes(4087)]
)
def test_answer_that_is_no_frame_becomes_tpm_fail(answer: bytes) -> None:
    with transport(SimulatedChip(Notebook(answer))) as tis:
        assert tis.execute(COMMAND) == FAIL


def test_error_of_the_tpm_reaches_the_caller_and_the_chip_goes_on() -> None:
    tpm = Notebook()
    failing = [True]

    def execute(command: bytes, locality: int) -> bytes:
        if failing.pop() if failing else False:
            raise StateError("disk full")
        return tpm.execute(command, locality)

    with transport(SimulatedChip(ExecutorTpm(execute))) as tis:
        with pytest.raises(StateError, match="disk full"):
            tis.execute(COMMAND)
        assert tis.execute(COMMAND) == OK


def test_self_test_shows_in_the_status_register_until_power_is_cycled() -> None:
    chip = SimulatedChip(Notebook())
    with transport(chip) as tis:
        tis.execute(COMMAND)
        assert chip.read(0, STS.offset, 1)[0] & Sts.SELF_TEST_DONE
    chip.power_on()
    assert not chip.core.self_test_done


def test_failed_self_test_does_not_show() -> None:
    chip = SimulatedChip(Notebook(FAIL))
    with transport(chip) as tis:
        tis.execute(COMMAND)
    assert not chip.core.self_test_done


def test_locality_4_measurement_reaches_the_tpm_and_sets_established() -> None:
    tpm = Notebook()
    chip = SimulatedChip(tpm)
    assert chip.read(0, ACCESS.offset, 1)[0] & Access.ESTABLISHMENT
    window = LpcWindow(chip)
    window.write(BASE + 0x4000 + HASH_START.offset, 0, 1)
    window.write(BASE + 0x4000 + DATA_FIFO.offset, 0x64636261, 4)
    window.write(BASE + 0x4000 + HASH_END.offset, 0, 1)
    assert tpm.notes == ["hash start", b"abcd", "hash end"]
    assert not chip.read(0, ACCESS.offset, 1)[0] & Access.ESTABLISHMENT


def test_tpm20_establishment_reset_reaches_the_tpm() -> None:
    tpm = Notebook()
    tpm.established = True
    chip = SimulatedChip(tpm, PC_CLIENT_TPM20)
    chip.power_on()
    chip.write(3, ACCESS.offset, bytes([Access.REQUEST]))
    chip.write(3, STS.offset, Sts.RESET_ESTABLISHMENT.to_bytes(4, "little"))
    assert tpm.notes == ["power on", ("reset established", 3)]
    assert not chip.core.established


def test_power_cycle_forgets_the_command_and_the_locality() -> None:
    chip = SimulatedChip(Notebook())
    chip.write(0, ACCESS.offset, bytes([Access.REQUEST]))
    chip.write(0, STS.offset, bytes([Sts.COMMAND_READY]))
    chip.power_on()
    assert (chip.core.active_locality, chip.core.state(0)) == (None, State.IDLE)


def test_mere_executor_drops_measurements() -> None:
    tpm = ExecutorTpm(lambda *_: OK, "ring")
    chip = SimulatedChip(tpm)
    for offset in (HASH_START.offset, DATA_FIFO.offset, HASH_END.offset):
        chip.write(4, offset, b"\0")
    assert (tpm.description, tpm.reset_established(3), chip.core.active_locality) == (
        "ring",
        0,
        None,
    )


# -- faults as such


def test_bit_fault_counts_reads_from_its_event_and_rounds() -> None:
    chip = SimulatedChip(Notebook())
    fault = BitFault(
        ACCESS, clear=Access.ACTIVE, first=1, count=2, since=Since.REQUEST, rounds=1, locality=0
    )
    registers = FaultyRegisters(chip, [fault])

    def granted(locality: int = 0) -> bool:
        return bool(registers.read(locality, ACCESS.offset, 1)[0] & Access.ACTIVE)

    for expected in ([True, False, False, True], [True, True, True, True]):
        registers.write(0, ACCESS.offset, bytes([Access.REQUEST]))
        assert [granted() for _ in range(4)] == expected
        registers.write(0, ACCESS.offset, bytes([Access.ACTIVE]))


def test_faults_leave_other_registers_and_localities_alone() -> None:
    chip = SimulatedChip(Notebook())
    registers = FaultyRegisters(chip, [BitFault(ACCESS, force=0xFF, locality=1)])
    assert registers.read(1, ACCESS.offset, 1) == b"\xff"
    for locality, offset, size in [(0, 0, 1), (1, 0xF00, 4), (1, 0xF90, 4)]:
        assert registers.read(locality, offset, size) == chip.read(locality, offset, size)


def test_fault_hits_partial_reads_of_its_register() -> None:
    chip = SimulatedChip(Notebook())
    chip.write(0, ACCESS.offset, bytes([Access.REQUEST]))
    registers = FaultyRegisters(chip, [BitFault(STS, clear=Sts.BURST_COUNT)])
    assert registers.read(0, STS.offset + 1, 2) == b"\0\0"
