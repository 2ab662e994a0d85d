"""`hwtpm state` as its users meet it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from engine_rig import OWNER_AUTH, Identity

from hwtpm.softtpm.base import MemoryStorage
from hwtpm.softtpm.engine.state import Permanent, fresh_permanent
from hwtpm.softtpm.migration import (
    Kdf,
    export_swtpm,
    import_swtpm,
    key_from_passphrase,
    read_engine,
    read_swtpm,
)
from hwtpm.softtpm.storage import FileStorage

PASSPHRASE = b"a passphrase"


@pytest.fixture
def permanent(tpm_identity: Identity) -> Permanent:
    fresh = fresh_permanent(lambda size: b"\x22" * size)
    return replace(fresh, ek=tpm_identity.ek, srk=tpm_identity.srk, owner_auth=OWNER_AUTH)


@pytest.fixture
def swtpm(permanent: Permanent, tmp_path: Path) -> Path:
    """A directory as swtpm leaves it, encrypted."""
    storage, directory = MemoryStorage(), tmp_path / "swtpm"
    import_swtpm(permanent, storage)
    export_swtpm(storage, directory, key_from_passphrase(PASSPHRASE, Kdf.SHA512, 256))
    (tmp_path / "passphrase").write_bytes(PASSPHRASE)
    return directory


def state(*arguments: str | Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "hwtpm.cli", "state", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_tpm_goes_to_our_engine_and_back(
    permanent: Permanent, swtpm: Path, tmp_path: Path
) -> None:
    key = ("--passphrase-file", tmp_path / "passphrase", "--kdf", "sha512", "--bits", "256")
    ours, back = tmp_path / "ours", tmp_path / "back"
    code, shown, _ = state("show", swtpm, *key)
    assert (code, "owner                  yes" in shown) == (0, True)
    code, imported, _ = state("import", swtpm, ours, *key, "--json")
    assert code == 0
    assert json.loads(imported)["data"]["owned"] is True
    with FileStorage(ours) as storage:
        assert read_engine(storage) == permanent
    assert state("show", ours)[:2] == (0, shown)
    assert state("export", ours, back)[:2] == (0, shown)
    assert read_swtpm(back) == permanent


def test_no_secret_is_shown(permanent: Permanent, swtpm: Path, tmp_path: Path) -> None:
    assert permanent.srk is not None
    ours = tmp_path / "ours"
    with FileStorage(ours) as storage:
        import_swtpm(permanent, storage)
    _, out, _ = state("show", ours, "--json")
    assert "storage_root_key" in out
    for secret in (permanent.srk.prime, permanent.tpm_proof, permanent.owner_auth):
        assert secret.hex() not in out


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (("show", "{}/nowhere"), 13, "there is no directory"),
        (("show", "{}/empty"), 13, "{}/empty, neither"),
        (("show", "{}/swtpm"), 2, "{}/swtpm: the swtpm file is encrypted"),
        (("import", "{}/swtpm", "{}/new", "--key-file", "{}/absent"), 4, "cannot read"),
        (("import", "{}/swtpm", "{}/new", "--key-file", "{}/short"), 2, "bits"),
        (("import", "{}/swtpm", "{}/new", "--key-file", "{}/wrong"), 9, "{}/swtpm: the key is not"),
        (
            ("show", "{}/swtpm", "--key-file", "{}/wrong", "--passphrase-file", "{}/short"),
            2,
            "exclude each other",
        ),
        (("export", "{}/empty", "{}/new"), 13, "{}/empty: there is no TPM state"),
        (("export", "{}/ours", "{}/swtpm"), 11, ": {}/swtpm/tpm-00.permall is there already"),
        (("export", "{}/ours", "{}/ours"), 11, "{}/ours/permanent is there already"),
        (
            ("import", "{}/swtpm", "{}/ours", "--key-file", "{}/right"),
            11,
            "{}/ours/permanent is there already",
        ),
        (
            ("import", "{}/swtpm", "{}/swtpm", "--key-file", "{}/right"),
            11,
            ": {}/swtpm/tpm-00.permall is there already",
        ),
    ],
)
def test_refusals_have_their_exit_codes_and_change_nothing(
    permanent: Permanent,
    swtpm: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    what: str,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "short").write_bytes(b"short")
    (tmp_path / "wrong").write_bytes(bytes(32))
    right = key_from_passphrase(PASSPHRASE, Kdf.SHA512, 256).key.reveal()
    (tmp_path / "right").write_bytes(right)
    with FileStorage(tmp_path / "ours") as storage:
        import_swtpm(replace(permanent, dir=b"d" * 20), storage)
    before = (swtpm / "tpm-00.permall").read_bytes()
    ended = state(*(argument.format(tmp_path) for argument in arguments))
    assert (ended[0], ended[1]) == (code, "")
    assert what.format(tmp_path) in ended[2]
    assert "next:" in ended[2]
    assert (swtpm / "tpm-00.permall").read_bytes() == before
    assert not (tmp_path / "new").exists()


def test_a_disk_that_is_full_leaves_no_half_file(permanent: Permanent, tmp_path: Path) -> None:
    with FileStorage(tmp_path / "ours") as storage:
        import_swtpm(permanent, storage)
    target = tmp_path / "swtpm"
    program = [sys.executable, "-m", "hwtpm.cli", "state", "export", tmp_path / "ours", target]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 0; trap "" XFSZ; exec "$@"', "sh", *program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 13
    assert f"cannot use {target}" in done.stderr
    assert [path.name for path in target.iterdir()] == [".lock"]
