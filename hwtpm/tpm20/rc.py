"""TPM 2.0 response codes with meaning and hint (Library Specification, Part 2, section 6.6)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from hwtpm.errors import TpmError

__all__ = ["RESUBMIT", "Rc", "base_of", "describe", "error"]

_FORMAT_1: Final = 0x080
_PARAMETER: Final = 0x040
_SESSION: Final = 0x800
_ERROR_1: Final = 0x0BF
_ERROR_0: Final = 0xD7F


class Rc(IntEnum):
    """TPM_RC; those below 0x100 are of format 1 and come with what they are about."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Rc:
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    SUCCESS = 0x000, "the command succeeded"
    BAD_TAG = 0x01E, "the tag is none of this TPM's: it is of the other family, 1.2 or 2.0"

    ASYMMETRIC = 0x081, "the asymmetric algorithm is not supported or not correct"
    ATTRIBUTES = 0x082, "the attributes are inconsistent"
    HASH = 0x083, "the hash algorithm is not supported or not appropriate"
    VALUE = 0x084, "the value is out of range or not correct for the context"
    HIERARCHY = 0x085, "the hierarchy is not enabled or not correct for the use"
    KEY_SIZE = 0x087, "the key size is not supported"
    MGF = 0x088, "the mask generation function is not supported"
    MODE = 0x089, "the mode of operation is not supported"
    TYPE = 0x08A, "the type of the value is not appropriate for the use"
    HANDLE = 0x08B, "the handle is not correct for the use"
    KDF = 0x08C, "the key derivation function is unsupported or not appropriate"
    RANGE = 0x08D, "the value was out of the allowed range"
    AUTH_FAIL = 0x08E, "the authorisation failed and counts towards the lockout"
    NONCE = 0x08F, "the nonce has an invalid size or value"
    PP = 0x090, "physical presence must be asserted"
    SCHEME = 0x092, "the scheme is unsupported or incompatible"
    SIZE = 0x095, "the structure has the wrong size"
    SYMMETRIC = 0x096, "the symmetric algorithm or key size is not supported"
    TAG = 0x097, "the structure tag is not correct"
    SELECTOR = 0x098, "the union selector is not correct"
    INSUFFICIENT = 0x09A, "the parameters end too early"
    SIGNATURE = 0x09B, "the signature is not valid"
    KEY = 0x09C, "the key's fields are not compatible with the use"
    POLICY_FAIL = 0x09D, "the policy check failed"
    INTEGRITY = 0x09F, "the integrity check failed"
    TICKET = 0x0A0, "the ticket is invalid"
    RESERVED_BITS = 0x0A1, "reserved bits are not zero as they should be"
    BAD_AUTH = 0x0A2, "the authorisation failed, without counting towards the lockout"
    EXPIRED = 0x0A3, "the policy has expired"
    POLICY_CC = 0x0A4, "the policy is for another command"
    BINDING = 0x0A5, "the public and the sensitive part do not belong together"
    CURVE = 0x0A6, "the curve is not supported"
    ECC_POINT = 0x0A7, "the point is not on the curve"

    INITIALIZE = 0x100, "the TPM waits for TPM2_Startup, or has had it already"
    FAILURE = 0x101, "the TPM is in failure mode: a self test or an internal check failed"
    SEQUENCE = 0x103, "a sequence handle is used improperly"
    DISABLED = 0x120, "the command is disabled"
    EXCLUSIVE = 0x121, "an audit session failed because it was to be exclusive"
    AUTH_TYPE = 0x124, "the handle's authorisation is not of that type"
    AUTH_MISSING = 0x125, "the command needs an authorisation session for a handle"
    POLICY = 0x126, "the policy failed for mathematical reasons, or there is none"
    PCR = 0x127, "a PCR check failed"
    PCR_CHANGED = 0x128, "PCRs have changed since they were checked"
    UPGRADE = 0x12D, "the TPM takes a firmware upgrade"
    TOO_MANY_CONTEXTS = 0x12E, "the context counter is at its maximum"
    AUTH_UNAVAILABLE = 0x12F, "no authorisation value or policy is there for the object"
    REBOOT = 0x130, "a _TPM_Init and Startup(CLEAR) are needed before the TPM goes on"
    UNBALANCED = 0x131, "the hash and symmetric key sizes do not go together"
    COMMAND_SIZE = 0x142, "the command's size does not fit its bytes"
    COMMAND_CODE = 0x143, "the command is not known to this TPM"
    AUTHSIZE = 0x144, "the authorisation area has the wrong size"
    AUTH_CONTEXT = 0x145, "a session cannot authorise a context operation"
    NV_RANGE = 0x146, "the NV offset and size are out of range"
    NV_SIZE = 0x147, "the size of the NV data is too large"
    NV_LOCKED = 0x148, "the NV index is locked"
    NV_AUTHORIZATION = 0x149, "the authorisation does not allow this NV access"
    NV_UNINITIALIZED = 0x14A, "the NV index has not been written yet, or its state is lost"
    NV_SPACE = 0x14B, "there is not enough NV space"
    NV_DEFINED = 0x14C, "the NV index or persistent object is there already"
    BAD_CONTEXT = 0x150, "the context is not valid"
    CPHASH = 0x151, "the cpHash is set already or not correct for the use"
    PARENT = 0x152, "the handle is not a valid parent"
    NEEDS_TEST = 0x153, "a function needs testing first"
    NO_RESULT = 0x154, "the outcome cannot be computed"
    SENSITIVE = 0x155, "the sensitive area did not decrypt to something sensible"

    CONTEXT_GAP = 0x901, "the gap between context counts is too large"
    OBJECT_MEMORY = 0x902, "there is no room for another object: flush one"
    SESSION_MEMORY = 0x903, "there is no room for another session: flush one"
    MEMORY = 0x904, "there is not enough memory"
    SESSION_HANDLES = 0x905, "there are no session handles left: flush a session"
    OBJECT_HANDLES = 0x906, "there are no object handles left"
    LOCALITY = 0x907, "the locality is wrong for this"
    YIELDED = 0x908, "the TPM suspended the command: send it again"
    CANCELED = 0x909, "the command was cancelled"
    TESTING = 0x90A, "the TPM tests itself: send the command again"
    REFERENCE_H0 = 0x910, "the first handle names nothing that is loaded"
    REFERENCE_H1 = 0x911, "the second handle names nothing that is loaded"
    REFERENCE_H2 = 0x912, "the third handle names nothing that is loaded"
    REFERENCE_S0 = 0x918, "the first session handle names no session"
    REFERENCE_S1 = 0x919, "the second session handle names no session"
    REFERENCE_S2 = 0x91A, "the third session handle names no session"
    NV_RATE = 0x920, "the TPM slows NV writes down to save its memory"
    LOCKOUT = 0x921, "the TPM is in lockout after too many wrong authorisations"
    RETRY = 0x922, "the TPM was not able to start the command: send it again"
    NV_UNAVAILABLE = 0x923, "NV is not accessible now"


