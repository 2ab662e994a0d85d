"""Results and errors as text for people or as versioned JSON for programs.

stdout gets data (in JSON mode errors too, so that a program reads one stream), stderr the rest.
Both programs of this project render with this module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import TextIO, TypeAlias
from uuid import UUID

from hwtpm.cli.exitcodes import exit_code_of
from hwtpm.errors import HwtpmError
from hwtpm.transport.base import Attached

__all__ = ["Answer", "Block", "Json", "Origin", "Output", "Table", "describe_origin", "to_json"]

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text; without headers it is a list of names and values."""

    rows: Sequence[Sequence[str]]
    headers: Sequence[str] = ()
    title: str = ""


Block: TypeAlias = Table | str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command has to say: `data` (a dataclass) for programs, `text` for people.

    `raw` replaces the text byte for byte: output to be piped on, that nothing may be added to.
    `schema` names the form of the data where it depends on what the TPM is.
    """

    data: object
    text: Sequence[Block] = ()
    raw: bytes | None = None
    schema: str | None = None


@dataclass(slots=True)
class Origin:
    """What a command runs on; filled in step by step, so that an error can say how far it came."""

    address: str | None = None
    attached: Attached | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """Where and how a program speaks. `schema` names the form of the data and its version."""

    program: str
    schema: str
    as_json: bool
    stdout: TextIO
    stderr: TextIO

    def answer(self, answer: Answer, origin: Origin) -> None:
        """Print a result, always with what it ran on."""
        if self.as_json:
            self._print_json({"ok": True, "data": to_json(answer.data)}, origin, answer.schema)
        elif answer.raw is not None:
            for line in _origin_lines(origin):
                print(line, file=self.stderr)
            self.stdout.flush()
            self.stdout.buffer.write(answer.raw)
            self.stdout.buffer.flush()
        else:
            self._print_text((*_origin_lines(origin), *answer.text))

    def failure(self, error: BaseException, origin: Origin) -> int:
        """Print an error; returns the exit code that goes with it."""
        code = exit_code_of(error)
        if self.as_json:
            self._print_json({"ok": False, "error": _error_json(error, code)}, origin)
        else:
            message, _, hint = _explain(error)
            hint_line = f"\n  next: {hint}" if hint else ""
            print(f"{self.program}: {message}{hint_line}", file=self.stderr)
        return code

    def _print_json(self, body: dict[str, Json], origin: Origin, schema: str | None = None) -> None:
        attached = origin.attached
        envelope: dict[str, Json] = {
            "schema": schema or self.schema,
            "on": origin.address,
            "backend": attached.backend if attached else None,
            "real_hardware": attached.real_hardware if attached else False,
        }
        indent = 2 if self.stdout.isatty() else None
        print(json.dumps(envelope | body, indent=indent), file=self.stdout)

    def _print_text(self, blocks: Sequence[Block]) -> None:
        if self.stdout.isatty():
            _print_rich(blocks, self.stdout)
            return
        for block in blocks:
            print(_plain_table(block) if isinstance(block, Table) else block, file=self.stdout)


def describe_origin(attached: Attached) -> str:
    """One line on what a result ran on, and whether that is a real chip."""
    kind = "real hardware" if attached.real_hardware else "not real hardware"
    return f"on {attached.address} ({attached.detail}; {kind})"


def _origin_lines(origin: Origin) -> tuple[str, ...]:
    return () if origin.attached is None else (describe_origin(origin.attached),)


def to_json(value: object) -> Json:
    """A value as JSON: dataclasses as objects, bytes as hex, enumerations by name.

    Raises:
        TypeError: the value has no place in an output; a `Secret` has none.
    """
    match value:
        case Enum():
            return value.name
        case None | bool() | int() | float() | str():
            return value
        case bytes():
            return value.hex()
        case UUID():
            return str(value)
        case Mapping():
            return {str(key): to_json(item) for key, item in value.items()}
        case list() | tuple():
            return [to_json(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    raise TypeError(f"{type(value).__name__} cannot be put out")


def _error_json(error: BaseException, code: int) -> dict[str, Json]:
    if isinstance(error, HwtpmError):
        return {**error.describe(), "exit": code}
    message, kind, hint = _explain(error)
    return {"kind": kind, "message": message, "hint": hint, "exit": code}


def _explain(error: BaseException) -> tuple[str, str, str]:
    """Message, kind and hint."""
    if isinstance(error, HwtpmError):
        return error.message, error.kind, error.hint
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "interrupted", ""
    return (
        f"internal error: {type(error).__name__}: {error}",
        "internal",
        "report it with the traceback above and what you did",
    )


def _plain_table(table: Table) -> str:
    rows = [table.headers, *table.rows] if table.headers else table.rows
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([table.title, *lines] if table.title else lines)


def _print_rich(blocks: Sequence[Block], stdout: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(file=stdout, highlight=False, markup=False, soft_wrap=True)
    for block in blocks:
        if isinstance(block, str):
            console.print(Text(block))
            continue
        rich = RichTable(
            box=None, pad_edge=False, show_header=bool(block.headers), title_justify="left"
        )
        rich.title = Text(block.title, style="bold") if block.title else None
        columns = block.headers or [""] * max((len(row) for row in block.rows), default=0)
        for at, name in enumerate(columns):
            rich.add_column(Text(name), style="bold" if at == 0 else None, overflow="fold")
        for row in block.rows:
            rich.add_row(*(Text(cell) for cell in row))
        console.print(rich)
