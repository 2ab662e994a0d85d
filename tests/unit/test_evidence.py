"""Evidence that says less than it seems to: the verdict has to say so."""

from __future__ import annotations

import struct
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from hwtpm.client.rsa import from_public_key
from hwtpm.errors import VerificationError
from hwtpm.tpm12.eventlog import EventType, parse, replay
from hwtpm.tpm12.types import PcrSelection, QuoteInfo, pcr_composite_hash
from vstack.evidence import ChipPart, Evidence, VtpmPart, verify
from vstack.vtpm.quote import deep_quote_nonce
from vstack.vtpmmgr.evidence import Subject, external_data
from vstack.vtpmmgr.protocol import ManagerQuote, QuoteFlag

CHALLENGE = bytes(range(20))
CHIP, AIK, EK = (rsa.generate_private_key(65537, 2048) for _ in range(3))


def _quote(key: rsa.RSAPrivateKey, pcrs: dict[int, bytes], external: bytes) -> bytes:
    signed = QuoteInfo(pcr_composite_hash(PcrSelection.of(pcrs), pcrs), external)
    return key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA1())


def _evidence(pcrs: dict[int, bytes], log: bytes) -> Evidence:
    """What an honest stack says of a vTPM with these PCRs, with any log beside it."""
    uuid, flags, chip_pcrs = uuid4(), QuoteFlag.VTPM_UUID, {0: bytes(20)}
    ek, aik = from_public_key(EK.public_key()), from_public_key(AIK.public_key())
    nonce = deep_quote_nonce(CHALLENGE, ek, aik, pcrs)
    about = Subject(uuid, bytes(20), bytes(256), b"").hashes(flags)
    signature = _quote(CHIP, chip_pcrs, external_data(flags, nonce, about))
    answer = ManagerQuote(nonce, flags, signature, about, chip_pcrs)
    return Evidence(
        challenge=CHALLENGE.hex(),
        vtpm=VtpmPart(
            uuid=uuid,
            ek=ek.encode().hex(),
            aik=aik.encode().hex(),
            pcrs={index: value.hex() for index, value in pcrs.items()},
            signature=_quote(AIK, pcrs, CHALLENGE).hex(),
        ),
        chip=ChipPart(pcrs=[0], answer=answer.encode().hex()),
        log=log.hex(),
    )


def _event(pcr: int, kind: EventType, data: bytes) -> bytes:
    return struct.pack("<II20sI", pcr, kind, bytes([pcr]) * 20, len(data)) + data


def test_a_log_of_quoted_pcrs_is_proven_as_a_whole() -> None:
    log = _event(0, EventType.ACTION, b"a") + _event(4, EventType.ACTION, b"b")
    evidence = _evidence(replay(parse(log)), log)
    finding = verify(evidence, CHALLENGE, from_public_key(CHIP.public_key())).findings[-1]
    assert finding == "2 events of the firmware's log replay to exactly these PCRs"


def test_events_that_no_quoted_pcr_proves_are_not_said_to_be_proven() -> None:
    quoted = _event(0, EventType.ACTION, b"a")
    invented = _event(4, EventType.ACTION, b"b") + _event(0, EventType.NO_ACTION, b"c")
    evidence = _evidence(replay(parse(quoted)), quoted + invented)
    finding = verify(evidence, CHALLENGE, from_public_key(CHIP.public_key())).findings[-1]
    assert finding.startswith("1 events")
    assert "its other 2 are of no quoted PCR: NOTHING PROVES THEM" in finding


def test_evidence_without_a_pcr_proves_nothing() -> None:
    with pytest.raises(VerificationError, match="quotes no PCR"):
        verify(_evidence({}, b""), CHALLENGE, from_public_key(CHIP.public_key()))


def test_evidence_of_another_vtpm_than_the_one_that_was_asked_is_refused() -> None:
    evidence, chip = _evidence({0: bytes(20)}, b""), from_public_key(CHIP.public_key())
    assert verify(evidence, CHALLENGE, chip, vtpm_uuid=evidence.vtpm.uuid).uuid
    with pytest.raises(VerificationError, match="not of"):
        verify(evidence, CHALLENGE, chip, vtpm_uuid=uuid4())


def test_evidence_that_leaves_out_a_pcr_that_matters_is_refused() -> None:
    evidence, chip = (
        _evidence({0: bytes(20), 4: bytes(20)}, b""),
        from_public_key(CHIP.public_key()),
    )
    assert verify(evidence, CHALLENGE, chip, require=(0, 4)).uuid == evidence.vtpm.uuid
    with pytest.raises(VerificationError, match="PCRs 5, 7"):
        verify(evidence, CHALLENGE, chip, require=(0, 7, 5))
