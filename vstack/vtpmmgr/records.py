"""What the manager keeps: secrets that the chip seals, and the records of its store."""

from __future__ import annotations

from typing import Annotated, Final

from hwtpm.tpm12.types import AuthValue, Data, Digest
from hwtpm.wire import Blob, Fixed, Struct, structure
from vstack.vtpmmgr.protocol import MAX_HASH_KEY

__all__ = [
    "GROUP",
    "KEY_SIZE",
    "MODULUS_SIZE",
    "NO_AUTHORITY",
    "NO_CONFIG",
    "VTPM",
    "GroupRecord",
    "GroupSecret",
    "RootSecret",
    "VtpmRecord",
]

GROUP: Final = "group"
VTPM: Final = "vtpm"
"""Kinds of records; a vTPM's parent is its group."""

KEY_SIZE: Final = 32
MODULUS_SIZE: Final = 256

NO_AUTHORITY: Final = bytes(MODULUS_SIZE)
NO_CONFIG: Final = bytes(16)
"""A configuration list with sequence 0, no approved states and no labels (u64, u32, u32)."""

Uuid = Annotated[bytes, Fixed("uuid", 16)]
SymKey = Annotated[bytes, Fixed("key", KEY_SIZE, secret=True)]


@structure("root secret", ref="docs/manager-store.md", head=b"Root")
class RootSecret(Struct):
    """What the chip seals for the manager; the key seals group records and the manifest."""

    manager: Uuid
    key: SymKey


@structure("group secret", ref="docs/manager-store.md", head=b"TGrp")
class GroupSecret(Struct):
    """What the chip seals for a group; the key seals the records of its vTPMs."""

    manager: Uuid
    group: Uuid
    identity_auth: AuthValue
    key: SymKey


@structure("group record", ref="docs/manager-store.md")
class GroupRecord(Struct):
    """A group of vTPMs under one authority: its sealed secret and its identity key."""

    sealed: Data
    identity_wrapped: Data
    identity_public: Data
    identity_label: Digest
    identity_binding: Data
    authority: Annotated[bytes, Fixed("RSA modulus", MODULUS_SIZE)]
    config: Annotated[bytes, Blob(1024)]


@structure("vTPM record", ref="docs/manager-store.md")
class VtpmRecord(Struct):
    """What a vTPM last saved, filled up with zeros."""

    data: Annotated[bytes, Fixed("hash and key", MAX_HASH_KEY, secret=True)]
