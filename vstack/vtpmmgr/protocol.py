"""The wire protocol between a vTPM and its manager (sans-IO, both sides).

Source: Xen's vtpmmgr: a frame is tag u16, size u32 of the whole frame, ordinal or status u32, body;
integers are big-endian. Status codes are TPM 1.2 return codes (TPM Main 1.2, Part 2 section 16).
Tag 0x1C1 carries the vTPM's commands, 0x1C2 management, 0x00C1 to 0x00C3 commands that are passed
through to the chip. A handled command is answered with tag 0x1C4, a refused one with its own
tag + 3, which for 0x1C1 is the same.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import STRICT, IntEnum, IntFlag
from typing import Final

from hwtpm.errors import HwtpmError, ProtocolError, Refused, StateError, Unsupported, UsageError
from hwtpm.tpm12 import rc
from hwtpm.tpm12.commands.cryptography import GetRandom, GetRandomReply
from hwtpm.tpm12.commands.integrity import PcrRead, PcrReadReply
from hwtpm.tpm12.const import DIGEST_SIZE, NUM_PCRS, Tag
from hwtpm.tpm12.frame import HEADER_SIZE, build_request, parse_response
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import U32, Nonce, PcrSelection
from hwtpm.wire import Struct, WireError, structure

__all__ = [
    "MAX_HASH_KEY",
    "MIN_HASH_KEY",
    "SIGNATURE_SIZE",
    "GetBootHash",
    "LoadHashKey",
    "ManagerClient",
    "ManagerQuote",
    "Ordinal",
    "PassPcrRead",
    "PassRandom",
    "QuoteFlag",
    "QuoteRequest",
    "Refusal",
    "Request",
    "SaveHashKey",
    "VtpmTag",
    "decode_request",
    "encode_hash_key",
    "encode_reply",
    "encode_request",
]

MIN_HASH_KEY: Final = 52
MAX_HASH_KEY: Final = 64
SIGNATURE_SIZE: Final = 256  # a TPM 1.2 identity key always has 2048 bits

_HEADER: Final = struct.Struct(">HII")
_REFUSED: Final = 3  # what a refusal adds to the tag of the request


class VtpmTag(IntEnum):
    """Tags of the manager's own commands and their answers."""

    REQ = 0x01C1
    REQ2 = 0x01C2
    RSP = 0x01C4


class Ordinal(IntEnum):
    """Commands that every vTPM may send with tag REQ."""

    SAVE_HASH_KEY = 1
    LOAD_HASH_KEY = 2
    GET_BOOT_HASH = 3
    GET_QUOTE = 4


class QuoteFlag(IntFlag, boundary=STRICT):
    """Which hashes GET_QUOTE covers, in this order."""

    VTPM_UUID = 1  # SHA-1 of the vTPM's uuid
    LABEL = 2  # SHA-1 of its 20-byte label hash
    GROUP_CONFIG = 4  # SHA-1 of the group's authority key and configuration list
    GROUP_AUTHORITY = 8  # SHA-1 of the group's authority key


_ALL_QUOTE_FLAGS: Final = 0xF


@dataclass(frozen=True, slots=True)
class SaveHashKey:
    """Keep these 52 to 64 opaque bytes for me."""

    data: bytes


@dataclass(frozen=True, slots=True)
class LoadHashKey:
    """Give me the bytes that I saved last."""


@dataclass(frozen=True, slots=True)
class GetBootHash:
    """Tell me the hash of the label that I run under."""


@dataclass(frozen=True, slots=True)
class QuoteRequest:
    """Have the chip sign its selected PCRs, my nonce and the flagged hashes."""

    nonce: bytes
    selection: PcrSelection
    flags: QuoteFlag


@dataclass(frozen=True, slots=True)
class PassRandom:
    """TPM_GetRandom of the chip."""

    count: int


@dataclass(frozen=True, slots=True)
class PassPcrRead:
    """TPM_PCRRead of the chip."""

    index: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is not served: the answer's tag and status."""

    tag: int
    status: int

    def encode(self) -> bytes:
        """The ten bytes of the answer."""
        return _HEADER.pack(self.tag, HEADER_SIZE, self.status)


