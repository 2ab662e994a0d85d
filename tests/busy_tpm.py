"""A TPM whose permanent state has something in every one of its fields."""

from __future__ import annotations

import struct

from engine_rig import KEY_AUTH, OWNER_AUTH, Rig, template

from hwtpm.client import counters, nv
from hwtpm.secret import Secret
from hwtpm.tpm12.commands.auditing import SetOrdinalAuditStatus
from hwtpm.tpm12.commands.context import KeyControlOwner
from hwtpm.tpm12.commands.delegation import (
    CreateOwnerDelegation,
    DelegateManage,
    LoadOwnerDelegation,
)
from hwtpm.tpm12.commands.deprecated import DirWriteAuth
from hwtpm.tpm12.commands.migration import CmkSetRestrictions
from hwtpm.tpm12.commands.optin import SetOperatorAuth
from hwtpm.tpm12.commands.ownership import PhysicalPresence
from hwtpm.tpm12.const import (
    EVERY_LOCALITY,
    KEY_CONTROL_OWNER_EVICT,
    DelegateType,
    FamilyOperation,
    KeyUsage,
    NvPermission,
)
from hwtpm.tpm12.types import PcrInfoShort, PcrSelection
from hwtpm.tpm12.types.delegation import DelegatePublic, Delegations

NV_INDEX = 0x00010100
NV_DATA = b"what the owner wrote"
NV_AUTH = b"n" * 20
COUNTER_AUTH = b"c" * 20
OPERATOR_AUTH = b"p" * 20
DIR = b"D" * 20
OWNER_RW = NvPermission.OWNERREAD | NvPermission.OWNERWRITE
AUTH_RW = NvPermission.AUTHREAD | NvPermission.AUTHWRITE
EXTEND = 0x14


def fill(rig: Rig) -> int:
    """Use everything that keeps state; the TPM has an owner. Returns an owner-evict key's handle.

    Nothing is released, so there is no trace of what once was.
    """
    owner = Secret(OWNER_AUTH)
    rig.run(PhysicalPresence(0x0020))
    rig.run(PhysicalPresence(0x0008))
    rig.run(SetOperatorAuth(OPERATOR_AUTH))
    rig.run(DirWriteAuth(0, DIR), OWNER_AUTH)
    rig.run(CmkSetRestrictions(0x80000000), OWNER_AUTH)
    rig.run(SetOrdinalAuditStatus(EXTEND, True), OWNER_AUTH)
    nv.define(rig.client, NV_INDEX, len(NV_DATA), OWNER_RW, owner_auth=owner)
    nv.write(rig.client, NV_INDEX, NV_DATA, owner_auth=owner)
    bound = PcrInfoShort(PcrSelection.of((7,)), EVERY_LOCALITY, b"r" * 20)
    nv.define(
        rig.client,
        NV_INDEX + 1,
        16,
        AUTH_RW,
        owner_auth=owner,
        area_auth=Secret(NV_AUTH),
        read_policy=bound,
    )
    first, *_ = [
        counters.create(rig.client, owner, Secret(COUNTER_AUTH), label)
        for label in (b"one ", b"two ", b"last")
    ]
    counters.increment(rig.client, first.handle, Secret(COUNTER_AUTH))
    _delegate(rig)
    loaded = rig.make_key(template(KeyUsage.SIGNING))
    rig.run(
        KeyControlOwner(loaded.handle, loaded.public, KEY_CONTROL_OWNER_EVICT, True), OWNER_AUTH
    )
    return loaded.handle


def _delegate(rig: Rig) -> None:
    """Two families; a delegation of the first in row 2 of the table."""
    first, _ = (
        struct.unpack(
            ">I", rig.run(DelegateManage(0, FamilyOperation.CREATE, label), OWNER_AUTH).ret_data
        )[0]
        for label in (b"f", b"g")
    )
    rig.run(DelegateManage(first, FamilyOperation.ENABLE, b"\1"), OWNER_AUTH)
    public = DelegatePublic(
        0x72,
        PcrInfoShort(PcrSelection.of(()), EVERY_LOCALITY, bytes(20)),
        Delegations(DelegateType.OWNER, 1 << 7, 0),
        first,
        0,
    )
    with rig.owner_osap() as session:
        request = CreateOwnerDelegation(False, public, session.encrypt_auth(Secret(KEY_AUTH)))
        blob = rig.client.execute(request, session, last=True).blob
    rig.run(LoadOwnerDelegation(2, blob), OWNER_AUTH)
