"""Published known answers, for what this project computes itself or puts together.

Not here: HMAC (RFC 2202). What the library does is the library's to test, and no case of the RFC
has the 61 bytes that a session's HMAC is over.
"""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from engine_pair import frame

from hwtpm.softtpm.base import MemoryStorage
from hwtpm.softtpm.engine import Engine, rsa
from hwtpm.softtpm.engine.oaep import oaep_decode, oaep_encode
from hwtpm.tpm12.aes import aes128_ctr
from hwtpm.tpm12.commands.cryptography import SHA1Complete, SHA1Start, SHA1Update
from hwtpm.tpm12.commands.integrity import Extend, PcrRead
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.const import StartupType
from hwtpm.tpm12.eventlog import Event, EventType, replay
from hwtpm.tpm12.masks import mgf1

NO_LABEL = hashlib.sha1(b"").digest()


def private(p: str, q: str) -> RSAPrivateKey:
    return rsa.private_from_primes(int(p, 16), int(q, 16))


@pytest.fixture
def engine() -> Engine:
    engine = Engine(MemoryStorage())
    engine.power_on()
    engine.execute(frame(Startup(StartupType.CLEAR)))
    return engine


# --- PKCS #1 v2.1, RSA Laboratories' pkcs-1v2-1-vec.zip -----------------------------------------

# oaep-int.txt: the intermediate values of one encryption, with an empty label.
INT_SEED = bytes.fromhex("aafd12f659cae63489b479e5076ddec2f06cb58f")
INT_MESSAGE = bytes.fromhex("d436e99569fd32a7c8a05bbc90d32c49")
INT_MASK = bytes.fromhex(
    "06e1deb2369aa5a5c707d82c8e4e93248ac783dee0b2c04626f5aff93edcfb25c9c2b3ff8ae10e839a2ddb4c"
    "dcfe4ff47728b4a1b7c1362baad29ab48d2869d5024121435811591be392f982fb3e87d095aeb40448db972f"
    "3ac14eaff49c8c3b7cfc951a51ecd1dde61264"
)
INT_ENCODED = bytes.fromhex(
    "eb7a19ace9e3006350e329504b45e2ca82310b26dcd87d5c68f1eea8f55267c31b2e8bb4251f84d7e0b2c046"
    "26f5aff93edcfb25c9c2b3ff8ae10e839a2ddb4cdcfe4ff47728b4a1b7c1362baad29ab48d2869d502412143"
    "5811591be392f982fb3e87d095aeb40448db972f3ac14f7bc275195281ce32d2f1b76d4d353e2d"
)


def test_mgf1() -> None:
    assert mgf1(INT_SEED, len(INT_MASK)) == INT_MASK


def test_oaep_encoding() -> None:
    assert oaep_encode(INT_MESSAGE, 127, NO_LABEL, INT_SEED) == INT_ENCODED
    assert oaep_decode(INT_ENCODED) == (INT_MESSAGE, NO_LABEL, INT_SEED)
    assert oaep_decode(INT_ENCODED, NO_LABEL) == (INT_MESSAGE, NO_LABEL, INT_SEED)
    with pytest.raises(ValueError, match="not OAEP"):
        oaep_decode(INT_ENCODED, bytes(20))
    with pytest.raises(ValueError, match="too long"):
        oaep_encode(bytes(87), 127, NO_LABEL, INT_SEED)


# oaep-vect.txt, key 1, e = 65537.
OAEP_PRIMES = (
    (
        "d32737e7267ffe1341b2d5c0d150a81b586fb3132bed2f8d5262864a9cb9f30af38be448598d413a172efb80"
        "2c21acf1c11c520c2f26a471dcad212eac7ca39d"
    ),
    (
        "cc8853d1d54da630fac004f471f281c7b8982d8224a490edbeb33d3e3d5cc93c4765703d1dd791642f1f116a"
        "0dd852be2419b2af72bfe9a030e860b0288b5d77"
    ),
)
OAEP_EXAMPLES = {  # message, seed, encryption
    "1.1": (
        "6628194e12073db03ba94cda9ef9532397d50dba79b987004afefe34",
        "18b776ea21069d69776a33e96bad48e1dda0a5ef",
        (
            "354fe67b4a126d5d35fe36c777791a3f7ba13def484e2d3908aff722fad468fb21696de95d0be911c2d3"
            "174f8afcc201035f7b6d8e69402de5451618c21a535fa9d7bfc5b8dd9fc243f8cf927db31322d6e881ea"
            "a91a996170e657a05a266426d98c88003f8477c1227094a0d9fa1e8c4024309ce1ecccb5210035d47ac7"
            "2e8a"
        ),
    ),
    "1.2": (
        "750c4047f547e8e41411856523298ac9bae245efaf1397fbe56f9dd5",
        "0cc742ce4a9b7f32f951bcb251efd925fe4fe35f",
        (
            "640db1acc58e0568fe5407e5f9b701dff8c3c91e716c536fc7fcec6cb5b71c1165988d4a279e1577d730"
            "fc7a29932e3f00c81515236d8d8e31017a7a09df4352d904cdeb79aa583adcc31ea698a4c05283daba90"
            "89be5491f67c1a4ee48dc74bbbe6643aef846679b4cb395a352d5ed115912df696ffe0702932946d7149"
            "2b44"
        ),
    ),
}