Request = SaveHashKey | LoadHashKey | GetBootHash | QuoteRequest | PassRandom | PassPcrRead


@structure("GET_QUOTE", ref="Xen vtpmmgr, ordinal 4")
class _QuoteBody(Struct):
    nonce: Nonce
    selection: PcrSelection
    flags: U32


def decode_request(frame: bytes) -> Request | Refusal:
    """What a frame asks for, or the answer that refuses it; never an exception."""
    if len(frame) < HEADER_SIZE:
        return Refusal(Tag.RSP_COMMAND, Rc.BAD_PARAMETER)
    tag, size, ordinal = _HEADER.unpack_from(frame)
    body = frame[HEADER_SIZE:]
    if size != len(frame):
        return _refuse(tag, Rc.BAD_PARAMETER)
    if tag == VtpmTag.REQ:
        found = _decode_vtpm_command(ordinal, body)
    elif tag in (Tag.RQU_COMMAND, Tag.RQU_AUTH1, Tag.RQU_AUTH2):
        found = _decode_passed_command(ordinal, body)
    else:
        # Management is for administrators, and no vTPM is one.
        found = Rc.AUTHFAIL if tag == VtpmTag.REQ2 else Rc.BADTAG
    return _refuse(tag, found) if isinstance(found, Rc) else found


def _decode_vtpm_command(ordinal: int, body: bytes) -> Request | Rc:
    match ordinal:
        case Ordinal.SAVE_HASH_KEY if MIN_HASH_KEY <= len(body) <= MAX_HASH_KEY:
            return SaveHashKey(body)
        case Ordinal.LOAD_HASH_KEY if not body:
            return LoadHashKey()
        case Ordinal.GET_BOOT_HASH if not body:
            return GetBootHash()
        case Ordinal.GET_QUOTE:
            return _decode_quote(body)
        case Ordinal.SAVE_HASH_KEY | Ordinal.LOAD_HASH_KEY | Ordinal.GET_BOOT_HASH:
            return Rc.BAD_PARAMETER
        case _:
            return Rc.BAD_ORDINAL


def _decode_quote(body: bytes) -> QuoteRequest | Rc:
    try:
        asked = _QuoteBody.decode(body)
    except WireError:
        return Rc.BAD_PARAMETER
    if asked.flags & ~_ALL_QUOTE_FLAGS:
        return Rc.CLEAR_DISABLED  # the reference's answer: status 5
    indices = asked.selection.indices
    if any(index >= NUM_PCRS for index in indices):
        return Rc.INVALID_PCR_INFO
    # One form of each selection, so that both sides compute the same composite from it.
    return QuoteRequest(asked.nonce, PcrSelection.of(indices), QuoteFlag(asked.flags))


def _decode_passed_command(ordinal: int, body: bytes) -> Request | Rc:
    try:
        match ordinal:
            case GetRandom.command.ordinal:
                return PassRandom(GetRandom.decode(body).bytes_requested)
            case PcrRead.command.ordinal:
                return PassPcrRead(PcrRead.decode(body).pcr_index)
    except WireError:
        return Rc.BAD_PARAMETER
    return Rc.DISABLED_CMD


def _refuse(tag: int, status: int) -> Refusal:
    return Refusal((tag + _REFUSED) & 0xFFFF, status)


def refusal_of(request: Request, status: int) -> Refusal:
    """The answer to a well-formed request that failed."""
    passed = isinstance(request, PassRandom | PassPcrRead)
    return _refuse(Tag.RQU_COMMAND if passed else VtpmTag.REQ, status)


