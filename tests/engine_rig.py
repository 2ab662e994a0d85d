"""A TPM 1.2 on the bench for tests: the typed client on a software TPM, and key operations.

The same operations run on our engine and on libtpms, so one test body can ask both.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TypeVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

from hwtpm.client.session import AuthSession, Tpm
from hwtpm.clock import Clock
from hwtpm.errors import TpmError
from hwtpm.secret import Secret
from hwtpm.softtpm.base import MemoryStorage, SoftwareTpm
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.engine.entropy import Entropy
from hwtpm.softtpm.engine.state import RootKey
from hwtpm.softtpm.libtpms import LibtpmsTpm
from hwtpm.tpm12.commands.endorsement import CreateEndorsementKeyPair
from hwtpm.tpm12.commands.identity import MakeIdentity, MakeIdentityReply
from hwtpm.tpm12.commands.ownership import TakeOwnership
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.commands.storage import CreateWrapKey, LoadKey2, Seal, Sealx, Unseal
from hwtpm.tpm12.const import (
    AuthDataUsage,
    EncScheme,
    EntityType,
    KeyAlgorithm,
    KeyHandleValue,
    KeyUsage,
    SigScheme,
    StartupType,
)
from hwtpm.tpm12.table import Request
from hwtpm.tpm12.types import (
    KEY12_FORM,
    LEGACY_FORM,
    Key,
    KeyParms,
    PcrInfo,
    PcrInfoLong,
    PcrSelection,
    PubKey,
    RsaKeyParms,
    StoredData,
)
from hwtpm.transport.base import Attached
from hwtpm.wire import Struct

R = TypeVar("R", bound=Struct)
SRK = int(KeyHandleValue.SRK)
EK = int(KeyHandleValue.EK)
OAEP = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), b"TCPA")
PREHASHED = utils.Prehashed(hashes.SHA1())

SRK_AUTH = bytes(20)
OWNER_AUTH = b"o" * 20
KEY_AUTH = b"k" * 20
DATA_AUTH = b"d" * 20
MIGRATION_AUTH = b"m" * 20
EVERY_LOCALITY = 0x1F
PID_OWNER = 5  # TPM_PID_OWNER

SCHEMES = {
    KeyUsage.SIGNING: (EncScheme.NONE, SigScheme.RSA_PKCS_V15_SHA1),
    KeyUsage.STORAGE: (EncScheme.RSA_OAEP_SHA1_MGF1, SigScheme.NONE),
    KeyUsage.IDENTITY: (EncScheme.NONE, SigScheme.RSA_PKCS_V15_SHA1),
    KeyUsage.BIND: (EncScheme.RSA_OAEP_SHA1_MGF1, SigScheme.NONE),
    KeyUsage.LEGACY: (EncScheme.RSA_OAEP_SHA1_MGF1, SigScheme.RSA_PKCS_V15_SHA1),
    KeyUsage.MIGRATE: (EncScheme.RSA_OAEP_SHA1_MGF1, SigScheme.NONE),
    KeyUsage.AUTHCHANGE: (EncScheme.RSA_OAEP_SHA1_MGF1, SigScheme.NONE),
}


class Wire:
    """The transport of a software TPM; `locality` may be changed at any time."""

    def __init__(self, tpm: SoftwareTpm) -> None:
        self.tpm = tpm
        self.locality = 0

    @property
    def attached(self) -> Attached:
        return Attached("test:", self.tpm.description, False, "")

    def execute(self, command: bytes) -> bytes:
        return self.tpm.execute(command, self.locality)

    def close(self) -> None:
        self.tpm.close()


def template(usage: int, bits: int = 2048, **changes: object) -> Key:
    """A key template with the schemes that belong to its usage; `enc` and `sig` override them."""
    enc, sig = SCHEMES[KeyUsage(usage)]
    parms = KeyParms(
        KeyAlgorithm.RSA,
        int(changes.pop("enc", enc)),  # type: ignore[call-overload]
        int(changes.pop("sig", sig)),  # type: ignore[call-overload]
        RsaKeyParms(bits, 2, b"").encode(),
    )
    key = Key(LEGACY_FORM, usage, 0, AuthDataUsage.ALWAYS, parms, b"", b"", b"")
    return replace(key, **changes)  # type: ignore[arg-type]


def key12(key: Key) -> Key:
    """The template in its 1.2 form."""
    return replace(key, form=KEY12_FORM)


def pcr_info(pcrs: tuple[int, ...], digest: bytes) -> bytes:
    return PcrInfo(PcrSelection.of(pcrs), digest, bytes(20)).encode()


def pcr_info_long(pcrs: tuple[int, ...], digest: bytes, localities: int = EVERY_LOCALITY) -> bytes:
    selection = PcrSelection.of(pcrs)
    return PcrInfoLong(1, localities, selection, selection, bytes(20), digest).encode()


def public_of(modulus: bytes) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(65537, int.from_bytes(modulus, "big")).public_key()


def verify(modulus: bytes, signature: bytes, signed: bytes) -> None:
    """InvalidSignature unless it is an RSASSA-PKCS1-v1_5 SHA-1 signature over `signed`."""
    digest = hashlib.sha1(signed).digest()
    public_of(modulus).verify(signature, digest, padding.PKCS1v15(), PREHASHED)


@dataclass(slots=True)
class Loaded:
    """A loaded key as its user knows it."""

    handle: int
    auth: bytes
    key: Key

    @property
    def public(self) -> PubKey:
        return PubKey(self.key.algorithm_parms, self.key.pub_key)


class Rig:
    """Typed commands on a software TPM that has an owner."""

    def __init__(self, tpm: SoftwareTpm) -> None:
        self.wire = Wire(tpm)
        self.client = Tpm(self.wire)

    def run(self, request: Request[R], *secrets: bytes) -> R:
        """The reply; each secret proven in an OIAP session of its own."""
        return self.client.execute_with(request, *map(Secret, secrets))

    def refusal(self, request: Request[Struct], *secrets: bytes) -> int:
        """The return code of a command, 0 if it was carried out."""
        try:
            self.run(request, *secrets)
        except TpmError as error:
            return error.rc
        return 0

    def osap(self, handle: int, auth: bytes) -> AuthSession:
        kind = EntityType.SRK if handle == SRK else EntityType.KEYHANDLE
        return self.client.osap(kind, handle, Secret(auth))

    def create_key(
        self, key: Key, parent: int = SRK, parent_auth: bytes = SRK_AUTH, auth: bytes = KEY_AUTH
    ) -> Key:
        with self.osap(parent, parent_auth) as session:
            request = CreateWrapKey(
                parent,
                session.encrypt_auth(Secret(auth)),
                session.encrypt_second_auth(Secret(MIGRATION_AUTH)),
                key,
            )
            return self.client.execute(request, session).wrapped_key

    def load(self, key: Key, parent: int = SRK, parent_auth: bytes = SRK_AUTH) -> Loaded:
        handle = self.run(LoadKey2(parent, key), parent_auth).inkey_handle
        return Loaded(handle, KEY_AUTH, key)

    def make_key(self, key: Key) -> Loaded:
        return self.load(self.create_key(key))

    def seal(
        self, data: bytes, info: bytes = b"", parent: int = SRK, parent_auth: bytes = SRK_AUTH
    ) -> StoredData:
        with self.osap(parent, parent_auth) as session:
            request = Seal(parent, session.encrypt_auth(Secret(DATA_AUTH)), info, data)
            return self.client.execute(request, session).sealed_data

    def unseal(self, blob: StoredData, parent: int = SRK, parent_auth: bytes = SRK_AUTH) -> bytes:
        return self.run(Unseal(parent, blob), parent_auth, DATA_AUTH).secret

    def owner_osap(self, auth: bytes = OWNER_AUTH) -> AuthSession:
        return self.client.osap(EntityType.OWNER, int(KeyHandleValue.OWNER), Secret(auth))

    def make_identity(
        self,
        key: Key,
        label: bytes = bytes(20),
        srk_auth: bytes = SRK_AUTH,
        owner_auth: bytes = OWNER_AUTH,
    ) -> MakeIdentityReply:
        with self.client.oiap(Secret(srk_auth)) as srk, self.owner_osap(owner_auth) as owner:
            request = MakeIdentity(owner.encrypt_auth(Secret(KEY_AUTH)), label, key)
            return self.client.execute(request, srk, owner, last=True)

    def sealx(
        self, data: bytes, parent: int = SRK, parent_auth: bytes = SRK_AUTH, info: bytes = b""
    ) -> StoredData:
        with self.osap(parent, parent_auth) as session:
            encrypted = _xor(data, _session_mask(session, len(data)))
            auth = session.encrypt_auth(Secret(DATA_AUTH))
            return self.client.execute(Sealx(parent, auth, info, encrypted), session).sealed_data

    def unsealx(self, blob: StoredData) -> bytes:
        with self.osap(SRK, SRK_AUTH) as parent, self.client.oiap(Secret(DATA_AUTH)) as auth:
            mask = _session_mask(parent, 256)
            encrypted = self.client.execute(Unseal(SRK, blob), parent, auth, last=True).secret
            return _xor(encrypted, mask)


def _session_mask(session: AuthSession, size: int) -> bytes:
    """MGF1 over even nonce, odd nonce, "XOR" and shared secret (Part 3 section 10.7)."""
    nonce_odd = session.sign(b"", last=False).nonce_odd
    seed = session.state.nonce_even + nonce_odd + b"XOR" + session.state.key.reveal()
    mask = b"".join(hashlib.sha1(seed + i.to_bytes(4, "big")).digest() for i in range(13))
    return mask[:size]


def _xor(data: bytes, mask: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(data, mask, strict=False))


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes a TPM this one: its two root keys and its tpmProof."""

    ek: RootKey
    srk: RootKey
    tpm_proof: bytes


