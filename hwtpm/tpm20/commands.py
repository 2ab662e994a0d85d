"""The TPM 2.0 commands that this project sends itself, over any way to execute one.

Source: TPM 2.0 Library Specification, Part 3. All of them are without sessions. Errors of the way
itself pass through; a response code other than success is `TpmError`, a response that cannot be
one `ProtocolError`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from hwtpm.errors import ProtocolError, UsageError
from hwtpm.tpm20 import rc
from hwtpm.tpm20.const import (
    HASH_NAMES,
    Capability,
    Code,
    HandleType,
    Property,
    StartupType,
    name_of,
)
from hwtpm.tpm20.frame import build, is_tpm2, split

__all__ = [
    "MAX_RANDOM",
    "Bank",
    "Execute",
    "Info",
    "PcrValue",
    "answers_as_tpm2",
    "flush",
    "get_random",
    "info",
    "open_handles",
    "read_pcrs",
    "self_test",
    "shutdown",
    "startup",
    "test_result",
]

Execute: TypeAlias = Callable[[bytes], bytes]

MAX_RANDOM: Final = 1 << 20
"""Bytes that one call gets at most: a chip makes some kilobytes a second."""

_ASK: Final = 32  # no TPM 2.0 has a largest digest below this
_PER_CALL: Final = 254  # capabilities that one answer can hold
_MOST_CALLS: Final = 64
_PCRS: Final = 24
_SELECT_SIZE: Final = 3


def startup(execute: Execute, kind: StartupType) -> bool:
    """TPM2_Startup (section 9.3); False if the TPM had been started already.

    Raises:
        TpmError: TPM_RC_VALUE is the answer to STATE where there is no saved state.
    """
    code, _ = split(execute(build(Code.STARTUP, kind.to_bytes(2, "big"))))
    if code == rc.Rc.INITIALIZE:
        return False
    _succeed(code, Code.STARTUP)
    return True


def shutdown(execute: Execute, kind: StartupType) -> None:
    """TPM2_Shutdown (section 9.4)."""
    _call(execute, Code.SHUTDOWN, kind.to_bytes(2, "big"))


def answers_as_tpm2(execute: Execute) -> bool:
    """Whether a TPM 2.0 answers there; a TPM 1.2 refuses the question's tag and is unchanged."""
    question = struct.pack(">III", Capability.TPM_PROPERTIES, Property.FAMILY_INDICATOR, 1)
    return is_tpm2(execute(build(Code.GET_CAPABILITY, question)))


def open_handles(execute: Execute) -> list[int]:
    """Transient objects and loaded sessions that are in the TPM."""
    return [
        handle
        for kind in (HandleType.TRANSIENT, HandleType.LOADED_SESSION)
        for handle in _handles(execute, kind)
    ]


def flush(execute: Execute, handle: int) -> None:
    """TPM2_FlushContext (section 28.4)."""
    _call(execute, Code.FLUSH_CONTEXT, handle.to_bytes(4, "big"))


def get_random(execute: Execute, count: int) -> tuple[bytes, int]:
    """`count` random bytes (section 16.1), and how many commands they took.

    Raises:
        UsageError: `count` is not between 1 and `MAX_RANDOM`.
    """
    if not 1 <= count <= MAX_RANDOM:
        raise UsageError(f"{count} random bytes", hint=f"ask for 1 to {MAX_RANDOM}")
    data = bytearray()
    commands = 0
    while len(data) < count:
        wanted = min(count - len(data), _ASK)
        body = _call(execute, Code.GET_RANDOM, wanted.to_bytes(2, "big"))
        piece = _Reader(body, Code.GET_RANDOM).sized()
        if not 1 <= len(piece) <= wanted:
            raise ProtocolError(f"{name_of(Code.GET_RANDOM)}: {len(piece)} bytes for {wanted}")
        data += piece
        commands += 1
    return bytes(data), commands


def self_test(execute: Execute) -> None:
    """All self tests (section 10.2), run anew."""
    _call(execute, Code.SELF_TEST, b"\1")


