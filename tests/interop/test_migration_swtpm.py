"""A guest moves from swtpm to our engine and back, with files that each of them wrote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from busy_tpm import NV_DATA, NV_INDEX, fill
from engine_rig import KEY_AUTH, OWNER_AUTH, Rig, take_ownership

from hwtpm.client import nv
from hwtpm.errors import Busy, Refused, StateError, UsageError, VerificationError
from hwtpm.secret import Secret
from hwtpm.softtpm.base import MemoryStorage, StateName
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.migration import (
    FileKey,
    Kdf,
    export_swtpm,
    import_swtpm,
    key_from_file,
    key_from_passphrase,
    read_swtpm,
)
from hwtpm.softtpm.swtpm import SwtpmTpm
from hwtpm.tpm12.commands.cryptography import Sign
from hwtpm.tpm12.commands.startup import SaveState, Startup
from hwtpm.tpm12.const import StartupType

PERMALL = "tpm-00.permall"
KEY = bytes(range(32))
PASSPHRASE = b"correct horse battery staple\n"

# What swtpm's --key says, the file it names, and our key for it.
HEX: bytes = KEY.hex().encode()
KEYS: dict[str, tuple[str, bytes, FileKey]] = {
    "hex-128": (
        "file={},mode=aes-cbc,format=hex",
        KEY[:16].hex().encode(),
        key_from_file(KEY[:16]),
    ),
    "hex-256": (
        "file={},mode=aes-256-cbc",
        b"0x" + HEX + b"\n",
        key_from_file(b"0x" + HEX + b"\n"),
    ),
    "binary-128": ("file={},mode=aes-cbc,format=binary", KEY[:16], key_from_file(KEY[:16])),
    "binary-256": ("file={},mode=aes-256-cbc,format=binary", KEY, key_from_file(KEY)),
    "pbkdf2-128": ("pwdfile={}", PASSPHRASE, key_from_passphrase(PASSPHRASE, Kdf.PBKDF2, 128)),
    "pbkdf2-256": (
        "pwdfile={},mode=aes-256-cbc,kdf=pbkdf2",
        PASSPHRASE,
        key_from_passphrase(PASSPHRASE, Kdf.PBKDF2, 256),
    ),
    "sha512-128": (
        "pwdfile={},kdf=sha512",
        PASSPHRASE,
        key_from_passphrase(PASSPHRASE, Kdf.SHA512, 128),
    ),
    "sha512-256": (
        "pwdfile={},mode=aes-256-cbc,kdf=sha512",
        PASSPHRASE,
        key_from_passphrase(PASSPHRASE, Kdf.SHA512, 256),
    ),
}


@contextmanager
def running(directory: Path, program: str = "swtpm") -> Iterator[Rig]:
    """swtpm on that directory, after TPM_Startup(ST_CLEAR)."""
    tpm = SwtpmTpm(directory, program=program)
    try:
        tpm.power_on()
        rig = Rig(tpm)
        rig.run(Startup(StartupType.CLEAR))
        yield rig
    finally:
        tpm.close()


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A directory of an swtpm that is not running any more, and an owner-evict key in it."""
    directory = tmp_path_factory.mktemp("swtpm")
    with running(directory) as rig:
        take_ownership(rig)
        return directory, fill(rig)


@contextmanager
def running_with_key(directory: Path, option: str, key_file: Path) -> Iterator[Rig]:
    """The same, started with `--key`."""
    program = key_file.with_name("swtpm-with-key")
    program.write_text(f'#!/bin/sh\nexec swtpm "$@" --key "{option.format(key_file)}"\n')
    program.chmod(0o700)
    with running(directory, str(program)) as rig:
        yield rig


# --- whole guests --------------------------------------------------------------------------------


def test_a_guest_moves_to_our_engine_with_its_keys(guest: tuple[Path, int]) -> None:
    directory, handle = guest
    storage = MemoryStorage()
    import_swtpm(read_swtpm(directory), storage)
    engine = Engine(storage)
    engine.power_on()
    rig = Rig(engine)
    rig.run(Startup(StartupType.CLEAR))
    owner = Secret(OWNER_AUTH)
    assert nv.read(rig.client, NV_INDEX, len(NV_DATA), owner_auth=owner) == NV_DATA
    ours = rig.run(Sign(handle, b"s" * 20), KEY_AUTH).sig
    with running(directory) as theirs:
        assert theirs.run(Sign(handle, b"s" * 20), KEY_AUTH).sig == ours


def test_and_back_again(guest: tuple[Path, int], tmp_path: Path) -> None:
    directory, handle = guest
    storage = MemoryStorage()
    state = read_swtpm(directory)
    import_swtpm(replace(state, dir=b"E" * 20), storage)
    target = tmp_path / "new" / "state"
    export_swtpm(storage, target)
    assert target.stat().st_mode & 0o777 == 0o700
    assert read_swtpm(target) == replace(state, dir=b"E" * 20)
    with running(target) as rig:
        assert len(rig.run(Sign(handle, b"s" * 20), KEY_AUTH).sig) == 256


