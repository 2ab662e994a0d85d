"""DAA outside the TPM: issuer, host and verifier, with mathematics of their own.

Source: E. Brickell, J. Camenisch, L. Chen, "Direct Anonymous Attestation", CCS 2004. The host
blinds its credential as TSS 1.2 does, T = A * S^w, so that one equation is proven instead of
three. Names are those of the paper; all numbers go over the wire big-endian.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from hwtpm.client.rsa import oaep_encrypt, to_public_key
from hwtpm.tpm12.commands.daa import DaaJoin, DaaSign
from hwtpm.tpm12.types import PubKey
from hwtpm.tpm12.types.daa import DaaIssuer

PARAMETERS: Final = Path(__file__).parent / "data" / "daa_issuer.json"

Execute = Callable[[DaaJoin | DaaSign], bytes]
"""Send the command with the owner's authorisation; returns outputData."""

SIZE: Final = 256  # bytes of numbers modulo n or gamma
F_BITS: Final = 104  # l_f, DAA_power0
S_BITS: Final = 1024  # l_s, DAA_power1
E_BITS: Final = 368  # l_e
E_RANGE_BITS: Final = 120  # l'_e
V_BITS: Final = 2536  # l_v
N_BITS: Final = 2048  # l_n
ZK_BITS: Final = 80  # l_phi
HASH_BITS: Final = 160  # l_H
E_OFFSET: Final = 1 << E_BITS - 1

# Stage 1 once for each of the two keys of the issuer's chain.
JOIN_ORDER: Final[tuple[int, ...]] = (0, 1, 1, *range(2, 25))
SIGN_ORDER: Final[tuple[int, ...]] = tuple(range(16))


def number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def wide(value: int) -> bytes:
    return value.to_bytes(SIZE, "big")


def sha1(*parts: bytes) -> bytes:
    return hashlib.sha1(b"".join(parts)).digest()


def is_prime(odd: int, rounds: int = 20) -> bool:
    """Miller-Rabin with random bases."""
    twos = ((odd - 1) & -(odd - 1)).bit_length() - 1
    for _ in range(rounds):
        x = pow(secrets.randbelow(odd - 3) + 2, odd >> twos, odd)
        if x == 1:
            continue
        for _ in range(twos):
            if x == odd - 1:
                break
            x = x * x % odd
        else:
            return False
    return True


def _from_text(text: str, modulus: int) -> int:
    """A number that nobody chose, of 2304 bits before it is reduced."""
    blocks = (sha1(text.encode(), bytes([i])) for i in range(15))
    return number(b"".join(blocks)[:288]) % modulus


# --- the issuer's keys -------------------------------------------------------------------------


