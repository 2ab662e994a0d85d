"""Commands that encrypt, decrypt, sign and make keys; all keys are RSA 2048."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from benchmarks.benchmark import of
from benchmarks.patient import DIGEST, OWNER, SRK_HANDLE, USAGE, Patient
from hwtpm.client import identity, keys, quote, seal
from hwtpm.client.transport import establish
from hwtpm.secret import Secret
from hwtpm.tpm12.commands.authdata import ChangeAuth
from hwtpm.tpm12.commands.cryptography import CertifyKey
from hwtpm.tpm12.commands.migration import MigrateKey
from hwtpm.tpm12.commands.storage import Sealx
from hwtpm.tpm12.commands.ticks import TickStampBlob
from hwtpm.tpm12.const import EntityType

__all__ = ["ROWS"]

_ADCP: Final = 4
_PCRS: Final = (0, 1, 2, 3)
_FOUR_TIMES_FASTER: Final = 0.25
_KEY_AIM: Final = 0.4


def seal_32_bytes(on: Patient) -> None:
    seal.seal(on.tpm, keys.srk(), Secret(bytes(32)), USAGE)


def sealx_32_bytes(on: Patient) -> None:
    with keys.srk().osap(on.tpm) as session:
        request = Sealx(SRK_HANDLE, session.encrypt_auth(USAGE), b"", bytes(32))
        on.tpm.execute(request, session, last=True)


def unseal(on: Patient) -> None:
    seal.unseal(on.tpm, keys.srk(), on.sealed, USAGE)


def load_key(on: Patient) -> None:
    with keys.loaded(on.tpm, keys.srk(), on.signing, USAGE):
        pass


def sign(on: Patient) -> None:
    keys.sign(on.tpm, on.signer, DIGEST)


def quote_pcrs(on: Patient) -> None:
    quote.quote(on.tpm, on.signer, DIGEST, _PCRS)


def quote2_pcrs(on: Patient) -> None:
    quote.quote2(on.tpm, on.signer, DIGEST, _PCRS)


def unbind(on: Patient) -> None:
    keys.unbind(on.tpm, on.binder, on.bound)


def certify_key(on: Patient) -> None:
    request = CertifyKey(on.signer.handle, on.binder.handle, DIGEST)
    on.tpm.execute_with(request, USAGE, USAGE)


def tick_stamp(on: Patient) -> None:
    on.tpm.execute_with(TickStampBlob(on.signer.handle, DIGEST, DIGEST), USAGE)


def change_auth(on: Patient) -> None:
    with keys.srk().osap(on.tpm) as session, on.tpm.oiap(USAGE) as old:
        auth = session.encrypt_auth(USAGE)
        request = ChangeAuth(SRK_HANDLE, _ADCP, auth, EntityType.KEY, on.signing.enc_data)
        on.tpm.execute(request, session, old)


def migrate_key(on: Patient) -> None:
    request = MigrateKey(on.authority.handle, on.srk_public, on.migration_blob)
    on.tpm.execute_with(request, USAGE)


def release_log(on: Patient) -> None:
    with establish(on.tpm, keys.srk(), on.srk_public, log=True) as session:
        session.release_signed(on.signer, DIGEST)


def create_wrap_key(on: Patient) -> None:
    keys.create(on.tpm, keys.srk(), keys.signing_key(), USAGE)


def make_identity(on: Patient) -> None:
    identity.make(on.tpm, OWNER, USAGE, DIGEST)


ROWS: Final = (
    of(seal_32_bytes, "Seal", name="Seal, 32 bytes", times=20),
    of(sealx_32_bytes, "Sealx", name="Sealx, 32 bytes", times=20),
    *(
        replace(of(operation, command), times=8, aim=_FOUR_TIMES_FASTER)
        for operation, command in (
            (unseal, "Unseal"),
            (load_key, "LoadKey2"),
            (sign, "Sign"),
            (quote_pcrs, "Quote"),
            (quote2_pcrs, "Quote2"),
            (unbind, "UnBind"),
            (certify_key, "CertifyKey"),
            (tick_stamp, "TickStampBlob"),
            (change_auth, "ChangeAuth"),
            (migrate_key, "MigrateKey"),
            (release_log, "EstablishTransport"),
            (release_log, "ReleaseTransportSigned"),
        )
    ),
    of(create_wrap_key, "CreateWrapKey", times=3, aim=_KEY_AIM),
    of(make_identity, "MakeIdentity", times=3, aim=_KEY_AIM),
)
