"""Where an engine answers otherwise than the tests say, and why that is right or at least known.

An entry must really differ: a test compares with the declared code, so an engine that turns to
the specification's answer fails until its entry goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["DIFFERENCES", "FORMS", "LACKING", "Difference"]


LACKING: Final = frozenset(
    {
        "TPM_CreateMaintenanceArchive",
        "TPM_FieldUpgrade",
        "TPM_KillMaintenanceFeature",
        "TPM_LoadMaintenanceArchive",
        "TPM_LoadManuMaintPub",
        "TPM_ReadManuMaintPub",
        "TPM_SetRedirection",
    }
)
"""Optional commands that libtpms is built without."""


@dataclass(frozen=True)
class Difference:
    """Answers by engine, mostly return codes, and what the specification has to say."""

    answers: dict[str, int]
    why: str


def _libtpms(rc: int, why: str) -> Difference:
    """swtpm's engine is libtpms."""
    return Difference({"libtpms": rc, "swtpm": rc}, why)


DIFFERENCES: Final[dict[str, Difference]] = {
    "last PCR that TPM_HASH_START resets": _libtpms(
        22,
        "PC Client TIS 1.2 11.2.4 resets at locality 4 what locality 4 may reset, 17 to 20;"
        " libtpms resets 21 and 22 as well",
    ),
    "startup after an unknown startup type": Difference(
        {"engine": 0x00},
        "Part 2 7.3 (informative): postInitialise says that TPM_Startup ran, not that it succeeded;"
        " our engine takes back all of a refused command, so firmware can correct itself",
    ),
    "handles of an unknown type": _libtpms(
        0x03, "7.1 action 2 has no code for TPM_CAP_HANDLE; for the other areas it is BAD_MODE"
    ),
    "one byte more than can be sealed": _libtpms(
        0x20, "10.1 has no code of its own for it; libtpms passes its RSA library's failure on"
    ),
    "wrong secret of the identity to activate": _libtpms(
        0x1D, "15.2 proves the owner, the second session, first; libtpms counts in that order"
    ),
    "wrong owner of the identity to activate": _libtpms(0x01, "as above, the other way round"),
    "key with a changed modulus": _libtpms(
        0x03, "10.5 actions 6 and 7: libtpms divides modulus by prime before it compares digests"
    ),
    "flushing a session that is not there": Difference(
        {"engine": 0x22, "libtpms": 0x22, "swtpm": 0x22},
        "22.1 action 7 says BAD_PARAMETER; client software knows INVALID_AUTHHANDLE from all chips",
    ),
    "flushing a transport session that is not there": _libtpms(
        0x22, "22.1 action 7 says BAD_PARAMETER"
    ),
    "flushing a DAA session that is not there": _libtpms(0x58, "as above"),
    "NV area of 1 MiB": _libtpms(
        0x17, "20.1 action 11 says NOSPACE; libtpms finds that it cannot allocate so much"
    ),
    "65th write without an owner": _libtpms(
        0x00, "20.1 action 3: only this check holds before the lock; libtpms leaves it out, too"
    ),
    "one session twice": _libtpms(
        0x00, "Part 1 13 is silent on a command with the same session twice; ours refuses it"
    ),
    "startup in failure mode": _libtpms(
        0x26, "libtpms takes the failed TPM_Startup for the one that is allowed"
    ),
    "signing in a join without settings": _libtpms(
        0x54, "26.2 stage 2 asks for the issuer's settings (b) before the TPM's own (c)"
    ),
    "DAA secrets of another issuer": _libtpms(
        0x00, "26.2 stage 1 action c refuses them; libtpms does at stage 2"
    ),
    "DAA with generic_q of zero": _libtpms(
        0x00, "26.1 stage 2 action d: all fields present; libtpms finds out when it divides by q"
    ),
    "DAA with digest_n of zero": _libtpms(
        0x57, "26.1 has no code for it; libtpms answers WRONG_W when it cannot calculate"
    ),
    "DAA with digest_gamma of zero": _libtpms(0x57, "as above"),
    "DAA session after a command in no session": _libtpms(
        0x58,
        "26.1: the actions, 2 among them, are for a valid command; libtpms ends the session for"
        " whatever names its handle, malformed commands included",
    ),
    "DAA v1 of 193 bytes": _libtpms(
        0x09,
        "Part 2 22.1: v1 has 192 bytes; 26.1 stage 23 has no code for one that is too long, libtpms"
        " goes into failure mode",
    ),
    "wrong secret of a transport session": _libtpms(
        0x1D, "24.2 action 7.c says AUTHFAIL; libtpms answers as for TPM_ReleaseTransportSigned"
    ),
    "unknown command wrapped": _libtpms(0x0A, "24.2 action 3 says BAD_PARAMETER"),
    "command without a header wrapped": _libtpms(0x19, "as above"),
    "command without its session wrapped": _libtpms(0x19, "as above, for LEN1 less than 0"),
    "handles of a wrapped release": _libtpms(
        0, "24.3 has a handle, which is no data; libtpms knows that it refuses the command anyway"
    ),
    "migration key whose modulus is too short": _libtpms(
        0x00, "11.3 action 1: the key has the strength of RSA 2048; libtpms believes its parameters"
    ),
    "authorised for another migration scheme": _libtpms(
        0x00, "Part 2 4.10: a MIGRATE key is for all modes but rewrap; libtpms compares nothing"
    ),
    "trailing bytes in a migration blob": _libtpms(
        0x00, "Part 2 10.8 has nothing behind partPrivKey; libtpms decodes what it needs"
    ),
    "migrating to a key without OAEP": _libtpms(
        0x00, "11.4 action 2 asks it of the authority; no parent could decrypt another scheme"
    ),
    "migrating to a modulus too short": _libtpms(
        0x2B, "11.4 action 3 has no code; libtpms finds that the blob is too long for that key"
    ),
    "reserved restriction bits": _libtpms(
        0x00, "Part 2 5.17: bits 26:0 MUST be 0; libtpms stores them"
    ),
    "trailing bytes in a ticket": _libtpms(
        0x00,
        "11.9: sigTicket is a TPM_HMAC, restrictTicket a TPM_CMK_AUTH; libtpms ignores the rest",
    ),
    "changed flags of a migrated key": _libtpms(
        0x24, "11.10 action 14 comes before 15 and 16; libtpms compares no pubDataDigest"
    ),
    "changed public part of a migrated key": _libtpms(
        0x00, "11.10 action 14: migratedKey corresponds to d2; libtpms leaves that to TPM_LoadKey2"
    ),
    "auditing an ordinal that there is not": _libtpms(0x03, "8.5 action 2 says BADINDEX"),
    "digest in the answer that closes it": _libtpms(
        0, "8.4 action 4.e takes it before action 5 resets it; libtpms answers with zeros"
    ),
    "presence by command as delivered": Difference(
        {"engine": 0x00},
        "Part 2 7.1: physicalPresenceCMDEnable defaults to FALSE; our engine, which has no pin, is"
        " delivered with TRUE",
    ),
    "certifying from the wrong locality": _libtpms(
        0x18, "13.8 action 9.a.ii and 13.9 action 13.c.ii say BAD_LOCALITY"
    ),
    "certifying a key that ignores PCRs on reading": _libtpms(
        0x18, "13.8 action 9.a and 13.9 action 13.c let it; libtpms never asks for the key flag"
    ),
    "setting in an unknown area": _libtpms(0x2C, "7.2 action 4.a says BAD_PARAMETER"),
    "setting a flag to 2": _libtpms(
        0x00, "Part 2 2.2.1: a BOOL is 0x00 or 0x01; 7.2: what is inconsistent is a bad parameter"
    ),
    "new DAA secrets without the owner": _libtpms(
        0x00, "Part 2 7.4.1: TPM_PD_DAAPROOF takes owner authorisation; libtpms asks for none"
    ),
    "deactivating with authorisation": _libtpms(
        0x00,
        'Part 2 7.1.1 "No authorization": sent as TPM_TAG_RQU_COMMAND (21.5); libtpms takes'
        " what it can verify",
    ),
    "NV areas that outlive the endorsement key": _libtpms(
        2, "14.3 action 4.a: all with the D bit MUST go; libtpms deletes those of the owner"
    ),
    "keys with another exponent than 65537": _libtpms(
        0x00,
        "10.4 and 10.5 action 3: BAD_KEY_PROPERTY for what the TPM is not designed for; ours"
        " has one exponent",
    ),
    "NV area that only a locality protects": _libtpms(
        0x3F, "20.1 actions 8.b and 9.d: a locality disallowed for writing is a protection"
    ),
    "NV area with 32 PCRs": _libtpms(0x10, "20.1 action 7.a says INVALID_STRUCTURE"),
    "NV lock while disabled": _libtpms(
        0x07, "20.1 action 1 comes before all checks; setting the lock again is no error"
    ),
    "reading the DIR without an owner": _libtpms(
        0x00, "Part 2 17: TPM_DirRead is not among the commands for a TPM without an owner"
    ),
    "writing the DIR without an owner": _libtpms(
        0x22, "as above; libtpms looks for the session before it looks for the owner"
    ),
    "AuthData of a key as that of data": _libtpms(
        0x00, "17.1 action 10.a checks the payload type; libtpms sees that the layouts are alike"
    ),
    "parentPCRStatus of an ephemeral key": _libtpms(
        1, "27.4.1: it SHALL be FALSE; libtpms leaves it at its default, TRUE"
    ),
    "sealed data under the ephemeral key": _libtpms(
        0x25, "27.4.2 action 2: encData is that of TPM_STORED_DATA or TPM_KEY; libtpms takes keys"
    ),
    "family flag that is no boolean": _libtpms(
        0x00, "19.1 actions 7.a and 8.a: validate that opData is a Boolean; libtpms takes any byte"
    ),
    "managing the own family by pointer": _libtpms(
        0x4C,
        "19.1 action 2.b.ii: the row's family is right; libtpms looks into the OIAP session",
    ),
    "renewing another family by pointer": _libtpms(
        0x00, "19.6 action 6: if delegated; libtpms asks only for DSAP sessions"
    ),
    "OSAP session for a reserved handle": _libtpms(
        0x35, "18.2 has no code for it; our engine answers as for any handle that is no key's"
    ),
    "OSAP session for the EK": _libtpms(0x0D, "as above"),
    "delegating in an OIAP session": _libtpms(
        0x2C, "19.2 action 5, 19.3 action 5 say INVALID_AUTHHANDLE; libtpms says BAD_MODE"
    ),
    "session of a counter in a context": _libtpms(
        0x4A,
        "21.3 action 5.a.ii.(1): the counter is there, with the same secret; libtpms misses it",
    ),
    "keys left by a refused TPM_LoadContext": _libtpms(
        0, "21.3 has no such effect: libtpms unloads the key whose handle the context wanted"
    ),
    "saved session of a delegation that changed": _libtpms(
        0x00, "19.1 action 4: all DSAP sessions MUST be invalidated; libtpms forgets the saved ones"
    ),
    "damaged secret part of a context": _libtpms(
        0x21, "21.3 action 6.e; libtpms finds that it cannot decrypt the last block"
    ),
    "key context as a session": _libtpms(
        0x43, "21.3 actions 5 and 6 say BADCONTEXT; libtpms reads the contents before that"
    ),
    "context of no type": _libtpms(0x35, "as above"),
    "moving out an owner-evict key": _libtpms(
        0x00, "21.1: only the owner evicts it; libtpms forgets to look in TPM_SaveKeyContext"
    ),
    "context of 1.1 after a resume": _libtpms(
        0x00,
        "27.2.1 and 27.2.3: invalid once the power was interrupted; libtpms' are like those"
        " of TPM_SaveContext",
    ),
    "key context of 1.1 after TPM_Reset": _libtpms(0x00, "27.5 action 1.a; as above"),
    "context after TPM_Reset": _libtpms(
        0x5A, "27.5 action 1.d: it MUST NOT be invalidated; libtpms clears the context list"
    ),
}

