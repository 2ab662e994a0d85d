"""The program `vstack`: the stack's life and its vTPMs."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated, Final
from uuid import UUID

from cyclopts import App, Parameter

from hwtpm.cli.app import version
from hwtpm.cli.program import Job
from hwtpm.cli.program import run as run_program
from hwtpm.cli.render import Answer, Origin, Table
from hwtpm.errors import AccessDenied, DeviceNotFound, UsageError
from hwtpm.tpm12.types import PubKey
from hwtpm.wire import WireError
from vstack.cli.options import DEFAULT, Common, note_chip
from vstack.host import daemon
from vstack.host.supervisor import Permit
from vstack.ipc.rpc import Json

__all__ = ["APP", "main"]

APP: Final = App(name="vstack", help="Virtual TPMs whose keys a TPM chip holds.", version=version)
_OFF: Final = Parameter(negative=())
_KEY_HINT: Final = "take it from `vstack status --json`, or name a file that holds it"
_PATH_LIMIT: Final = 256  # a TPM_PUBKEY in hexadecimal is longer than any file name

VTPM: Final = App(name="vtpm", help="The virtual TPMs of a running stack.")
APP.command(VTPM)


def _progress(text: str) -> None:
    print(f"vstack: {text}", file=sys.stderr, flush=True)


@APP.command
def up(
    *,
    chip: str | None = None,
    foreground: Annotated[bool, _OFF] = False,
    take_ownership: Annotated[bool, _OFF] = False,
    new_manager: Annotated[bool, _OFF] = False,
    key_pool: Annotated[bool, _OFF] = False,
    common: Common = DEFAULT,
) -> Job:
    """Start the manager and all vTPMs.

    Parameters
    ----------
    chip
        Address of the chip that holds all keys, such as dev:/dev/tpm0 or sim: (a software chip that
        keeps its state in the state directory). Needed the first time; remembered afterwards.
    foreground
        Stay in the foreground, as systemd wants it.
    take_ownership
        Take a real chip that nobody owns into ownership, with the well-known secrets.
    new_manager
        Make a new manager although its store is lost; the vTPMs of the old one stay closed.
    key_pool
        Make RSA keys ahead, so that new vTPMs and their guests' keys need not wait for them. The
        ready keys are kept in memory only. A vTPM's process that was taken over could look at keys
        that another vTPM gets.
    """

    permit = Permit(new_manager=new_manager, take_chip=take_ownership, key_pool=key_pool)

    def work(origin: Origin) -> Answer:
        if foreground:
            daemon.serve(common.layout, chip, _progress, permit=permit)
            return Answer({"ended": True}, ("the stack has ended",))
        status = daemon.start(common.layout, chip, _progress, permit=permit)
        return _status_answer(status, origin)

    return Job("vstack.status/1", work, as_json=common.json)


@APP.command
def status(*, common: Common = DEFAULT) -> Job:
    """Show the chip, the manager and the vTPMs."""

    def work(origin: Origin) -> Answer:
        with common.connect() as client:
            return _status_answer(client.call("status"), origin)

    return Job("vstack.status/1", work, as_json=common.json)


@APP.command
def down(*, common: Common = DEFAULT) -> Job:
    """Stop all vTPMs and the manager. Nothing is lost: all state is on disk already."""

    def work(origin: Origin) -> Answer:
        del origin
        common.connect().close()  # it is the stack that was meant
        daemon.stop(common.layout)
        return Answer({"stopped": True}, ("the stack is down",))

    return Job("vstack.down/1", work, as_json=common.json)


@VTPM.command
def create(name: str, *, engine: str = "engine", common: Common = DEFAULT) -> Job:
    """Make a new virtual TPM and start it.

    Parameters
    ----------
    name
        Its name on this host.
    engine
        Software TPM inside: `engine` (our own), `libtpms` or `swtpm`.
    """

    def work(origin: Origin) -> Answer:
        with common.connect() as client:
            note_chip(origin, client.call("status"))
            shown = client.call("vtpm_create", {"name": name, "engine": engine})
        return Answer(shown, (_vtpm_table(shown),))

    return Job("vstack.vtpm/1", work, as_json=common.json)


@VTPM.command
def start(name: str, *, common: Common = DEFAULT) -> Job:
    """Start a virtual TPM that is down, once what kept it down has been mended.

    Parameters
    ----------
    name
        Its name on this host.
    """

    def work(origin: Origin) -> Answer:
        with common.connect() as client:
            note_chip(origin, client.call("status"))
            shown = client.call("vtpm_start", {"name": name})
        return Answer(shown, (_vtpm_table(shown),))

    return Job("vstack.vtpm/1", work, as_json=common.json)


@VTPM.command(name="list")
def list_vtpms(*, common: Common = DEFAULT) -> Job:
    """List the virtual TPMs."""

    def work(origin: Origin) -> Answer:
        with common.connect() as client:
            status = client.call("status")
        note_chip(origin, status)
        vtpms = _vtpms(status)
        return Answer({"vtpms": vtpms}, (_list_table(vtpms),))

    return Job("vstack.vtpms/1", work, as_json=common.json)


@VTPM.command
def show(name: str, *, common: Common = DEFAULT) -> Job:
    """Show one virtual TPM: its sockets, its process, its endorsement key.

    Parameters
    ----------
    name
        Its name on this host.
    """

    def work(origin: Origin) -> Answer:
        with common.connect() as client:
            note_chip(origin, client.call("status"))
            shown = client.call("vtpm_show", {"name": name})
        return Answer(shown, (_vtpm_table(shown),))

    return Job("vstack.vtpm/1", work, as_json=common.json)


@APP.command
def verify(
    evidence: Path,
    *,
    challenge: str,
    chip_aik: str,
    vtpm: UUID | None = None,
    pcr: Annotated[tuple[int, ...], Parameter(negative=())] = (),
    json: Annotated[bool, _OFF] = False,
) -> Job:
    """Check evidence of a guest against the chip's identity key; needs no TPM and no stack.

    Parameters
    ----------
    evidence
        File with the evidence (vstack.evidence/1).
    challenge
        The 20 bytes that you had asked the host to include, in hexadecimal.
    chip_aik
        The chip's identity key that you trust: TPM_PUBKEY in hexadecimal, as `vstack status --json`
        shows it (manager.groups[].aik), or a file that holds it.
    vtpm
        The uuid of the vTPM that you asked: evidence of another one is refused.
    pcr
        A PCR that has to be quoted; once for each.
    json
        Print versioned JSON instead of text, errors included.
    """

    def work(origin: Origin) -> Answer:
        from vstack.evidence import Evidence
        from vstack.evidence import verify as check

        del origin
        key = _key(chip_aik)
        nonce = _hex(challenge, "challenge", "give the 20 bytes as 40 hexadecimal digits")
        try:
            data = evidence.read_bytes()
        except FileNotFoundError as error:
            raise DeviceNotFound(f"there is no file {evidence}") from error
        except OSError as error:
            raise AccessDenied(f"cannot read {evidence}: {error.strerror}") from error
        verdict = check(Evidence.from_json(data), nonce, key, vtpm_uuid=vtpm, require=pcr)
        values = [(f"PCR {index}", value.hex()) for index, value in verdict.vtpm_pcrs.items()]
        return Answer(verdict, ("the evidence holds:", *verdict.findings, Table(values)))

    return Job("vstack.verdict/1", work, as_json=json)


@APP.command
def demo(
    *,
    chip: str = "sim:",
    engine: str = "engine",
    keep: Path | None = None,
    json: Annotated[bool, _OFF] = False,
) -> Job:
    """Show the main job: a guest boots, measured into a vTPM whose keys a chip holds.

    Parameters
    ----------
    chip
        Address of the chip.
    engine
        Software TPM inside the vTPM: `engine` (our own), `libtpms` or `swtpm`.
    keep
        Directory in which state and evidence stay; else a temporary one is used and removed.
    json
        Print versioned JSON at the end; the steps go to stderr.
    """

    def work(origin: Origin) -> Answer:
        from vstack.demo.run import run

        del origin
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _interrupt)
        out = sys.stderr if json else sys.stdout
        return Answer(run(chip, engine, lambda line: print(line, file=out, flush=True), keep))

    return Job("vstack.demo/1", work, as_json=json)


def _interrupt(number: int, frame: object) -> None:
    """End as Ctrl-C ends it: in order, with nothing left running."""
    del number, frame
    raise KeyboardInterrupt


def _status_answer(status: Json, origin: Origin) -> Answer:
    note_chip(origin, status)
    manager = status.get("manager")
    manager = manager if isinstance(manager, dict) else {}
    problem, restarts = manager.get("problem"), manager.get("restarts")
    said = problem.get("message") if isinstance(problem, dict) else manager.get("manager")
    vtpms = _vtpms(status)
    return Answer(
        status,
        (
            f"manager {said}, {len(vtpms)} vTPM{'' if len(vtpms) == 1 else 's'}"
            + (f", manager restarts: {restarts}" if restarts else ""),
            f"state in {status.get('state')}, sockets in {status.get('run')}",
            *((_list_table(vtpms),) if vtpms else ()),
        ),
    )


def _vtpms(status: Json) -> list[Json]:
    found = status.get("vtpms")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _state_of(vtpm: Json) -> str:
    problem = vtpm.get("problem")
    if isinstance(problem, dict):
        hint = problem.get("hint")
        return f"down: {problem.get('message')}{f' (next: {hint})' if hint else ''}"
    if vtpm.get("running") is not True:
        return "starting"
    return "running, guest attached" if vtpm.get("guest_attached") is True else "running"


def _list_table(vtpms: list[Json]) -> Table:
    columns = ("name", "uuid", "engine", "restarts")
    rows = [(*(str(one.get(key, "-")) for key in columns), _state_of(one)) for one in vtpms]
    return Table(rows, ("vTPM", "uuid", "engine", "restarts", "state"))


def _vtpm_table(vtpm: Json) -> Table:
    rows = [("state", _state_of(vtpm))]
    said = ("problem", "running", "guest_attached")  # by the state
    rows += [(key, str(value)) for key, value in vtpm.items() if key not in said]
    return Table(rows)


def _hex(text: str, what: str, hint: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"the {what} is not hexadecimal", hint=hint) from None


def _key(text: str) -> PubKey:
    if len(text) < _PATH_LIMIT and Path(text).is_file():
        try:
            text = Path(text).read_text(errors="replace").strip()
        except OSError as error:
            raise AccessDenied(f"cannot read {text}: {error.strerror}") from error
    try:
        return PubKey.decode(_hex(text, "chip's key", _KEY_HINT))
    except WireError as error:
        raise UsageError(
            f"the chip's key is no TPM_PUBKEY: {error.message}", hint=_KEY_HINT
        ) from error


def main() -> int:
    """Run `vstack` on the process's arguments; returns its exit code."""
    return run_program(APP, "vstack", sys.argv[1:])
