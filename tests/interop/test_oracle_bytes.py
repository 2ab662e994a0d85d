"""Our engine and libtpms from one and the same permanent state: equal byte for byte, or after
masking what is random.

Keys, proofs, counters, NV areas and tables are those of one TPM, carried by the product's own
export. Ticks, free-space figures and who the manufacturer is remain different.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from busy_tpm import COUNTER_AUTH, DIR, NV_DATA, NV_INDEX, fill
from engine_pair import rc_of
from engine_rig import EK, KEY_AUTH, OWNER_AUTH, SRK, Rig, take_ownership, template
from oracle import oracle

from hwtpm.softtpm.base import MemoryStorage, StateName
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.engine.state import encode_permanent
from hwtpm.tpm12.commands.auditing import SetOrdinalAuditStatus
from hwtpm.tpm12.commands.capability import GetCapability
from hwtpm.tpm12.commands.counters import IncrementCounter, ReadCounter
from hwtpm.tpm12.commands.cryptography import (
    CertifyKey,
    SHA1Complete,
    SHA1Start,
    SHA1Update,
    Sign,
)
from hwtpm.tpm12.commands.delegation import DelegateReadTable
from hwtpm.tpm12.commands.deprecated import DirRead, DirWriteAuth
from hwtpm.tpm12.commands.endorsement import (
    CreateEndorsementKeyPair,
    OwnerReadInternalPub,
    ReadPubek,
)
from hwtpm.tpm12.commands.integrity import Extend, PcrRead, PcrReset, Quote
from hwtpm.tpm12.commands.nv import NvReadValue, NvWriteValue
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.commands.storage import GetPubKey
from hwtpm.tpm12.const import Capability, CapProperty, KeyUsage, StartupType, Tag
from hwtpm.tpm12.table import TABLE, Request
from hwtpm.tpm12.types import PcrSelection
from hwtpm.wire import Struct

AUTH_TRAILER = 41  # nonceEven, continueAuthSession, resAuth
MASK = bytes(20)
PCRS = PcrSelection.of((1, 10, 16))
LIBTPMS_LACKS = {
    "TPM_CreateMaintenanceArchive",
    "TPM_LoadMaintenanceArchive",
    "TPM_KillMaintenanceFeature",
    "TPM_LoadManuMaintPub",
    "TPM_ReadManuMaintPub",
    "TPM_SetRedirection",
    "TPM_FieldUpgrade",
}
TAKES_SECONDS = {"TPM_SelfTestFull", "TPM_ContinueSelfTest"}
SIGNER = template(KeyUsage.SIGNING, 1024)


class Side:
    """One of the two TPMs, and what it answered last to each command."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self._answers: dict[int, bytes] = {}
        execute = rig.wire.execute

        def listening(command: bytes) -> bytes:
            answer = execute(command)
            self._answers[int.from_bytes(command[6:10], "big")] = answer
            return answer

        rig.wire.execute = listening  # type: ignore[method-assign]
        # The caller's nonces: what the two are asked is the same, byte for byte.
        rig.client.random = lambda size: b"\x5a" * size

    def answer(self, request: Request[Struct], *secrets: bytes) -> bytes:
        """The whole answer, but for the nonces and HMACs of its sessions."""
        self.rig.refusal(request, *secrets)
        answer = self._answers[request.command.ordinal]
        trailers = max(0, int.from_bytes(answer[:2], "big") - Tag.RSP_COMMAND)
        at = len(answer) - trailers * AUTH_TRAILER
        masked = answer[:at]
        for _ in range(trailers):
            masked += MASK + answer[at + 20 : at + 21] + MASK
            at += AUTH_TRAILER
        return masked


@dataclass(frozen=True, slots=True)
class Twins:
    """The same TPM twice, with an owner-evict key that has the same handle in both."""

    ours: Side
    theirs: Side
    evict: int

    def same(self, request: Request[Struct], *secrets: bytes) -> bytes:
        """Both answer alike, be it a refusal or a reply; returns the masked answer."""
        return self.same_each(request, request, *secrets)

    def same_each(self, ours: Request[Struct], theirs: Request[Struct], *secrets: bytes) -> bytes:
        """The same, where handles are the TPM's own."""
        answer, expected = self.ours.answer(ours, *secrets), self.theirs.answer(theirs, *secrets)
        assert answer == expected, f"{ours}: {answer.hex()} instead of {expected.hex()}"
        return answer


@pytest.fixture(scope="module")
def twins() -> Iterator[Twins]:
    with oracle() as libtpms:
        libtpms.power_on()
        maker = libtpms.rig()
        maker.run(Startup(StartupType.CLEAR))
        take_ownership(maker)
        evict = fill(maker)
        permanent = libtpms.permanent
        storage = MemoryStorage()
        storage.store(StateName.PERMANENT, encode_permanent(permanent))
        engine = Engine(storage)
        engine.power_on()
        libtpms.power_on(permanent)
        sides = Side(Rig(engine)), Side(libtpms.rig())
        for side in sides:
            side.rig.run(Startup(StartupType.CLEAR))
        yield Twins(*sides, evict)


