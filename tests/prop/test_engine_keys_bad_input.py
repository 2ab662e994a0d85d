"""Damaged commands to our engine's key chapters: always an answer, never an exception."""

from __future__ import annotations

import functools

import pytest
from engine_rig import (
    DATA_AUTH,
    KEY_AUTH,
    OAEP,
    OWNER_AUTH,
    SRK,
    SRK_AUTH,
    Rig,
    key12,
    new_identity,
    owned_engine,
    pcr_info_long,
    public_of,
    template,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from hwtpm.tpm12.commands.cryptography import Sign
from hwtpm.tpm12.commands.endorsement import CreateEndorsementKeyPair, ReadPubek
from hwtpm.tpm12.commands.identity import ActivateIdentity
from hwtpm.tpm12.commands.integrity import Quote, Quote2
from hwtpm.tpm12.commands.storage import GetPubKey, LoadKey2, UnBind, Unseal
from hwtpm.tpm12.const import AuthDataUsage, KeyUsage, Payload
from hwtpm.tpm12.frame import build_request, parse_response
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import Request
from hwtpm.tpm12.types import BoundData, PcrSelection, StoredData
from hwtpm.wire import Struct

FREE = AuthDataUsage.NEVER


class Bench:
    """An engine whose keys need no authorisation, and a right command of each kind."""

    def __init__(self) -> None:
        identity = new_identity()
        self.rig = rig = Rig(owned_engine(identity))
        parent = rig.make_key(template(KeyUsage.STORAGE, auth_data_usage=FREE)).handle
        info = pcr_info_long((1,), bytes(20))
        child = rig.create_key(
            key12(template(KeyUsage.SIGNING, 512, pcr_info=info)), parent, KEY_AUTH
        )
        signing = rig.make_key(template(KeyUsage.SIGNING, 512, auth_data_usage=FREE)).handle
        binding = rig.make_key(template(KeyUsage.BIND, 1024, auth_data_usage=FREE))
        cipher = public_of(binding.key.pub_key).encrypt(
            BoundData(Payload.BIND, b"x").encode(), OAEP
        )
        self.aik = rig.load(rig.make_identity(template(KeyUsage.IDENTITY)).id_key).handle
        self.ek = public_of(identity.ek.key.pub_key)
        self.srk = public_of(identity.srk.key.pub_key)
        requests: tuple[Request[Struct], ...] = (
            LoadKey2(parent, child),
            Sign(signing, bytes(20)),
            UnBind(binding.handle, cipher),
            GetPubKey(signing),
            Quote(signing, bytes(20), PcrSelection.of((1,))),
            Quote2(signing, bytes(20), PcrSelection.of((1,)), True),
            ReadPubek(bytes(20)),
            CreateEndorsementKeyPair(bytes(20), child.algorithm_parms),
        )
        self.frames = tuple(build_request(r.command.ordinal, r.encode()) for r in requests)


@functools.lru_cache(maxsize=1)
def bench() -> Bench:
    return Bench()


@pytest.fixture(autouse=True, scope="module")
def _made_once() -> None:
    bench()


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_damaged_commands_get_an_answer(data: st.DataObject) -> None:
    frame = bytearray(data.draw(st.sampled_from(bench().frames)))
    body = st.integers(10, len(frame) - 1)
    for at in data.draw(st.lists(body, min_size=1, max_size=4)):
        frame[at] = data.draw(st.integers(0, 255))
    answer = parse_response(bench().rig.wire.execute(bytes(frame)))
    assert answer.rc == 0 or answer.body == b""


@settings(max_examples=100, deadline=None)
@given(plain=st.binary(max_size=200), head=st.sampled_from([b"", b"\0\x0c\0\1", b"\0\0\0\6"]))
def test_any_plain_text_to_activate_identity_gets_an_answer(plain: bytes, head: bytes) -> None:
    cipher = bench().ek.encrypt(head + plain, OAEP)
    request = ActivateIdentity(bench().aik, cipher)
    rc = bench().rig.refusal(request, KEY_AUTH, OWNER_AUTH)
    assert rc in (Rc.BAD_PARAM_SIZE, Rc.BAD_PARAMETER, Rc.BAD_TYPE)


@settings(max_examples=100, deadline=None)
@given(plain=st.binary(max_size=214), form=st.sampled_from([0x01010000, 0x00160000, 0x00160005]))
def test_any_plain_text_to_unseal_is_notsealed(plain: bytes, form: int) -> None:
    blob = StoredData(form, b"", bench().srk.encrypt(plain, OAEP))
    rc = bench().rig.refusal(Unseal(SRK, blob), SRK_AUTH, DATA_AUTH)
    assert rc == Rc.NOTSEALED_BLOB