def encode_request(request: Request) -> bytes:
    """The frame of a request.

    Raises:
        UsageError: its values do not fit.
    """
    match request:
        case SaveHashKey(data):
            if not MIN_HASH_KEY <= len(data) <= MAX_HASH_KEY:
                raise UsageError(
                    f"SAVEHASHKEY takes {MIN_HASH_KEY} to {MAX_HASH_KEY} bytes, not {len(data)}"
                )
            return _frame(VtpmTag.REQ, Ordinal.SAVE_HASH_KEY, data)
        case LoadHashKey():
            return _frame(VtpmTag.REQ, Ordinal.LOAD_HASH_KEY, b"")
        case GetBootHash():
            return _frame(VtpmTag.REQ, Ordinal.GET_BOOT_HASH, b"")
        case QuoteRequest(nonce, selection, flags):
            body = _QuoteBody(nonce, selection, flags).encode()
            return _frame(VtpmTag.REQ, Ordinal.GET_QUOTE, body)
        case PassRandom(count):
            return build_request(GetRandom.command.ordinal, GetRandom(count).encode())
        case PassPcrRead(index):
            return build_request(PcrRead.command.ordinal, PcrRead(index).encode())


def encode_reply(body: bytes = b"") -> bytes:
    """The answer to a handled command with tag REQ."""
    return _frame(VtpmTag.RSP, Rc.SUCCESS, body)


def encode_hash_key(data: bytes) -> bytes:
    """LOADHASHKEY's answer to what SAVEHASHKEY was given: 64 bytes if any behind the 52nd is not
    zero, else 52."""
    padded = data.ljust(MAX_HASH_KEY, b"\0")
    return encode_reply(padded if any(padded[MIN_HASH_KEY:]) else padded[:MIN_HASH_KEY])


def _frame(tag: int, code: int, body: bytes) -> bytes:
    return _HEADER.pack(tag, HEADER_SIZE + len(body), code) + body


@dataclass(frozen=True, slots=True)
class ManagerQuote:
    """The chip's signature, the hashes that it covers, and the chip's PCRs.

    `vstack.vtpmmgr.evidence` checks it; `flags` tells which hashes `hashes` holds, in bit order.
    """

    nonce: bytes
    flags: QuoteFlag
    signature: bytes
    hashes: tuple[bytes, ...]
    pcrs: Mapping[int, bytes]

    @classmethod
    def decode(cls, asked: QuoteRequest, body: bytes) -> ManagerQuote:
        """The body of GET_QUOTE's answer.

        Raises:
            ProtocolError: it has not the size that the request asks for.
        """
        count = asked.flags.bit_count()
        indices = asked.selection.indices
        if len(body) != SIGNATURE_SIZE + DIGEST_SIZE * (count + len(indices)):
            raise ProtocolError(f"GET_QUOTE: an answer of {len(body)} bytes fits not the request")
        digests = [
            body[at : at + DIGEST_SIZE] for at in range(SIGNATURE_SIZE, len(body), DIGEST_SIZE)
        ]
        return cls(
            asked.nonce,
            asked.flags,
            body[:SIGNATURE_SIZE],
            tuple(digests[:count]),
            dict(zip(indices, digests[count:], strict=True)),
        )

    def encode(self) -> bytes:
        """The answer's body."""
        values = (self.pcrs[index] for index in sorted(self.pcrs))
        return self.signature + b"".join(self.hashes) + b"".join(values)


