"""The swtpm control channel codec: byte layouts, stream splitting, hostile input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtpm.errors import ProtocolError, UsageError
from hwtpm.softtpm.control import (
    BLOB_LIMIT,
    COMMANDS,
    HASH_LIMIT,
    BlobType,
    Capability,
    Command,
    Request,
    RequestParser,
    Response,
    ResponseDecoder,
    Result,
    UnknownRequest,
    capabilities_for,
    encode_request,
    encode_response,
)

LOCALITY_COMMANDS = (Command.SET_LOCALITY, Command.RESET_TPMESTABLISHED)
FIXED_COMMANDS = [command for command in Command if command not in LOCALITY_COMMANDS]


@st.composite
def requests(draw: st.DrawFn, commands: list[Command]) -> Request:
    command = draw(st.sampled_from(commands))
    layout = COMMANDS[command].request
    wide = "Q" in layout.format
    values = {
        name: draw(st.integers(0, 4 if name == "locality" else 2**32 - 1)) for name in layout.names
    }
    if wide:
        values["flags"] = draw(st.integers(0, 2**64 - 1))
    data = b""
    if layout.data_limit:
        data = draw(st.binary(max_size=100))
        values["length"] = len(data)
    return Request(command, values, data)


def encoded(request: Request) -> bytes:
    return encode_request(request.command, request.data, **request.values)


def test_every_command_is_declared_once_under_its_number() -> None:
    assert [int(command) for command in COMMANDS] == list(range(1, 20))
    assert all(spec.command is command for command, spec in COMMANDS.items())


@pytest.mark.parametrize(
    ("wire", "request_"),
    [
        ("00000001", Request(Command.GET_CAPABILITY)),
        ("0000000200000001", Request(Command.INIT, {"flags": 1})),
        ("0000000503", Request(Command.SET_LOCALITY, {"locality": 3})),
        ("0000000700000003616263", Request(Command.HASH_DATA, {"length": 3}, b"abc")),
        (
            "0000000c000000010000000200000000",
            Request(Command.GET_STATEBLOB, {"flags": 1, "type": BlobType.VOLATILE, "offset": 0}),
        ),
        (
            "0000000d0000000000000001000000025566",
            Request(Command.SET_STATEBLOB, {"flags": 0, "type": 1, "length": 2}, b"\x55\x66"),
        ),
        ("0000001100000f80", Request(Command.SET_BUFFERSIZE, {"size": 3968})),
        (
            "00000012000000000000000300000010" + "00000000",
            Request(Command.GET_INFO, {"flags": 3, "offset": 16}),
        ),
    ],
)
def test_request_bytes_are_those_of_the_channel(wire: str, request_: Request) -> None:
    assert encoded(request_).hex() == wire
    assert RequestParser().feed(bytes.fromhex(wire)) == [request_]


@pytest.mark.parametrize(
    ("wire", "response"),
    [
        ("0000000000007fff", Response(Command.GET_CAPABILITY, 0, {"capabilities": 0x7FFF})),
        ("0000000001000000", Response(Command.GET_TPMESTABLISHED, 0, {"established": 1})),
        (
            "00000000000000000000000200000002aabb",
            Response(Command.GET_STATEBLOB, 0, {"flags": 0, "total": 2, "length": 2}, b"\xaa\xbb"),
        ),
        (
            "00000800000000000000000000000000",
            Response(Command.GET_STATEBLOB, Result.RETRY, {"flags": 0, "total": 0, "length": 0}),
        ),
        (
            "00000000000010000000100000001000",
            Response(Command.SET_BUFFERSIZE, 0, {"size": 4096, "minimum": 4096, "maximum": 4096}),
        ),
        ("0000000a", Response(Command.STOP, Result.BAD_ORDINAL)),
        ("0000003d", Response(Command.SET_LOCALITY, Result.BAD_LOCALITY)),
    ],
)
def test_response_bytes_are_those_of_the_channel(wire: str, response: Response) -> None:
    values = {name: value for name, value in response.values.items() if name != "length"}
    assert encode_response(response.command, response.result, response.data, **values).hex() == wire
    assert ResponseDecoder(response.command).feed(bytes.fromhex(wire)) == response


@given(st.lists(requests(FIXED_COMMANDS), max_size=5))
def test_splitting_the_stream_changes_no_request(sent: list[Request]) -> None:
    stream = b"".join(map(encoded, sent))
    whole, bytewise = RequestParser(), RequestParser()
    assert whole.feed(stream) == sent
    one_by_one = [
        request
        for i in range(len(stream))
        for request in bytewise.feed(stream[i : i + 1], burst_end=False)
    ]
    assert one_by_one == sent
    assert whole.pending == bytewise.pending == 0


@given(
    st.lists(st.tuples(requests(list(Command)), st.sampled_from([b"", b"\0\0\0", b"\x17\xfe\x05"])))
)
def test_pipelined_locality_commands_of_both_lengths_are_told_apart(
    sent: list[tuple[Request, bytes]],
) -> None:
    stream = b"".join(
        encoded(request) + (padding if request.command in LOCALITY_COMMANDS else b"")
        for request, padding in sent
    )
    assert RequestParser().feed(stream) == [request for request, _ in sent]


@pytest.mark.parametrize("padding", [b"", b"\0", b"\0\0", b"\0\0\0", b"\xff\xfe\xfd"])
@pytest.mark.parametrize("command", LOCALITY_COMMANDS)
def test_a_burst_ends_a_locality_body_of_one_to_four_bytes(
    command: Command, padding: bytes
) -> None:
    parser = RequestParser()
    assert parser.feed(encode_request(command, locality=2) + padding) == [
        Request(command, {"locality": 2})
    ]
    assert parser.feed(encode_request(Command.STOP)) == [Request(Command.STOP)]


@given(st.integers(1, 7))
def test_padding_that_arrives_late_does_not_shift_the_stream(split: int) -> None:
    wire = encode_request(Command.SET_LOCALITY, locality=3) + bytes(3)
    parser = RequestParser()
    got = parser.feed(wire[:split]) + parser.feed(wire[split:])
    got += parser.feed(encode_request(Command.STOP))
    assert got == [Request(Command.SET_LOCALITY, {"locality": 3}), Request(Command.STOP)]


def test_an_unknown_command_swallows_its_burst_only() -> None:
    parser = RequestParser()
    assert parser.feed(bytes.fromhex("00000014deadbeef")) == [UnknownRequest(20)]
    assert parser.feed(encode_request(Command.STOP)) == [Request(Command.STOP)]


@pytest.mark.parametrize(
    ("command", "limit"), [(Command.HASH_DATA, HASH_LIMIT), (Command.SET_STATEBLOB, BLOB_LIMIT)]
)
def test_a_length_beyond_the_limit_is_refused_before_its_data(command: Command, limit: int) -> None:
    header = encode_request(command)[:-4]
    assert RequestParser().feed(header + limit.to_bytes(4)) == []
    with pytest.raises(ProtocolError, match="announced"):
        RequestParser().feed(header + (limit + 1).to_bytes(4))
    with pytest.raises(UsageError, match="fit"):
        encode_request(command, bytes(limit + 1))


@given(st.lists(st.tuples(st.binary(max_size=40), st.booleans())))
def test_random_bytes_raise_nothing_but_protocol_errors(
    bursts: list[tuple[bytes, bool]],
) -> None:
    parser = RequestParser()
    try:
        for data, burst_end in bursts:
            for request in parser.feed(data, burst_end=burst_end):
                assert isinstance(request, UnknownRequest) or encoded(request)
    except ProtocolError:
        return
    assert parser.pending <= sum(len(data) for data, _ in bursts)


def test_an_endless_unknown_request_is_cut_off() -> None:
    parser = RequestParser()
    with pytest.raises(ProtocolError, match="unknown command"):
        parser.feed(b"\xff" * (BLOB_LIMIT + 1), burst_end=False)


@given(st.sampled_from(list(Command)), st.binary(max_size=64))
def test_random_responses_raise_nothing_but_protocol_errors(command: Command, data: bytes) -> None:
    try:
        response = ResponseDecoder(command).feed(data)
    except ProtocolError:
        return
    assert response is None or response.command is command


@given(st.sampled_from(list(Command)), st.integers(1, 2**32 - 1))
def test_errors_travel_both_ways(command: Command, result: int) -> None:
    response = ResponseDecoder(command).feed(encode_response(command, result))
    assert response is not None
    assert response.result == result


def test_a_response_with_trailing_bytes_is_refused() -> None:
    with pytest.raises(ProtocolError, match="1 bytes too many in the response to STOP"):
        ResponseDecoder(Command.STOP).feed(bytes(5))


def test_a_response_is_complete_only_with_its_last_byte() -> None:
    wire = encode_response(Command.GET_STATEBLOB, data=b"blob", total=4)
    decoder = ResponseDecoder(Command.GET_STATEBLOB)
    assert all(decoder.feed(wire[i : i + 1]) is None for i in range(len(wire) - 1))
    last = decoder.feed(wire[-1:])
    assert last is not None
    assert last.data == b"blob"


def test_power_state_decides_what_is_refused() -> None:
    def refused(command: Command, running: bool, **values: int) -> bool:
        result = COMMANDS[command].refusal(Request(command, values), running=running)
        assert result in (None, Result.BAD_ORDINAL)
        return result is not None

    assert refused(Command.GET_TPMESTABLISHED, running=False)
    assert not refused(Command.GET_TPMESTABLISHED, running=True)
    assert refused(Command.SET_STATEBLOB, running=True)
    assert not refused(Command.SET_STATEBLOB, running=False)
    assert refused(Command.SET_BUFFERSIZE, running=True, size=4096)
    assert not refused(Command.SET_BUFFERSIZE, running=True, size=0)
    assert not refused(Command.SET_BUFFERSIZE, running=False, size=4096)
    assert not refused(Command.STOP, running=True)
    assert not refused(Command.STOP, running=False)


def test_capabilities_of_a_qemu_tpm12_session_are_those_qemu_demands() -> None:
    qemu = capabilities_for(
        [
            Command.GET_CAPABILITY,
            Command.INIT,
            Command.SHUTDOWN,
            Command.GET_TPMESTABLISHED,
            Command.SET_LOCALITY,
            Command.STOP,
            Command.SET_DATAFD,
            Command.SET_BUFFERSIZE,
        ]
    )
    assert qemu == 0x340F
    assert capabilities_for(Command) | Capability.SEND_COMMAND_HEADER == 0x1FFFF


@pytest.mark.parametrize("values", [{"flags": 2**32}, {"flags": -1}, {"flag": 1}])
def test_encoding_nonsense_is_a_usage_error(values: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        encode_request(Command.INIT, b"", **values)
