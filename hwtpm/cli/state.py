"""`hwtpm state`: a TPM at rest, and its way from swtpm to our engine and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from cyclopts import App, Parameter

from hwtpm.cli.program import Job
from hwtpm.cli.render import Answer, Origin, Table
from hwtpm.errors import AccessDenied, HwtpmError, StateError, UsageError
from hwtpm.softtpm.base import StateName
from hwtpm.softtpm.storage import FileStorage

if TYPE_CHECKING:
    from hwtpm.softtpm.engine.state import Permanent
    from hwtpm.softtpm.migration import FileKey

__all__ = ["STATE"]

STATE: Final = App(
    name="state", help="TPM state at rest: show it, move a TPM from swtpm and back to it."
)
_OFF: Final = Parameter(negative=())
_MOST_KEY_BYTES: Final = 4096


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class SwtpmKey:
    """How swtpm's files are encrypted, as swtpm's --key has it; left out: they are not."""

    key_file: Path | None = None
    """File with the key: 16 or 32 bytes, or as many in hexadecimal (swtpm's file=)."""

    passphrase_file: Path | None = None
    """File with a passphrase, of which a key is made (swtpm's pwdfile=)."""

    kdf: Literal["pbkdf2", "sha512"] = "pbkdf2"
    """How the passphrase becomes a key (swtpm's kdf=)."""

    bits: Literal[128, 256] = 128
    """Size of the passphrase's key: 128 for swtpm's mode=aes-cbc, 256 for mode=aes-256-cbc."""

    json: Annotated[bool, _OFF] = False
    """Print versioned JSON instead of text, errors included."""


_PLAIN: Final = SwtpmKey()


@STATE.command
def show(directory: Path, /, *, common: SwtpmKey = _PLAIN) -> Job:
    """Show what a TPM that is not running holds, without its secrets; changes nothing.

    Parameters
    ----------
    directory
        State directory of our engine or of swtpm.
    """

    def work(_origin: Origin) -> Answer:
        from hwtpm.softtpm.migration import read_engine, read_swtpm, state_files

        _must_exist(directory)
        if not state_files(directory):
            raise StateError(
                f"there is no TPM in {directory}, neither one of our engine nor one of swtpm",
                hint="name the directory of sim:DIRECTORY, or swtpm's --tpmstate dir=",
            )
        with _about(directory):
            if (directory / StateName.PERMANENT).exists():
                with FileStorage(directory) as storage:
                    return _summary(read_engine(storage))
            return _summary(read_swtpm(directory, _file_key(common), forget_volatile=True))

    return _job(common, work)


@STATE.command(name="import")
def import_(
    swtpm: Path,
    directory: Path,
    /,
    *,
    forget_suspended: Annotated[bool, _OFF] = False,
    common: SwtpmKey = _PLAIN,
) -> Job:
    """Take a TPM over from swtpm, keys and all. From then on only one of the two may run.

    Parameters
    ----------
    swtpm
        swtpm's state directory; nothing in it is changed.
    directory
        State directory of our engine to make; must hold no TPM.
    forget_suspended
        Go on though the guest is suspended or saved: it has to be booted, it cannot be resumed.
    """

    def work(_origin: Origin) -> Answer:
        from hwtpm.softtpm.migration import check_unused, import_swtpm, read_swtpm

        key = _file_key(common)
        with _about(swtpm):
            permanent = read_swtpm(swtpm, key, forget_volatile=forget_suspended)
        check_unused(directory)
        with FileStorage(directory) as storage:
            import_swtpm(permanent, storage)
        return _summary(permanent)

    return _job(common, work)


@STATE.command
def export(
    directory: Path,
    swtpm: Path,
    /,
    *,
    forget_suspended: Annotated[bool, _OFF] = False,
    common: SwtpmKey = _PLAIN,
) -> Job:
    """Hand a TPM to swtpm, keys and all. From then on only one of the two may run.

    Parameters
    ----------
    directory
        State directory of our engine; nothing in it is changed.
    swtpm
        State directory of swtpm to make; must hold no TPM.
    forget_suspended
        Go on though the guest is suspended: it has to be booted, it cannot be resumed.
    """

    def work(_origin: Origin) -> Answer:
        from hwtpm.softtpm.migration import export_swtpm, read_engine

        key = _file_key(common)
        _must_exist(directory)
        with _about(directory, swtpm), FileStorage(directory) as storage:
            export_swtpm(storage, swtpm, key, forget_saved=forget_suspended)
            return _summary(read_engine(storage))

    return _job(common, work)


def _job(common: SwtpmKey, work: Callable[[Origin], Answer]) -> Job:
    return Job("hwtpm.state/1", work, as_json=common.json)


def _must_exist(directory: Path) -> None:
    # Opening a storage makes its directory, which is not what reading one should do.
    if not directory.is_dir():
        raise StateError(f"there is no directory {directory}", hint="name one that holds a TPM")


@contextmanager
def _about(directory: Path, *others: Path) -> Iterator[None]:
    """Errors that name none of the directories are about the first."""
    try:
        yield
    except HwtpmError as error:
        if not any(str(path) in error.message for path in (directory, *others)):
            error.message = f"{directory}: {error.message}"
        raise


def _file_key(common: SwtpmKey) -> FileKey | None:
    from hwtpm.softtpm.migration import Kdf, key_from_file, key_from_passphrase

    if common.key_file is not None and common.passphrase_file is not None:
        raise UsageError("a key and a passphrase exclude each other", hint="leave one of them out")
    if common.key_file is not None:
        return key_from_file(_secret_file(common.key_file))
    if common.passphrase_file is not None:
        passphrase = _secret_file(common.passphrase_file)
        return key_from_passphrase(passphrase, Kdf(common.kdf), common.bits)
    return None


def _secret_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_KEY_BYTES + 1)
    except OSError as error:
        raise AccessDenied(
            f"cannot read {path}: {error.strerror}", hint="name a file that you may read"
        ) from error
    if len(content) > _MOST_KEY_BYTES:
        raise UsageError(f"{path} is too long for a key or passphrase", hint="name the right file")
    return content


def _summary(permanent: Permanent) -> Answer:
    from hwtpm.softtpm.migration import describe

    what = describe(permanent)
    rows = [
        ("owner", "yes" if what.owned else "none"),
        ("endorsement key", _hex(what.endorsement_key)),
        ("storage root key", _hex(what.storage_root_key)),
        ("owner-evict keys", ", ".join(f"{handle:08x}" for handle in what.owner_evict_keys)),
        ("families", str(what.families)),
        ("delegations", str(what.delegations)),
        ("audited commands", str(what.audited)),
        ("failed authorisations", str(what.failed_authorisations)),
    ]
    areas = [(f"{a.index:08x}", str(a.size), f"{a.permissions:08x}") for a in what.nv_areas]
    counts = [(str(c.handle), repr(c.label)[2:-1], str(c.value)) for c in what.counters]
    flags = [(f.name, "yes" if getattr(what.flags, f.name) else "no") for f in fields(what.flags)]
    tables = (
        Table([(name, text or "none") for name, text in rows]),
        Table(areas, ("NV area", "bytes", "permissions")),
        Table(counts, ("counter", "label", "value")),
        Table(flags, ("permanent flag", "set")),
    )
    return Answer(what, tuple(table for table in tables if table.rows))


def _hex(digest: bytes | None) -> str:
    return "" if digest is None else digest.hex()
