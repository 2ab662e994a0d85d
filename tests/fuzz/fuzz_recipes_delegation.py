"""Recipes for delegation: families, blobs, rows, and sessions by them (Part 3 section 19)."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

from fuzz_recipes import DELEGATE_AUTH, Bench, Skip, recipe

from hwtpm.tpm12.const import DelegateType, EntityType, FamilyOperation
from hwtpm.tpm12.delegation import KEY_PERMISSIONS, OWNER_PERMISSIONS
from hwtpm.tpm12.types import PcrInfoShort, PcrSelection
from hwtpm.tpm12.types.delegation import DelegatePublic, Delegations

ROWS = 4
MOST_FAMILIES = 6
ANYWHERE = PcrInfoShort(PcrSelection(bytes(3)), 0x1F, bytes(20))
ANY_OWNER = sum(1 << bit for bit in OWNER_PERMISSIONS.values())
ANY_KEY = sum(1 << bit for bit in KEY_PERMISSIONS.values())


@recipe("TPM_Delegate_Manage")
def manage(bench: Bench) -> None:
    """A new family, or something with one that there is."""
    if not bench.families or (len(bench.families) < MOST_FAMILIES and bench.chance(0.3)):
        fields = {"family_id": 0, "op_code": FamilyOperation.CREATE, "op_data": b"F"}
        made = bench.one_of(bench.send("TPM_Delegate_Manage", fields, bench.auths("owner")))
        family, flag = int.from_bytes(made.ret_data, "big"), b"\1"
        bench.families.append(family)
        operation: int = FamilyOperation.ENABLE
    else:
        family = bench.rng.choice(bench.families)
        operation = bench.pick(*FamilyOperation, FamilyOperation.ENABLE, FamilyOperation.ENABLE)
        flag = bench.pick(b"\0", b"\1", b"\1", b"\1")
    if operation == FamilyOperation.INVALIDATE and bench.chance(0.8):
        return
    if operation == FamilyOperation.ADMIN and bench.chance(0.9):
        flag = b"\0"  # once locked, no more families
    fields = {"family_id": family, "op_code": operation, "op_data": flag}
    auths = bench.auths("owner") if bench.chance(0.9) else ()
    bench.send("TPM_Delegate_Manage", fields, auths)
    if operation == FamilyOperation.INVALIDATE:
        bench.families.remove(family)


def _public(bench: Bench, kind: int, anything: int) -> DelegatePublic:
    if not bench.families:
        manage(bench)
    permissions = anything if bench.chance(0.6) else bench.rng.getrandbits(32)
    if bench.chance(0.9):
        permissions &= anything
    pcr_info = ANYWHERE
    if bench.chance(0.1):
        pcr_info = replace(ANYWHERE, locality_at_release=bench.pick(1, 2, 4, 8, 16, 0))
    family = bench.rng.choice(bench.families)
    delegations = Delegations(kind, permissions, 0)
    count = 0 if bench.chance(0.9) else bench.pick(1, 2)
    return DelegatePublic(7, pcr_info, delegations, family, count)


def _keep(bench: Bench, name: str, replies: tuple[Any, Any]) -> None:
    bench.by_side(name, [reply.blob for reply in replies])
    while len(bench.delegations) > 8:
        bench.delegations.pop(bench.rng.choice(list(bench.delegations)))


@recipe("TPM_Delegate_CreateKeyDelegation")
def of_key(bench: Bench) -> None:
    key = bench.key()
    public = _public(bench, DelegateType.KEY, ANY_KEY)
    (auth,) = bench.auths(key, osap=True)
    fields = {
        "key_handle": bench.handle(key),
        "public_info": public,
        "del_auth": bench.encrypted(auth, DELEGATE_AUTH),
    }
    replies = bench.send("TPM_Delegate_CreateKeyDelegation", fields, (auth,))
    name = bench.grammar.name("delegation")
    bench.delegations[name] = bench.grammar.loaded.get(key)
    _keep(bench, name, replies)
    use(bench, key)


@recipe("TPM_Delegate_CreateOwnerDelegation")
def of_owner(bench: Bench) -> str:
    public = _public(bench, DelegateType.OWNER, ANY_OWNER)
    (auth,) = bench.auths("owner", osap=True)
    fields = {
        "increment": bench.chance(0.15),
        "public_info": public,
        "del_auth": bench.encrypted(auth, DELEGATE_AUTH),
    }
    replies = bench.send("TPM_Delegate_CreateOwnerDelegation", fields, (auth,))
    name = bench.grammar.name("delegation")
    bench.delegations[name] = None
    _keep(bench, name, replies)
    use(bench, "owner")
    return name


@recipe("TPM_DSAP")
def use(bench: Bench, entity: str = "") -> None:
    """Open a session by a delegation; the fuzzer uses it like any other of that entity."""
    entity = entity or bench.pick("owner", *bench.grammar.loaded)
    plan = bench.dsap(entity)
    if plan is None:
        raise Skip
    bench.episode.open(plan)


def _owner_blob(bench: Bench) -> str:
    names = [
        name for name, of in bench.delegations.items() if of is None and not name.startswith("row")
    ]
    return bench.rng.choice(names) if names and bench.chance(0.7) else of_owner(bench)


@recipe("TPM_Delegate_LoadOwnerDelegation")
def load_row(bench: Bench) -> None:
    blob, index = _owner_blob(bench), bench.rng.randrange(ROWS)
    fields = {"index": index, "blob": lambda side: side.blobs[blob]}
    bench.send("TPM_Delegate_LoadOwnerDelegation", fields, bench.auths("owner"))
    name = f"row{index}"
    bench.by_side(name, [index.to_bytes(4, "big")] * 2)
    bench.delegations[name] = None
    use(bench, "owner")


@recipe("TPM_Delegate_VerifyDelegation")
def verify(bench: Bench) -> None:
    kept = [name for name in bench.delegations if not name.startswith("row")]
    blob = bench.rng.choice(kept) if kept else of_owner(bench)
    fields = {"delegation": lambda side: side.blobs[blob]}
    bench.send("TPM_Delegate_VerifyDelegation", fields)


@recipe("TPM_Delegate_UpdateVerification")
def renew(bench: Bench) -> None:
    """A blob or a row: libtpms crashes on a row that it does not have."""
    if bench.chance(0.4):
        data: Any = bench.rng.randrange(ROWS).to_bytes(4, "big")
    else:
        kept = [name for name in bench.delegations if not name.startswith("row")]
        blob = bench.rng.choice(kept) if kept else of_owner(bench)
        data = lambda side: side.blobs[blob]  # noqa: E731
    fields = {"input_data": data}
    bench.send("TPM_Delegate_UpdateVerification", fields, bench.auths("owner"))


@recipe("TPM_SetOwnerPointer")
def point(bench: Bench) -> None:
    """Owner authorisation by a row, and soon by the owner again."""
    rows = [name for name in bench.delegations if name.startswith("row")]
    if rows and bench.chance(0.7):
        row = int(bench.rng.choice(rows)[3:])
        fields = {"entity_type": EntityType.DEL_ROW, "entity_value": row}
        bench.send("TPM_SetOwnerPointer", fields)
        bench.auths(DELEGATE_AUTH)
        auths = bench.auths(DELEGATE_AUTH)
        command = bench.pick("TPM_OwnerReadPubek", "TPM_GetCapabilityOwner")
        with contextlib.suppress(Skip):
            bench.send(command, {}, auths)
    bench.send("TPM_SetOwnerPointer", {"entity_type": EntityType.OWNER, "entity_value": 0})
