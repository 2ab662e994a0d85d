"""Recipes for keys that move: migration blobs, authorities, certified migration keys."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from engine_rig import KEY_AUTH, MIGRATION_AUTH, OWNER_AUTH, private_of, root_key, template
from fuzz_recipes import Bench, recipe
from fuzz_targets import QuickKeys
from fuzz_values import KeyModel

from hwtpm.client.rsa import from_public_key
from hwtpm.tpm12.const import (
    EncScheme,
    KeyFlag,
    KeyUsage,
    MigrateScheme,
    SigScheme,
)
from hwtpm.tpm12.types import KEY12_FORM, PubKey
from hwtpm.tpm12.types.migration import CmkAuth, MsaComposite

AUTHORITY: Final = private_of(root_key(QuickKeys(b"authority").rsa_key(2048)))
SIGNS: Final = from_public_key(AUTHORITY.public_key())
ENCRYPTS: Final = from_public_key(
    AUTHORITY.public_key(), enc_scheme=EncScheme.RSA_OAEP_SHA1_MGF1, sig_scheme=SigScheme.NONE
)
MSA: Final = MsaComposite((bytes(20), ENCRYPTS.digest(), SIGNS.digest()))
CMK: Final = KeyFlag.MIGRATABLE | KeyFlag.MIGRATE_AUTHORITY


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data).digest()


def _authorised(bench: Bench, public: PubKey, scheme: int) -> Any:
    """What each TPM takes for the owner's word: the digest in it is no other's."""
    fields = {"migration_scheme": scheme, "migration_key": public}
    replies = bench.send("TPM_AuthorizeMigrationKey", fields, bench.auths("owner"))
    name = bench.grammar.name("authorised")
    bench.by_side(name, [reply.out_data for reply in replies])
    return lambda side: side.blobs[name]


@recipe("TPM_CreateMigrationBlob", "TPM_ConvertMigrationBlob", "TPM_MigrateKey")
def migrate(bench: Bench) -> None:
    """A migratable key from the SRK to a destination: rewrapped, at once or by an authority."""
    model = bench.model(lambda model: model.key.key_flags & CMK == KeyFlag.MIGRATABLE)
    rewrap = bench.chance(0.25)
    destination = bench.key(KeyUsage.STORAGE) if bench.chance(0.4) else "srk"
    by = bench.key(KeyUsage.MIGRATE) if not rewrap and bench.chance(0.4) else None
    scheme = MigrateScheme.REWRAP if rewrap else MigrateScheme.MIGRATE
    fields = {
        "parent_handle": bench.handle("srk"),
        "migration_type": scheme if bench.chance(0.95) else bench.pick(*MigrateScheme),
        "migration_key_auth": _authorised(bench, bench.public(by or destination), scheme),
        "enc_data": model.key.enc_data,
    }
    auths = bench.auths("srk", MIGRATION_AUTH)
    authorised = fields["migration_key_auth"](bench.sides[0])
    scheme = authorised.migration_scheme
    blob = bench.one_of(bench.send("TPM_CreateMigrationBlob", fields, auths, scheme=scheme))
    data = blob.out_data
    if by is not None:
        passed = {
            "ma_key_handle": bench.handle(by),
            "pub_key": bench.public(destination),
            "in_data": data,
        }
        data = bench.one_of(bench.send("TPM_MigrateKey", passed, bench.auths(by))).out_data
    if not rewrap or bench.chance(0.1):
        convert = {
            "parent_handle": bench.handle(destination),
            "in_data": data,
            "random": blob.random if bench.chance(0.95) else blob.random[::-1],
        }
        replies = bench.send("TPM_ConvertMigrationBlob", convert, bench.auths(destination))
        data = bench.one_of(replies).out_data
    bench.shelve(KeyModel(replace(model.key, enc_data=data), model.auth, destination))


@recipe("TPM_CMK_ApproveMA", "TPM_CMK_CreateKey")
def create_cmk(bench: Bench) -> None:
    """A key that only the authorities of MSA can move."""
    approve = {"migration_authority_digest": MSA.digest()}
    approval = bench.one_of(bench.send("TPM_CMK_ApproveMA", approve, bench.auths("owner")))
    parent = bench.key(KeyUsage.STORAGE) if bench.chance(0.1) else "srk"
    (auth,) = bench.auths(parent, osap=True)
    usage = bench.pick(KeyUsage.SIGNING, KeyUsage.SIGNING, KeyUsage.BIND, *KeyUsage)
    bits = 2048 if usage == KeyUsage.STORAGE else 1024
    wanted = template(usage, bits, key_flags=CMK if bench.chance(0.9) else KeyFlag.MIGRATABLE)
    if bench.chance(0.95):
        wanted = replace(wanted, form=KEY12_FORM)
    fields = {
        "parent_handle": bench.handle(parent),
        "data_usage_auth": bench.encrypted(auth, KEY_AUTH),
        "key_info": wanted,
        "migration_authority_approval": approval.out_data,
        "migration_authority_digest": MSA.digest(),
    }
    made = bench.one_of(bench.send("TPM_CMK_CreateKey", fields, (auth,)))
    bench.shelve(KeyModel(made.wrapped_key, KEY_AUTH, parent))


def _ticket(bench: Bench, signed: bytes) -> bytes:
    signature = AUTHORITY.sign(signed, padding.PKCS1v15(), hashes.SHA1())
    fields = {
        "verification_key": SIGNS,
        "signed_data": _sha1(signed),
        "signature_value": signature,
    }
    replies = bench.send("TPM_CMK_CreateTicket", fields, bench.auths("owner"))
    ticket: bytes = bench.one_of(replies).sig_ticket
    return ticket


@recipe("TPM_CMK_CreateTicket", "TPM_CMK_CreateBlob", "TPM_CMK_ConvertMigration")
def move_cmk(bench: Bench) -> None:
    """A certified migration key to its authority, or back under the SRK with a ticket."""
    model = bench.model(lambda model: model.key.key_flags & CMK == CMK)
    approved = CmkAuth(bytes(20), bench.srk.digest(), model.public.digest())
    back = bench.chance(0.7)
    restrict = MigrateScheme.RESTRICT_APPROVE if back else MigrateScheme.RESTRICT_MIGRATE
    ticket = _ticket(bench, approved.encode()) if back else b""
    to = _authorised(bench, bench.srk if back else ENCRYPTS, restrict)
    fields = {
        "parent_handle": bench.handle("srk"),
        "migration_type": restrict if bench.chance(0.95) else bench.pick(*MigrateScheme),
        "migration_key_auth": to,
        "pub_source_key_digest": model.public.digest(),
        "msa_list": MSA,
        "restrict_ticket": approved.encode() if back else b"",
        "sig_ticket": ticket,
        "enc_data": model.key.enc_data,
    }
    blob = bench.one_of(bench.send("TPM_CMK_CreateBlob", fields, bench.auths("srk"), meant=True))
    if not back:
        return
    convert = {
        "parent_handle": bench.handle("srk"),
        "restrict_ticket": approved,
        "sig_ticket": ticket,
        "migrated_key": replace(model.key, enc_data=blob.out_data),
        "msa_list": MSA,
        "random": blob.random,
    }
    replies = bench.send("TPM_CMK_ConvertMigration", convert, bench.auths("srk"), meant=True)
    moved = bench.one_of(replies)
    bench.shelve(KeyModel(replace(model.key, enc_data=moved.out_data), KEY_AUTH))


@recipe("TPM_CMK_SetRestrictions")
def restrict(bench: Bench) -> None:
    bits = bench.pick(0, 0x80000000, 0xF8000000, 0x48000000, 0xFFFFFFFF, 4)
    bench.send("TPM_CMK_SetRestrictions", {"restriction": bits}, bench.auths(OWNER_AUTH))
