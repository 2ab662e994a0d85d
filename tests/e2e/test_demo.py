"""`vstack demo` on every combination of chip and engine that needs no hardware, with and without
QEMU, and evidence from it judged by a verifier that shares no code with this project."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from e2e_stack import PROGRAMS, Stack, wait_until

EXAMPLE_KEY = "00000001000300010000000000000100" + "c5" * 256
"""A TPM_PUBKEY by its form: RSA, schemes, no parameters, 256 bytes of modulus."""

COMBINATIONS = [
    ("sim:", "engine"),
    ("libtpms:", "engine"),
    ("sim:", "libtpms"),
    ("libtpms:", "libtpms"),
    ("swtpm:", "engine"),
    ("board:sim-slb9670-ftdi", "engine"),
    ("board:sim-slb9670-spidev", "engine"),
]


@pytest.mark.parametrize(("chip", "engine"), COMBINATIONS)
def test_the_demo_shows_the_whole_chain_with_an_unmodified_qemu(
    stack: Stack, chip: str, engine: str
) -> None:
    shown = stack.json("vstack", "demo", "--chip", chip, "--engine", engine)
    assert "QEMU with SeaBIOS" in shown["guest"]
    assert shown["real_hardware"] is False
    assert sorted(shown["pcrs"]) == [str(index) for index in range(8)]
    assert len(set(shown["pcrs"].values())) > 3  # firmware measured different things
    assert any("15 events" in finding for finding in shown["findings"])
    assert stack.processes() == []


def test_an_engine_that_there_is_not_is_refused_before_the_chip_is_touched(stack: Stack) -> None:
    chip = stack.root / "chip"
    code, error = stack.error("vstack", "demo", "--chip", f"sim:{chip}", "--engine", "nosuch")
    assert (code, error["hint"]) == (2, "use one of: engine, libtpms, swtpm")
    assert not chip.exists()


def test_without_qemu_the_demo_measures_through_our_own_tis_and_says_so(stack: Stack) -> None:
    lonely = stack.root / "bin"
    lonely.mkdir()
    done = subprocess.run(
        [str(PROGRAMS / "vstack"), "demo", "--json"],
        env=stack.environment | {"PATH": str(lonely)},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    shown = json.loads(done.stdout)["data"]
    assert "no QEMU here" in shown["guest"]
    assert "no QEMU here" in done.stderr
    assert len(shown["pcrs"]) == 8


def _rsa_key(pubkey: bytes) -> rsa.RSAPublicKey:
    """TPM_PUBKEY: algorithm, schemes, parameters, then the modulus behind its size."""
    parms_size = struct.unpack_from(">I", pubkey, 8)[0]
    at = 12 + parms_size
    size = struct.unpack_from(">I", pubkey, at)[0]
    modulus = int.from_bytes(pubkey[at + 4 : at + 4 + size], "big")
    return rsa.RSAPublicNumbers(65537, modulus).public_key()


def _composite(pcrs: dict[int, bytes]) -> bytes:
    bits = sum(1 << index for index in pcrs).to_bytes(3, "little")
    values = b"".join(pcrs[index] for index in sorted(pcrs))
    return hashlib.sha1(b"\0\3" + bits + struct.pack(">I", len(values)) + values).digest()


def _quote_holds(key: bytes, signature: bytes, pcrs: dict[int, bytes], external: bytes) -> bool:
    info = b"\1\1\0\0QUOT" + _composite(pcrs) + external
    try:
        _rsa_key(key).verify(signature, info, padding.PKCS1v15(), hashes.SHA1())
    except InvalidSignature:
        return False
    return True


def _holds(evidence: dict, challenge: bytes, chip_aik: bytes) -> bool:
    """The whole check, written from docs/evidence.md with nothing but `cryptography`."""
    vtpm, chip = evidence["vtpm"], evidence["chip"]
    pcrs = {int(index): bytes.fromhex(value) for index, value in vtpm["pcrs"].items()}
    aik, ek = bytes.fromhex(vtpm["aik"]), bytes.fromhex(vtpm["ek"])
    if not _quote_holds(aik, bytes.fromhex(vtpm["signature"]), pcrs, challenge):
        return False
    inner = hashlib.sha1(
        b"vstack deep quote 1" + challenge + hashlib.sha1(ek).digest() + hashlib.sha1(aik).digest()
    ).digest()
    bits = sum(1 << index for index in pcrs).to_bytes(3, "little")
    short = b"\0\3" + bits + b"\1" + _composite(pcrs)
    nonce = hashlib.sha1(bytes(4) + b"DQUT" + inner + short).digest()
    answer = bytes.fromhex(chip["answer"])
    signature, uuid_hash, values = answer[:256], answer[256:276], answer[276:]
    if uuid_hash != hashlib.sha1(bytes.fromhex(vtpm["uuid"].replace("-", ""))).digest():
        return False
    indices = sorted(chip["pcrs"])
    if len(values) != 20 * len(indices):
        return False
    chip_pcrs = {index: values[20 * at : 20 * at + 20] for at, index in enumerate(indices)}
    external = hashlib.sha1(b"\1\0\0\0" + nonce + uuid_hash).digest()
    return _quote_holds(chip_aik, signature, chip_pcrs, external)


def _damaged(evidence: dict) -> list[tuple[str, dict]]:
    """The evidence with one thing changed at a time."""
    changed = []

    def flip(text: str) -> str:
        return f"{int(text[0], 16) ^ 1:x}" + text[1:]

    for part, field in [
        ("vtpm", "ek"),
        ("vtpm", "aik"),
        ("vtpm", "signature"),
        ("vtpm", "uuid"),
        ("chip", "answer"),
    ]:
        copy = json.loads(json.dumps(evidence))
        # The last digit of a key lies in its modulus, which must not become malformed.
        text = copy[part][field]
        copy[part][field] = flip(text[::-1])[::-1]
        changed.append((f"{part}.{field}", copy))
    for index in evidence["vtpm"]["pcrs"]:
        copy = json.loads(json.dumps(evidence))
        copy["vtpm"]["pcrs"][index] = flip(copy["vtpm"]["pcrs"][index])
        changed.append((f"pcr {index}", copy))
    swapped = json.loads(json.dumps(evidence))
    pcrs = swapped["vtpm"]["pcrs"]
    pcrs["4"], pcrs["5"] = pcrs["5"], pcrs["4"]
    changed.append(("swapped PCRs", swapped))
    fewer = json.loads(json.dumps(evidence))
    del fewer["vtpm"]["pcrs"]["7"]
    changed.append(("a PCR left out", fewer))
    return changed


def test_evidence_holds_for_an_independent_verifier_and_nothing_can_be_exchanged(
    stack: Stack,
) -> None:
    kept = stack.root / "kept"
    stack.run("vstack", "demo", "--keep", str(kept))
    text = (kept / "evidence.json").read_bytes()
    evidence = json.loads(text)
    challenge = bytes.fromhex(evidence["challenge"])
    chip_aik = bytes.fromhex((kept / "chip-aik.hex").read_text())
    assert _holds(evidence, challenge, chip_aik)
    arguments = ["--challenge", challenge.hex(), "--chip-aik", chip_aik.hex()]
    verdict = stack.json("vstack", "verify", str(kept / "evidence.json"), *arguments)
    assert verdict["uuid"] == evidence["vtpm"]["uuid"]
    kept_evidence = str(kept / "evidence.json")
    for wanted, code in [
        (["--vtpm", verdict["uuid"], "--pcr", "4", "--pcr", "7"], 0),
        (["--vtpm", str(UUID(int=1))], 9),
        (["--pcr", "8"], 9),
    ]:
        done = stack.run("vstack", "verify", kept_evidence, *arguments, *wanted, check=False)
        assert done.returncode == code, done.stderr

    forged_file = stack.root / "forged.json"
    for what, forged in _damaged(evidence):
        assert not _holds(forged, challenge, chip_aik), what
        forged_file.write_text(json.dumps(forged))
        code, error = stack.error("vstack", "verify", str(forged_file), *arguments)
        assert (code, error["kind"]) == (9, "verification"), what
    truncated = evidence | {"log": evidence["log"][: len(evidence["log"]) // 4 * 2]}
    forged_file.write_text(json.dumps(truncated))
    assert stack.error("vstack", "verify", str(forged_file), *arguments)[0] in (5, 9)
    forged_file.write_text(json.dumps(evidence | {"log": ""}))
    unexplained = stack.json("vstack", "verify", str(forged_file), *arguments)["findings"]
    assert any("NO EVENT LOG" in finding for finding in unexplained)
    replayed = ["--challenge", os.urandom(20).hex(), "--chip-aik", chip_aik.hex()]
    assert stack.error("vstack", "verify", str(kept / "evidence.json"), *replayed)[0] == 9
    foreign = ["--challenge", challenge.hex(), "--chip-aik", evidence["vtpm"]["aik"]]
    assert stack.error("vstack", "verify", str(kept / "evidence.json"), *foreign)[0] == 9
    shutil.rmtree(kept)


def test_verify_needs_no_stack_and_names_a_file_that_is_no_evidence(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    bad = tmp_path / "bad.json"
    bad.write_text('{"schema": "vstack.evidence/1"}')
    nonce = ["--challenge", "00" * 20]
    no_key = ["--chip-aik", "00"]
    assert stack.error("vstack", "verify", str(bad), *nonce, *no_key)[0] == 2
    key = ["--chip-aik", EXAMPLE_KEY]
    assert stack.error("vstack", "verify", str(bad), *nonce, *key)[0] == 5
    missing = str(tmp_path / "missing.json")
    assert stack.error("vstack", "verify", missing, *nonce, *key)[0] == 3


def test_a_demo_that_is_terminated_leaves_nothing_running(stack: Stack) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        demo = subprocess.Popen(
            [str(PROGRAMS / "vstack"), "demo"],
            env=stack.environment | {"TMPDIR": str(stack.root)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert demo.stdout is not None
        for line in demo.stdout:
            if "attaching a guest" in line:
                break
        demo.send_signal(number)
        demo.wait(timeout=60)
        demo.stdout.close()
        wait_until(lambda: stack.processes() == [])


def test_keep_refuses_a_directory_that_is_in_use(stack: Stack) -> None:
    (stack.root / "used").mkdir()
    (stack.root / "used" / "file").touch()
    code, error = stack.error("vstack", "demo", "--keep", str(stack.root / "used"))
    assert (code, error["kind"]) == (2, "usage")
