"""The TCPA event log: entries, limits, replay. A firmware's own log is in tests/interop."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwtpm.errors import ProtocolError
from hwtpm.tpm12.eventlog import Event, EventType, parse, replay

SEPARATOR = bytes.fromhex("ffffffff")


def entry(pcr: int, kind: int, digest: bytes, data: bytes) -> bytes:
    return struct.pack("<II", pcr, kind) + digest + struct.pack("<I", len(data)) + data


EVENTS = st.builds(
    Event,
    st.integers(0, 23),
    st.sampled_from(EventType) | st.integers(0, 2**32 - 1),
    st.binary(min_size=20, max_size=20),
    st.binary(max_size=80),
).filter(lambda event: event != Event(0, 0, bytes(20), b""))


@given(st.lists(EVENTS, max_size=8), st.sampled_from([b"", b"\0" * 7, b"\0" * 99, b"\xff" * 99]))
def test_written_events_are_read_back_whatever_fills_the_rest(
    events: list[Event], filler: bytes
) -> None:
    log = b"".join(entry(e.pcr, e.type, e.digest, e.data) for e in events)
    assert parse(log + filler) == events


@given(st.binary(max_size=400) | st.lists(EVENTS, min_size=1, max_size=3).flatmap(
    lambda events: st.binary(min_size=1, max_size=40).map(
        lambda noise: b"".join(entry(e.pcr, e.type, e.digest, e.data) for e in events) + noise
    )
))  # fmt: skip
def test_any_bytes_are_events_or_a_protocol_error(log: bytes) -> None:
    try:
        events = parse(log)
    except ProtocolError:
        return
    assert set(replay(events)) <= set(range(24))
    for event in events:
        assert event.description.startswith(event.type_name)
        assert len(event.description) < 120
        assert event.description.isprintable()


@given(st.lists(EVENTS, min_size=1, max_size=3), st.data())
def test_cut_off_entry_is_an_error_not_a_shorter_log(
    events: list[Event], data: st.DataObject
) -> None:
    last = Event(1, EventType.ACTION, b"\x11" * 20, b"action")
    log = b"".join(entry(e.pcr, e.type, e.digest, e.data) for e in [*events, last])
    left = data.draw(st.integers(1, len(entry(1, 5, last.digest, last.data)) - 1))
    with pytest.raises(ProtocolError, match=f"event {len(events)} at offset"):
        parse(log[: len(log) - left])


def test_pcr_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ProtocolError, match="event 0 at offset 0 is damaged: PCR 24"):
        parse(entry(24, 4, bytes(20), SEPARATOR))


def test_replay_extends_from_zero_and_skips_what_was_not_extended() -> None:
    digest = hashlib.sha1(SEPARATOR).digest()
    events = [
        Event(4, EventType.SEPARATOR, digest, SEPARATOR),
        Event(4, EventType.NO_ACTION, b"\xee" * 20, b"information"),
        Event(4, EventType.ACTION, b"\x11" * 20, b""),
        Event(5, EventType.SEPARATOR, digest, SEPARATOR),
    ]
    once = hashlib.sha1(bytes(20) + digest).digest()
    assert replay(events) == {4: hashlib.sha1(once + b"\x11" * 20).digest(), 5: once}


@pytest.mark.parametrize(
    ("kind", "data", "description"),
    [
        (EventType.SEPARATOR, SEPARATOR, "EV_SEPARATOR: pre-boot ended"),
        (EventType.SEPARATOR, b"\1\0\0\0", "EV_SEPARATOR: pre-boot failed"),
        (EventType.ACTION, b"Calling INT 19h", 'EV_ACTION: "Calling INT 19h"'),
        (EventType.EVENT_TAG, b"\7\0\0\0\3\0\0\0abc", "EV_EVENT_TAG: event 7 with 3 bytes"),
        (EventType.EVENT_TAG, b"abc", "EV_EVENT_TAG: 616263, 3 bytes"),
        (EventType.S_CRTM_VERSION, b"", "EV_S_CRTM_VERSION: no data"),
        (EventType.IPL, bytes(99), f"EV_IPL: {'0' * 57}..., 99 bytes"),
        (0x1234, b"\1", "0x00001234: 01, 1 bytes"),
    ],
)
def test_description_says_what_the_event_is(kind: int, data: bytes, description: str) -> None:
    assert Event(0, kind, bytes(20), data).description == description
