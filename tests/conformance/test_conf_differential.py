"""Malformed variants of every command, the same ones to our engine and to libtpms.

Both are in the same state; both have to give the same return code. What they say differently is
declared in `differences.FORMS`, with what the specification has to say on it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from conformance_rig import PREPARATIONS, Device, open_shelf
from differences import FORMS, LACKING
from samples import SAMPLES, frame, sample_frame

from hwtpm.client import keys
from hwtpm.tpm12.commands.integrity import PcrRead
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import TABLE

SEED = 0x12C0FFEE
VARIANTS = 40
TAKES_SECONDS = {"TPM_SelfTestFull", "TPM_ContinueSelfTest"}
VALUES = (0x00, 0x01, 0x7F, 0x80, 0xFF)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Device]]:
    directory = tmp_path_factory.mktemp("none")
    devices = [Device(name, open_shelf(name, directory)) for name in ("engine", "libtpms")]
    for device in devices:
        device.restore(PREPARATIONS["owned"](device))
    yield devices[0], devices[1]
    for device in devices:
        device.tpm.close()


def variants(name: str) -> Iterator[tuple[str, bytes]]:
    """Seeded damage to the parameters of a sample: bytes and counts that are not what they were."""
    row = TABLE[name]
    rng = random.Random(f"{SEED}{name}")
    for auths in sorted(row.auths):
        whole = sample_frame(row, auths)
        tag, body = 0x00C1 + auths, whole[10:]
        for _ in range(VARIANTS if body else 0):
            at, value = rng.randrange(len(body)), rng.choice(VALUES)
            damaged = body[:at] + bytes([value]) + body[at + 1 :]
            yield f"{auths} auths, byte {at} = {value:#x}", frame(row.ordinal, damaged, tag=tag)
        for _ in range(4):
            more = rng.randbytes(rng.choice((1, 4, 45)))
            cut = rng.randrange(len(body) + 1)
            longer = frame(row.ordinal, body[:cut] + more + body[cut:], tag=tag)
            yield f"{auths} auths, {len(more)} more bytes at {cut}", longer
            yield f"{auths} auths, cut at {cut}", frame(row.ordinal, body[:cut], tag=tag)
        wrong = rng.randrange(0x10000)
        if wrong not in (0x00C1, 0x00C2, 0x00C3):
            yield f"tag {wrong:#x}", frame(row.ordinal, body, tag=wrong)


@pytest.mark.parametrize("name", sorted(set(SAMPLES) - TAKES_SECONDS - LACKING))
def test_damaged_commands_get_the_same_answer(pair: tuple[Device, Device], name: str) -> None:
    unexplained = []
    for what, command in variants(name):
        answers = tuple(_answer(device, command) for device in pair)
        if len(set(answers)) > 1 and not {(name, *answers), ("*", *answers)} & set(FORMS):
            unexplained.append((what, *map(hex, answers)))
    assert not unexplained


def _answer(device: Device, command: bytes) -> int:
    """The return code, with nothing left behind that the next command could run into."""
    rc = device.rc(command)
    if device.refusal(PcrRead(0)) == Rc.SUCCESS:  # which also ends a SHA-1 calculation
        keys.flush_all(device.client)
    else:
        device.restore(device.prepared)
    return rc
