"""Eviction (Part 3 section 22) and what it replaced (27.1)."""

from __future__ import annotations

import pytest
from conformance_rig import NO_HANDLE, SRK_HANDLE, Device

from hwtpm.client import keys
from hwtpm.tpm12.commands.deprecated import EvictKey, TerminateHandle
from hwtpm.tpm12.commands.eviction import FlushSpecific
from hwtpm.tpm12.commands.sessions import OIAP
from hwtpm.tpm12.const import ResourceType
from hwtpm.tpm12.rc import Rc


def test_a_key_is_flushed_once(owned: Device) -> None:
    key = owned.load("signing")
    assert owned.refusal(FlushSpecific(key.handle, ResourceType.KEY)) == Rc.SUCCESS
    assert owned.refusal(FlushSpecific(key.handle, ResourceType.KEY)) == Rc.BAD_PARAMETER
    assert keys.loaded_handles(owned.client) == ()


def test_a_session_is_flushed_once(owned: Device) -> None:
    handle = owned.run(OIAP()).auth_handle
    gone = owned.expected("flushing a session that is not there", Rc.BAD_PARAMETER)
    assert owned.refusal(FlushSpecific(handle, ResourceType.AUTH)) == Rc.SUCCESS
    assert owned.refusal(FlushSpecific(handle, ResourceType.AUTH)) == gone


def test_a_session_is_terminated_once(owned: Device) -> None:
    handle = owned.run(OIAP()).auth_handle
    assert owned.refusal(TerminateHandle(handle)) == Rc.SUCCESS
    assert owned.refusal(TerminateHandle(handle)) == Rc.INVALID_AUTHHANDLE
    assert owned.refusal(TerminateHandle(NO_HANDLE)) == Rc.INVALID_AUTHHANDLE


def test_the_resource_type_has_to_fit_the_handle(owned: Device) -> None:
    key, session = owned.load("signing").handle, owned.run(OIAP()).auth_handle
    assert owned.refusal(FlushSpecific(session, ResourceType.KEY)) == Rc.BAD_PARAMETER
    gone = owned.expected("flushing a session that is not there", Rc.BAD_PARAMETER)
    assert owned.refusal(FlushSpecific(key, ResourceType.AUTH)) == gone
    assert keys.loaded_handles(owned.client) == (key,)
    assert keys.loaded_handles(owned.client, ResourceType.AUTH) == (session,)


@pytest.mark.parametrize("kind", [0, ResourceType.HASH, ResourceType.COUNTER, 0x77])
def test_other_resources_are_not_flushed(owned: Device, kind: int) -> None:
    assert owned.refusal(FlushSpecific(NO_HANDLE, kind)) == Rc.INVALID_RESOURCE


def test_sessions_and_contexts_that_are_not_there(owned: Device) -> None:
    """22.1 action 7."""
    for kind, what in ((ResourceType.TRANS, "transport"), (ResourceType.DAA_TPM, "DAA")):
        rc = owned.expected(f"flushing a {what} session that is not there", Rc.BAD_PARAMETER)
        assert owned.refusal(FlushSpecific(NO_HANDLE, kind)) == rc
    assert owned.refusal(FlushSpecific(NO_HANDLE, ResourceType.CONTEXT)) == Rc.BAD_PARAMETER


def test_a_key_is_evicted_once(owned: Device) -> None:
    """27.1.1; its OSAP sessions end with it (22.1 action 8.a)."""
    key = owned.load("signing")
    key.osap(owned.client)
    assert owned.refusal(EvictKey(key.handle)) == Rc.SUCCESS
    assert keys.loaded_handles(owned.client, ResourceType.AUTH) == ()
    for handle in (key.handle, SRK_HANDLE, NO_HANDLE):
        assert owned.refusal(EvictKey(handle)) == Rc.INVALID_KEYHANDLE


def test_the_srk_is_not_flushed(owned: Device) -> None:
    rc = owned.refusal(FlushSpecific(SRK_HANDLE, ResourceType.KEY))
    assert rc == Rc.BAD_PARAMETER
    assert owned.load("signing").handle
