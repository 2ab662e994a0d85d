"""Replay: equal seeds, clocks and commands make equal answers and equal state, keys included."""

from __future__ import annotations

import pytest
from engine_rig import (
    EK,
    KEY_AUTH,
    OWNER_AUTH,
    PID_OWNER,
    SRK_AUTH,
    Rig,
    private_of,
    public_of,
    template,
)
from engine_rig import OAEP as LIBRARY_OAEP

from hwtpm.clock import FakeClock
from hwtpm.softtpm.base import MemoryStorage
from hwtpm.softtpm.engine import Engine, rsa
from hwtpm.softtpm.engine.entropy import RepeatableEntropy
from hwtpm.tpm12.commands.cryptography import GetRandom, Sign, StirRandom
from hwtpm.tpm12.commands.endorsement import CreateEndorsementKeyPair
from hwtpm.tpm12.commands.ownership import TakeOwnership
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.const import KeyUsage, StartupType


class Recorder(Engine):
    """An engine that keeps what was said to it and what it answered."""

    transcript: list[tuple[bytes, bytes]]

    def execute(self, command: bytes, locality: int = 0) -> bytes:
        response = super().execute(command, locality)
        self.transcript.append((command, response))
        return response


def powered(seed: bytes) -> tuple[Recorder, MemoryStorage]:
    storage = MemoryStorage()
    engine = Recorder(storage, entropy=RepeatableEntropy(seed), clock=FakeClock())
    engine.transcript = []
    engine.power_on()
    return engine, storage


def live(engine: Recorder) -> None:
    """The life of a TPM: both root keys, a key of its own, sealed data, a signature."""
    rig = Rig(engine)
    rig.run(Startup(StartupType.CLEAR))
    parms = template(KeyUsage.STORAGE).algorithm_parms
    created = rig.run(CreateEndorsementKeyPair(bytes(20), parms))
    ek = public_of(created.pub_endorsement_key.pub_key)
    encrypted = [ek.encrypt(auth, LIBRARY_OAEP) for auth in (OWNER_AUTH, SRK_AUTH)]
    rig.run(TakeOwnership(PID_OWNER, *encrypted, template(KeyUsage.STORAGE)), OWNER_AUTH)
    rig.run(StirRandom(b"stirred"))
    key = rig.make_key(template(KeyUsage.SIGNING, 512))
    rig.run(Sign(key.handle, bytes(20)), KEY_AUTH)
    assert rig.unseal(rig.seal(b"data")) == b"data"
    rig.run(GetRandom(100))


def test_a_run_repeats_byte_for_byte() -> None:
    first, stored = powered(b"seed")
    live(first)
    again, stored_again = powered(b"seed")
    for command, response in list(first.transcript):
        assert again.execute(command) == response
    assert stored_again.blobs == stored.blobs
    assert again.stclear == first.stclear


def test_another_seed_or_other_stirring_makes_another_run() -> None:
    def random_of(seed: bytes, stirred: bytes) -> bytes:
        rig = Rig(powered(seed)[0])
        rig.run(Startup(StartupType.CLEAR))
        rig.run(StirRandom(stirred))
        return rig.run(GetRandom(20)).random_bytes

    made = {
        random_of(seed, stirred) for seed in (b"one", b"other") for stirred in (b"here", b"there")
    }
    assert len(made) == 4


def test_repeatable_keys_pass_the_librarys_own_check() -> None:
    engine, _ = powered(b"check")
    live(engine)
    for root in (engine.permanent.ek, engine.permanent.srk):
        assert root is not None
        assert private_of(root).key_size == 2048
    assert engine.root_key(EK).private.key_size == 2048


def test_repeatable_oaep_is_what_the_library_decrypts() -> None:
    entropy = RepeatableEntropy(b"oaep")
    key = entropy.rsa_key(1024)
    ciphers = [entropy.encrypt_oaep(key.public_key(), b"plain") for _ in range(2)]
    assert ciphers[0] != ciphers[1]
    assert {key.decrypt(cipher, LIBRARY_OAEP) for cipher in ciphers} == {b"plain"}


def test_a_modulus_has_two_primes(monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = rsa.primes_of(rsa.generate(512))
    drawn = iter((p, p, q))
    monkeypatch.setattr(rsa, "_random_prime", lambda random, bits: next(drawn))
    assert rsa.primes_of(rsa.generate_from(bytes, 512)) == (p, q)
    modulus = p.to_bytes(32, "big")
    with pytest.raises(ValueError, match="the other prime is missing"):
        rsa.private_from_prime(modulus, modulus)
