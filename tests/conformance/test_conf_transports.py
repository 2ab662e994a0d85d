"""A smoke subset through the addresses that users type (`hwtpm.transport.address`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conformance_rig import OWNER, SRK, USAGE, WRONG

from hwtpm.client import keys, nv, owner, pcr, quote, seal
from hwtpm.client.rsa import to_public_key
from hwtpm.client.session import Tpm
from hwtpm.errors import TpmError
from hwtpm.secret import Secret
from hwtpm.tpm12.const import NvPermission
from hwtpm.tpm12.rc import Rc
from hwtpm.transport.address import open_transport

NONCE = hashlib.sha1(b"smoke").digest()


@pytest.fixture(params=["sim:", "libtpms:", "swtpm:"])
def tpm(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tpm]:
    address = request.param + ("" if request.param == "libtpms:" else str(tmp_path / "state"))
    with Tpm(open_transport(address)) as opened:
        yield opened


def test_from_factory_to_quote_and_back(tpm: Tpm) -> None:
    assert not tpm.attached.real_hardware
    ek = owner.create_ek(tpm)
    owner.take_ownership(tpm, OWNER, SRK, ek=ek)
    root = keys.srk(SRK)
    assert pcr.extend(tpm, 7, NONCE) == hashlib.sha1(bytes(20) + NONCE).digest()

    blob = seal.seal(
        tpm, root, Secret(b"disk key"), USAGE, policy=seal.pcr_policy({7: pcr.read(tpm, 7)})
    )
    assert seal.unseal(tpm, root, blob, USAGE).reveal() == b"disk key"
    with pytest.raises(TpmError) as refused:
        seal.unseal(tpm, root, blob, WRONG)
    assert refused.value.rc == Rc.AUTH2FAIL

    made = keys.create(tpm, root, keys.signing_key(bits=1024), USAGE)
    with keys.loaded(tpm, root, made, USAGE) as key:
        values = pcr.read_many(tpm, [0, 7]).by_index()
        what = quote.quote(tpm, key, NONCE, values)
        assert quote.verify_quote(to_public_key(keys.get_pub(tpm, key)), what, NONCE, values)

    nv.lock(tpm)
    permissions = NvPermission.OWNERREAD | NvPermission.OWNERWRITE
    nv.define(tpm, 0x1000, 600, permissions, owner_auth=OWNER)
    nv.write(tpm, 0x1000, bytes(range(200)) * 3, owner_auth=OWNER)
    assert nv.read(tpm, 0x1000, owner_auth=OWNER) == bytes(range(200)) * 3

    pcr.extend(tpm, 7, NONCE)
    with pytest.raises(TpmError) as refused:
        seal.unseal(tpm, root, blob, USAGE)
    assert refused.value.rc == Rc.WRONGPCRVAL
    owner.owner_clear(tpm, OWNER)
