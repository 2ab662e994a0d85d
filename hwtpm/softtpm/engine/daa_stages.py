"""What the stages of TPM_DAA_Join and TPM_DAA_Sign share (Part 3 section 26).

A stage is a function from the session before it and the command's two inputs to the session after
it and the command's output. Many stages differ in a name only; some functions here make those.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from hwtpm.softtpm.engine.call import Call, Refuse
from hwtpm.softtpm.engine.daa_math import (
    MODULUS_SIZE,
    POWER0,
    POWER1,
    V0_SIZE,
    blinding,
    issuer_of,
    modulus,
    number,
    power,
    secret,
    shortest,
)
from hwtpm.softtpm.engine.daa_sessions import DaaSession
from hwtpm.tpm12.commands.daa import DaaJoin, DaaSign
from hwtpm.tpm12.const import DIGEST_SIZE
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types.daa import DaaIssuer, DaaTpm
from hwtpm.wire import WireError

__all__ = [
    "Outcome",
    "Stage",
    "Step",
    "answer",
    "blinded_pseudonym",
    "challenge",
    "fresh",
    "last_answer",
    "parse_issuer",
    "pseudonym",
    "pseudonym_base",
    "run",
    "seeded",
    "split_answer",
    "times",
]

Outcome = tuple[DaaSession | None, bytes]
"""The session after a stage, None if it has ended; outputData."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a stage works on: the session before it, inputData0 and inputData1."""

    call: Call
    session: DaaSession
    data0: bytes
    data1: bytes

    def advance(self, **changes: Any) -> DaaSession:
        """The session with these changes, waiting for the next stage."""
        return replace(self.session, stage=self.session.stage + 1, **changes)


Stage = Callable[[Step], Outcome]
Number = Callable[[DaaSession], int]

_NULL_DIGEST: Final = bytes(DIGEST_SIZE)
_BASES: Final[Mapping[str, Callable[[DaaIssuer], bytes]]] = {
    "R0": lambda issuer: issuer.digest_r0,
    "R1": lambda issuer: issuer.digest_r1,
    "S0": lambda issuer: issuer.digest_s0,
    "S1": lambda issuer: issuer.digest_s1,
}


# --- sessions ----------------------------------------------------------------------------------


def fresh(call: Call, *, joins: bool, issuer: DaaIssuer | None, count: int) -> DaaSession:
    """A session that waits for stage 1, with NULL in everything else.

    Raises:
        Refuse: RESOURCES if there is no room for one more.
    """
    return DaaSession(
        handle=call.tpm.daa.new_handle(),
        joins=joins,
        stage=1,
        issuer=issuer,
        tpm=DaaTpm(_NULL_DIGEST, _NULL_DIGEST, _NULL_DIGEST, _NULL_DIGEST, count),
        digest=_NULL_DIGEST,
        context_seed=_NULL_DIGEST,
        scratch=b"",
        join_u0=bytes(128),
        join_u1=bytes(138),
        digest_n0=_NULL_DIGEST,
    )


def run(
    call: Call,
    request: DaaJoin | DaaSign,
    begin: Callable[[Call, bytes], DaaSession],
    stages: Mapping[int, Stage],
) -> bytes:
    """The output of the stage that the request names; its session goes on or ends.

    Any error ends the session (action 2), a wrong proof of the owner included. What the dispatcher
    refuses was no valid command, and leaves it.

    Args:
        call: the command.
        request: its parameters.
        begin: stage 0, which makes a session from inputData0.
        stages: the other stages.
    """
    sessions = call.tpm.daa
    try:
        call.authorise_owner()
        if request.stage == 0:
            begun = begin(call, request.input_data0)
            call.after(lambda: sessions.put(begun))
            return begun.handle.to_bytes(4, "big")
        session = _waiting(call, request)
        step = Step(call, session, request.input_data0, request.input_data1)
        after, output = stages[request.stage](step)
    except BaseException:
        if request.stage:
            sessions.drop(request.handle)
        raise
    if after is None:
        call.after(lambda: sessions.drop(request.handle))
    else:
        call.after(lambda: sessions.put(after))
    return output


def _waiting(call: Call, request: DaaJoin | DaaSign) -> DaaSession:
    """The session that the request names, if it waits for the request's stage.

    Raises:
        Refuse: BAD_HANDLE; DAA_STAGE; DAA_ISSUER_SETTINGS or DAA_TPM_SETTINGS for a session of
            the other command, whose DAA_digestIssuer or DAA_digestContext would not fit.
    """
    session = call.tpm.daa.get(request.handle)
    if session is None:
        raise Refuse(Rc.BAD_HANDLE)
    if session.stage != request.stage:
        raise Refuse(Rc.DAA_STAGE)
    if session.joins != isinstance(request, DaaJoin):
        unsettled = session.issuer is None
        raise Refuse(Rc.DAA_ISSUER_SETTINGS if unsettled else Rc.DAA_TPM_SETTINGS)
    return session


# --- inputs ------------------------------------------------------------------------------------


