"""Delegation (Part 3 section 19), TPM_DSAP and TPM_SetOwnerPointer (18.3, 18.4)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import pytest
from conformance_rig import (
    NO_HANDLE,
    ONES,
    OWNER,
    SRK,
    SRK_HANDLE,
    USAGE,
    WRONG,
    ZEROS,
    Device,
)
from test_conf_cmk import certified

from hwtpm.client import keys, owner
from hwtpm.client.nv import unrestricted
from hwtpm.client.session import AuthSession
from hwtpm.secret import Secret
from hwtpm.tpm12.auth import Session, adip_aes128_ctr, osap_shared_secret
from hwtpm.tpm12.commands.context import LoadContext, SaveContext
from hwtpm.tpm12.commands.cryptography import Sign
from hwtpm.tpm12.commands.delegation import (
    CreateKeyDelegation,
    CreateOwnerDelegation,
    DelegateManage,
    DelegateReadTable,
    LoadOwnerDelegation,
    UpdateVerification,
    VerifyDelegation,
)
from hwtpm.tpm12.commands.endorsement import OwnerReadInternalPub
from hwtpm.tpm12.commands.eviction import FlushSpecific
from hwtpm.tpm12.commands.integrity import Extend
from hwtpm.tpm12.commands.migration import CmkSetRestrictions
from hwtpm.tpm12.commands.ownership import DisableOwnerClear, ForceClear
from hwtpm.tpm12.commands.sessions import DSAP, SetOwnerPointer
from hwtpm.tpm12.commands.storage import GetPubKey, LoadKey2
from hwtpm.tpm12.const import (
    ET_AES128_CTR,
    CmkDelegate,
    DelegateType,
    EntityType,
    FamilyFlag,
    FamilyOperation,
    KeyHandleValue,
    ResourceType,
)
from hwtpm.tpm12.delegation import KEY_PERMISSIONS, OWNER_PERMISSIONS
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import PcrInfoShort, PcrSelection, pcr_composite_hash
from hwtpm.tpm12.types.delegation import (
    DelegateKeyBlob,
    DelegateOwnerBlob,
    DelegatePublic,
    DelegateSensitive,
    Delegations,
    FamilyTableEntry,
)

DELEGATE: Final = Secret(b"d" * 20)
READ_SRK: Final = OwnerReadInternalPub(KeyHandleValue.SRK)
CREATE, ENABLE, ADMIN, INVALIDATE = FamilyOperation
YES, NO = b"\1", b"\0"
ANYWHERE: Final = unrestricted()
FOUR_BYTES: Final = PcrSelection(bytes(4))
INVALID, BAD_PCRS = Rc.INVALID_STRUCTURE, Rc.INVALID_PCR_INFO
FAMILIES, ROWS, WRITES_WITHOUT_OWNER = 16, 4, 64


# --- making and using delegations --------------------------------------------------------------


def owner_bits(*commands: str) -> int:
    return sum(1 << OWNER_PERMISSIONS[name] for name in commands)


def key_bits(*commands: str) -> int:
    return sum(1 << KEY_PERMISSIONS[name] for name in commands)


READS: Final = owner_bits("TPM_OwnerReadInternalPub")


def public(
    family: int,
    per1: int = READS,
    kind: int = DelegateType.OWNER,
    pcr_info: PcrInfoShort | None = None,
) -> DelegatePublic:
    return DelegatePublic(7, pcr_info or ANYWHERE, Delegations(kind, per1, 0), family, 0)


def key_public(family: int, *commands: str) -> DelegatePublic:
    return public(family, key_bits(*commands), DelegateType.KEY)


@contextmanager
def a_family(device: Device, *, enabled: bool = True) -> Iterator[int]:
    """A family of the owner, removed in the end."""
    made = device.run(DelegateManage(0, CREATE, b"F"), OWNER)
    family = int.from_bytes(made.ret_data, "big")
    if enabled:
        device.run(DelegateManage(family, ENABLE, YES), OWNER)
    try:
        yield family
    finally:
        device.run(SetOwnerPointer(EntityType.OWNER, 0))
        device.run(DelegateManage(family, INVALIDATE, b""), OWNER)


def create_owner(
    session: AuthSession, pub: DelegatePublic, *, increment: bool = False
) -> CreateOwnerDelegation:
    return CreateOwnerDelegation(increment, pub, session.encrypt_auth(DELEGATE))


def owner_blob(device: Device, pub: DelegatePublic, *, increment: bool = False) -> bytes:
    session = device.osap_owner()
    return device.client.execute(create_owner(session, pub, increment=increment), session).blob


def key_blob(device: Device, handle: int, pub: DelegatePublic) -> bytes:
    session = device.client.osap(EntityType.KEYHANDLE, handle, USAGE)
    request = CreateKeyDelegation(handle, pub, session.encrypt_auth(DELEGATE))
    return device.client.execute(request, session).blob


def dsap(
    device: Device, kind: int, value: bytes, *, handle: int = 0, secret: Secret = DELEGATE
) -> AuthSession:
    reply = device.run(DSAP(kind, handle, ONES, value))
    shared = osap_shared_secret(secret.reveal(), reply.nonce_even_dsap, ONES)
    return AuthSession(device.client, Session(reply.auth_handle, reply.nonce_even, Secret(shared)))


def by_blob(device: Device, blob: bytes) -> AuthSession:
    return dsap(device, EntityType.DEL_OWNER_BLOB, blob)


def by_row(device: Device, index: int) -> AuthSession:
    return dsap(device, EntityType.DEL_ROW, index.to_bytes(4, "big"))


def by_key_blob(device: Device, blob: bytes, handle: int) -> AuthSession:
    return dsap(device, EntityType.DEL_KEY_BLOB, blob, handle=handle)


def families(device: Device) -> dict[int, FamilyTableEntry]:
    table = device.run(DelegateReadTable()).family_table
    size = len(FamilyTableEntry(0, 0, 0, 0).encode())
    rows = (FamilyTableEntry.decode(table[at : at + size]) for at in range(0, len(table), size))
    return {row.family_id: row for row in rows}


def is_open(device: Device, session: AuthSession) -> bool:
    return session.handle in keys.loaded_handles(device.client, ResourceType.AUTH)


def test_a_saved_session_does_not_outlive_a_change_of_the_delegations(owned: Device) -> None:
    """19.1 action 4."""
    with a_family(owned) as family:
        session = by_blob(owned, owner_blob(owned, public(family)))
        saved = owned.run(SaveContext(session.handle, ResourceType.AUTH, bytes(16))).context_blob
        assert saved is not None
        owned.run(DelegateManage(family, ENABLE, NO), OWNER)
        rc = owned.expected("saved session of a delegation that changed", Rc.RESOURCEMISSING)
        owner = int(KeyHandleValue.OWNER)
        assert owned.refusal(LoadContext(owner, False, saved)) == rc
        keys.flush_all(owned.client)


# --- 19.1 TPM_Delegate_Manage, 19.5 TPM_Delegate_ReadTable --------------------------------------


def test_a_family_is_created_enabled_locked_and_removed(owned: Device) -> None:
    with a_family(owned, enabled=False) as family:
        assert families(owned)[family] == FamilyTableEntry(ord("F"), family, 1, 0)
        owned.run(DelegateManage(family, ENABLE, YES), OWNER)
        owned.run(DelegateManage(family, ADMIN, YES), OWNER)
        both = FamilyFlag.ENABLED | FamilyFlag.ADMIN_LOCK
        assert families(owned)[family].flags == both
        owned.run(DelegateManage(family, ENABLE, NO), OWNER)
        assert families(owned)[family].flags == FamilyFlag.ADMIN_LOCK
        owned.run(DelegateManage(family, ADMIN, NO), OWNER)
        assert families(owned)[family].flags == 0
        with a_family(owned) as younger:
            assert younger == family + 1
    assert family not in families(owned)


def test_bad_management_is_refused(owned: Device) -> None:
    with a_family(owned) as family:
        for request, rc in (
            (DelegateManage(family + 1, ENABLE, YES), Rc.BADINDEX),
            (DelegateManage(family + 1, 9, YES), Rc.BADINDEX),
            (DelegateManage(family, 9, YES), Rc.BAD_PARAMETER),
            (DelegateManage(family, CREATE, b""), Rc.BAD_PARAM_SIZE),
            (DelegateManage(family, CREATE, b"ab"), Rc.BAD_PARAM_SIZE),
            (DelegateManage(family, ENABLE, b""), Rc.BAD_PARAM_SIZE),
            (DelegateManage(family, ADMIN, b"\0\0"), Rc.BAD_PARAM_SIZE),
        ):
            assert owned.refusal(request, OWNER) == rc
        no_boolean = owned.expected("family flag that is no boolean", Rc.BAD_PARAMETER)
        assert owned.refusal(DelegateManage(family, ENABLE, b"\2"), OWNER) == no_boolean
        disabling = DelegateManage(family, ENABLE, NO)
        assert owned.refusal(disabling, WRONG) == Rc.AUTHFAIL
        assert owned.refusal(disabling) == Rc.AUTHFAIL
        assert families(owned)[family].flags == FamilyFlag.ENABLED


@pytest.mark.alters
def test_there_is_room_for_so_many_families(owned: Device) -> None:
    for _ in range(FAMILIES):
        owned.run(DelegateManage(0, CREATE, b"F"), OWNER)
    assert owned.refusal(DelegateManage(0, CREATE, b"F"), OWNER) == Rc.RESOURCES
    first = min(families(owned))
    owned.run(DelegateManage(first, INVALIDATE, b""), OWNER)
    last = owned.run(DelegateManage(0, CREATE, b"F"), OWNER).ret_data
    assert int.from_bytes(last, "big") == max(families(owned)) == first + FAMILIES
    owned.restart()
    assert len(families(owned)) == FAMILIES


@pytest.mark.alters
def test_without_an_owner_anybody_manages_until_the_lock(endorsed: Device) -> None:
    made = endorsed.run(DelegateManage(0, CREATE, b"F"))
    family = int.from_bytes(made.ret_data, "big")
    endorsed.run(DelegateManage(family, ENABLE, YES))
    endorsed.run(DelegateManage(family, ADMIN, YES))
    for operation in (ENABLE, ADMIN):
        assert endorsed.refusal(DelegateManage(family, operation, NO)) == Rc.DELEGATE_LOCK
    assert endorsed.refusal(DelegateManage(family, INVALIDATE, b"")) == Rc.DELEGATE_LOCK
    assert endorsed.refusal(DelegateManage(0, CREATE, b"G"), OWNER) == Rc.AUTHFAIL
    plain = replace(plain_blob(family), sensitive_area=b"")
    assert endorsed.refusal(LoadOwnerDelegation(0, plain.encode())) == Rc.DELEGATE_LOCK
    endorsed.assert_presence()
    endorsed.run(ForceClear())
    switch_on(endorsed)
    assert families(endorsed) == {}


@pytest.mark.alters
def test_without_an_owner_writes_are_counted(endorsed: Device) -> None:
    made = endorsed.run(DelegateManage(0, CREATE, b"F"))
    family = int.from_bytes(made.ret_data, "big")
    for number in range(WRITES_WITHOUT_OWNER - 2):
        endorsed.run(DelegateManage(family, ENABLE, NO if number % 2 else YES))
    endorsed.run(DelegateManage(family, ENABLE, YES))
    assert endorsed.refusal(DelegateManage(family, ENABLE, NO)) == Rc.MAXNVWRITES
    loading = LoadOwnerDelegation(0, plain_blob(family).encode())
    assert endorsed.refusal(loading) == Rc.MAXNVWRITES


# --- 19.3 TPM_Delegate_CreateOwnerDelegation ----------------------------------------------------


def test_an_owner_delegation_authorises_what_it_permits(owned: Device) -> None:
    with a_family(owned) as family:
        encoded = owner_blob(owned, public(family))
        blob = DelegateOwnerBlob.decode(encoded)
        assert blob.pub == replace(public(family), verification_count=1)
        assert DELEGATE.reveal() not in encoded
        session = by_blob(owned, encoded)
        assert owned.refusal_in(READ_SRK, session) == Rc.SUCCESS
        assert owned.refusal_in(READ_SRK, session) == Rc.SUCCESS
        assert owned.refusal_in(DisableOwnerClear(), session) == Rc.AUTHFAIL
        assert not is_open(owned, session)
        wrong = dsap(owned, EntityType.DEL_OWNER_BLOB, encoded, secret=WRONG)
        assert owned.refusal_in(READ_SRK, wrong) == Rc.AUTHFAIL


def test_bad_owner_delegations_are_refused(owned: Device) -> None:
    with a_family(owned) as family:
        for pub, rc in (
            (public(family + 1), Rc.BADINDEX),
            (public(family, READS, DelegateType.KEY), Rc.BAD_PARAMETER),
            (public(family, 1 << 31, DelegateType.KEY), Rc.BAD_PARAMETER),
            (public(family, pcr_info=replace(ANYWHERE, locality_at_release=0)), INVALID),
            (public(family, pcr_info=replace(ANYWHERE, locality_at_release=0x20)), INVALID),
            (public(family, pcr_info=replace(ANYWHERE, pcr_selection=FOUR_BYTES)), BAD_PCRS),
            (
                replace(public(family), permissions=Delegations(DelegateType.OWNER, 0, 1)),
                Rc.BAD_PARAMETER,
            ),
        ):
            session = owned.osap_owner()
            assert owned.refusal_in(create_owner(session, pub), session) == rc
        oiap = owned.client.oiap(OWNER)
        refused = owned.refusal_in(CreateOwnerDelegation(False, public(family), ZEROS), oiap)
        assert refused == owned.expected("delegating in an OIAP session", Rc.INVALID_AUTHHANDLE)
        session = owned.osap_owner(WRONG)
        assert owned.refusal_in(create_owner(session, public(family)), session) == Rc.AUTHFAIL


def test_incrementing_voids_the_familys_other_delegations(owned: Device) -> None:
    with a_family(owned) as family, a_family(owned) as other:
        old, apart = owner_blob(owned, public(family)), owner_blob(owned, public(other))
        session, bystander = by_blob(owned, old), by_blob(owned, apart)
        new = owner_blob(owned, public(family), increment=True)
        assert families(owned)[family].verification_count == 2
        assert not is_open(owned, session)
        assert not is_open(owned, bystander)
        assert owned.refusal(VerifyDelegation(old)) == Rc.FAMILYCOUNT
        assert owned.refusal(DSAP(EntityType.DEL_OWNER_BLOB, 0, ONES, old)) == Rc.FAMILYCOUNT
        assert owned.refusal_in(READ_SRK, by_blob(owned, new)) == Rc.SUCCESS
        assert owned.refusal_in(READ_SRK, by_blob(owned, apart)) == Rc.SUCCESS
        renewed = owned.run(UpdateVerification(old), OWNER).output_data
        assert owned.refusal_in(READ_SRK, by_blob(owned, renewed)) == Rc.SUCCESS


def test_a_delegate_hands_on_no_more_than_it_has(owned: Device) -> None:
    mine = owner_bits("TPM_Delegate_CreateOwnerDelegation", "TPM_OwnerReadInternalPub")
    with a_family(owned) as family, a_family(owned) as other:
        blob = owner_blob(owned, public(family, mine))
        session = by_blob(owned, blob)
        passed_on = owned.client.execute(create_owner(session, public(family)), session).blob
        assert not is_open(owned, session)
        assert owned.refusal_in(READ_SRK, by_blob(owned, passed_on)) == Rc.SUCCESS
        for pub, rc in (
            (public(family, mine | owner_bits("TPM_OwnerClear")), Rc.AUTHFAIL),
            (public(other), Rc.DELEGATE_FAMILY),
        ):
            session = by_blob(owned, blob)
            assert owned.refusal_in(create_owner(session, pub), session) == rc
        session = by_blob(owned, passed_on)
        assert owned.refusal_in(create_owner(session, public(family)), session) == Rc.AUTHFAIL
        session = by_blob(owned, blob)
        voiding = create_owner(session, public(family), increment=True)
        assert owned.refusal_in(voiding, session) == Rc.SUCCESS
        assert families(owned)[family].verification_count == 2


def test_a_delegate_manages_its_own_family_only(owned: Device) -> None:
    with a_family(owned) as family, a_family(owned) as other:
        blob = owner_blob(owned, public(family, owner_bits("TPM_Delegate_Manage")))
        session = by_blob(owned, blob)
        locking = DelegateManage(other, ADMIN, YES)
        assert owned.refusal_in(locking, session) == Rc.DELEGATE_FAMILY
        session = by_blob(owned, blob)
        assert owned.refusal_in(replace(locking, family_id=family), session) == Rc.SUCCESS
        assert not session.open
        session = by_blob(owned, blob)
        made = owned.client.execute(DelegateManage(other, CREATE, b"G"), session).ret_data
        owned.run(DelegateManage(int.from_bytes(made, "big"), INVALIDATE, b""), OWNER)


@pytest.mark.parametrize("operation", [ENABLE, ADMIN])
def test_managing_any_family_ends_delegated_sessions(
    owned: Device, operation: FamilyOperation
) -> None:
    with a_family(owned) as family, a_family(owned) as other:
        session = by_blob(owned, owner_blob(owned, public(family)))
        owned.run(DelegateManage(other, operation, YES), OWNER)
        assert not is_open(owned, session)


# --- 18.3 TPM_DSAP -----------------------------------------------------------------------------


def test_delegations_of_a_disabled_or_removed_family_are_refused(owned: Device) -> None:
    with a_family(owned) as family:
        blob = owner_blob(owned, public(family))
        opening = DSAP(EntityType.DEL_OWNER_BLOB, 0, ONES, blob)
        owned.run(DelegateManage(family, ENABLE, NO), OWNER)
        assert owned.refusal(opening) == Rc.DISABLED_CMD
        assert owned.refusal(VerifyDelegation(blob)) == Rc.DISABLED_CMD
        owned.run(DelegateManage(family, ENABLE, YES), OWNER)
        assert owned.refusal(opening) == Rc.SUCCESS
    assert owned.refusal(opening) == Rc.BADINDEX
    assert owned.refusal(VerifyDelegation(blob)) == Rc.BADINDEX


def test_changed_blobs_are_refused(owned: Device) -> None:
    with a_family(owned) as family:
        encoded = owner_blob(owned, public(family))
        blob = DelegateOwnerBlob.decode(encoded)
        more = replace(blob.pub, permissions=Delegations(DelegateType.OWNER, 0xFFFFFFFF, 0))
        flipped = bytes((blob.sensitive_area[0] ^ 1,)) + blob.sensitive_area[1:]
        for changed in (
            replace(blob, pub=more),
            replace(blob, sensitive_area=flipped),
            replace(blob, integrity_digest=ZEROS),
        ):
            bad = changed.encode()
            assert owned.refusal(DSAP(EntityType.DEL_OWNER_BLOB, 0, ONES, bad)) == Rc.AUTHFAIL
            assert owned.refusal(VerifyDelegation(bad)) == Rc.AUTHFAIL
            assert owned.refusal(UpdateVerification(bad), OWNER) == Rc.AUTHFAIL
            assert owned.refusal(LoadOwnerDelegation(0, bad), OWNER) == Rc.AUTHFAIL
        for cut in (encoded[:-1], encoded[2:], b"\0\x2a"):
            opening = DSAP(EntityType.DEL_OWNER_BLOB, 0, ONES, cut)
            assert owned.refusal(opening) == Rc.WRONG_ENTITYTYPE
        opening = DSAP(EntityType.DEL_KEY_BLOB, SRK_HANDLE, ONES, encoded)
        assert owned.refusal(opening) == Rc.WRONG_ENTITYTYPE


def test_other_entities_cannot_be_opened(owned: Device) -> None:
    for kind in (EntityType.OWNER, EntityType.KEYHANDLE, 0x77):
        assert owned.refusal(DSAP(kind, SRK_HANDLE, ONES, bytes(4))) == Rc.BAD_PARAMETER
    for index in (0, ROWS):
        row = DSAP(EntityType.DEL_ROW, 0, ONES, index.to_bytes(4, "big"))
        assert owned.refusal(row) == Rc.BADINDEX
    assert owned.refusal(DSAP(EntityType.DEL_ROW, 0, ONES, b"\0")) == Rc.BAD_PARAM_SIZE
    with a_family(owned) as family:
        blob = owner_blob(owned, public(family))
        opening = DSAP(0x7700 | EntityType.DEL_OWNER_BLOB, 0, ONES, blob)
        assert owned.refusal(opening) == Rc.INAPPROPRIATE_ENC


def test_without_an_owner_there_is_no_delegation_to_open(endorsed: Device) -> None:
    assert endorsed.refusal(DSAP(EntityType.DEL_ROW, 0, ONES, bytes(4))) == Rc.NOSRK
    assert endorsed.refusal(SetOwnerPointer(EntityType.OWNER, 0)) == Rc.NOSRK
    assert endorsed.refusal(VerifyDelegation(b"")) == Rc.NOSRK


def test_pcrs_are_checked_at_each_use(owned: Device) -> None:
    owned.reset_pcr16()
    selection = PcrSelection.of([16])
    condition = PcrInfoShort(selection, 0x1F, pcr_composite_hash(selection, {16: ZEROS}))
    with a_family(owned) as family:
        session = by_blob(owned, owner_blob(owned, public(family, pcr_info=condition)))
        assert owned.refusal_in(READ_SRK, session) == Rc.SUCCESS
        owned.run(Extend(16, ONES))
        assert owned.refusal_in(READ_SRK, session) == Rc.WRONGPCRVAL
    owned.reset_pcr16()


def test_localities_are_checked_at_each_use(owned: Device) -> None:
    condition = replace(ANYWHERE, locality_at_release=0b00010)
    with a_family(owned) as family:
        blob = owner_blob(owned, public(family, pcr_info=condition))
        with owned.at(1):
            session = by_blob(owned, blob)
            assert owned.refusal_in(READ_SRK, session) == Rc.SUCCESS
        assert owned.refusal_in(READ_SRK, session) == Rc.BAD_LOCALITY


@pytest.mark.crashes("libtpms", "swtpm", why="libtpms takes 0x0609 for an owner delegation")
def test_delegated_sessions_encrypt_new_secrets_with_aes(owned: Device) -> None:
    key = owned.load("signing")
    mine = ("TPM_Sign", "TPM_Delegate_CreateKeyDelegation")
    with a_family(owned) as family:
        blob = key_blob(owned, key.handle, key_public(family, *mine))
        kind = ET_AES128_CTR << 8 | EntityType.DEL_KEY_BLOB
        session = dsap(owned, kind, blob, handle=key.handle)
        shared, nonce_even = session.state.key.reveal(), session.state.nonce_even
        enc_auth = adip_aes128_ctr(shared, nonce_even, WRONG.reveal())
        pub = key_public(family, "TPM_Sign")
        request = CreateKeyDelegation(key.handle, pub, enc_auth)
        passed_on = owned.client.execute(request, session).blob
        session = dsap(owned, EntityType.DEL_KEY_BLOB, passed_on, handle=key.handle, secret=WRONG)
        assert owned.refusal_in(Sign(key.handle, ZEROS), session) == Rc.SUCCESS


# --- 19.2 TPM_Delegate_CreateKeyDelegation ------------------------------------------------------


def test_a_key_delegation_authorises_what_it_permits(owned: Device) -> None:
    key, other = owned.load("signing"), owned.load("signing DER")
    with a_family(owned) as family:
        encoded = key_blob(owned, key.handle, key_public(family, "TPM_Sign"))
        blob = DelegateKeyBlob.decode(encoded)
        assert blob.pub == replace(key_public(family, "TPM_Sign"), verification_count=1)
        assert keys.loaded_handles(owned.client, ResourceType.AUTH) == ()  # action 13
        assert owned.refusal(VerifyDelegation(encoded)) == Rc.SUCCESS
        session = by_key_blob(owned, encoded, key.handle)
        assert owned.refusal_in(Sign(key.handle, ZEROS), session) == Rc.SUCCESS
        assert owned.refusal_in(GetPubKey(key.handle), session) == Rc.AUTHFAIL
        session = by_key_blob(owned, encoded, key.handle)
        assert owned.refusal_in(Sign(other.handle, ZEROS), session) == Rc.AUTHFAIL
        session = by_key_blob(owned, encoded, key.handle)
        assert owned.refusal_in(READ_SRK, session) == Rc.AUTHFAIL
        for handle, rc in ((other.handle, Rc.KEYNOTFOUND), (NO_HANDLE, Rc.INVALID_KEYHANDLE)):
            opening = DSAP(EntityType.DEL_KEY_BLOB, handle, ONES, encoded)
            assert owned.refusal(opening) == rc
        opening = DSAP(EntityType.DEL_OWNER_BLOB, 0, ONES, encoded)
        assert owned.refusal(opening) == Rc.WRONG_ENTITYTYPE
        assert owned.refusal(LoadOwnerDelegation(0, encoded), OWNER) == Rc.INVALID_STRUCTURE


def test_unloading_the_key_ends_its_delegated_sessions(owned: Device) -> None:
    key = owned.load("signing")
    with a_family(owned) as family:
        encoded = key_blob(owned, key.handle, key_public(family, "TPM_Sign"))
        session = by_key_blob(owned, encoded, key.handle)
        owned.run(FlushSpecific(key.handle, ResourceType.KEY))
        assert not is_open(owned, session)
        again = owned.load("signing")
        session = by_key_blob(owned, encoded, again.handle)
        assert owned.refusal_in(Sign(again.handle, ZEROS), session) == Rc.SUCCESS


def test_the_owner_restricts_delegates_of_certified_migration_keys(owned: Device) -> None:
    """11.5 and 18.3 description 4."""
    handle = owned.run(LoadKey2(SRK_HANDLE, certified(owned)), SRK).inkey_handle
    with a_family(owned) as family:
        blob = key_blob(owned, handle, key_public(family, "TPM_Sign"))
        for allowed, rc in (
            (CmkDelegate.STORAGE | CmkDelegate.BIND, Rc.INVALID_KEYUSAGE),
            (CmkDelegate.SIGNING, Rc.SUCCESS),
            (0, Rc.INVALID_KEYUSAGE),
        ):
            owned.run(CmkSetRestrictions(allowed), OWNER)
            session = by_key_blob(owned, blob, handle)
            assert owned.refusal_in(Sign(handle, ZEROS), session) == rc
            assert owned.refusal(Sign(handle, ZEROS), USAGE) == Rc.SUCCESS


def test_bad_key_delegations_are_refused(owned: Device) -> None:
    key = owned.load("signing")
    with a_family(owned, enabled=False) as family:
        allowed = key_public(family, "TPM_Sign")
        for pub, rc in (
            (allowed, Rc.SUCCESS),  # a disabled family is no hindrance
            (replace(allowed, family_id=family + 1), Rc.BADINDEX),
            (public(family), Rc.BAD_PARAMETER),
            (public(family, 1 << 29, DelegateType.KEY), Rc.BAD_PARAMETER),
        ):
            session = owned.client.osap(EntityType.KEYHANDLE, key.handle, USAGE)
            request = CreateKeyDelegation(key.handle, pub, session.encrypt_auth(DELEGATE))
            assert owned.refusal_in(request, session) == rc
        oiap = owned.client.oiap(USAGE)
        refused = owned.refusal_in(CreateKeyDelegation(key.handle, allowed, ZEROS), oiap)
        assert refused == owned.expected("delegating in an OIAP session", Rc.INVALID_AUTHHANDLE)


def test_a_keys_delegate_hands_on_no_more_than_it_has(owned: Device) -> None:
    key = owned.load("signing")
    mine = ("TPM_Sign", "TPM_Delegate_CreateKeyDelegation")
    with a_family(owned) as family, a_family(owned) as other:
        blob = key_blob(owned, key.handle, key_public(family, *mine))
        for pub, rc in (
            (key_public(family, "TPM_Sign"), Rc.SUCCESS),
            (key_public(family, *mine, "TPM_GetPubKey"), Rc.AUTHFAIL),
            (key_public(other, "TPM_Sign"), Rc.DELEGATE_FAMILY),
        ):
            session = by_key_blob(owned, blob, key.handle)
            request = CreateKeyDelegation(key.handle, pub, session.encrypt_auth(DELEGATE))
            assert owned.refusal_in(request, session) == rc


# --- 19.4 TPM_Delegate_LoadOwnerDelegation, 19.6 TPM_Delegate_UpdateVerification ----------------


def plain_blob(family: int) -> DelegateOwnerBlob:
    """What TPM_Delegate_LoadOwnerDelegation takes without an owner."""
    sensitive = DelegateSensitive(DELEGATE.reveal()).encode()
    pub = replace(public(family), verification_count=1)
    return DelegateOwnerBlob(pub, ZEROS, b"", sensitive)


def switch_on(device: Device) -> None:
    """Make a TPM serve again whose owner was cleared."""
    device.assert_presence()
    owner.physical_enable(device.client)
    owner.physical_set_deactivated(device.client, False)
    device.restart()


def table(device: Device) -> bytes:
    return device.run(DelegateReadTable()).delegate_table


@pytest.mark.alters
def test_rows_are_loaded_read_and_used(owned: Device) -> None:
    with a_family(owned) as family:
        pub = replace(public(family), verification_count=1)
        blob = owner_blob(owned, public(family))
        for index in (ROWS - 1, 1):
            owned.run(LoadOwnerDelegation(index, blob), OWNER)
        rows = [index.to_bytes(4, "big") + pub.encode() for index in (1, ROWS - 1)]
        assert table(owned) == b"".join(rows)
        assert owned.refusal_in(READ_SRK, by_row(owned, 1)) == Rc.SUCCESS
        assert owned.refusal_in(DisableOwnerClear(), by_row(owned, 1)) == Rc.AUTHFAIL
        assert owned.refusal(LoadOwnerDelegation(ROWS, blob), OWNER) == Rc.BADINDEX
        assert owned.refusal(LoadOwnerDelegation(0, blob), WRONG) == Rc.AUTHFAIL
        assert owned.refusal(LoadOwnerDelegation(0, blob)) == Rc.AUTHFAIL
        owned.restart()
        assert owned.refusal_in(READ_SRK, by_row(owned, ROWS - 1)) == Rc.SUCCESS
        owner_blob(owned, public(family), increment=True)
        opening = DSAP(EntityType.DEL_ROW, 0, ONES, (1).to_bytes(4, "big"))
        assert owned.refusal(opening) == Rc.FAMILYCOUNT
        assert owned.run(UpdateVerification((1).to_bytes(4, "big")), OWNER).output_data == b""
        assert owned.refusal(opening) == Rc.SUCCESS
        assert owned.refusal(UpdateVerification(bytes(4)), OWNER) == Rc.BADINDEX
        owned.run(DelegateManage(family, ENABLE, NO), OWNER)
        assert owned.refusal(LoadOwnerDelegation(0, blob), OWNER) == Rc.DISABLED_CMD
        assert owned.refusal(opening) == Rc.DISABLED_CMD
    assert owned.refusal(LoadOwnerDelegation(0, blob), OWNER) == Rc.BADINDEX
    assert len(table(owned)) == len(b"".join(rows))  # 19.1 action 9.b: rows may stay


@pytest.mark.crashes("libtpms", "swtpm", why="libtpms reads the row before it checks the index")
def test_rows_beyond_the_table_cannot_be_renewed(owned: Device) -> None:
    assert owned.refusal(UpdateVerification(ROWS.to_bytes(4, "big")), OWNER) == Rc.BADINDEX


@pytest.mark.alters
@pytest.mark.crashes("libtpms", "swtpm", why="libtpms answers in a session it never looked up")
def test_without_an_owner_loading_takes_no_session(endorsed: Device) -> None:
    """19.4 action 5.a."""
    made = endorsed.run(DelegateManage(0, CREATE, b"F"))
    family = int.from_bytes(made.ret_data, "big")
    endorsed.run(DelegateManage(family, ENABLE, YES))
    loading = LoadOwnerDelegation(0, plain_blob(family).encode())
    assert endorsed.refusal(loading, OWNER) == Rc.AUTHFAIL
    assert endorsed.refusal(loading) == Rc.SUCCESS


@pytest.mark.alters
def test_a_delegate_loads_and_renews_in_its_own_family_only(owned: Device) -> None:
    bits = owner_bits("TPM_Delegate_LoadOwnerDelegation", "TPM_Delegate_UpdateVerification")
    with a_family(owned) as family, a_family(owned) as other:
        mine, theirs = owner_blob(owned, public(family, bits)), owner_blob(owned, public(other))
        for command in (LoadOwnerDelegation(0, theirs), UpdateVerification(theirs)):
            assert owned.refusal_in(command, by_blob(owned, mine)) == Rc.DELEGATE_FAMILY
        assert owned.refusal_in(UpdateVerification(mine), by_blob(owned, mine)) == Rc.SUCCESS
        loading, bystander = by_blob(owned, mine), by_blob(owned, theirs)
        assert owned.refusal_in(LoadOwnerDelegation(0, mine), loading) == Rc.SUCCESS
        assert not loading.open
        assert not is_open(owned, bystander)


@pytest.mark.alters
def test_without_an_owner_plain_blobs_are_loaded(endorsed: Device) -> None:
    made = endorsed.run(DelegateManage(0, CREATE, b"F"))
    family = int.from_bytes(made.ret_data, "big")
    blob = plain_blob(family)
    loading = LoadOwnerDelegation(0, blob.encode())
    assert endorsed.refusal(loading) == Rc.DISABLED_CMD
    endorsed.run(DelegateManage(family, ENABLE, YES))
    for bad in (
        replace(blob, sensitive_area=bytes(22)),
        replace(blob, pub=replace(blob.pub, permissions=Delegations(DelegateType.KEY, 1, 0))),
    ):
        refused = endorsed.refusal(LoadOwnerDelegation(0, bad.encode()))
        assert refused == Rc.INVALID_STRUCTURE
    reserved = replace(blob.pub, permissions=Delegations(DelegateType.OWNER, 0, 1))
    bad = replace(blob, pub=reserved)
    assert endorsed.refusal(LoadOwnerDelegation(0, bad.encode())) == Rc.BAD_PARAMETER
    assert endorsed.refusal(LoadOwnerDelegation(ROWS, blob.encode())) == Rc.BADINDEX
    assert endorsed.refusal(loading) == Rc.SUCCESS
    assert table(endorsed) == bytes(4) + blob.pub.encode()


@pytest.mark.alters
def test_what_was_loaded_before_there_was_an_owner_serves_under_one(endorsed: Device) -> None:
    made = endorsed.run(DelegateManage(0, CREATE, b"F"))
    family = int.from_bytes(made.ret_data, "big")
    endorsed.run(DelegateManage(family, ENABLE, YES))
    endorsed.run(LoadOwnerDelegation(2, plain_blob(family).encode()))
    owner.take_ownership(endorsed.client, OWNER, SRK, ek=endorsed.ek)
    assert endorsed.refusal_in(READ_SRK, by_row(endorsed, 2)) == Rc.SUCCESS
    blob = owner_blob(endorsed, public(family))
    owner.owner_clear(endorsed.client, OWNER)
    switch_on(endorsed)
    assert families(endorsed) == {}
    assert table(endorsed) == b""
    owner.take_ownership(endorsed.client, OWNER, SRK, ek=endorsed.ek)
    made = endorsed.run(DelegateManage(0, CREATE, b"F"), OWNER)
    assert int.from_bytes(made.ret_data, "big") == family + 1  # lastFamilyID goes on
    assert endorsed.refusal(VerifyDelegation(blob)) == Rc.BADINDEX


# --- 18.4 TPM_SetOwnerPointer ------------------------------------------------------------------


@pytest.mark.alters
def test_the_owner_pointer_makes_owner_sessions_delegated_ones(owned: Device) -> None:
    with a_family(owned) as family:
        owned.run(LoadOwnerDelegation(1, owner_blob(owned, public(family))), OWNER)
        before = owned.osap_owner()
        owned.run(SetOwnerPointer(EntityType.DEL_ROW, 1))
        assert owned.refusal(READ_SRK, DELEGATE) == Rc.SUCCESS
        assert owned.refusal(READ_SRK, OWNER) == Rc.AUTHFAIL
        assert owned.refusal(DisableOwnerClear(), DELEGATE) == Rc.AUTHFAIL
        assert owned.refusal_in(READ_SRK, owned.osap_owner(DELEGATE)) == Rc.SUCCESS
        assert owned.refusal_in(READ_SRK, owned.osap_owner(OWNER)) == Rc.AUTHFAIL
        assert owned.refusal_in(DisableOwnerClear(), owned.osap_owner(DELEGATE)) == Rc.AUTHFAIL
        assert owned.refusal_in(READ_SRK, before) == Rc.SUCCESS  # the owner's own session
        owned.run(SetOwnerPointer(EntityType.OWNER, 99))
        assert owned.refusal(READ_SRK, OWNER) == Rc.SUCCESS
        owned.run(SetOwnerPointer(EntityType.DEL_ROW, 1))
        owned.restart()
        assert owned.refusal(READ_SRK, OWNER) == Rc.SUCCESS


@pytest.mark.alters
def test_owner_pointers_to_nothing_valid_are_refused(owned: Device) -> None:
    for kind in (EntityType.KEYHANDLE, EntityType.DEL_OWNER_BLOB, 0x77):
        assert owned.refusal(SetOwnerPointer(kind, 0)) == Rc.BAD_PARAMETER
    for index in (0, ROWS):
        assert owned.refusal(SetOwnerPointer(EntityType.DEL_ROW, index)) == Rc.BADINDEX
    with a_family(owned) as family:
        owned.run(LoadOwnerDelegation(0, owner_blob(owned, public(family))), OWNER)
        pointing = SetOwnerPointer(EntityType.DEL_ROW, 0)
        owner_blob(owned, public(family), increment=True)
        assert owned.refusal(pointing) == Rc.FAMILYCOUNT
        owned.run(DelegateManage(family, ENABLE, NO), OWNER)
        assert owned.refusal(pointing) == Rc.DISABLED_CMD
    assert owned.refusal(pointing) == Rc.BADINDEX


@pytest.mark.alters
def test_managing_families_points_back_to_the_owner(owned: Device) -> None:
    bits = owner_bits("TPM_Delegate_CreateOwnerDelegation", "TPM_Delegate_LoadOwnerDelegation")
    with a_family(owned) as family:
        blob = owner_blob(owned, public(family, READS | bits))
        owned.run(LoadOwnerDelegation(0, blob), OWNER)

        def pointed() -> AuthSession:
            owned.run(SetOwnerPointer(EntityType.DEL_ROW, 0))
            return owned.osap_owner(DELEGATE)

        bystander, session = pointed(), pointed()
        owned.client.execute(create_owner(session, public(family), increment=True), session)
        assert owned.refusal(READ_SRK, OWNER) == Rc.SUCCESS
        assert not is_open(owned, bystander)
        owned.run(UpdateVerification(bytes(4)), OWNER)
        renewed = owned.run(UpdateVerification(blob), OWNER).output_data
        bystander, session = pointed(), pointed()
        assert owned.refusal_in(LoadOwnerDelegation(0, renewed), session) == Rc.SUCCESS
        assert owned.refusal(READ_SRK, OWNER) == Rc.SUCCESS
        assert not is_open(owned, bystander)


@pytest.mark.alters
def test_the_family_of_a_pointed_row_limits_what_the_pointer_reaches(owned: Device) -> None:
    """19.1 action 2.b and 19.6 action 6: a delegation is one "through ownerReference", too."""
    bits = owner_bits("TPM_Delegate_Manage", "TPM_Delegate_UpdateVerification")
    with a_family(owned) as family, a_family(owned) as other:
        theirs = owner_blob(owned, public(other))
        owned.run(LoadOwnerDelegation(0, owner_blob(owned, public(family, bits))), OWNER)
        pointing = SetOwnerPointer(EntityType.DEL_ROW, 0)
        owned.run(pointing)
        foreign = owned.expected("renewing another family by pointer", Rc.DELEGATE_FAMILY)
        assert owned.refusal(UpdateVerification(theirs), DELEGATE) == foreign
        locking = DelegateManage(other, ADMIN, YES)
        assert owned.refusal(locking, DELEGATE) == Rc.DELEGATE_FAMILY
        own = owned.expected("managing the own family by pointer", Rc.SUCCESS)
        assert owned.refusal(replace(locking, family_id=family), DELEGATE) == own
        owned.run(pointing)
        locking = replace(locking, family_id=family)
        assert owned.refusal_in(locking, owned.osap_owner(DELEGATE)) == Rc.SUCCESS


# --- 19.7 TPM_Delegate_VerifyDelegation ---------------------------------------------------------


def test_what_is_no_blob_is_no_delegation(owned: Device) -> None:
    for data in (bytes(2), b"\0\x1b" + bytes(60), bytes(100)):
        assert owned.refusal(VerifyDelegation(data)) == Rc.BAD_PARAMETER
        assert owned.refusal(UpdateVerification(data), OWNER) == Rc.BAD_PARAMETER
    with a_family(owned) as family:
        encoded = owner_blob(owned, public(family))
        assert owned.refusal(VerifyDelegation(encoded)) == Rc.SUCCESS
        assert owned.refusal(VerifyDelegation(encoded[:-1])) == Rc.BAD_PARAM_SIZE
