"""Unmodified tpm2-tools on our transports: `-T "cmd:hwtpm tcti --on ADDRESS"`, a process a call."""

from __future__ import annotations

import hashlib
import hmac
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

ZEROS = "0" * 64
WITHOUT_TPM = {"checkquote"}


@dataclass(frozen=True)
class Tools:
    """tpm2-tools on one TPM, in one directory."""

    address: str
    directory: Path

    @property
    def tcti(self) -> str:
        words = [sys.executable, "-m", "hwtpm.cli", "tcti", "--on", self.address]
        return f"cmd:{shlex.join(words)}"

    def run(self, program: str, *arguments: str, data: bytes = b"") -> subprocess.CompletedProcess:
        tcti = [] if program in WITHOUT_TPM else ["-T", self.tcti]
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("TPM2TOOLS_")
        }
        return subprocess.run(
            [f"tpm2_{program}", *tcti, *arguments],
            cwd=self.directory,
            input=data,
            env=environment,
            capture_output=True,
            timeout=100,
            check=False,
        )

    def __call__(self, program: str, *arguments: str, data: bytes = b"") -> bytes:
        done = self.run(program, *arguments, data=data)
        assert done.returncode == 0, (program, done.stderr.decode())
        return done.stdout

    def write(self, name: str, data: bytes) -> bytes:
        (self.directory / name).write_bytes(data)
        return data

    def read(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()


@pytest.fixture(params=["libtpms2", "swtpm2"])
def tools(request: pytest.FixtureRequest, tmp_path: Path) -> Tools:
    return Tools(f"{request.param}:{tmp_path / 'chip'}", tmp_path)


@pytest.fixture
def libtpms(tmp_path: Path) -> Tools:
    return Tools(f"libtpms2:{tmp_path / 'chip'}", tmp_path)


def test_keys_sign_encrypt_and_persist(tools: Tools) -> None:
    message = tools.write("message", b"to be signed")
    tools("createprimary", "-C", "o", "-G", "ecc", "-c", "primary.ctx")
    for kind in ("rsa", "ecc"):
        tools("create", "-C", "primary.ctx", "-G", kind, "-u", "k.pub", "-r", "k.priv")
        tools("load", "-C", "primary.ctx", "-u", "k.pub", "-r", "k.priv", "-c", f"{kind}.ctx")
        tools("readpublic", "-c", f"{kind}.ctx", "-f", "pem", "-o", f"{kind}.pem")
        tools("sign", "-c", f"{kind}.ctx", "-g", "sha256", "-o", f"{kind}.tss", "message")
        tools(
            "verifysignature", "-c", f"{kind}.ctx", "-g", "sha256", "-m", "message",
            "-s", f"{kind}.tss",
        )  # fmt: skip
        tools("sign", "-c", f"{kind}.ctx", "-f", "plain", "-o", f"{kind}.sig", "message")
    rsa_key = load_pem_public_key(tools.read("rsa.pem"))
    assert isinstance(rsa_key, rsa.RSAPublicKey)
    rsa_key.verify(tools.read("rsa.sig"), message, padding.PKCS1v15(), hashes.SHA256())
    ecc_key = load_pem_public_key(tools.read("ecc.pem"))
    assert isinstance(ecc_key, ec.EllipticCurvePublicKey)
    ecc_key.verify(tools.read("ecc.sig"), message, ec.ECDSA(hashes.SHA256()))

    tools("rsaencrypt", "-c", "rsa.ctx", "-o", "cipher", "message")
    assert tools("rsadecrypt", "-c", "rsa.ctx", "cipher") == message

    tools("evictcontrol", "-C", "o", "-c", "rsa.ctx", "0x81000001")
    assert b"0x81000001" in tools("getcap", "handles-persistent")
    assert tools("rsadecrypt", "-c", "0x81000001", "cipher") == message
    tools("evictcontrol", "-C", "o", "-c", "0x81000001")
    assert tools("getcap", "handles-persistent").strip() == b""


def test_measurements_are_quoted_and_checked(tools: Tools) -> None:
    event = hashlib.sha256(b"event").digest()
    tools("pcrextend", f"9:sha256={event.hex()}")
    tools("pcrevent", "9", data=b"boot loader")
    value = hashlib.sha256(bytes(32) + event).digest()
    value = hashlib.sha256(value + hashlib.sha256(b"boot loader").digest()).digest()
    assert value.hex().upper() in tools("pcrread", "sha256:9").decode()

    tools("pcrextend", f"23:sha256={event.hex()}")
    tools("pcrreset", "23")
    assert f"0x{ZEROS}" in tools("pcrread", "sha256:23").decode()

    tools("createek", "-c", "ek.ctx", "-G", "ecc", "-u", "ek.pub")
    tools("createak", "-C", "ek.ctx", "-c", "ak.ctx", "-G", "ecc", "-g", "sha256",
          "-s", "ecdsa", "-u", "ak.pem", "-f", "pem", "-n", "ak.name")  # fmt: skip
    quote = ["quote", "-c", "ak.ctx", "-l", "sha256:9", "-q", "abcd", "-m", "q", "-s", "s"]
    tools(*quote, "-o", "pcrs", "-g", "sha256")
    check = ["checkquote", "-u", "ak.pem", "-m", "q", "-s", "s", "-f", "pcrs", "-g", "sha256"]
    tools(*check, "-q", "abcd")
    assert tools.run(*check, "-q", "abce").returncode != 0


def test_a_credential_opens_for_the_endorsement_key_only(libtpms: Tools) -> None:
    libtpms.write("secret", b"for the AK alone")
    libtpms("createek", "-c", "ek.ctx", "-G", "rsa", "-u", "ek.pub")
    libtpms("createak", "-C", "ek.ctx", "-c", "ak.ctx", "-u", "ak.pub", "-n", "ak.name")
    libtpms("makecredential", "-e", "ek.pub", "-s", "secret", "-n",
            libtpms.read("ak.name").hex(), "-o", "blob")  # fmt: skip
    libtpms("startauthsession", "--policy-session", "-S", "session.ctx")
    libtpms("policysecret", "-S", "session.ctx", "-c", "e")
    libtpms("activatecredential", "-c", "ak.ctx", "-C", "ek.ctx", "-i", "blob",
            "-o", "opened", "-P", "session:session.ctx")  # fmt: skip
    libtpms("flushcontext", "session.ctx")
    assert libtpms.read("opened") == b"for the AK alone"


def test_nv_indices_keep_data_and_count(tools: Tools) -> None:
    data = tools.write("data", bytes(range(64)))
    tools("nvdefine", "0x1500016", "-C", "o", "-s", "64", "-a", "ownerread|ownerwrite|authread")
    tools("nvwrite", "0x1500016", "-C", "o", "-i", "data")
    assert tools("nvread", "0x1500016", "-C", "o") == data
    assert tools("nvread", "0x1500016", "-C", "o", "-s", "8", "--offset", "4") == data[4:12]
    assert b"0x1500016" in tools("nvreadpublic")
    tools("nvdefine", "0x1500017", "-C", "o", "-s", "8", "-a", "ownerread|ownerwrite|nt=counter")
    for _ in range(2):
        tools("nvincrement", "0x1500017", "-C", "o")
    counted = int.from_bytes(tools("nvread", "0x1500017", "-C", "o"), "big")
    tools("nvincrement", "0x1500017", "-C", "o")
    assert int.from_bytes(tools("nvread", "0x1500017", "-C", "o"), "big") == counted + 1
    tools("nvundefine", "0x1500016", "-C", "o")
    assert tools.run("nvread", "0x1500016", "-C", "o").returncode != 0


def test_a_secret_sealed_to_pcrs_opens_in_their_state_only(tools: Tools) -> None:
    tools.write("secret", b"sealed")
    tools("startauthsession", "-S", "trial.ctx")
    tools("policypcr", "-S", "trial.ctx", "-l", "sha256:16", "-L", "policy")
    tools("flushcontext", "trial.ctx")
    tools("createprimary", "-c", "primary.ctx", "-G", "ecc")
    tools("create", "-C", "primary.ctx", "-L", "policy", "-i", "secret", "-u", "s.pub",
          "-r", "s.priv", "-c", "s.ctx")  # fmt: skip

    def unseal() -> subprocess.CompletedProcess:
        tools("startauthsession", "--policy-session", "-S", "p.ctx")
        tools("policypcr", "-S", "p.ctx", "-l", "sha256:16")
        opened = tools.run("unseal", "-c", "s.ctx", "-p", "session:p.ctx")
        tools("flushcontext", "p.ctx")
        return opened

    opened = unseal()
    assert opened.stdout == b"sealed", opened.stderr.decode()
    tools("pcrextend", f"16:sha256={'11' * 32}")
    refused = unseal()
    assert refused.returncode != 0
    assert b"policy check failed" in refused.stderr


def test_hashes_clock_and_house_keeping(tools: Tools) -> None:
    assert len(tools("getrandom", "20")) == 20
    assert tools("hash", "-g", "sha256", "--hex", data=b"abc").decode().startswith(
        hashlib.sha256(b"abc").hexdigest()
    )  # fmt: skip
    tools.write("key", b"0123456789abcdef")
    tools("createprimary", "-c", "primary.ctx", "-G", "ecc")
    tools("import", "-C", "primary.ctx", "-G", "hmac", "-i", "key", "-u", "h.pub", "-r", "h.priv")
    tools("load", "-C", "primary.ctx", "-u", "h.pub", "-r", "h.priv", "-c", "h.ctx")
    mac = hmac.new(b"0123456789abcdef", b"abc", hashlib.sha256).digest()
    assert tools("hmac", "-c", "h.ctx", "-g", "sha256", data=b"abc") == mac
    tools("stirrandom", data=b"entropy")
    tools("selftest", "-f")
    tools("incrementalselftest", "sha256")
    assert b"success" in tools("gettestresult")
    tools("testparms", "ecc256")
    assert b"clock:" in tools("readclock")
    assert b"TPM2_PT_FAMILY_INDICATOR" in tools("getcap", "properties-fixed")


def test_a_changed_password_is_needed_and_clear_forgets_it(libtpms: Tools) -> None:
    libtpms("changeauth", "-c", "o", "owner")
    refused = libtpms.run("createprimary", "-C", "o", "-c", "p.ctx")
    assert refused.returncode != 0
    assert b"0x9A2" in refused.stderr
    libtpms("createprimary", "-C", "o", "-P", "owner", "-c", "p.ctx", "-G", "ecc")
    libtpms("dictionarylockout", "-s", "-n", "5", "-t", "60", "-l", "60")
    assert b"TPM2_PT_MAX_AUTH_FAIL: 0x5" in libtpms("getcap", "properties-variable")
    libtpms("clear")
    libtpms("createprimary", "-C", "o", "-c", "p.ctx", "-G", "ecc")


def test_a_shutdown_of_ones_own_choice_is_a_power_cycle(libtpms: Tools) -> None:
    """Between two tools the chip stays powered; TPM2_Shutdown(CLEAR) ends that."""
    libtpms("pcrextend", f"9:sha256={'11' * 32}")
    assert f"0x{ZEROS}" not in libtpms("pcrread", "sha256:9").decode()
    libtpms("startup")
    assert f"0x{ZEROS}" not in libtpms("pcrread", "sha256:9").decode()
    libtpms("shutdown", "-c")
    assert f"0x{ZEROS}" in libtpms("pcrread", "sha256:9").decode()


def test_tools_that_run_at_the_same_time_take_turns(libtpms: Tools) -> None:
    command = ["tpm2_getrandom", "-T", libtpms.tcti, "16"]
    beside = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    answers = [process.communicate(timeout=60)[0] for process in beside]
    assert [len(answer) for answer in answers] == [16, 16, 16]
    assert len(set(answers)) == 3


@pytest.mark.parametrize(
    ("address", "said"),
    [("libtpms:", "is a TPM 1.2"), ("nothing:", "is no address of a TPM"), ("", "no TPM is named")],
)
def test_what_is_wrong_is_on_stderr_with_what_to_do(
    tmp_path: Path, address: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HWTPM_ON", raising=False)
    refused = Tools(address, tmp_path).run("getrandom", "4")
    assert refused.returncode != 0
    text = refused.stderr.decode()
    assert said in text
    assert "next: " in text
