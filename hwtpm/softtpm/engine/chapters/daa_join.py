"""TPM_DAA_Join (Part 3 section 26.1): a TPM gets its secrets with a DAA issuer.

The stages' numbers are those of the specification; its action for stage n is n + 5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.softtpm.engine.daa_blobs import seal_blob
from hwtpm.softtpm.engine.daa_math import (
    MODULUS_SIZE,
    POWER1,
    V0_SIZE,
    V1_SIZE,
    blinding,
    number,
    secret_high,
    secret_low,
    shortest,
)
from hwtpm.softtpm.engine.daa_sessions import DaaSession
from hwtpm.softtpm.engine.daa_stages import (
    Outcome,
    Stage,
    Step,
    answer,
    blinded_pseudonym,
    challenge,
    fresh,
    last_answer,
    parse_issuer,
    pseudonym,
    pseudonym_base,
    run,
    seeded,
    split_answer,
    times,
)
from hwtpm.softtpm.engine.rsa import decrypt_given, verifies
from hwtpm.tpm12.commands.daa import DaaJoin, DaaJoinReply
from hwtpm.tpm12.const import DEFAULT_EXPONENT, KeyHandleValue, ResourceType
from hwtpm.tpm12.rc import Rc

__all__: list[str] = []

_COUNT_SIZE: Final = 4
_U0_SIZE: Final = 128
_U1_SIZE: Final = 138


def _count(data: bytes) -> int:
    if len(data) != _COUNT_SIZE:
        raise Refuse(Rc.DAA_INPUT_DATA0)
    return number(data)


def _signed_by(modulus: bytes, signature: bytes, signed: bytes) -> bool:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

    try:
        key = RSAPublicNumbers(DEFAULT_EXPONENT, number(modulus)).public_key()
    except ValueError:
        return False
    return verifies(key, signature, hashlib.sha1(signed).digest())


def _u0(session: DaaSession) -> int:
    return number(session.join_u0)


def _u1(session: DaaSession) -> int:
    return number(session.join_u1)


def _begin(call: Call, data0: bytes) -> DaaSession:
    """Stage 0. Until stage 3 the count is how often stage 1 comes."""
    session = fresh(call, joins=True, issuer=None, count=_count(data0))
    if session.tpm.count == 0:
        raise Refuse(Rc.DAA_INPUT_DATA0)
    return session


def _key_chain(step: Step) -> Outcome:
    """Stage 1, once for each modulus of the issuer's chain; each key signs the next."""
    if len(step.data0) != MODULUS_SIZE:
        raise Refuse(Rc.DAA_INPUT_DATA0)
    tpm, digest_n0 = step.session.tpm, step.session.digest_n0
    if not step.session.scratch:
        digest_n0 = hashlib.sha1(step.data0).digest()
        rekey = hashlib.sha1(step.call.tpm.permanent.daa_seed + digest_n0).digest()
        tpm = replace(tpm, rekey=rekey)
    elif len(step.data1) != MODULUS_SIZE:
        raise Refuse(Rc.DAA_INPUT_DATA1)
    elif not _signed_by(step.session.scratch, step.data1, step.data0):
        raise Refuse(Rc.DAA_ISSUER_VALIDITY)
    tpm = replace(tpm, count=tpm.count - 1)
    stage = 1 if tpm.count else 2
    changed = replace(step.session, stage=stage, tpm=tpm, digest_n0=digest_n0, scratch=step.data0)
    return changed, b""


def _settings(step: Step) -> Outcome:
    """Stage 2: the issuer's settings, signed by the last key of its chain."""
    issuer = parse_issuer(step.data0)
    if len(step.data1) != MODULUS_SIZE:
        raise Refuse(Rc.DAA_INPUT_DATA1)
    if not _signed_by(step.session.scratch, step.data1, step.session.digest_n0 + step.data0):
        raise Refuse(Rc.DAA_ISSUER_VALIDITY)
    tpm = replace(step.session.tpm, digest_issuer=issuer.digest())
    return step.advance(issuer=issuer, tpm=tpm, scratch=b""), b""


