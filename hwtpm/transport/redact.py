"""Frames as hex text with the fields masked that are declared secret.

What has no declaration, or does not decode by it, is masked whole: a trace must not be the place
where a secret appears first.
"""

from __future__ import annotations

from typing import Final

from hwtpm.tpm12.commands import TABLE
from hwtpm.tpm12.const import Tag
from hwtpm.tpm12.frame import (
    AUTH_REQUEST_SIZE,
    AUTH_RESPONSE_SIZE,
    HEADER_SIZE,
    ordinal_of,
)
from hwtpm.wire import Codec, Nested, SizedNested, Struct, WireError

__all__ = ["command_text", "response_text"]

_MASK: Final = "xx"
_REQUEST_TAGS: Final = (Tag.RQU_COMMAND, Tag.RQU_AUTH1, Tag.RQU_AUTH2)
_RESPONSE_TAGS: Final = (Tag.RSP_COMMAND, Tag.RSP_AUTH1, Tag.RSP_AUTH2)


def command_text(command: bytes) -> str:
    """The command in spaced hex, secrets as `xx`."""
    row = TABLE.get(ordinal_of(command))
    body = row.request if row else None
    return _text(command, body, _REQUEST_TAGS, AUTH_REQUEST_SIZE)


def response_text(command: bytes, response: bytes) -> str:
    """The response to `command` in spaced hex, secrets as `xx`."""
    row = TABLE.get(ordinal_of(command))
    body = row.reply if row else None
    return _text(response, body, _RESPONSE_TAGS, AUTH_RESPONSE_SIZE)


def _text(frame: bytes, body: type[Struct] | None, tags: tuple[Tag, ...], auth_size: int) -> str:
    tag = int.from_bytes(frame[:2], "big")
    tails = tags.index(Tag(tag)) if tag in tags else 0
    end = len(frame) - tails * auth_size
    secret = _secrets_of(frame, body, end)
    return " ".join(
        _MASK if any(at in span for span in secret) else f"{byte:02x}"
        for at, byte in enumerate(frame)
    )


def _secrets_of(frame: bytes, body: type[Struct] | None, end: int) -> list[range]:
    whole = [range(HEADER_SIZE, len(frame))]
    if end <= HEADER_SIZE:
        return []
    if body is None:
        return whole
    try:
        spans, at = _spans(body, frame, HEADER_SIZE, end)
    except WireError:
        return whole
    return spans if at == end else whole


def _spans(of: type[Struct], data: bytes, at: int, end: int) -> tuple[list[range], int]:
    """Where in `data` the secret fields of a structure at `at` lie, and the offset behind it."""
    spans: list[range] = []
    at += len(of.layout.head)
    for codec in of.layout.codecs.values():
        _, behind = codec.read(data, at, end)
        if getattr(codec, "secret", False):
            spans.append(range(at, behind))
        else:
            spans += _spans_within(codec, data, at, behind)
        at = behind
    return spans, at


def _spans_within(codec: Codec, data: bytes, at: int, behind: int) -> list[range]:
    """The secret fields of a nested structure; none in other fields."""
    if isinstance(codec, SizedNested):
        at += 4
    if isinstance(codec, Nested) and at < behind:
        return _spans(codec.of, data, at, behind)[0]
    return []
