"""Endorsement key handling (Part 3 section 14)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Final

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.softtpm.engine.rsa import modulus_of, prime_of, rsa_parms
from hwtpm.softtpm.engine.state import ZERO_DIGEST, RootKey
from hwtpm.tpm12.commands.endorsement import (
    CreateEndorsementKeyPair,
    CreateEndorsementKeyPairReply,
    OwnerReadInternalPub,
    OwnerReadInternalPubReply,
    ReadPubek,
    ReadPubekReply,
)
from hwtpm.tpm12.const import (
    DIGEST_SIZE,
    AuthDataUsage,
    EncScheme,
    KeyHandleValue,
    KeyUsage,
    SigScheme,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import LEGACY_FORM, Key, PubKey

__all__: list[str] = []

_EK_BITS: Final = 2048


def _checksum(public: PubKey, anti_replay: bytes) -> bytes:
    return hashlib.sha1(public.encode() + anti_replay).digest()


@serves(CreateEndorsementKeyPair)
def create_endorsement_key_pair(
    call: Call, request: CreateEndorsementKeyPair
) -> CreateEndorsementKeyPairReply:
    """14.1."""
    permanent = call.tpm.permanent
    if permanent.ek is not None:
        raise Refuse(Rc.DISABLED_CMD)
    if rsa_parms(request.key_info).key_length != _EK_BITS:
        raise Refuse(Rc.BAD_KEY_PROPERTY)
    private = call.tpm.entropy.rsa_key(_EK_BITS)
    key = Key(
        form=LEGACY_FORM,
        key_usage=KeyUsage.STORAGE,
        key_flags=0,
        auth_data_usage=AuthDataUsage.ALWAYS,
        algorithm_parms=replace(
            request.key_info, enc_scheme=EncScheme.RSA_OAEP_SHA1_MGF1, sig_scheme=SigScheme.NONE
        ),
        pcr_info=b"",
        pub_key=modulus_of(private.public_key()),
        enc_data=b"",
    )
    call.tpm.permanent = replace(
        permanent,
        ek=RootKey(key, prime_of(private), ZERO_DIGEST),
        daa_seed=call.tpm.random(DIGEST_SIZE),
        flags=replace(permanent.flags, cekp_used=True, enable_revoke_ek=False),
    )
    public = PubKey(key.algorithm_parms, key.pub_key)
    return CreateEndorsementKeyPairReply(public, _checksum(public, request.anti_replay))


@serves(ReadPubek)
def read_pubek(call: Call, request: ReadPubek) -> ReadPubekReply:
    """14.4."""
    if not call.tpm.permanent.flags.read_pubek:
        raise Refuse(Rc.DISABLED_CMD)
    public = call.tpm.root_key(KeyHandleValue.EK).public
    return ReadPubekReply(public, _checksum(public, request.anti_replay))


@serves(OwnerReadInternalPub)
def owner_read_internal_pub(call: Call, request: OwnerReadInternalPub) -> OwnerReadInternalPubReply:
    """14.5."""
    if request.key_handle not in (KeyHandleValue.EK, KeyHandleValue.SRK):
        raise Refuse(Rc.BAD_PARAMETER)
    return OwnerReadInternalPubReply(call.tpm.root_key(request.key_handle).public)
