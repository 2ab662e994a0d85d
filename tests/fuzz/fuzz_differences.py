"""What our engine and libtpms may answer differently, and what the specification has to say.

The fuzzer stops at every difference that is neither here nor among the damaged forms that the
conformance suite declares (`differences.FORMS`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from differences import FORMS, LACKING
from fuzz_differences_sessions import COMPARABLE as COMPARABLE_SESSIONS
from fuzz_differences_sessions import KNOWN as KNOWN_SESSIONS
from fuzz_differences_sessions import OPAQUE as OPAQUE_SESSIONS
from fuzz_differences_sessions import VENDOR_SIZE
from fuzz_known import Known, damaged
from fuzz_sides import Plan

from hwtpm.tpm12.const import (
    EVERY_LOCALITY,
    NUM_PCRS,
    Capability,
    CapProperty,
    EncScheme,
    NvIndex,
    NvPermission,
    ResourceType,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import TABLE
from hwtpm.tpm12.types import (
    CapVersionInfo,
    CurrentTicks,
    Key,
    PcrInfoShort,
    StoredData,
    Version,
)

__all__ = ["COMPARABLE", "KNOWN", "OPAQUE", "Known", "explanation", "of_any_size"]


WRITE_PROTECTIONS: Final = (
    NvPermission.OWNERWRITE
    | NvPermission.AUTHWRITE
    | NvPermission.WRITEDEFINE
    | NvPermission.PPWRITE
)


def _conditions(plan: Plan) -> tuple[PcrInfoShort, PcrInfoShort]:
    public = plan.fields["pub_info"]
    return public.pcr_info_read, public.pcr_info_write


def _is_valid(info: PcrInfoShort) -> bool:
    return (
        0 < info.locality_at_release <= EVERY_LOCALITY
        and 0 < len(info.pcr_selection.select) <= NUM_PCRS // 8
    )


def _wraps_around(plan: Plan) -> bool:
    size = plan.fields.get("data_size") or len(plan.fields.get("data", b""))
    return bool(plan.fields["offset"] + size >= 1 << 32)


NV_COMMANDS: Final = "TPM_NV_ReadValue TPM_NV_ReadValueAuth TPM_NV_WriteValue TPM_NV_WriteValueAuth"
KEY_MAKERS: Final = "TPM_CMK_CreateKey TPM_CreateWrapKey TPM_MakeIdentity TPM_TakeOwnership"
BEFORE_ACTIONS: Final = frozenset(
    {
        Rc.AUTHFAIL,
        Rc.AUTH2FAIL,
        Rc.DEACTIVATED,
        Rc.DISABLED,
        Rc.INVALID_AUTHHANDLE,
        Rc.INVALID_KEYHANDLE,
        Rc.NO_ENDORSEMENT,
        Rc.NOSRK,
        Rc.OWNER_SET,
    }
)
MALFORMED: Final = frozenset(
    {
        Rc.AUTHFAIL,  # a session's HMAC does not cover the damage
        Rc.AUTH2FAIL,
        Rc.BAD_PARAMETER,
        Rc.INVALID_KEYHANDLE,
        Rc.INVALID_AUTHHANDLE,
        Rc.SIZE,
        Rc.BAD_PARAM_SIZE,
        Rc.BADTAG,
        Rc.BAD_MODE,
        Rc.BAD_ORDINAL,
        Rc.BAD_VERSION,
        Rc.BAD_KEY_PROPERTY,
        Rc.INVALID_STRUCTURE,
        Rc.INVALID_PCR_INFO,
        Rc.DISABLED,
        Rc.DEACTIVATED,
        Rc.DISABLED_CMD,
        Rc.NOSRK,
    }
)

KNOWN: Final[tuple[Known, ...]] = (
    *KNOWN_SESSIONS,
    Known(
        "*",
        MALFORMED,
        MALFORMED,
        "two faults in one damaged frame, refused by both: Part 3 gives the checks before a"
        " command's actions no order",
        damaged,
    ),
    Known(
        "*",
        {Rc.AUTHFAIL, Rc.AUTH2FAIL},
        frozenset(Rc) - {Rc.SUCCESS},
        "the proof of a damaged frame is wrong, whatever else is",
        damaged,
    ),
    Known(
        "TPM_LoadAuthContext TPM_LoadKeyContext",
        {Rc.BAD_PARAM_SIZE},
        {Rc.SUCCESS},
        "libtpms does not look at the outer size (as in `differences.FORMS`)",
        damaged,
    ),
    Known(
        " ".join(sorted(LACKING)),
        frozenset(Rc),
        {Rc.BAD_ORDINAL},
        "optional commands that libtpms is built without",
    ),
    Known(
        "TPM_Unseal",
        frozenset(Rc) - {Rc.SUCCESS},
        {Rc.BAD_VERSION},
        "10.2 has no code for a structure that is neither form of sealed data; libtpms looks at"
        " that before parent and sessions",
    ),
    Known(
        "TPM_GetCapability",
        {Rc.SUCCESS},
        {Rc.BAD_MODE},
        "Part 2 21.1: what TPM_CAP_MFR has is the maker's choice",
        lambda plan: plan.fields["cap_area"] == Capability.MFR,
    ),
    Known(
        "TPM_GetCapability",
        {Rc.BAD_MODE},
        {Rc.BAD_PARAMETER},
        "7.1 action 2 has no code for an unknown type of handle; for the other areas it is"
        " BAD_MODE",
        lambda plan: plan.fields["cap_area"] == Capability.HANDLE,
    ),
    Known(
        "TPM_FlushSpecific",
        {Rc.BAD_PARAMETER},
        {Rc.INVALID_AUTHHANDLE, Rc.BAD_HANDLE},
        "22.1 action 7 says BAD_PARAMETER",
        lambda plan: plan.fields["resource_type"] in (ResourceType.TRANS, ResourceType.DAA_TPM),
    ),
    Known(
        "TPM_ActivateIdentity",
        {Rc.AUTHFAIL},
        {Rc.AUTH2FAIL},
        "15.2 proves the owner, the second session, first; libtpms counts in that order",
    ),
    Known(
        "*",
        {Rc.INVALID_KEYHANDLE},
        {Rc.KEYNOTFOUND, Rc.INVALID_RESOURCE},
        "a reserved handle, the EK's for one, where a loaded key is meant",
    ),
    Known(
        "TPM_NV_WriteValue TPM_NV_ReadValue",
        frozenset(Rc) - {Rc.AUTH_CONFLICT},
        {Rc.AUTH_CONFLICT},
        "20.2 action 1.a, 20.4 action 1.a: OWNERWRITE and OWNERREAD are ignored until nvLocked",
        lambda plan: bool(plan.auths) and not plan.note["nv locked"],
    ),
    Known(
        "TPM_NV_WriteValue",
        {Rc.NOSPACE},
        {Rc.NOT_FULLWRITE},
        "20.2 action 15.b, then 15.c; libtpms does the DIR in one",
        lambda plan: plan.fields["nv_index"] == NvIndex.DIR,
    ),
    Known(
        "TPM_NV_DefineSpace",
        frozenset(Rc),
        {Rc.INVALID_STRUCTURE, Rc.INVALID_PCR_INFO},
        "20.1 actions 7 and 8 come after the proof and the deletion, and say INVALID_STRUCTURE;"
        " libtpms looks when it decodes",
        lambda plan: any(not _is_valid(info) for info in _conditions(plan)),
    ),
    Known(
        "TPM_NV_ReadValue",
        {Rc.SUCCESS},
        {Rc.NOSPACE},
        "20.4 action 10: without a size there is no offset to check; libtpms does for the DIR",
        lambda plan: plan.fields["nv_index"] == NvIndex.DIR and not plan.fields["data_size"],
    ),
    Known(
        NV_COMMANDS,
        {Rc.BAD_LOCALITY},
        {Rc.BAD_PRESENCE, Rc.AREA_LOCKED, Rc.DISABLED_CMD, Rc.WRONGPCRVAL},
        "20.2 action 8 comes before 9 to 13, and so in its kin; libtpms checks locality and PCRs"
        " in one, last",
    ),
    Known(
        "TPM_NV_DefineSpace",
        frozenset(Rc),
        {Rc.FAIL},
        "20.1 actions 7 to 11 after the deletion in 6.d; libtpms then goes into failure mode",
    ),
    Known(
        "TPM_Quote TPM_Quote2",
        {Rc.INVALID_PCR_INFO},
        {Rc.SUCCESS},
        "Part 2 8.1 action 8: an error MUST be returned if sizeOfSelect is 0",
        lambda plan: not plan.fields["target_pcr"].select,
    ),
    Known(
        "TPM_DirRead TPM_DirWriteAuth",
        {Rc.NOSRK},
        {Rc.SUCCESS, Rc.AUTHFAIL, Rc.BADINDEX},
        "Part 2 17: not without an owner",
    ),
    Known(
        "TPM_Quote TPM_Quote2",
        BEFORE_ACTIONS,
        {Rc.INVALID_PCR_INFO},
        "16.3 action 4, 16.5 action 4; libtpms looks when it decodes",
    ),
    Known(
        "TPM_UnBind",
        {Rc.INVALID_KEYHANDLE},
        {Rc.BAD_PARAMETER},
        "10.3 action 1: the size is looked at before the AuthData, but is that before the handle?",
        lambda plan: not plan.fields["in_data"],
    ),
    Known(
        "TPM_SaveKeyContext",
        {Rc.OWNER_CONTROL},
        {Rc.SUCCESS},
        "21.1: only the owner evicts an owner-evict key; libtpms forgets to look here",
    ),
    Known(
        "TPM_SetTempDeactivated",
        {Rc.AUTHFAIL},
        {Rc.BAD_MODE},
        "5.6 action 1.b has only AUTHFAIL for a session that is not the operator's",
    ),
    Known(
        KEY_MAKERS,
        BEFORE_ACTIONS,
        {Rc.INVALID_PCR_INFO, Rc.INVALID_STRUCTURE, Rc.BAD_KEY_PROPERTY},
        "6.1, 10.4, 11.8, 15.1: the template is looked at in the actions; libtpms decodes it"
        " before it looks at state and sessions",
    ),
    Known(
        KEY_MAKERS,
        {Rc.BAD_KEY_PROPERTY, Rc.INVALID_KEYUSAGE, Rc.INVALID_PCR_INFO},
        {Rc.INVALID_PCR_INFO, Rc.INVALID_STRUCTURE},
        "10.4 actions 3 to 8 come before pcrInfo, action 15, and so in its kin; libtpms decodes it"
        " first, and says otherwise what 10.1 calls INVALID_PCR_INFO",
        lambda plan: any(isinstance(v, Key) and v.pcr_info for v in plan.fields.values()),
    ),
    Known(
        "TPM_CreateEndorsementKeyPair TPM_CreateRevocableEK",
        {Rc.SUCCESS},
        {Rc.BAD_KEY_PROPERTY},
        "14.1 action 2.c: encScheme is ignored",
        lambda plan: plan.fields["key_info"].enc_scheme != EncScheme.RSA_OAEP_SHA1_MGF1,
    ),
    Known(
        "*",
        frozenset(Rc) - {Rc.SUCCESS},
        {Rc.WRONGPCRVAL},
        "a key that the PCRs do not release, and another fault; libtpms compares PCRs when it"
        " looks for the key",
        lambda plan: plan.row.name not in NV_COMMANDS,
    ),
    Known(
        NV_COMMANDS,
        {Rc.AUTHFAIL},
        frozenset(Rc),
        "20.2 and 20.4 action 1.c: until nvLocked the TPM MAY check the owner's proof",
        lambda plan: bool(plan.auths) and not plan.note["nv locked"],
    ),
    Known(
        NV_COMMANDS,
        {Rc.NOSPACE},
        {Rc.SUCCESS},
        "20.2 action 15.b, 20.4 action 11.b: libtpms adds offset and size in 32 bits",
        _wraps_around,
    ),
    Known(
        "TPM_SetCapability",
        {Rc.BAD_PARAMETER},
        {Rc.SUCCESS},
        "Part 2 2.2.1: a BOOL is 0x00 or 0x01",
        lambda plan: plan.fields["set_value"] not in (b"\0", b"\1"),
    ),
    Known(
        "TPM_NV_DefineSpace",
        frozenset(Rc),
        frozenset(Rc),
        "20.1 actions 8.b and 9.d: a locality disallowed for writing is a protection; libtpms"
        " takes the one for reading",
        lambda plan: (
            len({info.locality_at_release for info in _conditions(plan)}) > 1
            and not plan.fields["pub_info"].permission.attributes & WRITE_PROTECTIONS
        ),
    ),
)

OPAQUE: Final[frozenset[tuple[str, str]]] = frozenset(
    {
        *OPAQUE_SESSIONS,
        ("TPM_OIAP", "auth_handle"),
        ("TPM_OIAP", "nonce_even"),
        ("TPM_OSAP", "auth_handle"),
        ("TPM_OSAP", "nonce_even"),
        ("TPM_OSAP", "nonce_even_osap"),
        ("TPM_DSAP", "auth_handle"),
        ("TPM_DSAP", "nonce_even"),
        ("TPM_DSAP", "nonce_even_dsap"),
        ("TPM_GetRandom", "random_bytes"),
        ("TPM_LoadKey2", "inkey_handle"),
        ("TPM_LoadKey", "inkey_handle"),
        ("TPM_Unseal", "secret"),  # encrypted with the session's secret if it came from Sealx
        ("TPM_MakeIdentity", "identity_binding"),
        ("TPM_CreateCounter", "count_id"),
        ("TPM_CreateCounter", "counter_value"),
        ("TPM_IncrementCounter", "count"),
        ("TPM_ReadCounter", "count"),
        ("TPM_GetTicks", "current_time"),
        ("TPM_SHA1Start", "max_num_bytes"),
    }
)
"""Fields that hold random values or those of a maker; only their size is compared."""


def _public_part(plan: Plan, key: Key) -> object:
    return replace(key, pub_key=b"", enc_data=b""), len(key.pub_key), len(key.enc_data)


def _sealed(plan: Plan, blob: StoredData) -> object:
    return blob.form, blob.seal_info, len(blob.enc_data)


def _specification(plan: Plan, version: Version) -> object:
    """Not the maker's revision."""
    return version.major, version.minor


