"""Boards: a TOML file each, with a TPM's wires, what chip it is, and what may be done to it."""

from __future__ import annotations

from hwtpm.boards.file import Board, read_board
from hwtpm.boards.shelf import boards, find_board, search_path

__all__ = ["Board", "boards", "find_board", "read_board", "search_path"]
