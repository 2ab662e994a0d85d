"""The command table against the specification's tables, which somebody else transcribed.

`tests/data/ordinals.json` is Part 2 section 17, `tests/data/parameters.json` the operand tables of
Part 3. Every deviation of ours is declared below and has to exist.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from hwtpm.softtpm.engine import Engine  # noqa: F401  (fills table and actions)
from hwtpm.softtpm.engine.call import ACTIONS
from hwtpm.tpm12.table import TABLE, Authorises, Command, Duration, Rule
from hwtpm.wire import Struct
from hwtpm.wire.codec import Blob, Codec, Fixed, Handle, Nested, Rest, SizedNested, Uint

DATA: Final = Path(__file__).parent.parent / "data"
ORDINALS: Final = json.loads((DATA / "ordinals.json").read_text())["ordinals"]
PARAMETERS: Final = json.loads((DATA / "parameters.json").read_text())["commands"]

DURATIONS: Final = {"S": Duration.SHORT, "M": Duration.MEDIUM, "L": Duration.LONG}
RULES: Final = {
    "optional": {"O": Rule.OPTIONAL},
    "no_owner": {"X": Rule.NO_OWNER},
    "presence": {"P": Rule.PRESENCE},
    "pcr": {"X": Rule.PCR_ENFORCED},
    "audit": {"X": Rule.AUDITED, "N": Rule.NEVER_AUDITED},
    "change": {"D": Rule.DEPRECATED, "X": Rule.DELETED, "N": Rule(0), "C": Rule(0)},
    "deactivated": {"X": Rule.WHEN_DEACTIVATED, "A": Rule.MAYBE_DEACTIVATED},
    "disabled": {"X": Rule.WHEN_DISABLED, "A": Rule.MAYBE_DISABLED},
}

DURATION_DEVIATIONS: Final = {
    "TPM_FieldUpgrade": "the column says '?': the vendor decides; nothing shorter than L is safe",
    "TPM_ExecuteTransport": "the column says '? L': as long as the longest command it may wrap",
}

# (command, request or reply, parameter): why our declaration differs from the operand table.
PARAMETER_DEVIATIONS: Final = {
    ("TPM_OIAP", "reply", "authHandle"): "never authorised, so the HMAC column is empty (18.1)",
    ("TPM_OIAP", "reply", "nonceEven"): "as above",
    ("TPM_OSAP", "request", "entityType"): "never authorised, so the HMAC column is empty (18.2)",
    ("TPM_OSAP", "request", "entityValue"): "as above",
    ("TPM_OSAP", "request", "nonceOddOSAP"): "as above",
    ("TPM_OSAP", "reply", "authHandle"): "as above",
    ("TPM_OSAP", "reply", "nonceEven"): "as above",
    ("TPM_OSAP", "reply", "nonceEvenOSAP"): "as above",
    ("TPM_GetAuditDigest", "request", "startOrdinal"): "never authorised: no HMAC column (8.3)",
    ("TPM_GetAuditDigest", "reply", "counterValue"): "as above",
    ("TPM_GetAuditDigest", "reply", "auditDigest"): "as above",
    ("TPM_GetAuditDigest", "reply", "more"): "as above",
    ("TPM_GetAuditDigest", "reply", "ordSize"): "as above",
    ("TPM_GetAuditDigest", "reply", "ordList"): "as above",
    ("TPM_DSAP", "request", "entityType"): "never authorised; a transport session hashes by 18.3",
    ("TPM_DSAP", "request", "keyHandle"): "as above",
    ("TPM_DSAP", "request", "nonceOddDSAP"): "as above",
    ("TPM_DSAP", "request", "entityValueSize"): "as above",
    ("TPM_DSAP", "reply", "authHandle"): "as above",
    ("TPM_DSAP", "reply", "nonceEven"): "as above",
    ("TPM_DSAP", "reply", "nonceEvenDSAP"): "as above",
}

OPERANDS_BY_TEXT: Final = {
    # 11.2: the transcription calls both blobs hashData.
    ("TPM_ConvertMigrationBlob", "request"): [
        ["parentHandle", "TPM_KEY_HANDLE", 4, False],
        ["inDataSize", "UINT32", 4, True],
        ["inData", "BYTE[]", "*", True],
        ["randomSize", "UINT32", 4, True],
        ["random", "BYTE[]", "*", True],
    ],
    # 12.2: "Vendor specific arguments" follow the archive; the transcription has the session, too.
    ("TPM_LoadMaintenanceArchive", "request"): [
        ["archiveSize", "UINT32", 4, True],
        ["archive", "BYTE[]", "*", True],
        ["sigSize", "UINT32", 4, True],
        ["sig", "BYTE[]", "*", True],
        ["randomSize", "UINT32", 4, True],
        ["random", "BYTE[]", "*", True],
    ],
    ("TPM_LoadMaintenanceArchive", "reply"): [],
}

DECLARED: Final = [row for row in TABLE if row.request is not None]

KEYS: Final = (Authorises.KEY, Authorises.KEY_TO_READ, Authorises.KEY_LATER)
OTHERS_THAT_MAY_BE_MISSING: Final = (Authorises.SRK, Authorises.LATER)

NO_OPERAND_TABLE: Final = {"TPM_FieldUpgrade"}
"""9.1: "Remaining parameters are manufacturer specific"."""


def test_table_has_the_125_ordinals_of_revision_116() -> None:
    assert [(row.ordinal, row.name) for row in TABLE] == [
        (row["ordinal"], row["name"]) for row in ORDINALS
    ]
    assert len(TABLE) == 125


@pytest.mark.parametrize("row", ORDINALS, ids=lambda row: row["name"])
def test_rules_are_those_of_the_normative_table(row: dict[str, object]) -> None:
    ours = TABLE[str(row["name"])]
    expected = Rule(0)
    for column, meaning in RULES.items():
        if column in row:
            expected |= meaning[str(row[column])]
    assert ours.rules == expected
    assert sorted(ours.auths) == row["auths"]
    if ours.name in DURATION_DEVIATIONS:
        assert row["duration"] not in DURATIONS
    else:
        assert ours.duration is DURATIONS[str(row["duration"])]


def test_all_have_bodies_but_the_deleted_ones_and_tpm_init() -> None:
    without = {row.name for row in TABLE if row.request is None}
    assert without == {row.name for row in TABLE if Rule.DELETED in row.rules} | {"TPM_Init"}
    assert len(DECLARED) == 119
    assert {row.name for row in DECLARED} - set(PARAMETERS) == NO_OPERAND_TABLE


def test_every_deviation_is_of_a_body_that_is_declared() -> None:
    names = {row.name for row in DECLARED}
    deviations = [*PARAMETER_DEVIATIONS, *OPERANDS_BY_TEXT]
    assert {key[0] for key in deviations} <= names
    assert set(DURATION_DEVIATIONS) <= names


@pytest.mark.parametrize("row", DECLARED, ids=lambda row: row.name)
def test_sessions_prove_what_the_request_names(row: Command) -> None:
    """One entity for each session; of keys no more than there are handles; and only a key whose
    AuthData is not needed, or what the actions look into, may come without its session."""
    assert row.request is not None
    proven = row.authorises
    assert len(proven) == max(row.auths)
    keys = [entity for entity in proven if entity in KEYS]
    assert len(keys) <= row.request.layout.handles
    may_be_missing = [entity for entity in proven if entity in (*KEYS, *OTHERS_THAT_MAY_BE_MISSING)]
    assert len(proven) - min(row.auths) <= len(may_be_missing)
    assert Authorises.TRANSPORT not in proven[:-1]


def test_the_engine_has_an_action_for_each_body_and_no_other() -> None:
    assert {served.row.name for served in ACTIONS.values()} == {row.name for row in DECLARED}
    assert all(ordinal == served.row.ordinal for ordinal, served in ACTIONS.items())


@pytest.mark.parametrize(
    "row", [row for row in DECLARED if row.name in PARAMETERS], ids=lambda row: row.name
)
@pytest.mark.parametrize("direction", ["request", "reply"])
def test_parameters_are_those_of_the_operand_tables(row: Command, direction: str) -> None:
    body = row.request if direction == "request" else row.reply
    assert body is not None
    ours = list(_flat(body))
    theirs = OPERANDS_BY_TEXT.get((row.name, direction), PARAMETERS[row.name][direction])
    assert len(ours) == len(theirs), (ours, theirs)
    for (name, width, type_name, hashed), (spec, spec_type, size, spec_hashed) in zip(
        ours, theirs, strict=True
    ):
        if name is not None:
            assert _folded(name) == _folded(spec)
        if width is not None:
            assert width == size, spec
        if type_name is not None:
            assert type_name == spec_type, spec
        deviates = (row.name, direction, spec) in PARAMETER_DEVIATIONS
        assert (hashed != spec_hashed) == deviates, spec


def _flat(body: type[Struct]) -> Iterator[tuple[str | None, int | str | None, str | None, bool]]:
    """Name, bytes, type and whether hashed, for each parameter; None where the tables differ only
    in wording. A blob is two parameters: its size and its bytes."""
    for name, codec in body.layout.codecs.items():
        hashed = not isinstance(codec, Handle)
        if isinstance(codec, Blob | SizedNested):
            yield None, 4, "UINT32", True
            yield name, "*", None, True
        elif isinstance(codec, Nested):
            # TPM_KEY stands for TPM_KEY12, too: one declaration reads both.
            yield name, None, None if "KEY" in codec.spec_name else codec.spec_name, hashed
        else:
            yield name, _width(codec), None, hashed


def _width(codec: Codec) -> int | str:
    if isinstance(codec, Uint):
        return codec.width
    if isinstance(codec, Fixed):
        return codec.size
    return "*" if isinstance(codec, Rest) else 1


def _folded(name: str) -> str:
    return name.replace("_", "").lower()
