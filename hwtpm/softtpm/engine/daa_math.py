"""The numbers of DAA: what a TPM proves about its secret f without giving it away.

All byte strings are big-endian numbers (Part 2 section 22). f, split into f0 and f1, follows from
the TPM's own seed, the issuer and the count; r0 to r4 blind a proof and follow from the session's
random seed, so neither is kept anywhere.

The owner, too, must not learn f, and `pow` takes its time by the exponent: `power` splits it anew
each time, so that no two timings are of the same one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from hwtpm.softtpm.engine.call import Refuse
from hwtpm.softtpm.engine.daa_sessions import DaaSession
from hwtpm.softtpm.engine.oaep import mgf1
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types.daa import DaaIssuer

__all__ = [
    "MODULUS_SIZE",
    "POWER0",
    "POWER1",
    "V0_SIZE",
    "V1_SIZE",
    "blinding",
    "issuer_of",
    "modulus",
    "number",
    "power",
    "secret",
    "secret_high",
    "secret_low",
    "shortest",
]

# Part 2 sections 22.1 and 22.2; sizes in bytes, powers in bits.
MODULUS_SIZE: Final = 256
V0_SIZE: Final = 128
V1_SIZE: Final = 192
POWER0: Final = 104
POWER1: Final = 1024
_BLINDING_SIZES: Final = {"r0": 43, "r1": 43, "r2": 128, "r3": 168, "r4": 219}


def number(data: bytes) -> int:
    """The number that these bytes are; 0 for none."""
    return int.from_bytes(data, "big")


def shortest(value: int) -> bytes:
    """A number without leading zeros, as libtpms answers where no size is laid down."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def modulus(data: bytes, wrong: Rc) -> int:
    """A modulus whose remainders fit the session's scratch area.

    Raises:
        Refuse: `wrong` if it is zero or longer than 256 bytes.
    """
    value = number(data)
    if not 0 < value < 1 << 8 * MODULUS_SIZE:
        raise Refuse(wrong)
    return value


def power(random: Callable[[int], bytes], base: int, exponent: int, modulus: int) -> int:
    """`base` to a secret `exponent`, modulo `modulus`; `random` makes n random bytes."""
    part = number(random((exponent.bit_length() + 7) // 8)) % (exponent + 1)
    return pow(base, part, modulus) * pow(base, exponent - part, modulus) % modulus


def issuer_of(session: DaaSession) -> DaaIssuer:
    """The issuer's settings.

    Raises:
        Refuse: DAA_ISSUER_SETTINGS if none have come yet.
    """
    if session.issuer is None:
        raise Refuse(Rc.DAA_ISSUER_SETTINGS)
    return session.issuer


def secret(session: DaaSession) -> int:
    """f: two digests of rekey and count, one after the other, modulo the issuer's q."""
    seed = session.tpm.rekey + session.tpm.count.to_bytes(4, "big")
    digests = hashlib.sha1(seed + b"\0").digest() + hashlib.sha1(seed + b"\1").digest()
    return number(digests) % number(issuer_of(session).generic_q)


def secret_low(session: DaaSession) -> int:
    """f0: the lowest DAA_power0 bits of f."""
    return secret(session) % (1 << POWER0)


def secret_high(session: DaaSession) -> int:
    """f1: the other bits of f."""
    return secret(session) >> POWER0


def blinding(name: str) -> Callable[[DaaSession], int]:
    """r0 to r4 of a session, by name."""
    label, size = name.encode(), _BLINDING_SIZES[name]
    return lambda session: number(mgf1(label + session.context_seed, size))
