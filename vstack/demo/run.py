"""`vstack demo`: the main job from an empty directory to a proof that anybody can check."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hwtpm.client import identity, pcr
from hwtpm.client.identity import Credential
from hwtpm.client.quote import Quote
from hwtpm.client.rsa import from_public_key, to_public_key
from hwtpm.client.session import Tpm
from hwtpm.errors import (
    AccessDenied,
    HwtpmError,
    StateError,
    UsageError,
    VerificationError,
)
from hwtpm.tpm12 import eventlog
from hwtpm.tpm12.types import PubKey, SymmetricKey
from hwtpm.transport.address import open_transport
from vstack.demo import owner
from vstack.demo.guests import Booted, boot
from vstack.evidence import ChipPart, Evidence, VtpmPart, verify
from vstack.host import daemon
from vstack.host.layout import Layout, check_engine
from vstack.ipc.rpc import Json

__all__ = ["Outcome", "run"]

_NAME: Final = "guest"
_PCRS: Final = range(8)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What the demo has shown."""

    chip: str
    real_hardware: bool
    guest: str
    pcrs: dict[int, str]
    findings: list[str]
    seconds: float


class _Demo:
    def __init__(self, chip: str, engine: str, directory: Path, say: Say, *, keeps: bool) -> None:
        self._chip = chip
        self._engine = engine
        self._directory = directory
        self._say = say
        self._keeps = keeps
        self._layout = Layout(directory / "state", directory / "run")
        self._authority = _privacy_ca()

    def run(self) -> Outcome:
        started = time.monotonic()
        status = self._start()
        chip = _object(status, "manager", "chip")
        chip_aik = self._prove_chip(status)
        self._step("creating a virtual TPM in a process of its own")
        shown = self._call("vtpm_create", {"name": _NAME, "engine": self._engine})
        self._show_vtpm(shown)
        guest, evidence, held, values = self._boot_and_quote(shown)
        findings = self._verify(evidence, chip_aik)
        self._restart(held, shown, chip_aik)
        self._other_chip()
        seconds = time.monotonic() - started
        self._say(f"\ndone in {seconds:.1f} s; nothing is left running")
        if self._keeps:
            self._say(
                f"kept in {self._directory}; check it again: vstack verify "
                f"{self._directory}/evidence.json --chip-aik {self._directory}/chip-aik.hex "
                f"--challenge {evidence.challenge}"
            )
        return Outcome(
            str(chip["description"]),
            chip["real_hardware"] is True,
            guest.description,
            {index: value.hex() for index, value in values.items()},
            findings,
            round(seconds, 1),
        )

    # --- steps -------------------------------------------------------------------------------

    def _start(self) -> Json:
        self._step("starting the vTPM manager on its chip")
        status = daemon.start(self._layout, self._chip, self._detail, tied=True)
        chip = _object(status, "manager", "chip")
        self._detail(f"runs on {chip['address']}: {chip['description']}")
        if chip["real_hardware"] is True:
            self._detail("this is real hardware")
        else:
            self._detail("this is NOT real hardware: a software TPM plays the chip")
        self._detail(
            "it owns the chip and has made its store and its first group; "
            "its keys are sealed under the chip's SRK"
        )
        return status

    def _prove_chip(self, status: Json) -> PubKey:
        """The chip's identity key, after it has proven to be the chip's."""
        group = _first_group(status)
        ek = PubKey.decode(bytes.fromhex(str(_object(status, "manager", "chip")["ek"])))
        aik = PubKey.decode(bytes.fromhex(str(group["aik"])))
        identity.verify_binding(
            aik, bytes.fromhex(str(group["label"])), bytes.fromhex(str(group["binding"]))
        )
        secret = os.urandom(16)
        credential = identity.issue(to_public_key(ek), aik, secret)
        answer = self._call("activate", {"blob": credential.for_tpm.hex()})
        key = SymmetricKey.decode(bytes.fromhex(str(answer["secret"])))
        if _open(key, credential) != secret:
            raise VerificationError("the chip did not prove that the identity key is its own")
        self._detail(
            f"credential exchange: identity key {aik.digest().hex()[:16]} lives in the chip with "
            f"endorsement key {ek.digest().hex()[:16]}"
        )
        return aik

    def _show_vtpm(self, shown: Json) -> None:
        self._detail(f"{_NAME} is {shown['uuid']}, process {shown['pid']}, {shown['engine']}")
        self._detail(f"raw commands: hwtpm info --on {shown['tpm']}")
        self._detail(f"QEMU: -chardev socket,id=c,path={shown['qemu']} -tpmdev emulator,...")
        self._detail("its state is encrypted under a key that only the manager holds")

    def _boot_and_quote(
        self, shown: Json
    ) -> tuple[Booted, Evidence, owner.GuestKeys, dict[int, bytes]]:
        self._step("attaching a guest and letting it boot")
        with (
            boot(self._layout.vtpm_run(_NAME), _NAME) as guest,
            Tpm(open_transport(str(shown["tpm"]))) as tpm,
        ):
            self._detail(guest.description)
            values = pcr.read_many(tpm, _PCRS).by_index()
            self._step("reading the guest's PCRs and replaying the firmware's event log")
            self._replay(guest.log, values)
            self._step("taking a deep quote")
            held = owner.take(tpm, self._authority)
            challenge = os.urandom(20)
            evidence = self._deep_quote(tpm, held, challenge, guest.log)
            owner.prove_identity(tpm, held, PubKey.decode(bytes.fromhex(evidence.vtpm.ek)))
            self._detail("the vTPM's identity key proved by credential exchange to be the vTPM's")
        return guest, evidence, held, values

    def _replay(self, log: bytes, values: dict[int, bytes]) -> None:
        events = eventlog.parse(log)
        replayed = eventlog.replay(events)
        for index, value in values.items():
            same = replayed.get(index, bytes(20)) == value
            self._detail(
                f"PCR {index}  {value.hex()}  {'= log' if same else 'NOT what the log says'}"
            )
            if not same:
                raise VerificationError(f"the event log does not lead to PCR {index}")
        self._detail(f"{len(events)} events replay to {len(values)} of {len(values)} PCRs")

    def _deep_quote(
        self, tpm: Tpm, held: owner.GuestKeys, challenge: bytes, log: bytes
    ) -> Evidence:
        quoted: Quote = owner.quote_with(tpm, held, challenge, _PCRS)
        self._detail("the vTPM's own identity key signed PCRs 0-7 and the verifier's challenge")
        answer = self._call(
            "deep_quote",
            {
                "name": _NAME,
                "challenge": challenge.hex(),
                "pcrs": list(_PCRS),
                "aik": held.aik.encode().hex(),
                "signature": quoted.signature.hex(),
            },
        )
        self._detail("the chip's identity key signed that this vTPM, with these PCRs, said so")
        chip = _object(answer, "chip")
        uuid = self._layout.read_vtpm(_NAME).uuid
        return Evidence(
            challenge=challenge.hex(),
            vtpm=VtpmPart(
                uuid=uuid,
                ek=str(answer["ek"]),
                aik=held.aik.encode().hex(),
                pcrs={index: value.hex() for index, value in quoted.pcrs.items()},
                signature=quoted.signature.hex(),
            ),
            chip=ChipPart(
                pcrs=[int(str(index)) for index in _list(chip, "pcrs")],
                answer=str(chip["answer"]),
            ),
            log=log.hex(),
        )

    def _verify(self, evidence: Evidence, chip_aik: PubKey) -> list[str]:
        self._step("verifying the whole chain offline, with public keys only")
        kept = self._directory / "evidence.json"
        kept.write_bytes(evidence.to_json())
        (self._directory / "chip-aik.hex").write_text(chip_aik.encode().hex())
        challenge = bytes.fromhex(evidence.challenge)
        verdict = verify(Evidence.from_json(kept.read_bytes()), challenge, chip_aik)
        for finding in verdict.findings:
            self._detail(finding)
        self._detail("so: this chip vouches for this vTPM, and this is what its guest booted")
        forged = Evidence.from_json(
            kept.read_bytes().replace(evidence.vtpm.pcrs[4].encode(), b"00" * 20, 1)
        )
        try:
            verify(forged, challenge, chip_aik)
        except VerificationError as error:
            self._detail(f"with one PCR forged it is refused: {error.message}")
        else:
            raise VerificationError("forged evidence was accepted")
        return verdict.findings

    def _restart(self, held: owner.GuestKeys, shown: Json, chip_aik: PubKey) -> None:
        self._step("stopping everything and starting it again")
        daemon.stop(self._layout)
        self._detail("stopped")
        status = daemon.start(self._layout, None, self._detail, tied=True)
        if PubKey.decode(bytes.fromhex(str(_first_group(status)["aik"]))) != chip_aik:
            raise VerificationError("the manager came back with another identity key")
        again = self._call("vtpm_show", {"name": _NAME})
        with Tpm(open_transport(str(again["tpm"]))) as tpm:
            owner.quote_with(tpm, held, os.urandom(20), _PCRS)
        if again["ek"] != shown["ek"]:
            raise VerificationError("the vTPM came back with another endorsement key")
        self._detail(
            "the vTPM came back with its keys: same endorsement key, still owned, and it loads "
            "and uses the identity key it made before"
        )
        daemon.stop(self._layout)

    def _other_chip(self) -> None:
        self._step("trying the same files with another chip")
        state = self._layout.state
        moved = Layout(self._directory / "moved", self._directory / "run2")
        shutil.copytree(state, moved.state, ignore=shutil.ignore_patterns("chip"))
        before = _digest(moved.state)
        self._expect(
            "manager's store on another chip",
            lambda: daemon.start(moved, "sim:", lambda _: None, tied=True),
        )
        moved.store.unlink()
        moved.config.unlink()
        for extra in moved.state.glob("manager.db-*"):
            extra.unlink()
        vtpms = _digest(moved.state / "vtpms")
        status = daemon.start(moved, "sim:", lambda _: None, tied=True)
        daemon.stop(moved)
        problem = _object(_object({"v": _list(status, "vtpms")[0]}, "v"), "problem")
        self._detail(f"vTPM's state on another chip, new manager: {problem['message']}")
        if _digest(moved.state / "vtpms") != vtpms or before != _digest(state, skip=("chip",)):
            raise StateError("files were changed that should not have been")
        self._detail("not one byte of the state files was changed")

    def _expect(self, what: str, attempt: Callable[[], object]) -> None:
        try:
            attempt()
        except StateError as error:
            self._detail(f"{what}: {error.message}")
        else:
            raise VerificationError(f"{what}: was accepted")

    # --- helpers -----------------------------------------------------------------------------

    def _call(self, op: str, params: Json) -> Json:
        with daemon.control(self._layout) as client:
            return client.call(op, params)

    def _step(self, text: str) -> None:
        self._say(f"\n* {text}")

    def _detail(self, text: str) -> None:
        self._say(f"    {text}")


