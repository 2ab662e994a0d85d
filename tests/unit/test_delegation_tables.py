"""The permission bits against Part 2, what a delegation permits, and blobs of a TPM that was moved
here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

import hwtpm.tpm12.commands  # noqa: F401  (fills the table)
from hwtpm.softtpm.engine.delegation import auth_of, authenticated, check_integrity
from hwtpm.softtpm.engine.refusal import Refuse
from hwtpm.softtpm.engine.state import fresh_permanent
from hwtpm.tpm12.const import DelegateType
from hwtpm.tpm12.delegation import (
    KEY_PERMISSIONS,
    OWNER_PERMISSIONS,
    is_subset,
    is_well_formed,
    permits,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import TABLE
from hwtpm.tpm12.types import PcrInfoShort, PcrSelection
from hwtpm.tpm12.types.delegation import (
    DelegateOwnerBlob,
    DelegatePublic,
    DelegateSensitive,
    Delegations,
)

# Parsed out of Part 2 sections 20.2.1 and 20.2.3.
SPECIFIED: Final = json.loads(
    (Path(__file__).parent.parent / "data" / "permissions.json").read_text()
)
KINDS: Final = (
    (DelegateType.OWNER, OWNER_PERMISSIONS),
    (DelegateType.KEY, KEY_PERMISSIONS),
)


@pytest.mark.parametrize(("kind", "table"), KINDS)
def test_bits_are_those_of_part_2(kind: DelegateType, table: dict[str, int]) -> None:
    assert table == SPECIFIED[kind.name.lower()]
    for name in table:
        assert TABLE[name].auths - {0}


@pytest.mark.parametrize(("kind", "table"), KINDS)
def test_each_bit_permits_one_command(kind: DelegateType, table: dict[str, int]) -> None:
    for bit in range(32):
        delegations = Delegations(kind, 1 << bit, 0)
        permitted = [row.name for row in TABLE if permits(delegations, row.name)]
        assert permitted == [name for name, number in table.items() if number == bit]
        assert is_well_formed(delegations) == bool(permitted)
        assert not is_well_formed(Delegations(kind, 0, 1 << bit))


def test_a_subset_has_no_bit_more() -> None:
    held = Delegations(DelegateType.KEY, 0b0110, 0b1)
    assert is_subset(held, held)
    assert is_subset(Delegations(DelegateType.KEY, 0b0010, 0), held)
    assert not is_subset(Delegations(DelegateType.KEY, 0b1000, 0), held)
    assert not is_subset(Delegations(DelegateType.KEY, 0, 0b10), held)


@pytest.mark.parametrize("counter", [b"", bytes(15), bytes(17)])
@pytest.mark.parametrize("secret", [DelegateSensitive(bytes(20)).encode(), b""])
def test_an_authentic_blob_without_a_secret_of_ours_is_refused(
    counter: bytes, secret: bytes
) -> None:
    """A TPM that was moved here brings its tpmProof along, and its blobs have its maker's form."""
    nowhere = PcrInfoShort(PcrSelection.of(()), 1, bytes(20))
    public = DelegatePublic(0, nowhere, Delegations(DelegateType.OWNER, 1, 0), 1, 1)
    permanent = fresh_permanent(bytes)
    foreign = authenticated(permanent, DelegateOwnerBlob(public, bytes(20), counter, secret))
    check_integrity(permanent, foreign)
    for blob in (foreign, replace(foreign, additional_area=bytes(16))):
        with pytest.raises(Refuse) as refused:
            auth_of(permanent, blob, Rc.BAD_DELEGATE)
        assert refused.value.rc == Rc.BAD_DELEGATE
