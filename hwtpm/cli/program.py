"""How a command line becomes a call, and the call an output and an exit code.

A command function returns a `Job`; `run` does it. So whatever ends a job, an answer or any error,
is rendered in one place.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TextIO

from hwtpm.cli.exitcodes import ExitCode
from hwtpm.cli.render import Answer, Origin, Output
from hwtpm.errors import AccessDenied, HwtpmError, UsageError
from hwtpm.transport.trace import LOGGER, TRAFFIC

if TYPE_CHECKING:
    from cyclopts import App

__all__ = ["Job", "perform", "run"]

_LOG: Final = logging.getLogger(__name__)
_JSON_FLAG: Final = "--json"


@dataclass(frozen=True, slots=True)
class Job:
    """What a command line asks for.

    `work` returns its answer, or yields answers that are put out as they come. `trace` is where
    traffic goes: a file, `-` for stderr, None for nowhere.
    """

    schema: str
    work: Callable[[Origin], Answer | Generator[Answer, None, None]]
    as_json: bool = False
    trace: str | None = None


def run(app: App, program: str, arguments: Sequence[str]) -> int:
    """Do what the arguments say; returns the exit code, whatever goes wrong."""
    return perform(program, lambda: _parse(app, arguments), as_json=_JSON_FLAG in arguments)


def perform(program: str, find: Callable[[], Job | None], *, as_json: bool = False) -> int:
    """Do the job that `find` finds, if any; returns the exit code, whatever goes wrong.

    `as_json` is how to say that there is no finding it.
    """
    _open_closed_streams()
    try:
        code = _perform(program, find, as_json)
        with _writing():
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
        return ExitCode.BROKEN_PIPE
    except _StdoutError as error:
        _discard_stdout()
        return Output(program, "", False, sys.stdout, sys.stderr).failure(error, Origin())
    return code


def _perform(program: str, find: Callable[[], Job | None], as_json: bool) -> int:
    output = Output(program, f"{program}/1", as_json, sys.stdout, sys.stderr)
    origin = Origin()
    try:
        with _writing():
            job = find()
        if job is None:
            return ExitCode.OK
        output = Output(program, job.schema, job.as_json, sys.stdout, sys.stderr)
        with _logging(program, sys.stderr), _traffic(job.trace, sys.stderr):
            answers = job.work(origin)
            if isinstance(answers, Answer):
                with _writing():
                    output.answer(answers, origin)
            else:
                with closing(answers):
                    for answer in answers:
                        with _writing():
                            output.answer(answer, origin)
                            sys.stdout.flush()
    except (BrokenPipeError, _StdoutError):
        raise
    except (Exception, KeyboardInterrupt) as error:
        if not isinstance(error, HwtpmError | KeyboardInterrupt):
            traceback.print_exception(error, file=sys.stderr)
        with _writing():
            return output.failure(error, origin)
    return ExitCode.OK


class _StdoutError(AccessDenied):
    """stdout does not take what we have to say, so that goes to stderr, as text."""


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _StdoutError(
            f"cannot write to stdout: {error.strerror}",
            hint="make room where it goes, or send it elsewhere",
        ) from error


def _open_closed_streams() -> None:
    """Streams that our caller has closed, before a file of ours gets their numbers."""
    for number, name, flags in (
        (0, "stdin", os.O_RDONLY),
        (1, "stdout", os.O_RDONLY),  # writing fails: nobody would see it
        (2, "stderr", os.O_WRONLY),
    ):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, flags)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def _discard_stdout() -> None:
    # The interpreter would complain again when it flushes stdout at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parse(app: App, arguments: Sequence[str]) -> Job | None:
    """The job, or None where the command line asked for help or the version, which is printed."""
    from cyclopts.exceptions import CycloptsError

    try:
        command, bound, _ = app.parse_args(list(arguments), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        words = " ".join((app.name[0], *(error.command_chain or ()), "--help"))
        raise UsageError(" ".join(str(error).split()), hint=f"see `{words}`") from error
    try:
        returned = command(*bound.args, **bound.kwargs)
    except SystemExit:  # how rich, which prints the help, says that its reader has gone
        raise BrokenPipeError from None
    return returned if isinstance(returned, Job) else None


@contextmanager
def _logging(program: str, stderr: TextIO) -> Iterator[None]:
    handler = logging.StreamHandler(stderr)
    handler.setFormatter(logging.Formatter(f"{program}: %(levelname)s: %(message)s"))
    handler.setLevel(logging.WARNING)
    with _attached_handler(logging.getLogger(), handler):
        yield


@contextmanager
def _traffic(target: str | None, stderr: TextIO) -> Iterator[None]:
    """Traffic to a file that only its owner can read, or to stderr."""
    if target is None:
        yield
        return
    with _trace_file(target, stderr) as stream:
        handler = _TraceHandler(stream)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger = logging.getLogger(LOGGER)
        level, propagate = logger.level, logger.propagate
        logger.setLevel(TRAFFIC)
        logger.propagate = False
        try:
            with _attached_handler(logger, handler):
                yield
        finally:
            logger.setLevel(level)
            logger.propagate = propagate


class _TraceHandler(logging.StreamHandler[TextIO]):
    """Says once that the trace has holes: a full disk there is no reason to give up the TPM."""

    _said = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        del record
        if not self._said:
            self._said = True
            _LOG.warning("the trace is incomplete: %s", sys.exc_info()[1])


@contextmanager
def _trace_file(target: str, stderr: TextIO) -> Iterator[TextIO]:
    if target == "-":
        yield stderr
        return
    if target.startswith("-"):
        raise UsageError(
            f"the trace has no file: {target} looks like an option",
            hint=f"write --trace FILE, --trace - for stderr, or ./{target}",
        )
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise AccessDenied(
            f"cannot write the trace to {target}: {error.strerror}",
            hint="name a file that you may write, or - for stderr",
        ) from error
    stream = os.fdopen(descriptor, "w", encoding="utf-8")
    try:
        yield stream
    finally:
        with suppress(OSError):  # the handler has said so
            stream.close()


@contextmanager
def _attached_handler(logger: logging.Logger, handler: logging.Handler) -> Iterator[None]:
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
