"""Our engine and libtpms from one state, as often as it takes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from engine_rig import (
    Identity,
    Rig,
    key12,
    owned_engine,
    pcr_info,
    pcr_info_long,
    root_key,
    template,
)
from fuzz_peer import ForkedLibtpms
from fuzz_sides import Side
from fuzz_targets import stock_key
from fuzz_values import PCR_AT_RESET, KeyModel

from hwtpm.client.rsa import public_part
from hwtpm.clock import FakeClock
from hwtpm.softtpm.base import MemoryStorage, StateName
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.engine.entropy import RepeatableEntropy
from hwtpm.softtpm.engine.state import Permanent, encode_permanent
from hwtpm.softtpm.migration.libtpms_state import export_permanent
from hwtpm.tpm12.const import AuthDataUsage, KeyFlag, KeyUsage
from hwtpm.tpm12.types import LEGACY_FORM

__all__ = ["Twins", "start_of", "twins"]

AFTER_SHELF: Final = 100  # keys in the stock

FLAVOURS: Final = (
    *((usage, 2048) for usage in (KeyUsage.STORAGE, KeyUsage.STORAGE, KeyUsage.MIGRATE)),
    *((KeyUsage.SIGNING, bits) for bits in (512, 1024, 2048)),
    (KeyUsage.BIND, 1024),
    (KeyUsage.BIND, 2048),
    (KeyUsage.LEGACY, 1024),
    (KeyUsage.LEGACY, 2048),
)


def prefabricate(rig: Rig, rng: random.Random) -> list[KeyModel]:
    """Wrapped keys of every usage, made by that TPM."""
    identity = template(KeyUsage.IDENTITY)
    keys = [KeyModel(rig.make_identity(identity).id_key) for _ in range(2)]
    for usage, bits in FLAVOURS:
        for _ in range(2):
            wanted = template(usage, bits)
            if rng.random() < 0.3:
                wanted = key12(wanted)
            if usage is KeyUsage.MIGRATE or rng.random() < 0.4:
                wanted = replace(wanted, key_flags=KeyFlag.MIGRATABLE)
            if rng.random() < 0.3:
                wanted = replace(wanted, auth_data_usage=AuthDataUsage.NEVER)
            if rng.random() < 0.2:
                info = pcr_info if wanted.form == LEGACY_FORM else pcr_info_long
                wanted = replace(wanted, pcr_info=info((16,), PCR_AT_RESET))
            keys.append(KeyModel(rig.create_key(wanted)))
    return keys


class StockKeys(RepeatableEntropy):
    """Keys from a stock, none of them twice in an episode: a session is bound to a modulus."""

    def __init__(self, name: bytes, first: int) -> None:
        super().__init__(name)
        self._next = first

    def rsa_key(self, bits: int) -> RSAPrivateKey:
        self._next += 1
        return stock_key(bits, self._next)


class Twins:
    """The two TPMs from one state, and the keys that both can load."""

    def __init__(self, seed: int, permanent: Permanent, keys: list[KeyModel]) -> None:
        assert permanent.ek is not None
        assert permanent.srk is not None
        self.seed = seed
        self.keys = keys
        self.ek, self.srk = public_part(permanent.ek.key), public_part(permanent.srk.key)
        self.libtpms = ForkedLibtpms()
        unowned = replace(permanent, owner_auth=bytes(20), srk=None)
        unowned = replace(unowned, flags=replace(unowned.flags, read_pubek=True))
        starts = {"owned": permanent, "endorsed": unowned, "new": replace(unowned, ek=None)}
        self._starts = {
            start: (encode_permanent(state), export_permanent(state))
            for start, state in starts.items()
        }

    def fresh(self, episode: int) -> tuple[Side, Side]:
        """Both at one start, powered on; what is random follows from the episode."""
        name = b"%d/%d" % (self.seed, episode)
        ours, theirs = self._starts[start_of(episode)]
        storage = MemoryStorage()
        storage.blobs = {StateName.PERMANENT: ours}
        engine = Engine(storage, entropy=StockKeys(name, AFTER_SHELF), clock=FakeClock())
        engine.power_on()
        self.libtpms.fresh(name, theirs)
        return Side("ours", engine), Side("libtpms", self.libtpms)


def start_of(episode: int) -> str:
    """With an owner mostly; with an endorsement key only, or as it left the factory."""
    return {3: "endorsed", 7: "new"}.get(episode % 10, "owned")


@contextmanager
def twins(seed: int) -> Iterator[Twins]:
    """Our engine and libtpms with one identity, one owner and nothing else."""
    entropy = StockKeys(b"twins %d" % seed, 0)
    roots = [root_key(entropy.rsa_key(2048)) for _ in range(2)]
    engine = owned_engine(Identity(roots[0], roots[1], entropy.random(20)), entropy=entropy)
    keys = prefabricate(Rig(engine), random.Random(seed))
    made = Twins(seed, engine.permanent, keys)
    try:
        yield made
    finally:
        made.libtpms.close()
