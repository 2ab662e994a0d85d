"""The TIS register map: one table that serves driver, device, SPI framing, traces and docs.

TCG PC Client Specific TPM Interface Specification (TIS) 1.21 and 1.3 for TPM 1.2, register and
field definitions; INTERFACE_ID, tpmFamily, commandCancel and resetEstablishmentBit are those of
the PC Client Platform TPM Profile (PTP) for TPM 2.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final

from hwtpm.errors import UsageError

__all__ = [
    "ACCESS",
    "DATA_FIFO",
    "DID_VID",
    "HASH_END",
    "HASH_START",
    "INTERFACE_ID",
    "INTF_CAPABILITY",
    "INT_ENABLE",
    "INT_STATUS",
    "INT_VECTOR",
    "LOCALITIES",
    "LOCALITY_SIZE",
    "LPC_BASE",
    "REGISTERS",
    "RID",
    "SPI_BASE",
    "STS",
    "XDATA_FIFO",
    "Access",
    "Bits",
    "DidVid",
    "Interface",
    "InterfaceId",
    "Interrupt",
    "IntfCapability",
    "Register",
    "Rights",
    "Sts",
    "Vector",
    "address_of",
    "register_at",
    "split_address",
]

LPC_BASE: Final = 0xFED40000
"""Where a PC maps the five locality pages."""

SPI_BASE: Final = 0xD40000
"""The same window in the 24-bit addresses of a TPM on SPI."""

LOCALITIES: Final = 5
LOCALITY_SIZE: Final = 0x1000


class Rights(StrEnum):
    """What software may do with a field or register."""

    READ = "r"
    WRITE = "w"
    READ_WRITE = "rw"
    WRITE_1_CLEARS = "w1c"
    WRITE_1_ACTS = "w1"  # writing 1 starts something; what is read is a state
    RESERVED = "-"


class Interface(IntEnum):
    """INTF_CAPABILITY.InterfaceVersion."""

    TIS_1_21 = 0
    TIS_1_3 = 2
    TIS_1_3_TPM2 = 3


class Bits(int):
    """One field of a register; as an integer it is the field's mask."""

    name: str
    low: int
    width: int
    rights: Rights
    meaning: str

    def __new__(
        cls, name: str, low: int, width: int = 1, *, rights: Rights, meaning: str = ""
    ) -> Bits:
        self = super().__new__(cls, ((1 << width) - 1) << low)
        self.name, self.low, self.width = name, low, width
        self.rights, self.meaning = rights, meaning
        return self

    def of(self, value: int) -> int:
        """The field's content in the register value `value`."""
        return (value & self) >> self.low

    def put(self, content: int) -> int:
        """A register value that has only this field set, cut to the field's width."""
        return (content << self.low) & self


def _reserved(low: int, width: int = 1) -> Bits:
    return Bits("reserved", low, width, rights=Rights.RESERVED, meaning="reads 0")


class Access:
    """Fields of TPM_ACCESS_x: who owns the TPM. Software sets one bit per write."""

    VALID: Final = Bits("tpmRegValidSts", 7, rights=Rights.READ, meaning="other bits are valid")
    RESERVED_6: Final = _reserved(6)
    ACTIVE: Final = Bits(
        "activeLocality", 5, rights=Rights.WRITE_1_ACTS, meaning="owns the TPM; write 1 to release"
    )
    BEEN_SEIZED: Final = Bits(
        "beenSeized", 4, rights=Rights.WRITE_1_CLEARS, meaning="a higher locality took the TPM"
    )
    SEIZE: Final = Bits(
        "Seize", 3, rights=Rights.WRITE_1_ACTS, meaning="take the TPM from a lower locality"
    )
    PENDING: Final = Bits(
        "pendingRequest", 2, rights=Rights.READ, meaning="another locality requests the TPM"
    )
    REQUEST: Final = Bits(
        "requestUse", 1, rights=Rights.WRITE_1_ACTS, meaning="wants the TPM; reads 1 while waiting"
    )
    ESTABLISHMENT: Final = Bits(
        "tpmEstablishment", 0, rights=Rights.READ, meaning="0 once TPM_HASH_START has been seen"
    )


