"""When commands are available: before TPM_Startup, disabled, deactivated, without an owner.

The columns are those of the normative ordinal table (Part 2 section 17) in `tests/data`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conformance_rig import Device
from differences import LACKING
from samples import SAMPLES, sample_frame

from hwtpm.client import owner
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import TABLE

COLUMNS = {
    row["name"]: row
    for row in json.loads((Path(__file__).parent.parent / "data/ordinals.json").read_text())[
        "ordinals"
    ]
    if row["name"] in SAMPLES
}
WITHOUT_OWNER = {
    "TPM_DirRead": lambda device: device.expected("reading the DIR without an owner", Rc.NOSRK),
    "TPM_DirWriteAuth": lambda device: device.expected(
        "writing the DIR without an owner", Rc.NOSRK
    ),
}
CHANGES_STATE = {"TPM_Startup", "TPM_PhysicalEnable", "TPM_SaveState"}


def answers(device: Device) -> dict[tuple[str, int], int]:
    """The return code of every command's sample with every number of authorisations."""
    return {
        (name, auths): device.rc(sample_frame(TABLE[name], auths))
        for name, row in COLUMNS.items()
        if name not in CHANGES_STATE and (device.engine == "engine" or name not in LACKING)
        for auths in row["auths"]
    }


@pytest.mark.alters
def test_before_startup_only_startup_is_available(new: Device) -> None:
    new.restart(startup=None)
    for (name, auths), rc in answers(new).items():
        assert rc == Rc.INVALID_POSTINIT, (name, auths)
    assert new.rc(sample_frame(TABLE["TPM_SaveState"], 0)) == Rc.INVALID_POSTINIT
    assert new.rc(sample_frame(TABLE["TPM_Startup"], 0)) == Rc.SUCCESS


@pytest.mark.alters
def test_a_disabled_tpm_answers_what_the_table_says(new: Device) -> None:
    new.assert_presence()
    owner.physical_disable(new.client)
    for (name, auths), rc in answers(new).items():
        available = COLUMNS[name].get("disabled")
        if available is None:
            assert rc == Rc.DISABLED, (name, auths)
        elif available == "X":
            assert rc != Rc.DISABLED, (name, auths)


@pytest.mark.alters
def test_a_deactivated_tpm_answers_what_the_table_says(new: Device) -> None:
    new.assert_presence()
    owner.physical_set_deactivated(new.client, True)
    new.restart()
    for (name, auths), rc in answers(new).items():
        available = COLUMNS[name].get("deactivated")
        if available is None:
            assert rc == Rc.DEACTIVATED, (name, auths)
        elif available == "X":
            assert rc != Rc.DEACTIVATED, (name, auths)


@pytest.mark.alters
def test_commands_that_need_an_owner_are_refused_without_one(endorsed: Device) -> None:
    for (name, auths), rc in answers(endorsed).items():
        if "no_owner" not in COLUMNS[name]:
            assert rc == WITHOUT_OWNER.get(name, lambda _: Rc.NOSRK)(endorsed), (name, auths)
        else:
            assert rc != Rc.NOSRK, (name, auths)