def test_a_plain_file_is_written_as_swtpm_does(guest: tuple[Path, int], tmp_path: Path) -> None:
    directory, _ = guest
    storage = MemoryStorage()
    import_swtpm(read_swtpm(directory), storage)
    export_swtpm(storage, tmp_path)
    assert (tmp_path / PERMALL).read_bytes() == (directory / PERMALL).read_bytes()


# --- encrypted files -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KEYS)
def test_what_swtpm_encrypts_we_read(kind: str, tmp_path: Path) -> None:
    option, content, key = KEYS[kind]
    key_file = tmp_path / "key"
    key_file.write_bytes(content)
    state = tmp_path / "state"
    with running_with_key(state, option, key_file) as rig:
        take_ownership(rig)
    assert (state / PERMALL).read_bytes()[5] & 1
    assert read_swtpm(state, key).owner_auth == OWNER_AUTH
    with pytest.raises(UsageError, match="encrypted"):
        read_swtpm(state)
    wrong = FileKey(Secret(b"x" * (key.bits // 8)))
    with pytest.raises(VerificationError):
        read_swtpm(state, wrong)
    other_size = FileKey(Secret(b"x" * (48 - key.bits // 8)))
    with pytest.raises(UsageError, match="bits"):
        read_swtpm(state, other_size)


@pytest.mark.parametrize("kind", KEYS)
def test_what_we_encrypt_swtpm_starts_from(
    kind: str, guest: tuple[Path, int], tmp_path: Path
) -> None:
    option, content, key = KEYS[kind]
    directory, handle = guest
    storage = MemoryStorage()
    import_swtpm(read_swtpm(directory), storage)
    key_file, state = tmp_path / "key", tmp_path / "state"
    key_file.write_bytes(content)
    export_swtpm(storage, state, key)
    assert NV_DATA not in (state / PERMALL).read_bytes()
    with running_with_key(state, option, key_file) as rig:
        assert len(rig.run(Sign(handle, b"s" * 20), KEY_AUTH).sig) == 256


def test_a_changed_file_is_not_decrypted(guest: tuple[Path, int], tmp_path: Path) -> None:
    storage = MemoryStorage()
    import_swtpm(read_swtpm(guest[0]), storage)
    key = FileKey(Secret(KEY))
    export_swtpm(storage, tmp_path, key)
    whole = (tmp_path / PERMALL).read_bytes()
    for at in (20, 500, len(whole) - 1):
        (tmp_path / PERMALL).write_bytes(whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :])
        with pytest.raises(VerificationError):
            read_swtpm(tmp_path, key)


# --- refusals ------------------------------------------------------------------------------------


def test_a_running_guest_is_not_moved(guest: tuple[Path, int]) -> None:
    directory, _ = guest
    with running(directory), pytest.raises(Busy):
        read_swtpm(directory)


def test_a_suspended_guest_is_moved_only_with_consent(tmp_path: Path) -> None:
    with running(tmp_path) as rig:
        rig.run(SaveState())
    with pytest.raises(Refused, match="savestate"):
        read_swtpm(tmp_path)
    assert read_swtpm(tmp_path, forget_volatile=True).srk is None


def test_nothing_is_overwritten(guest: tuple[Path, int], tmp_path: Path) -> None:
    directory, _ = guest
    storage = MemoryStorage()
    state = read_swtpm(directory)
    import_swtpm(state, storage)
    with pytest.raises(Refused):
        import_swtpm(state, storage)
    before = (directory / PERMALL).read_bytes()
    with pytest.raises(Refused, match="there already"):
        export_swtpm(storage, directory)
    assert (directory / PERMALL).read_bytes() == before
    storage.store(StateName.SAVED, b"saved")
    with pytest.raises(Refused, match="suspended"):
        export_swtpm(storage, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_is_no_state_of_a_tpm_1_2_is_told(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="there is no"):
        read_swtpm(tmp_path)
    with pytest.raises(StateError, match="no TPM state"):
        export_swtpm(MemoryStorage(), tmp_path)
    (tmp_path / "tpm2-00.permall").write_bytes(b"x")
    with pytest.raises(StateError, match=r"TPM 2\.0"):
        read_swtpm(tmp_path)
    for content in (b"", b"\2\1\0\x0a\0\0\0\0\0\x0a", b"\1\1\0\x0a\0\0\0\0\0\x0b1", b"\2" * 40):
        (tmp_path / PERMALL).write_bytes(content)
        with pytest.raises(StateError):
            read_swtpm(tmp_path)


def test_keys_of_another_size_are_refused() -> None:
    for content in (b"", b"0x12", b"x" * 17, b"00" * 20):
        with pytest.raises(UsageError, match="bits"):
            key_from_file(content)
