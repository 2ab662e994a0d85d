"""Each command that can be delegated, with its permission bit and without (Part 2 20.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest
from conformance_rig import OWNER, USAGE, ZEROS, Device
from differences import LACKING
from samples import SAMPLES
from test_conf_delegation import (
    CREATE,
    ENABLE,
    YES,
    a_family,
    by_blob,
    by_key_blob,
    key_blob,
    owner_blob,
    public,
)

from hwtpm.client import nv
from hwtpm.tpm12.commands.delegation import (
    CreateKeyDelegation,
    CreateOwnerDelegation,
    DelegateManage,
    LoadOwnerDelegation,
)
from hwtpm.tpm12.const import DelegateType, NvPermission
from hwtpm.tpm12.delegation import KEY_PERMISSIONS, OWNER_PERMISSIONS
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import Request
from hwtpm.tpm12.types.delegation import DelegatePublic
from hwtpm.wire import Struct

AREA: Final = 0x1000  # the one that the samples name
EVERY_OWNER_BIT: Final = sum(1 << bit for bit in OWNER_PERMISSIONS.values())
EVERY_KEY_BIT: Final = sum(1 << bit for bit in KEY_PERMISSIONS.values())
NOT_SAMPLED: Final = {
    "TPM_MakeIdentity": "the SRK's session comes first",
    "TPM_ActivateIdentity": "takes the owner's session and the key's",
    "TPM_EstablishTransport": "the key encrypts what the sample cannot contain",
    "TPM_ReleaseTransportSigned": "comes with a transport session",
    "TPM_DisableOwnerClear": "would stand in the way of TPM_OwnerClear",
    "TPM_CreateMaintenanceArchive": "refused before authorisation, as maintenance is not allowed",
    "TPM_FieldUpgrade": "always AUTHFAIL: no manufacturer signs upgrades of this TPM",
    "TPM_CMK_ConvertMigration": "AUTHFAIL also for the sample's ticket",
}
KEY_FOR: Final = {
    "TPM_CertifyKey": "signing",
    "TPM_CertifyKey2": "signing",
    "TPM_ChangeAuthAsymStart": "identity",
}
"""Keys for commands that look at the usage first; the others get a storage key."""
TWO_SESSIONS: Final = (
    "TPM_CertifyKey",
    "TPM_CertifyKey2",
    "TPM_ChangeAuth",
    "TPM_CreateMigrationBlob",
    "TPM_Unseal",
)


def sampled(bits: dict[str, int]) -> dict[str, int]:
    """The commands that samples.py has a request of: in the end all that an engine carries out."""
    return {name: bit for name, bit in bits.items() if name in SAMPLES and name not in NOT_SAMPLED}


def wrong_answers(
    device: Device, bits: dict[str, int], every: int, ask: Callable[[str, int], int]
) -> dict[str, tuple[int, int]]:
    """Return codes with a command's bit alone and with all others, of those that are wrong."""
    wrong = {}
    for name, bit in bits.items():
        if name in LACKING and device.engine != "engine":
            continue
        without, alone = ask(name, every & ~(1 << bit)), ask(name, 1 << bit)
        if without != Rc.AUTHFAIL or alone == Rc.AUTHFAIL:
            wrong[name] = (alone, without)
    return wrong


@pytest.mark.alters
def test_each_owner_command_needs_its_bit(owned: Device) -> None:
    attributes = NvPermission.OWNERREAD | NvPermission.OWNERWRITE
    nv.define(owned.client, AREA, 8, attributes, owner_auth=OWNER)
    made = owned.run(DelegateManage(0, CREATE, b"F"), OWNER).ret_data
    family = int.from_bytes(made, "big")
    owned.run(DelegateManage(family, ENABLE, YES), OWNER)
    loadable = owner_blob(owned, public(family))

    requests: dict[str, Request[Struct]] = {
        **SAMPLES,
        "TPM_Delegate_Manage": DelegateManage(family, ENABLE, YES),
        "TPM_Delegate_CreateOwnerDelegation": CreateOwnerDelegation(
            False, public(family, 0), ZEROS
        ),
        "TPM_Delegate_LoadOwnerDelegation": LoadOwnerDelegation(0, loadable),
    }

    def ask(name: str, permissions: int) -> int:
        session = by_blob(owned, owner_blob(owned, public(family, permissions)))
        return owned.refusal_in(requests[name], session)

    bits = sampled(OWNER_PERMISSIONS)
    bits["TPM_OwnerClear"] = bits.pop("TPM_OwnerClear")  # the last: nothing works behind it
    assert wrong_answers(owned, bits, EVERY_OWNER_BIT, ask) == {}


@pytest.mark.alters
def test_each_key_command_needs_its_bit(owned: Device) -> None:
    handles = {name: owned.load(name).handle for name in ("storage", *KEY_FOR.values())}
    with a_family(owned) as family:

        def delegation(permissions: int) -> DelegatePublic:
            return public(family, permissions, DelegateType.KEY)

        requests: dict[str, Request[Struct]] = {
            **SAMPLES,
            "TPM_Delegate_CreateKeyDelegation": CreateKeyDelegation(0, delegation(0), ZEROS),
        }

        def ask(name: str, permissions: int) -> int:
            handle = handles[KEY_FOR.get(name, "storage")]
            body = bytearray(requests[name].encode())
            for number in range(requests[name].layout.handles):
                body[4 * number : 4 * number + 4] = handle.to_bytes(4, "big")
            request = type(requests[name]).decode(bytes(body))
            blob = key_blob(owned, handle, delegation(permissions))
            sessions = [by_key_blob(owned, blob, handle)]
            if name in TWO_SESSIONS:
                sessions.append(owned.client.oiap(USAGE))
            return owned.refusal_in(request, *sessions)

        bits = sampled(KEY_PERMISSIONS)
        assert wrong_answers(owned, bits, EVERY_KEY_BIT, ask) == {}
