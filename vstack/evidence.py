"""Evidence: what a guest's vTPM, its manager and their chip say together, and its verification.

The chain, from the chip up; each arrow is a signature that is checked with public keys only:

    chip's identity key -> (vTPM uuid, challenge, vTPM endorsement key, vTPM identity key, PCRs)
    vTPM's identity key -> (challenge, the same PCRs)
    PCRs                -> the firmware's event log

Evidence is a JSON object of schema `vstack.evidence/1`; byte strings in it are hexadecimal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

import msgspec

from hwtpm.client.quote import Quote, verify_quote
from hwtpm.client.rsa import to_public_key
from hwtpm.errors import ProtocolError, UsageError, VerificationError
from hwtpm.tpm12 import eventlog
from hwtpm.tpm12.types import PcrComposite, PcrSelection, PubKey
from hwtpm.wire import WireError
from vstack.vtpm.quote import deep_quote_nonce
from vstack.vtpmmgr.evidence import Subject
from vstack.vtpmmgr.evidence import verify_quote as verify_chip_quote
from vstack.vtpmmgr.protocol import ManagerQuote, QuoteFlag, QuoteRequest

__all__ = ["ChipPart", "Evidence", "Verdict", "VtpmPart", "verify"]

SCHEMA = "vstack.evidence/1"


class VtpmPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the vTPM says. Keys are TPM_PUBKEY structures; `signature` is that of TPM_Quote."""

    uuid: UUID
    ek: str
    aik: str
    pcrs: dict[int, str]
    signature: str


class ChipPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the chip says: the answer to GET_QUOTE with flag VTPM_UUID over these of its PCRs."""

    pcrs: list[int]
    answer: str


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One guest's evidence for one challenge; `log` is its event log, if there is one."""

    schema: str = SCHEMA
    challenge: str
    vtpm: VtpmPart
    chip: ChipPart
    log: str = ""

    def to_json(self) -> bytes:
        """The evidence as it travels."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes) -> Evidence:
        """Evidence as it came.

        Raises:
            ProtocolError: this is no evidence of schema vstack.evidence/1.
        """
        try:
            evidence = msgspec.json.decode(data, type=cls)
        except msgspec.DecodeError as error:
            raise ProtocolError(f"this is no evidence: {error}") from error
        if evidence.schema != SCHEMA:
            raise ProtocolError(
                f"evidence of schema {evidence.schema}", hint=f"this program reads {SCHEMA}"
            )
        return evidence


@dataclass(frozen=True)
class Verdict:
    """What has been proven. `chip_pcrs` and `vtpm_pcrs` are proven values; `findings` says it in
    words, one step a line."""

    uuid: UUID
    vtpm_pcrs: dict[int, bytes]
    chip_pcrs: dict[int, bytes]
    findings: list[str]


def verify(
    evidence: Evidence,
    challenge: bytes,
    chip_aik: PubKey,
    *,
    vtpm_uuid: UUID | None = None,
    require: Iterable[int] = (),
) -> Verdict:
    """Check the whole chain; needs no TPM and no secret.

    Args:
        evidence: as it came from the host.
        challenge: the verifier's own 20 bytes.
        chip_aik: the chip's identity key, which the verifier trusts (TPM_PUBKEY).
        vtpm_uuid: the vTPM that was asked; None to take any of the chip's.
        require: PCRs of the vTPM that have to be quoted.

    Raises:
        VerificationError: a link does not hold; the message says which.
        ProtocolError: the evidence is malformed.
    """
    if len(challenge) != 20:
        raise UsageError(f"a challenge has 20 bytes, not {len(challenge)}")
    if _bytes(evidence.challenge, "challenge") != challenge:
        raise VerificationError(
            "the evidence answers another challenge", hint="ask the host again: it may be a replay"
        )
    vtpm = evidence.vtpm
    if vtpm_uuid not in (None, vtpm.uuid):
        raise VerificationError(
            f"the evidence is of vTPM {vtpm.uuid}, not of {vtpm_uuid}",
            hint="ask for that vTPM's: a host may show a better guest than the one you mean",
        )
    ek, aik = _key(vtpm.ek, "vTPM endorsement key"), _key(vtpm.aik, "vTPM identity key")
    pcrs = {index: _bytes(value, f"vTPM PCR {index}") for index, value in vtpm.pcrs.items()}
    if any(len(value) != 20 for value in pcrs.values()) or not set(pcrs) <= set(range(24)):
        raise ProtocolError("the evidence has PCRs that a TPM 1.2 does not have")
    if not pcrs:
        raise VerificationError(
            "the evidence quotes no PCR of the vTPM: it says nothing about the guest",
            hint="ask the host for a quote of the PCRs that matter",
        )
    if missing := set(require) - set(pcrs):
        raise VerificationError(
            f"the evidence does not quote PCRs {_ranges(missing)}",
            hint="ask the host for a quote of the PCRs that matter",
        )
    nonce = deep_quote_nonce(challenge, ek, aik, pcrs)
    quoted = PcrSelection.of(_chip_indices(evidence.chip.pcrs))
    asked = QuoteRequest(nonce, quoted, QuoteFlag.VTPM_UUID)
    chip_quote = ManagerQuote.decode(asked, _bytes(evidence.chip.answer, "chip's answer"))
    chip_pcrs = verify_chip_quote(
        chip_aik,
        nonce,
        chip_quote,
        Subject(vtpm.uuid, bytes(20), bytes(256), b""),
        require=QuoteFlag.VTPM_UUID,
    )
    findings = [_chip_finding(chip_aik, vtpm.uuid, ek, aik)]
    composite = PcrComposite(PcrSelection.of(pcrs), b"".join(pcrs[i] for i in sorted(pcrs)))
    signature = _bytes(vtpm.signature, "vTPM's signature")
    verify_quote(to_public_key(aik), Quote(challenge, composite, signature), challenge, pcrs)
    findings.append(
        f"that identity key signed the same challenge and PCRs {_ranges(pcrs)}; the vTPM took the "
        "signature (that the key lives in it is for a credential exchange to prove)"
    )
    if evidence.log:
        findings.append(_check_log(_bytes(evidence.log, "event log"), pcrs))
    else:
        findings.append(
            "NO EVENT LOG came with it: what was measured into the PCRs is not explained"
        )
    return Verdict(vtpm.uuid, pcrs, chip_pcrs, findings)


def _chip_finding(chip_aik: PubKey, uuid: UUID, ek: PubKey, aik: PubKey) -> str:
    return (
        f"the chip's identity key {_name(chip_aik)} signed for vTPM {uuid}, for this challenge, "
        f"and for the vTPM's endorsement key {_name(ek)} and identity key {_name(aik)}"
    )


def _check_log(log: bytes, pcrs: dict[int, bytes]) -> str:
    events = eventlog.parse(log)
    replayed = eventlog.replay(events)
    for index, value in sorted(pcrs.items()):
        if replayed.get(index, bytes(20)) != value:
            raise VerificationError(
                f"the event log does not lead to PCR {index}: it replays to "
                f"{replayed.get(index, bytes(20)).hex()}, the vTPM has {value.hex()}",
                hint="something was measured that the log does not name",
            )
    proven = sum(event.extends and event.pcr in pcrs for event in events)
    finding = f"{proven} events of the firmware's log replay to exactly these PCRs"
    if rest := len(events) - proven:
        finding += f"; its other {rest} are of no quoted PCR: NOTHING PROVES THEM"
    return finding


def _bytes(value: str, what: str) -> bytes:
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise ProtocolError(f"the evidence's {what} is not hexadecimal") from None


def _key(value: str, what: str) -> PubKey:
    try:
        return PubKey.decode(_bytes(value, what))
    except WireError as error:
        raise ProtocolError(f"the evidence's {what}: {error.message}") from error


def _chip_indices(indices: list[int]) -> list[int]:
    if not set(indices) <= set(range(24)):
        raise ProtocolError("the evidence quotes PCRs that the chip does not have")
    return indices


def _name(key: PubKey) -> str:
    return key.digest().hex()[:16]


def _ranges(indices: Iterable[int]) -> str:
    """Indices in short: 0-7, 10."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
