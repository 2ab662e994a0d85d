"""One bench for three engines: prepared TPMs, typed commands, declared differences.

A prepared state (factory new, with an EK, owned with keys) is made once per engine and kept as
the bytes that the engine stored; getting it back costs one power-on.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from differences import DIFFERENCES
from recorded_life import check_durable, permanent_of

from hwtpm.client import identity, keys, owner
from hwtpm.client.session import AuthSession, Tpm
from hwtpm.errors import TpmError
from hwtpm.secret import Secret
from hwtpm.softtpm.base import MemoryStorage, SoftwareTpm, StateName
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.libtpms import LibtpmsTpm
from hwtpm.softtpm.swtpm import SwtpmTpm
from hwtpm.tpm12.commands.integrity import PcrRead, PcrReset
from hwtpm.tpm12.commands.ownership import PhysicalPresence
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.const import (
    EntityType,
    KeyHandleValue,
    KeyUsage,
    SigScheme,
    StartupType,
)
from hwtpm.tpm12.frame import return_code_of
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import Request
from hwtpm.tpm12.types import Key, PcrSelection, PubKey
from hwtpm.transport.base import Attached
from hwtpm.wire import Struct

R = TypeVar("R", bound=Struct)

ENGINES: Final = ("engine", "libtpms", "swtpm")

OWNER: Final = Secret(b"o" * 20)
SRK: Final = Secret(b"s" * 20)
USAGE: Final = Secret(b"u" * 20)
MIGRATION: Final = Secret(b"m" * 20)
WRONG: Final = Secret(b"w" * 20)

SRK_HANDLE: Final = int(KeyHandleValue.SRK)
NO_HANDLE: Final = 0x00BADBAD
ZEROS: Final = bytes(20)
ONES: Final = b"\xff" * 20

PRESENT, NOT_PRESENT, CMD_ENABLE = 0x0008, 0x0010, 0x0020


# --- where an engine keeps its state -----------------------------------------------------------


class Shelf(Protocol):
    """An engine's TPM, powered off, and the bytes of its state."""

    tpm: SoftwareTpm

    def save(self) -> dict[str, bytes]: ...

    def load(self, state: dict[str, bytes]) -> None: ...


class InProcess:
    """An engine over storage in memory."""

    def __init__(self, make: Callable[[MemoryStorage], SoftwareTpm]) -> None:
        self.storage = MemoryStorage()
        self.tpm = make(self.storage)

    def save(self) -> dict[str, bytes]:
        return dict(self.storage.blobs)

    def load(self, state: dict[str, bytes]) -> None:
        self.storage.blobs = {StateName(name): blob for name, blob in state.items()}