def _version_info(plan: Plan, encoded: bytes) -> object:
    """Not the maker's revision, name and text."""
    if not encoded:
        return None
    info = CapVersionInfo.decode(encoded)
    return info.version.major, info.version.minor, info.spec_level, info.errata_rev


def _quoted_state(plan: Plan, info: PcrInfoShort) -> object:
    """16.5 action 5 hashes the composite; libtpms answers with zeros if it has no PCRs."""
    digest = info.digest_at_release if info.pcr_selection.indices else b""
    return info.pcr_selection, info.locality_at_release, digest


def _quote(plan: Plan, signature: bytes) -> object:
    """As above for 16.3 action 5; and with the version, what is signed is the maker's own."""
    empty = not plan.fields["target_pcr"].indices
    return len(signature) if empty or plan.fields.get("add_version") else signature


def _ticks(plan: Plan, ticks: CurrentTicks) -> object:
    return ticks.tick_rate


def of_any_size(plan: Plan) -> bool:
    """Whether the answer is the maker's own, or damage may have made another command of it."""
    if plan.damage is not None:
        return True
    if plan.row.name == "TPM_GetCapability":
        return plan.fields["cap_area"] == Capability.MFR
    return plan.row.name in VENDOR_TEXT


def _capability(plan: Plan, answer: bytes) -> object:
    """Handles are random, and some areas are the maker's own (Part 2 section 21)."""
    area, sub_cap = plan.fields["cap_area"], plan.fields["sub_cap"]
    if area in (Capability.KEY_HANDLE, Capability.HANDLE, Capability.VERSION_VAL):
        return len(answer) if area != Capability.VERSION_VAL else _version_info(plan, answer)
    if area == Capability.NV_LIST:  # in any order
        return sorted(answer[at : at + 4] for at in range(0, len(answer), 4))
    if area == Capability.DA_LOGIC and plan.note["miscounted"]:
        return len(answer)
    if area == Capability.ORD and int.from_bytes(sub_cap, "big") in _LACKING:
        return None
    if area == Capability.PROPERTY and int.from_bytes(sub_cap, "big") in _OF_MAKER:
        return len(answer)
    return answer


