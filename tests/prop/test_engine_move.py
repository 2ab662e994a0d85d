"""A TPM that is stopped between two commands and goes on elsewhere answers as if it had stayed."""

from __future__ import annotations

import functools
import struct
from contextlib import suppress
from dataclasses import replace

from engine_rig import (
    KEY_AUTH,
    OWNER_AUTH,
    SRK,
    SRK_AUTH,
    Identity,
    Rig,
    new_identity,
    template,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwtpm.client.session import AuthSession
from hwtpm.clock import FakeClock
from hwtpm.errors import HwtpmError
from hwtpm.secret import Secret
from hwtpm.softtpm.base import MemoryStorage, StateName
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.engine.entropy import RepeatableEntropy
from hwtpm.softtpm.engine.state import encode_permanent, fresh_permanent
from hwtpm.tpm12.commands.capability import GetCapability
from hwtpm.tpm12.commands.context import KeyControlOwner, LoadContext, SaveContext
from hwtpm.tpm12.commands.counters import CreateCounter, IncrementCounter
from hwtpm.tpm12.commands.cryptography import GetRandom, Sign
from hwtpm.tpm12.commands.deprecated import LoadAuthContext, Reset, SaveAuthContext
from hwtpm.tpm12.commands.eviction import FlushSpecific
from hwtpm.tpm12.commands.integrity import Extend, PcrRead
from hwtpm.tpm12.commands.optin import SetTempDeactivated
from hwtpm.tpm12.commands.ownership import PhysicalPresence
from hwtpm.tpm12.commands.startup import SaveState, Startup
from hwtpm.tpm12.commands.storage import LoadKey2
from hwtpm.tpm12.commands.testing import ContinueSelfTest, GetTestResult
from hwtpm.tpm12.commands.ticks import GetTicks
from hwtpm.tpm12.const import EntityType, KeyUsage, ResourceType, StartupType
from hwtpm.tpm12.table import Request
from hwtpm.tpm12.types import Key, PubKey
from hwtpm.tpm12.types.context import ContextBlob
from hwtpm.wire import Struct

LABEL = bytes(16)
HANDLE_LISTS = [
    GetCapability(0x14, struct.pack(">I", kind)) for kind in (ResourceType.KEY, ResourceType.AUTH)
]
SIMPLE: list[Request[Struct]] = [
    Extend(16, b"\1" * 20),
    PcrRead(16),
    GetRandom(9),
    GetTicks(),
    SaveState(),
    Reset(),
    ContinueSelfTest(),
    GetTestResult(),
    PhysicalPresence(0x0008),
    SetTempDeactivated(),
    *HANDLE_LISTS,
]
STEPS = (
    "load",
    "evict",
    "oiap",
    "osap",
    "sign",
    "sign wrongly",
    "save key",
    "save session",
    "save session as in 1.1",
    "load context",
    "flush",
    "keep",
    "let go",
    "count",
    "wait",
    "power cycle",
    "resume",
)
Step = str | int


class Source(RepeatableEntropy):
    """Randomness that goes with the TPM: what a new process draws at power-on must not show."""

    def __init__(self, seed: bytes) -> None:
        super().__init__(seed)
        self.carried: RepeatableEntropy | None = None

    def random(self, size: int) -> bytes:
        return super().random(size) if self.carried is None else self.carried.random(size)


class User:
    """Somebody who uses a TPM: what to send next follows from the steps and the answers alone."""

    def __init__(self, identity: Identity, key: Key) -> None:
        self.clock = FakeClock()
        self.entropy = RepeatableEntropy(b"TPM")
        self.storage = MemoryStorage()
        state = replace(
            fresh_permanent(self.entropy.random),
            ek=identity.ek,
            srk=identity.srk,
            tpm_proof=identity.tpm_proof,
            owner_auth=OWNER_AUTH,
        )
        self.storage.store(StateName.PERMANENT, encode_permanent(state))
        self.engine = Engine(self.storage, entropy=self.entropy, clock=self.clock)
        self.engine.power_on()
        self.key, self.public = key, PubKey(key.algorithm_parms, key.pub_key)
        self.transcript: list[bytes] = []
        self.rig = Rig(self.engine)
        self.rig.wire.execute = self._execute  # type: ignore[method-assign]
        self.rig.client.random = RepeatableEntropy(b"user").random
        self.handles: list[int] = []
        self.sessions: list[AuthSession] = []
        self.contexts: list[ContextBlob | bytes] = []
        self.rig.run(Startup(StartupType.CLEAR))

    def _execute(self, command: bytes) -> bytes:
        answer = self.engine.execute(command)
        self.transcript.append(answer)
        return answer

    def move(self) -> None:
        """Into another object with other storage and another clock."""
        volatile = self.engine.export_volatile()
        blobs = dict(self.storage.blobs)
        self.engine.close()
        self.storage, self.clock = MemoryStorage(), FakeClock(self.clock.now() + 12345)
        self.storage.blobs = blobs
        source = Source(b"elsewhere")
        self.engine = Engine(self.storage, entropy=source, clock=self.clock)
        self.engine.import_volatile(volatile)
        source.carried = self.entropy
        assert self.engine.export_volatile() == volatile

    def act(self, step: Step, pick: int) -> None:
        with suppress(HwtpmError):  # the answer is in the transcript
            self._act(step, pick)

    def _act(self, step: Step, pick: int) -> None:
        run, client = self.rig.run, self.rig.client
        if isinstance(step, int):
            run(SIMPLE[step])
            return
        handle = self.handles[pick % len(self.handles)] if self.handles else SRK
        session = self.sessions[pick % len(self.sessions)] if self.sessions else None
        context = self.contexts[pick % len(self.contexts)] if self.contexts else None
        match step:
            case "load":
                self.handles.append(run(LoadKey2(SRK, self.key), SRK_AUTH).inkey_handle)
            case "evict":
                run(FlushSpecific(handle, ResourceType.KEY))
            case "oiap":
                self.sessions.append(client.oiap(Secret(KEY_AUTH)))
            case "osap":
                self.sessions.append(client.osap(EntityType.KEYHANDLE, handle, Secret(KEY_AUTH)))
            case "sign":
                if session is not None:
                    client.execute(Sign(handle, bytes(20)), session)
            case "sign wrongly":
                run(Sign(handle, bytes(20)), b"w" * 20)
            case "save key":
                blob = run(SaveContext(handle, ResourceType.KEY, LABEL)).context_blob
                self.contexts.append(blob or b"")
            case "save session":
                if session is not None:
                    blob = run(SaveContext(session.handle, ResourceType.AUTH, LABEL)).context_blob
                    self.contexts.append(blob or b"")
            case "save session as in 1.1":
                if session is not None:
                    self.contexts.append(run(SaveAuthContext(session.handle)).auth_context_blob)
            case "load context":
                if isinstance(context, ContextBlob):
                    run(LoadContext(handle, False, context))
                elif context is not None:
                    run(LoadAuthContext(context))
            case "flush":
                if session is not None:
                    run(FlushSpecific(session.handle, ResourceType.AUTH))
            case "keep" | "let go":
                run(KeyControlOwner(handle, self.public, 1, step == "keep"), OWNER_AUTH)
            case "count":
                counters = self.engine.permanent.counters
                if counters:
                    run(IncrementCounter(counters[0].handle), KEY_AUTH)
                else:
                    with self.rig.owner_osap() as owner:
                        auth = owner.encrypt_auth(Secret(KEY_AUTH))
                        client.execute(CreateCounter(auth, b"test"), owner)
            case "wait":
                self.clock.sleep(pick % 3)
            case "resume":
                run(SaveState())
                self._restart(StartupType.STATE)
            case _:
                self._restart(StartupType.CLEAR)

    def _restart(self, startup: StartupType) -> None:
        self.engine.power_on()
        self.rig.run(Startup(startup))


@functools.cache
def users_own() -> tuple[Identity, Key]:
    """The TPM's keys, and a wrapped key."""
    identity, signing = new_identity(), template(KeyUsage.SIGNING, 1024)
    return identity, User(identity, signing).rig.create_key(signing)


# With these there is something to save, to move and to lose.
FIRST: list[tuple[Step, int, bool]] = [("load", 0, False), ("oiap", 0, False), ("osap", 0, False)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(
        st.tuples(
            st.one_of(st.sampled_from(STEPS), st.integers(0, len(SIMPLE) - 1)),
            st.integers(0, 7),
            st.booleans(),
        ),
        min_size=4,
        max_size=30,
    )
)
def test_a_moved_tpm_answers_as_one_that_stayed(steps: list[tuple[Step, int, bool]]) -> None:
    stays, moves = User(*users_own()), User(*users_own())
    for step, pick, move in FIRST + steps:
        stays.act(step, pick)
        moves.act(step, pick)
        if move:
            moves.move()
        assert moves.transcript == stays.transcript
    assert moves.storage.blobs == stays.storage.blobs