def test_the_oracle_repeats_with_its_seed_and_only_with_it() -> None:
    with oracle(b"a seed") as one, oracle(b"a seed") as two, oracle(b"another") as three:
        first, again, other = one.rig(), two.rig(), three.rig()
        answers = []
        for made, rig in ((one, first), (two, again), (three, other)):
            made.power_on()
            rig.run(Startup(StartupType.CLEAR))
            # OAEP pads with this process's randomness: only what libtpms makes can repeat.
            parms = template(KeyUsage.STORAGE).algorithm_parms
            reply = rig.run(CreateEndorsementKeyPair(bytes(20), parms))
            answers.append((reply.encode(), made.blob))
    assert answers[0] == answers[1]
    assert answers[0][0] != answers[2][0]


def ok(answer: bytes) -> bytes:
    assert rc_of(answer) == 0
    return answer


# --- byte for byte -------------------------------------------------------------------------------


def number(value: int) -> bytes:
    return value.to_bytes(4, "big")


PROPERTIES = (
    CapProperty.PCR,
    CapProperty.DIR,
    CapProperty.KEYS,
    CapProperty.OWNER,
    CapProperty.COUNTERS,
    CapProperty.MAX_COUNTERS,
    CapProperty.ACTIVE_COUNTER,
    CapProperty.FAMILYROWS,
    CapProperty.DELEGATE_ROW,
    CapProperty.INPUT_BUFFER,
)
FLAG_PERMANENT, FLAG_STCLEAR = number(0x108), number(0x109)


@pytest.mark.parametrize(
    "request_",
    [
        *(PcrRead(index) for index in (0, 10, 16, 17, 23)),
        Extend(10, b"e" * 20),
        PcrReset(PcrSelection.of((16,))),
        Extend(16, b"e" * 20),
        DirRead(0),
        *(ReadCounter(handle) for handle in range(4)),
        DelegateReadTable(),
        ReadPubek(bytes(20)),
        NvReadValue(NV_INDEX, 0, len(NV_DATA)),
        NvReadValue(NV_INDEX, 0, 0),
        SHA1Start(),
        SHA1Update(b"x" * 64),
        SHA1Complete(b"y"),
        GetCapability(Capability.NV_LIST, b""),
        GetCapability(Capability.NV_INDEX, number(NV_INDEX)),
        GetCapability(Capability.NV_INDEX, number(NV_INDEX + 1)),
        GetCapability(Capability.FLAG, FLAG_PERMANENT),
        GetCapability(Capability.FLAG, FLAG_STCLEAR),
        *(GetCapability(Capability.PROPERTY, number(which)) for which in PROPERTIES),
    ],
    ids=lambda request: str(request)[:60],
)
def test_the_same_bytes_without_authorisation(twins: Twins, request_: Request[Struct]) -> None:
    twins.same(request_)


def test_the_same_layout_under_authorisation(twins: Twins) -> None:
    for request in (
        OwnerReadInternalPub(EK),
        OwnerReadInternalPub(SRK),
        NvReadValue(NV_INDEX, 0, len(NV_DATA)),
        NvWriteValue(NV_INDEX, 2, b"new"),
        NvReadValue(NV_INDEX, 0, len(NV_DATA)),
        DirWriteAuth(0, DIR[::-1]),
        SetOrdinalAuditStatus(0x15, True),
    ):
        ok(twins.same(request, OWNER_AUTH))
    ok(twins.same(GetPubKey(twins.evict), KEY_AUTH))
    ok(twins.same(IncrementCounter(1), COUNTER_AUTH))
    assert rc_of(twins.same(IncrementCounter(0), COUNTER_AUTH)) != 0
    ok(twins.same(DirRead(0)))


def test_signatures_are_the_same(twins: Twins) -> None:
    made = twins.ours.rig.create_key(SIGNER)
    ours, theirs = (side.rig.load(made).handle for side in (twins.ours, twins.theirs))
    both = (ours, theirs), (twins.evict, twins.evict)
    for mine, other in both:
        ok(twins.same_each(Sign(mine, b"s" * 20), Sign(other, b"s" * 20), KEY_AUTH))
        ok(twins.same_each(Quote(mine, b"n" * 20, PCRS), Quote(other, b"n" * 20, PCRS), KEY_AUTH))
    for mine, other in both:
        ok(
            twins.same_each(
                CertifyKey(mine, twins.evict, b"a" * 20),
                CertifyKey(other, twins.evict, b"a" * 20),
                KEY_AUTH,
                KEY_AUTH,
            )
        )


# --- refusals ------------------------------------------------------------------------------------


def test_refusals_are_the_same_bytes(twins: Twins) -> None:
    """Commands with no parameters at all, under every tag, on a TPM with an owner."""
    different = []
    for row in TABLE:
        if row.request is None or row.name in LIBTPMS_LACKS | TAKES_SECONDS:
            continue
        for tag in (0x00C1, 0x00C2, 0x00C3):
            command = tag.to_bytes(2, "big") + number(10) + number(row.ordinal)
            answers = tuple(s.rig.wire.execute(command) for s in (twins.ours, twins.theirs))
            if answers[0] != answers[1] and rc_of(answers[1]):
                different.append((row.name, tag, *(answer.hex() for answer in answers)))
    assert not different, different
