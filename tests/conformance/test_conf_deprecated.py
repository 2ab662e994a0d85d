"""Deprecated commands (Part 3 section 27): the DIR and TPM_LoadKey."""

from __future__ import annotations

import hashlib

import pytest
from conformance_rig import (
    NO_HANDLE,
    OWNER,
    SRK,
    SRK_HANDLE,
    USAGE,
    WRONG,
    ZEROS,
    Device,
)

from hwtpm.tpm12.commands.cryptography import Sign
from hwtpm.tpm12.commands.deprecated import DirRead, DirWriteAuth, LoadKey
from hwtpm.tpm12.commands.nv import NvReadValue, NvWriteValue
from hwtpm.tpm12.rc import Rc

VALUE = hashlib.sha1(b"contents").digest()
DIR_INDEX = 0x10000001


@pytest.mark.alters
def test_the_register_is_the_nv_index_of_the_same_name(owned: Device) -> None:
    """27.3."""
    assert owned.run(DirRead(0)).dir_contents == ZEROS
    owned.run(DirWriteAuth(0, VALUE), OWNER)
    assert owned.run(DirRead(0)).dir_contents == VALUE
    assert owned.run(NvReadValue(DIR_INDEX, 0, 20)).data == VALUE
    owned.restart()
    assert owned.run(DirRead(0)).dir_contents == VALUE
    owned.run(NvWriteValue(DIR_INDEX, 0, ZEROS), OWNER)
    assert owned.run(DirRead(0)).dir_contents == ZEROS


def test_there_is_one_register_and_the_owner_writes_it(owned: Device) -> None:
    assert owned.refusal(DirRead(1)) == Rc.BADINDEX
    assert owned.refusal(DirWriteAuth(1, VALUE), OWNER) == Rc.BADINDEX
    assert owned.refusal(DirWriteAuth(0, VALUE), WRONG) == Rc.AUTHFAIL
    assert owned.refusal(DirWriteAuth(1, VALUE), WRONG) == Rc.AUTHFAIL


def test_the_old_load_command_authenticates_the_handle(owned: Device) -> None:
    """27.8: unlike that of TPM_LoadKey2, its handle is in the response digest; the client checks
    that it is."""
    handle = owned.run(LoadKey(SRK_HANDLE, owned.key("signing")), SRK).inkey_handle
    assert owned.refusal(Sign(handle, ZEROS), USAGE) == Rc.SUCCESS


def test_what_the_old_load_command_refuses(owned: Device) -> None:
    key = owned.key("signing")
    assert owned.refusal(LoadKey(SRK_HANDLE, key), WRONG) == Rc.AUTHFAIL
    assert owned.refusal(LoadKey(SRK_HANDLE, key)) == Rc.AUTHFAIL
    assert owned.refusal(LoadKey(NO_HANDLE, key), SRK) == Rc.INVALID_KEYHANDLE
    bind = owned.load("bind")
    assert owned.refusal(LoadKey(bind.handle, key), USAGE) == Rc.INVALID_KEYUSAGE
