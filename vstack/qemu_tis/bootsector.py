"""A boot sector of our own: the smallest guest, which says on COM1 that firmware booted it.

Source: the PC's boot convention (loaded at 0000:7C00 in real mode, signature 55 AA at 510) and the
16550 UART's registers (data at 0x3F8, line status at 0x3FD with bit 5 "transmitter empty").
"""

from __future__ import annotations

from typing import Final

from hwtpm.errors import UsageError

__all__ = ["BOOT_TEXT", "SECTOR_SIZE", "boot_sector"]

SECTOR_SIZE: Final = 512
BOOT_TEXT: Final = "vstack guest booted"

_LOAD_ADDRESS: Final = 0x7C00
_PARTITION_TABLE: Final = 446  # stays zero: no partitions
_SIGNATURE: Final = b"\x55\xaa"

_TEXT_OPERAND: Final = 7  # where in the code the text's address goes
_CODE: Final = bytes.fromhex(
    "fa"  #          cli
    "31c0"  #        xor  ax, ax
    "8ed8"  #        mov  ds, ax
    "fc"  #          cld
    "be0000"  #      mov  si, text           (address filled in)
    "ac"  #    next: lodsb
    "84c0"  #        test al, al
    "7411"  #        jz   halt
    "88c4"  #        mov  ah, al
    "bafd03"  #      mov  dx, 0x3fd
    "ec"  #    wait: in   al, dx
    "a820"  #        test al, 0x20           (transmitter empty)
    "74fb"  #        jz   wait
    "b2f8"  #        mov  dl, 0xf8           (dx = 0x3f8)
    "88e0"  #        mov  al, ah
    "ee"  #          out  dx, al
    "ebea"  #        jmp  next
    "f4"  #    halt: hlt
    "ebfd"  #        jmp  halt
)


def boot_sector(text: str = BOOT_TEXT) -> bytes:
    """The 512 bytes of a boot sector that writes `text` and a line break to COM1, then halts.

    Raises:
        UsageError: the text is not plain ASCII or does not fit.
    """
    try:
        message = text.encode("ascii") + b"\r\n\0"
    except UnicodeEncodeError as error:
        raise UsageError(f"a boot text has to be ASCII: {error}") from error
    space = _PARTITION_TABLE - len(_CODE)
    if b"\0" in message[:-1] or len(message) > space:
        raise UsageError(f"a boot text has at most {space - 3} characters, none of them NUL")
    code = bytearray(_CODE)
    code[_TEXT_OPERAND : _TEXT_OPERAND + 2] = (_LOAD_ADDRESS + len(code)).to_bytes(2, "little")
    return bytes(code + message).ljust(SECTOR_SIZE - 2, b"\0") + _SIGNATURE
