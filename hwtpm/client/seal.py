"""Data sealed to a TPM and a platform state (TPM Main 1.2, Part 3 sections 10.1 and 10.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hwtpm.client.keys import KeyRef
from hwtpm.client.session import Tpm
from hwtpm.errors import UsageError
from hwtpm.secret import WELL_KNOWN, Secret
from hwtpm.tpm12.commands.storage import Seal, Unseal
from hwtpm.tpm12.const import DIGEST_SIZE, EVERY_LOCALITY
from hwtpm.tpm12.types import PcrInfoLong, PcrSelection, StoredData, pcr_composite_hash

__all__ = ["localities", "pcr_policy", "seal", "unseal"]

_LOCALITIES: Final = 5


def localities(*numbers: int) -> int:
    """The TPM_LOCALITY_SELECTION of these localities."""
    if not numbers or not all(0 <= number < _LOCALITIES for number in numbers):
        raise UsageError(f"localities {numbers}", hint="name some of 0 to 4")
    return sum(1 << number for number in set(numbers))


def pcr_policy(pcrs: Mapping[int, bytes], *, locality_mask: int = EVERY_LOCALITY) -> PcrInfoLong:
    """When a key may be used or data unsealed: with these PCR values, from these localities."""
    select = PcrSelection.of(pcrs)
    digest = pcr_composite_hash(select, dict(pcrs)) if pcrs else bytes(DIGEST_SIZE)
    # What concerns the creation is filled in by the TPM; the locality must be a possible one.
    return PcrInfoLong(localities(0), locality_mask, select, select, bytes(DIGEST_SIZE), digest)


def seal(
    tpm: Tpm,
    key: KeyRef,
    data: Secret,
    auth: Secret = WELL_KNOWN,
    *,
    policy: PcrInfoLong | None = None,
) -> StoredData:
    """Encrypt data so that only this TPM gives it back: for `auth`, in the state of `policy`.

    Raises:
        TpmError: TPM_BAD_DATASIZE if it is too long; 149 bytes fit under an RSA 2048 key.
    """
    with key.osap(tpm) as session:
        request = Seal(
            key.handle,
            session.encrypt_auth(auth),
            b"" if policy is None else policy.encode(),
            data.reveal(),
        )
        return tpm.execute(request, session, last=True).sealed_data


def unseal(tpm: Tpm, key: KeyRef, blob: StoredData, auth: Secret = WELL_KNOWN) -> Secret:
    """Get sealed data back.

    Raises:
        TpmError: TPM_WRONGPCRVAL or TPM_BAD_LOCALITY in another state than it was sealed to,
            TPM_AUTHFAIL or TPM_AUTH2FAIL for a wrong password, TPM_NOTSEALED_BLOB on another TPM.
    """
    return Secret(tpm.execute_with(Unseal(key.handle, blob), *key.secrets, auth).secret)
