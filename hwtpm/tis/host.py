"""The driver side of TIS, sans-IO: operations are generators of register accesses and waits.

TIS 1.21 and 1.3 (TCG PC Client Specific TPM Interface Specification), command and response through
the FIFO. Every operation ends, with its result or a typed error, within a stated time of the clock
it is given, whatever the chip does; the time the bus itself takes for one burst comes on top.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from hwtpm.errors import (
    BusError,
    Cancelled,
    HwtpmError,
    ProtocolError,
    Timeout,
    UsageError,
)
from hwtpm.tis.evidence import (
    ABSENT,
    HEADER_SIZE,
    SIZE_FIELD_END,
    ChipInfo,
    absent,
    answered,
    check_command,
    check_locality,
    identify,
    went_ready,
)
from hwtpm.tis.flow import Flow, now, read, wait, write
from hwtpm.tis.registers import (
    ACCESS,
    DATA_FIFO,
    DID_VID,
    INTERFACE_ID,
    INTF_CAPABILITY,
    LOCALITIES,
    RID,
    STS,
    Access,
    Register,
    Sts,
    address_of,
)
from hwtpm.tis.timing import Timeouts

__all__ = ["ChipInfo", "TisHost"]

_FIRST_POLL_S: Final = 0.0001
_SLOWEST_POLL_S: Final = 0.005
_FIRST_NUDGE_S: Final = 0.010
_RESPONSE_TRIES: Final = 3

T = TypeVar("T")


class _DamagedResponse(ProtocolError):
    """What came out of the FIFO is no whole response; the chip still has it."""


def _never() -> bool:
    return False


class TisHost:
    """Driver of one TPM behind TIS registers.

    `max_transfer` is the largest FIFO access in bytes the bus can make, `max_response` the largest
    response that is believed, `device` names the chip in errors.

    What a particular chip needs: `resends` times a command is sent anew whose status does not
    become valid, `poll_s` pass at least between two polls, `status_before_chunk` reads STS before
    each piece of a response, `canceled` tells from STS that a cancelled command will not answer.
    """

    def __init__(
        self,
        *,
        timeouts: Timeouts | None = None,
        max_transfer: int = 64,
        max_response: int = 4096,
        device: str = "TPM",
        resends: int = 0,
        poll_s: float = 0.0,
        status_before_chunk: bool = False,
        canceled: Callable[[int], bool] = went_ready,
    ) -> None:
        if max_transfer < 1 or max_response < HEADER_SIZE:
            raise UsageError(f"transfers of {max_transfer} bytes, responses of {max_response}")
        self.timeouts = timeouts or Timeouts()
        self.max_transfer = max_transfer
        self.max_response = max_response
        self.device = device
        self.tpm20 = False
        self.resends = resends
        self.poll_s = poll_s
        self.status_before_chunk = status_before_chunk
        self.canceled = canceled
        self._locality: int | None = None
        self._credit = 0

    @property
    def locality(self) -> int | None:
        """The locality we own, as far as we know."""
        return self._locality

    @property
    def locality_limit_s(self) -> float:
        """No operation on localities and no probe takes longer."""
        return 3 * self.timeouts.a_s + self.timeouts.b_s

    def transmit_limit_s(self, duration_s: float) -> float:
        """No `transmit` with that duration takes longer."""
        t = self.timeouts
        return 3 * t.b_s + 2 * t.transfer_s + max(duration_s, 0.0)

    # -- identity

    def probe(self) -> Flow[ChipInfo]:
        """Find out what the chip is; limits transfers to what it can take.

        Raises:
            DeviceNotFound: nothing drives the bus; the message has the evidence.
            Timeout: the registers do not become valid.
            Unsupported: the chip's interface is switched to CRB.
        """
        did_vid = yield from self._get(DID_VID, 0)
        if absent(did_vid):
            # The other registers would only say the same.
            access = yield from self._get(ACCESS, 0)
            info = ChipInfo(did_vid, 0, 0, 0)
        else:
            access = yield from self._await_access(
                0, Access.VALID, self.timeouts.a_s, "valid registers"
            )
            info = ChipInfo(
                did_vid=did_vid,
                rid=(yield from self._get(RID, 0)),
                capability=(yield from self._get(INTF_CAPABILITY, 0)),
                interface_id=(yield from self._get(INTERFACE_ID, 0)),
            )
        identify(self.device, info, access)
        self.adopt_chip(info)
        return info

    def adopt_chip(self, info: ChipInfo) -> None:
        """Know what `probe` would find out, because somebody else did."""
        self.tpm20 = info.tpm20
        self.max_transfer = min(self.max_transfer, info.transfer_size or self.max_transfer)

    # -- localities

    def request_locality(self, number: int) -> Flow[None]:
        """Own locality `number`, releasing another one we own; timeout A.

        Raises:
            Timeout: it was not granted; the request is withdrawn.
        """
        check_locality(number)
        if self._locality not in (None, number):
            yield from self.release_locality()
        access = yield from self._await_access(
            number, Access.VALID, self.timeouts.a_s, "valid registers"
        )
        if not access & Access.ACTIVE:
            if access & Access.BEEN_SEIZED:
                yield from self._put(ACCESS, number, Access.BEEN_SEIZED)
            yield from self._put(ACCESS, number, Access.REQUEST)
            try:
                yield from self._await_grant(number, self.timeouts.a_s)
            except Timeout:
                yield from self._put(ACCESS, number, Access.ACTIVE)
                raise
        self._locality = number

    def adopt_locality(self, number: int | None) -> None:
        """Know that we own locality `number`, because somebody else asked for it and got it."""
        self._locality = number

    def seize(self, number: int) -> Flow[None]:
        """Take the TPM for `number` from a lower locality, aborting its command; A and B.

        Raises:
            Timeout: it was not granted, because the owner's locality is not lower.
        """
        check_locality(number)
        yield from self._put(ACCESS, number, Access.SEIZE)
        yield from self._await_grant(number, self.timeouts.a_s + self.timeouts.b_s)
        self._locality = number

    def release_locality(self) -> Flow[None]:
        """Give the locality back, if we own one; timeout A.

        Raises:
            Timeout: the chip does not let it go.
        """
        number, self._locality = self._locality, None
        if number is None:
            return
        yield from self._put(ACCESS, number, Access.ACTIVE)
        yield from self._poll(
            lambda: self._access(number),
            lambda access: not access & Access.ACTIVE,
            (yield from now()) + self.timeouts.a_s,
            f"release of locality {number}",
        )

    # -- commands

    def transmit(
        self, command: bytes, duration_s: float, cancelled: Callable[[], bool] = _never
    ) -> Flow[bytes]:
        """Execute one command and return its response, both whole TPM frames.

        `duration_s` is how long the chip may execute; `cancelled` is asked while it does. After an
        error the command is aborted, so that the chip is ready or idle if it can be. Takes at most
        `transmit_limit_s(duration_s)`.

        Raises:
            UsageError: `command` is no TPM frame, or we own no locality.
            Cancelled: `cancelled` said so (TPM 2.0 answers a cancelled command instead).
            Timeout: the chip did not do its part in time.
            ProtocolError: it broke the protocol, or a higher locality took the TPM.
            BusError: the registers read all ones.
        """
        check_command(command)
        self._owned()
        yield from self._in_order(self._submit(command))
        return (yield from self.collect(duration_s, cancelled))

    def collect(
        self,
        duration_s: float,
        cancelled: Callable[[], bool] = _never,
        *,
        go: bool = False,
        again: bool = False,
        since_s: float | None = None,
    ) -> Flow[bytes]:
        """The response to a command that the chip has; the second half of `transmit`.

        `go` writes tpmGo first: a chip that executes already ignores it. `again` writes
        responseRetry first: what has been read of the response comes once more. `since_s` is when
        the command was started, now if None.

        Raises:
            Cancelled, Timeout, ProtocolError, BusError: as `transmit`.
        """
        response = yield from self._in_order(self._fetch(duration_s, cancelled, go, again, since_s))
        with suppress(HwtpmError):
            # The response is complete; a link that fails now fails the next command.
            yield from self._put(STS, self._owned(), Sts.COMMAND_READY)
        return response

    def _in_order(self, flow: Flow[T]) -> Flow[T]:
        """After an error, an interrupt of the caller among them, the command is aborted."""
        try:
            return (yield from flow)
        except GeneratorExit:
            raise
        except BaseException:
            if self._locality is not None:
                with suppress(HwtpmError):
                    yield from self._become_ready(force=True)
            raise

    def _submit(self, command: bytes) -> Flow[None]:
        by_s = (yield from now()) + self.timeouts.transfer_s
        for left in range(self.resends, -1, -1):
            try:
                yield from self._become_ready()
                yield from self._send(command, by_s)
                break
            except Timeout:
                # Without tpmGo nothing is executed: the command can be sent once more.
                if not left or (yield from now()) >= by_s:
                    raise
                yield from self._put(STS, self._owned(), Sts.COMMAND_READY)
        yield from self._put(STS, self._owned(), Sts.GO)

    def _fetch(
        self,
        duration_s: float,
        cancelled: Callable[[], bool],
        go: bool,
        again: bool,
        since_s: float | None,
    ) -> Flow[bytes]:
        if go:
            yield from self._put(STS, self._owned(), Sts.GO)
        if again:
            yield from self._put(STS, self._owned(), Sts.RETRY)
        yield from self._await_response(duration_s, cancelled, since_s)
        by_s = (yield from now()) + self.timeouts.transfer_s
        return (yield from self._receive(by_s))

    def abort(self) -> Flow[None]:
        """Drop whatever command is in the chip and make it ready; timeout B.

        Raises:
            Timeout: the chip does not become ready.
        """
        yield from self._become_ready(force=True)

    def status(self) -> Flow[int]:
        """STS of our locality.

        Raises:
            ProtocolError: a higher locality took the TPM.
            BusError: the registers read all ones.
        """
        self._owned()
        return (yield from self._sts())

    def _become_ready(self, *, force: bool = False) -> Flow[None]:
        locality = self._owned()
        if not force and (yield from self._sts()) & Sts.COMMAND_READY:
            return
        deadline_s = (yield from now()) + self.timeouts.b_s
        nudge_s = _FIRST_NUDGE_S
        while True:
            # From COMPLETION it takes two writes on some chips and one on others.
            yield from self._put(STS, locality, Sts.COMMAND_READY)
            until_s = min((yield from now()) + nudge_s, deadline_s)
            try:
                yield from self._await_sts(
                    lambda sts: bool(sts & Sts.COMMAND_READY), until_s, "commandReady"
                )
            except Timeout:
                if until_s >= deadline_s:
                    raise
                nudge_s *= 2
            else:
                return

    def _send(self, command: bytes, by_s: float) -> Flow[None]:
        yield from self._push(command[:-1], by_s)
        if not (yield from self._valid_sts(by_s)) & Sts.EXPECT:
            raise ProtocolError(
                f"{self.device}: wants no more after {len(command) - 1} of {len(command)} "
                f"command bytes"
            )
        yield from self._push(command[-1:], by_s)
        if (yield from self._valid_sts(by_s)) & Sts.EXPECT:
            raise ProtocolError(f"{self.device}: wants more than the {len(command)} command bytes")

    def _push(self, data: bytes, by_s: float) -> Flow[None]:
        address = address_of(DATA_FIFO, self._owned())
        sent = 0
        while sent < len(data):
            if not self._credit:
                yield from self._await_sts(
                    lambda sts: Sts.BURST_COUNT.of(sts) > 0,
                    (yield from self._soon(self.timeouts.d_s, by_s)),
                    f"burst count after {sent} of {len(data)} command bytes",
                )
            size = min(self._credit, self.max_transfer, len(data) - sent)
            yield from write(address, data[sent : sent + size])
            self._credit -= size
            sent += size

    def _await_response(
        self, duration_s: float, cancelled: Callable[[], bool], since_s: float | None
    ) -> Flow[None]:
        asked = False

        def over(sts: int) -> bool:
            nonlocal asked
            asked = asked or cancelled()
            return answered(sts) or went_ready(sts) or asked

        since_s = (yield from now()) if since_s is None else since_s
        deadline_s = since_s + max(duration_s, 0.0)
        sts = yield from self._poll(self._sts, over, deadline_s, "response", since_s)
        if asked and not answered(sts) and not went_ready(sts):
            if not self.tpm20:
                raise Cancelled(f"{self.device}: command cancelled")
            cancel = Sts.CANCEL.to_bytes(STS.size, "little")
            yield from write(address_of(STS, self._owned()), cancel)
            sts = yield from self._await_sts(
                lambda sts: answered(sts) or went_ready(sts) or self.canceled(sts),
                (yield from now()) + self.timeouts.b_s,
                "response to a cancelled command",
            )
        if not answered(sts):
            raise ProtocolError(
                f"{self.device}: the command was aborted in the chip (STS {sts:#010x})"
            )

    def _receive(self, by_s: float) -> Flow[bytes]:
        for attempt in range(1, _RESPONSE_TRIES + 1):
            try:
                return (yield from self._receive_once(by_s))
            except _DamagedResponse as error:
                if attempt == _RESPONSE_TRIES:
                    raise ProtocolError(
                        f"{error.message}, {attempt} times",
                        hint="check the bus: a lower clock or shorter wires",
                    ) from error
            yield from self._put(STS, self._owned(), Sts.RETRY)
            yield from self._await_sts(
                answered,
                (yield from self._soon(self.timeouts.c_s, by_s)),
                "response after responseRetry",
            )
        raise AssertionError("unreachable")

    def _receive_once(self, by_s: float) -> Flow[bytes]:
        head = yield from self._pull(SIZE_FIELD_END, 0, by_s)
        size = int.from_bytes(head[2:], "big")
        if not HEADER_SIZE <= size <= self.max_response:
            raise _DamagedResponse(f"{self.device}: response starts {head.hex(' ')}")
        body = yield from self._pull(size - len(head) - 1, len(head), by_s)
        # As with Expect: only that data remains before the last byte and none after it proves that
        # the chip did not run dry within a burst, where it returns all ones.
        if not (yield from self._valid_sts(by_s)) & Sts.DATA_AVAIL:
            raise _DamagedResponse(f"{self.device}: response of {size} bytes ends early")
        last = yield from self._pull(1, size - 1, by_s)
        if (yield from self._valid_sts(by_s)) & Sts.DATA_AVAIL:
            raise _DamagedResponse(f"{self.device}: data left after a response of {size} bytes")
        return head + body + last

    def _pull(self, count: int, done: int, by_s: float) -> Flow[bytes]:
        address = address_of(DATA_FIFO, self._owned())
        data = b""
        while len(data) < count:
            if not self._credit:
                sts = yield from self._await_sts(
                    lambda sts: bool(
                        sts & Sts.VALID and (not sts & Sts.DATA_AVAIL or Sts.BURST_COUNT.of(sts))
                    ),
                    (yield from self._soon(max(self.timeouts.c_s, self.timeouts.d_s), by_s)),
                    f"burst count after {done + len(data)} response bytes",
                )
                if not sts & Sts.DATA_AVAIL:
                    raise _DamagedResponse(
                        f"{self.device}: response ends after {done + len(data)} bytes"
                    )
            size = min(self._credit, self.max_transfer, count - len(data))
            data += yield from read(address, size)
            self._credit = 0 if self.status_before_chunk else self._credit - size
        return data

    # -- registers

    def _owned(self) -> int:
        if self._locality is None:
            raise UsageError(f"{self.device}: request a locality first")
        return self._locality

    def _get(self, register: Register, locality: int) -> Flow[int]:
        raw = yield from read(address_of(register, locality), register.size)
        return int.from_bytes(raw, "little")

    def _put(self, register: Register, locality: int, bits: int) -> Flow[None]:
        yield from write(address_of(register, locality), bytes([bits]))

    def _access(self, number: int) -> Flow[int]:
        access = yield from self._get(ACCESS, number)
        if access == 0xFF:
            raise BusError(
                f"{self.device}: ACCESS of locality {number} reads all ones",
                hint="the chip is gone, held in reset, or not selected: check power and wires",
            )
        return access

    def _sts(self) -> Flow[int]:
        """One read of all four bytes, so that status and burst count belong together.

        The burst count becomes the credit that the next FIFO accesses may use up.
        """
        locality = self._owned()
        sts = yield from self._get(STS, locality)
        if sts == ABSENT:
            access = yield from self._access(locality)
            if access & Access.VALID and not access & Access.ACTIVE:
                self._locality = None
                raise ProtocolError(
                    f"{self.device}: locality {locality} was taken away (ACCESS {access:#04x})",
                    hint="another locality seized the TPM: send the command again",
                )
            raise BusError(
                f"{self.device}: STS reads all ones in the active locality {locality}, "
                f"ACCESS {access:#04x}",
                hint="the bus is unreliable: check clock, wires and chip select",
            )
        self._credit = Sts.BURST_COUNT.of(sts)
        return sts

    def _await_access(self, number: int, bits: int, within_s: float, awaited: str) -> Flow[int]:
        return (
            yield from self._poll(
                lambda: self._access(number),
                lambda access: access & bits == bits,
                (yield from now()) + within_s,
                awaited,
            )
        )

    def _await_grant(self, number: int, within_s: float) -> Flow[None]:
        granted = Access.VALID | Access.ACTIVE
        awaited = f"locality {number}"
        try:
            yield from self._await_access(number, granted, within_s, awaited)
        except Timeout as timeout:
            for other in range(LOCALITIES):
                if (yield from self._access(other)) & granted == granted and other != number:
                    timeout.hint = (
                        f"locality {other} holds the TPM: wait for it, or seize from a higher one"
                    )
            raise

    def _await_sts(
        self, accept: Callable[[int], bool], deadline_s: float, awaited: str
    ) -> Flow[int]:
        return (yield from self._poll(self._sts, accept, deadline_s, awaited))

    def _valid_sts(self, by_s: float) -> Flow[int]:
        deadline_s = yield from self._soon(self.timeouts.c_s, by_s)
        return (
            yield from self._await_sts(lambda sts: bool(sts & Sts.VALID), deadline_s, "stsValid")
        )

    def _soon(self, within_s: float, by_s: float) -> Flow[float]:
        """The nearer of two deadlines; a transfer whose time is up ends here, progress or not."""
        time_s = yield from now()
        if time_s >= by_s:
            raise Timeout(
                f"{self.device}: transfer not finished in {self.timeouts.transfer_s} s",
                hint="the chip grants bursts too slowly for its protocol",
            )
        return min(time_s + within_s, by_s)

    def _poll(
        self,
        fetch: Callable[[], Flow[int]],
        accept: Callable[[int], bool],
        deadline_s: float,
        awaited: str,
        since_s: float | None = None,
    ) -> Flow[int]:
        start_s = (yield from now()) if since_s is None else since_s
        delay_s = 0.0
        while True:
            # The time is taken first: whoever wakes up late still looks once more.
            time_s = yield from now()
            value = yield from fetch()
            if accept(value):
                return value
            if time_s >= deadline_s:
                raise Timeout(
                    f"{self.device}: no {awaited} within {deadline_s - start_s:.3g} s "
                    f"(register reads {value:#x})"
                )
            if delay_s:
                yield from wait(min(delay_s, deadline_s - time_s))
            delay_s = max(min(max(2 * delay_s, _FIRST_POLL_S), _SLOWEST_POLL_S), self.poll_s)
