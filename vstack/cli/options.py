"""Options that all commands of `vstack` share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from hwtpm.cli.render import Origin
from hwtpm.errors import UsageError
from hwtpm.transport.base import Attached
from vstack.host import daemon
from vstack.host.layout import Layout
from vstack.ipc.rpc import Client, Json

__all__ = ["DEFAULT", "Common", "note_chip"]


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """Options of all commands."""

    state: Annotated[Path | None, Parameter(env_var="VSTACK_STATE")] = None
    """State directory; /var/lib/vstack for root, else in your home."""

    run: Annotated[Path | None, Parameter(env_var="VSTACK_RUN")] = None
    """Run directory with the sockets; /run/vstack for root, else in your runtime directory, or in
    the state directory if you have none."""

    json: Annotated[bool, Parameter(negative=())] = False
    """Print versioned JSON instead of text, errors included."""

    @property
    def layout(self) -> Layout:
        """The stack that these options name."""
        state, run = self.state, self.run
        if os.geteuid() == 0:
            state, run = state or Path("/var/lib/vstack"), run or Path("/run/vstack")
        else:
            from platformdirs import user_state_path

            runtime = os.environ.get("XDG_RUNTIME_DIR")
            state = state or user_state_path("vstack")
            run = run or (Path(runtime) / "vstack" if runtime else state / "run")
        return Layout(state.absolute(), run.absolute())

    def connect(self) -> Client:
        """A connection to the stack that runs there.

        Raises:
            DeviceNotFound: none does.
            UsageError: it works on another state directory than the one that was named.
        """
        client = daemon.control(self.layout)
        state = client.call("where").get("state")
        if self.state is not None and state != str(self.layout.state):
            client.close()
            raise UsageError(
                f"the stack at {self.layout.run} works on {state}, not on {self.layout.state}",
                hint="name the run directory of the stack that you mean",
            )
        return client


DEFAULT: Final = Common()


def note_chip(origin: Origin, status: Json) -> None:
    """Say in the output which chip the stack stands on."""
    manager = status.get("manager")
    chip = manager.get("chip") if isinstance(manager, dict) else None
    if isinstance(chip, dict):
        origin.address = str(chip.get("address"))
        origin.attached = Attached(
            origin.address,
            str(chip.get("kind")),
            chip.get("real_hardware") is True,
            str(chip.get("description")),
        )
