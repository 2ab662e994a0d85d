"""The process that is measured: our engine over files, behind the raw socket of a vTPM.

Run as a program it takes the listening socket's descriptor and the state directory, so that a cold
start can be measured: `python -m benchmarks.vtpm FD DIRECTORY`.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from hwtpm.loop import Loop
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.storage import FileStorage
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.const import StartupType
from hwtpm.tpm12.frame import build_request
from hwtpm.transport.serve import FrameServer

__all__ = ["serve"]


def serve(listener: socket.socket, directory: Path) -> None:
    """Be a started vTPM until a signal ends the process."""
    engine = Engine(FileStorage(directory))
    engine.power_on()
    engine.execute(
        build_request(Startup.command.ordinal, Startup(StartupType.CLEAR).encode()), locality=0
    )
    loop = Loop()
    server = FrameServer(loop, listener, engine.execute)
    loop.run()
    del server


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]))
