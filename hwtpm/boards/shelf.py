"""Where boards' files are: the user's own come before those of this project, by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from platformdirs import user_config_path

from hwtpm.boards.file import Board, read_board
from hwtpm.errors import DeviceNotFound, UsageError

__all__ = ["board_files", "boards", "find_board", "search_path"]

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
_HERE: Final = Path(__file__).parent


def search_path() -> tuple[Path, ...]:
    """Directories of boards' files; a name in an earlier one hides the same in a later one."""
    packed = _HERE / "files"  # where a wheel has them
    ours = packed if packed.is_dir() else _HERE.parents[1] / "boards"
    return user_config_path("hwtpm") / "boards", ours


def board_files(among: Sequence[Path] | None = None) -> dict[str, Path]:
    """Name of every board to its file, in the order of names; none is read."""
    found: dict[str, Path] = {}
    for directory in search_path() if among is None else among:
        for path in directory.glob("*.toml"):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def boards(among: Sequence[Path] | None = None) -> dict[str, Board]:
    """All boards by name.

    Raises:
        UsageError: one of them is wrong.
    """
    return {name: read_board(path) for name, path in board_files(among).items()}


def find_board(name: str, among: Sequence[Path] | None = None) -> Board:
    """The board of that name.

    Raises:
        UsageError: no board can have that name, or its file is wrong.
        DeviceNotFound: there is no such board.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name of a board", hint="`hwtpm boards list` shows all names"
        )
    files = board_files(among)
    if name not in files:
        own = search_path()[0] if among is None else among[0]
        raise DeviceNotFound(
            f"there is no board {name}",
            hint=f"`hwtpm boards list` shows all; your own belong into {own}",
        )
    return read_board(files[name])