class Interrupt:
    """Fields of TPM_INT_ENABLE_x; bits 0-2 and 7 are also those of TPM_INT_STATUS_x."""

    GLOBAL: Final = Bits("globalIntEnable", 31, rights=Rights.READ_WRITE)
    RESERVED_8: Final = _reserved(8, 23)
    COMMAND_READY: Final = Bits("commandReady", 7, rights=Rights.READ_WRITE)
    RESERVED_5: Final = _reserved(5, 2)
    POLARITY: Final = Bits(
        "typePolarity",
        3,
        2,
        rights=Rights.READ_WRITE,
        meaning="0 high level, 1 low level, 2 rising edge, 3 falling edge",
    )
    LOCALITY_CHANGE: Final = Bits("localityChange", 2, rights=Rights.READ_WRITE)
    STS_VALID: Final = Bits("stsValid", 1, rights=Rights.READ_WRITE)
    DATA_AVAIL: Final = Bits("dataAvail", 0, rights=Rights.READ_WRITE)

    SOURCES: Final = int(COMMAND_READY | LOCALITY_CHANGE | STS_VALID | DATA_AVAIL)


class _Occurred:
    RESERVED_8: Final = _reserved(8, 24)
    COMMAND_READY: Final = Bits("commandReady", 7, rights=Rights.WRITE_1_CLEARS)
    RESERVED_3: Final = _reserved(3, 4)
    LOCALITY_CHANGE: Final = Bits("localityChange", 2, rights=Rights.WRITE_1_CLEARS)
    STS_VALID: Final = Bits("stsValid", 1, rights=Rights.WRITE_1_CLEARS)
    DATA_AVAIL: Final = Bits("dataAvail", 0, rights=Rights.WRITE_1_CLEARS)


class Vector:
    """Fields of TPM_INT_VECTOR_x."""

    RESERVED_4: Final = _reserved(4, 4)
    SIRQ: Final = Bits("sirqVec", 0, 4, rights=Rights.READ_WRITE, meaning="0 = no interrupt")


class IntfCapability:
    """Fields of TPM_INTF_CAPABILITY_x."""

    RESERVED_31: Final = _reserved(31)
    VERSION: Final = Bits("InterfaceVersion", 28, 3, rights=Rights.READ)
    RESERVED_11: Final = _reserved(11, 17)
    TRANSFER_SIZE: Final = Bits(
        "DataTransferSizeSupport",
        9,
        2,
        rights=Rights.READ,
        meaning="0 legacy, 1 8 bytes, 2 32 bytes, 3 64 bytes",
    )
    BURST_STATIC: Final = Bits("BurstCountStatic", 8, rights=Rights.READ)
    COMMAND_READY: Final = Bits("CommandReadyIntSupport", 7, rights=Rights.READ)
    EDGE_FALLING: Final = Bits("InterruptEdgeFalling", 6, rights=Rights.READ)
    EDGE_RISING: Final = Bits("InterruptEdgeRising", 5, rights=Rights.READ)
    LEVEL_LOW: Final = Bits("InterruptLevelLow", 4, rights=Rights.READ)
    LEVEL_HIGH: Final = Bits("InterruptLevelHigh", 3, rights=Rights.READ)
    LOCALITY_CHANGE: Final = Bits("LocalityChangeIntSupport", 2, rights=Rights.READ)
    STS_VALID: Final = Bits("stsValidIntSupport", 1, rights=Rights.READ)
    DATA_AVAIL: Final = Bits("dataAvailIntSupport", 0, rights=Rights.READ)


