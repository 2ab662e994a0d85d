"""Endorsement key handling (Part 3 section 14) and TPM_OwnerReadPubek (section 27.6)."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from typing import Final

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.softtpm.engine.chapters.ownership import clear_owner
from hwtpm.softtpm.engine.rsa import modulus_of, prime_of, rsa_parms
from hwtpm.softtpm.engine.state import ZERO_DIGEST, RootKey
from hwtpm.tpm12.commands.deprecated import OwnerReadPubek, OwnerReadPubekReply
from hwtpm.tpm12.commands.endorsement import (
    CreateEndorsementKeyPair,
    CreateEndorsementKeyPairReply,
    CreateRevocableEK,
    CreateRevocableEKReply,
    OwnerReadInternalPub,
    OwnerReadInternalPubReply,
    ReadPubek,
    ReadPubekReply,
    RevokeTrust,
)
from hwtpm.tpm12.const import (
    DIGEST_SIZE,
    AuthDataUsage,
    EncScheme,
    KeyHandleValue,
    KeyUsage,
    NvIndex,
    SigScheme,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply
from hwtpm.tpm12.types import LEGACY_FORM, Key, KeyParms, PubKey

__all__: list[str] = []

_EK_BITS: Final = 2048


def _checksum(public: PubKey, anti_replay: bytes) -> bytes:
    return hashlib.sha1(public.encode() + anti_replay).digest()


def _create(call: Call, key_info: KeyParms) -> PubKey:
    """Actions 1 to 3 and 5 to 10 of 14.1."""
    permanent = call.tpm.permanent
    if permanent.ek is not None:
        raise Refuse(Rc.DISABLED_CMD)
    if rsa_parms(key_info).key_length != _EK_BITS:
        raise Refuse(Rc.BAD_KEY_PROPERTY)
    private = call.tpm.entropy.rsa_key(_EK_BITS)
    key = Key(
        form=LEGACY_FORM,
        key_usage=KeyUsage.STORAGE,
        key_flags=0,
        auth_data_usage=AuthDataUsage.ALWAYS,
        algorithm_parms=replace(
            key_info, enc_scheme=EncScheme.RSA_OAEP_SHA1_MGF1, sig_scheme=SigScheme.NONE
        ),
        pcr_info=b"",
        pub_key=modulus_of(private.public_key()),
        enc_data=b"",
    )
    call.tpm.permanent = replace(
        permanent.with_new_daa_secrets(call.tpm.random),
        ek=RootKey(key, prime_of(private), ZERO_DIGEST),
        flags=replace(permanent.flags, cekp_used=True, enable_revoke_ek=False),
    )
    return PubKey(key.algorithm_parms, key.pub_key)


@serves(CreateEndorsementKeyPair)
def create_endorsement_key_pair(
    call: Call, request: CreateEndorsementKeyPair
) -> CreateEndorsementKeyPairReply:
    """14.1."""
    public = _create(call, request.key_info)
    return CreateEndorsementKeyPairReply(public, _checksum(public, request.anti_replay))


@serves(CreateRevocableEK)
def create_revocable_ek(call: Call, request: CreateRevocableEK) -> CreateRevocableEKReply:
    """14.2."""
    tpm = call.tpm
    public = _create(call, request.key_info)
    reset = tpm.random(DIGEST_SIZE) if request.generate_reset else request.input_ekreset
    flags = replace(tpm.permanent.flags, enable_revoke_ek=True)
    tpm.permanent = replace(tpm.permanent, ek_reset=reset, flags=flags)
    return CreateRevocableEKReply(public, _checksum(public, request.anti_replay), reset)


@serves(RevokeTrust)
def revoke_trust(call: Call, request: RevokeTrust) -> NoReply:
    """14.3. All that is left are NV areas that any owner would have kept and nobody shipped."""
    tpm = call.tpm
    if not tpm.permanent.flags.enable_revoke_ek:
        raise Refuse(Rc.PERMANENTEK)
    if not hmac.compare_digest(request.ekreset, tpm.permanent.ek_reset):
        raise Refuse(Rc.AUTHFAIL)
    call.require_presence()
    clear_owner(call)
    permanent = tpm.permanent.with_new_daa_secrets(tpm.random)
    areas = tuple(a for a in permanent.nv_areas if not a.public.nv_index & NvIndex.D_BIT)
    flags = replace(permanent.flags, nv_locked=False, enable_revoke_ek=False)
    tpm.permanent = replace(permanent, nv_areas=areas, flags=flags, ek=None, ek_reset=ZERO_DIGEST)
    return NoReply()


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


@serves(OwnerReadPubek)
def owner_read_pubek(call: Call, request: OwnerReadPubek) -> OwnerReadPubekReply:
    """27.6."""
    return OwnerReadPubekReply(call.tpm.root_key(KeyHandleValue.EK).public)
