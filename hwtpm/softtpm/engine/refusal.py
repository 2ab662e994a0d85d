"""How an action says no."""

from __future__ import annotations

from hwtpm.tpm12.rc import Rc

__all__ = ["Refuse"]


class Refuse(Exception):
    """The command is answered with this return code."""

    def __init__(self, rc: Rc) -> None:
        super().__init__(rc)
        self.rc = rc
