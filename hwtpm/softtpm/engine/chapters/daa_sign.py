"""TPM_DAA_Sign (Part 3 section 26.2): an anonymous signature over a message or an identity key.

The stages' numbers are those of the specification; its action for stage n is n + 4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.softtpm.engine.daa_blobs import open_blob
from hwtpm.softtpm.engine.daa_math import (
    V0_SIZE,
    V1_SIZE,
    blinding,
    issuer_of,
    number,
    secret_high,
    secret_low,
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
from hwtpm.softtpm.engine.release import check_release
from hwtpm.tpm12.commands.daa import DaaSign, DaaSignReply
from hwtpm.tpm12.const import DIGEST_SIZE, KeyUsage, ResourceType
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types.daa import DaaTpm

__all__: list[str] = []

_IDENTITY_KEY: Final = b"\0"
_MESSAGE: Final = b"\1"
_HANDLE_SIZE: Final = 4


def _begin(call: Call, data0: bytes) -> DaaSession:
    """Stage 0."""
    return fresh(call, joins=False, issuer=parse_issuer(data0), count=0)


def _load(step: Step) -> Outcome:
    """Stage 1: what the last stage of TPM_DAA_Join gave out."""
    tpm = DaaTpm.decode(open_blob(step.call, ResourceType.DAA_TPM, step.data0))
    if tpm.digest_issuer != issuer_of(step.session).digest():
        raise Refuse(Rc.DAA_ISSUER_SETTINGS)
    return step.advance(tpm=tpm), b""


def _subject(step: Step) -> Outcome:
    """Stage 10: bind the challenge to a message's digest or to an identity key's modulus."""
    if step.data0 == _MESSAGE:
        if len(step.data1) != DIGEST_SIZE:
            raise Refuse(Rc.DAA_INPUT_DATA1)
        subject = step.data1
    elif step.data0 == _IDENTITY_KEY:
        subject = _identity_modulus(step.call, step.data1)
    else:
        raise Refuse(Rc.DAA_INPUT_DATA0)
    digest = hashlib.sha1(step.session.digest + step.data0 + subject).digest()
    return step.advance(digest=digest), digest


def _identity_modulus(call: Call, data: bytes) -> bytes:
    """The modulus of the identity key with that handle, in the state that it is bound to."""
    if len(data) != _HANDLE_SIZE:
        raise Refuse(Rc.DAA_INPUT_DATA1)
    try:
        key = call.tpm.key(number(data))
        check_release(call, key.condition)
    except Refuse:
        raise Refuse(Rc.DAA_INPUT_DATA1) from None
    if key.key.key_usage != KeyUsage.IDENTITY:
        raise Refuse(Rc.DAA_INPUT_DATA1)
    return key.key.pub_key


def _v0(step: Step) -> int:
    """v0 from its blob, which must be of the same join as the session's secrets."""
    v0 = open_blob(step.call, ResourceType.DAA_V0, step.data0)
    return _known(v0.rjust(V0_SIZE, b"\0"), step.session.tpm.digest_v0)


def _v1(step: Step) -> int:
    """v1 likewise."""
    v1 = open_blob(step.call, ResourceType.DAA_V1, step.data0)
    return _known(v1.rjust(V1_SIZE, b"\0"), step.session.tpm.digest_v1)


def _known(v: bytes, digest: bytes) -> int:
    if hashlib.sha1(v).digest() != digest:
        raise Refuse(Rc.DAA_INPUT_DATA0)
    return number(v)


def _s2(step: Step) -> Outcome:
    """Stage 13."""
    return step.advance(), split_answer(step.session, _v0(step))[0]


def _s12(step: Step) -> Outcome:
    """Stage 14."""
    return step.advance(scratch=split_answer(step.session, _v0(step))[1]), b""


def _s3(step: Step) -> Outcome:
    """Stage 15."""
    return None, last_answer(step.session, "r4", _v1(step))


_STAGES: Final[Mapping[int, Stage]] = {
    1: _load,
    2: seeded(times("R0", blinding("r0"))),
    3: times("R1", blinding("r1")),
    4: times("S0", blinding("r2")),
    5: times("S1", blinding("r4"), last=True),
    6: pseudonym_base,
    7: pseudonym,
    8: blinded_pseudonym,
    9: challenge,
    10: _subject,
    11: answer("r0", secret_low),
    12: answer("r1", secret_high),
    13: _s2,
    14: _s12,
    15: _s3,
}


@serves(DaaSign)
def daa_sign(call: Call, request: DaaSign) -> DaaSignReply:
    """26.2."""
    return DaaSignReply(run(call, request, _begin, _STAGES))