class Sts:
    """Fields of TPM_STS_x. On a TPM 1.2 bits 24-31 are reserved."""

    RESERVED_28: Final = _reserved(28, 4)
    FAMILY: Final = Bits("tpmFamily", 26, 2, rights=Rights.READ, meaning="0 TPM 1.2, 1 TPM 2.0")
    RESET_ESTABLISHMENT: Final = Bits(
        "resetEstablishmentBit", 25, rights=Rights.WRITE, meaning="TPM 2.0, from locality 3 or 4"
    )
    CANCEL: Final = Bits(
        "commandCancel", 24, rights=Rights.WRITE, meaning="TPM 2.0: answer soon, as cancelled"
    )
    BURST_COUNT: Final = Bits(
        "burstCount", 8, 16, rights=Rights.READ, meaning="FIFO bytes without wait states"
    )
    VALID: Final = Bits(
        "stsValid", 7, rights=Rights.READ, meaning="dataAvail and Expect can be trusted"
    )
    COMMAND_READY: Final = Bits(
        "commandReady", 6, rights=Rights.WRITE_1_ACTS, meaning="ready; write 1: get ready or abort"
    )
    GO: Final = Bits("tpmGo", 5, rights=Rights.WRITE, meaning="execute the command in the FIFO")
    DATA_AVAIL: Final = Bits("dataAvail", 4, rights=Rights.READ, meaning="response bytes remain")
    EXPECT: Final = Bits("Expect", 3, rights=Rights.READ, meaning="more command bytes are due")
    SELF_TEST_DONE: Final = Bits("selfTestDone", 2, rights=Rights.READ)
    RETRY: Final = Bits(
        "responseRetry", 1, rights=Rights.WRITE, meaning="send the response again from its start"
    )
    RESERVED_0: Final = _reserved(0)


class InterfaceId:
    """Fields of TPM_INTERFACE_ID_x (PTP); a TPM 1.2 reads all ones."""

    RESERVED_20: Final = _reserved(20, 12)
    LOCK: Final = Bits("IntfSelLock", 19, rights=Rights.WRITE_1_ACTS)
    SELECTOR: Final = Bits("InterfaceSelector", 17, 2, rights=Rights.READ_WRITE)
    CAP_IF_RESERVED: Final = _reserved(15, 2)
    CAP_CRB: Final = Bits("CapCRB", 14, rights=Rights.READ)
    CAP_TIS: Final = Bits("CapFIFO", 13, rights=Rights.READ)
    CAP_TRANSFER: Final = Bits("CapDataXferSizeSupport", 11, 2, rights=Rights.READ)
    RESERVED_10: Final = _reserved(10)
    RESERVED_9: Final = _reserved(9)
    CAP_LOCALITY: Final = Bits("CapLocality", 8, rights=Rights.READ)
    VERSION: Final = Bits("InterfaceVersion", 4, 4, rights=Rights.READ)
    TYPE: Final = Bits(
        "InterfaceType", 0, 4, rights=Rights.READ, meaning="0 FIFO, 1 CRB, 15 TIS 1.3 or older"
    )


class DidVid:
    """Fields of TPM_DID_VID_x."""

    DEVICE: Final = Bits("did", 16, 16, rights=Rights.READ)
    VENDOR: Final = Bits("vid", 0, 16, rights=Rights.READ, meaning="PCI vendor id")


class _Revision:
    RID: Final = Bits("rid", 0, 8, rights=Rights.READ)


class _Byte:
    DATA: Final = Bits("data", 0, 8, rights=Rights.WRITE)


class _Word:
    DATA: Final = Bits("data", 0, 32, rights=Rights.READ_WRITE)


@dataclass(frozen=True, slots=True)
class Register:
    """One register of a locality page.

    `size` is its width in bytes, `span` the bytes of address space that select it (a FIFO shows at
    more addresses than it is wide), `locality` the only one that has it, or None for all five.
    """

    name: str
    offset: int
    size: int
    rights: Rights
    fields: tuple[Bits, ...]
    meaning: str
    span: int
    locality: int | None = None

    @property
    def is_fifo(self) -> bool:
        """Successive bytes go to one address."""
        return self.name.endswith("FIFO")


