"""tpm2-pytss' FAPI on a simulated TPM 2.0 chip, with a configuration and key store of its own."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from tpm2_pytss import FAPI, FAPIConfig

PROFILES = Path("/etc/tpm2-tss/fapi-profiles")


def test_a_key_of_the_fapi_signs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hwtpm.cli", "tcti", "--on", f"libtpms2:{tmp_path / 'chip'}"]
    with FAPIConfig(
        config={
            "profile_name": "P_ECCP256SHA256",
            "profile_dir": str(PROFILES),
            "system_pcrs": [],
            "ek_cert_less": "yes",
        },
        temp_dirs=True,
        tcti=f"cmd:{shlex.join(command)}",
    ):
        with FAPI() as fapi:
            fapi.provision(is_provisioned_ok=False)
            assert len(fapi.get_random(16)) == 16
            fapi.create_key("HS/SRK/signer", type_="sign, noda")
            message = b"message"
            digest = hashes.Hash(hashes.SHA256())
            digest.update(message)
            signature, public, _ = fapi.sign("HS/SRK/signer", digest.finalize())
        # Closed, so that the chip is free; its key is in the store and under its SRK.
        with FAPI() as fapi:
            assert any(path.endswith("signer") for path in fapi.list())
        key = load_pem_public_key(public.encode() if isinstance(public, str) else public)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
