"""The platform's side of a measured launch: TPM_HASH_START, TPM_HASH_DATA and TPM_HASH_END from
locality 4 (PC Client TIS 1.2 section 11.2.4)."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from hwtpm.softtpm.engine.pcrs import HASH_START_PCRS
from hwtpm.softtpm.engine.state import ZERO_DIGEST, Permanent

if TYPE_CHECKING:
    from hwtpm.softtpm.engine.tpm import Engine

__all__ = ["Launch", "with_established"]

_LAUNCHED_PCR: Final = 17


def with_established(permanent: Permanent, established: bool) -> Permanent:
    """The state with that value of tpmEstablished; the same object if it has it already."""
    if permanent.flags.tpm_established == established:
        return permanent
    return replace(permanent, flags=replace(permanent.flags, tpm_established=established))


class Launch:
    """A launch under way, or none."""

    def __init__(self, tpm: Engine) -> None:
        self._tpm = tpm
        self._measurement: hashlib._Hash | None = None

    @property
    def under_way(self) -> bool:
        """True between `start` and `end`."""
        return self._measurement is not None

    def forget(self) -> None:
        """Be as after power-on."""
        self._measurement = None

    def start(self) -> None:
        """Nothing before TPM_Startup and in failure mode."""
        tpm = self._tpm
        if tpm.stclear is None or tpm.failure:
            return
        pcrs = tuple(
            ZERO_DIGEST if index in HASH_START_PCRS else value
            for index, value in enumerate(tpm.stclear.pcrs)
        )
        launched = replace(tpm.stclear, pcrs=pcrs, tos_present=True)
        tpm.replace_state(with_established(tpm.permanent, True), launched)
        self._measurement = hashlib.sha1()

    def add(self, data: bytes) -> None:
        """Nothing outside of a launch."""
        if self._measurement is not None:
            self._measurement.update(data)

    def end(self) -> None:
        """Nothing outside of a launch.

        Raises:
            Exception: what the storage raised; the TPM is in failure mode.
        """
        tpm = self._tpm
        if self._measurement is None or tpm.stclear is None:
            return
        digest = self._measurement.digest()
        self._measurement = None
        value = hashlib.sha1(tpm.stclear.pcrs[_LAUNCHED_PCR] + digest).digest()
        try:
            tpm.replace_state(tpm.permanent, tpm.stclear.with_pcr(_LAUNCHED_PCR, value))
        except BaseException:
            # PCR 17 is still zero: whoever extends it next could pose as any launched code.
            tpm.enter_failure_mode("the measurement of a launch was lost")
            raise
