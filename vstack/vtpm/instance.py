"""One virtual TPM: an engine, its sealed state, and its manager."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from hwtpm.client.owner import create_ek, read_ek
from hwtpm.client.quote import Quote, verify_quote
from hwtpm.client.rsa import to_public_key
from hwtpm.client.session import Tpm
from hwtpm.errors import HwtpmError, StateError, TpmError
from hwtpm.softtpm.base import SoftwareTpm
from hwtpm.tpm12.commands.integrity import PcrRead
from hwtpm.tpm12.commands.startup import Startup
from hwtpm.tpm12.const import StartupType
from hwtpm.tpm12.frame import error_response
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import PcrComposite, PcrSelection, PubKey
from hwtpm.transport.base import Attached
from vstack.vtpm.quote import deep_quote_nonce
from vstack.vtpm.state import EK_PUBLIC, SealedState
from vstack.vtpmmgr.protocol import ManagerClient, ManagerQuote

__all__ = ["DeepQuote", "VtpmInstance"]

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeepQuote:
    """What the vTPM and its manager say together about the vTPM's PCRs."""

    ek: PubKey
    pcrs: dict[int, bytes]
    chip: ManagerQuote


class VtpmInstance:
    """A vTPM that is made, powered and asked. Not for use by two threads at once.

    Args:
        tpm: the engine; its storage is `state`.
        state: the sealed state.
        manager: the way to the manager.
    """

    def __init__(self, tpm: SoftwareTpm, state: SealedState, manager: ManagerClient) -> None:
        self._tpm = tpm
        self._state = state
        self._manager = manager
        self._powered = False

    @property
    def description(self) -> str:
        """The engine and its version."""
        return self._tpm.description

    @property
    def ek(self) -> PubKey:
        """The endorsement public key that the vTPM was made with."""
        encoded = self._state.get(EK_PUBLIC)
        if encoded is None:
            raise StateError("the vTPM has no endorsement key yet")
        return PubKey.decode(encoded)

    def start(self) -> None:
        """Power on and start (ST_CLEAR), so that it can be used before a guest's firmware runs; a
        new vTPM gets its endorsement key first.

        Raises:
            StateError: the state cannot be used.
            TpmError: the engine refuses.
        """
        self.power_on()
        client = Tpm(_Direct(self._tpm))
        client.execute(Startup(StartupType.CLEAR))
        if self._state.get(EK_PUBLIC) is None:
            self._state.put(EK_PUBLIC, _make_ek(client).encode())

    def execute(self, command: bytes, locality: int = 0) -> bytes:
        """Answer one command. What it changed is durable; if that fails, so does the command."""
        if not self._powered:
            return error_response(Rc.FAIL)
        try:
            return self._tpm.execute(command, locality)
        except HwtpmError as problem:
            _LOG.error("a command failed on the host's side: %s", problem)
        except Exception:
            _LOG.exception("a command failed inside the engine")
        return error_response(Rc.FAIL)

    def power_on(self) -> None:
        """TPM_Init: what the guest's machine does when it is switched on or reset."""
        self._powered = False
        self._tpm.power_on()
        self._powered = True

    def power_off(self) -> None:
        """Refuse commands until the next power-on, which starts from the permanent state."""
        self._powered = False

    @property
    def established(self) -> bool:
        """TPM established flag."""
        return self._tpm.established

    def reset_established(self, locality: int) -> int:
        """Reset the established flag; returns a TPM return code."""
        return self._tpm.reset_established(locality)

    def pcrs(self, indices: Iterable[int]) -> dict[int, bytes]:
        """PCR values, read from the engine itself."""
        client = Tpm(_Direct(self._tpm))
        return {index: client.execute(PcrRead(index)).out_digest for index in indices}

    def deep_quote(
        self, challenge: bytes, indices: Iterable[int], aik: PubKey, signature: bytes
    ) -> DeepQuote:
        """Have the chip vouch for this vTPM, its PCRs and the key that just quoted them.

        Args:
            challenge: 20 bytes of the verifier.
            indices: the vTPM's PCRs.
            aik: the vTPM's key that made `signature`.
            signature: TPM_Quote over these PCRs and the challenge.

        Raises:
            VerificationError: the signature is not over this vTPM's present PCRs.
            HwtpmError: the manager refuses.
        """
        pcrs = self.pcrs(indices)
        composite = PcrComposite(PcrSelection.of(pcrs), b"".join(pcrs[i] for i in sorted(pcrs)))
        verify_quote(to_public_key(aik), Quote(challenge, composite, signature), challenge, pcrs)
        nonce = deep_quote_nonce(challenge, self.ek, aik, pcrs)
        return DeepQuote(self.ek, pcrs, self._manager.get_quote(nonce))

    def close(self) -> None:
        """Power off and close the state's files."""
        self._tpm.close()
        self._state.close()


def _make_ek(client: Tpm) -> PubKey:
    """Make the endorsement key; or read it, if a crash came between making and noting it."""
    try:
        return create_ek(client)
    except TpmError as error:
        if error.rc != Rc.DISABLED_CMD:
            raise
        return read_ek(client)


class _Direct:
    """The engine as a transport, for the few commands that the vTPM sends itself."""

    attached = Attached("vtpm:", "engine", real_hardware=False, detail="")

    def __init__(self, tpm: SoftwareTpm) -> None:
        self._tpm = tpm

    def execute(self, command: bytes) -> bytes:
        return self._tpm.execute(command, 0)

    def close(self) -> None:
        return