def test_result(execute: Execute) -> tuple[bytes, int]:
    """TPM2_GetTestResult (section 10.4): the vendor's report, and the outcome as a TPM_RC.

    Works in failure mode too.
    """
    reader = _Reader(_call(execute, Code.GET_TEST_RESULT), Code.GET_TEST_RESULT)
    return reader.sized(), reader.number(4)


@dataclass(frozen=True, slots=True)
class PcrValue:
    """One PCR of a bank."""

    index: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Bank:
    """The PCRs of one hash algorithm, ascending."""

    hash: str
    pcrs: tuple[PcrValue, ...]


def read_pcrs(execute: Execute, indices: Iterable[int] | None = None) -> tuple[Bank, ...]:
    """The PCRs with these indices, or all, of every bank that is allocated (section 22.4).

    Raises:
        UsageError: a number that can be no PCR.
    """
    wanted = sorted(set(range(_PCRS) if indices is None else indices))
    for index in wanted:
        if not 0 <= index < 8 * _SELECT_SIZE:
            raise UsageError(f"there is no PCR {index}", hint=f"a PC's TPM has 0 to {_PCRS - 1}")
    banks = []
    for algorithm, allocated in _banks(execute):
        here = [index for index in wanted if index in allocated]
        values = tuple(PcrValue(index, _read_pcr(execute, algorithm, index)) for index in here)
        if values:
            banks.append(Bank(HASH_NAMES.get(algorithm, f"{algorithm:#06x}"), values))
    return tuple(banks)


@dataclass(frozen=True, slots=True)
class Info:
    """What a TPM 2.0 says about itself without authorisation; None where it does not say.

    `permanent` and `startup_clear` are TPMA_PERMANENT and TPMA_STARTUP_CLEAR. Times are in seconds.
    """

    family: str
    level: int | None
    revision: str
    manufacturer: str
    vendor: str
    firmware: str
    year: int | None
    day_of_year: int | None
    permanent: int | None
    startup_clear: int | None
    locked_out: bool
    lockout_counter: int | None
    max_auth_fail: int | None
    lockout_interval_s: int | None
    lockout_recovery_s: int | None
    pcrs: int | None
    pcr_banks: tuple[str, ...]
    transient_free: int | None
    sessions_free: int | None
    persistent: int | None
    persistent_free: int | None
    nv_indices: int | None
    nv_index_max: int | None
    input_buffer: int | None
    max_command_size: int | None
    max_response_size: int | None


_IN_LOCKOUT: Final = 1 << 9  # TPMA_PERMANENT.inLockout


def info(execute: Execute) -> Info:
    """Everything of `Info`; changes nothing."""
    properties = _properties(execute)
    get = properties.get
    revision = get(Property.REVISION)
    firmware = [
        part
        for name in (Property.FIRMWARE_VERSION_1, Property.FIRMWARE_VERSION_2)
        if (number := get(name)) is not None
        for part in (number >> 16, number & 0xFFFF)
    ]
    vendor = range(Property.VENDOR_STRING_1, Property.VENDOR_STRING_4 + 1)
    return Info(
        family=_letters(get(Property.FAMILY_INDICATOR)),
        level=get(Property.LEVEL),
        revision="" if revision is None else f"{revision // 100}.{revision % 100:02}",
        manufacturer=_letters(get(Property.MANUFACTURER)),
        vendor="".join(_letters(get(name)) for name in vendor),
        firmware=".".join(map(str, firmware)),
        year=get(Property.YEAR),
        day_of_year=get(Property.DAY_OF_YEAR),
        permanent=get(Property.PERMANENT),
        startup_clear=get(Property.STARTUP_CLEAR),
        locked_out=bool(get(Property.PERMANENT, 0) & _IN_LOCKOUT),
        lockout_counter=get(Property.LOCKOUT_COUNTER),
        max_auth_fail=get(Property.MAX_AUTH_FAIL),
        lockout_interval_s=get(Property.LOCKOUT_INTERVAL),
        lockout_recovery_s=get(Property.LOCKOUT_RECOVERY),
        pcrs=get(Property.PCR_COUNT),
        pcr_banks=tuple(
            HASH_NAMES.get(algorithm, f"{algorithm:#06x}")
            for algorithm, allocated in _banks(execute)
            if allocated
        ),
        transient_free=get(Property.HR_TRANSIENT_AVAIL),
        sessions_free=get(Property.HR_LOADED_AVAIL),
        persistent=get(Property.HR_PERSISTENT),
        persistent_free=get(Property.HR_PERSISTENT_AVAIL),
        nv_indices=get(Property.HR_NV_INDEX),
        nv_index_max=get(Property.NV_INDEX_MAX),
        input_buffer=get(Property.INPUT_BUFFER),
        max_command_size=get(Property.MAX_COMMAND_SIZE),
        max_response_size=get(Property.MAX_RESPONSE_SIZE),
    )