def _draw(step: Step) -> Outcome:
    """Stage 3: the count that tells this TPM's secrets with one issuer apart; u0 and u1."""
    tpm = replace(step.session.tpm, count=_count(step.data0))
    u0, u1 = step.call.tpm.random(_U0_SIZE), step.call.tpm.random(_U1_SIZE)
    return step.advance(tpm=tpm, join_u0=u0, join_u1=u1), b""


_last_factor_of_u: Final = times("S1", _u1, last=True)


def _commit(step: Step) -> Outcome:
    """Stage 7: U goes out, and its digest waits for stage 8."""
    after, u = _last_factor_of_u(step)
    assert after is not None
    bound = u + step.session.tpm.count.to_bytes(_COUNT_SIZE, "big") + step.session.digest_n0
    return replace(after, digest=hashlib.sha1(bound).digest()), u


def _prove_ek(step: Step) -> Outcome:
    """Stage 8: who opens NE and knows U has the EK. A wrong NE has no code of its own."""
    if len(step.data0) != MODULUS_SIZE:
        raise Refuse(Rc.DAA_INPUT_DATA0)
    ek = step.call.tpm.root_key(KeyHandleValue.EK)
    nonce = decrypt_given(ek.private, step.data0)
    proof = hashlib.sha1(step.session.digest + nonce).digest()
    return step.advance(digest=bytes(len(proof))), proof


def _s2(step: Step) -> Outcome:
    """Stage 19."""
    return step.advance(), split_answer(step.session, _u0(step.session))[0]


def _s12(step: Step) -> Outcome:
    """Stage 20."""
    carry = split_answer(step.session, _u0(step.session))[1]
    return step.advance(scratch=carry), step.session.digest


def _s3(step: Step) -> Outcome:
    """Stage 21."""
    return step.advance(scratch=b""), last_answer(step.session, "r3", _u1(step.session))


def _v0(step: Step) -> Outcome:
    """Stage 22: the lower part of the credential's v; the carry waits for stage 23."""
    if len(step.data0) != V0_SIZE:
        raise Refuse(Rc.DAA_INPUT_DATA0)
    carry, low = divmod(number(step.data0) + _u0(step.session), 1 << POWER1)
    v0 = low.to_bytes(V0_SIZE, "big")
    tpm = replace(step.session.tpm, digest_v0=hashlib.sha1(v0).digest())
    blob = seal_blob(step.call, ResourceType.DAA_V0, v0)
    return step.advance(tpm=tpm, scratch=shortest(carry)), blob


def _v1(step: Step) -> Outcome:
    """Stage 23: the upper part of v, refused if it does not fit DAA_SIZE_v1."""
    if len(step.data0) != V1_SIZE:
        raise Refuse(Rc.DAA_INPUT_DATA0)
    value = number(step.data0) + _u1(step.session) + number(step.session.scratch)
    if value >> 8 * V1_SIZE:
        raise Refuse(Rc.DAA_INPUT_DATA0)
    v1 = value.to_bytes(V1_SIZE, "big")
    tpm = replace(step.session.tpm, digest_v1=hashlib.sha1(v1).digest())
    blob = seal_blob(step.call, ResourceType.DAA_V1, v1)
    return step.advance(tpm=tpm, scratch=b""), blob


def _end(step: Step) -> Outcome:
    """Stage 24."""
    return None, seal_blob(step.call, ResourceType.DAA_TPM, step.session.tpm.encode())


_STAGES: Final[Mapping[int, Stage]] = {
    1: _key_chain,
    2: _settings,
    3: _draw,
    4: times("R0", secret_low),
    5: times("R1", secret_high),
    6: times("S0", _u0),
    7: _commit,
    8: _prove_ek,
    9: seeded(times("R0", blinding("r0"))),
    10: times("R1", blinding("r1")),
    11: times("S0", blinding("r2")),
    12: times("S1", blinding("r3"), last=True),
    13: pseudonym_base,
    14: pseudonym,
    15: blinded_pseudonym,
    16: challenge,
    17: answer("r0", secret_low),
    18: answer("r1", secret_high),
    19: _s2,
    20: _s12,
    21: _s3,
    22: _v0,
    23: _v1,
    24: _end,
}


@serves(DaaJoin)
def daa_join(call: Call, request: DaaJoin) -> DaaJoinReply:
    """26.1."""
    return DaaJoinReply(run(call, request, _begin, _STAGES))
