"""Opt-in, ownership, lockout and counters of our engine (Part 3 sections 5, 6, 9.3, 25)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from engine_pair import Pair, frame, owned_pair, rc_of, unowned_pair
from engine_rig import (
    OAEP,
    OWNER_AUTH,
    PID_OWNER,
    SRK_AUTH,
    Identity,
    Rig,
    key12,
    owned_engine,
    public_of,
    template,
)

from hwtpm.clock import FakeClock
from hwtpm.secret import Secret
from hwtpm.softtpm.base import MemoryStorage
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.engine.lockout import THRESHOLD
from hwtpm.softtpm.engine.state import AUDITED_BY_DEFAULT, Counter, NvArea, Permanent
from hwtpm.tpm12.commands.capability import GetCapability
from hwtpm.tpm12.commands.counters import (
    CreateCounter,
    IncrementCounter,
    ReadCounter,
    ReleaseCounter,
    ReleaseCounterOwner,
)
from hwtpm.tpm12.commands.cryptography import GetRandom
from hwtpm.tpm12.commands.deprecated import DisablePubekRead
from hwtpm.tpm12.commands.endorsement import CreateEndorsementKeyPair
from hwtpm.tpm12.commands.integrity import PcrRead
from hwtpm.tpm12.commands.management import ResetLockValue
from hwtpm.tpm12.commands.optin import (
    OwnerSetDisable,
    PhysicalDisable,
    PhysicalEnable,
    PhysicalSetDeactivated,
    SetOwnerInstall,
    SetTempDeactivated,
)
from hwtpm.tpm12.commands.ownership import (
    DisableForceClear,
    DisableOwnerClear,
    ForceClear,
    OwnerClear,
    PhysicalPresence,
    ResetEstablishmentBit,
    TakeOwnership,
)
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.const import (
    AuthDataUsage,
    Capability,
    CapFlag,
    CapProperty,
    EncScheme,
    EntityType,
    KeyHandleValue,
    KeyUsage,
    NvPermission,
    SigScheme,
    StartupType,
)
from hwtpm.tpm12.const import PhysicalPresence as Presence
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import DaInfo, Key, NvAttributes, NvDataPublic, PcrInfoShort, PcrSelection

COUNTER_AUTH = b"c" * 20
FLAGS = GetCapability(Capability.FLAG, CapFlag.VOLATILE.to_bytes(4, "big"))


@pytest.fixture
def pair() -> Iterator[Pair]:
    with unowned_pair() as both:
        yield both


def test_physical_presence_bits_answer_as_libtpms(pair: Pair) -> None:
    pair.same(PhysicalPresence(Presence.CMD_ENABLE))
    for bits in range(0x400):
        if bits & (Presence.LIFETIME_LOCK | Presence.CMD_DISABLE | Presence.LOCK):
            continue
        pair.same(PhysicalPresence(bits))
        pair.same(FLAGS)
    for bits in (Presence.LOCK | Presence.PRESENT, Presence.LOCK, Presence.PRESENT):
        pair.same(PhysicalPresence(bits))
        pair.same(FLAGS)
    for bits in (Presence.CMD_DISABLE, Presence.PRESENT, Presence.LIFETIME_LOCK):
        pair.same(PhysicalPresence(bits))
    for bits in (Presence.CMD_ENABLE, Presence.HW_DISABLE, Presence.LIFETIME_LOCK):
        pair.same(PhysicalPresence(bits))


def test_opt_in_answers_as_libtpms(pair: Pair) -> None:
    steps = (
        SetOwnerInstall(False),
        PhysicalDisable(),
        GetRandom(0),
        PhysicalSetDeactivated(True),
        PhysicalEnable(),
        PhysicalSetDeactivated(True),
        GetRandom(0),
        SetTempDeactivated(),
        GetRandom(0),
        PcrRead(0),
        PhysicalSetDeactivated(False),
        ForceClear(),
        ResetEstablishmentBit(),
    )
    for _ in range(2):
        for step in steps:
            pair.same(step)  # type: ignore[arg-type]
        pair.power_cycle()
        pair.same(PhysicalPresence(Presence.CMD_ENABLE))
        pair.same(PhysicalPresence(Presence.PRESENT))
    for locality in range(5):
        pair.same(ResetEstablishmentBit(), locality)
    pair.same(DisableForceClear())
    pair.same(ForceClear())


@pytest.fixture
def unowned(tpm_identity: Identity) -> Engine:
    """Our engine with an EK and without an owner."""
    engine = owned_engine(tpm_identity)
    engine.permanent = replace(engine.permanent, srk=None, owner_auth=bytes(20))
    return engine


def take(identity: Identity, srk: Key, *, owner: bytes = OWNER_AUTH) -> TakeOwnership:
    ek = public_of(identity.ek.key.pub_key)
    return TakeOwnership(PID_OWNER, ek.encrypt(owner, OAEP), ek.encrypt(SRK_AUTH, OAEP), srk)


def assert_secrets_of_another_owner(before: Permanent, after: Permanent) -> None:
    """6.1 actions 13 to 15, 6.2 actions 4 and 5: what changes with the owner, and what does not."""
    for name in ("tpm_proof", "context_key", "delegate_key"):
        assert getattr(after, name) not in (getattr(before, name), bytes(20), bytes(16)), name
    for name in ("ek", "ek_reset", "daa_seed", "daa_proof", "daa_blob_key", "dir"):
        assert getattr(after, name) == getattr(before, name), name
    assert after.last_family_id == before.last_family_id
    assert after.maintenance_key == before.maintenance_key


def srk_parms(**changes: object) -> Key:
    key = template(KeyUsage.STORAGE)
    return replace(key, algorithm_parms=replace(key.algorithm_parms, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("srk", "rc"),
    [
        (template(KeyUsage.SIGNING), Rc.INVALID_KEYUSAGE),
        (template(KeyUsage.STORAGE, key_flags=2), Rc.INVALID_KEYUSAGE),
        (srk_parms(algorithm_id=6), Rc.BAD_KEY_PROPERTY),
        (srk_parms(enc_scheme=EncScheme.RSA_PKCS_V15), Rc.BAD_KEY_PROPERTY),
        (srk_parms(sig_scheme=SigScheme.RSA_PKCS_V15_SHA1), Rc.BAD_KEY_PROPERTY),
        (template(KeyUsage.STORAGE, bits=1024), Rc.BAD_KEY_PROPERTY),
        (srk_parms(parms=bytes.fromhex("00000800 00000002 00000003 010001")), Rc.BAD_KEY_PROPERTY),
    ],
)
def test_srk_templates_are_checked(
    unowned: Engine, tpm_identity: Identity, srk: Key, rc: Rc
) -> None:
    assert Rig(unowned).refusal(take(tpm_identity, srk), OWNER_AUTH) == rc
    assert not unowned.owned


@pytest.mark.parametrize("usage", [AuthDataUsage.ALWAYS, AuthDataUsage.NEVER])
@pytest.mark.parametrize("form12", [False, True])
def test_ownership_gives_an_srk_and_a_new_proof(
    unowned: Engine, tpm_identity: Identity, usage: int, form12: bool
) -> None:
    before = unowned.permanent
    rig = Rig(unowned)
    srk = template(KeyUsage.STORAGE, auth_data_usage=usage)
    reply = rig.run(take(tpm_identity, key12(srk) if form12 else srk), OWNER_AUTH)
    assert reply.srk_pub.form == (key12(srk) if form12 else srk).form
    assert len(reply.srk_pub.pub_key) == 256
    assert reply.srk_pub.enc_data == b""
    permanent = unowned.permanent
    assert_secrets_of_another_owner(before, permanent)
    assert permanent.owner_auth == OWNER_AUTH
    assert not permanent.flags.read_pubek
    sealed = rig.seal(b"hello")
    assert rig.unseal(sealed) == b"hello"


def test_ownership_needs_the_proof_of_the_new_secret(
    unowned: Engine, tpm_identity: Identity
) -> None:
    rig = Rig(unowned)
    good = take(tpm_identity, template(KeyUsage.STORAGE))
    assert rig.refusal(good, b"x" * 20) == Rc.AUTHFAIL
    assert rig.refusal(replace(good, protocol_id=1), OWNER_AUTH) == Rc.BAD_PARAMETER
    assert rig.refusal(replace(good, enc_owner_auth=bytes(256)), OWNER_AUTH) == Rc.DECRYPT_ERROR
    assert rig.refusal(replace(good, enc_srk_auth=b""), OWNER_AUTH) == Rc.DECRYPT_ERROR
    short = take(tpm_identity, template(KeyUsage.STORAGE), owner=b"short")
    assert rig.refusal(short, OWNER_AUTH) == Rc.BAD_KEY_PROPERTY
    unowned.permanent = replace(
        unowned.permanent, flags=replace(unowned.permanent.flags, ownership=False)
    )
    assert rig.refusal(good, OWNER_AUTH) == Rc.INSTALL_DISABLED
    assert not unowned.owned


def test_the_usage_of_an_srks_auth_data_is_one_that_there_is(
    unowned: Engine, tpm_identity: Identity
) -> None:
    unknown = take(tpm_identity, template(KeyUsage.STORAGE, auth_data_usage=2))
    assert Rig(unowned).refusal(unknown, OWNER_AUTH) == Rc.BAD_PARAMETER
    assert not unowned.owned


def test_ownership_is_refused_as_by_libtpms(pair: Pair) -> None:
    parms = template(KeyUsage.STORAGE).algorithm_parms
    create = CreateEndorsementKeyPair(bytes(20), parms)
    eks = [public_of(rig.run(create).pub_endorsement_key.pub_key) for rig in pair.rigs]
    srk = template(KeyUsage.STORAGE)

    def same(key: Key, auth: bytes = OWNER_AUTH, owner: bytes = OWNER_AUTH, **over: bytes) -> int:
        codes = [
            rig.refusal(
                replace(
                    TakeOwnership(PID_OWNER, ek.encrypt(owner, OAEP), ek.encrypt(owner, OAEP), key),
                    **over,  # type: ignore[arg-type]
                ),
                auth,
            )
            for rig, ek in zip(pair.rigs, eks, strict=True)
        ]
        assert codes[0] == codes[1]
        return codes[0]

    assert same(srk, auth=b"w" * 20) == Rc.AUTHFAIL
    for size in (0, 1, 256):
        assert same(srk, enc_owner_auth=bytes(size)) == Rc.DECRYPT_ERROR
        assert same(srk, enc_srk_auth=bytes(size)) == Rc.DECRYPT_ERROR
    assert same(srk, owner=b"short") == Rc.BAD_KEY_PROPERTY
    assert same(srk_parms(parms=b"\0")) == Rc.BAD_PARAM_SIZE
    assert same(replace(srk, pcr_info=b"xx")) == Rc.INVALID_PCR_INFO
    assert not pair.engine.owned


ANYWHERE = PcrInfoShort(PcrSelection.of(()), 0x1F, bytes(20))


def _area(index: int, attributes: int) -> NvArea:
    public = NvDataPublic(
        index, ANYWHERE, ANYWHERE, NvAttributes(attributes), False, False, False, 1
    )
    return NvArea(public, bytes(20), b"x")


def test_clearing_takes_everything_of_the_owner_and_nothing_else(rig: Rig) -> None:
    engine = rig.wire.tpm
    assert isinstance(engine, Engine)
    areas = (
        _area(1, NvPermission.OWNERWRITE),
        _area(2, NvPermission.PPWRITE | NvPermission.OWNERREAD),
        _area(3, NvPermission.PPWRITE),
        _area(4, NvPermission.AUTHWRITE),
        _area(0x10000005, NvPermission.OWNERWRITE),
    )
    engine.permanent = replace(
        engine.permanent,
        nv_areas=areas,
        dir=b"d" * 20,
        writes_without_owner=9,
        auth_failures=3,
        audited=(PcrRead.command.ordinal,),
        audit_counter=7,
        restrict_delegate=1 << 31,
        last_family_id=5,
    )
    before = engine.permanent
    rig.make_key(template(KeyUsage.SIGNING))
    rig.client.oiap(Secret(bytes(20)))
    rig.run(OwnerClear(), OWNER_AUTH)
    after = engine.permanent
    assert [area.public.nv_index for area in after.nv_areas] == [3, 4, 0x10000005]
    assert after.next_counter == 1
    assert (after.srk, after.owner_auth, after.counters) == (None, bytes(20), ())
    assert (after.writes_without_owner, after.auth_failures) == (0, 0)
    assert_secrets_of_another_owner(before, after)
    assert (after.restrict_delegate, after.audited) == (0, AUDITED_BY_DEFAULT)
    assert after.audit_counter == 7
    flags = after.flags
    assert (flags.disable, flags.deactivated, flags.read_pubek, flags.ownership) == (True,) * 4
    assert (len(engine.keys), len(engine.sessions)) == (0, 0)
    assert rc_of(engine.execute(frame(GetRandom(1)))) == Rc.DISABLED


def test_owner_commands_answer_as_libtpms(tpm_identity: Identity) -> None:
    with owned_pair(tpm_identity) as both:
        wrong = b"w" * 20
        assert both.same_rc(OwnerClear(), wrong) == Rc.AUTHFAIL
        assert both.same_rc(DisablePubekRead(), OWNER_AUTH) == 0
        assert both.same_rc(OwnerSetDisable(True), OWNER_AUTH) == 0
        assert both.same_rc(OwnerClear(), OWNER_AUTH) == Rc.DISABLED
        assert both.same_rc(OwnerSetDisable(False), OWNER_AUTH) == 0
        assert both.same_rc(DisableOwnerClear(), OWNER_AUTH) == 0
        assert both.same_rc(OwnerClear(), OWNER_AUTH) == Rc.CLEAR_DISABLED
        both.same(PhysicalPresence(Presence.CMD_ENABLE))
        both.same(PhysicalPresence(Presence.PRESENT))
        both.same(SetOwnerInstall(False))
        both.same(ForceClear())
        both.same(GetCapability(Capability.PROPERTY, CapProperty.OWNER.to_bytes(4, "big")))
        both.same(PhysicalEnable())
        assert both.same_rc(OwnerClear(), OWNER_AUTH) == Rc.NOSRK


class TestCounters:
    def create(self, rig: Rig, label: bytes) -> tuple[int, int]:
        """Handle and start value of a new counter."""
        owner = rig.client.osap(EntityType.OWNER, KeyHandleValue.OWNER, Secret(OWNER_AUTH))
        with owner as session:
            auth = session.encrypt_auth(Secret(COUNTER_AUTH))
            reply = rig.client.execute(CreateCounter(auth, label), session, last=True)
        return reply.count_id, reply.counter_value.counter

    def test_values_and_codes_are_those_of_libtpms(self, tpm_identity: Identity) -> None:
        with owned_pair(tpm_identity) as both:
            made = [[self.create(rig, b"one!"), self.create(rig, b"two!")] for rig in both.rigs]
            assert [value for _, value in made[0]] == [value for _, value in made[1]]
            for (first, _), (second, _), rig in (
                (*pair, rig) for pair, rig in zip(made, both.rigs, strict=True)
            ):
                for expected in (2, 3, 4):
                    count = rig.run(IncrementCounter(first), COUNTER_AUTH).count
                    assert (count.label, count.counter) == (b"one!", expected)
                refused = rig.refusal(IncrementCounter(second), COUNTER_AUTH)
                assert refused == Rc.BAD_COUNTER
                assert rig.run(ReadCounter(second)).count.counter == 2
                assert rig.refusal(ReleaseCounter(first), b"w" * 20) == Rc.AUTHFAIL
                rig.run(ReleaseCounter(first), COUNTER_AUTH)
                assert rig.refusal(ReadCounter(first)) == Rc.BAD_COUNTER
                refused = rig.refusal(IncrementCounter(second), COUNTER_AUTH)
                assert refused == Rc.BAD_COUNTER
                assert rig.refusal(ReleaseCounterOwner(first), OWNER_AUTH) == Rc.BAD_COUNTER
                rig.run(ReleaseCounterOwner(second), OWNER_AUTH)

    def test_a_new_counter_starts_above_all_old_values(self, rig: Rig) -> None:
        handle, start = self.create(rig, b"aaaa")
        for _ in range(5):
            rig.run(IncrementCounter(handle), COUNTER_AUTH)
        rig.run(ReleaseCounter(handle), COUNTER_AUTH)
        assert self.create(rig, b"bbbb")[1] == start + 6

    def test_room_for_eight_and_no_wrap(self, rig: Rig) -> None:
        engine = rig.wire.tpm
        assert isinstance(engine, Engine)
        handles = [self.create(rig, b"0000")[0] for _ in range(8)]
        assert len(set(handles)) == 8
        session = rig.client.osap(EntityType.OWNER, KeyHandleValue.OWNER, Secret(OWNER_AUTH))
        with pytest.raises(Exception, match="RESOURCES"), session:
            rig.client.execute(CreateCounter(bytes(20), b"nine"), session)
        last: Counter = engine.permanent.counters[0]
        full = replace(last, value=replace(last.value, counter=0xFFFFFFFE))
        engine.permanent = engine.permanent.with_counter(full)
        assert rig.refusal(IncrementCounter(full.handle), COUNTER_AUTH) == Rc.RESOURCES


class TestLockout:
    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def locked(self, tpm_identity: Identity, clock: FakeClock) -> Rig:
        """An owned engine after so many wrong tries that it refuses authorisation."""
        storage = MemoryStorage()
        engine = Engine(storage, clock=clock)
        engine.power_on()
        engine.permanent = replace(
            engine.permanent, ek=tpm_identity.ek, srk=tpm_identity.srk, owner_auth=OWNER_AUTH
        )
        rig = Rig(engine)
        rig.run(Startup(StartupType.CLEAR))
        codes = [rig.refusal(DisablePubekRead(), b"w" * 20) for _ in range(THRESHOLD + 2)]
        assert codes == [Rc.AUTHFAIL] * (THRESHOLD + 1) + [Rc.DEFEND_LOCK_RUNNING]
        return rig

    def test_refuses_the_right_secret_too_until_time_passed(
        self, locked: Rig, clock: FakeClock
    ) -> None:
        assert locked.refusal(DisablePubekRead(), OWNER_AUTH) == Rc.DEFEND_LOCK_RUNNING
        assert locked.refusal(PcrRead(0)) == 0
        clock.sleep(1)
        assert locked.refusal(DisablePubekRead(), OWNER_AUTH) == 0

    def test_a_power_cycle_does_not_help(self, locked: Rig) -> None:
        engine = locked.wire.tpm
        engine.power_on()
        locked.run(Startup(StartupType.CLEAR))
        assert locked.refusal(DisablePubekRead(), OWNER_AUTH) == Rc.DEFEND_LOCK_RUNNING

    def test_a_client_can_ask_how_long(self, locked: Rig, clock: FakeClock) -> None:
        request = GetCapability(Capability.DA_LOGIC, EntityType.OWNER.to_bytes(2, "big"))
        info = DaInfo.decode(locked.run(request).resp)
        assert (info.state, info.current_count, info.threshold_count) == (1, 6, THRESHOLD)
        assert info.action_depend_value > 0
        clock.sleep(info.action_depend_value)
        assert DaInfo.decode(locked.run(request).resp).state == 0
        assert locked.refusal(DisablePubekRead(), OWNER_AUTH) == 0

    def test_the_owner_may_reset_it(self, locked: Rig) -> None:
        locked.run(ResetLockValue(), OWNER_AUTH)
        assert locked.refusal(DisablePubekRead(), OWNER_AUTH) == 0

    def test_one_wrong_reset_blocks_the_reset_until_time_passed(
        self, locked: Rig, clock: FakeClock
    ) -> None:
        assert locked.refusal(ResetLockValue(), b"w" * 20) == Rc.AUTHFAIL
        assert locked.refusal(ResetLockValue(), OWNER_AUTH) == Rc.AUTHFAIL
        clock.sleep(2)
        assert locked.refusal(ResetLockValue(), OWNER_AUTH) == 0
