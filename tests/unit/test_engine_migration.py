"""Migration blobs that libtpms does not survive; ours refuses them and goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from engine_rig import (
    MIGRATION_AUTH,
    OAEP,
    OWNER_AUTH,
    SRK,
    SRK_AUTH,
    Rig,
    new_identity,
    owned_engine,
    public_of,
)
from hypothesis import given
from hypothesis import strategies as st

from hwtpm.client.rsa import from_public_key
from hwtpm.softtpm.engine.migrating import layer, unlayer
from hwtpm.softtpm.engine.refusal import Refuse
from hwtpm.tpm12.commands.migration import (
    AuthorizeMigrationKey,
    ConvertMigrationBlob,
    CreateMigrationBlob,
)
from hwtpm.tpm12.commands.sessions import OIAP
from hwtpm.tpm12.const import EncScheme, MigrateScheme, Payload, SigScheme
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import StoreAsymKey

DIGESTS = st.binary(min_size=20, max_size=20)


@pytest.fixture(scope="module")
def owned() -> Iterator[tuple[Rig, rsa.RSAPublicKey]]:
    identity = new_identity()
    rig = Rig(owned_engine(identity))
    yield rig, public_of(identity.srk.key.pub_key)
    rig.client.close()


@pytest.mark.parametrize("size", [0, 1, 20, 40, 41, 45, 198])
def test_too_little_is_in_a_migration_blob(owned: tuple[Rig, rsa.RSAPublicKey], size: int) -> None:
    rig, srk = owned
    request = ConvertMigrationBlob(SRK, srk.encrypt(bytes(size), OAEP), bytes(size))
    assert rig.refusal(request, SRK_AUTH) == Rc.DECRYPT_ERROR
    assert rig.refusal(OIAP()) == Rc.SUCCESS


@pytest.mark.parametrize(
    ("size", "code"),
    [(0, Rc.INVALID_STRUCTURE), (15, Rc.INVALID_STRUCTURE), (16, 0), (128, 0), (144, 0)],
)
def test_a_prime_of_any_size_under_a_parent(
    owned: tuple[Rig, rsa.RSAPublicKey], size: int, code: int
) -> None:
    """Its size is the sender's claim; whether it is a key shows when it is loaded."""
    rig, srk = owned
    destination = from_public_key(
        srk, enc_scheme=EncScheme.RSA_OAEP_SHA1_MGF1, sig_scheme=SigScheme.NONE
    )
    auth = rig.run(AuthorizeMigrationKey(MigrateScheme.MIGRATE, destination), OWNER_AUTH).out_data
    store = StoreAsymKey(Payload.ASYM, bytes(20), MIGRATION_AUTH, bytes(20), bytes(size))
    enc_data = srk.encrypt(store.encode(), OAEP)
    request = CreateMigrationBlob(SRK, MigrateScheme.MIGRATE, auth, enc_data)
    assert rig.refusal(request, SRK_AUTH, MIGRATION_AUTH) == code
    assert rig.refusal(OIAP()) == Rc.SUCCESS


@given(
    st.builds(
        StoreAsymKey,
        st.integers(0, 255),
        DIGESTS,
        DIGESTS,
        DIGESTS,
        st.binary(min_size=16, max_size=128),
    )
)
def test_a_key_comes_out_of_its_layers_as_it_went_in(store: StoreAsymKey) -> None:
    assert unlayer(layer(store)) == store


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_get_refused(o1: bytes) -> None:
    with pytest.raises(Refuse) as refused:
        unlayer(o1)
    assert refused.value.rc in (Rc.DECRYPT_ERROR, Rc.BAD_PARAM_SIZE)