RESUBMIT: Final = frozenset({Rc.RETRY, Rc.YIELDED, Rc.TESTING})
"""The command had no effect and the very same bytes are to be sent again."""

_HINTS: Final[dict[int, str]] = {
    Rc.INITIALIZE: "start it: `tpm2_startup -c`",
    Rc.FAILURE: "power cycle the TPM, then look at `hwtpm selftest`",
    Rc.LOCKOUT: "wait for the lockout to heal, or reset it: `tpm2_dictionarylockout -c`",
    Rc.OBJECT_MEMORY: "`tpm2_flushcontext -t`",
    Rc.SESSION_MEMORY: "`tpm2_flushcontext -l`",
    Rc.SESSION_HANDLES: "`tpm2_flushcontext -s`",
    Rc.AUTH_FAIL: "check the password; each wrong one brings the lockout nearer",
    Rc.BAD_AUTH: "check the password",
    Rc.REBOOT: "power cycle the TPM",
}
_KNOWN: Final = {int(code): code for code in Rc}


def base_of(rc: int) -> int:
    """The code without what it is about: which handle, parameter or session."""
    if rc & _FORMAT_1:
        return rc & _ERROR_1
    return rc & _ERROR_0 if rc > Rc.BAD_TAG else rc


def describe(rc: int) -> tuple[str, str, str]:
    """Name, meaning and the next thing to do (may be empty)."""
    base = base_of(rc)
    known = _KNOWN.get(base)
    if known is None:
        return f"TPM_RC {rc:#x}", "a code that is not in the specification", ""
    meaning = known.meaning
    if rc & _FORMAT_1 and rc >> 8:
        number = rc >> 8 & 0xF
        if rc & _PARAMETER:
            meaning = f"parameter {number}: {meaning}"
        elif rc & _SESSION:
            meaning = f"session {number & 7}: {meaning}"
        else:
            meaning = f"handle {number}: {meaning}"
    return f"TPM_RC_{known.name}", meaning, _HINTS.get(base, "")


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