def _register(
    name: str,
    offset: int,
    size: int,
    rights: Rights,
    layout: type,
    meaning: str,
    *,
    span: int = 0,
    locality: int | None = None,
) -> Register:
    fields = tuple(field for field in vars(layout).values() if isinstance(field, Bits))
    if sum(field.width for field in fields) != 8 * size or sum(fields) != (1 << 8 * size) - 1:
        raise UsageError(f"{name}: the declared fields do not cover each of its bits once")
    return Register(name, offset, size, rights, fields, meaning, span or size, locality)


_R, _W, _RW = Rights.READ, Rights.WRITE, Rights.READ_WRITE

ACCESS: Final = _register("ACCESS", 0x000, 1, _RW, Access, "locality arbitration")
INT_ENABLE: Final = _register("INT_ENABLE", 0x008, 4, _RW, Interrupt, "interrupts to raise")
INT_VECTOR: Final = _register("INT_VECTOR", 0x00C, 1, _RW, Vector, "interrupt line")
INT_STATUS: Final = _register("INT_STATUS", 0x010, 4, _RW, _Occurred, "interrupts that occurred")
INTF_CAPABILITY: Final = _register(
    "INTF_CAPABILITY", 0x014, 4, _R, IntfCapability, "what the interface can do"
)
STS: Final = _register("STS", 0x018, 4, _RW, Sts, "state of command and response")
HASH_END: Final = _register(
    "HASH_END", 0x020, 1, _W, _Byte, "ends a locality 4 measurement", locality=4
)
DATA_FIFO: Final = _register(
    "DATA_FIFO", 0x024, 4, _RW, _Word, "command in, response out; HASH_DATA while measuring"
)
HASH_START: Final = _register(
    "HASH_START", 0x028, 1, _W, _Byte, "starts a locality 4 measurement", locality=4
)
INTERFACE_ID: Final = _register(
    "INTERFACE_ID", 0x030, 4, _RW, InterfaceId, "FIFO or CRB, and what else is there"
)
XDATA_FIFO: Final = _register(
    "XDATA_FIFO", 0x080, 4, _RW, _Word, "the data FIFO again, for wide transfers", span=64
)
DID_VID: Final = _register("DID_VID", 0xF00, 4, _R, DidVid, "device and vendor")
RID: Final = _register("RID", 0xF04, 1, _R, _Revision, "revision")

REGISTERS: Final = (
    ACCESS,
    INT_ENABLE,
    INT_VECTOR,
    INT_STATUS,
    INTF_CAPABILITY,
    STS,
    HASH_END,
    DATA_FIFO,
    HASH_START,
    INTERFACE_ID,
    XDATA_FIFO,
    DID_VID,
    RID,
)
"""Every register, in address order."""


def _index() -> dict[int, Register]:
    by_offset: dict[int, Register] = {}
    for register in REGISTERS:
        for offset in range(register.offset, register.offset + register.span):
            if offset in by_offset or offset >= LOCALITY_SIZE:
                raise UsageError(f"{register.name} does not fit into the register map")
            by_offset[offset] = register
    return by_offset


_BY_OFFSET: Final = _index()


def register_at(offset: int) -> Register | None:
    """The register that the page offset selects, or None where nothing is."""
    return _BY_OFFSET.get(offset)


def address_of(register: Register, locality: int) -> int:
    """The register's address in the TIS window (add LPC_BASE or SPI_BASE for a bus address)."""
    return locality * LOCALITY_SIZE + register.offset


def split_address(address: int) -> tuple[int, int]:
    """(locality, page offset) of an address in the TIS window."""
    return divmod(address, LOCALITY_SIZE)
