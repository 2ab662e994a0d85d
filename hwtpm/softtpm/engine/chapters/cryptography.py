"""Cryptographic functions: SHA-1 for small callers, random numbers (Part 3 section 13)."""

from __future__ import annotations

import hashlib
from typing import Final

from hwtpm.softtpm.engine.call import Call, Refuse, serves
from hwtpm.softtpm.engine.chapters.integrity import extend_pcr
from hwtpm.tpm12.commands.cryptography import (
    GetRandom,
    GetRandomReply,
    SHA1Complete,
    SHA1CompleteExtend,
    SHA1CompleteExtendReply,
    SHA1CompleteReply,
    SHA1Start,
    SHA1StartReply,
    SHA1Update,
    StirRandom,
)
from hwtpm.tpm12.const import MAX_FRAME
from hwtpm.tpm12.frame import HEADER_SIZE
from hwtpm.tpm12.rc import Rc
from hwtpm.tpm12.table import NoReply

__all__: list[str] = []

_BLOCK: Final = 64
_MAX_DATA: Final = MAX_FRAME - HEADER_SIZE - 4  # a sized buffer that fills a whole frame
_MAX_UPDATE: Final = _MAX_DATA // _BLOCK * _BLOCK


@serves(SHA1Start)
def sha1_start(call: Call, request: SHA1Start) -> SHA1StartReply:
    """13.1."""
    call.tpm.sha1_thread, call.tpm.sha1_within = hashlib.sha1(), call.within
    return SHA1StartReply(_MAX_UPDATE)


@serves(SHA1Update)
def sha1_update(call: Call, request: SHA1Update) -> NoReply:
    """13.2. An error ends the calculation, as the specification allows."""
    thread = call.tpm.sha1_thread
    if thread is None:
        raise Refuse(Rc.SHA_THREAD)
    size = len(request.hash_data)
    if size % _BLOCK or size > _MAX_UPDATE:
        call.tpm.sha1_thread = None
        raise Refuse(Rc.SHA_ERROR)
    thread.update(request.hash_data)
    return NoReply()


def _complete(call: Call, last: bytes) -> bytes:
    """The digest with the last bytes; the calculation ends whatever comes of it."""
    thread, call.tpm.sha1_thread = call.tpm.sha1_thread, None
    if len(last) > _BLOCK:
        raise Refuse(Rc.SHA_ERROR)
    if thread is None:
        raise Refuse(Rc.SHA_THREAD)
    thread.update(last)
    return thread.digest()


@serves(SHA1Complete)
def sha1_complete(call: Call, request: SHA1Complete) -> SHA1CompleteReply:
    """13.3."""
    return SHA1CompleteReply(_complete(call, request.hash_data))


@serves(SHA1CompleteExtend)
def sha1_complete_extend(call: Call, request: SHA1CompleteExtend) -> SHA1CompleteExtendReply:
    """13.4."""
    digest = _complete(call, request.hash_data)
    return SHA1CompleteExtendReply(digest, extend_pcr(call, request.pcr_num, digest))


@serves(GetRandom)
def get_random(call: Call, request: GetRandom) -> GetRandomReply:
    """13.6. As many bytes as fit into one frame."""
    return GetRandomReply(call.tpm.random(min(request.bytes_requested, _MAX_DATA)))


@serves(StirRandom)
def stir_random(call: Call, request: StirRandom) -> NoReply:
    """13.7."""
    call.tpm.entropy.stir(request.in_data)
    return NoReply()
