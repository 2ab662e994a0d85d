"""Identity creation and activation (Part 3 section 15)."""

from __future__ import annotations

import hashlib
from typing import Final

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.softtpm.engine.keys import ReleaseCondition
from hwtpm.softtpm.engine.release import check_release
from hwtpm.softtpm.engine.rsa import decrypt_given, sign_digest
from hwtpm.softtpm.engine.wrapping import check_properties, create_wrapped
from hwtpm.tpm12.commands.identity import (
    ActivateIdentity,
    ActivateIdentityReply,
    MakeIdentity,
    MakeIdentityReply,
)
from hwtpm.tpm12.const import EK_TYPE_ACTIVATE, KeyHandleValue, KeyUsage, Tag
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import (
    AsymCaContents,
    EkBlob,
    EkBlobActivate,
    IdentityContents,
    PubKey,
    SymmetricKey,
)
from hwtpm.wire import WireError

__all__: list[str] = []

_MIN_BITS: Final = 2048  # 15.1 action 1.a


@serves(MakeIdentity)
def make_identity(call: Call, request: MakeIdentity) -> MakeIdentityReply:
    """15.1. The new AuthData comes under the owner's session, which is the last one."""
    template = request.id_key_params
    auth = call.new_auth(request.identity_auth, number=len(call.sessions) - 1)
    call.tails[0].continue_session = 0
    srk = call.tpm.root_key(KeyHandleValue.SRK)
    check_release(call, srk.condition)
    if check_properties(call, template) < _MIN_BITS:
        raise Refuse(Rc.BAD_KEY_PROPERTY)
    if template.key_usage != KeyUsage.IDENTITY or template.migratable:
        raise Refuse(Rc.INVALID_KEYUSAGE)
    key, private = create_wrapped(call, srk, template, auth, call.tpm.permanent.tpm_proof)
    contents = IdentityContents(
        request.command.ordinal,
        request.label_priv_ca_digest,
        PubKey(key.algorithm_parms, key.pub_key),
    )
    binding = sign_digest(private, hashlib.sha1(contents.encode()).digest())
    return MakeIdentityReply(key, binding)


def _session_key(call: Call, plain: bytes, identity: bytes) -> SymmetricKey:
    """The session key in what the privacy CA sent to the identity with that public key digest."""
    if plain[:2] != Tag.EK_BLOB.to_bytes(2, "big"):
        contents = AsymCaContents.decode(plain)
        if contents.id_digest != identity:
            raise Refuse(Rc.BAD_PARAMETER)
        return contents.session_key
    blob = EkBlob.decode(plain)
    if blob.ek_type != EK_TYPE_ACTIVATE:
        raise Refuse(Rc.BAD_TYPE)
    activate = EkBlobActivate.decode(blob.blob)
    if activate.id_digest != identity:
        raise Refuse(Rc.BAD_PARAMETER)
    check_release(call, ReleaseCondition.of_short(activate.pcr_info))
    return activate.session_key


@serves(ActivateIdentity)
def activate_identity(call: Call, request: ActivateIdentity) -> ActivateIdentityReply:
    """15.2."""
    key = call.keys[0]
    check_release(call, key.condition)
    if key.key.key_usage != KeyUsage.IDENTITY:
        raise Refuse(Rc.BAD_PARAMETER)
    ek = call.tpm.root_key(KeyHandleValue.EK)
    plain = decrypt_given(ek.private, request.blob)
    try:
        return ActivateIdentityReply(_session_key(call, plain, key.public.digest()))
    except WireError:
        raise Refuse(Rc.BAD_PARAM_SIZE) from None
