"""Loaded keys: the volatile key slots and the two keys that live in the TPM."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from hwtpm.softtpm.engine.refusal import Refuse
from hwtpm.tpm12.const import (
    EVERY_LOCALITY,
    NUM_PCRS,
    AuthDataUsage,
    EntityType,
    KeyHandleValue,
)
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.types import (
    LEGACY_FORM,
    Key,
    PcrInfo,
    PcrInfoLong,
    PcrInfoShort,
    PcrSelection,
    PubKey,
)
from hwtpm.wire import WireError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

__all__ = [
    "MAX_KEYS",
    "LoadedKey",
    "ReleaseCondition",
    "check_selection",
    "parse_pcr_info",
]

MAX_KEYS: Final = 20


@dataclass(frozen=True, slots=True)
class ReleaseCondition:
    """PCRs (by index), their composite hash and the localities that a use depends on."""

    pcr_selection: bytes  # encoded TPM_PCR_SELECTION
    indices: tuple[int, ...]
    digest: bytes
    localities: int = EVERY_LOCALITY

    @classmethod
    def of(cls, form: int, info: bytes) -> ReleaseCondition | None:
        """The condition in a pcrInfo of a key or sealed blob of that form; None if empty.

        Raises:
            Refuse: INVALID_PCR_INFO if it is not such a structure, or selects what is not there.
        """
        if not info:
            return None
        parsed = parse_pcr_info(form, info)
        if isinstance(parsed, PcrInfo):
            return cls._of(parsed.pcr_selection, parsed.digest_at_release, EVERY_LOCALITY)
        return cls._of(
            parsed.release_pcr_selection, parsed.digest_at_release, parsed.locality_at_release
        )

    @classmethod
    def of_short(cls, info: PcrInfoShort) -> ReleaseCondition:
        """The condition in a TPM_PCR_INFO_SHORT, where an empty selection stands for no PCRs.

        Raises:
            Refuse: INVALID_PCR_INFO if it selects what is not there.
        """
        if info.pcr_selection.select:
            check_selection(info.pcr_selection)
        return cls._of(info.pcr_selection, info.digest_at_release, info.locality_at_release)

    @classmethod
    def _of(cls, selection: PcrSelection, digest: bytes, localities: int) -> ReleaseCondition:
        return cls(selection.encode(), selection.indices, digest, localities)


def check_selection(selection: PcrSelection) -> None:
    """Refuse a selection that is empty or larger than this TPM's PCRs (Part 2 section 8.1).

    Raises:
        Refuse: INVALID_PCR_INFO.
    """
    if not 0 < len(selection.select) <= NUM_PCRS // 8:
        raise Refuse(Rc.INVALID_PCR_INFO)


def parse_pcr_info(form: int, info: bytes) -> PcrInfo | PcrInfoLong:
    """The pcrInfo of a key or sealed blob: TPM_PCR_INFO in the 1.1 form, else TPM_PCR_INFO_LONG.

    Raises:
        Refuse: INVALID_PCR_INFO if it is not such a structure, or selects what is not there.
    """
    try:
        if form == LEGACY_FORM:
            short = PcrInfo.decode(info)
            check_selection(short.pcr_selection)
            return short
        long = PcrInfoLong.decode(info)
    except WireError:
        raise Refuse(Rc.INVALID_PCR_INFO) from None
    check_selection(long.creation_pcr_selection)
    check_selection(long.release_pcr_selection)
    if not 0 < long.locality_at_release <= EVERY_LOCALITY:
        raise Refuse(Rc.INVALID_PCR_INFO)
    return long


@dataclass(slots=True)
class LoadedKey:
    """A key that is ready for use, in a slot or living in the TPM."""

    handle: int
    key: Key
    usage_auth: bytes = field(repr=False)
    migration_auth: bytes = field(repr=False)
    payload: int
    private: RSAPrivateKey
    condition: ReleaseCondition | None
    parent_condition: bool = False  # parentPCRStatus: a key above it is bound to PCRs
    _digest: bytes = field(default=b"", init=False, repr=False, compare=False)

    @property
    def entity(self) -> tuple[int, bytes]:
        """What an OSAP session for this key is bound to."""
        if self.handle == KeyHandleValue.SRK:
            return int(EntityType.SRK), SRK_ENTITY_VALUE
        if not self._digest:
            self._digest = self.key.digest_of_public_part()
        return int(EntityType.KEYHANDLE), self._digest

    @property
    def public(self) -> PubKey:
        """The public key."""
        return PubKey(self.key.algorithm_parms, self.key.pub_key)

    @property
    def uses_pcrs(self) -> bool:
        """True if the key itself is bound to PCRs."""
        return self.condition is not None and bool(self.condition.indices)

    @property
    def needs_auth(self) -> bool:
        """True unless anybody may use the key."""
        return self.key.auth_data_usage != AuthDataUsage.NEVER

    @property
    def needs_auth_to_read(self) -> bool:
        """True unless anybody may read the public key."""
        free = (AuthDataUsage.NEVER, AuthDataUsage.PRIV_USE_ONLY)
        return self.key.auth_data_usage not in free


SRK_ENTITY_VALUE: Final = int(KeyHandleValue.SRK).to_bytes(4, "big")
