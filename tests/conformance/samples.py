"""A well-formed request of every command, for tests of what all commands have in common.

The sessions and handles in them name nothing: such a request is refused, but not for its form.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Final

from conformance_rig import NO_HANDLE, SRK_HANDLE, ZEROS

from hwtpm.client import keys
from hwtpm.client.nv import unrestricted
from hwtpm.client.rsa import rsa_parms
from hwtpm.tpm12.commands import (
    auditing,
    authdata,
    capability,
    context,
    counters,
    cryptography,
    daa,
    delegation,
    deprecated,
    endorsement,
    eviction,
    identity,
    integrity,
    maintenance,
    management,
    migration,
    nv,
    optin,
    ownership,
    sessions,
    startup,
    storage,
    testing,
    ticks,
    transport,
)
from hwtpm.tpm12.const import EncScheme, SigScheme
from hwtpm.tpm12.table import Command, Request
from hwtpm.tpm12.types import (
    LEGACY_FORM,
    NvAttributes,
    NvDataPublic,
    PcrInfoLong,
    PcrSelection,
    PubKey,
    StoredData,
)
from hwtpm.tpm12.types.context import ContextBlob
from hwtpm.tpm12.types.delegation import DelegateOwnerBlob, DelegatePublic, Delegations
from hwtpm.tpm12.types.migration import CmkAuth, MigrationKeyAuth, MsaComposite
from hwtpm.tpm12.types.transport import TransportPublic
from hwtpm.wire import Struct

__all__ = ["SAMPLES", "TAIL_SIZE", "frame", "sample_frame", "tails"]

TAIL_SIZE: Final = 45
_EK: Final = rsa_parms(EncScheme.RSA_OAEP_SHA1_MGF1, SigScheme.NONE)
_KEY: Final = keys.signing_key(bits=1024)
_PCR: Final = PcrSelection.of([0])
_PCR_INFO: Final = PcrInfoLong(1, 1, _PCR, _PCR, ZEROS, ZEROS).encode()
_BLOB: Final = StoredData(LEGACY_FORM, b"", bytes(256))
_AREA: Final = NvDataPublic(
    0x1000, unrestricted(), unrestricted(), NvAttributes(1), False, False, False, 8
)
_PUBLIC: Final = PubKey(_EK, b"\xc1" * 256)
_MIGRATION_KEY: Final = MigrationKeyAuth(_PUBLIC, 1, ZEROS)
_AUTHORITIES: Final = MsaComposite((ZEROS, ZEROS))
_DELEGATION: Final = DelegatePublic(1, unrestricted(), Delegations(1, 1, 0), 1, 1)

_CONTEXT: Final = ContextBlob(2, 0, bytes(16), 1, ZEROS, b"", bytes(99))

_REQUESTS: Final[tuple[Request[Struct], ...]] = (
    startup.Startup(1),
    startup.SaveState(),
    testing.SelfTestFull(),
    testing.ContinueSelfTest(),
    testing.GetTestResult(),
    optin.SetOwnerInstall(True),
    optin.OwnerSetDisable(False),
    optin.PhysicalEnable(),
    optin.PhysicalDisable(),
    optin.PhysicalSetDeactivated(False),
    optin.SetTempDeactivated(),
    optin.SetOperatorAuth(ZEROS),
    ownership.TakeOwnership(5, bytes(256), bytes(256), keys.storage_key()),
    ownership.OwnerClear(),
    ownership.ForceClear(),
    ownership.DisableOwnerClear(),
    ownership.DisableForceClear(),
    ownership.PhysicalPresence(0x0020),
    ownership.ResetEstablishmentBit(),
    capability.GetCapability(5, b"\0\0\1\1"),
    capability.SetCapability(1, b"\0\0\0\4", b"\1"),
    capability.GetCapabilityOwner(),
    management.ResetLockValue(),
    management.FieldUpgrade(b"upgrade"),
    management.SetRedirection(NO_HANDLE, 1, bytes(4)),
    storage.Sealx(SRK_HANDLE, ZEROS, _PCR_INFO, b"data"),
    storage.Seal(SRK_HANDLE, ZEROS, b"", b"data"),
    storage.Unseal(SRK_HANDLE, _BLOB),
    storage.UnBind(NO_HANDLE, bytes(128)),
    storage.CreateWrapKey(SRK_HANDLE, ZEROS, ZEROS, _KEY),
    storage.LoadKey2(SRK_HANDLE, _KEY),
    storage.GetPubKey(NO_HANDLE),
    migration.CreateMigrationBlob(SRK_HANDLE, 1, _MIGRATION_KEY, bytes(256)),
    migration.ConvertMigrationBlob(SRK_HANDLE, bytes(256), bytes(198)),
    migration.AuthorizeMigrationKey(1, _PUBLIC),
    migration.MigrateKey(NO_HANDLE, _PUBLIC, bytes(256)),
    migration.CmkSetRestrictions(0),
    migration.CmkApproveMA(ZEROS),
    migration.CmkCreateKey(SRK_HANDLE, ZEROS, _KEY, ZEROS, ZEROS),
    migration.CmkCreateTicket(_PUBLIC, ZEROS, bytes(256)),
    migration.CmkCreateBlob(
        SRK_HANDLE, 4, _MIGRATION_KEY, ZEROS, _AUTHORITIES, bytes(60), ZEROS, bytes(256)
    ),
    migration.CmkConvertMigration(
        SRK_HANDLE, CmkAuth(ZEROS, ZEROS, ZEROS), ZEROS, _KEY, _AUTHORITIES, bytes(198)
    ),
    maintenance.CreateMaintenanceArchive(False),
    maintenance.LoadMaintenanceArchive(bytes(600), bytes(256), bytes(198)),
    maintenance.KillMaintenanceFeature(),
    maintenance.LoadManuMaintPub(ZEROS, _PUBLIC),
    maintenance.ReadManuMaintPub(ZEROS),
    cryptography.SHA1Start(),
    cryptography.SHA1Update(bytes(64)),
    cryptography.SHA1Complete(b"end"),
    cryptography.SHA1CompleteExtend(16, b"end"),
    cryptography.Sign(NO_HANDLE, ZEROS),
    cryptography.CertifyKey(NO_HANDLE, NO_HANDLE, ZEROS),
    cryptography.CertifyKey2(NO_HANDLE, NO_HANDLE, ZEROS, ZEROS),
    cryptography.GetRandom(8),
    cryptography.StirRandom(b"seed"),
    endorsement.CreateEndorsementKeyPair(ZEROS, _EK),
    endorsement.CreateRevocableEK(ZEROS, _EK, False, ZEROS),
    endorsement.RevokeTrust(ZEROS),
    endorsement.ReadPubek(ZEROS),
    endorsement.OwnerReadInternalPub(SRK_HANDLE),
    identity.MakeIdentity(ZEROS, ZEROS, _KEY),
    identity.ActivateIdentity(NO_HANDLE, bytes(256)),
    integrity.Extend(16, ZEROS),
    integrity.PcrRead(16),
    integrity.Quote(NO_HANDLE, ZEROS, _PCR),
    integrity.PcrReset(PcrSelection.of([16])),
    integrity.Quote2(NO_HANDLE, ZEROS, _PCR, False),
    authdata.ChangeAuth(SRK_HANDLE, 4, ZEROS, 5, bytes(256)),
    authdata.ChangeAuthOwner(4, ZEROS, 2),
    sessions.OIAP(),
    sessions.OSAP(4, SRK_HANDLE, ZEROS),
    sessions.DSAP(8, 0, ZEROS, bytes(4)),
    sessions.SetOwnerPointer(2, 0),
    delegation.DelegateManage(1, 2, b"\1"),
    delegation.CreateKeyDelegation(NO_HANDLE, _DELEGATION, ZEROS),
    delegation.CreateOwnerDelegation(False, _DELEGATION, ZEROS),
    delegation.LoadOwnerDelegation(0, DelegateOwnerBlob(_DELEGATION, ZEROS, b"", b"").encode()),
    delegation.DelegateReadTable(),
    delegation.UpdateVerification(bytes(4)),
    delegation.VerifyDelegation(b"\0\x2a"),
    nv.NvDefineSpace(_AREA, ZEROS),
    nv.NvWriteValue(0x1000, 0, b"12345678"),
    nv.NvWriteValueAuth(0x1000, 0, b"12345678"),
    nv.NvReadValue(0x1000, 0, 8),
    nv.NvReadValueAuth(0x1000, 0, 8),
    eviction.FlushSpecific(NO_HANDLE, 2),
    ticks.GetTicks(),
    ticks.TickStampBlob(NO_HANDLE, ZEROS, ZEROS),
    transport.EstablishTransport(SRK_HANDLE, TransportPublic(0, 7, 1), bytes(256)),
    transport.ExecuteTransport(struct.pack(">HIII", 0x00C1, 14, 0x15, 1)),
    transport.ReleaseTransportSigned(NO_HANDLE, ZEROS),
    auditing.GetAuditDigest(0),
    auditing.GetAuditDigestSigned(NO_HANDLE, False, ZEROS),
    auditing.SetOrdinalAuditStatus(0x15, True),
    counters.CreateCounter(ZEROS, b"cntr"),
    counters.IncrementCounter(NO_HANDLE),
    counters.ReadCounter(NO_HANDLE),
    counters.ReleaseCounter(NO_HANDLE),
    counters.ReleaseCounterOwner(NO_HANDLE),
    daa.DaaJoin(NO_HANDLE, 1, bytes(256), bytes(256)),
    daa.DaaSign(NO_HANDLE, 0, bytes(148), b""),
    context.KeyControlOwner(NO_HANDLE, PubKey(_EK, bytes(256)), 1, True),
    context.SaveContext(NO_HANDLE, 2, bytes(16)),
    context.LoadContext(NO_HANDLE, False, _CONTEXT),
    deprecated.EvictKey(NO_HANDLE),
    deprecated.TerminateHandle(NO_HANDLE),
    deprecated.SaveKeyContext(NO_HANDLE),
    deprecated.LoadKeyContext(replace(_CONTEXT, resource_type=1).encode()),
    deprecated.SaveAuthContext(NO_HANDLE),
    deprecated.LoadAuthContext(_CONTEXT.encode()),
    deprecated.Reset(),
    deprecated.DisablePubekRead(),
    deprecated.DirWriteAuth(0, ZEROS),
    deprecated.DirRead(0),
    deprecated.ChangeAuthAsymStart(NO_HANDLE, ZEROS, _EK),
    deprecated.ChangeAuthAsymFinish(SRK_HANDLE, NO_HANDLE, 5, ZEROS, bytes(256), bytes(256)),
    deprecated.OwnerReadPubek(),
    deprecated.LoadKey(SRK_HANDLE, _KEY),
)

SAMPLES: Final = {request.command.name: request for request in _REQUESTS}


def tails(count: int) -> bytes:
    """Authorisation tails of sessions that do not exist, each another one."""
    return b"".join(
        struct.pack(">I20sB20s", NO_HANDLE + number, bytes(20), 0, bytes(20))
        for number in range(count)
    )


def frame(ordinal: int, body: bytes = b"", *, tag: int = 0x00C1, size: int | None = None) -> bytes:
    """A request frame that says what it is told to say."""
    return struct.pack(">HII", tag, 10 + len(body) if size is None else size, ordinal) + body


def sample_frame(command: Command, auths: int) -> bytes:
    """A well-formed frame of that command with so many authorisation tails."""
    body = SAMPLES[command.name].encode() + tails(auths)
    return frame(command.ordinal, body, tag=0x00C1 + auths)