def root_key(private: rsa.RSAPrivateKey, auth: bytes = SRK_AUTH) -> RootKey:
    numbers = private.private_numbers()
    modulus = numbers.public_numbers.n.to_bytes(256, "big")
    key = replace(template(KeyUsage.STORAGE), pub_key=modulus)
    return RootKey(key, numbers.p.to_bytes(128, "big"), auth)


def private_of(root: RootKey) -> rsa.RSAPrivateKey:
    """The private key, put together and validated by `cryptography`."""
    n = int.from_bytes(root.key.pub_key, "big")
    p = int.from_bytes(root.prime, "big")
    q = n // p
    d = pow(65537, -1, (p - 1) * (q - 1))
    return rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(65537, n)
    ).private_key()


def new_identity() -> Identity:
    ek, srk = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    return Identity(root_key(ek), root_key(srk), hashlib.sha1(b"proof").digest())


def owned_engine(
    identity: Identity, *, entropy: Entropy | None = None, clock: Clock | None = None
) -> Engine:
    """Our engine after TPM_Startup(ST_CLEAR), with that identity and an owner."""
    engine = Engine(MemoryStorage(), entropy=entropy, clock=clock)
    engine.power_on()
    engine.permanent = replace(
        engine.permanent,
        ek=identity.ek,
        srk=identity.srk,
        tpm_proof=identity.tpm_proof,
        owner_auth=OWNER_AUTH,
        flags=replace(engine.permanent.flags, read_pubek=False),
    )
    Rig(engine).run(Startup(StartupType.CLEAR))
    return engine


def owned_libtpms(storage: MemoryStorage) -> LibtpmsTpm:
    """libtpms after TPM_Startup(ST_CLEAR), with an EK and an owner."""
    tpm = LibtpmsTpm(storage)
    tpm.power_on()
    rig = Rig(tpm)
    rig.run(Startup(StartupType.CLEAR))
    take_ownership(rig)
    return tpm


def take_ownership(rig: Rig) -> None:
    """Make the EK and the owner of a TPM that has neither."""
    parms = template(KeyUsage.STORAGE).algorithm_parms
    created = rig.run(CreateEndorsementKeyPair(bytes(20), parms))
    ek = public_of(created.pub_endorsement_key.pub_key)
    take = TakeOwnership(
        PID_OWNER,
        ek.encrypt(OWNER_AUTH, OAEP),
        ek.encrypt(SRK_AUTH, OAEP),
        template(KeyUsage.STORAGE),
    )
    rig.run(take, OWNER_AUTH)
