"""The control-channel core: what each request is answered with, and when."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwtpm.errors import ProtocolError
from hwtpm.softtpm.control import Command, encode_request
from vstack.qemu_tis.control import (
    Attach,
    CancelRunning,
    Effect,
    Execute,
    FaceCore,
    Outcome,
    Power,
    ReadEstablished,
    ReplyControl,
    ReplyData,
    ResetEstablished,
    Run,
    ShutDown,
)

PCR_READ = bytes.fromhex("00c10000000e0000001500000000")
OK = bytes(4)
FATAL = bytes.fromhex("00c40000000a00000009")
BAD_SIZE = bytes.fromhex("00c40000000a00000019")


def ask(core: FaceCore, command: Command, **values: int) -> list[Effect]:
    return core.control(encode_request(command, **values))


def running_core() -> FaceCore:
    core = FaceCore()
    core.offered = True
    ask(core, Command.SET_DATAFD)
    assert ask(core, Command.INIT, flags=0) == [Run(Power.ON)]
    assert core.done(0) == [ReplyControl(OK)]
    return core


def test_start_of_a_machine_as_qemu_does_it() -> None:
    core = FaceCore()
    core.offered = True
    assert ask(core, Command.SET_DATAFD) == [Attach(), ReplyControl(OK)]
    for probe in ("80010000000a00000181", "00c10000000a000000f1"):
        assert core.data(bytes.fromhex(probe)) == [ReplyData(FATAL)]
    assert ask(core, Command.GET_CAPABILITY) == [ReplyControl(bytes.fromhex("00000000000034af"))]
    sizes = ReplyControl(bytes.fromhex("00000000" + "00001000" * 3))
    for size in (0, 4096):
        assert ask(core, Command.STOP) == [ReplyControl(OK)]
        assert ask(core, Command.SET_BUFFERSIZE, size=size) == [sizes]
    assert ask(core, Command.INIT, flags=0) == [Run(Power.ON)]
    assert core.done(0) == [ReplyControl(OK)]
    assert ask(core, Command.GET_TPMESTABLISHED) == [Run(ReadEstablished())]
    assert core.done(1) == [ReplyControl(bytes.fromhex("0000000001000000"))]
    assert ask(core, Command.SET_LOCALITY, locality=3) == [ReplyControl(OK)]
    assert core.data(PCR_READ) == [Run(Execute(PCR_READ, 3))]
    answer = bytes.fromhex("00c40000001e00000000") + bytes(20)
    assert core.done(answer) == [ReplyData(answer)]
    assert ask(core, Command.SHUTDOWN) == [Run(Power.OFF)]
    assert core.done(0) == [ReplyControl(OK), ShutDown()]


@pytest.mark.parametrize("tail", [b"\x02", b"\x02\0", b"\x02\0\0\0"])
def test_locality_comes_as_one_byte_or_as_the_union_it_stands_in(tail: bytes) -> None:
    core = running_core()
    assert core.control(bytes.fromhex("00000005") + tail) == [ReplyControl(OK)]
    assert core.data(PCR_READ) == [Run(Execute(PCR_READ, 2))]


@pytest.mark.parametrize(
    ("request_hex", "reply_hex"),
    [
        ("00000005" + "05", "0000003d"),  # SET_LOCALITY
        ("00000006", "0000000a"),  # HASH_START
        ("00000007" + "00000002" + "abcd", "0000000a"),  # HASH_DATA
        ("0000000a", "0000000a"),  # STORE_VOLATILE
        ("0000000c" + "000000010000000100000000", "0000000a" + "00" * 12),  # GET_STATEBLOB
        ("0000000d" + "000000000000000100000002" + "abcd", "0000000a"),  # SET_STATEBLOB
        ("0000000f", "0000000a"),  # GET_CONFIG
        ("00000010", "0000001f"),  # SET_DATAFD, a second one
        ("00000012" + "00" * 16, "0000000a"),  # GET_INFO
        ("00000013" + "00000000", "0000000a"),  # LOCK_STORAGE
        ("0000ffff" + "0102030405", "0000000a"),  # no such command
    ],
)
def test_refusals_have_the_shape_that_clients_read(request_hex: str, reply_hex: str) -> None:
    core = running_core()
    assert core.control(bytes.fromhex(request_hex)) == [ReplyControl(bytes.fromhex(reply_hex))]
    assert core.running
    assert ask(core, Command.SET_LOCALITY, locality=0) == [ReplyControl(OK)], "still in step"


def test_data_descriptor_has_to_come_along() -> None:
    assert ask(FaceCore(), Command.SET_DATAFD) == [ReplyControl(bytes.fromhex("00000003"))]


def test_failed_power_on_is_told_and_leaves_the_tpm_off() -> None:
    core = FaceCore()
    ask(core, Command.INIT, flags=0)
    assert core.done(None) == [ReplyControl(bytes.fromhex("00000009"))]
    assert not core.running
    assert core.data(PCR_READ) == [ReplyData(FATAL)]


@pytest.mark.parametrize(
    "frame",
    [b"\0", bytes(9), bytes(10), PCR_READ[:-1], bytes.fromhex("00c1ffffffff00000015"), bytes(4097)],
)
def test_malformed_command_is_answered_without_the_vtpm(frame: bytes) -> None:
    assert running_core().data(frame) == [ReplyData(BAD_SIZE)]


def test_surplus_of_a_wide_fifo_write_is_dropped_as_a_chip_does() -> None:
    assert running_core().data(PCR_READ + b"\xff\xff\xff") == [Run(Execute(PCR_READ, 0))]


@pytest.mark.parametrize(
    "outcome",
    [None, b"", bytes(9), PCR_READ + b"\0", b"\0\xc4\0\0\x10\1" + bytes(4091), 7],
)
def test_what_is_no_response_never_reaches_qemu(outcome: Outcome) -> None:
    core = running_core()
    core.data(PCR_READ)
    assert core.done(outcome) == [ReplyData(FATAL)]


def test_requests_that_need_no_vtpm_are_answered_while_it_works() -> None:
    core = running_core()
    core.data(PCR_READ)
    for command in (Command.GET_CAPABILITY, Command.GET_TPMESTABLISHED, Command.SET_BUFFERSIZE):
        (reply,) = ask(core, command)
        assert isinstance(reply, ReplyControl)
        assert reply.data[:4] == OK
    assert ask(core, Command.CANCEL_TPM_CMD) == [CancelRunning(), ReplyControl(OK)]
    assert ask(core, Command.SET_LOCALITY, locality=1) == [ReplyControl(OK)]
    assert not core.wants_data


def test_stop_cuts_the_running_command_short_and_waits_for_it() -> None:
    core = running_core()
    core.data(PCR_READ)
    assert ask(core, Command.STOP) == [CancelRunning()]
    assert not core.wants_control
    assert core.done(FATAL) == [ReplyData(FATAL), Run(Power.OFF)]
    assert core.done(0) == [ReplyControl(OK)]
    assert core.wants_control


def test_command_that_comes_during_power_on_waits_for_it() -> None:
    core = FaceCore()
    ask(core, Command.INIT, flags=0)
    assert core.data(PCR_READ) == []
    assert core.done(0) == [ReplyControl(OK), Run(Execute(PCR_READ, 0))]


def test_established_flag_is_reset_at_its_locality() -> None:
    core = running_core()
    assert ask(core, Command.RESET_TPMESTABLISHED, locality=3) == [Run(ResetEstablished(3))]
    assert core.done(0x3D) == [ReplyControl(bytes.fromhex("0000003d"))]


def test_machine_that_hangs_up_has_lost_its_power() -> None:
    core = running_core()
    core.data(PCR_READ)
    assert core.hung_up() == [CancelRunning()]
    assert not core.idle
    assert core.done(FATAL) == [Run(Power.OFF)]
    assert core.done(0) == []
    assert core.idle
    assert not core.running


def test_tool_that_hangs_up_changes_nothing() -> None:
    core = FaceCore()
    ask(core, Command.INIT, flags=0)
    core.done(0)
    assert core.hung_up() == []
    assert core.running
    assert core.hung_up(shutting_down=True) == [Run(Power.OFF)]


def test_answer_for_a_closed_data_channel_does_not_reach_the_next_one() -> None:
    core = running_core()
    core.data(PCR_READ)
    core.detached()
    core.offered = True
    ask(core, Command.SET_DATAFD)
    assert core.done(FATAL) == []


REQUESTS = st.sampled_from(Command).map(lambda command: encode_request(command))
STEPS = st.lists(
    st.tuples(st.just("control"), REQUESTS | st.binary(max_size=24))
    | st.tuples(st.just("data"), st.just(PCR_READ) | st.binary(max_size=24))
    | st.tuples(
        st.just("done"), st.just(FATAL) | st.none() | st.integers(0, 99) | st.binary(max_size=20)
    )
    | st.tuples(st.sampled_from(["hang up", "detach", "offer"]), st.none()),
    max_size=40,
)


@settings(max_examples=300)
@given(STEPS)
def test_no_order_of_events_confuses_the_core(steps: list[tuple[str, Outcome]]) -> None:
    core, out, control, data = FaceCore(), False, 0, 0
    for step, value in steps:
        effects: list[Effect] = []
        match step, value:
            case "control", bytes(received) if core.wants_control:
                try:
                    effects = core.control(received)
                except ProtocolError:
                    effects = core.hung_up()
                control += len(received) // 4 + 1
            case "data", bytes(frame) if core.wants_data and frame:
                effects = core.data(frame)
                data += 1
            case "done", outcome if out:
                out = False
                effects = core.done(outcome)
            case "hang up", _:
                effects = core.hung_up()
            case "detach", _:
                core.detached()
            case "offer", _:
                core.offered = True
        for effect in effects:
            match effect:
                case Run():
                    assert not out, "one call at a time"
                    out = True
                case ReplyControl():
                    control -= 1
                case ReplyData(reply):
                    data -= 1
                    assert int.from_bytes(reply[2:6], "big") == len(reply) <= 4096
        assert control >= 0, "never more replies than requests"
        assert data >= 0, "never more responses than commands"
        assert out or core.idle
        assert core.idle == (not out)
