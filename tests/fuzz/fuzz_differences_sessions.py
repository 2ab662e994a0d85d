"""Differences in what needs a past: delegation, transport, contexts, migration, new AuthData."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Final

from differences import LACKING
from fuzz_known import Known, damaged
from fuzz_sides import Plan

from hwtpm.tpm12.const import EVERY_LOCALITY, NUM_PCRS, EntityType, KeyUsage, ResourceType
from hwtpm.tpm12.delegation import is_well_formed
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import TABLE
from hwtpm.tpm12.types import CurrentTicks
from hwtpm.tpm12.types.migration import MigrationKeyAuth

__all__ = ["COMPARABLE", "CRASHES", "ENDS_OSAP", "KNOWN", "OPAQUE", "VENDOR_SIZE"]


REFUSED: Final = frozenset(Rc) - {Rc.SUCCESS}
UNDECODED: Final = frozenset(
    {
        Rc.BADINDEX,
        Rc.BAD_PARAMETER,
        Rc.SIZE,
        Rc.BAD_PARAM_SIZE,
        Rc.BADTAG,
        Rc.DECRYPT_ERROR,
        Rc.BAD_KEY_PROPERTY,
        Rc.INVALID_PCR_INFO,
        Rc.BAD_VERSION,
        Rc.INVALID_STRUCTURE,
    }
)
"""What libtpms says of a structure that it cannot decode."""


INPUT_BUFFER: Final = 4096


def _wrong_outer_proof(plan: Plan) -> bool:
    through = plan.through
    return through is not None and not through.auth.honest


def _meant_for_another(plan: Plan) -> bool:
    return len(plan.auths) == 2 and bool(plan.auths[1].bound)


def _bad_delegation(plan: Plan) -> bool:
    """The public part of a delegation, or a blob, is none that a TPM would take."""
    public = plan.fields.get("public_info")
    if public is None:
        return any(isinstance(value, bytes) for value in plan.fields.values())
    info = public.pcr_info
    return (
        not is_well_formed(public.permissions)
        or not 0 < info.locality_at_release <= EVERY_LOCALITY
        or not 0 < len(info.pcr_selection.select) <= NUM_PCRS // 8
    )


def _given(plan: Plan) -> Iterable[Any]:
    return plan.fields.values()


def _field_of(name: str, *values: int) -> Callable[[Plan], bool]:
    return lambda plan: plan.fields[name] in values


KNOWN: Final[tuple[Known, ...]] = (
    Known(
        "*",
        {Rc.AUTHFAIL},
        {Rc.AUTH2FAIL},
        "24.2 action 7.c says AUTHFAIL; libtpms answers as for TPM_ReleaseTransportSigned",
        _wrong_outer_proof,
    ),
    Known(
        "*",
        REFUSED | {Rc.SUCCESS},
        {Rc.WRONGPCRVAL},
        "24.2 action 10 takes the key's public part for the log; libtpms does not get at it in the"
        " wrong state and refuses TPM_ExecuteTransport itself",
        lambda plan: plan.through is not None,
    ),
    Known(
        "TPM_CertifyKey TPM_CertifyKey2 TPM_ReleaseTransportSigned",
        {Rc.INVALID_KEYUSAGE, Rc.MIGRATEFAIL, Rc.INAPPROPRIATE_SIG},
        {Rc.WRONGPCRVAL, Rc.BAD_LOCALITY},
        "13.8, 13.9 and 24.3 look at usage and scheme first; libtpms at the PCRs, when it gets the"
        " keys",
    ),
    Known(
        "*",
        {Rc.AUTH2FAIL},
        {Rc.AUTHFAIL},
        "a second session that is bound to another entity: the commands say AUTH2FAIL; libtpms"
        " answers as for the first",
        _meant_for_another,
    ),
    Known(
        "TPM_ChangeAuthAsymFinish",
        REFUSED | {Rc.SUCCESS},
        {Rc.AUTH2FAIL},
        "24.2 description 5: handles are no data; libtpms takes ephHandle for data, so the outer"
        " proof is wrong for it",
        lambda plan: plan.through is not None,
    ),
    Known(
        "TPM_ChangeAuthAsymFinish",
        REFUSED | {Rc.SUCCESS},
        {Rc.WRONG_ENTITYTYPE},
        "27.4.2 action 2: encData is that of TPM_STORED_DATA or TPM_KEY; libtpms takes keys",
        _field_of("entity_type", EntityType.DATA),
    ),
    Known(
        "*",
        {Rc.DISABLED, Rc.DEACTIVATED},
        UNDECODED,
        "a field that does not decode in a TPM that is disabled or deactivated: Part 3 gives these"
        " checks no order",
    ),
    Known(
        "TPM_ActivateIdentity",
        {Rc.AUTHFAIL, Rc.AUTH2FAIL, Rc.INVALID_KEYHANDLE},
        {Rc.AUTHFAIL, Rc.AUTH2FAIL},
        "15.2 proves the owner, the second session, first; libtpms counts in that order",
        lambda plan: not all(auth.honest for auth in plan.auths),
    ),
    Known(
        "TPM_DirRead TPM_DirWriteAuth",
        {Rc.NOSRK},
        {Rc.SUCCESS, Rc.BADINDEX, Rc.AUTHFAIL},
        "Part 2 17: they are not executable without an owner; libtpms lets them",
    ),
    Known(
        "TPM_CMK_SetRestrictions",
        {Rc.BAD_PARAMETER},
        {Rc.SUCCESS},
        "Part 2 5.17: bits 26:0 MUST be 0; libtpms stores them",
        lambda plan: bool(plan.fields["restriction"] & 0x07FFFFFF),
    ),
    Known(
        "TPM_SetOrdinalAuditStatus",
        {Rc.BADINDEX},
        {Rc.BAD_PARAMETER, Rc.SUCCESS},
        "8.5 action 2: BADINDEX for ordinals that there are not; libtpms has another code, and"
        " none for auditState FALSE",
    ),
    Known(
        "TPM_SetOrdinalAuditStatus",
        {Rc.SUCCESS},
        {Rc.BAD_PARAMETER},
        "8.5 action 2.a: optional commands that libtpms is built without",
        _field_of("ordinal_to_audit", *(TABLE[name].ordinal for name in LACKING)),
    ),
    Known(
        "TPM_CreateMigrationBlob",
        {Rc.BAD_PARAMETER},
        {Rc.SUCCESS},
        "Part 2 4.10: a MIGRATE key is for all modes but rewrap; libtpms compares nothing",
        lambda plan: plan.fields["migration_type"] != plan.note.get("scheme"),
    ),
    Known(
        "TPM_FlushSpecific",
        {Rc.BAD_PARAMETER},
        {Rc.BAD_HANDLE, Rc.INVALID_AUTHHANDLE},
        "22.1 action 7 says BAD_PARAMETER for a handle that there is not",
        _field_of("resource_type", ResourceType.DAA_TPM, ResourceType.TRANS),
    ),
    Known(
        "TPM_SaveKeyContext",
        {Rc.OWNER_CONTROL},
        {Rc.SUCCESS},
        "21.1: only the owner evicts it; libtpms forgets to look",
    ),
    Known(
        "TPM_LoadKeyContext TPM_LoadAuthContext",
        {Rc.BAD_PARAM_SIZE},
        {Rc.SUCCESS},
        "27.2: the blob has the size that is said of it; libtpms does not look at the outer size",
        damaged,
    ),
    Known(
        "TPM_NV_ReadValue TPM_NV_ReadValueAuth",
        {Rc.NOSPACE},
        {Rc.SIZE},
        "20.4 action 11, 20.5 action 8: NOSPACE for what is behind the end; libtpms cannot allocate"
        " so much",
        lambda plan: plan.fields["data_size"] > INPUT_BUFFER,
    ),
    Known(
        "TPM_NV_ReadValue",
        {Rc.AUTHFAIL, Rc.NOSRK},
        {Rc.SUCCESS, Rc.NOSPACE},
        "20.4 action 1.c: before the lock the TPM MAY check the HMAC if there is one; libtpms"
        " does not",
        lambda plan: len(plan.auths) == 1,
    ),
    Known(
        "TPM_Delegate_Manage",
        {Rc.BAD_PARAMETER},
        {Rc.SUCCESS},
        "19.1 actions 7.a and 8.a: validate that opData is a Boolean; libtpms takes any byte",
        lambda plan: plan.fields["op_data"] not in (b"\0", b"\1"),
    ),
    Known(
        "TPM_Delegate_CreateKeyDelegation",
        {Rc.SUCCESS},
        {Rc.WRONGPCRVAL, Rc.BAD_LOCALITY},
        "Part 2 17 enforces no PCRs for it, nor do the actions of 19.2; libtpms does",
    ),
    Known(
        "TPM_ChangeAuth",
        {Rc.BAD_MODE},
        {Rc.AUTHFAIL},
        "17.1 action 3 comes before 7; libtpms finds the first session bound to another entity",
        lambda plan: all(auth.bound for auth in plan.auths),
    ),
    Known(
        "*",
        {Rc.INVALID_AUTHHANDLE},
        REFUSED - {Rc.AUTHFAIL, Rc.AUTH2FAIL},
        "a session that is gone and another fault: neither Part 1 nor the commands say first",
    ),
    Known(
        "TPM_TakeOwnership",
        {Rc.BAD_PARAMETER},
        {Rc.OWNER_SET},
        "two faults: 6.1 does not say whether the session is decoded before its action 1",
        damaged,
    ),
    Known(
        "TPM_ChangeAuth TPM_ChangeAuthAsymFinish",
        {Rc.INVALID_KEYHANDLE},
        {Rc.WRONG_ENTITYTYPE},
        "two faults: 17.1 and 27.4.2 do not say whether handles are looked up before their actions",
    ),
    Known(
        "TPM_CreateEndorsementKeyPair TPM_CreateRevocableEK",
        {Rc.SUCCESS},
        {Rc.BAD_KEY_PROPERTY},
        "14.1 action 2.c: the schemes in keyInfo are ignored; libtpms refuses some",
    ),
    Known(
        "TPM_KeyControlOwner",
        {Rc.SUCCESS, Rc.BAD_PARAMETER, Rc.BAD_MODE},
        {Rc.INVALID_KEYUSAGE},
        "21.1 does not look at the usage; libtpms lets the owner keep no migration key",
        lambda plan: plan.note.get("usage", KeyUsage.MIGRATE) == KeyUsage.MIGRATE,
    ),
    Known(
        "TPM_MigrateKey",
        {Rc.INAPPROPRIATE_ENC},
        {Rc.DECRYPT_ERROR, Rc.BAD_DATASIZE},
        "11.4 action 2 comes before 4; libtpms looks at the new key's scheme when it encrypts",
    ),
    Known(
        "TPM_ChangeAuthAsymStart",
        {Rc.AUTHFAIL},
        {Rc.INVALID_KEYUSAGE},
        "27.4.1 action 1: the AuthData before the usage; libtpms without a session the other way",
        lambda plan: not plan.auths or damaged(plan),
    ),
    Known(
        "TPM_ChangeAuthAsymStart",
        REFUSED,
        UNDECODED,
        "key parameters that do not decode; libtpms decodes them before it looks at anything",
        lambda plan: not plan.note.get("meant"),
    ),
    Known(
        "TPM_LoadContext",
        {Rc.RESOURCEMISSING},
        {Rc.SUCCESS},
        "19.1 action 4: all DSAP sessions MUST be invalidated; libtpms forgets the saved ones",
    ),
    Known(
        "TPM_LoadKeyContext TPM_LoadAuthContext TPM_LoadContext",
        {Rc.BADCONTEXT},
        UNDECODED | {Rc.INVALID_AUTHHANDLE, Rc.WRONG_ENTITYTYPE},
        "21.3 action 6.e; libtpms decodes what it has decrypted before it checks the digest",
        damaged,
    ),
    Known(
        "TPM_LoadContext TPM_LoadKeyContext TPM_LoadAuthContext",
        REFUSED,
        UNDECODED,
        "21.3 and 27.2: what is no context at all; libtpms decodes it before it looks at anything",
        lambda plan: any(value is None or isinstance(value, bytes) for value in _given(plan)),
    ),
    Known(
        "TPM_CMK_ConvertMigration TPM_CMK_CreateBlob",
        REFUSED,
        REFUSED,
        "several fields that fit nothing: Part 3 gives their decoding no order, libtpms decodes all"
        " before it looks at state, handles and sessions",
        lambda plan: not plan.note.get("meant"),
    ),
    Known(
        "TPM_Delegate_CreateKeyDelegation TPM_Delegate_CreateOwnerDelegation"
        " TPM_Delegate_LoadOwnerDelegation TPM_Delegate_UpdateVerification"
        " TPM_Delegate_VerifyDelegation",
        REFUSED,
        UNDECODED,
        "19.2 to 19.7 have no code for what is no delegation; libtpms decodes it before it looks"
        " at state, handles and sessions",
        _bad_delegation,
    ),
)

CRASHES: Final[dict[str, str]] = {
    "TPM_Delegate_UpdateVerification": "a row that it does not have",
    "TPM_Delegate_LoadOwnerDelegation": "a session where there is no owner",
    **dict.fromkeys(
        ("TPM_NV_ReadValue", "TPM_NV_ReadValueAuth", "TPM_NV_WriteValue", "TPM_NV_WriteValueAuth"),
        "an offset close to 2^32",
    ),
}
"""Commands that libtpms crashes on, and what is too much for it."""

ENDS_OSAP: Final = frozenset(
    {
        "TPM_Delegate_Manage",
        "TPM_Delegate_CreateOwnerDelegation",
        "TPM_Delegate_LoadOwnerDelegation",
        "TPM_Delegate_UpdateVerification",
        "TPM_ChangeAuthOwner",
    }
)
"""19.1 action 4 and its like end "all OSAP sessions associated with the delegation table"; libtpms
ends all OSAP sessions, also if it refuses the command afterwards."""

OPAQUE: Final[frozenset[tuple[str, str]]] = frozenset(
    {
        ("TPM_EstablishTransport", "trans_handle"),
        ("TPM_EstablishTransport", "trans_nonce_even"),
        ("TPM_ReleaseTransportSigned", "signature"),  # ticks and nonces are in the log
        ("TPM_LoadContext", "handle"),
        ("TPM_LoadKeyContext", "key_handle"),
        ("TPM_LoadAuthContext", "auth_handle"),
        ("TPM_ChangeAuth", "out_data"),
        ("TPM_ChangeAuthAsymStart", "certify_info"),
        ("TPM_ChangeAuthAsymStart", "sig"),
        ("TPM_ChangeAuthAsymStart", "eph_handle"),
        ("TPM_ChangeAuthAsymFinish", "out_data"),
        ("TPM_ChangeAuthAsymFinish", "salt_nonce"),
        ("TPM_ChangeAuthAsymFinish", "change_proof"),
        ("TPM_CreateMigrationBlob", "random"),
        ("TPM_CreateMigrationBlob", "out_data"),
        ("TPM_ConvertMigrationBlob", "out_data"),
        ("TPM_MigrateKey", "out_data"),
        ("TPM_CMK_CreateBlob", "random"),
        ("TPM_CMK_CreateBlob", "out_data"),
        ("TPM_CMK_ConvertMigration", "out_data"),
        ("TPM_CreateRevocableEK", "pub_endorsement_key"),
        ("TPM_CreateRevocableEK", "checksum"),
        ("TPM_CreateRevocableEK", "output_ekreset"),
        ("TPM_CreateEndorsementKeyPair", "pub_endorsement_key"),
        ("TPM_CreateEndorsementKeyPair", "checksum"),
        ("TPM_GetAuditDigest", "audit_digest"),  # of handles, nonces and blobs
        ("TPM_GetAuditDigestSigned", "audit_digest"),
        ("TPM_GetAuditDigestSigned", "sig"),
        ("TPM_TakeOwnership", "srk_pub"),
    }
)
"""Fields that hold random values; only their size is compared."""

VENDOR_SIZE: Final = frozenset(
    {
        "TPM_SaveContext",
        "TPM_SaveKeyContext",
        "TPM_SaveAuthContext",
        "TPM_Delegate_CreateKeyDelegation",
        "TPM_Delegate_CreateOwnerDelegation",
        "TPM_Delegate_UpdateVerification",
        "TPM_DAA_Join",
        "TPM_DAA_Sign",
    }
)
"""Commands that make blobs which the TPM alone reads again, or numbers that libtpms writes without
leading zeros: of any size. That the numbers prove what they shall the issuer finds out."""


def _without_digest(plan: Plan, auth: MigrationKeyAuth) -> object:
    """Part 2 5.12: of key, scheme and tpmProof; libtpms takes the scheme as its CPU stores it."""
    return replace(auth, digest=bytes(20))


def _ticks(plan: Plan, ticks: CurrentTicks) -> object:
    return ticks.tick_rate


def _unless_own(plan: Plan, value: Any) -> Any:
    """Of an endorsement key that this TPM has made."""
    return None if plan.note.get("own_ek") else value


COMPARABLE: Final[dict[tuple[str, str], Callable[[Plan, Any], object]]] = {
    ("TPM_AuthorizeMigrationKey", "out_data"): _without_digest,
    ("TPM_EstablishTransport", "current_ticks"): _ticks,
    ("TPM_ReleaseTransportSigned", "current_ticks"): _ticks,
    ("TPM_ReadPubek", "pub_endorsement_key"): _unless_own,
    ("TPM_ReadPubek", "checksum"): _unless_own,
    ("TPM_OwnerReadPubek", "pub_endorsement_key"): _unless_own,
    ("TPM_OwnerReadInternalPub", "public_portion"): _unless_own,
    ("TPM_ChangeAuthAsymStart", "temp_key"): lambda plan, key: (
        replace(key, pub_key=b""),
        len(key.pub_key),
    ),
}
"""What is left to compare of a field that is partly random."""
