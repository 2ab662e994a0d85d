"""TPM 1.2 return codes with meaning and hint (Part 2 section 16)."""

from __future__ import annotations

from enum import IntEnum

from hwtpm.errors import TpmError

__all__ = ["NON_FATAL", "Rc", "describe", "error"]

NON_FATAL = 0x800
"""Mask of the codes after which the command may be sent again and sessions stay alive."""


class Rc(IntEnum):
    """TPM_RESULT."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Rc:
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    SUCCESS = 0, "the operation succeeded"
    AUTHFAIL = 1, "authorisation failed"
    BADINDEX = 2, "the index of a PCR, DIR or other register is wrong"
    BAD_PARAMETER = 3, "a parameter is bad"
    AUDITFAILURE = 4, "the operation succeeded and its auditing failed"
    CLEAR_DISABLED = 5, "clearing is disabled and now needs physical presence"
    DEACTIVATED = 6, "the TPM is deactivated"
    DISABLED = 7, "the TPM is disabled"
    DISABLED_CMD = 8, "the command has been disabled"
    FAIL = 9, "the operation failed"
    BAD_ORDINAL = 10, "the ordinal is unknown or inconsistent"
    INSTALL_DISABLED = 11, "installing an owner is disabled"
    INVALID_KEYHANDLE = 12, "the key handle names no loaded key"
    KEYNOTFOUND = 13, "the key was not found"
    INAPPROPRIATE_ENC = 14, "the encryption scheme is not acceptable here"
    MIGRATEFAIL = 15, "the migration authorisation failed"
    INVALID_PCR_INFO = 16, "the PCR information could not be interpreted"
    NOSPACE = 17, "there is no room to load the key"
    NOSRK = 18, "there is no SRK: nobody owns the TPM"
    NOTSEALED_BLOB = 19, "the blob is invalid or was not made by this TPM"
    OWNER_SET = 20, "the TPM has an owner already"
    RESOURCES = 21, "the TPM has not enough resources"
    SHORTRANDOM = 22, "the random string was too short"
    SIZE = 23, "the TPM has not the space for this size"
    WRONGPCRVAL = 24, "the PCRs are not in the state that was named"
    BAD_PARAM_SIZE = 25, "the command's size does not fit its parameters"
    SHA_THREAD = 26, "there is no SHA-1 calculation under way"
    SHA_ERROR = 27, "the SHA-1 calculation met an error"
    FAILEDSELFTEST = 28, "the self test failed and the TPM shut down"
    AUTH2FAIL = 29, "the second authorisation failed"
    BADTAG = 30, "the tag is wrong for the command"
    IOERROR = 31, "an I/O error happened inside the TPM"
    ENCRYPT_ERROR = 32, "the encryption had a problem"
    DECRYPT_ERROR = 33, "the decryption did not complete"
    INVALID_AUTHHANDLE = 34, "the authorisation session does not exist"
    NO_ENDORSEMENT = 35, "the TPM has no endorsement key"
    INVALID_KEYUSAGE = 36, "the key may not be used for this"
    WRONG_ENTITYTYPE = 37, "the entity type is not allowed here"
    INVALID_POSTINIT = 38, "the command came in the wrong order after power-on"
    INAPPROPRIATE_SIG = 39, "the signature scheme is not acceptable here"
    BAD_KEY_PROPERTY = 40, "the key's properties are not supported"
    BAD_MIGRATION = 41, "the key's migration properties are wrong"
    BAD_SCHEME = 42, "the signature or encryption scheme is wrong for this key"
    BAD_DATASIZE = 43, "the size of the data or blob is wrong"
    BAD_MODE = 44, "a mode parameter is bad"
    BAD_PRESENCE = 45, "physical presence is missing or its bits are wrong"
    BAD_VERSION = 46, "the TPM cannot do this version of the capability"
    NO_WRAP_TRANSPORT = 47, "the command may not be wrapped in a transport session"
    AUDITFAIL_UNSUCCESSFUL = 48, "auditing failed, and the command failed too"
    AUDITFAIL_SUCCESSFUL = 49, "auditing failed, and the command succeeded"
    NOTRESETABLE = 50, "a PCR in the selection cannot be reset"
    NOTLOCAL = 51, "a PCR in the selection cannot be changed from this locality"
    BAD_TYPE = 52, "the type of the identity blob is wrong"
    INVALID_RESOURCE = 53, "the resource type does not fit the resource"
    NOTFIPS = 54, "the command is available in FIPS mode only"
    INVALID_FAMILY = 55, "the delegation family is invalid"
    NO_NV_PERMISSION = 56, "the NV area's permissions do not allow it"
    REQUIRES_SIGN = 57, "the operation needs a signed command"
    KEY_NOTSUPPORTED = 58, "the operation cannot load NV keys"
    AUTH_CONFLICT = 59, "an NV area needs owner and other authorisation at once"
    AREA_LOCKED = 60, "the NV area is locked"
    BAD_LOCALITY = 61, "the locality is wrong for the operation"
    READ_ONLY = 62, "the NV area is read only"
    PER_NOWRITE = 63, "the NV area has no protection against writing"
    FAMILYCOUNT = 64, "the family count does not match"
    WRITE_LOCKED = 65, "the NV area has been written already"
    BAD_ATTRIBUTES = 66, "the NV area's attributes conflict"
    INVALID_STRUCTURE = 67, "the structure's tag and version are inconsistent"
    KEY_OWNER_CONTROL = 68, "the key is under the owner's control"
    BAD_COUNTER = 69, "the counter handle is wrong"
    NOT_FULLWRITE = 70, "the write does not cover the whole area"
    CONTEXT_GAP = 71, "the gap between saved context counts is too large"
    MAXNVWRITES = 72, "the number of NV writes without an owner is used up"
    NOOPERATOR = 73, "no operator authorisation is set"
    RESOURCEMISSING = 74, "a resource that the context names is not loaded"
    DELEGATE_LOCK = 75, "delegation administration is locked"
    DELEGATE_FAMILY = 76, "the family of a delegation differs from the administered one"
    DELEGATE_ADMIN = 77, "delegation table management is not enabled"
    TRANSPORT_NOTEXCLUSIVE = 78, "another command ran outside the exclusive transport session"
    OWNER_CONTROL = 79, "the owner controls eviction of the key in the context"
    DAA_RESOURCES = 80, "no DAA resources are left"
    DAA_INPUT_DATA0 = 81, "DAA inputData0 is inconsistent"
    DAA_INPUT_DATA1 = 82, "DAA inputData1 is inconsistent"
    DAA_ISSUER_SETTINGS = 83, "DAA issuer settings are inconsistent"
    DAA_TPM_SETTINGS = 84, "DAA TPM settings are inconsistent"
    DAA_STAGE = 85, "the DAA stage is not the expected one"
    DAA_ISSUER_VALIDITY = 86, "the DAA issuer's credential is invalid"
    DAA_WRONG_W = 87, "the DAA w value is wrong"
    BAD_HANDLE = 88, "the handle is incorrect"
    BAD_DELEGATE = 89, "the delegation is incorrect"
    BADCONTEXT = 90, "the context blob is invalid"
    TOOMANYCONTEXTS = 91, "too many contexts are held"
    MA_TICKET_SIGNATURE = 92, "the migration authority's ticket does not verify"
    MA_DESTINATION = 93, "the migration destination is not authenticated"
    MA_SOURCE = 94, "the migration source is incorrect"
    MA_AUTHORITY = 95, "the migration authority is incorrect"
    PERMANENTEK = 97, "the endorsement key cannot be revoked"
    BAD_SIGNATURE = 98, "the signature of a CMK ticket is bad"
    NOCONTEXTSPACE = 99, "the context list has no room"
    RETRY = 0x800, "the TPM is busy; the command may be sent again"
    NEEDS_SELFTEST = 0x801, "TPM_ContinueSelfTest has not run"
    DOING_SELFTEST = 0x802, "the TPM is testing itself"
    DEFEND_LOCK_RUNNING = 0x803, "the TPM defends against a dictionary attack and waits"


_HINTS: dict[int, str] = {
    Rc.AUTHFAIL: "check the password; every wrong try counts towards the dictionary-attack lockout",
    Rc.AUTH2FAIL: "check the second password, usually that of the data or key",
    Rc.DEACTIVATED: "activate it: TPM_PhysicalSetDeactivated(false) with physical presence, then"
    " power cycle",
    Rc.DISABLED: "enable it: TPM_PhysicalEnable with physical presence",
    Rc.DISABLED_CMD: "for TPM_ReadPubek: the TPM is owned, read the EK with owner authorisation",
    Rc.FAILEDSELFTEST: "power cycle the TPM and read the result with `hwtpm selftest`",
    Rc.NOSRK: "take ownership first",
    Rc.NO_ENDORSEMENT: "create the endorsement key first",
    Rc.OWNER_SET: "use the present owner's password, or clear the TPM",
    Rc.INVALID_POSTINIT: "send TPM_Startup once after each power-on, and only once",
    Rc.BAD_PRESENCE: "assert physical presence, on most boards a jumper or the firmware menu",
    Rc.DEFEND_LOCK_RUNNING: "wait, or reset the counters with the owner's TPM_ResetLockValue",
    Rc.BADTAG: "a TPM 2.0 refuses all TPM 1.2 commands like this: try tpm2-tools with `hwtpm tcti`",
    Rc.RESOURCES: "flush sessions or keys that nobody uses",
    Rc.NOSPACE: "flush a key or delete an NV area",
    Rc.RETRY: "send the command again a little later",
    Rc.NOTSEALED_BLOB: "the blob belongs to another TPM, or the TPM was cleared since",
    Rc.WRONGPCRVAL: "boot the platform into the state that the data was sealed to",
}


_KNOWN: dict[int, Rc] = {int(member): member for member in Rc}


def describe(rc: int) -> tuple[str, str, str]:
    """Name, meaning and hint of a return code; unknown codes get their number as name."""
    known = _KNOWN.get(rc)
    if known is None:
        return f"{rc:#x}", "a return code that the specification does not name", ""
    return f"TPM_{known.name}", known.meaning, _HINTS.get(rc, "")


def error(rc: int, command: str, on: str = "") -> TpmError:
    """The exception for a command that was answered with `rc`."""
    name, meaning, hint = describe(rc)
    where = f" on {on}" if on else ""
    return TpmError(
        f"{command}{where}: {name} ({rc:#x}), {meaning}",
        rc=rc,
        name=name,
        meaning=meaning,
        command=command,
        hint=hint,
    )
