"""Numbers of the TPM 2.0 Library Specification, Part 2 (Structures)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

__all__ = [
    "HASH_NAMES",
    "MAX_FRAME",
    "Capability",
    "Code",
    "HandleType",
    "Property",
    "StartupType",
    "Tag",
    "name_of",
]

MAX_FRAME: Final = 4096
"""Bytes of the longest command or response; every TPM 2.0 so far stays within."""


class Tag(IntEnum):
    """TPM_ST, those of frames (section 6.9)."""

    RSP_COMMAND = 0x00C4  # a TPM 1.2's answers, and a TPM 2.0's to what has no tag it knows
    NO_SESSIONS = 0x8001
    SESSIONS = 0x8002


class StartupType(IntEnum):
    """TPM_SU (section 6.10)."""

    CLEAR = 0x0000
    STATE = 0x0001


class Capability(IntEnum):
    """TPM_CAP (section 6.12), those in use here."""

    HANDLES = 0x00000001
    PCRS = 0x00000005
    TPM_PROPERTIES = 0x00000006


class Property(IntEnum):
    """TPM_PT (section 6.13), those in use here."""

    FAMILY_INDICATOR = 0x100
    LEVEL = 0x101
    REVISION = 0x102
    DAY_OF_YEAR = 0x103
    YEAR = 0x104
    MANUFACTURER = 0x105
    VENDOR_STRING_1 = 0x106
    VENDOR_STRING_4 = 0x109
    FIRMWARE_VERSION_1 = 0x10B
    FIRMWARE_VERSION_2 = 0x10C
    INPUT_BUFFER = 0x10D
    HR_TRANSIENT_MIN = 0x10E
    HR_PERSISTENT_MIN = 0x10F
    HR_LOADED_MIN = 0x110
    ACTIVE_SESSIONS_MAX = 0x111
    PCR_COUNT = 0x112
    NV_INDEX_MAX = 0x117
    MAX_COMMAND_SIZE = 0x11E
    MAX_RESPONSE_SIZE = 0x11F
    PERMANENT = 0x200
    STARTUP_CLEAR = 0x201
    HR_NV_INDEX = 0x202
    HR_LOADED_AVAIL = 0x204
    HR_TRANSIENT_AVAIL = 0x207
    HR_PERSISTENT = 0x208
    HR_PERSISTENT_AVAIL = 0x209
    LOCKOUT_COUNTER = 0x20E
    MAX_AUTH_FAIL = 0x20F
    LOCKOUT_INTERVAL = 0x210
    LOCKOUT_RECOVERY = 0x211


class HandleType(IntEnum):
    """TPM_HT (section 7.2): the top byte of a handle."""

    LOADED_SESSION = 0x02
    SAVED_SESSION = 0x03
    TRANSIENT = 0x80


HASH_NAMES: Final = {
    0x0004: "sha1",
    0x000B: "sha256",
    0x000C: "sha384",
    0x000D: "sha512",
    0x0012: "sm3_256",
    0x0027: "sha3_256",
    0x0028: "sha3_384",
    0x0029: "sha3_512",
}
"""TPM_ALG_ID (section 6.3) of the hashes that PCR banks can have."""


class Code(IntEnum):
    """TPM_CC (section 6.5.2)."""

    NV_UNDEFINE_SPACE_SPECIAL = 0x11F
    EVICT_CONTROL = 0x120
    HIERARCHY_CONTROL = 0x121
    NV_UNDEFINE_SPACE = 0x122
    CHANGE_EPS = 0x124
    CHANGE_PPS = 0x125
    CLEAR = 0x126
    CLEAR_CONTROL = 0x127
    CLOCK_SET = 0x128
    HIERARCHY_CHANGE_AUTH = 0x129
    NV_DEFINE_SPACE = 0x12A
    PCR_ALLOCATE = 0x12B
    PCR_SET_AUTH_POLICY = 0x12C
    PP_COMMANDS = 0x12D
    SET_PRIMARY_POLICY = 0x12E
    FIELD_UPGRADE_START = 0x12F
    CLOCK_RATE_ADJUST = 0x130
    CREATE_PRIMARY = 0x131
    NV_GLOBAL_WRITE_LOCK = 0x132
    GET_COMMAND_AUDIT_DIGEST = 0x133
    NV_INCREMENT = 0x134
    NV_SET_BITS = 0x135
    NV_EXTEND = 0x136
    NV_WRITE = 0x137
    NV_WRITE_LOCK = 0x138
    DICTIONARY_ATTACK_LOCK_RESET = 0x139
    DICTIONARY_ATTACK_PARAMETERS = 0x13A
    NV_CHANGE_AUTH = 0x13B
    PCR_EVENT = 0x13C
    PCR_RESET = 0x13D
    SEQUENCE_COMPLETE = 0x13E
    SET_ALGORITHM_SET = 0x13F
    SET_COMMAND_CODE_AUDIT_STATUS = 0x140
    FIELD_UPGRADE_DATA = 0x141
    INCREMENTAL_SELF_TEST = 0x142
    SELF_TEST = 0x143
    STARTUP = 0x144
    SHUTDOWN = 0x145
    STIR_RANDOM = 0x146
    ACTIVATE_CREDENTIAL = 0x147
    CERTIFY = 0x148
    POLICY_NV = 0x149
    CERTIFY_CREATION = 0x14A
    DUPLICATE = 0x14B
    GET_TIME = 0x14C
    GET_SESSION_AUDIT_DIGEST = 0x14D
    NV_READ = 0x14E
    NV_READ_LOCK = 0x14F
    OBJECT_CHANGE_AUTH = 0x150
    POLICY_SECRET = 0x151
    REWRAP = 0x152
    CREATE = 0x153
    ECDH_ZGEN = 0x154
    HMAC = 0x155
    IMPORT = 0x156
    LOAD = 0x157
    QUOTE = 0x158
    RSA_DECRYPT = 0x159
    HMAC_START = 0x15B
    SEQUENCE_UPDATE = 0x15C
    SIGN = 0x15D
    UNSEAL = 0x15E
    POLICY_SIGNED = 0x160
    CONTEXT_LOAD = 0x161
    CONTEXT_SAVE = 0x162
    ECDH_KEY_GEN = 0x163
    ENCRYPT_DECRYPT = 0x164
    FLUSH_CONTEXT = 0x165
    LOAD_EXTERNAL = 0x167
    MAKE_CREDENTIAL = 0x168
    NV_READ_PUBLIC = 0x169
    POLICY_AUTHORIZE = 0x16A
    POLICY_AUTH_VALUE = 0x16B
    POLICY_COMMAND_CODE = 0x16C
    POLICY_COUNTER_TIMER = 0x16D
    POLICY_CP_HASH = 0x16E
    POLICY_LOCALITY = 0x16F
    POLICY_NAME_HASH = 0x170
    POLICY_OR = 0x171
    POLICY_TICKET = 0x172
    READ_PUBLIC = 0x173
    RSA_ENCRYPT = 0x174
    START_AUTH_SESSION = 0x176
    VERIFY_SIGNATURE = 0x177
    ECC_PARAMETERS = 0x178
    FIRMWARE_READ = 0x179
    GET_CAPABILITY = 0x17A
    GET_RANDOM = 0x17B
    GET_TEST_RESULT = 0x17C
    HASH = 0x17D
    PCR_READ = 0x17E
    POLICY_PCR = 0x17F
    POLICY_RESTART = 0x180
    READ_CLOCK = 0x181
    PCR_EXTEND = 0x182
    PCR_SET_AUTH_VALUE = 0x183
    NV_CERTIFY = 0x184
    EVENT_SEQUENCE_COMPLETE = 0x185
    HASH_SEQUENCE_START = 0x186
    POLICY_PHYSICAL_PRESENCE = 0x187
    POLICY_DUPLICATION_SELECT = 0x188
    POLICY_GET_DIGEST = 0x189
    TEST_PARMS = 0x18A
    COMMIT = 0x18B
    POLICY_PASSWORD = 0x18C
    ZGEN_2PHASE = 0x18D
    EC_EPHEMERAL = 0x18E
    POLICY_NV_WRITTEN = 0x18F
    POLICY_TEMPLATE = 0x190
    CREATE_LOADED = 0x191
    POLICY_AUTHORIZE_NV = 0x192
    ENCRYPT_DECRYPT_2 = 0x193
    AC_GET_CAPABILITY = 0x194
    AC_SEND = 0x195
    POLICY_AC_SEND_SELECT = 0x196
    CERTIFY_X509 = 0x197
    ACT_SET_TIMEOUT = 0x198
    ECC_ENCRYPT = 0x199
    ECC_DECRYPT = 0x19A


_CODES: Final = {int(code): code for code in Code}


def name_of(code: int) -> str:
    """How people call a command: `TPM2_GET_RANDOM`, or its number."""
    known = _CODES.get(code)
    return f"TPM2_CC {code:#x}" if known is None else f"TPM2_{known.name}"