_LACKING: Final = frozenset(TABLE[name].ordinal for name in LACKING)
# What TPM_Startup keeps (Part 2 section 4.6) is up to the TPM in part.
_OF_MAKER: Final = (CapProperty.MANUFACTURER, CapProperty.STARTUP_EFFECT)

COMPARABLE: Final[dict[tuple[str, str], Callable[[Plan, Any], object]]] = {
    **COMPARABLE_SESSIONS,
    ("TPM_CMK_CreateKey", "wrapped_key"): _public_part,
    ("TPM_CreateWrapKey", "wrapped_key"): _public_part,
    ("TPM_GetCapability", "resp"): _capability,
    ("TPM_GetCapabilityOwner", "version"): _specification,
    ("TPM_MakeIdentity", "id_key"): _public_part,
    ("TPM_Quote", "sig"): _quote,
    ("TPM_Quote2", "pcr_data"): _quoted_state,
    ("TPM_Quote2", "sig"): _quote,
    ("TPM_Quote2", "version_info"): _version_info,
    ("TPM_Seal", "sealed_data"): _sealed,
    ("TPM_Sealx", "sealed_data"): _sealed,
    ("TPM_TickStampBlob", "current_ticks"): _ticks,
    ("TPM_TickStampBlob", "sig"): lambda plan, signature: len(signature),
}
"""What is left to compare of a field that is partly random or the maker's own."""

VENDOR_TEXT: Final = frozenset({"TPM_GetTestResult", *VENDOR_SIZE})
"""Commands whose answer is the maker's own, of any size (of text: Part 3 section 4.3)."""


def explanation(plan: Plan, ours: int, theirs: int) -> str | None:
    """Why the two codes differ, None if nobody knows."""
    for command in (plan.row.name, "*"):
        if (form := FORMS.get((command, ours, theirs))) is not None:
            return form
    for known in KNOWN:
        if known.explains(plan, ours, theirs):
            return known.why
    return None
