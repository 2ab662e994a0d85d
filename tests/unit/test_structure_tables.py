"""Structures and constants against the tables of Part 2, which somebody else transcribed.

`tests/data/structures.json` holds the parameter tables and values. Every deviation of ours is
declared below and has to exist.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import IntEnum, IntFlag
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Final

import pytest

from hwtpm.softtpm.engine import daa_sessions, state, volatile
from hwtpm.tpm12 import const, types
from hwtpm.wire import Array, Blob, Fixed, Nested, Rest, SizedNested, Struct, Uint
from hwtpm.wire.codec import BoolByte, Codec

DATA: Final = json.loads((Path(__file__).parents[1] / "data" / "structures.json").read_text())
TABLES: Final[dict[str, tuple[str, list[list[str]]]]] = DATA["structures"]
TYPEDEFS: Final = {
    **DATA["typedefs"],
    **dict.fromkeys(
        (
            *("TPM_MODIFIER_INDICATOR", "TPM_TRANSHANDLE", "TPM_TRANSPORT_ATTRIBUTES"),
            *("TPM_FAMILY_ID", "TPM_FAMILY_VERIFICATION", "TPM_FAMILY_FLAGS", "TPM_ACTUAL_COUNT"),
            "TPM_COUNT_ID",
        ),
        "UINT32",
    ),
    "TPM_STRUCTURE_TAG": "UINT16",
    "TPM_NONCE": "BYTE[20]",
    "TPM_DIGEST": "BYTE[20]",
    "UNIT32": "UINT32",  # as Part 2 section 20.2 spells it
}
WIDTHS: Final = {"BYTE": 1, "BOOL": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8}

# Structures whose declaration is not what the transcribed table says, and what the text says.
DEVIATIONS: Final = {
    "TPM_NV_DATA_PUBLIC": "the transcription repeats TPM_NV_ATTRIBUTES; the text of 19.3 has nine",
    "TPM_NV_ATTRIBUTES": "the transcription lost its fields, which stand under 19.3",
    "TPM_DA_INFO_LIMITED": "the transcription repeats TPM_DA_INFO; 21.8 has no counts and values",
    "TPM_KEY_HANDLE_LIST": "the table does not mark handle as an array, the C declaration does",
    "TPM_PCR_COMPOSITE": "the same with pcrValue",
}
# What a declaration reads beside the structure that it is named for.
ALSO_READS: Final = {"TPM_KEY": "TPM_KEY12", "TPM_STORED_DATA": "TPM_STORED_DATA12"}


def _all() -> list[type[Struct]]:
    for module in iter_modules(types.__path__):
        import_module(f"{types.__name__}.{module.name}")

    def below(of: type[Struct]) -> Iterator[type[Struct]]:
        for one in of.__subclasses__():
            yield one
            yield from below(one)

    found = {
        one.layout.spec_name: one
        for one in below(Struct)
        if one.__module__.startswith(types.__name__) and hasattr(one, "layout")
    }
    return [found[name] for name in sorted(found)]


STRUCTURES: Final = _all()


def _ours(codec: Codec) -> Iterator[int | str]:
    """Bytes of a field; "*" for as many as a size or count before it says."""
    if isinstance(codec, Uint):
        yield codec.width
    elif isinstance(codec, BoolByte):
        yield 1
    elif isinstance(codec, Fixed):
        yield codec.size
    elif isinstance(codec, Blob | Array):
        size = codec._size if isinstance(codec, Blob) else codec._count
        yield from (size.width, "*")
    elif isinstance(codec, SizedNested):
        yield from (4, "*")
    elif isinstance(codec, Rest):
        yield "*"
    else:
        assert isinstance(codec, Nested)
        yield from _layout(codec.of)


def _layout(of: type[Struct]) -> Iterator[int | str]:
    yield len(of.layout.head)
    for codec in of.layout.codecs.values():
        yield from _ours(codec)


def _theirs(type_name: str) -> Iterator[int | str]:
    if type_name in WIDTHS:
        yield WIDTHS[type_name]
    elif fixed := re.fullmatch(r"BYTE\[(\d+)\]", type_name):
        yield int(fixed[1])
    elif type_name.endswith(("*", "[]")):
        yield "*"
    elif type_name in TYPEDEFS:
        yield from _theirs(TYPEDEFS[type_name])
    else:
        for _, inner in TABLES[type_name][1]:
            yield from _theirs(inner)


def _summed(parts: Iterator[int | str]) -> list[int | str]:
    """Neighbouring fixed sizes as one: where a structure splits them is told by the names."""
    out: list[int | str] = [0]
    for part in parts:
        if isinstance(part, int) and isinstance(out[-1], int):
            out[-1] += part
        else:
            out.append(part)
    return out


@pytest.mark.parametrize("of", STRUCTURES, ids=lambda of: of.layout.spec_name)
def test_a_structure_is_what_its_table_says(of: type[Struct]) -> None:
    name = of.layout.spec_name
    section, fields = TABLES[name]
    assert f"Part 2, {section}" in of.layout.ref
    same = _summed(_layout(of)) == _summed(part for _, t in fields for part in _theirs(t))
    assert same == (name not in DEVIATIONS)
    if name in ALSO_READS:
        other = TABLES[ALSO_READS[name]][1]
        assert _summed(_layout(of)) == _summed(part for _, t in other for part in _theirs(t))


def test_what_has_a_table_and_no_declaration_is_known() -> None:
    declared = {of.layout.spec_name for of in STRUCTURES}
    assert set(TABLES) - declared - set(ALSO_READS.values()) == set(UNDECLARED) | set(HELD)


UNDECLARED: Final = {
    **dict.fromkeys(
        (
            *("TPM_STRUCT_VER", "TPM_DIGEST", "TPM_NONCE", "TPM_STORE_PUBKEY"),
            *("TPM_STORE_PRIVKEY", "TPM_FAMILY_LABEL", "TPM_DELEGATE_LABEL"),
        ),
        "one field: a codec where it stands",
    ),
    "TPM_SELECT_SIZE": "three numbers, compared as four bytes in TPM_GetCapability (7.1)",
    "TPM_SYMMETRIC_KEY_PARMS": "10.1.2: of keys whose algorithm is AES, which no TPM key here is",
    "TPM_EK_BLOB_AUTH": "12.3: no command takes a TPM_EK_BLOB of that type",
    "TPM_IDENTITY_REQ": "12.6: between a client and its privacy CA, which the TPM does not see",
    "TPM_IDENTITY_PROOF": "12.7: as above",
    "TPM_SYM_CA_ATTESTATION": "12.9: as above",
    "TPM_FAMILY_TABLE": "20.6: rows without a head; engine.state.Permanent.families",
    "TPM_DELEGATE_TABLE": "20.10: as above, .delegations",
    "TPM_PCR_ATTRIBUTES": "8.8: need not exist; engine.pcrs has them, test_conf_integrity asks",
    "TPM_STANY_FLAGS": "7.3: nothing reads it out; in order: Engine.stclear is None, Call.locality,"
    " Stclear.exclusive_transport, Stclear.tos_present",
}
"""Structures with a table and no declaration by that name; the rest of them stands in `HELD`."""

HELD: Final[dict[str, tuple[type[Struct], dict[str, str]]]] = {
    "TPM_PERMANENT_DATA": (
        state.Permanent,
        {
            "tpmProof": "tpm_proof",
            "ownerAuth": "owner_auth",
            "operatorAuth": "operator_auth",
            "manuMaintPub": "maintenance_key",
            "endorsementKey": "ek",
            "srk": "srk",
            "delegateKey": "delegate_key",
            "contextKey": "context_key",
            "auditMonotonicCounter": "audit_counter",
            "monotonicCounter": "counters",
            "ordinalAuditStatus": "audited",
            "authDIR": "dir",
            "familyTable": "families",
            "delegateTable": "delegations",
            "ekReset": "ek_reset",
            "lastFamilyID": "last_family_id",
            "noOwnerNVWrite": "writes_without_owner",
            "restrictDelegate": "restrict_delegate",
            "tpmDAASeed": "daa_seed",
            "daaProof": "daa_proof",
            "daaBlobKey": "daa_blob_key",
        },
    ),
    "TPM_STCLEAR_DATA": (
        volatile.SinceStartup,
        {
            "contextNonceKey": "context_nonce_key",
            "countID": "active_counter",
            "ownerReference": "owner_reference",
            "PCR": "pcrs",
            "deferredPhysicalPresence": "deferred_presence",
        },
    ),
    "TPM_NV_DATA_SENSITIVE": (
        state.NvArea,
        {"pubInfo": "public", "authValue": "auth", "data": "data"},
    ),
    "TPM_TRANSPORT_INTERNAL": (
        volatile.StoredTransport,
        {
            "authData": "auth",
            "transPublic": "public",
            "transHandle": "handle",
            "transNonceEven": "nonce_even",
            "transDigest": "log",
        },
    ),
    "TPM_STANY_DATA": (  # 22.7, not 7.6
        daa_sessions.DaaSession,
        {"DAA_issuerSettings": "issuer", "DAA_tpmSpecific": "tpm"},
    ),
    "TPM_DAA_CONTEXT": (
        daa_sessions.DaaSession,
        {
            "DAA_digest": "digest",
            "DAA_contextSeed": "context_seed",
            "DAA_scratch": "scratch",
            "DAA_stage": "stage",
        },
    ),
    "TPM_DAA_JOINDATA": (
        daa_sessions.DaaSession,
        {
            "DAA_join_u0": "join_u0",
            "DAA_join_u1": "join_u1",
            "DAA_digest_n0": "digest_n0",
        },
    ),
}
"""Structures that never leave the TPM: where ours holds which field."""

NOT_HELD: Final = {
    "revMajor": "version.py: a constant",
    "revMinor": "as above",
    "pcrAttrib": "pcrs.py: constants",
    "rngState": "the operating system's generator has none of ours",
    "disableResetLock": "Lockout: it ends with time, not with TPM_Startup",
    "DAA_digestContext": "nothing can change an immutable value between two stages",
    "DAA_session": "22.5 stands here by itself",
    "DAA_joinSession": "so does 22.6",
}
HELD_OTHERWISE: Final = {
    "audit_counter": "the number of a TPM_COUNTER_VALUE whose label is fixed",
    "writes_without_owner": "a count up to 64 in one byte",
    "context_key": "an AES key, where the table has a TPM_KEY",
    "delegate_key": "as above",
    "daa_blob_key": "as above",
    "join_u1": "138 bytes, as the C declaration of 22.6 says; its table says 128",
}
"""Fields whose size is not that of the table."""


@pytest.mark.parametrize("name", HELD)
def test_what_never_leaves_the_tpm_is_held_as_its_table_says(name: str) -> None:
    of, names = HELD[name]
    _, fields = TABLES[name]
    left = {spec for spec, _ in fields} - {"tag"} - set(names)
    assert left <= set(NOT_HELD)
    for spec, spec_type in fields:
        codec = of.layout.codecs.get(names.get(spec, ""))
        if isinstance(codec, Uint | Fixed) and spec != "PCR":  # PCR: the table has one of them
            same = list(_ours(codec)) == _summed(_theirs(spec_type))[:1]
            assert same == (names[spec] not in HELD_OTHERWISE), spec


def test_what_is_not_held_is_in_a_table() -> None:
    held = {spec for name, (_, names) in HELD.items() for spec in names}
    told = {spec for name in HELD for spec, _ in TABLES[name][1]}
    assert set(NOT_HELD) <= told - held
    assert not set(HELD) & set(UNDECLARED)


ENUMERATIONS: Final[dict[str, type[IntEnum] | type[IntFlag]]] = {
    "TPM_RESOURCE_TYPE": const.ResourceType,
    "TPM_PAYLOAD_TYPE": const.Payload,
    "TPM_STARTUP_TYPE": const.StartupType,
    "TPM_PHYSICAL_PRESENCE": const.PhysicalPresence,
    "TPM_KEY_HANDLE": const.KeyHandleValue,
    "TPM_KEY_USAGE": const.KeyUsage,
    "TPM_ENC_SCHEME": const.EncScheme,
    "TPM_SIG_SCHEME": const.SigScheme,
    "TPM_AUTH_DATA_USAGE": const.AuthDataUsage,
    "TPM_KEY_FLAGS": const.KeyFlag,
    "TPM_CAPABILITY_AREA_get": const.Capability,
    "TPM_CAP_FLAG_SUBCAPS": const.CapFlag,
    "TPM_CAP_PROPERTY_SUBCAPS": const.CapProperty,
    "TPM_ALGORITHM_ID": const.KeyAlgorithm,
    "TPM_MIGRATE_SCHEME": const.MigrateScheme,
    "TPM_FAMILY_OPERATION": const.FamilyOperation,
    "TPM_FAMILY_FLAGS": const.FamilyFlag,
    "TPM_CMK_DELEGATE": const.CmkDelegate,
}
NUMBERS_OF_BITS: Final = {"TPM_FAMILY_FLAGS", "TPM_CMK_DELEGATE"}
"""Tables that give the place of each bit where we have its value."""

UNNAMED: Final = {
    "TPM_CAPABILITY_AREA_get": {"Unused"},
    "TPM_CAP_PROPERTY_SUBCAPS": {"open", "XX"},
    "TPM_ALGORITHM_ID": {"reserved"},
}
"""Values that the tables reserve."""


@pytest.mark.parametrize("name", ENUMERATIONS)
def test_an_enumeration_has_the_values_of_its_table(name: str) -> None:
    values: dict[str, int] = DATA["values"][name]
    wanted = {value for key, value in values.items() if key not in UNNAMED.get(name, ())}
    if name in NUMBERS_OF_BITS:
        wanted = {1 << place for place in wanted}
    assert {int(member) for member in ENUMERATIONS[name]} == wanted
