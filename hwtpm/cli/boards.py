"""`hwtpm boards` and `hwtpm list`: what boards are declared, and what is plugged in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import App, Parameter

from hwtpm.cli.program import Job
from hwtpm.cli.render import Answer, Block, Origin, Table
from hwtpm.errors import DeviceNotFound, HwtpmError, UsageError

if TYPE_CHECKING:
    from hwtpm.boards import Board

__all__ = ["BOARDS", "list_devices"]

BOARDS: Final = App(name="boards", help="Boards' files: which there are, what one declares.")

Flag = Annotated[bool, Parameter(negative=())]


@dataclass(frozen=True, slots=True)
class BoardLine:
    """One board in a list; a file that is wrong has `problem` and else only its name."""

    name: str
    path: str
    summary: str = ""
    bus: str = ""
    chip: str = ""
    simulated: bool = False
    verified: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Boards:
    """All boards, and the directory of the user's own ones."""

    own: str
    boards: tuple[BoardLine, ...]


@BOARDS.command(name="list")
def list_boards(*, json: Flag = False) -> Job:
    """List all boards; your own hide this project's of the same name.

    Parameters
    ----------
    json
        Print versioned JSON instead of text, errors included.
    """

    def work(_origin: Origin) -> Answer:
        from hwtpm.boards.shelf import board_files, search_path

        lines = tuple(_line(name, path) for name, path in board_files().items())
        own = str(search_path()[0])
        rows = [
            (f"board:{line.name}", line.bus, line.chip, line.problem or line.summary)
            for line in lines
        ]
        verified = sum(line.verified for line in lines)
        note = (
            f"{verified} of {len(lines)} have been verified on hardware by this project; "
            f"your own belong into {own}"
        )
        return Answer(Boards(own, lines), (Table(rows, ("address", "bus", "chip", "board")), note))

    return Job("hwtpm.boards/1", work, as_json=json)


@BOARDS.command
def show(name: str, /, *, json: Flag = False) -> Job:
    """Show what a board's file declares.

    Parameters
    ----------
    name
        The board's name, as `hwtpm boards list` has it.
    json
        Print versioned JSON instead of text, errors included.
    """

    def work(_origin: Origin) -> Answer:
        from hwtpm.boards import find_board

        return _shown(find_board(name))

    return Job("hwtpm.board/1", work, as_json=json)


@BOARDS.command
def check(*files: Path, json: Flag = False) -> Job:
    """Check files of boards, without touching any hardware; without files all that there are.

    Parameters
    ----------
    files
        TOML files.
    json
        Print versioned JSON instead of text, errors included.
    """

    def work(_origin: Origin) -> Answer:
        from hwtpm.boards import read_board
        from hwtpm.boards.shelf import board_files

        checked = files or tuple(board_files().values())
        problems = []
        for path in checked:
            try:
                read_board(path)
            except HwtpmError as error:
                problems.append(error)
        if problems:
            raise UsageError(
                "\n".join(problem.message for problem in problems), hint=problems[0].hint
            )
        return Answer({"checked": [str(path) for path in checked]}, (f"{len(checked)} are right",))

    return Job("hwtpm.boards-check/1", work, as_json=json)


@dataclass(frozen=True, slots=True)
class Device:
    """Something that a TPM may be behind. `address` is for --on; `real_hardware` is always true:
    simulations are not found, they are named."""

    address: str
    what: str
    chip: str = ""
    problem: str = ""
    real_hardware: bool = True


@dataclass(frozen=True, slots=True)
class Devices:
    """What was found, and what could not be looked for."""

    devices: tuple[Device, ...]
    not_looked: tuple[str, ...]


def list_devices(*, probe: Flag = False, json: Flag = False) -> Job:
    """List the kernel's TPMs, spidev devices and FTDI adapters, with the address to paste.

    Parameters
    ----------
    probe
        Also ask each SPI bus which TPM is on it, at 10 MHz with chip select on xDBUS3 or the
        device's own. That drives its pins: leave it out where something else than a TPM is wired.
    json
        Print versioned JSON instead of text, errors included.
    """

    def work(_origin: Origin) -> Answer:
        from hwtpm.boards.attached import attached

        found, not_looked = attached()
        devices = tuple(
            Device(address, what, *(_probed(address) if probe and spi else ("", "")))
            for address, what, spi in found
        )
        text: list[Block] = []
        if devices:
            rows = [(each.address, each.chip or each.problem or "", each.what) for each in devices]
            text.append(Table(rows, ("address", "chip", "what")))
        else:
            text.append("nothing is attached that a TPM could be behind")
        text += [f"not looked for: {reason}" for reason in not_looked]
        return Answer(Devices(devices, tuple(not_looked)), tuple(text))

    return Job("hwtpm.list/1", work, as_json=json)


def _probed(address: str) -> tuple[str, str]:
    """The chip at an address, or why there is none."""
    from hwtpm.transport.spi import identify

    try:
        return identify(address), ""
    except DeviceNotFound as error:
        return "", f"none: {error.message}"
    except HwtpmError as error:
        return "", error.message


def _line(name: str, path: Path) -> BoardLine:
    from hwtpm.boards import read_board

    try:
        board = read_board(path)
    except HwtpmError as error:
        return BoardLine(name, str(path), problem=error.message)
    return BoardLine(
        name,
        str(path),
        board.summary,
        board.kind,
        board.chip.describe(),
        board.simulated,
        bool(board.verified),
    )


def _shown(board: Board) -> Answer:
    import msgspec

    plain = msgspec.to_builtins(board)
    rows = [(name, str(value)) for name, value in _flat(plain, "") if value not in ((), "")]
    return Answer(plain, (Table(rows),))


def _flat(value: object, name: str) -> list[tuple[str, object]]:
    """Fields with their whole names, as error messages have them."""
    if isinstance(value, dict):
        prefix = f"{name}." if name else ""
        return [pair for key, item in value.items() for pair in _flat(item, f"{prefix}{key}")]
    if isinstance(value, list | tuple):
        return [(name, item) for item in value]
    return [] if value is None else [(name, value)]
