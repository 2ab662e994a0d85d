"""The tpmif ring, protocol version 2: both ends of one shared page, sans-IO.

Source: Xen public header `io/tpmif.h`, `struct tpmif_shared_page`, and the transfer rules in its
comment. Layout in little-endian (native on x86): u32 length @0, u8 state @4, u8 locality @5,
u8 pad @6, u8 nr_extra_pages @7, that many u32 grant references, then the data. The header's
comment puts the data at 16; Linux and mini-os put it at 8, and so do we.

The front end writes SUBMIT and CANCEL, the back end FINISH and IDLE. Neither end is believed by
the other: every field is read once, then checked, and only the checked copy is used.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from hwtpm.errors import Busy, ProtocolError, UsageError

__all__ = [
    "CAPACITY",
    "LOCALITIES",
    "PAGE_SIZE",
    "BackRing",
    "Cancelled",
    "FrontRing",
    "Request",
    "RingState",
]

PAGE_SIZE = 4096
HEADER_SIZE = 8
CAPACITY = PAGE_SIZE - HEADER_SIZE
LOCALITIES = range(5)

_LENGTH = struct.Struct("<I")
_STATE_OFFSET = 4
_LOCALITY_OFFSET = 5
_EXTRA_PAGES_OFFSET = 7


class RingState(IntEnum):
    """The state byte; a page that was never used is all zero and so IDLE."""

    IDLE = 0
    SUBMIT = 1
    FINISH = 2
    CANCEL = 3


@dataclass(frozen=True)
class Request:
    """A command that the front end has handed over, copied out of the page."""

    command: bytes
    locality: int


@dataclass(frozen=True)
class Cancelled:
    """The exchange ended without an answer: the page is IDLE."""


class _Page:
    """The shared page with its fields; each access touches the peer's memory exactly once."""

    def __init__(self, page: memoryview) -> None:
        if page.readonly or page.nbytes != PAGE_SIZE:
            raise UsageError(
                f"the tpmif ring needs a writable page of {PAGE_SIZE} bytes, got {page.nbytes} "
                f"{'read-only' if page.readonly else 'writable'} ones"
            )
        self._bytes = page.cast("B")

    @property
    def state(self) -> int:
        return self._bytes[_STATE_OFFSET]

    @state.setter
    def state(self, state: RingState) -> None:
        self._bytes[_STATE_OFFSET] = state

    @property
    def locality(self) -> int:
        return self._bytes[_LOCALITY_OFFSET]

    @locality.setter
    def locality(self, locality: int) -> None:
        self._bytes[_LOCALITY_OFFSET] = locality

    @property
    def data_offset(self) -> int:
        return HEADER_SIZE + 4 * self._bytes[_EXTRA_PAGES_OFFSET]

    def clear_extra_pages(self) -> None:
        self._bytes[_EXTRA_PAGES_OFFSET] = 0

    def read(self, offset: int, writer: str) -> bytes:
        length: int = _LENGTH.unpack(bytes(self._bytes[: _LENGTH.size]))[0]
        if length > PAGE_SIZE - offset:
            raise ProtocolError(
                f"tpmif ring: the {writer} end claims {length} bytes, "
                f"the page holds {PAGE_SIZE - offset}"
            )
        return bytes(self._bytes[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self._bytes[offset : offset + len(data)] = data
        self._bytes[: _LENGTH.size] = _LENGTH.pack(len(data))


class FrontRing:
    """The end that submits commands; one command at a time.

    After `submit` and `cancel` the back end's doorbell has to be rung.
    """

    def __init__(self, page: memoryview) -> None:
        self._page = _Page(page)
        self._waiting = False

    @property
    def ready(self) -> bool:
        """The back end has let go of the page: a command can be submitted.

        Raises:
            ProtocolError: the state byte holds none of the four states; `reset` is the way out.
        """
        return self._peer_state() in (RingState.IDLE, RingState.FINISH)

    def submit(self, command: bytes, locality: int = 0) -> None:
        """Hand `command` to the back end.

        Raises:
            UsageError: the command does not fit in the page, there is no such locality, or an
                earlier command was neither answered nor cancelled.
            Busy: the back end still works on a command that was cancelled.
            ProtocolError: the state byte is none of the four.
        """
        if len(command) > CAPACITY:
            raise UsageError(f"tpmif ring: a command of {len(command)} bytes; {CAPACITY} fit")
        if locality not in LOCALITIES:
            raise UsageError(f"tpmif ring: locality {locality}; there are 0 to 4")
        if self._waiting:
            raise UsageError("tpmif ring: the earlier command is neither answered nor cancelled")
        if not self.ready:
            raise Busy("tpmif ring: the back end has not released the page")
        self._page.clear_extra_pages()
        self._page.locality = locality
        self._page.write(HEADER_SIZE, command)
        self._page.state = RingState.SUBMIT
        self._waiting = True

    def poll(self) -> bytes | Cancelled | None:
        """The answer to the submitted command, `Cancelled`, or None while there is none.

        An answer to a command that was given up with `cancel` is never returned.

        Raises:
            ProtocolError: the answer does not fit in the page or the state byte is none of the
                four; the command is then over.
            UsageError: nothing is submitted.
        """
        if not self._waiting:
            raise UsageError("tpmif ring: no command is submitted, so there is no answer to poll")
        try:
            state = self._peer_state()
            if state in (RingState.SUBMIT, RingState.CANCEL):
                return None
            answer = self._page.read(HEADER_SIZE, "back") if state == RingState.FINISH else None
        except ProtocolError:
            self._waiting = False
            raise
        self._waiting = False
        return Cancelled() if answer is None else answer

    def cancel(self) -> None:
        """Give up the submitted command; the page is free once `ready` says so."""
        self._waiting = False
        if self._page.state == RingState.SUBMIT:
            self._page.state = RingState.CANCEL

    def reset(self) -> None:
        """Take over a page that an earlier front end left: cancel whatever is in it."""
        self._waiting = False
        if self._page.state not in (RingState.IDLE, RingState.FINISH):
            self._page.state = RingState.CANCEL

    def _peer_state(self) -> RingState:
        state = self._page.state
        try:
            return RingState(state)
        except ValueError:
            raise ProtocolError(
                f"tpmif ring: state {state} is none of IDLE, SUBMIT, FINISH, CANCEL",
                hint="reset the front end; if it comes back, restart the back end",
            ) from None


class BackRing:
    """The end that answers commands; one command at a time.

    After `finish`, after a `poll` that returned `Cancelled` and after one that raised, the front
    end's doorbell has to be rung. A new `BackRing` on a page in SUBMIT takes that command: a back
    end that restarts answers what its predecessor left, so a command may be executed twice.
    """

    def __init__(self, page: memoryview) -> None:
        self._page = _Page(page)
        self._answer_offset: int | None = None

    @property
    def busy(self) -> bool:
        """A request was taken and not finished yet."""
        return self._answer_offset is not None

    @property
    def cancel_requested(self) -> bool:
        """The front end gave up the open request, which still has to be finished."""
        return self.busy and self._page.state == RingState.CANCEL

    def poll(self) -> Request | Cancelled | None:
        """The next command; `Cancelled` if one was withdrawn before it was taken; else None.

        Raises:
            ProtocolError: the request does not fit in the page or its locality does not exist.
                It has been refused (the front end sees it cancelled) and the ring goes on.
        """
        if self.busy:
            return None
        state = self._page.state
        if state == RingState.CANCEL:
            self._page.state = RingState.IDLE
            return Cancelled()
        if state != RingState.SUBMIT:
            return None
        offset = self._page.data_offset
        locality = self._page.locality
        try:
            command = self._page.read(offset, "front")
            if locality not in LOCALITIES:
                raise ProtocolError(f"tpmif ring: the front end asks for locality {locality}")
        except ProtocolError:
            self._page.state = RingState.IDLE
            raise
        self._answer_offset = offset
        return Request(command, locality)

    def finish(self, response: bytes) -> None:
        """Answer the request that was taken.

        Raises:
            UsageError: no request was taken; or the response does not fit in the page, and the
                request is still open for one that does.
        """
        offset = self._answer_offset
        if offset is None:
            raise UsageError("tpmif ring: no request is open, so there is nothing to finish")
        if len(response) > PAGE_SIZE - offset:
            raise UsageError(
                f"tpmif ring: a response of {len(response)} bytes; {PAGE_SIZE - offset} fit",
                hint="answer with a TPM error response instead",
            )
        self._answer_offset = None
        self._page.write(offset, response)
        self._page.state = RingState.FINISH