def parse_issuer(data: bytes) -> DaaIssuer:
    """inputData0 as TPM_DAA_ISSUER.

    Raises:
        Refuse: DAA_INPUT_DATA0 if it is none, or q is missing.
    """
    try:
        issuer = DaaIssuer.decode(data)
    except WireError:
        raise Refuse(Rc.DAA_INPUT_DATA0) from None
    if number(issuer.generic_q) == 0:
        raise Refuse(Rc.DAA_INPUT_DATA0)
    return issuer


def _require(data: bytes, digest: bytes, wrong: Rc) -> None:
    if hashlib.sha1(data).digest() != digest:
        raise Refuse(wrong)


def _gamma(session: DaaSession, data: bytes) -> int:
    """inputData0 as the issuer's gamma."""
    _require(data, issuer_of(session).digest_gamma, Rc.DAA_INPUT_DATA0)
    return modulus(data, Rc.DAA_INPUT_DATA0)


# --- stages ------------------------------------------------------------------------------------


def times(base: str, exponent: Number, *, last: bool = False) -> Stage:
    """Multiply the scratch area by a power of R0, R1, S0 or S1, modulo n.

    Args:
        base: its name; inputData0 is its value, inputData1 is n.
        exponent: which number of the session.
        last: the product goes out instead of staying.
    """
    digest_of = _BASES[base]

    def stage(step: Step) -> Outcome:
        issuer = issuer_of(step.session)
        _require(step.data0, digest_of(issuer), Rc.DAA_INPUT_DATA0)
        _require(step.data1, issuer.digest_n, Rc.DAA_INPUT_DATA1)
        n = modulus(step.data1, Rc.DAA_INPUT_DATA1)
        factor = power(step.call.tpm.random, number(step.data0), exponent(step.session), n)
        product = (number(step.session.scratch or b"\1") * factor % n).to_bytes(MODULUS_SIZE, "big")
        if last:
            return step.advance(scratch=b""), product
        return step.advance(scratch=product), b""

    return stage


def seeded(stage: Stage) -> Stage:
    """The stage, after choosing the session's seed of r0 to r4 (join 9, sign 2)."""

    def with_seed(step: Step) -> Outcome:
        seed = step.call.tpm.random(DIGEST_SIZE)
        return stage(replace(step, session=replace(step.session, context_seed=seed)))

    return with_seed


def pseudonym_base(step: Step) -> Outcome:
    """Take over w, which has to be of order q modulo gamma (join 13, sign 6)."""
    gamma = _gamma(step.session, step.data0)
    if len(step.data1) != MODULUS_SIZE:
        raise Refuse(Rc.DAA_INPUT_DATA1)
    if pow(number(step.data1), number(issuer_of(step.session).generic_q), gamma) != 1:
        raise Refuse(Rc.DAA_WRONG_W)
    return step.advance(scratch=step.data1), b""


def pseudonym(step: Step) -> Outcome:
    """E = w^f modulo gamma (join 14, sign 7)."""
    gamma = _gamma(step.session, step.data0)
    e = power(step.call.tpm.random, number(step.session.scratch), secret(step.session), gamma)
    return step.advance(), shortest(e)


def blinded_pseudonym(step: Step) -> Outcome:
    """E1 = w^r modulo gamma, where r0 and r1 make r as f0 and f1 make f (join 15, sign 8)."""
    gamma = _gamma(step.session, step.data0)
    r = blinding("r0")(step.session) + (blinding("r1")(step.session) << POWER0)
    r %= number(issuer_of(step.session).generic_q)
    e1 = power(step.call.tpm.random, number(step.session.scratch), r, gamma)
    return step.advance(scratch=b""), shortest(e1)


def challenge(step: Step) -> Outcome:
    """c = SHA-1(c1 || NT), where NT is the TPM's nonce (join 16, sign 9)."""
    if len(step.data0) != DIGEST_SIZE:
        raise Refuse(Rc.DAA_INPUT_DATA0)
    nonce = step.call.tpm.random(DIGEST_SIZE)
    return step.advance(digest=hashlib.sha1(step.data0 + nonce).digest()), nonce


def answer(blind: str, value: Number) -> Stage:
    """s = r + c * value over the integers (join 17 and 18, sign 11 and 12)."""

    def stage(step: Step) -> Outcome:
        s = blinding(blind)(step.session) + number(step.session.digest) * value(step.session)
        return step.advance(), shortest(s)

    return stage


def split_answer(session: DaaSession, value: int) -> tuple[bytes, bytes]:
    """r2 + c * value over the integers, cut at DAA_power1 bits: s2 (128 bytes) and s12, the carry
    (join 19 and 20, sign 13 and 14)."""
    s = blinding("r2")(session) + number(session.digest) * value
    return (s % (1 << POWER1)).to_bytes(V0_SIZE, "big"), shortest(s >> POWER1)


def last_answer(session: DaaSession, blind: str, value: int) -> bytes:
    """s3 = r + c * value + s12 over the integers (join 21, sign 15)."""
    carry = number(session.scratch)
    return shortest(blinding(blind)(session) + number(session.digest) * value + carry)
