"""What the benchmarks are done to: a TPM with an owner, keys, sealed data and NV areas."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

from hwtpm.client import counters, keys, nv, owner, seal
from hwtpm.client.rsa import oaep_encrypt, public_part, to_public_key
from hwtpm.client.session import AuthSession, Tpm
from hwtpm.client.transport import TransportSession, establish
from hwtpm.secret import WELL_KNOWN, Secret
from hwtpm.tpm12.auth import Session, osap_shared_secret
from hwtpm.tpm12.commands.delegation import CreateOwnerDelegation, DelegateManage
from hwtpm.tpm12.commands.integrity import PcrRead
from hwtpm.tpm12.commands.sessions import DSAP
from hwtpm.tpm12.const import (
    DelegateType,
    EntityType,
    FamilyOperation,
    KeyHandleValue,
    KeyUsage,
    NvPermission,
)
from hwtpm.tpm12.delegation import OWNER_PERMISSIONS
from hwtpm.tpm12.frame import ordinal_of
from hwtpm.tpm12.types import Key, PubKey, StoredData
from hwtpm.tpm12.types.delegation import DelegatePublic, Delegations
from hwtpm.transport.base import Transport, Wrapper

__all__ = ["DIGEST", "NV_FREE", "NV_INDEX", "NV_SIZE", "OWNER", "SRK_HANDLE", "USAGE", "Patient"]

OWNER: Final = Secret(b"o" * 20)
USAGE: Final = Secret(b"u" * 20)
DELEGATE: Final = Secret(b"d" * 20)
DIGEST: Final = bytes(20)
SRK_HANDLE: Final = int(KeyHandleValue.SRK)
NV_INDEX: Final = 0x1000  # the owner's
NV_FREE: Final = 0x1001  # everybody may read it
NV_SIZE: Final = 32


class Stopwatch(Wrapper):
    """Adds up the nanoseconds that the commands of interest take."""

    def __init__(self, inner: Transport) -> None:
        super().__init__(inner)
        self.ordinals: frozenset[int] = frozenset()
        self.spent_ns = 0

    def execute(self, command: bytes) -> bytes:
        start = time.perf_counter_ns()
        response = self._inner.execute(command)
        spent = time.perf_counter_ns() - start
        if ordinal_of(command) in self.ordinals:
            self.spent_ns += spent
        return response


class Patient:
    """A started TPM, through a stopwatch."""

    def __init__(self, transport: Transport, *, has_ek: bool = False) -> None:
        self._has_ek = has_ek
        self.watch = Stopwatch(transport)
        self.tpm = Tpm(self.watch)
        self.writes = 0  # makes each write another one
        self.srk_public: PubKey
        self.signing: Key
        self.signer: keys.KeyRef
        self.binder: keys.KeyRef
        self.authority: keys.KeyRef
        self.bound: bytes
        self.migration_blob: bytes
        self.sealed: StoredData
        self.counter: int
        self.family: int
        self.delegation: bytes
        self.encrypted: TransportSession

    def provision(self) -> None:
        """Give it an owner and all that the benchmarks use; takes seconds where keys are slow."""
        tpm, root = self.tpm, keys.srk()
        ek = owner.read_ek(tpm) if self._has_ek else owner.create_ek(tpm)
        owner.take_ownership(tpm, OWNER, WELL_KNOWN, ek=ek)
        self.srk_public = owner.read_srk_as_owner(tpm, OWNER)
        self.signing = keys.create(tpm, root, keys.signing_key(), USAGE)
        self.signer = keys.load(tpm, root, self.signing, USAGE)
        binding = keys.create(tpm, root, keys.binding_key(), USAGE)
        self.binder = keys.load(tpm, root, binding, USAGE)
        self.bound = keys.bind(to_public_key(public_part(binding)), bytes(32))
        template = replace(keys.storage_key(), key_usage=KeyUsage.MIGRATE)
        migrate = keys.create(tpm, root, template, USAGE)
        self.authority = keys.load(tpm, root, migrate, USAGE)
        self.migration_blob = oaep_encrypt(to_public_key(public_part(migrate)), bytes(198))
        self.sealed = seal.seal(tpm, root, Secret(bytes(32)), USAGE)
        nv.lock(tpm)
        owners = NvPermission.OWNERREAD | NvPermission.OWNERWRITE
        nv.define(tpm, NV_INDEX, NV_SIZE, owners, owner_auth=OWNER)
        nv.define(tpm, NV_FREE, NV_SIZE, NvPermission.OWNERWRITE, owner_auth=OWNER)
        self.counter = counters.create(tpm, OWNER, USAGE, b"life").handle
        create, enable = FamilyOperation.CREATE, FamilyOperation.ENABLE
        made = tpm.execute_with(DelegateManage(0, create, b"F"), OWNER)
        self.family = int.from_bytes(made.ret_data, "big")
        tpm.execute_with(DelegateManage(self.family, enable, b"\1"), OWNER)
        self.delegation = self.delegate()
        self.encrypted = establish(tpm, root, self.srk_public)
        self.encrypted.tpm.execute(PcrRead(0))

    def delegate(self) -> bytes:
        """The blob of a new delegation of the owner."""
        reads = 1 << OWNER_PERMISSIONS["TPM_OwnerReadInternalPub"]
        rights = Delegations(DelegateType.OWNER, reads, 0)
        public = DelegatePublic(0, nv.unrestricted(), rights, self.family, 0)
        with self.osap_owner() as session:
            request = CreateOwnerDelegation(False, public, session.encrypt_auth(DELEGATE))
            return self.tpm.execute(request, session, last=True).blob

    def dsap(self) -> AuthSession:
        """A session by that delegation."""
        reply = self.tpm.execute(DSAP(EntityType.DEL_OWNER_BLOB, 0, DIGEST, self.delegation))
        shared = osap_shared_secret(DELEGATE.reveal(), reply.nonce_even_dsap, DIGEST)
        state = Session(reply.auth_handle, reply.nonce_even, Secret(shared))
        return AuthSession(self.tpm, state)

    def osap_owner(self) -> AuthSession:
        """An OSAP session of the owner."""
        return self.tpm.osap(EntityType.OWNER, KeyHandleValue.OWNER, OWNER)

    def close(self) -> None:
        """Let go of the TPM."""
        self.tpm.close()
