"""Timing ticks (Part 3 section 23)."""

from __future__ import annotations

import hashlib

import pytest
from conformance_rig import NO_HANDLE, USAGE, WRONG, Device

from hwtpm.client.rsa import to_public_key, verify_sha1
from hwtpm.tpm12.commands.ticks import GetTicks, TickStampBlob
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import PubKey

NONCE = hashlib.sha1(b"verifier").digest()
DIGEST = hashlib.sha1(b"document").digest()


def test_ticks_do_not_go_back_and_their_nonce_stays(new: Device) -> None:
    values = [new.run(GetTicks()).current_time for _ in range(3)]
    assert values == sorted(values, key=lambda value: value.current_ticks)
    assert len({value.tick_nonce for value in values}) == 1
    assert len({value.tick_rate for value in values}) == 1
    assert values[0].tick_rate > 0


def test_a_new_start_has_a_new_tick_nonce(new: Device) -> None:
    before = new.run(GetTicks()).current_time
    new.restart()
    after = new.run(GetTicks()).current_time
    assert after.tick_nonce != before.tick_nonce


@pytest.mark.parametrize("name", ["signing", "signing INFO", "signing without auth", "identity"])
def test_a_stamp_signs_digest_and_ticks(owned: Device, name: str) -> None:
    before = owned.run(GetTicks()).current_time
    key = owned.load(name)
    reply = owned.run(TickStampBlob(key.handle, NONCE, DIGEST), *key.secrets)
    after = owned.run(GetTicks()).current_time
    ticks = reply.current_ticks
    assert before.current_ticks <= ticks.current_ticks <= after.current_ticks
    assert (ticks.tick_rate, ticks.tick_nonce) == (before.tick_rate, before.tick_nonce)
    data = DIGEST + ticks.encode()
    signed = b"\0\x05TSTP" + NONCE + len(data).to_bytes(4, "big") + data
    public = PubKey(owned.key(name).algorithm_parms, owned.key(name).pub_key)
    verify_sha1(to_public_key(public), reply.sig, signed, "tick stamp")


def test_keys_that_make_no_stamp(owned: Device) -> None:
    """23.2 actions 1 to 3."""
    for name, rc in (
        ("bind", Rc.INVALID_KEYUSAGE),
        ("storage", Rc.INVALID_KEYUSAGE),
        ("signing DER", Rc.INAPPROPRIATE_SIG),
    ):
        key = owned.load(name)
        assert owned.refusal(TickStampBlob(key.handle, NONCE, DIGEST), USAGE) == rc
    request = TickStampBlob(owned.load("signing").handle, NONCE, DIGEST)
    assert owned.refusal(request, WRONG) == Rc.AUTHFAIL
    assert owned.refusal(request) == Rc.AUTHFAIL
    missing = TickStampBlob(NO_HANDLE, NONCE, DIGEST)
    assert owned.refusal(missing, USAGE) == Rc.INVALID_KEYHANDLE