@pytest.mark.parametrize("example", OAEP_EXAMPLES)
def test_oaep_encryption(example: str) -> None:
    message, seed, encryption = (bytes.fromhex(value) for value in OAEP_EXAMPLES[example])
    numbers = private(*OAEP_PRIMES).private_numbers()
    n, d = numbers.public_numbers.n, numbers.d
    encoded = oaep_encode(message, 127, NO_LABEL, seed)
    assert pow(int.from_bytes(encoded, "big"), 65537, n) == int.from_bytes(encryption, "big")
    back = pow(int.from_bytes(encryption, "big"), d, n).to_bytes(127, "big")
    assert oaep_decode(back, NO_LABEL) == (message, NO_LABEL, seed)


# pkcs1v15sign-vectors.txt, example 1.1, e = 65537.
SIGN_PRIMES = (
    (
        "e7e8942720a877517273a356053ea2a1bc0c94aa72d55c6e86296b2dfc967948c0a72cbccca7eacb35706e09"
        "a1df55a1535bd9b3cc34160b3b6dcd3eda8e6443"
    ),
    (
        "b69dca1cf7d4d7ec81e75b90fcca874abcde123fd2700180aa90479b6e48de8d67ed24f9f19d85ba275874f5"
        "42cd20dc723e6963364a1f9425452b269a6799fd"
    ),
)
SIGN_MESSAGE = bytes.fromhex(
    "cdc87da223d786df3b45e0bbbc721326d1ee2af806cc315475cc6f0d9c66e1b62371d45ce2392e1ac92844c3"
    "10102f156a0d8d52c1f4c40ba3aa65095786cb769757a6563ba958fed0bcc984e8b517a3d5f515b23b8a41e7"
    "4aa867693f90dfb061a6e86dfaaee64472c00e5f20945729cbebe77f06ce78e08f4098fba41f9d6193c0317e"
    "8b60d4b6084acb42d29e3808a3bc372d85e331170fcbf7cc72d0b71c296648b3a4d10f416295d0807aa625ca"
    "b2744fd9ea8fd223c42537029828bd16be02546f130fd2e33b936d2676e08aed1b73318b750a0167d0"
)
SIGNATURE = bytes.fromhex(
    "6bc3a06656842930a247e30d5864b4d819236ba7c68965862ad7dbc4e24af28e86bb531f03358be5fb74777c"
    "6086f850caef893f0d6fcc2d0c91ec013693b4ea00b80cd49aac4ecb5f8911afe539ada4a8f3823d1d13e472"
    "d1490547c659c7617f3d24087ddb6f2b72096167fc097cab18e9a458fcb634cdce8ee35894c484d7"
)
SHA1_DIGEST_INFO = bytes.fromhex("3021300906052b0e03021a05000414")  # PKCS #1 section 9.2 note 1


def test_signatures_of_digests_and_of_digest_infos() -> None:
    key = private(*SIGN_PRIMES)
    digest = hashlib.sha1(SIGN_MESSAGE).digest()
    assert rsa.sign_digest(key, digest) == SIGNATURE
    assert rsa.sign_raw(key, SHA1_DIGEST_INFO + digest) == SIGNATURE
    assert rsa.verifies(key.public_key(), SIGNATURE, digest)


def test_a_key_is_made_of_one_prime() -> None:
    p, q = (int(prime, 16) for prime in SIGN_PRIMES)
    modulus = (p * q).to_bytes(128, "big")
    for prime in (p, q):
        key = rsa.private_from_prime(modulus, prime.to_bytes(64, "big"))
        assert rsa.sign_digest(key, hashlib.sha1(SIGN_MESSAGE).digest()) == SIGNATURE


# --- AES ----------------------------------------------------------------------------------------


def test_aes_in_counter_mode() -> None:
    """NIST SP 800-38A sections F.5.1 and F.5.2; the counter carries over two bytes."""
    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plain = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    cipher = bytes.fromhex(
        "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff"
        "5ae4df3edbd5d35e5b4f09020db03eab1e031dda2fbe03d1792170a0f3009cee"
    )
    assert aes128_ctr(key, counter, plain) == cipher
    assert aes128_ctr(key, counter, cipher) == plain
    assert aes128_ctr(key, counter, plain[:33]) == cipher[:33]


# --- the TPM's own ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "digest"),
    [
        (b"abc", "a9993e364706816aba3e25717850c26c9cd0d89d"),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "84983e441c3bd26ebaae4aa1f95129e5e54670f1",
        ),
        (b"a" * 1_000_000, "34aa973cd4c4daa4f61eeb2bdbad27316534016f"),
    ],
    ids=["one block", "two blocks", "long"],
)
def test_the_tpm_hashes(engine: Engine, message: bytes, digest: str) -> None:
    """FIPS 180-1 appendices A to C, through the commands of Part 3 section 13."""
    size = int.from_bytes(engine.execute(frame(SHA1Start()))[10:], "big")
    at = 0
    while len(message) - at > 64:
        piece = min(size, (len(message) - at - 1) // 64 * 64)
        engine.execute(frame(SHA1Update(message[at : at + piece])))
        at += piece
    assert engine.execute(frame(SHA1Complete(message[at:])))[10:].hex() == digest


def test_a_pcr_with_nothing_but_a_separator(engine: Engine) -> None:
    """What PCR 3 or 6 of most machines reads, in many a published listing: one EV_SEPARATOR of four
    zero bytes (PC Client Implementation Specification 1.21)."""
    value = "b2a83b0ebf2f8374299a5b2bdfc31ea955ad7236"
    digest = bytes.fromhex("9069ca78e7450a285173431b3e52c5c25299e473")
    engine.execute(frame(Extend(2, digest)))
    assert engine.execute(frame(PcrRead(2)))[10:].hex() == value
    event = Event(2, EventType.SEPARATOR, digest, bytes(4))
    assert replay([event])[2].hex() == value
