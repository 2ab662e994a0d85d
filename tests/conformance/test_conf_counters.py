"""Monotonic counters (Part 3 section 25)."""

from __future__ import annotations

from conformance_rig import NO_HANDLE, OWNER, USAGE, WRONG, ZEROS, Device

from hwtpm.client import counters, keys
from hwtpm.tpm12.commands.counters import (
    CreateCounter,
    IncrementCounter,
    ReadCounter,
    ReleaseCounter,
    ReleaseCounterOwner,
)
from hwtpm.tpm12.const import ResourceType
from hwtpm.tpm12.rc import Rc


def create(device: Device, label: bytes = b"test") -> counters.Counter:
    return counters.create(device.client, OWNER, USAGE, label)


def test_a_counter_counts_over_restarts(owned: Device) -> None:
    made = create(owned)
    assert made.label == b"test"
    up = owned.run(IncrementCounter(made.handle), USAGE).count
    assert (up.label, up.counter) == (b"test", made.value + 1)
    owned.restart()
    assert owned.run(ReadCounter(made.handle)).count == up
    assert owned.run(IncrementCounter(made.handle), USAGE).count.counter == made.value + 2
    owned.run(ReleaseCounter(made.handle), USAGE)
    owned.restart()


def test_one_counter_is_incremented_a_boot(owned: Device) -> None:
    """25.2 action 1; TPM_Startup allows another one."""
    first, second = create(owned, b"frst"), create(owned, b"scnd")
    assert second.value > first.value
    owned.run(IncrementCounter(first.handle), USAGE)
    assert owned.refusal(IncrementCounter(second.handle), USAGE) == Rc.BAD_COUNTER
    owned.run(ReleaseCounterOwner(first.handle), OWNER)
    # 25.5: with the active counter released, none is incremented until the next start.
    assert owned.refusal(IncrementCounter(second.handle), USAGE) == Rc.BAD_COUNTER
    owned.restart()
    assert owned.refusal(IncrementCounter(second.handle), USAGE) == Rc.SUCCESS
    owned.run(ReleaseCounterOwner(second.handle), OWNER)
    owned.restart()


def test_wrong_secrets_and_handles_are_refused(owned: Device) -> None:
    made = create(owned)
    for command in (IncrementCounter, ReleaseCounter):
        assert owned.refusal(command(made.handle), WRONG) == Rc.AUTHFAIL
        assert owned.refusal(command(NO_HANDLE), USAGE) == Rc.BAD_COUNTER
    assert owned.refusal(ReleaseCounterOwner(made.handle), USAGE) == Rc.AUTHFAIL
    assert owned.refusal(ReleaseCounterOwner(NO_HANDLE), OWNER) == Rc.BAD_COUNTER
    assert owned.refusal(ReadCounter(NO_HANDLE)) == Rc.BAD_COUNTER
    assert owned.run(ReadCounter(made.handle)).count.counter == made.value
    owned.run(ReleaseCounterOwner(made.handle), OWNER)
    assert owned.refusal(ReadCounter(made.handle)) == Rc.BAD_COUNTER


def test_creating_needs_the_owner(owned: Device) -> None:
    with owned.osap_owner(WRONG) as session:
        request = CreateCounter(session.encrypt_auth(USAGE), b"test")
        assert owned.refusal_in(request, session) == Rc.AUTHFAIL
    assert owned.refusal(CreateCounter(ZEROS, b"test"), OWNER) == Rc.BAD_MODE


def test_counters_are_made_until_the_room_is_used_up(owned: Device) -> None:
    made = []
    while True:
        with owned.osap_owner() as session:
            request = CreateCounter(session.encrypt_auth(USAGE), b"test")
            if rc := owned.refusal_in(request, session):
                break
        made = list(owned_counters(owned))
        assert len(made) <= 32
    assert rc == Rc.RESOURCES
    assert len(made) >= 4
    for handle in made:
        owned.run(ReleaseCounterOwner(handle), OWNER)


def owned_counters(device: Device) -> tuple[int, ...]:

    return keys.loaded_handles(device.client, ResourceType.COUNTER)