class InDirectory:
    """swtpm, whose state is files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tpm: SoftwareTpm = SwtpmTpm(directory)

    def _files(self) -> list[Path]:
        return [path for path in self.directory.iterdir() if path.name.startswith("tpm-00.")]

    def save(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self._files()}

    def load(self, state: dict[str, bytes]) -> None:
        for path in self._files():
            path.unlink()
        for name, blob in state.items():
            (self.directory / name).write_bytes(blob)


def open_shelf(engine: str, directory: Path) -> Shelf:
    if engine == "engine":
        return InProcess(Engine)
    if engine == "libtpms":
        return InProcess(LibtpmsTpm)
    return InDirectory(directory)


# --- a TPM on the bench ------------------------------------------------------------------------


class Wire:
    """Transport to a software TPM from a locality of one's choice.

    It holds every response against what all responses have in common (Part 3 section 2.3): the tag
    of a failure is TPM_TAG_RSP_COMMAND and it has ten bytes. Our engine's permanent state is held
    against the list of commands that change it.
    """

    def __init__(self, tpm: SoftwareTpm) -> None:
        self.tpm = tpm
        self.locality = 0

    @property
    def attached(self) -> Attached:
        return Attached("test:", self.tpm.description, False, "")

    def execute(self, command: bytes) -> bytes:
        before = permanent_of(self.tpm)
        response = self.tpm.execute(command, self.locality)
        tag, size, rc = struct.unpack_from(">HII", response)
        assert size == len(response)
        check_durable(before, self.tpm, command, rc)
        assert (tag == 0x00C4 and size == 10) if rc else tag in (0x00C4, 0x00C5, 0x00C6)
        return response

    def close(self) -> None:
        self.tpm.close()


@dataclass(frozen=True)
class Prepared:
    """A state to come back to: stored bytes and what their maker knows about them."""

    stored: dict[str, bytes]
    ek: PubKey | None = None
    srk: PubKey | None = None
    keys: dict[str, Key] | None = None


class Device:
    """A powered TPM in a prepared state, asked through the typed client."""

    def __init__(self, engine: str, shelf: Shelf) -> None:
        self.engine = engine
        self.shelf = shelf
        self.tpm = shelf.tpm
        self.wire = Wire(self.tpm)
        self.client = Tpm(self.wire)
        self.prepared = Prepared({})

    def restore(self, prepared: Prepared) -> None:
        """Power on in that state, started with ST_CLEAR."""
        self.prepared = prepared
        self.shelf.load(prepared.stored)
        self.restart()

    def restart(self, startup: int | None = StartupType.CLEAR) -> None:
        """Power cycle; `startup` None leaves TPM_Startup to the test."""
        self.wire.locality = 0
        self.tpm.power_on()
        if startup is not None:
            assert self.refusal(Startup(startup)) == Rc.SUCCESS

    # --- commands ----------------------------------------------------------------------------

    def run(self, request: Request[R], *secrets: Secret, locality: int = 0) -> R:
        """The reply, each secret proven in an OIAP session of its own."""
        with self.at(locality):
            return self.client.execute_with(request, *secrets)

    def refusal(self, request: Request[Struct], *secrets: Secret, locality: int = 0) -> int:
        """The return code, 0 if the command was carried out."""
        try:
            self.run(request, *secrets, locality=locality)
        except TpmError as error:
            return error.rc
        return 0

    def refusal_in(self, request: Request[Struct], *sessions: AuthSession) -> int:
        """The return code of a command that these sessions authorise."""
        try:
            self.client.execute(request, *sessions)
        except TpmError as error:
            return error.rc
        return 0

    def send(self, frame: bytes, locality: int = 0) -> bytes:
        with self.at(locality):
            return self.wire.execute(frame)

    def rc(self, frame: bytes, locality: int = 0) -> int:
        return return_code_of(self.send(frame, locality))

    @contextmanager
    def at(self, locality: int) -> Iterator[None]:
        before, self.wire.locality = self.wire.locality, locality
        try:
            yield
        finally:
            self.wire.locality = before

    def expected(self, what: str, by_specification: int) -> int:
        """What this engine is to answer: the specification's code unless declared otherwise."""
        return DIFFERENCES[what].answers.get(self.engine, by_specification)

    # --- frequent steps ----------------------------------------------------------------------

    def assert_presence(self) -> None:
        owner.assert_presence(self.client)

    def withdraw_presence(self) -> None:
        self.run(PhysicalPresence(NOT_PRESENT))

    def osap_owner(self, secret: Secret = OWNER) -> AuthSession:
        return self.client.osap(EntityType.OWNER, KeyHandleValue.OWNER, secret)

    def osap_srk(self, secret: Secret = SRK) -> AuthSession:
        return self.client.osap(EntityType.SRK, SRK_HANDLE, secret)

    def key(self, name: str) -> Key:
        assert self.prepared.keys is not None
        return self.prepared.keys[name]

    def load(self, name: str) -> keys.KeyRef:
        """Load one of the prepared keys; the bench unloads it after the test."""
        return keys.load(self.client, keys.srk(SRK), self.key(name), USAGE)

    def pcr(self, index: int) -> bytes:
        return self.run(PcrRead(index)).out_digest

    def reset_pcr16(self) -> None:
        self.run(PcrReset(PcrSelection.of([16])))

    @property
    def ek(self) -> PubKey:
        assert self.prepared.ek is not None
        return self.prepared.ek


# --- prepared states ---------------------------------------------------------------------------


def prepare_new(device: Device) -> Prepared:
    device.restore(Prepared({}))
    return Prepared(device.shelf.save())


def prepare_endorsed(device: Device) -> Prepared:
    device.restore(Prepared({}))
    ek = owner.create_ek(device.client)
    return Prepared(device.shelf.save(), ek)


def prepare_owned(device: Device) -> Prepared:
    """Owner, SRK, and one wrapped key of each kind that the tests use."""
    device.restore(Prepared({}))
    tpm = device.client
    ek = owner.create_ek(tpm)
    srk = owner.take_ownership(tpm, OWNER, SRK, ek=ek).srk
    root = keys.srk(SRK)
    templates = {
        "signing": keys.signing_key(bits=1024),
        "signing without auth": keys.signing_key(bits=1024, needs_auth=False),
        "signing DER": keys.signing_key(bits=1024, scheme=SigScheme.RSA_PKCS_V15_DER),
        "signing INFO": keys.signing_key(bits=1024, scheme=SigScheme.RSA_PKCS_V15_INFO),
        "bind": keys.binding_key(bits=1024),
        "storage": keys.storage_key(),
    }
    made = {name: keys.create(tpm, root, what, USAGE) for name, what in templates.items()}
    aik = identity.make(tpm, OWNER, USAGE, ZEROS, srk_auth=SRK)
    made["identity"] = aik.key
    assert made["identity"].key_usage == KeyUsage.IDENTITY
    return Prepared(device.shelf.save(), ek, srk, made)


PREPARATIONS: Final[dict[str, Callable[[Device], Prepared]]] = {
    "new": prepare_new,
    "endorsed": prepare_endorsed,
    "owned": prepare_owned,
}
