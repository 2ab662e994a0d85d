"""tpm2-pytss' ESAPI, and the TCTI below it, on simulated TPM 2.0 chips."""

from __future__ import annotations

import hashlib
import select
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from tpm2_pytss import ESAPI, TSS2_Exception
from tpm2_pytss.constants import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2_SE,
    TPMA_NV,
    TPMA_SESSION,
    TSS2_RC,
)
from tpm2_pytss.types import (
    TPM2B_DATA,
    TPM2B_MAX_NV_BUFFER,
    TPM2B_NV_PUBLIC,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMS_NV_PUBLIC,
    TPMT_SIG_SCHEME,
    TPMT_SYM_DEF,
    TPMU_SYM_KEY_BITS,
    TPMU_SYM_MODE,
)

from hwtpm.errors import BusError, ProtocolError, TpmError, Unsupported
from hwtpm.tpm2 import esapi_on, open_esapi, tcti_on
from hwtpm.tpm2.tcti import MAGIC
from hwtpm.tpm20.commands import open_handles
from hwtpm.tpm20.const import Code
from hwtpm.tpm20.frame import build, error_response
from hwtpm.tpm20.rc import Rc
from hwtpm.transport import open_transport
from hwtpm.transport.base import Attached, Transport

GET_RANDOM = build(Code.GET_RANDOM, b"\0\x08")
NOBODY = TPM2B_SENSITIVE_CREATE()


@pytest.fixture(params=["libtpms2", "swtpm2"])
def chip(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Transport]:
    transport = open_transport(f"{request.param}:{tmp_path / 'chip'}")
    yield transport
    transport.close()


@pytest.fixture
def libtpms() -> Iterator[Transport]:
    transport = open_transport("libtpms2:")
    yield transport
    transport.close()


def signing_key(esapi: ESAPI) -> tuple[ESYS_TR, TPM2B_PUBLIC]:
    """A restricted ECDSA key under an ECC primary key, loaded."""
    parent = esapi.create_primary(NOBODY, "ecc")[0]
    attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign"
    template = TPM2B_PUBLIC.parse("ecc:ecdsa-sha256:null", objectAttributes=attributes)
    private, public, *_ = esapi.create(parent, NOBODY, template)
    return esapi.load(parent, private, public), public


def verify(public: TPM2B_PUBLIC, signature: object, message: bytes) -> None:
    raw = signature.signature.ecdsa  # type: ignore[attr-defined]
    der = encode_dss_signature(
        int.from_bytes(bytes(raw.signatureR), "big"), int.from_bytes(bytes(raw.signatureS), "big")
    )
    key = load_pem_public_key(public.to_pem())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(der, message, ec.ECDSA(hashes.SHA256()))


def test_random_and_pcrs(chip: Transport) -> None:
    with esapi_on(chip) as esapi:
        assert len(bytes(esapi.get_random(16))) == 16
        digest = hashlib.sha256(b"event").digest()
        esapi.pcr_event(ESYS_TR.PCR16, b"event")
        _, _, values = esapi.pcr_read("sha256:16")
        assert bytes(values[0]) == hashlib.sha256(bytes(32) + digest).digest()


def test_a_key_signs_and_quotes(chip: Transport) -> None:
    with esapi_on(chip) as esapi:
        key, public = signing_key(esapi)
        message = b"message"
        digest, ticket = esapi.hash(message, TPM2_ALG.SHA256, ESYS_TR.OWNER)
        signature = esapi.sign(key, digest, TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL), ticket)
        verify(public, signature, message)
        quoted, signature = esapi.quote(key, "sha256:0,1,2", TPM2B_DATA(b"nonce"))
        verify(public, signature, bytes(quoted))
        assert b"nonce" in bytes(quoted)


def test_nv_through_a_session_that_encrypts(chip: Transport) -> None:
    aes = TPMT_SYM_DEF(
        algorithm=TPM2_ALG.AES,
        keyBits=TPMU_SYM_KEY_BITS(sym=128),
        mode=TPMU_SYM_MODE(sym=TPM2_ALG.CFB),
    )
    seen: list[bytes] = []

    class Listening:
        attached = chip.attached

        def execute(self, command: bytes) -> bytes:
            response = chip.execute(command)
            seen.append(command + response)
            return response

        def close(self) -> None:
            """Whoever opened the chip closes it."""

    with esapi_on(Listening()) as esapi:
        salt = esapi.create_primary(NOBODY, "ecc")[0]
        session = esapi.start_auth_session(salt, ESYS_TR.NONE, TPM2_SE.HMAC, aes, TPM2_ALG.SHA256)
        both = TPMA_SESSION.DECRYPT | TPMA_SESSION.ENCRYPT | TPMA_SESSION.CONTINUESESSION
        esapi.trsess_set_attributes(session, both)
        public = TPM2B_NV_PUBLIC(
            TPMS_NV_PUBLIC(
                nvIndex=0x1500020,
                nameAlg=TPM2_ALG.SHA256,
                attributes=TPMA_NV.OWNERREAD | TPMA_NV.OWNERWRITE,
                dataSize=16,
            )
        )
        index = esapi.nv_define_space(b"", public)
        data = b"sixteen bytes 16"
        seen.clear()
        esapi.nv_write(
            index, TPM2B_MAX_NV_BUFFER(data), auth_handle=ESYS_TR.OWNER, session1=session
        )
        got = esapi.nv_read(index, 16, auth_handle=ESYS_TR.OWNER, session1=session)
        assert bytes(got) == data
        assert not any(data in frame for frame in seen)
        esapi.nv_undefine_space(index)