@dataclass(frozen=True)
class IssuerKey:
    """An issuer's public key: S0 is S of the paper, S1 is S^(2^l_s)."""

    n: int
    r0: int
    r1: int
    s0: int
    s1: int
    z: int
    gamma: int
    rho: int

    @cached_property
    def settings(self) -> DaaIssuer:
        """What the TPM gets to know."""
        return DaaIssuer(
            digest_r0=sha1(wide(self.r0)),
            digest_r1=sha1(wide(self.r1)),
            digest_s0=sha1(wide(self.s0)),
            digest_s1=sha1(wide(self.s1)),
            digest_n=sha1(wide(self.n)),
            digest_gamma=sha1(wide(self.gamma)),
            generic_q=self.rho.to_bytes(26, "big"),
        )

    @cached_property
    def digest(self) -> bytes:
        return sha1(self.settings.encode(), wide(self.z))

    def pseudonym_base(self, basename: bytes) -> int:
        """zeta: an element of order rho that follows from the verifier's name."""
        spread = b"".join(sha1(basename, bytes([i])) for i in range(15))
        return pow(number(spread), (self.gamma - 1) // self.rho, self.gamma)


class Issuer:
    """An issuer with its secrets: n = p * q for safe primes, and the discrete logarithms to S."""

    def __init__(self) -> None:
        stored = {
            k: int(v, 16) for k, v in json.loads(PARAMETERS.read_text()).items() if k != "source"
        }
        self.p, self.q = stored["p"], stored["q"]
        n = self.p * self.q
        self.order = (self.p - 1) // 2 * ((self.q - 1) // 2)
        s = pow(_from_text("S", n), 2, n)
        self.logs = {name: _from_text(f"log {name}", self.order) for name in ("R0", "R1", "Z")}
        self.key = IssuerKey(
            n=n,
            r0=pow(s, self.logs["R0"], n),
            r1=pow(s, self.logs["R1"], n),
            s0=s,
            s1=pow(s, 1 << S_BITS, n),
            z=pow(s, self.logs["Z"], n),
            gamma=stored["gamma"],
            rho=stored["rho"],
        )
        self.settings = self.key.settings
        self.chain = [rsa.generate_private_key(65537, 2048) for _ in range(2)]

    @cached_property
    def moduli(self) -> list[bytes]:
        """n0, the root of the issuer's keys, and those that follow."""
        return [wide(key.public_key().public_numbers().n) for key in self.chain]

    def sign_modulus(self, index: int) -> bytes:
        """What lets the TPM go on from one key of the chain to this one; nothing for the root."""
        return _sign(self.chain[index - 1], self.moduli[index]) if index else b""

    def sign_settings(self) -> bytes:
        return _sign(self.chain[-1], sha1(self.moduli[0]) + self.settings.encode())

    def check(self, request: JoinProof, nonce: bytes) -> None:
        """AssertionError unless the TPM proved that it has the EK and knows f, u0 and u1."""
        key = self.key
        bound = sha1(wide(request.u), request.count.to_bytes(4, "big"), sha1(self.moduli[0]))
        assert request.ek_proof == sha1(bound, nonce)
        c = number(request.c)
        blinded_u = (
            pow(request.u, -c, key.n)
            * pow(key.r0, request.s0, key.n)
            * pow(key.r1, request.s1, key.n)
            * pow(key.s0, request.s2, key.n)
            * pow(key.s1, request.s3, key.n)
        ) % key.n
        base = request.base
        assert pow(base, key.rho, key.gamma) == pow(request.pseudonym, key.rho, key.gamma) == 1
        blinded_pseudonym = (
            pow(request.pseudonym, -c, key.gamma)
            * pow(base, request.s0 + (request.s1 << F_BITS), key.gamma)
        ) % key.gamma
        c1 = join_challenge(key, request, blinded_u, blinded_pseudonym)
        assert request.c == sha1(c1, request.tpm_nonce)
        limit = F_BITS + ZK_BITS + HASH_BITS + 1
        assert max(request.s0, request.s1) < 1 << limit

    def credential(self, u: int) -> tuple[int, int, int]:
        """A, e and v'' such that A^e * U * S^v'' = Z."""
        e = E_OFFSET | secrets.randbits(E_RANGE_BITS - 1) | 1
        while not is_prime(e):
            e += 2
        v = 1 << V_BITS - 1 | secrets.randbits(V_BITS - 1)
        n = self.key.n
        power = self.key.z * pow(u * pow(self.key.s0, v, n), -1, n)
        return pow(power, pow(e, -1, self.order), n), e, v


@cache
def the_issuer() -> Issuer:
    """One issuer for all tests of a run."""
    return Issuer()


def _sign(key: rsa.RSAPrivateKey, data: bytes) -> bytes:
    return key.sign(data, padding.PKCS1v15(), hashes.SHA1())


# --- joining -----------------------------------------------------------------------------------


@dataclass
class JoinProof:
    """What a host sends to the issuer."""

    count: int
    base: int
    u: int = 0
    ek_proof: bytes = b""
    pseudonym: int = 0
    tpm_nonce: bytes = b""
    c: bytes = b""
    s0: int = 0
    s1: int = 0
    s2: int = 0
    s3: int = 0


def join_challenge(key: IssuerKey, proof: JoinProof, blinded_u: int, pseudonym: int) -> bytes:
    """c1 of the join, by host and issuer alike."""
    numbers = (proof.u, blinded_u, proof.base, proof.pseudonym, pseudonym)
    return sha1(key.digest, *map(wide, numbers))


@dataclass(frozen=True)
class Credential:
    """What a host keeps: A and e in the open, the TPM's secrets in its blobs."""

    a: int
    e: int
    tpm: bytes
    v0: bytes
    v1: bytes


@dataclass
class Join:
    """A join under way. `inputs` says what a stage gets, `take` keeps what it gave."""

    execute: Execute
    issuer: Issuer
    ek: PubKey
    count: int = 0
    handle: int = 0
    outputs: dict[int, bytes] = field(default_factory=dict)
    _position: int = 0

    def __post_init__(self) -> None:
        base = self.issuer.key.pseudonym_base(b"issuer")
        self.proof = JoinProof(self.count, base)
        self.nonce = secrets.token_bytes(20)
        self._blinded_u = 0

    def inputs(self, stage: int) -> tuple[bytes, bytes]:
        """inputData0 and inputData1 that carry the join on at its present position."""
        issuer, key = self.issuer, self.issuer.key
        n, gamma = wide(key.n), wide(key.gamma)
        if stage == 0:
            return len(issuer.chain).to_bytes(4, "big"), b""
        if stage == 1:
            return issuer.moduli[self._position - 1], issuer.sign_modulus(self._position - 1)
        if stage == 2:
            return issuer.settings.encode(), issuer.sign_settings()
        if stage == 3:
            return self.count.to_bytes(4, "big"), b""
        if stage == 8:
            return oaep_encrypt(to_public_key(self.ek), self.nonce), b""
        if stage == 13:
            return gamma, wide(self.proof.base)
        if stage in (14, 15):
            return gamma, b""
        if stage == 16:
            blinded = number(self.outputs[15])
            return join_challenge(key, self.proof, self._blinded_u, blinded), b""
        if stage == 22:
            self._obtain()
            return (self._v % (1 << S_BITS)).to_bytes(128, "big"), b""
        if stage == 23:
            return (self._v >> S_BITS).to_bytes(192, "big"), b""
        bases = {4: key.r0, 5: key.r1, 6: key.s0, 7: key.s1}
        base = bases.get(stage) or bases.get(stage - 5)
        return (b"", b"") if base is None else (wide(base), n)

    def take(self, stage: int, output: bytes) -> None:
        proof = self.proof
        self.outputs[stage] = output
        match stage:
            case 0:
                self.handle = number(output)
            case 7:
                proof.u = number(output)
            case 8:
                proof.ek_proof = output
            case 12:
                self._blinded_u = number(output)
            case 14:
                proof.pseudonym = number(output)
            case 16:
                proof.tpm_nonce = output
            case 17:
                proof.s0 = number(output)
            case 18:
                proof.s1 = number(output)
            case 19:
                proof.s2 = number(output)
            case 20:
                proof.c = output
            case 21:
                proof.s3 = number(output)

    def _obtain(self) -> None:
        """Let the issuer check the proof and make the credential."""
        key = self.issuer.key
        self.issuer.check(self.proof, self.nonce)
        self.a, self.e, self._v = self.issuer.credential(self.proof.u)
        product = pow(self.a, self.e, key.n) * self.proof.u * pow(key.s0, self._v, key.n)
        assert product % key.n == key.z

    def command(self, stage: int, data0: bytes, data1: bytes) -> DaaJoin:
        return DaaJoin(self.handle, stage, data0, data1)

    def due(self) -> DaaJoin:
        """The stage at the present position."""
        stage = JOIN_ORDER[self._position]
        return self.command(stage, *self.inputs(stage))

    def done(self, output: bytes) -> int:
        """What the stage that was due has given; returns its number."""
        stage = JOIN_ORDER[self._position]
        self.take(stage, output)
        self._position += 1
        return stage

    def step(self) -> int:
        """Run the stage at the present position; returns its number."""
        return self.done(self.execute(self.due()))

    def until(self, position: int) -> None:
        """Run the stages before that position of JOIN_ORDER."""
        while self._position < position:
            self.step()

    def finish(self) -> Credential:
        self.until(len(JOIN_ORDER))
        return self.credential

    @property
    def credential(self) -> Credential:
        """What all stages together have given."""
        return Credential(self.a, self.e, *(self.outputs[stage] for stage in (24, 22, 23)))


# --- signing -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Signature:
    """An anonymous signature; `selector` 1 for a message's digest, 0 for an AIK's modulus."""

    t: int
    base: int
    pseudonym: int
    tpm_nonce: bytes
    c: bytes
    selector: int
    s0: int
    s1: int
    sv: int
    se: int


def sign_challenge(
    key: IssuerKey, nonce: bytes, t: int, blinded_t: int, base: int, pseudonym: int, blinded: int
) -> bytes:
    """c1 of a signature, by host and verifier alike."""
    return sha1(key.digest, nonce, *map(wide, (t, blinded_t, base, pseudonym, blinded)))


@dataclass
class Sign:
    """A signature under way.

    `subject` is what stage 10 gets with `selector`: a digest, or an AIK's handle.
    """

    execute: Execute
    key: IssuerKey
    credential: Credential
    selector: int
    subject: bytes
    basename: bytes = b"verifier"
    nonce: bytes = bytes(20)
    handle: int = 0
    outputs: dict[int, bytes] = field(default_factory=dict)
    _position: int = 0

    def __post_init__(self) -> None:
        key, credential = self.key, self.credential
        self.base = key.pseudonym_base(self.basename)
        self._w = secrets.randbits(N_BITS + ZK_BITS)
        self._re = secrets.randbits(E_RANGE_BITS + ZK_BITS + HASH_BITS)
        self._rv = secrets.randbits(E_BITS + N_BITS + 2 * ZK_BITS + HASH_BITS + 1)
        self.t = credential.a * pow(key.s0, self._w, key.n) % key.n

    def inputs(self, stage: int) -> tuple[bytes, bytes]:
        """inputData0 and inputData1 that carry the signature on."""
        key, credential = self.key, self.credential
        n, gamma = wide(key.n), wide(key.gamma)
        return {
            0: (key.settings.encode(), b""),
            1: (credential.tpm, b""),
            2: (wide(key.r0), n),
            3: (wide(key.r1), n),
            4: (wide(key.s0), n),
            5: (wide(key.s1), n),
            6: (gamma, wide(self.base)),
            7: (gamma, b""),
            8: (gamma, b""),
            9: (self._challenge() if stage == 9 else b"", b""),
            10: (bytes([self.selector]), self.subject),
            13: (credential.v0, b""),
            14: (credential.v0, b""),
            15: (credential.v1, b""),
        }.get(stage, (b"", b""))

    def _challenge(self) -> bytes:
        key = self.key
        blinded_t = number(self.outputs[5]) * pow(self.t, self._re, key.n)
        blinded_t = blinded_t * pow(key.s0, self._rv, key.n) % key.n
        pseudonym, blinded = number(self.outputs[7]), number(self.outputs[8])
        return sign_challenge(key, self.nonce, self.t, blinded_t, self.base, pseudonym, blinded)

    def command(self, stage: int, data0: bytes, data1: bytes) -> DaaSign:
        return DaaSign(self.handle, stage, data0, data1)

    def due(self) -> DaaSign:
        """The stage at the present position."""
        stage = SIGN_ORDER[self._position]
        return self.command(stage, *self.inputs(stage))

    def done(self, output: bytes) -> int:
        """What the stage that was due has given; returns its number."""
        stage = SIGN_ORDER[self._position]
        self.outputs[stage] = output
        if stage == 0:
            self.handle = number(output)
        self._position += 1
        return stage

    def step(self) -> int:
        """Run the stage at the present position; returns its number."""
        return self.done(self.execute(self.due()))

    def until(self, position: int) -> None:
        """Run the stages before that position of SIGN_ORDER."""
        while self._position < position:
            self.step()

    def finish(self) -> Signature:
        self.until(len(SIGN_ORDER))
        out = self.outputs
        c, e = number(out[10]), self.credential.e
        of_tpm = number(out[13]) + (number(out[15]) << S_BITS)
        return Signature(
            t=self.t,
            base=self.base,
            pseudonym=number(out[7]),
            tpm_nonce=out[9],
            c=out[10],
            selector=self.selector,
            s0=number(out[11]),
            s1=number(out[12]),
            sv=of_tpm + self._rv - c * e * self._w,
            se=self._re + c * (e - E_OFFSET),
        )


def verifies(
    key: IssuerKey,
    signature: Signature,
    subject: bytes,
    *,
    basename: bytes = b"verifier",
    nonce: bytes = bytes(20),
) -> bool:
    """True if some TPM with a credential of this issuer signed the subject for that basename.

    Args:
        key: the issuer's.
        signature: what the host sent.
        subject: the message's digest or the AIK's modulus.
        basename: of the verifier.
        nonce: what the verifier sent, 20 bytes.
    """
    return all(_checks(key, signature, subject, basename, nonce))


def _checks(
    key: IssuerKey, signature: Signature, subject: bytes, basename: bytes, nonce: bytes
) -> Iterator[bool]:
    n, gamma, c = key.n, key.gamma, number(signature.c)
    blind_bits = ZK_BITS + HASH_BITS + 1
    yield signature.base == key.pseudonym_base(basename)
    yield pow(signature.pseudonym, key.rho, gamma) == 1
    yield max(signature.s0, signature.s1) < 1 << F_BITS + blind_bits
    yield 0 <= signature.se < 1 << E_RANGE_BITS + blind_bits
    blinded_t = (
        pow(key.z, -c, n)
        * pow(signature.t, signature.se + c * E_OFFSET, n)
        * pow(key.r0, signature.s0, n)
        * pow(key.r1, signature.s1, n)
        * pow(key.s0, signature.sv, n)
    ) % n
    blinded = (
        pow(signature.pseudonym, -c, gamma)
        * pow(signature.base, signature.s0 + (signature.s1 << F_BITS), gamma)
    ) % gamma
    c1 = sign_challenge(
        key, nonce, signature.t, blinded_t, signature.base, signature.pseudonym, blinded
    )
    of_tpm = sha1(c1, signature.tpm_nonce)
    yield signature.c == sha1(of_tpm, bytes([signature.selector]), subject)
