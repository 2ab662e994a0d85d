"""A well-formed request of every command, for tests of what all commands have in common.

The sessions and handles in them name nothing: such a request is refused, but not for its form.
"""

from __future__ import annotations

import struct
from typing import Final

from conformance_rig import NO_HANDLE, SRK_HANDLE, ZEROS

from hwtpm.client import keys
from hwtpm.client.nv import unrestricted
from hwtpm.client.rsa import rsa_parms
from hwtpm.tpm12.commands import (
    capability,
    counters,
    cryptography,
    deprecated,
    endorsement,
    eviction,
    identity,
    integrity,
    management,
    nv,
    optin,
    ownership,
    sessions,
    startup,
    storage,
    testing,
    ticks,
)
from hwtpm.tpm12.const import EncScheme, SigScheme
from hwtpm.tpm12.table import Command, Request
from hwtpm.tpm12.types import (
    LEGACY_FORM,
    NvAttributes,
    NvDataPublic,
    PcrInfoLong,
    PcrSelection,
    StoredData,
)
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
    ownership.TakeOwnership(5, bytes(256), bytes(256), keys.storage_key()),
    ownership.OwnerClear(),
    ownership.ForceClear(),
    ownership.DisableOwnerClear(),
    ownership.DisableForceClear(),
    ownership.PhysicalPresence(0x0020),
    ownership.ResetEstablishmentBit(),
    capability.GetCapability(5, b"\0\0\1\1"),
    management.ResetLockValue(),
    storage.Sealx(SRK_HANDLE, ZEROS, _PCR_INFO, b"data"),
    storage.Seal(SRK_HANDLE, ZEROS, b"", b"data"),
    storage.Unseal(SRK_HANDLE, _BLOB),
    storage.UnBind(NO_HANDLE, bytes(128)),
    storage.CreateWrapKey(SRK_HANDLE, ZEROS, ZEROS, _KEY),
    storage.LoadKey2(SRK_HANDLE, _KEY),
    storage.GetPubKey(NO_HANDLE),
    cryptography.SHA1Start(),
    cryptography.SHA1Update(bytes(64)),
    cryptography.SHA1Complete(b"end"),
    cryptography.SHA1CompleteExtend(16, b"end"),
    cryptography.Sign(NO_HANDLE, ZEROS),
    cryptography.GetRandom(8),
    cryptography.StirRandom(b"seed"),
    endorsement.CreateEndorsementKeyPair(ZEROS, _EK),
    endorsement.ReadPubek(ZEROS),
    endorsement.OwnerReadInternalPub(SRK_HANDLE),
    identity.MakeIdentity(ZEROS, ZEROS, _KEY),
    identity.ActivateIdentity(NO_HANDLE, bytes(256)),
    integrity.Extend(16, ZEROS),
    integrity.PcrRead(16),
    integrity.Quote(NO_HANDLE, ZEROS, _PCR),
    integrity.PcrReset(PcrSelection.of([16])),
    integrity.Quote2(NO_HANDLE, ZEROS, _PCR, False),
    sessions.OIAP(),
    sessions.OSAP(4, SRK_HANDLE, ZEROS),
    nv.NvDefineSpace(_AREA, ZEROS),
    nv.NvWriteValue(0x1000, 0, b"12345678"),
    nv.NvWriteValueAuth(0x1000, 0, b"12345678"),
    nv.NvReadValue(0x1000, 0, 8),
    nv.NvReadValueAuth(0x1000, 0, 8),
    eviction.FlushSpecific(NO_HANDLE, 2),
    ticks.GetTicks(),
    counters.CreateCounter(ZEROS, b"cntr"),
    counters.IncrementCounter(NO_HANDLE),
    counters.ReadCounter(NO_HANDLE),
    counters.ReleaseCounter(NO_HANDLE),
    counters.ReleaseCounterOwner(NO_HANDLE),
    deprecated.TerminateHandle(NO_HANDLE),
    deprecated.DisablePubekRead(),
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