def test_what_is_left_open_is_flushed_and_what_was_there_stays(libtpms: Transport) -> None:
    with esapi_on(libtpms) as outer:
        outer.create_primary(NOBODY, "ecc")
        mine = open_handles(libtpms.execute)
        with esapi_on(libtpms) as inner:
            inner.create_primary(NOBODY, "ecc")
            inner.start_auth_session(
                ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.HMAC,
                TPMT_SYM_DEF(algorithm=TPM2_ALG.NULL), TPM2_ALG.SHA256,
            )  # fmt: skip
            assert len(open_handles(libtpms.execute)) == len(mine) + 2
        assert open_handles(libtpms.execute) == mine
    assert open_handles(libtpms.execute) == []


def test_a_refusal_that_leaves_the_block_is_a_tpm_error(libtpms: Transport) -> None:
    with pytest.raises(TpmError) as caught, esapi_on(libtpms) as esapi:
        esapi.tr_from_tpmpublic(0x1500099)
    assert caught.value.name == "TPM_RC_HANDLE"
    assert caught.value.command == "TPM2_NV_READ_PUBLIC"
    assert isinstance(caught.value.__cause__, TSS2_Exception)


def test_a_tpm_12_is_no_place_for_the_esapi() -> None:
    with pytest.raises(Unsupported, match=r"TPM 1\.2"), open_esapi("libtpms:"):
        pass
    with open_esapi("libtpms2:") as esapi:
        assert len(bytes(esapi.get_random(4))) == 4


