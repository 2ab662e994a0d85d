"""Recipes for keys: binding, new AuthData, certificates, identities, the owner's hold on them."""

from __future__ import annotations

import hmac
from dataclasses import replace
from typing import Final

from engine_rig import DATA_AUTH, KEY_AUTH
from fuzz_recipes import Bench, Skip, recipe
from fuzz_values import KeyModel

from hwtpm.client.rsa import oaep_encrypt, public_part, to_public_key
from hwtpm.errors import Unsupported
from hwtpm.tpm12.const import EncScheme, EntityType, KeyAlgorithm, KeyUsage, Payload, SigScheme
from hwtpm.tpm12.table import TABLE
from hwtpm.tpm12.types import (
    AsymCaContents,
    BoundData,
    KeyParms,
    RsaKeyParms,
    StoredData,
    SymmetricKey,
)
from hwtpm.tpm12.types.certify import ChangeAuthValidate

NEW_AUTH: Final = b"N" * 20
SIGNS: Final = (KeyUsage.SIGNING, KeyUsage.LEGACY)
ADCP: Final = 4
EPHEMERAL: Final = KeyParms(
    KeyAlgorithm.RSA,
    EncScheme.RSA_OAEP_SHA1_MGF1,
    SigScheme.NONE,
    RsaKeyParms(1024, 2, b"").encode(),
)


@recipe("TPM_UnBind")
def unbind(bench: Bench) -> None:
    key = bench.key(KeyUsage.BIND, KeyUsage.LEGACY)
    payload = Payload.BIND if bench.chance(0.9) else bench.pick(*Payload)
    if len(bench.public(key).pub_key) < 128:
        raise Skip
    plain = BoundData(payload, bench.rng.randbytes(bench.pick(0, 1, 20, 60))).encode()
    blob = oaep_encrypt(to_public_key(bench.public(key)), plain)
    bench.send("TPM_UnBind", {"key_handle": bench.handle(key), "in_data": blob}, bench.auths(key))


@recipe("TPM_LoadKey", "TPM_LoadKey2")
def load(bench: Bench) -> None:
    bench.episode.load(bench.rng.choice(bench.grammar.shelf))


@recipe("TPM_ChangeAuth")
def change_auth(bench: Bench) -> None:
    """Of a key, or of data that was sealed under the SRK."""
    model = bench.model(lambda model: True)
    sealed = [
        blob
        for name in bench.grammar.sealed
        if isinstance(blob := bench.sides[0].blobs.get(name), StoredData)
    ]
    data = bench.rng.choice(sealed) if sealed and bench.chance(0.4) else None
    old = DATA_AUTH if data else model.auth
    auths = bench.auths("srk", old, osap=True)
    fields = {
        "parent_handle": bench.handle("srk"),
        "protocol_id": ADCP,
        "new_auth": bench.encrypted(auths[0], NEW_AUTH),
        "entity_type": EntityType.DATA if data else EntityType.KEY,
        "enc_data": data.enc_data if data else model.key.enc_data,
    }
    replies = bench.send("TPM_ChangeAuth", fields, auths, new_secret=True)
    if data is None:
        changed = bench.one_of(replies).out_data
        bench.shelve(KeyModel(replace(model.key, enc_data=changed), NEW_AUTH))


@recipe("TPM_ChangeAuthAsymStart", "TPM_ChangeAuthAsymFinish")
def change_auth_asym(bench: Bench) -> None:
    """The asymmetric way (27.4): for the SRK as parent the owner authorises."""
    identity = bench.key(KeyUsage.IDENTITY)
    nonce = bench.rng.randbytes(20)
    fields = {"id_handle": bench.handle(identity), "anti_replay": nonce, "temp_key": EPHEMERAL}
    started = bench.send("TPM_ChangeAuthAsymStart", fields, bench.auths(identity), meant=True)
    name = bench.grammar.name("ephemeral")
    validate = ChangeAuthValidate(NEW_AUTH, nonce).encode()
    for side, reply in zip(bench.sides, started, strict=True):
        side.handles[name] = reply.eph_handle
        if len(reply.temp_key.pub_key) < 128:
            raise Skip  # a random size: too short for the new secret
        ephemeral = to_public_key(public_part(reply.temp_key))
        try:
            side.blobs[name] = oaep_encrypt(ephemeral, validate)
        except Unsupported:
            raise Skip from None  # the key that was asked for is too small
    model = bench.model(lambda model: True)
    parent, entity = ("srk", "owner") if bench.chance(0.8) else (bench.key(KeyUsage.STORAGE),) * 2
    finish = {
        "parent_handle": bench.handle(parent),
        "eph_handle": lambda side: side.handles[name],
        "entity_type": EntityType.KEY,
        "new_auth_link": hmac.digest(model.auth, NEW_AUTH, "sha1"),
        "enc_new_auth": lambda side: side.blobs[name],
        "enc_data": model.key.enc_data,
    }
    try:
        replies = bench.send("TPM_ChangeAuthAsymFinish", finish, bench.auths(entity))
        changed = bench.one_of(replies).out_data
        bench.shelve(KeyModel(replace(model.key, enc_data=changed), NEW_AUTH))
    finally:
        bench.drop_handle(name)


