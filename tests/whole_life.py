"""The whole life of a TPM of our engine: every command that can succeed does so at least once.

Changes of what is permanent are made so that each of these commands changes something.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import replace
from functools import cache
from typing import Final

from busy_tpm import AUTH_RW, COUNTER_AUTH, NV_AUTH, NV_DATA, NV_INDEX, OPERATOR_AUTH, fill
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from daa_issuer import Join, Sign, the_issuer
from engine_rig import (
    DATA_AUTH,
    EK,
    KEY_AUTH,
    MIGRATION_AUTH,
    OAEP,
    OWNER_AUTH,
    PID_OWNER,
    SRK,
    SRK_AUTH,
    Rig,
    key12,
    pcr_info_long,
    public_of,
    take_ownership,
    template,
)
from recorded_life import Recorder, Step

from hwtpm.client import counters, keys, nv, transport
from hwtpm.client.rsa import from_public_key, oaep_encrypt, public_part, rsa_parms, to_public_key
from hwtpm.client.session import AuthSession, Tpm
from hwtpm.secret import Secret
from hwtpm.tpm12.auth import Session, osap_shared_secret
from hwtpm.tpm12.commands.auditing import GetAuditDigest, GetAuditDigestSigned
from hwtpm.tpm12.commands.authdata import ChangeAuth, ChangeAuthOwner
from hwtpm.tpm12.commands.capability import GetCapability, GetCapabilityOwner, SetCapability
from hwtpm.tpm12.commands.context import LoadContext, SaveContext
from hwtpm.tpm12.commands.counters import ReadCounter, ReleaseCounter, ReleaseCounterOwner
from hwtpm.tpm12.commands.cryptography import (
    CertifyKey,
    CertifyKey2,
    GetRandom,
    SHA1Complete,
    SHA1CompleteExtend,
    SHA1Start,
    SHA1Update,
    StirRandom,
)
from hwtpm.tpm12.commands.cryptography import Sign as SignCommand
from hwtpm.tpm12.commands.delegation import (
    CreateKeyDelegation,
    CreateOwnerDelegation,
    DelegateManage,
    DelegateReadTable,
    LoadOwnerDelegation,
    UpdateVerification,
    VerifyDelegation,
)
from hwtpm.tpm12.commands.deprecated import (
    ChangeAuthAsymFinish,
    ChangeAuthAsymStart,
    DirRead,
    DisablePubekRead,
    EvictKey,
    LoadAuthContext,
    LoadKey,
    LoadKeyContext,
    OwnerReadPubek,
    Reset,
    SaveAuthContext,
    SaveKeyContext,
    TerminateHandle,
)
from hwtpm.tpm12.commands.endorsement import (
    CreateRevocableEK,
    OwnerReadInternalPub,
    ReadPubek,
    RevokeTrust,
)
from hwtpm.tpm12.commands.eviction import FlushSpecific
from hwtpm.tpm12.commands.identity import ActivateIdentity
from hwtpm.tpm12.commands.integrity import Extend, PcrRead, PcrReset, Quote, Quote2
from hwtpm.tpm12.commands.maintenance import (
    CreateMaintenanceArchive,
    KillMaintenanceFeature,
    LoadMaintenanceArchive,
    LoadManuMaintPub,
    ReadManuMaintPub,
)
from hwtpm.tpm12.commands.management import FieldUpgrade, ResetLockValue, SetRedirection
from hwtpm.tpm12.commands.migration import (
    AuthorizeMigrationKey,
    CmkApproveMA,
    CmkConvertMigration,
    CmkCreateBlob,
    CmkCreateKey,
    CmkCreateTicket,
    ConvertMigrationBlob,
    CreateMigrationBlob,
    MigrateKey,
)
from hwtpm.tpm12.commands.nv import (
    NvReadValue,
    NvReadValueAuth,
    NvWriteValueAuth,
)
from hwtpm.tpm12.commands.optin import (
    OwnerSetDisable,
    PhysicalDisable,
    PhysicalEnable,
    PhysicalSetDeactivated,
    SetOwnerInstall,
    SetTempDeactivated,
)
from hwtpm.tpm12.commands.ownership import (
    DisableForceClear,
    DisableOwnerClear,
    ForceClear,
    OwnerClear,
    PhysicalPresence,
    ResetEstablishmentBit,
    TakeOwnership,
)
from hwtpm.tpm12.commands.sessions import DSAP, SetOwnerPointer
from hwtpm.tpm12.commands.startup import SaveState, Startup
from hwtpm.tpm12.commands.storage import GetPubKey, LoadKey2, UnBind
from hwtpm.tpm12.commands.testing import ContinueSelfTest, GetTestResult, SelfTestFull
from hwtpm.tpm12.commands.ticks import GetTicks, TickStampBlob
from hwtpm.tpm12.const import (
    Capability,
    DelegateType,
    EncScheme,
    EntityType,
    FamilyOperation,
    KeyFlag,
    KeyUsage,
    MigrateScheme,
    ResourceType,
    SetArea,
    SigScheme,
    StartupType,
)
from hwtpm.tpm12.delegation import KEY_PERMISSIONS, OWNER_PERMISSIONS
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import (
    AsymCaContents,
    Key,
    PcrSelection,
    PubKey,
    SymmetricKey,
    pcr_composite_hash,
)
from hwtpm.tpm12.types.certify import ChangeAuthValidate
from hwtpm.tpm12.types.delegation import DelegatePublic, Delegations
from hwtpm.tpm12.types.migration import CmkAuth, MsaComposite

__all__ = ["NEVER_SUCCEED", "live"]

NEVER_SUCCEED: Final = ("TPM_FieldUpgrade", "TPM_SetRedirection")
"""9.1 and 9.2: this TPM accepts no upgrade and has no channel; both are refused in the life."""

NONCE: Final = b"n" * 20
NEW_AUTH: Final = b"N" * 20
WRONG_AUTH: Final = b"w" * 20
ANYWHERE: Final = nv.unrestricted()
_YES: Final = b"\1"


# --- who stands outside -----------------------------------------------------------------------


@cache
def _outsider() -> rsa.RSAPrivateKey:
    """Manufacturer and migration authority in one."""
    return rsa.generate_private_key(65537, 2048)


def _encrypts() -> PubKey:
    return from_public_key(
        _outsider().public_key(),
        enc_scheme=EncScheme.RSA_OAEP_SHA1_MGF1,
        sig_scheme=SigScheme.NONE,
    )


def _signed(data: bytes) -> bytes:
    return _outsider().sign(data, padding.PKCS1v15(), hashes.SHA1())


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data).digest()


# --- the life ---------------------------------------------------------------------------------


def live(recorder: Recorder) -> list[Step]:
    """Live from the factory to the last clear; the steps."""
    _Life(recorder).whole()
    return recorder.steps


class _Life:
    def __init__(self, recorder: Recorder) -> None:
        self.tpm = recorder
        self.rig = Rig(recorder)
        self.evict_key = 0

    def whole(self) -> None:
        self.youth()
        self.lasting()
        for period in (
            self.keys_and_data,
            self.measurements,
            self.contexts,
            self.identity,
            self.new_secrets,
            self.migration,
            self.certified_migration,
            self.delegation,
            self.nv_and_counters,
            self.transports,
            self.daa,
            self.wrong_secrets,
            self.saved_state,
        ):
            period()
            for handle in keys.loaded_handles(self.rig.client):
                if handle != self.evict_key:
                    keys.flush(self.rig.client, handle)
        self.maintenance()
        self.old_age()

    def restart(self, kind: StartupType = StartupType.CLEAR) -> None:
        self.tpm.power_on()
        self.rig.run(Startup(kind))

    def presence(self) -> None:
        self.rig.run(PhysicalPresence(0x0020))
        self.rig.run(PhysicalPresence(0x0008))

    def revive(self) -> None:
        """A TPM that was cleared is disabled and deactivated."""
        self.presence()
        self.rig.run(PhysicalEnable())
        self.rig.run(PhysicalSetDeactivated(False))
        self.restart()
        self.presence()

    def public_srk(self) -> PubKey:
        return self.rig.run(OwnerReadInternalPub(SRK), OWNER_AUTH).public_portion

    # --- without an owner ---------------------------------------------------------------------

    def youth(self) -> None:
        run = self.rig.run
        self.restart()
        run(PhysicalPresence(0x0100))  # physicalPresenceCMDEnable FALSE; `presence` sets it again
        for request in (SelfTestFull(), ContinueSelfTest(), GetTestResult()):
            run(request)
        run(GetCapability(Capability.PROPERTY, b"\0\0\1\1"))
        run(StirRandom(b"stirred"))
        run(GetRandom(20))
        self.presence()
        run(PhysicalDisable())
        run(PhysicalEnable())
        run(PhysicalSetDeactivated(True))
        run(PhysicalSetDeactivated(False))
        run(SetOwnerInstall(False))
        run(SetOwnerInstall(True))
        parms = template(KeyUsage.STORAGE).algorithm_parms
        reset = run(CreateRevocableEK(NONCE, parms, True, bytes(20))).output_ekreset
        run(RevokeTrust(reset))
        self.revive()
        run(LoadManuMaintPub(NONCE, _encrypts()))
        run(ReadManuMaintPub(NONCE))
        take_ownership(self.rig)  # with TPM_CreateEndorsementKeyPair
        run(OwnerReadPubek(), OWNER_AUTH)

    def lasting(self) -> None:
        """Something in every field; the audit of the default list is on all the time."""
        self.evict_key = fill(self.rig)
        run = self.rig.run
        run(SetCapability(SetArea.PERM_FLAGS, b"\0\0\0\x11", _YES), OWNER_AUTH)  # readSRKPub
        run(GetCapabilityOwner(), OWNER_AUTH)
        run(DirRead(0))
        run(SetCapability(SetArea.PERM_FLAGS, b"\0\0\0\4", _YES), OWNER_AUTH)  # readPubek
        run(DisablePubekRead(), OWNER_AUTH)
        run(OwnerSetDisable(True), OWNER_AUTH)
        run(OwnerSetDisable(False), OWNER_AUTH)

    # --- with one -----------------------------------------------------------------------------

    def keys_and_data(self) -> None:
        rig, run = self.rig, self.rig.run
        signer = rig.make_key(template(KeyUsage.SIGNING, 512))
        old = run(LoadKey(SRK, signer.key), SRK_AUTH).inkey_handle
        run(EvictKey(old))
        public = run(GetPubKey(signer.handle), KEY_AUTH).pub_key
        assert public == signer.public
        run(SignCommand(signer.handle, NONCE), KEY_AUTH)
        run(TickStampBlob(signer.handle, NONCE, NONCE), KEY_AUTH)
        run(GetTicks())
        legacy = rig.make_key(template(KeyUsage.SIGNING, 512))
        run(CertifyKey(signer.handle, legacy.handle, NONCE), KEY_AUTH, KEY_AUTH)
        run(CertifyKey2(legacy.handle, signer.handle, bytes(20), NONCE), KEY_AUTH, KEY_AUTH)
        binding = rig.make_key(template(KeyUsage.BIND, 1024))
        bound = keys.bind(public_of(binding.key.pub_key), b"bound")
        assert run(UnBind(binding.handle, bound), KEY_AUTH).out_data == b"bound"
        assert rig.unseal(rig.seal(b"sealed")) == b"sealed"
        policy = pcr_info_long((16,), pcr_composite_hash(PcrSelection.of((16,)), {16: bytes(20)}))
        assert rig.unsealx(rig.sealx(b"sealed", info=policy)) == b"sealed"
        redirect = SetRedirection(signer.handle, 1, bytes(4))
        assert rig.refusal(redirect, OWNER_AUTH) == Rc.BAD_TYPE
        assert rig.refusal(FieldUpgrade(b"upgrade"), OWNER_AUTH) == Rc.AUTHFAIL
        run(FlushSpecific(legacy.handle, ResourceType.KEY))

    def measurements(self) -> None:
        rig, run = self.rig, self.rig.run
        signer = rig.make_key(template(KeyUsage.SIGNING, 512))
        run(SHA1Start())
        run(SHA1Update(bytes(64)))
        run(SHA1Complete(b"end"))
        run(SHA1Start())
        run(SHA1CompleteExtend(16, b"end"))
        run(Extend(16, NONCE))
        run(PcrRead(16))
        run(Quote(signer.handle, NONCE, PcrSelection.of((16,))), KEY_AUTH)
        run(Quote2(signer.handle, NONCE, PcrSelection.of((16,)), True), KEY_AUTH)
        run(PcrReset(PcrSelection.of((16,))))
        run(GetAuditDigest(0))
        run(GetAuditDigestSigned(signer.handle, False, NONCE), KEY_AUTH)
        self.tpm.hash_start()
        self.tpm.hash_data(b"launched code")
        self.tpm.hash_end()
        rig.wire.locality = 3
        run(ResetEstablishmentBit())
        rig.wire.locality = 0

    def contexts(self) -> None:
        rig, run = self.rig, self.rig.run
        signer = rig.make_key(template(KeyUsage.SIGNING, 512))
        blob = run(SaveContext(signer.handle, ResourceType.KEY, bytes(16))).context_blob
        assert blob is not None
        run(LoadContext(0, False, blob))
        session = rig.client.oiap(Secret(KEY_AUTH))
        saved = run(SaveContext(session.handle, ResourceType.AUTH, bytes(16))).context_blob
        assert saved is not None
        run(LoadContext(0, False, saved))
        rig.client.execute(SignCommand(signer.handle, NONCE), session)
        old = run(SaveKeyContext(signer.handle)).key_context_blob
        run(LoadKeyContext(old))
        old = run(SaveAuthContext(session.handle)).auth_context_blob
        run(LoadAuthContext(old))
        run(TerminateHandle(session.handle))
        rig.client.oiap(Secret(KEY_AUTH))
        run(Reset())

    def identity(self) -> None:
        rig, run = self.rig, self.rig.run
        made = rig.make_identity(template(KeyUsage.IDENTITY))
        identity = rig.load(made.id_key)
        name = public_part(made.id_key).digest()
        ek = run(OwnerReadInternalPub(EK), OWNER_AUTH).public_portion
        session_key = SymmetricKey(6, 4, bytes(16))
        blob = oaep_encrypt(to_public_key(ek), AsymCaContents(session_key, name).encode())
        run(ActivateIdentity(identity.handle, blob), KEY_AUTH, OWNER_AUTH)
        ephemeral = rsa_parms(EncScheme.RSA_OAEP_SHA1_MGF1, SigScheme.NONE, bits=1024)
        start = run(ChangeAuthAsymStart(identity.handle, NONCE, ephemeral), KEY_AUTH)
        key = rig.create_key(template(KeyUsage.SIGNING, 512))
        link = hmac.digest(KEY_AUTH, NEW_AUTH, "sha1")
        proof = ChangeAuthValidate(NEW_AUTH, NONCE).encode()
        encrypted = oaep_encrypt(to_public_key(public_part(start.temp_key)), proof)
        run(
            ChangeAuthAsymFinish(
                SRK, start.eph_handle, EntityType.KEY, link, encrypted, key.enc_data
            ),
            OWNER_AUTH,
        )

    def new_secrets(self) -> None:
        rig = self.rig
        key = rig.create_key(template(KeyUsage.SIGNING, 512))
        with rig.osap(SRK, SRK_AUTH) as parent, rig.client.oiap(Secret(KEY_AUTH)) as entity:
            new = parent.encrypt_auth(Secret(NEW_AUTH))
            request = ChangeAuth(SRK, 4, new, EntityType.KEY, key.enc_data)
            rig.client.execute(request, parent, entity, last=True)
        for owner, kind, changed in (
            (OWNER_AUTH, EntityType.SRK, NEW_AUTH),
            (OWNER_AUTH, EntityType.SRK, SRK_AUTH),
            (OWNER_AUTH, EntityType.OWNER, NEW_AUTH),
            (NEW_AUTH, EntityType.OWNER, OWNER_AUTH),
        ):
            with rig.owner_osap(owner) as session:
                secret = session.encrypt_auth(Secret(changed))
                rig.client.execute(ChangeAuthOwner(4, secret, kind), session, last=True)

    def migration(self) -> None:
        rig, run = self.rig, self.rig.run
        authority = rig.make_key(template(KeyUsage.MIGRATE))
        key = rig.create_key(template(KeyUsage.SIGNING, 512, key_flags=int(KeyFlag.MIGRATABLE)))
        scheme = MigrateScheme.MIGRATE
        given = run(AuthorizeMigrationKey(scheme, authority.public), OWNER_AUTH).out_data
        blob = run(CreateMigrationBlob(SRK, scheme, given, key.enc_data), SRK_AUTH, MIGRATION_AUTH)
        passed = run(MigrateKey(authority.handle, self.public_srk(), blob.out_data), KEY_AUTH)
        back = run(ConvertMigrationBlob(SRK, passed.out_data, blob.random), SRK_AUTH)
        rig.load(replace(key, enc_data=back.out_data))

    def certified_migration(self) -> None:
        rig, run = self.rig, self.rig.run
        signs = from_public_key(_outsider().public_key())
        authorities = MsaComposite((_encrypts().digest(), signs.digest()))
        approval = run(CmkApproveMA(authorities.digest()), OWNER_AUTH).out_data
        flags = KeyFlag.MIGRATABLE | KeyFlag.MIGRATE_AUTHORITY
        wanted = key12(template(KeyUsage.SIGNING, 512, key_flags=int(flags)))
        with rig.osap(SRK, SRK_AUTH) as session:
            auth = session.encrypt_auth(Secret(KEY_AUTH))
            create = CmkCreateKey(SRK, auth, wanted, approval, authorities.digest())
            key = rig.client.execute(create, session, last=True).wrapped_key
        srk = self.public_srk()
        source = public_part(key).digest()
        restriction = CmkAuth(_encrypts().digest(), srk.digest(), source)
        digest = _sha1(restriction.encode())
        ticket = CmkCreateTicket(signs, digest, _signed(restriction.encode()))
        given = run(ticket, OWNER_AUTH).sig_ticket
        scheme = MigrateScheme.RESTRICT_APPROVE
        to_srk = run(AuthorizeMigrationKey(scheme, srk), OWNER_AUTH).out_data
        blob = run(
            CmkCreateBlob(
                SRK,
                scheme,
                to_srk,
                source,
                authorities,
                restriction.encode(),
                given,
                key.enc_data,
            ),
            SRK_AUTH,
        )
        moved = replace(key, enc_data=blob.out_data)
        convert = CmkConvertMigration(SRK, restriction, given, moved, authorities, blob.random)
        run(convert, SRK_AUTH)

    def delegation(self) -> None:
        rig, run = self.rig, self.rig.run
        made = run(DelegateManage(0, FamilyOperation.CREATE, b"F"), OWNER_AUTH).ret_data
        (family,) = struct.unpack(">I", made)
        run(DelegateManage(family, FamilyOperation.ENABLE, _YES), OWNER_AUTH)
        reads = 1 << OWNER_PERMISSIONS["TPM_OwnerReadInternalPub"]
        public = DelegatePublic(7, ANYWHERE, Delegations(DelegateType.OWNER, reads, 0), family, 0)
        blob = self.delegate(public)
        run(VerifyDelegation(blob))
        run(UpdateVerification(blob), OWNER_AUTH)
        run(LoadOwnerDelegation(1, blob), OWNER_AUTH)
        blob = self.delegate(public, increment=True)
        run(UpdateVerification(b"\0\0\0\1"), OWNER_AUTH)  # row 1 is of the time before
        run(DelegateReadTable())
        reply = run(DSAP(EntityType.DEL_OWNER_BLOB, 0, NONCE, blob))
        shared = Secret(osap_shared_secret(DATA_AUTH, reply.nonce_even_dsap, NONCE))
        delegated = Session(reply.auth_handle, reply.nonce_even, shared)
        with AuthSession(rig.client, delegated) as session:
            rig.client.execute(OwnerReadInternalPub(SRK), session, last=True)
        signer = rig.make_key(template(KeyUsage.SIGNING, 512))
        signs = Delegations(DelegateType.KEY, 1 << KEY_PERMISSIONS["TPM_Sign"], 0)
        of_key = DelegatePublic(7, ANYWHERE, signs, family, 0)
        with rig.osap(signer.handle, KEY_AUTH) as session:
            auth = session.encrypt_auth(Secret(DATA_AUTH))
            request = CreateKeyDelegation(signer.handle, of_key, auth)
            rig.client.execute(request, session, last=True)
        run(SetOwnerPointer(EntityType.DEL_ROW, 2))
        run(SetOwnerPointer(EntityType.OWNER, 0))

    def delegate(self, public: DelegatePublic, *, increment: bool = False) -> bytes:
        with self.rig.owner_osap() as session:
            auth = session.encrypt_auth(Secret(DATA_AUTH))
            create = CreateOwnerDelegation(increment, public, auth)
            return self.rig.client.execute(create, session, last=True).blob

    def nv_and_counters(self) -> None:
        run, tpm = self.rig.run, self.rig.client
        owner, auth = Secret(OWNER_AUTH), Secret(COUNTER_AUTH)
        nv.lock(tpm)
        assert run(NvReadValue(NV_INDEX, 0, len(NV_DATA)), OWNER_AUTH).data == NV_DATA
        area_auth = Secret(NV_AUTH)
        nv.define(tpm, NV_INDEX + 2, 8, AUTH_RW, owner_auth=owner, area_auth=area_auth)
        run(NvWriteValueAuth(NV_INDEX + 2, 0, b"by auth."), NV_AUTH)
        run(NvReadValueAuth(NV_INDEX + 2, 0, 8), NV_AUTH)
        nv.delete(tpm, NV_INDEX + 2, owner_auth=owner)
        first, second = (counters.create(tpm, owner, auth, name) for name in (b"frst", b"scnd"))
        run(ReadCounter(first.handle))
        run(ReleaseCounter(first.handle), COUNTER_AUTH)
        run(ReleaseCounterOwner(second.handle), OWNER_AUTH)

    def transports(self) -> None:
        rig = self.rig
        signer = rig.make_key(template(KeyUsage.SIGNING, 512))
        session = transport.establish_clear(rig.client, log=True)
        inside = Tpm(session)
        inside.execute(PcrRead(3))
        counters.create(inside, Secret(OWNER_AUTH), Secret(COUNTER_AUTH), b"wrap")
        session.release_signed(keys.KeyRef(signer.handle, Secret(KEY_AUTH)), NONCE)

    def daa(self) -> None:
        run, issuer = self.rig.run, the_issuer()
        ek = run(OwnerReadInternalPub(EK), OWNER_AUTH).public_portion

        def execute(request: object) -> bytes:
            return run(request, OWNER_AUTH).output_data  # type: ignore[arg-type, no-any-return]

        credential = Join(execute, issuer, ek).finish()
        Sign(execute, issuer.key, credential, 1, _sha1(b"message")).finish()

    def wrong_secrets(self) -> None:
        rig = self.rig
        signer = rig.make_key(template(KeyUsage.SIGNING, 512))
        for _ in range(6):
            assert rig.refusal(SignCommand(signer.handle, NONCE), WRONG_AUTH) == Rc.AUTHFAIL
        locked = rig.refusal(SignCommand(signer.handle, NONCE), KEY_AUTH)
        assert locked == Rc.DEFEND_LOCK_RUNNING
        rig.run(ResetLockValue(), OWNER_AUTH)

    def saved_state(self) -> None:
        rig, run = self.rig, self.rig.run
        signer = rig.make_key(template(KeyUsage.SIGNING, 512))
        run(Extend(3, NONCE))
        value = run(PcrRead(3)).out_digest
        run(SaveState())
        run(SaveState())  # over the first one
        run(Extend(4, NONCE))  # what was saved is outdated
        with rig.client.oiap(Secret(SRK_AUTH)) as session:
            run(SaveState())
            load = LoadKey2(SRK, signer.key)
            extra = rig.client.execute(load, session).inkey_handle  # by this as well
            run(SaveState())
            keys.flush(rig.client, extra)
            run(SaveState())
            rig.client.execute(GetPubKey(SRK), session)
            run(SaveState())
            rig.client.oiap(Secret(SRK_AUTH)).flush()
        run(SaveState())
        transport.establish_clear(rig.client).close()
        run(SaveState())
        self.restart(StartupType.STATE)
        assert run(PcrRead(3)).out_digest == value
        run(SignCommand(signer.handle, NONCE), KEY_AUTH)
        run(SaveState())
        self.restart()  # which forgets it
        self.presence()
        run(Extend(3, NONCE))  # is audited, so the next one does not count the audits up
        run(SetTempDeactivated(), OPERATOR_AUTH)
        self.restart(StartupType.DEACTIVATED)
        self.restart()

    # --- the end ------------------------------------------------------------------------------

    def maintenance(self) -> None:
        run = self.rig.run
        made = run(CreateMaintenanceArchive(True), OWNER_AUTH)
        key = Key.decode(made.archive)
        x1 = _outsider().decrypt(key.enc_data, OAEP)
        moved = public_of(self.public_srk().pub_key).encrypt(x1, OAEP)
        archive = replace(key, enc_data=moved).encode()
        run(LoadMaintenanceArchive(archive, _signed(archive), made.random), OWNER_AUTH)
        self.revive()
        run(KillMaintenanceFeature(), OWNER_AUTH)

    def old_age(self) -> None:
        run = self.rig.run
        run(OwnerClear(), OWNER_AUTH)
        self.revive()
        run(ReadPubek(NONCE))
        ek = run(ReadPubek(NONCE)).pub_endorsement_key
        self.take_again(ek)
        run(DisableOwnerClear(), OWNER_AUTH)
        run(ForceClear())
        self.revive()
        run(DisableForceClear())
        run(DisableForceClear())

    def take_again(self, ek: PubKey) -> None:
        public = to_public_key(ek)
        owner, srk = oaep_encrypt(public, OWNER_AUTH), oaep_encrypt(public, SRK_AUTH)
        take = TakeOwnership(PID_OWNER, owner, srk, template(KeyUsage.STORAGE))
        self.rig.run(take, OWNER_AUTH)
