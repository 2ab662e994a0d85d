"""DAA on our engine and on libtpms as one TPM: what one joined, the other signs with.

Our engine takes over the permanent state of a libtpms TPM, DAA seed and blob key included.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from daa_issuer import Execute, Join, Sign, sha1, the_issuer, verifies
from engine_rig import EK, OWNER_AUTH, Rig, owned_libtpms

from hwtpm.softtpm.base import MemoryStorage, StateName
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.engine.entropy import RepeatableEntropy
from hwtpm.softtpm.engine.state import encode_permanent
from hwtpm.softtpm.migration import import_permanent
from hwtpm.tpm12.commands.endorsement import OwnerReadInternalPub
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.const import StartupType
from hwtpm.tpm12.types import PubKey

DIGEST = sha1(b"message")


@pytest.fixture(scope="module")
def twins() -> Iterator[tuple[Rig, Rig]]:
    """Our engine and libtpms with the same permanent state."""
    storage = MemoryStorage()
    theirs = Rig(owned_libtpms(storage))
    state = storage.load(StateName.PERMANENT)
    assert state is not None
    ours = MemoryStorage()
    permanent = import_permanent(state, RepeatableEntropy(b"unused").random)
    ours.store(StateName.PERMANENT, encode_permanent(permanent))
    engine = Engine(ours)
    engine.power_on()
    rig = Rig(engine)
    rig.run(Startup(StartupType.CLEAR))
    try:
        yield rig, theirs
    finally:
        theirs.client.close()


def owner_of(rig: Rig) -> Execute:
    return lambda request: rig.run(request, OWNER_AUTH).output_data


def ek_of(rig: Rig) -> PubKey:
    return rig.run(OwnerReadInternalPub(EK), OWNER_AUTH).public_portion


@pytest.mark.parametrize("joiner", [0, 1], ids=["ours", "libtpms"])
def test_each_signs_with_the_others_credential(twins: tuple[Rig, Rig], joiner: int) -> None:
    maker, user = twins[joiner], twins[1 - joiner]
    issuer = the_issuer()
    credential = Join(owner_of(maker), issuer, ek_of(maker), 4).finish()
    signature = Sign(owner_of(user), issuer.key, credential, 1, DIGEST).finish()
    assert verifies(issuer.key, signature, DIGEST)


def test_both_have_the_same_pseudonym_for_each_count(twins: tuple[Rig, Rig]) -> None:
    for count in (0, 1, 2**32 - 1):
        joins = [Join(owner_of(rig), the_issuer(), ek_of(rig), count) for rig in twins]
        for joining in joins:
            joining.finish()
        ours, theirs = (joining.proof.pseudonym for joining in joins)
        assert ours == theirs


def test_blobs_have_the_same_form(twins: tuple[Rig, Rig]) -> None:
    ours, theirs = (Join(owner_of(rig), the_issuer(), ek_of(rig)).finish() for rig in twins)
    constant = 2 + 4 + 16  # tag, resource type, label
    for mine, other in ((ours.tpm, theirs.tpm), (ours.v0, theirs.v0), (ours.v1, theirs.v1)):
        assert mine[:constant] == other[:constant]
        assert len(mine) == len(other)
