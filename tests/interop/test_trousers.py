"""TrouSerS and its tools on our engine behind `hwtpm serve`, and on libtpms in its place: what is
different is ours. Each test has a TPM, a server and a tcsd of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from tcsd_rig import Tools, assert_presence, serving, tcsd_on

from hwtpm.client.rsa import to_public_key
from hwtpm.tpm12.types import PubKey

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="tcsd takes its configuration from root")

PUBKEY_SIZE = 284  # TPM_PUBKEY of 2048 bits


@pytest.fixture(params=["sim:", "libtpms:", "board:sim-slb9670-ftdi", "board:sim-slb9670-spidev"])
def tools(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tools]:
    """tcsd on a factory-new TPM, physical presence asserted."""
    with serving(request.param, tmp_path) as served:
        assert_presence(served.address)
        with tcsd_on(served.port) as tools:
            yield tools
        assert served.stop() == 0
        assert served.errors == ""


@pytest.fixture
def owned(tools: Tools) -> Tools:
    """The same, owned, with the well-known secrets."""
    tools("tpm_createek")
    tools("tpm_takeownership", "-y", "-z")
    return tools


def modulus(shown: str) -> str:
    """The key that tpm_getpubek shows."""
    lines = re.findall(r"^\t([0-9a-f ]+)$", shown, re.MULTILINE)
    return "".join(lines).replace(" ", "")


# --- what any user may ask ----------------------------------------------------------------------


def test_version_and_self_test(tools: Tools) -> None:
    shown = tools("tpm_version")
    assert "Chip Version:        1.2." in shown
    assert "Spec Level:          2" in shown
    tools("tpm_selftest")
    assert "TPM Test Results" in tools("tpm_selftest", "-r")


# --- endorsement key and owner ------------------------------------------------------------------


def test_endorsement_key_is_made_once_and_then_for_its_owner_only(tools: Tools) -> None:
    tools("tpm_createek")
    tools.refused("0x00000008", "tpm_createek")
    key = modulus(tools("tpm_getpubek"))
    assert len(key) == 512
    tools("tpm_takeownership", "-y", "-z")
    # It asks for the endorsement key first, which TakeOwnership hides (Part 3, 6.1 action 17).
    tools.refused("0x00000008", "tpm_takeownership", "-y", "-z")
    assert modulus(tools("tpm_getpubek", "-z")) == key
    assert "Public Endorsement Key readable by: owner" in tools("tpm_restrictpubek", "-s", "-z")
    tools("tpm_restrictpubek", "-r", "-z")
    assert modulus(tools("tpm_getpubek", "-z")) == key
    tools.refused("0x00000001", "tpm_getpubek", typed="wrong\n")


def test_revocable_endorsement_key(tools: Tools) -> None:
    tools("tpm_createek", "-r", "-g", "-o", "secret")
    assert len(modulus(tools("tpm_getpubek"))) == 512
    (tools.directory / "wrong").write_bytes(bytes(20))
    tools.refused("0x00000001", "tpm_revokeek", "-i", "wrong")
    tools("tpm_revokeek", "-i", "secret")
    # It clears as the owner's clear does: the TPM is disabled then (Part 3, 14.3 action 4).
    tools.refused("TPM is disabled", "tpm_getpubek")
    tools.refused("TPM is disabled", "tpm_revokeek", "-i", "secret")


def test_owner_changes_the_passwords(owned: Tools) -> None:
    (owned.directory / "plain").write_bytes(b"x")
    seal = ("tpm_sealdata", "-i", "plain", "-o", "sealed")
    owned("tpm_changeownerauth", "-s", "-z", typed="srk\nsrk\n")
    owned.refused("0x00000001", *seal, "-z")
    owned(*seal, typed="srk\n")
    owned("tpm_changeownerauth", "-o", "-z", typed="new\nnew\n")
    owned.refused("0x00000001", "tpm_restrictpubek", "-s", "-z")
    owned("tpm_restrictpubek", "-s", typed="new\n")
    owned("tpm_changeownerauth", "-o", "-s", "-r", typed="new\n")
    owned("tpm_restrictpubek", "-s", "-z")
    owned(*seal, "-z")


def test_owner_clears_what_he_has(owned: Tools) -> None:
    owned.refused("0x00000001", "tpm_clear", typed="wrong\n")
    owned("tpm_clear", "-z")
    owned.refused("failed", "tpm_restrictpubek", "-s", "-z")


def test_presence_clears_the_owner(owned: Tools) -> None:
    owned("tpm_clear", "-f")
    owned.refused("failed", "tpm_restrictpubek", "-s", "-z")


def test_clearing_can_be_forbidden(owned: Tools) -> None:
    owned("tpm_setclearable", "-f")
    owned.refused("0x00000005", "tpm_clear", "-f")
    owned("tpm_setclearable", "-o", "-z")
    owned.refused("0x00000005", "tpm_clear", "-z")
    shown = owned("tpm_setclearable", "-s", "-z")
    assert "Owner Clear Disabled: true" in shown
    assert "Force Clear Disabled: true" in shown


# --- switches -------------------------------------------------------------------------------------


def test_switches_of_the_owner_and_of_presence(owned: Tools) -> None:
    assert "Disabled status: false" in owned("tpm_setenable", "-s", "-z")
    owned("tpm_setenable", "-d", "-z")
    owned.refused("TPM is disabled", "tpm_setenable", "-s", "-z")
    owned("tpm_setenable", "-e", "-z")
    owned("tpm_setenable", "-e", "-f")
    assert "Disabled status: false" in owned("tpm_setenable", "-s", "-z")
    # TrouSerS 0.3.15 sends the last response again in place of TPM_PhysicalDisable.
    owned.refused("layer=tpm", "tpm_setenable", "-d", "-f")
    assert "Disabled status: false" in owned("tpm_setenable", "-s", "-z")

    assert "Persistent Deactivated Status: false" in owned("tpm_setactive", "-s", "-z")
    owned("tpm_setactive", "-i")  # from the next start on
    assert "Persistent Deactivated Status: true" in owned("tpm_setactive", "-s", "-z")
    owned("tpm_setactive", "-a")
    assert "Persistent Deactivated Status: false" in owned("tpm_setactive", "-s", "-z")

    shown = owned("tpm_setpresence", "-s", "-z")
    assert "Command Enable: true" in shown
    # TrouSerS 0.3.15 has no TCS call for TSC_PhysicalPresence (its own layer refuses).
    owned.refused("layer=tcs, code=0006", "tpm_setpresence", "-a")


def test_taking_ownership_can_be_forbidden(tools: Tools) -> None:
    tools("tpm_createek")
    tools("tpm_setownable", "-p")
    tools.refused("failed", "tpm_takeownership", "-y", "-z")
    tools("tpm_setownable", "-a")
    tools("tpm_takeownership", "-y", "-z")
    assert "Ownable status: true" in tools("tpm_setownable", "-s", "-z")


def test_operator_deactivates_for_this_boot(owned: Tools) -> None:
    owned("tpm_setoperatorauth", typed="operator\noperator\n")
    owned("tpm_setactive", "-i", "-t")
    owned.refused("TPM is deactivated", "tpm_setactive", "-s", "-z")


# --- storage --------------------------------------------------------------------------------------


NV_AREAS = [
    ("0x1001", "OWNERWRITE|OWNERREAD", (), ("-z",)),
    ("0x1002", "AUTHWRITE|AUTHREAD", ("--pwda=area",), ("--password=area",)),
    ("0x1003", "PPWRITE|PPREAD", (), ()),
]


def test_nv_areas_of_the_owner_of_a_password_and_of_presence(owned: Tools) -> None:
    for index, permissions, made, used in NV_AREAS:
        area = ("-i", index)
        owned("tpm_nvdefine", *area, "-s", "32", "-p", permissions, "-y", *made)
        owned("tpm_nvwrite", *area, *used, "-d", f"hello {index}")
    for index, permissions, _, used in NV_AREAS:
        area = ("-i", index)
        owned("tpm_nvread", *area, *used, "-s", "12", "-f", "read")
        assert (owned.directory / "read").read_text() == f"hello {index}"
        info = owned("tpm_nvinfo", *area)
        assert "Size          : 32" in info
        assert all(one in info for one in permissions.split("|"))
        owned("tpm_nvrelease", *area, "-y")
        owned.refused("0x00000002", "tpm_nvread", *area, *used)


def test_wrong_passwords_are_refused_and_the_owner_resets_the_defence(owned: Tools) -> None:
    area = ("-i", "0x1001")
    owned("tpm_nvdefine", *area, "-s", "4", "-p", "AUTHREAD|AUTHWRITE", "-y", "--pwda=area")
    owned("tpm_nvwrite", *area, "--password=area", "-d", "text")
    for _ in range(3):
        owned.refused("0x00000001", "tpm_nvread", *area, "--password=wrong")
    owned("tpm_resetdalock", "-z")
    owned("tpm_nvread", *area, "--password=area")


def test_sealed_data_opens_in_the_same_state_only(owned: Tools) -> None:
    plain = os.urandom(64)
    (owned.directory / "plain").write_bytes(plain)
    owned("tpm_sealdata", "-z", "-p", "0", "-p", "7", "-i", "plain", "-o", "sealed")
    owned("tpm_unsealdata", "-z", "-i", "sealed", "-o", "opened")
    assert (owned.directory / "opened").read_bytes() == plain
    sealed = owned.directory / "sealed"
    assert plain not in sealed.read_bytes()


def test_storage_root_key_is_shown_to_whom_its_owner_says(owned: Tools) -> None:
    for option, reader in (("-a", "SRK"), ("-r", "owner")):
        owned("tpm_restrictsrk", option, "-z")
        assert reader in owned("tpm_restrictsrk", "-s", "-z")


# --- tpm-quote-tools ------------------------------------------------------------------------------


def test_quote_of_an_identity_key_verifies(owned: Tools) -> None:
    here = owned.directory
    nonce = os.urandom(20)
    (here / "nonce").write_bytes(nonce)
    owned("tpm_mkuuid", "uuid")
    owned("tpm_mkaik", "-z", "aik.blob", "aik.pub")
    owned("tpm_loadkey", "aik.blob", "uuid")
    owned("tpm_getpcrhash", "uuid", "hash", "values", "0", "1", "7")
    owned("tpm_getquote", "uuid", "nonce", "quote", "0", "1", "7")

    # tpm_verifyquote fails in libtspi's DER decoder before it sends anything: it is done here.
    assert (here / "values").read_text() == "".join(f"{i}={'00' * 20}\n" for i in (0, 1, 7))
    info = (here / "hash").read_bytes()  # TPM_QUOTE_INFO2 with a nonce of zeros
    assert info[:26] == b"\x00\x36QUT2" + bytes(20)
    key = PubKey.decode((here / "aik.pub").read_bytes()[-PUBKEY_SIZE:])
    to_public_key(key).verify(
        (here / "quote").read_bytes(),
        info[:6] + nonce + info[26:],
        padding.PKCS1v15(),
        hashes.SHA1(),
    )

    (here / "later").write_text((here / "values").read_text().replace("0=00", "0=01"))
    owned("tpm_updatepcrhash", "hash", "later", "updated")
    assert (here / "updated").read_bytes() != info
    owned("tpm_unloadkey", "uuid")
    owned.refused("", "tpm_getquote", "uuid", "nonce", "quote", "0")
