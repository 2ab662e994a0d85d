"""The files in which swtpm keeps a TPM's state, plain or encrypted.

A header of 10 bytes (version 2, least version that reads it 1, header size, flags, length of the
file), then tagged values: the state in clear, or its AES-CBC ciphertext, HMAC-SHA-256 over
ciphertext and IV, and the IV. The key serves for both; the IV is as long as the key (AES uses its
first 16 bytes), and the padding fills blocks of that length.
Source: swtpm 0.7.1 (swtpm_nvstore.c, swtpm_aes.c, tlv.c, key.c) and swtpm(8), option --key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntFlag, StrEnum
from typing import Annotated, Final

from hwtpm.errors import StateError, UsageError, VerificationError
from hwtpm.secret import Secret
from hwtpm.tpm12.types import U8, U16, U32
from hwtpm.wire import Blob, Rest, Struct, WireError, structure

__all__ = ["FileKey", "Kdf", "key_from_file", "key_from_passphrase", "unwrap", "wrap"]

_REF: Final = "swtpm 0.7.1"
_VERSION: Final = 2
_LEAST_VERSION: Final = 1
_HEADER_SIZE: Final = 10
_KEY_SIZES: Final = (16, 32)
_MOST_BYTES: Final = 1 << 20
_AES_BLOCK: Final = 16

_TAG_DATA: Final = 1
_TAG_ENCRYPTED: Final = 2
_TAG_HMAC: Final = 3
_TAG_IV: Final = 6

_SALT: Final = b"swtpm"
_PBKDF2_ROUNDS: Final = 1000


class _Flag(IntFlag):
    ENCRYPTED = 0x01
    MIGRATION_ENCRYPTED = 0x02
    MIGRATION_DATA = 0x04
    KEY_256 = 0x08
    MIGRATION_KEY_256 = 0x10


@structure("swtpm state file", ref=_REF)
class _File(Struct):
    version: U8
    least_version: U8
    header_size: U16
    flags: U16
    total_size: U32
    body: Annotated[bytes, Rest(_MOST_BYTES)]


@structure("swtpm tagged value", ref=_REF)
class _Tagged(Struct):
    tag: U16
    value: Annotated[bytes, Blob(_MOST_BYTES, secret=True)]


class Kdf(StrEnum):
    """How swtpm makes a key of a passphrase: `kdf=` of its option --key."""

    PBKDF2 = "pbkdf2"  # its default
    SHA512 = "sha512"


@dataclass(frozen=True, slots=True)
class FileKey:
    """The AES key of a state file, 16 or 32 bytes."""

    key: Secret

    def __post_init__(self) -> None:
        if len(self.key) not in _KEY_SIZES:
            raise UsageError(
                f"a key of {8 * len(self.key)} bits is none of swtpm's",
                hint="swtpm takes 128 bits (mode aes-cbc) or 256 bits (mode aes-256-cbc)",
            )

    @property
    def bits(self) -> int:
        """Its size."""
        return 8 * len(self.key)


def key_from_file(content: bytes) -> FileKey:
    """The key in a file for `--key file=`: 16 or 32 bytes, or as many in hexadecimal.

    Raises:
        UsageError: it is neither.
    """
    # Binary keys are 16 or 32 bytes; hexadecimal ones are at least 32 characters. 32 hexadecimal
    # digits could be either: swtpm's default is hexadecimal, so that is what they are.
    text = content.split(maxsplit=1)[0] if content.split() else b""
    try:
        return FileKey(Secret(bytes.fromhex(text.removeprefix(b"0x").decode("ascii"))))
    except (ValueError, UsageError):
        return FileKey(Secret(content))


def key_from_passphrase(passphrase: bytes, kdf: Kdf, bits: int) -> FileKey:
    """The key that swtpm makes of the whole content of a `--key pwdfile=`, newlines included.

    Raises:
        UsageError: `bits` is neither 128 nor 256.
    """
    size = bits // 8
    if kdf is Kdf.SHA512:
        return FileKey(Secret(hashlib.sha512(passphrase).digest()[:size]))
    made = hashlib.pbkdf2_hmac("sha512", passphrase, _SALT, _PBKDF2_ROUNDS, size)
    return FileKey(Secret(made))


def unwrap(data: bytes, key: FileKey | None) -> bytes:
    """The libtpms blob in a state file.

    Raises:
        StateError: it is cut off or no such file.
        UsageError: a key is missing, not needed, or has another size than the file's.
        VerificationError: the key is not the one it was encrypted with, or it has been changed.
    """
    try:
        file = _File.decode(data)
        if file.version != _VERSION or file.least_version > _VERSION:
            raise StateError(
                f"the swtpm file has format {file.version}, this program reads {_VERSION}",
                hint="start it once with swtpm 0.1 to 0.10 with its files in a directory",
            )
        if file.header_size != _HEADER_SIZE or file.total_size != len(data):
            raise StateError(
                f"the swtpm file is damaged: {len(data)} of {file.total_size} bytes",
                hint="restore it from a backup",
            )
        flags = _Flag(file.flags)
        values = _tagged_values(file.body)
    except WireError as error:
        raise StateError(
            f"the swtpm file is damaged: {error.message}", hint="restore it from a backup"
        ) from error
    if flags & (_Flag.MIGRATION_DATA | _Flag.MIGRATION_ENCRYPTED):
        raise StateError(
            "this is a blob of swtpm's control channel, not a state file",
            hint="name the directory in which swtpm keeps its state",
        )
    if not flags & _Flag.ENCRYPTED:
        if key is not None:
            raise UsageError("the swtpm file is not encrypted", hint="leave the key out")
        return _value(values, _TAG_DATA)
    if key is None:
        raise UsageError(
            "the swtpm file is encrypted", hint="name the key or passphrase file of swtpm's --key"
        )
    needed = 256 if flags & _Flag.KEY_256 else 128
    if key.bits != needed:
        raise UsageError(
            f"the swtpm file is encrypted with {needed} bits, the key has {key.bits}",
            hint="name the right key, or the right size for the passphrase",
        )
    return _decrypt(key.key.reveal(), values)


def wrap(blob: bytes, key: FileKey | None, random: Callable[[int], bytes]) -> bytes:
    """The state file for a libtpms blob, encrypted if there is a key.

    Args:
        random: makes the n bytes of the IV.
    """
    flags = _Flag(0)
    if key is None:
        values = {_TAG_DATA: blob}
    else:
        secret = key.key.reveal()
        iv = random(len(secret))
        cipher = _encrypt(secret, iv, blob)
        values = {_TAG_ENCRYPTED: cipher, _TAG_HMAC: _mac(secret, cipher, iv), _TAG_IV: iv}
        flags = _Flag.ENCRYPTED | (_Flag.KEY_256 if key.bits == 256 else _Flag(0))
    body = b"".join(_Tagged(tag, value).encode() for tag, value in values.items())
    total = _HEADER_SIZE + len(body)
    return _File(_VERSION, _LEAST_VERSION, _HEADER_SIZE, flags, total, body).encode()


def _tagged_values(body: bytes) -> dict[int, bytes]:
    values: dict[int, bytes] = {}
    at = 0
    while at < len(body):
        item, at = _Tagged.layout.read(body, at, len(body))
        values.setdefault(item.tag, item.value)
    return values


def _value(values: dict[int, bytes], tag: int) -> bytes:
    if tag not in values:
        raise StateError(
            f"the swtpm file is damaged: value {tag} is missing", hint="restore it from a backup"
        )
    return values[tag]


def _mac(key: bytes, cipher: bytes, iv: bytes) -> bytes:
    return hmac.digest(key, cipher + iv, "sha256")


def _encrypt(key: bytes, iv: bytes, plain: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    pad = len(key) - len(plain) % len(key)
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv[:_AES_BLOCK])).encryptor()
    return encryptor.update(plain + bytes((pad,)) * pad) + encryptor.finalize()


def _decrypt(key: bytes, values: dict[int, bytes]) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    iv, cipher = _value(values, _TAG_IV), _value(values, _TAG_ENCRYPTED)
    if not hmac.compare_digest(_mac(key, cipher, iv), _value(values, _TAG_HMAC)):
        raise VerificationError(
            "the key is not that of the swtpm file, or the file has been changed",
            hint="name the key, passphrase and kdf that swtpm was started with",
        )
    # Whoever made the HMAC has the key; what follows can only be a fault of its program.
    if len(iv) != len(key) or not cipher or len(cipher) % len(key):
        raise StateError("the swtpm file has a wrong IV or size", hint="restore it from a backup")
    decryptor = Cipher(algorithms.AES(key), modes.CBC(iv[:_AES_BLOCK])).decryptor()
    padded = decryptor.update(cipher) + decryptor.finalize()
    pad = padded[-1]
    if not 0 < pad <= len(key) or padded[-pad:] != bytes((pad,)) * pad:
        raise StateError("the swtpm file has wrong padding", hint="restore it from a backup")
    return padded[:-pad]