class Scripted:
    """Answers commands from a list; an exception in it is raised."""

    attached = Attached("scripted:", "scripted", False, "answers as told")

    def __init__(self, *answers: bytes | Exception) -> None:
        self._answers = list(answers)
        self.commands: list[int] = []

    def execute(self, command: bytes) -> bytes:
        self.commands.append(int.from_bytes(command[6:10], "big"))
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Nothing to close."""


STARTED = error_response(Rc.INITIALIZE)
RANDOM = bytes.fromhex("8001 00000010 00000000 0004 deadbeef")


def test_a_tpm_that_nobody_started_is_started_and_shut_down() -> None:
    done = error_response(0)
    tpm = Scripted(done, RANDOM, done)
    with esapi_on(tpm) as esapi:
        assert bytes(esapi.get_random(4)) == b"\xde\xad\xbe\xef"
    assert tpm.commands == [Code.STARTUP, Code.GET_RANDOM, Code.SHUTDOWN]


@pytest.mark.parametrize("code", [Rc.RETRY, Rc.YIELDED, Rc.TESTING])
def test_a_command_that_the_tpm_wants_again_is_sent_again(code: Rc) -> None:
    tpm = Scripted(STARTED, *[error_response(code)] * 3, RANDOM)
    with esapi_on(tpm) as esapi:
        assert bytes(esapi.get_random(4)) == b"\xde\xad\xbe\xef"
    assert tpm.commands == [Code.STARTUP] + [Code.GET_RANDOM] * 4


@pytest.mark.parametrize("error", [BusError("unplugged"), ProtocolError("garbage")])
def test_what_fails_below_comes_out_above(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, esapi_on(Scripted(STARTED, error)) as esapi:
        esapi.get_random(4)
    assert caught.value is error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BusError("x"), TSS2_RC.TCTI_RC_IO_ERROR),
        (ProtocolError("x"), TSS2_RC.TCTI_RC_MALFORMED_RESPONSE),
        (Unsupported("x"), TSS2_RC.TCTI_RC_NOT_IMPLEMENTED),
        (ValueError("x"), TSS2_RC.TCTI_RC_GENERAL_FAILURE),
    ],
)
def test_the_tcti_maps_errors_and_keeps_their_reason(error: Exception, code: TSS2_RC) -> None:
    with tcti_on(Scripted(error, RANDOM)) as tcti:
        tcti.transmit(GET_RANDOM)
        with pytest.raises(TSS2_Exception) as caught:
            tcti.receive()
        assert caught.value.rc == code
        assert tcti.failure is error
        tcti.transmit(GET_RANDOM)
        assert tcti.receive() == RANDOM
        assert tcti.failure is None


def _refused(call: object, *arguments: object, **named: object) -> int:
    with pytest.raises(TSS2_Exception) as caught:
        call(*arguments, **named)  # type: ignore[operator]
    return int(caught.value.rc)


def test_the_tcti_keeps_its_sequence_and_the_response(libtpms: Transport) -> None:
    with tcti_on(libtpms) as tcti:
        assert tcti.magic == MAGIC
        assert _refused(tcti.receive) == TSS2_RC.TCTI_RC_BAD_SEQUENCE
        assert _refused(tcti.cancel) == TSS2_RC.TCTI_RC_BAD_SEQUENCE
        assert _refused(tcti.transmit, GET_RANDOM[:-1]) == TSS2_RC.TCTI_RC_BAD_VALUE
        tcti.transmit(GET_RANDOM)
        assert _refused(tcti.transmit, GET_RANDOM) == TSS2_RC.TCTI_RC_BAD_SEQUENCE
        assert _refused(tcti.set_locality, 1) == TSS2_RC.TCTI_RC_BAD_SEQUENCE
        (handle,) = tcti.get_poll_handles()
        assert select.select([handle.fd], [], [], 30)[0] == [handle.fd]
        assert _refused(tcti.receive, size=12) == TSS2_RC.TCTI_RC_INSUFFICIENT_BUFFER
        assert select.select([handle.fd], [], [], 0)[0] == [handle.fd]
        assert len(tcti.receive()) == 20
        assert select.select([handle.fd], [], [], 0)[0] == []
        assert _refused(tcti.receive) == TSS2_RC.TCTI_RC_BAD_SEQUENCE
        assert _refused(tcti.make_sticky, 0x80000000, True) == TSS2_RC.TCTI_RC_NOT_IMPLEMENTED
    assert _refused(tcti.transmit, GET_RANDOM) == TSS2_RC.TCTI_RC_BAD_SEQUENCE


def test_commands_come_from_the_locality_that_was_set(libtpms: Transport) -> None:
    """PCR 20 can be reset from locality 2 (PC Client platform profile), not from 0."""
    reset = bytes.fromhex("8002 0000001b 0000013d 00000014 00000009 40000009 0000 00 0000")
    with tcti_on(libtpms) as tcti:
        codes = []
        for locality in (0, 2, 0):
            tcti.set_locality(locality)
            tcti.transmit(reset)
            codes.append(int.from_bytes(tcti.receive()[6:10], "big"))
        assert codes == [Rc.LOCALITY, Rc.SUCCESS, Rc.LOCALITY]


def long_command() -> bytes:
    """TPM2_CreatePrimary of a 3072-bit RSA key, as the ESAPI makes it."""
    made: list[bytes] = []

    class Caught(Scripted):
        def execute(self, command: bytes) -> bytes:
            made.append(command)
            return STARTED if not made[1:] else error_response(Rc.FAILURE)

    with pytest.raises(TpmError), esapi_on(Caught()) as esapi:
        esapi.create_primary(NOBODY, "rsa3072")
    return made[-1]


def test_a_long_command_gives_up_for_a_while_and_can_be_cancelled(libtpms: Transport) -> None:
    command = long_command()
    with tcti_on(libtpms) as tcti:
        tcti.transmit(command)
        assert _refused(tcti.receive, timeout=0) == TSS2_RC.TCTI_RC_TRY_AGAIN
        tcti.cancel()
        assert int.from_bytes(tcti.receive()[6:10], "big") == Rc.CANCELED
        tcti.transmit(GET_RANDOM)
        assert len(tcti.receive()) == 20


def test_a_tcti_that_is_finalized_ends_what_it_began(libtpms: Transport) -> None:
    tcti = tcti_on(libtpms)
    tcti.transmit(long_command())
    tcti.finalize()
    tcti.finalize()
    assert len(libtpms.execute(GET_RANDOM)) == 20


def test_what_cannot_be_cancelled_says_so() -> None:
    class Slow(Scripted):
        def execute(self, command: bytes) -> bytes:
            select.select([], [], [], 0.05)
            return super().execute(command)

    with tcti_on(Slow(RANDOM)) as tcti:
        tcti.transmit(GET_RANDOM)
        assert _refused(tcti.cancel) == TSS2_RC.TCTI_RC_NOT_IMPLEMENTED
        assert tcti.receive() == RANDOM
        assert _refused(tcti.set_locality, 1) == TSS2_RC.TCTI_RC_NOT_IMPLEMENTED


def test_capabilities_are_those_that_our_own_commands_read(chip: Transport) -> None:
    from hwtpm.tpm20.commands import info

    with esapi_on(chip) as esapi:
        _, data = esapi.get_capability(TPM2_CAP.TPM_PROPERTIES, 0x100, 8)
        values = {int(one.property): int(one.value) for one in data.data.tpmProperties}
        assert values[0x102] == round(100 * float(info(chip.execute).revision))
