"""Our engine's sessions where libtpms does otherwise: nothing goes round a log or the lockout."""

from __future__ import annotations

import hmac

import pytest
from engine_rig import DATA_AUTH, KEY_AUTH, Identity, Rig, owned_engine, template

from hwtpm.client import transport
from hwtpm.client.rsa import oaep_encrypt, public_part, to_public_key
from hwtpm.clock import FakeClock
from hwtpm.errors import TpmError
from hwtpm.softtpm.engine.lockout import THRESHOLD
from hwtpm.tpm12.commands.context import SaveContext
from hwtpm.tpm12.commands.deprecated import ChangeAuthAsymFinish, ChangeAuthAsymStart
from hwtpm.tpm12.commands.integrity import PcrRead
from hwtpm.tpm12.const import AuthDataUsage, EntityType, KeyUsage, ResourceType
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types.certify import ChangeAuthValidate

NEW_AUTH = b"n" * 20


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_transport_session_cannot_save_itself(tpm_identity: Identity, exclusive: bool) -> None:
    """24.2 description 7.a leaves the outcome open; ours refuses and the session goes on."""
    rig = Rig(owned_engine(tpm_identity))
    session = transport.establish_clear(rig.client, exclusive=exclusive)
    with pytest.raises(TpmError) as refused:
        session.tpm.execute(SaveContext(session.handle, ResourceType.TRANS, bytes(16)))
    assert refused.value.rc == Rc.INVALID_RESOURCE
    assert session.tpm.execute(PcrRead(0)).out_digest == bytes(20)


def test_new_auth_data_the_asymmetric_way_is_refused_during_the_lockout(
    tpm_identity: Identity,
) -> None:
    """27.4.2 proves the old AuthData without a session of its own, or any if its parent is free."""
    clock = FakeClock()
    rig = Rig(owned_engine(tpm_identity, clock=clock))
    parent = rig.make_key(template(KeyUsage.STORAGE, auth_data_usage=AuthDataUsage.NEVER)).handle
    child = rig.create_key(template(KeyUsage.SIGNING, 512), parent, KEY_AUTH)
    identity = rig.load(rig.make_identity(template(KeyUsage.IDENTITY)).id_key).handle
    parms = template(KeyUsage.AUTHCHANGE, 1024).algorithm_parms
    started = rig.run(ChangeAuthAsymStart(identity, bytes(20), parms), KEY_AUTH)
    validate = ChangeAuthValidate(NEW_AUTH, bytes(20)).encode()
    encrypted = oaep_encrypt(to_public_key(public_part(started.temp_key)), validate)

    def refusal(old_auth: bytes) -> int:
        link = hmac.digest(old_auth, NEW_AUTH, "sha1")
        return rig.refusal(
            ChangeAuthAsymFinish(
                parent, started.eph_handle, EntityType.KEY, link, encrypted, child.enc_data
            )
        )

    tries = [refusal(DATA_AUTH) for _ in range(THRESHOLD + 2)]
    assert tries == [Rc.AUTHFAIL] * (THRESHOLD + 1) + [Rc.DEFEND_LOCK_RUNNING]
    assert refusal(KEY_AUTH) == Rc.DEFEND_LOCK_RUNNING
    clock.sleep(1)
    assert refusal(KEY_AUTH) == 0
