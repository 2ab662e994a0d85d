"""Constants of TPM 1.2 (TPM Main, Version 1.2, Revision 116, Part 2)."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

__all__ = [
    "DEFAULT_EXPONENT",
    "DIGEST_SIZE",
    "EVERY_LOCALITY",
    "KEY_CONTROL_OWNER_EVICT",
    "MAX_FRAME",
    "NUM_PCRS",
    "OAEP_LABEL",
    "PROTOCOL_ADCP",
    "PROTOCOL_OWNER",
    "AuthDataUsage",
    "CapFlag",
    "CapProperty",
    "Capability",
    "CmkDelegate",
    "DelegateType",
    "EncScheme",
    "EntityType",
    "FamilyFlag",
    "FamilyOperation",
    "KeyAlgorithm",
    "KeyFlag",
    "KeyHandleValue",
    "KeyUsage",
    "MigrateScheme",
    "NvIndex",
    "NvPermission",
    "Payload",
    "PhysicalPresence",
    "ResourceType",
    "SetArea",
    "SigScheme",
    "StartupType",
    "Tag",
    "TransportAttribute",
]

DIGEST_SIZE: Final = 20
MAX_FRAME: Final = 4096  # PC Client buffer; both QEMU and libtpms use it
NUM_PCRS: Final = 24

DEFAULT_EXPONENT: Final = 65537
"""The RSA exponent that an empty one stands for (Part 2 section 10.1.1)."""

OAEP_LABEL: Final = b"TCPA"
"""The encoding parameter P of OAEP (Part 1 section 31.1.1)."""

EVERY_LOCALITY: Final = 0x1F
"""TPM_LOCALITY_SELECTION with localities 0 to 4 (Part 2 section 8.6)."""


class Tag(IntEnum):
    """Structure and command tags (Part 2 sections 2.3 structure tags, 6 command tags)."""

    RQU_COMMAND = 0x00C1
    RQU_AUTH1 = 0x00C2
    RQU_AUTH2 = 0x00C3
    RSP_COMMAND = 0x00C4
    RSP_AUTH1 = 0x00C5
    RSP_AUTH2 = 0x00C6
    CONTEXT_BLOB = 0x0001
    CONTEXT_SENSITIVE = 0x0002
    SIGNINFO = 0x0005
    PCR_INFO_LONG = 0x0006
    PERSISTENT_FLAGS = 0x0007
    EK_BLOB = 0x000C
    EK_BLOB_AUTH = 0x000D
    COUNTER_VALUE = 0x000E
    TRANSPORT_INTERNAL = 0x000F
    TRANSPORT_LOG_IN = 0x0010
    TRANSPORT_LOG_OUT = 0x0011
    AUDIT_EVENT_IN = 0x0012
    AUDIT_EVENT_OUT = 0x0013
    CURRENT_TICKS = 0x0014
    STORED_DATA12 = 0x0016
    NV_ATTRIBUTES = 0x0017
    NV_DATA_PUBLIC = 0x0018
    DELEGATIONS = 0x001A
    DELEGATE_PUBLIC = 0x001B
    DELEGATE_TABLE_ROW = 0x001C
    TRANSPORT_AUTH = 0x001D
    TRANSPORT_PUBLIC = 0x001E
    PERMANENT_FLAGS = 0x001F
    STCLEAR_FLAGS = 0x0020
    STANY_FLAGS = 0x0021
    PERMANENT_DATA = 0x0022
    STCLEAR_DATA = 0x0023
    STANY_DATA = 0x0024
    FAMILY_TABLE_ENTRY = 0x0025
    DELEGATE_SENSITIVE = 0x0026
    DELEGATE_KEY_BLOB = 0x0027
    KEY12 = 0x0028
    CERTIFY_INFO2 = 0x0029
    DELEGATE_OWNER_BLOB = 0x002A
    EK_BLOB_ACTIVATE = 0x002B
    DAA_BLOB = 0x002C
    DAA_CONTEXT = 0x002D
    DAA_ISSUER = 0x002F
    CAP_VERSION_INFO = 0x0030
    DAA_SENSITIVE = 0x0031
    DAA_TPM = 0x0032
    CMK_MIGAUTH = 0x0033
    CMK_SIGTICKET = 0x0034
    CMK_MA_APPROVAL = 0x0035
    QUOTE_INFO2 = 0x0036
    DA_INFO = 0x0037
    DA_INFO_LIMITED = 0x0038
    DA_ACTION_TYPE = 0x0039


class StartupType(IntEnum):
    """TPM_STARTUP_TYPE (Part 2 section 4.5)."""

    CLEAR = 0x0001
    STATE = 0x0002
    DEACTIVATED = 0x0003


class PhysicalPresence(IntFlag):
    """TPM_PHYSICAL_PRESENCE (Part 2 section 4.9)."""

    HW_DISABLE = 0x0200
    CMD_DISABLE = 0x0100
    LIFETIME_LOCK = 0x0080
    HW_ENABLE = 0x0040
    CMD_ENABLE = 0x0020
    NOTPRESENT = 0x0010
    PRESENT = 0x0008
    LOCK = 0x0004


class ResourceType(IntEnum):
    """TPM_RESOURCE_TYPE (Part 2 section 4.1)."""

    KEY = 1
    AUTH = 2
    HASH = 3
    TRANS = 4
    CONTEXT = 5
    COUNTER = 6
    DELEGATE = 7
    DAA_TPM = 8
    DAA_V0 = 9
    DAA_V1 = 10


class EntityType(IntEnum):
    """TPM_ENTITY_TYPE, least significant byte (Part 2 section 4.3)."""

    KEYHANDLE = 0x01
    OWNER = 0x02
    DATA = 0x03
    SRK = 0x04
    KEY = 0x05
    REVOKE = 0x06
    DEL_OWNER_BLOB = 0x07
    DEL_ROW = 0x08
    DEL_KEY_BLOB = 0x09
    COUNTER = 0x0A
    NV = 0x0B
    OPERATOR = 0x0C
    RESERVED_HANDLE = 0x40


ET_XOR: Final = 0x00  # ADIP scheme in the entity type's upper byte: SHA-1 based XOR
ET_AES128_CTR: Final = 0x06  # another one: AES-128 in counter mode


class KeyHandleValue(IntEnum):
    """Reserved key handles (Part 2 section 4.4.1)."""

    SRK = 0x40000000
    OWNER = 0x40000001
    REVOKETRUST = 0x40000002
    TRANSPORT = 0x40000003
    OPERATOR = 0x40000004
    ADMIN = 0x40000005
    EK = 0x40000006


PROTOCOL_ADCP: Final = 0x0004
"""TPM_PID_ADCP (Part 2 section 4.7): the protocol of TPM_ChangeAuth."""
PROTOCOL_OWNER: Final = 0x0005
"""TPM_PID_OWNER (Part 2 section 4.7): the protocol of TPM_TakeOwnership."""


class Payload(IntEnum):
    """TPM_PAYLOAD_TYPE (Part 2 section 4.2)."""

    ASYM = 0x01
    BIND = 0x02
    MIGRATE = 0x03
    MAINT = 0x04
    SEAL = 0x05
    MIGRATE_RESTRICTED = 0x06
    MIGRATE_EXTERNAL = 0x07
    CMK_MIGRATE = 0x08


class MigrateScheme(IntEnum):
    """TPM_MIGRATE_SCHEME (Part 2 section 4.10)."""

    MIGRATE = 0x0001
    REWRAP = 0x0002
    MAINT = 0x0003
    RESTRICT_MIGRATE = 0x0004
    RESTRICT_APPROVE = 0x0005


EK_TYPE_ACTIVATE: Final = 0x0001
"""TPM_EK_TYPE_ACTIVATE (Part 2 section 4.11)."""


class KeyUsage(IntEnum):
    """TPM_KEY_USAGE (Part 2 section 5.8)."""

    SIGNING = 0x0010
    STORAGE = 0x0011
    IDENTITY = 0x0012
    AUTHCHANGE = 0x0013
    BIND = 0x0014
    LEGACY = 0x0015
    MIGRATE = 0x0016


class KeyAlgorithm(IntEnum):
    """TPM_ALGORITHM_ID (Part 2 section 4.8)."""

    RSA = 0x01
    SHA = 0x04
    HMAC = 0x05
    AES128 = 0x06
    MGF1 = 0x07
    AES192 = 0x08
    AES256 = 0x09
    XOR = 0x0A


class EncScheme(IntEnum):
    """TPM_ENC_SCHEME (Part 2 section 5.8.1)."""

    NONE = 0x0001
    RSA_PKCS_V15 = 0x0002
    RSA_OAEP_SHA1_MGF1 = 0x0003
    SYM_CTR = 0x0004
    SYM_OFB = 0x0005


class TransportAttribute(IntFlag):
    """TPM_TRANSPORT_ATTRIBUTES (Part 2 section 13.1.1)."""

    ENCRYPT = 0x00000001
    LOG = 0x00000002
    EXCLUSIVE = 0x00000004


class SigScheme(IntEnum):
    """TPM_SIG_SCHEME (Part 2 section 5.8.1)."""

    NONE = 0x0001
    RSA_PKCS_V15_SHA1 = 0x0002
    RSA_PKCS_V15_DER = 0x0003
    RSA_PKCS_V15_INFO = 0x0004


KEY_CONTROL_OWNER_EVICT: Final = 0x00000001
"""TPM_KEY_CONTROL_OWNER_EVICT (Part 2 section 10.9)."""


class AuthDataUsage(IntEnum):
    """TPM_AUTH_DATA_USAGE (Part 2 section 5.9)."""

    NEVER = 0x00
    ALWAYS = 0x01
    PRIV_USE_ONLY = 0x03


class KeyFlag(IntFlag):
    """TPM_KEY_FLAGS (Part 2 section 5.10)."""

    REDIRECTION = 0x01
    MIGRATABLE = 0x02
    VOLATILE = 0x04
    PCR_IGNORED_ON_READ = 0x08
    MIGRATE_AUTHORITY = 0x10


class CmkDelegate(IntFlag):
    """TPM_CMK_DELEGATE (Part 2 section 5.17)."""

    SIGNING = 1 << 31
    STORAGE = 1 << 30
    BIND = 1 << 29
    LEGACY = 1 << 28
    MIGRATE = 1 << 27


class Capability(IntEnum):
    """TPM_CAPABILITY_AREA (Part 2 section 21.1)."""

    ORD = 0x01
    ALG = 0x02
    PID = 0x03
    FLAG = 0x04
    PROPERTY = 0x05
    VERSION = 0x06
    KEY_HANDLE = 0x07
    CHECK_LOADED = 0x08
    SYM_MODE = 0x09
    KEY_STATUS = 0x0C
    NV_LIST = 0x0D
    MFR = 0x10
    NV_INDEX = 0x11
    TRANS_ALG = 0x12
    HANDLE = 0x14
    TRANS_ES = 0x15
    AUTH_ENCRYPT = 0x17
    SELECT_SIZE = 0x18
    DA_LOGIC = 0x19
    VERSION_VAL = 0x1A


class CapFlag(IntEnum):
    """Subcaps of TPM_CAP_FLAG (Part 2 section 21.1)."""

    PERMANENT = 0x108
    VOLATILE = 0x109


class SetArea(IntEnum):
    """TPM_CAPABILITY_AREA for TPM_SetCapability (Part 2 section 21.4)."""

    PERM_FLAGS = 1
    PERM_DATA = 2
    STCLEAR_FLAGS = 3
    STCLEAR_DATA = 4
    STANY_FLAGS = 5
    STANY_DATA = 6
    VENDOR = 7


class CapProperty(IntEnum):
    """TPM_CAP_PROPERTY subcaps (Part 2 section 21.2)."""

    PCR = 0x101
    DIR = 0x102
    MANUFACTURER = 0x103
    KEYS = 0x104
    MIN_COUNTER = 0x107
    AUTHSESS = 0x10A
    TRANSESS = 0x10B
    COUNTERS = 0x10C
    MAX_AUTHSESS = 0x10D
    MAX_TRANSESS = 0x10E
    MAX_COUNTERS = 0x10F
    MAX_KEYS = 0x110
    OWNER = 0x111
    CONTEXT = 0x112
    MAX_CONTEXT = 0x113
    FAMILYROWS = 0x114
    TIS_TIMEOUT = 0x115
    STARTUP_EFFECT = 0x116
    DELEGATE_ROW = 0x117
    MAX_DAASESS = 0x119
    DAASESS = 0x11A
    CONTEXT_DIST = 0x11B
    DAA_INTERRUPT = 0x11C
    SESSIONS = 0x11D
    MAX_SESSIONS = 0x11E
    CMK_RESTRICTION = 0x11F
    DURATION = 0x120
    ACTIVE_COUNTER = 0x122
    MAX_NV_AVAILABLE = 0x123
    INPUT_BUFFER = 0x124


class NvIndex(IntEnum):
    """Reserved NV indices (Part 2 section 19.1)."""

    LOCK = 0xFFFFFFFF
    INDEX0 = 0x00000000
    DIR = 0x10000001
    EK_CERT = 0x0000F000
    TPM_CC = 0x0000F001
    PLATFORM_CERT = 0x0000F002
    PLATFORM_CC = 0x0000F003
    D_BIT = 0x10000000


class NvPermission(IntFlag):
    """TPM_NV_ATTRIBUTES (Part 2 section 19.2)."""

    READ_STCLEAR = 1 << 31
    AUTHREAD = 1 << 18
    OWNERREAD = 1 << 17
    PPREAD = 1 << 16
    GLOBALLOCK = 1 << 15
    WRITE_STCLEAR = 1 << 14
    WRITEDEFINE = 1 << 13
    WRITEALL = 1 << 12
    AUTHWRITE = 1 << 2
    OWNERWRITE = 1 << 1
    PPWRITE = 1 << 0


class DelegateType(IntEnum):
    """What a TPM_DELEGATIONS delegates (Part 2 section 20.2)."""

    OWNER = 1
    KEY = 2


class FamilyFlag(IntFlag):
    """TPM_FAMILY_FLAGS (Part 2 section 20.3)."""

    ADMIN_LOCK = 0x2
    ENABLED = 0x1


class FamilyOperation(IntEnum):
    """TPM_FAMILY_OPERATION (Part 2 section 20.14)."""

    CREATE = 1
    ENABLE = 2
    ADMIN = 3
    INVALIDATE = 4
