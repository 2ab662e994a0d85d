"""DAA inside our engine: what a session is between two stages, and whose blobs are taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from daa_issuer import (
    JOIN_ORDER,
    SIGN_ORDER,
    Credential,
    Execute,
    Join,
    Sign,
    sha1,
    the_issuer,
    verifies,
)
from engine_rig import (
    EK,
    OWNER_AUTH,
    Identity,
    Rig,
    new_identity,
    owned_engine,
    pcr_info,
    template,
)

from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.engine.daa_math import power
from hwtpm.softtpm.engine.daa_sessions import DaaSession
from hwtpm.softtpm.engine.entropy import RepeatableEntropy
from hwtpm.tpm12.commands.integrity import Extend, PcrRead
from hwtpm.tpm12.const import KeyUsage
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import PcrSelection, pcr_composite_hash

DIGEST = sha1(b"message")
JUNK = (b"", b"\0", bytes(20), bytes(256), b"\xff" * 256, b"\xff" * 2000)


@pytest.fixture(scope="module")
def identity() -> Identity:
    return new_identity()


@pytest.fixture
def engine(identity: Identity) -> Engine:
    return owned_engine(identity)


def owner_of(engine: Engine) -> Execute:
    rig = Rig(engine)
    return lambda request: rig.run(request, OWNER_AUTH).output_data


def join(engine: Engine) -> Join:
    assert engine.permanent.ek is not None
    return Join(owner_of(engine), the_issuer(), engine.root_key(EK).public)


def sign(engine: Engine, credential: Credential) -> Sign:
    return Sign(owner_of(engine), the_issuer().key, credential, 1, DIGEST)


def refusal(engine: Engine, session: Join | Sign, stage: int, *data: bytes) -> int:
    return Rig(engine).refusal(session.command(stage, *data), OWNER_AUTH)


def between_stages(engine: Engine) -> Iterator[DaaSession]:
    """The session after every stage of a join and a signature but the last ones."""
    joining = join(engine)
    for _ in JOIN_ORDER[:-1]:
        joining.step()
        yield from engine.daa
    signing = sign(engine, joining.finish())
    for _ in SIGN_ORDER[:-1]:
        signing.step()
        yield from engine.daa


def test_a_session_is_whole_in_its_encoding(engine: Engine) -> None:
    sessions = list(between_stages(engine))
    assert len(sessions) == len(JOIN_ORDER) + len(SIGN_ORDER) - 2
    for session in sessions:
        assert DaaSession.decode(session.encode()) == session


def test_a_session_does_not_show_its_secrets(engine: Engine) -> None:
    for session in between_stages(engine):
        shown = repr(session)
        secrets = (session.context_seed, session.join_u0, session.join_u1, session.tpm.rekey)
        for secret in filter(any, secrets):  # zeros are none
            assert repr(secret) not in shown


def test_junk_at_any_stage_is_refused_or_taken(engine: Engine) -> None:
    joining = join(engine)
    try_junk(engine, joining, JOIN_ORDER)
    try_junk(engine, sign(engine, joining.finish()), SIGN_ORDER)


def try_junk(engine: Engine, session: Join | Sign, order: tuple[int, ...]) -> None:
    """Junk to every stage, each time with the session as it was, and then the right input."""
    for stage in order:
        before = list(engine.daa)
        for junk in JUNK:
            rc = refusal(engine, session, stage, junk, junk)
            assert rc in set(Rc) - {Rc.FAIL}
            engine.daa.clear()
            for kept in before:
                engine.daa.put(kept)
        session.step()


@pytest.mark.parametrize("modulus", [bytes(256), bytes(255) + b"\1", b"\xff" * 255 + b"\xfe"])
def test_a_modulus_that_makes_no_key_signs_nothing(engine: Engine, modulus: bytes) -> None:
    """26.1 stage 1 asks nothing of the first modulus of a chain but its size."""
    joining = join(engine)
    joining.until(1)
    assert refusal(engine, joining, 1, modulus, b"") == 0
    rc = refusal(engine, joining, 1, b"\xff" * 256, bytes(255) + b"\1")
    assert rc == Rc.DAA_ISSUER_VALIDITY


def test_a_refused_stage_changes_nothing_else(engine: Engine) -> None:
    first, second = join(engine), join(engine)
    first.until(5)
    second.until(5)
    before = [session for session in engine.daa if session.handle == second.handle]
    assert refusal(engine, first, 4, b"", b"") == Rc.DAA_INPUT_DATA0
    assert list(engine.daa) == before
    second.finish()


@pytest.mark.parametrize("changed", [{"daa_proof": bytes(20)}, {"daa_blob_key": bytes(16)}])
def test_blobs_do_not_outlive_the_tpms_secrets(engine: Engine, changed: dict[str, bytes]) -> None:
    credential = join(engine).finish()
    engine.permanent = replace(engine.permanent, **changed)
    signing = sign(engine, credential)
    signing.until(1)
    assert refusal(engine, signing, 1, credential.tpm, b"") == Rc.DAA_INPUT_DATA0


def test_another_tpm_takes_no_blob(engine: Engine, identity: Identity) -> None:
    credential = join(engine).finish()
    other = owned_engine(identity)
    signing = sign(other, credential)
    signing.until(1)
    assert refusal(other, signing, 1, credential.tpm, b"") == Rc.DAA_INPUT_DATA0


def test_a_new_seed_makes_another_tpm_of_it(engine: Engine) -> None:
    before, after = join(engine), join(engine)
    before.until(16)
    engine.permanent = replace(engine.permanent, daa_seed=bytes(20))
    after.until(16)
    assert before.proof.pseudonym != after.proof.pseudonym


def test_an_identity_key_is_not_signed_in_the_wrong_state(engine: Engine) -> None:
    rig = Rig(engine)
    selection = PcrSelection.of((16,))
    digest = pcr_composite_hash(selection, {16: rig.run(PcrRead(16)).out_digest})
    aik = rig.make_identity(template(KeyUsage.IDENTITY, pcr_info=pcr_info((16,), digest))).id_key
    handle = rig.load(aik).handle.to_bytes(4, "big")
    credential = join(engine).finish()
    key = the_issuer().key
    signature = Sign(owner_of(engine), key, credential, 0, handle).finish()
    assert verifies(key, signature, aik.pub_key)
    rig.run(Extend(16, bytes(20)))
    signing = Sign(owner_of(engine), key, credential, 0, handle)
    signing.until(10)
    assert refusal(engine, signing, 10, b"\0", handle) == Rc.DAA_INPUT_DATA1


def test_powers_by_split_exponents() -> None:
    random = RepeatableEntropy(b"powers").random
    key = the_issuer().key
    for exponent in (0, 1, 2, 255, 256, key.rho, 1 << 1751):
        assert power(random, key.r0, exponent, key.n) == pow(key.r0, exponent, key.n)
    assert power(random, 5, 7, 1) == 0