def run(chip: str, engine: str, say: Say, keep: Path | None = None) -> Outcome:
    """Run the demo.

    Args:
        chip: address of the chip; `sim:` is the embedded software chip.
        engine: the vTPM's engine.
        say: told each line.
        keep: directory for state and evidence; None for a temporary one that is removed.

    Raises:
        HwtpmError: a step failed; nothing is left running.
    """
    check_engine(engine)
    directory = keep or Path(tempfile.mkdtemp(prefix="vstack-demo-"))
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        used = any(directory.iterdir())
    except OSError as error:
        raise AccessDenied(f"cannot use {directory}: {error.strerror}") from error
    if used:
        raise UsageError(f"{directory} is not empty", hint="name a new directory to keep things in")
    try:
        return _Demo(chip, engine, directory, say, keeps=keep is not None).run()
    finally:
        for name in ("run", "run2"):
            try:
                daemon.stop(Layout(directory / "state", directory / name))
            except HwtpmError:  # it does not run
                continue
        if keep is None:
            shutil.rmtree(directory, ignore_errors=True)


def _privacy_ca() -> PubKey:
    """A privacy CA for the demo: its key stands in the identity keys' labels."""
    from cryptography.hazmat.primitives.asymmetric import rsa

    return from_public_key(rsa.generate_private_key(65537, 2048).public_key())


def _open(key: SymmetricKey, credential: Credential) -> bytes:
    return identity.open_credential(key, credential)


def _object(data: Json, *path: str) -> Json:
    for name in path:
        inner = data.get(name)
        if not isinstance(inner, dict):
            raise StateError(f"the stack's answer has no {name!r}: {data}")
        data = inner
    return data


def _list(data: Json, name: str) -> list[object]:
    inner = data.get(name)
    if not isinstance(inner, list):
        raise StateError(f"the stack's answer has no list {name!r}")
    return inner


def _first_group(status: Json) -> Json:
    group = _list(_object(status, "manager"), "groups")[0]
    return _object({"group": group}, "group")


def _digest(directory: Path, skip: tuple[str, ...] = ()) -> str:
    total = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        if path.is_file() and relative.parts[0] not in skip:
            total.update(str(relative).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()