_ORDER = "the session of the sample does not exist, and neither Part 1 nor the command says first"
_KEY_FORM = "a key structure that is wrong in two ways; libtpms looks at the algorithm first"

_CONTEXT = "21.3 action 6.e; libtpms finds that it cannot decrypt it"
_PARMS = (
    "key parameters that do not decode; libtpms decodes them before it looks for key or session"
)
_DELEGATION = (
    "tags, types and localities inside a delegation have no code of their own in 19.2 to 19.4"
)
_DELEGATION_SIZE = "libtpms does not look at blobSize but reads until the structure ends"

FORMS: Final[dict[tuple[str, int, int], str]] = {
    ("*", 0x19, 0x17): "a size beyond the frame; over 64 KiB libtpms' allocator refuses it, SIZE",
    ("*", 0x19, 0x03): "bytes too many before a session: libtpms reads continueAuthSession first",
    ("TPM_ActivateIdentity", 0x0C, 0x22): _ORDER,
    ("TPM_IncrementCounter", 0x22, 0x45): _ORDER,
    ("TPM_ReleaseCounter", 0x22, 0x45): _ORDER,
    ("TPM_NV_ReadValue", 0x22, 0x02): _ORDER,
    ("TPM_NV_ReadValue", 0x22, 0x3B): _ORDER,
    ("TPM_NV_ReadValueAuth", 0x22, 0x02): _ORDER,
    ("TPM_NV_ReadValueAuth", 0x22, 0x3B): _ORDER,
    ("TPM_NV_WriteValue", 0x22, 0x02): _ORDER,
    ("TPM_NV_WriteValue", 0x22, 0x3B): _ORDER,
    ("TPM_NV_WriteValueAuth", 0x22, 0x02): _ORDER,
    ("TPM_NV_WriteValueAuth", 0x22, 0x3B): _ORDER,
    ("TPM_MakeIdentity", 0x22, 0x28): _ORDER,
    ("TPM_SetTempDeactivated", 0x22, 0x49): _ORDER,
    ("TPM_TakeOwnership", 0x22, 0x14): _ORDER,
    ("TPM_Unseal", 0x22, 0x01): _ORDER,
    ("TPM_NV_DefineSpace", 0x22, 0x43): _ORDER,
    ("TPM_CreateEndorsementKeyPair", 0x08, 0x28): "there is a key, and the parameters are wrong",
    ("TPM_CreateEndorsementKeyPair", 0x08, 0x17): "there is a key, and the parameters are wrong",
    ("TPM_AuthorizeMigrationKey", 0x22, 0x17): _PARMS,
    ("TPM_AuthorizeMigrationKey", 0x22, 0x19): _PARMS,
    ("TPM_CMK_ConvertMigration", 0x22, 0x19): _PARMS,
    ("TPM_CMK_ConvertMigration", 0x03, 0x28): _PARMS,
    ("TPM_CMK_CreateKey", 0x22, 0x17): _PARMS,
    ("TPM_CMK_CreateKey", 0x22, 0x28): _PARMS,
    ("TPM_CreateMigrationBlob", 0x22, 0x28): _PARMS,
    ("TPM_CreateMigrationBlob", 0x22, 0x01): _ORDER,
    ("TPM_MigrateKey", 0x0C, 0x19): _PARMS,
    ("TPM_MigrateKey", 0x0C, 0x28): _PARMS,
    ("TPM_CreateRevocableEK", 0x08, 0x28): "as TPM_CreateEndorsementKeyPair",
    ("TPM_CreateRevocableEK", 0x08, 0x17): "as TPM_CreateEndorsementKeyPair",
    ("TPM_CreateRevocableEK", 0x08, 0x19): "as TPM_CreateEndorsementKeyPair",
    ("TPM_ChangeAuthAsymStart", 0x0C, 0x28): _KEY_FORM,
    ("TPM_ChangeAuthAsymStart", 0x0C, 0x19): _KEY_FORM,
    ("TPM_ChangeAuthAsymStart", 0x0C, 0x17): _KEY_FORM,
    ("TPM_SetCapability", 0x03, 0x2C): "an unknown area: 7.2 action 4.a says BAD_PARAMETER",
    ("TPM_LoadKey", 0x01, 0x28): _KEY_FORM,
    ("TPM_LoadKey", 0x01, 0x19): _KEY_FORM,
    ("TPM_LoadKey", 0x03, 0x28): _KEY_FORM,
    ("TPM_LoadKey", 0x03, 0x2E): _KEY_FORM,
    ("TPM_LoadKey", 0x03, 0x22): _KEY_FORM,
    ("TPM_LoadKey", 0x22, 0x28): _KEY_FORM,
    ("TPM_CreateWrapKey", 0x22, 0x28): _KEY_FORM,
    ("TPM_CreateWrapKey", 0x22, 0x17): _KEY_FORM,
    ("TPM_CreateWrapKey", 0x19, 0x28): _KEY_FORM,
    ("TPM_CreateWrapKey", 0x03, 0x28): _KEY_FORM,
    ("TPM_LoadKey2", 0x03, 0x01): _KEY_FORM,
    ("TPM_LoadKey2", 0x01, 0x28): _KEY_FORM,
    ("TPM_LoadKey2", 0x01, 0x17): _KEY_FORM,
    ("TPM_LoadKey2", 0x19, 0x28): _KEY_FORM,
    ("TPM_LoadKey2", 0x22, 0x28): _KEY_FORM,
    ("TPM_MakeIdentity", 0x22, 0x19): _KEY_FORM,
    ("TPM_MakeIdentity", 0x03, 0x28): _KEY_FORM,
    ("TPM_MakeIdentity", 0x19, 0x28): _KEY_FORM,
    ("TPM_MakeIdentity", 0x03, 0x2E): _KEY_FORM,
    ("TPM_TakeOwnership", 0x03, 0x28): _KEY_FORM,
    ("TPM_EstablishTransport", 0x03, 0x43): "a wrong structure tag has no code of its own in 24.1",
    ("TPM_NV_DefineSpace", 0x03, 0x43): "a wrong structure tag has no code of its own in 20.1",
    ("TPM_NV_DefineSpace", 0x11, 0x09): "too large: NOSPACE by 20.1 action 11; libtpms goes into"
    " failure mode until the next power cycle",
    ("TPM_NV_DefineSpace", 0x3B, 0x09): "as above, in an area that nobody could define anyway",
    ("TSC_PhysicalPresence", 0x00, 0x03): "bit 15, which Part 2 4.9 leaves out and 6.6 ignores",
    ("TPM_KeyControlOwner", 0x22, 0x17): "a size beyond the frame inside TPM_PUBKEY: as for *",
    ("TPM_LoadContext", 0x5A, 0x21): _CONTEXT,
    ("TPM_LoadKeyContext", 0x5A, 0x21): _CONTEXT,
    ("TPM_LoadKeyContext", 0x19, 0x21): "as above; libtpms does not look at the outer size",
    ("TPM_LoadAuthContext", 0x5A, 0x21): _CONTEXT,
    ("TPM_LoadAuthContext", 0x19, 0x21): "as above; libtpms does not look at the outer size",
    ("TPM_Delegate_Manage", 0x22, 0x02): _ORDER,
    ("TPM_Delegate_CreateKeyDelegation", 0x03, 0x43): _DELEGATION,
    ("TPM_Delegate_CreateOwnerDelegation", 0x03, 0x43): _DELEGATION,
    ("TPM_Delegate_CreateOwnerDelegation", 0x22, 0x43): _DELEGATION,
    ("TPM_Delegate_LoadOwnerDelegation", 0x22, 0x02): _ORDER,
    ("TPM_Delegate_LoadOwnerDelegation", 0x22, 0x03): _ORDER,
    ("TPM_Delegate_LoadOwnerDelegation", 0x22, 0x43): _ORDER,
    ("TPM_Delegate_LoadOwnerDelegation", 0x43, 0x03): _DELEGATION,
    ("TPM_Delegate_LoadOwnerDelegation", 0x19, 0x02): _DELEGATION_SIZE,
    ("TPM_Delegate_LoadOwnerDelegation", 0x19, 0x43): _DELEGATION_SIZE,
}
"""Command, our engine's answer to a damaged form of it, libtpms' answer; and why they differ."""