@recipe("TPM_CertifyKey", "TPM_CertifyKey2")
def certify(bench: Bench) -> None:
    first = bench.key(*SIGNS, KeyUsage.IDENTITY)
    second = bench.key() if bench.chance(0.9) else "srk"
    nonce = bench.rng.randbytes(20)
    handles = {"cert_handle": bench.handle(first), "key_handle": bench.handle(second)}
    if bench.chance(0.5):
        auths = bench.auths(first, second)
        bench.send("TPM_CertifyKey", {**handles, "anti_replay": nonce}, auths)
        return
    digest = bench.pick(bytes(20), bench.srk.digest(), bench.rng.randbytes(20))
    fields = {**handles, "anti_replay": nonce, "migration_pub_digest": digest}
    bench.send("TPM_CertifyKey2", fields, bench.auths(second, first))


@recipe("TPM_ActivateIdentity")
def activate(bench: Bench) -> None:
    identity = bench.key(KeyUsage.IDENTITY)
    session_key = SymmetricKey(KeyAlgorithm.AES128, EncScheme.SYM_CTR, bench.rng.randbytes(16))
    name = bench.public(identity).digest() if bench.chance(0.9) else bytes(20)
    blob = oaep_encrypt(to_public_key(bench.ek), AsymCaContents(session_key, name).encode())
    fields = {"id_key_handle": bench.handle(identity), "blob": blob}
    bench.send("TPM_ActivateIdentity", fields, bench.auths(identity, "owner"))


@recipe("TPM_KeyControlOwner")
def control(bench: Bench) -> None:
    """Owner evict, given back most of the time: such keys fill the TPM."""
    key = bench.key()
    fields = {
        "key_handle": bench.handle(key),
        "pub_key": bench.public(key) if bench.chance(0.9) else bench.srk,
        "bit_name": 1 if bench.chance(0.95) else bench.pick(0, 2, 0xFFFFFFFF),
    }
    usage = bench.grammar.loaded[key].key.key_usage
    on, off = {**fields, "bit_value": True}, {**fields, "bit_value": False}
    bench.send("TPM_KeyControlOwner", on, bench.auths("owner"), usage=usage)
    if bench.chance(0.3):
        bench.episode.flush(TABLE["TPM_FlushSpecific"], "key")
    bench.send("TPM_KeyControlOwner", off, bench.auths("owner"), usage=usage)


@recipe("TPM_MakeIdentity")
def make_identity(bench: Bench) -> None:
    auths = bench.auths("owner", osap=True)
    auths = (*bench.auths(bench.secret("srk")), *auths)
    if auths[0].session == auths[1].session:
        return
    template = bench.grammar.identity_template()
    fields = {
        "identity_auth": bench.encrypted(auths[1], KEY_AUTH),
        "label_priv_ca_digest": bench.rng.randbytes(20),
        "id_key_params": template,
    }
    replies = bench.send("TPM_MakeIdentity", fields, auths)
    bench.shelve(KeyModel(bench.one_of(replies).id_key, KEY_AUTH))


@recipe("TPM_CreateWrapKey")
def create_wrap_key(bench: Bench) -> None:
    parent = bench.key(KeyUsage.STORAGE) if bench.chance(0.25) else "srk"
    (auth,) = bench.auths(parent, osap=True)
    migration = b"m" * 20
    fields = {
        "parent_handle": bench.handle(parent),
        "data_usage_auth": bench.encrypted(auth, KEY_AUTH),
        "data_migration_auth": lambda side: side.encrypt_auth(
            auth.session, migration, auth.nonce_odd
        ),
        "key_info": bench.grammar.key_template(),
    }
    replies = bench.send("TPM_CreateWrapKey", fields, (auth,))
    bench.shelve(KeyModel(bench.one_of(replies).wrapped_key, KEY_AUTH, parent))