class ManagerClient:
    """The vTPM's side: typed commands over a way to the manager, frames in, frames out.

    All methods raise, besides what `execute` raises:
        Refused: the manager does not serve this vTPM now (its label, its group, a second opener).
        StateError: the manager cannot read or write what it keeps; it has changed nothing.
        TpmError: the chip refused.
        ProtocolError: the answer is malformed.
    """

    def __init__(self, execute: Callable[[bytes], bytes]) -> None:
        self._execute = execute

    def save_hash_key(self, data: bytes) -> None:
        """Have the manager durably keep 52 to 64 bytes; they are on its disk when this returns."""
        self._ask(SaveHashKey(data), "SAVEHASHKEY")

    def load_hash_key(self) -> bytes | None:
        """The bytes last saved, 52 or 64; None only if the manager knows no such vTPM."""
        status, body = self._exchange(LoadHashKey(), "LOADHASHKEY")
        if status == Rc.BAD_PARAMETER:
            return None
        self._check(status, "LOADHASHKEY")
        if len(body) not in (MIN_HASH_KEY, MAX_HASH_KEY):
            raise ProtocolError(f"LOADHASHKEY: the manager answered {len(body)} bytes")
        return body

    def boot_hash(self) -> bytes:
        """The 20-byte hash of the label that this vTPM runs under, zeros if it has none."""
        body = self._ask(GetBootHash(), "GET_BOOT_HASH")
        if len(body) != DIGEST_SIZE:
            raise ProtocolError(f"GET_BOOT_HASH: the manager answered {len(body)} bytes")
        return body

    def get_quote(
        self,
        nonce: bytes,
        pcrs: Iterable[int] = range(16),
        flags: QuoteFlag = QuoteFlag.VTPM_UUID,
    ) -> ManagerQuote:
        """The chip's quote over these of its PCRs, a nonce of 20 bytes and the flagged hashes."""
        indices = frozenset(pcrs)
        if len(nonce) != DIGEST_SIZE or not indices <= frozenset(range(NUM_PCRS)):
            raise UsageError(
                f"GET_QUOTE takes a nonce of {DIGEST_SIZE} bytes and PCRs 0 to {NUM_PCRS - 1}"
            )
        asked = QuoteRequest(nonce, PcrSelection.of(indices), flags)
        return ManagerQuote.decode(asked, self._ask(asked, "GET_QUOTE"))

    def random(self, count: int) -> bytes:
        """`count` bytes of the chip's random generator."""
        data = b""
        while len(data) < count:
            asked = PassRandom(count - len(data))
            piece = GetRandomReply.decode(self._passed(asked, "TPM_GetRandom")).random_bytes
            if not 0 < len(piece) <= asked.count:
                raise ProtocolError(f"TPM_GetRandom: {len(piece)} bytes for {asked.count}")
            data += piece
        return data

    def pcr_read(self, index: int) -> bytes:
        """One of the chip's PCRs, 20 bytes."""
        return PcrReadReply.decode(self._passed(PassPcrRead(index), "TPM_PCRRead")).out_digest

    def _passed(self, request: Request, name: str) -> bytes:
        answer = parse_response(self._execute(encode_request(request)))
        if answer.rc:
            raise rc.error(answer.rc, name, "the manager's chip")
        return answer.body

    def _ask(self, request: Request, name: str) -> bytes:
        status, body = self._exchange(request, name)
        self._check(status, name)
        return body

    def _exchange(self, request: Request, name: str) -> tuple[int, bytes]:
        frame = self._execute(encode_request(request))
        if len(frame) < HEADER_SIZE:
            raise ProtocolError(f"{name}: the manager answered {len(frame)} bytes")
        tag, size, status = _HEADER.unpack_from(frame)
        if tag != VtpmTag.RSP or size != len(frame) or (status and size != HEADER_SIZE):
            raise ProtocolError(f"{name}: the manager answered no valid frame")
        return status, frame[HEADER_SIZE:]

    @staticmethod
    def _check(status: int, name: str) -> None:
        if status:
            raise _error_of(status, name)


def _error_of(status: int, name: str) -> HwtpmError:
    """The exception for a status other than success; each meaning has its own class."""
    code, meaning, _ = rc.describe(status)
    answer = f"{name}: the manager answered {code} ({status})"
    match status:
        case Rc.FAIL:
            return StateError(
                f"{answer}: it cannot read or write its store",
                hint="its log says what is wrong; nothing has been changed",
            )
        case Rc.DISABLED:
            return Refused(
                f"{answer}: this vTPM is in use already, or its label is not approved",
                hint="stop the other one, or have its label approved",
            )
        case Rc.AUTHFAIL:
            return Refused(
                f"{answer}: the vTPM's group is closed, or the key's authorisation is wrong",
                hint="boot the host into a state that the group approves",
            )
        case Rc.BAD_ORDINAL | Rc.DISABLED_CMD:
            return Unsupported(f"{answer}: it does not serve this command")
        case Rc.BAD_PARAMETER:
            return UsageError(f"{answer}: {meaning}, or it knows no such vTPM")
    return rc.error(status, name, "the manager's chip")