def _letters(number: int | None) -> str:
    """Four letters in a number, or its hex where they are none."""
    raw = (number or 0).to_bytes(4, "big")
    text = raw.rstrip(b"\0 ")
    printable = text.isascii() and text.decode("ascii").isprintable()
    return text.decode("ascii") if printable else raw.hex()


class _Reader:
    """A response body, taken from its front.

    Raises:
        ProtocolError: it ends too early.
    """

    def __init__(self, body: bytes, code: Code) -> None:
        self._left = body
        self._code = code

    def take(self, size: int) -> bytes:
        if len(self._left) < size:
            raise ProtocolError(f"{name_of(self._code)}: the response ends too early")
        piece, self._left = self._left[:size], self._left[size:]
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def sized(self) -> bytes:
        return self.take(self.number(2))


def _succeed(code: int, command: Code) -> None:
    if code:
        raise rc.error(code, name_of(command))


def _call(execute: Execute, command: Code, body: bytes = b"") -> bytes:
    code, answer = split(execute(build(command, body)))
    _succeed(code, command)
    return answer


def _capability(execute: Execute, area: Capability, first: int) -> tuple[bool, _Reader]:
    """Whether there is more, and the list with its count (section 30.2)."""
    question = struct.pack(">III", area, first, _PER_CALL)
    reader = _Reader(_call(execute, Code.GET_CAPABILITY, question), Code.GET_CAPABILITY)
    more = bool(reader.number(1))
    if reader.number(4) != area:
        raise ProtocolError(f"{name_of(Code.GET_CAPABILITY)}: the answer to another question")
    return more, reader


def _handles(execute: Execute, kind: HandleType) -> list[int]:
    found: list[int] = []
    first = kind << 24
    for _ in range(_MOST_CALLS):
        more, reader = _capability(execute, Capability.HANDLES, first)
        found += [reader.number(4) for _ in range(reader.number(4))]
        if not more or not found or found[-1] < first:
            break
        first = found[-1] + 1
    return found


def _properties(execute: Execute) -> dict[int, int]:
    found: dict[int, int] = {}
    for group in (Property.FAMILY_INDICATOR, Property.PERMANENT):
        first = int(group)
        for _ in range(_MOST_CALLS):
            more, reader = _capability(execute, Capability.TPM_PROPERTIES, first)
            page = [(reader.number(4), reader.number(4)) for _ in range(reader.number(4))]
            found |= dict(page)
            if not more or not page or page[-1][0] < first:
                break
            first = page[-1][0] + 1
    return found


def _banks(execute: Execute) -> list[tuple[int, frozenset[int]]]:
    """Hash algorithm and allocated PCRs of each bank."""
    _, reader = _capability(execute, Capability.PCRS, 0)
    banks = []
    for _ in range(reader.number(4)):
        algorithm = reader.number(2)
        select = int.from_bytes(reader.take(reader.number(1)), "little")
        indices = frozenset(index for index in range(select.bit_length()) if select >> index & 1)
        banks.append((algorithm, indices))
    return banks


def _read_pcr(execute: Execute, algorithm: int, index: int) -> bytes:
    select = (1 << index).to_bytes(_SELECT_SIZE, "little")
    question = struct.pack(">IHB", 1, algorithm, _SELECT_SIZE) + select
    reader = _Reader(_call(execute, Code.PCR_READ, question), Code.PCR_READ)
    reader.take(4)  # pcrUpdateCounter
    for _ in range(reader.number(4)):
        reader.take(2)
        reader.take(reader.number(1))
    if reader.number(4) != 1:
        raise ProtocolError(f"{name_of(Code.PCR_READ)}: not the one PCR {index}")
    return reader.sized()
