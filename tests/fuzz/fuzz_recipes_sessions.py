"""Recipes for what lives in the TPM's memory: transport sessions and saved contexts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from fuzz_recipes import Bench, Skip, recipe
from fuzz_sides import Open, Through
from fuzz_values import KeyModel

from hwtpm.client.rsa import oaep_encrypt, to_public_key
from hwtpm.tpm12.const import (
    EncScheme,
    KeyAlgorithm,
    KeyHandleValue,
    KeyUsage,
    ResourceType,
    TransportAttribute,
)
from hwtpm.tpm12.table import TABLE
from hwtpm.tpm12.types.transport import TransportAuth, TransportPublic

TRANSPORT_AUTH: Final = b"T" * 20
CIPHERS: Final = (
    (KeyAlgorithm.MGF1, EncScheme.NONE),
    (KeyAlgorithm.AES128, EncScheme.SYM_CTR),
    (KeyAlgorithm.AES128, EncScheme.SYM_OFB),
)
MOST_TRANSPORTS: Final = 3


# --- transport sessions -------------------------------------------------------------------------


@recipe("TPM_EstablishTransport", "TPM_ExecuteTransport")
def establish(bench: Bench) -> None:
    """One more session; the fuzzer then sends commands through it."""
    if len(bench.transports) >= MOST_TRANSPORTS:
        end(bench)
    hidden = bench.chance(0.6)
    attributes = TransportAttribute.ENCRYPT if hidden else TransportAttribute(0)
    if bench.chance(0.6):
        attributes |= TransportAttribute.LOG
    if bench.chance(0.1):
        attributes |= TransportAttribute.EXCLUSIVE
    public = TransportPublic(attributes, *bench.pick(*CIPHERS))
    if not hidden:
        fields = {
            "enc_handle": int(KeyHandleValue.TRANSPORT),
            "trans_public": public,
            "secret": TRANSPORT_AUTH,
        }
        replies = bench.send("TPM_EstablishTransport", fields)
    else:
        key = bench.key(KeyUsage.STORAGE, KeyUsage.LEGACY) if bench.chance(0.2) else "srk"
        plain = TransportAuth(TRANSPORT_AUTH).encode()
        fields = {
            "enc_handle": bench.handle(key),
            "trans_public": public,
            "secret": oaep_encrypt(to_public_key(bench.public(key)), plain),
        }
        replies = bench.send("TPM_EstablishTransport", fields, bench.auths(key))
    name = bench.grammar.name("transport")
    bench.transport(name, TRANSPORT_AUTH, public)
    for side, reply in zip(bench.sides, replies, strict=True):
        kind = ResourceType.TRANS
        side.sessions[name] = Open(reply.trans_handle, reply.trans_nonce_even, kind=kind)


def end(bench: Bench) -> None:
    name = bench.rng.choice(list(bench.transports))
    del bench.transports[name]
    bench.episode.drop_session(name)


@recipe("TPM_ReleaseTransportSigned")
def release(bench: Bench) -> None:
    """The end of a session, signed if it has a log."""
    if not bench.transports:
        establish(bench)
    name = bench.rng.choice(list(bench.transports))
    key = bench.key(KeyUsage.SIGNING, KeyUsage.LEGACY, KeyUsage.IDENTITY)
    auths = bench.auths(key)
    if name not in bench.sides[0].sessions:
        raise Skip
    last = bench.grammar.auth(name, TRANSPORT_AUTH)
    del bench.transports[name]
    fields = {"key_handle": bench.handle(key), "anti_replay": bench.rng.randbytes(20)}
    bench.send("TPM_ReleaseTransportSigned", fields, (*auths, last))


# --- contexts -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Saved:
    """What a context is of: a key with its model, a session with its entity, or a transport."""

    what: KeyModel | str | Through

    @property
    def kind(self) -> ResourceType:
        if isinstance(self.what, KeyModel):
            return ResourceType.KEY
        return ResourceType.AUTH if isinstance(self.what, str) else ResourceType.TRANS


def _something(bench: Bench, *kinds: ResourceType) -> tuple[str, Saved]:
    """What to save: its name, and what it is."""
    grammar = bench.grammar
    match bench.pick(*kinds):
        case ResourceType.KEY:
            name = bench.key()
            return name, Saved(grammar.loaded[name])
        case ResourceType.AUTH:
            if not grammar.sessions:
                raise Skip
            name = bench.rng.choice(list(grammar.sessions))
            return name, Saved(grammar.sessions[name])
    if not bench.transports:
        raise Skip
    name = bench.rng.choice(list(bench.transports))
    return name, Saved(bench.transports[name])


def _handle(bench: Bench, name: str, saved: Saved) -> Any:
    if saved.kind == ResourceType.KEY:
        return bench.handle(name)
    return lambda side: side.sessions[name].handle


def _put_away(bench: Bench, name: str, saved: Saved, blobs: list[Any]) -> str:
    """Keep the context; a session is only in it now."""
    context = bench.grammar.name("context")
    bench.contexts[context] = saved
    bench.by_side(context, blobs)
    if saved.kind != ResourceType.KEY:
        for side in bench.sides:
            side.blobs[f"{context} open"] = side.sessions.pop(name)
        bench.grammar.sessions.pop(name, None)
        bench.transports.pop(name, None)
    return context


def _bring_back(bench: Bench, context: str, handles: list[int]) -> None:
    """The loaded context under a new name."""
    saved: Saved = bench.contexts[context]
    if isinstance(saved.what, KeyModel):
        name = bench.grammar.name("key")
        bench.grammar.loaded[name] = saved.what
        for side, handle in zip(bench.sides, handles, strict=True):
            side.handles[name] = handle
        return
    del bench.contexts[context]
    name = bench.grammar.name("session")
    if isinstance(saved.what, Through):
        bench.transport(name, saved.what.auth.secret, saved.what.public)
    else:
        bench.grammar.sessions[name] = saved.what
    for side, handle in zip(bench.sides, handles, strict=True):
        opened = side.blobs.pop(f"{context} open")
        opened.handle = handle
        side.sessions[name] = opened


@recipe("TPM_SaveContext")
def save(bench: Bench) -> None:
    name, saved = _something(bench, ResourceType.KEY, ResourceType.AUTH, ResourceType.TRANS)
    fields = {
        "handle": _handle(bench, name, saved),
        "resource_type": saved.kind,
        "label": bench.rng.randbytes(16),
    }
    replies = bench.send("TPM_SaveContext", fields, saves=name)
    context = _put_away(bench, name, saved, [reply.context_blob for reply in replies])
    if bench.chance(0.6):
        load(bench, context)


@recipe("TPM_LoadContext")
def load(bench: Bench, context: str = "") -> None:
    """A session of OSAP needs its entity again."""
    if not bench.contexts:
        raise Skip
    context = context or bench.rng.choice(list(bench.contexts))
    saved: Saved = bench.contexts[context]
    entity: Any = 0
    if isinstance(saved.what, str) and saved.what:
        fixed = {"owner": KeyHandleValue.OWNER, "srk": KeyHandleValue.SRK}.get(saved.what)
        entity = bench.handle(saved.what) if fixed is None else int(fixed)
        if fixed is None and saved.what not in bench.grammar.loaded:
            entity = 0x01020304
    fields = {
        "entity_handle": entity,
        "keep_handle": False,
        "context_blob": lambda side: side.blobs[context],
    }
    _make_room(bench)
    replies = bench.send("TPM_LoadContext", fields)
    _bring_back(bench, context, [reply.handle for reply in replies])


def _make_room(bench: Bench) -> None:
    if len(bench.grammar.loaded) > 8:
        bench.episode.flush(TABLE["TPM_FlushSpecific"], "key")


@recipe("TPM_SaveKeyContext", "TPM_LoadKeyContext")
def old_key_context(bench: Bench) -> None:
    """Contexts of 1.1 (27.2): those of keys can be loaded again and again."""
    key = bench.key()
    saved = Saved(bench.grammar.loaded[key])
    replies = bench.send("TPM_SaveKeyContext", {"key_handle": bench.handle(key)})
    context = _put_away(bench, key, saved, [reply.key_context_blob for reply in replies])
    _make_room(bench)
    fields = {"key_context_blob": lambda side: side.blobs[context]}
    try:
        loaded = bench.send("TPM_LoadKeyContext", fields)
        _bring_back(bench, context, [reply.key_handle for reply in loaded])
    finally:
        del bench.contexts[context]


@recipe("TPM_SaveAuthContext", "TPM_LoadAuthContext")
def old_session_context(bench: Bench) -> None:
    name, saved = _something(bench, ResourceType.AUTH)
    fields = {"auth_handle": _handle(bench, name, saved)}
    replies = bench.send("TPM_SaveAuthContext", fields)
    context = _put_away(bench, name, saved, [reply.auth_context_blob for reply in replies])
    fields = {"auth_context_blob": lambda side: side.blobs[context]}
    try:
        loaded = bench.send("TPM_LoadAuthContext", fields)
        _bring_back(bench, context, [reply.auth_handle for reply in loaded])
    finally:
        bench.contexts.pop(context, None)
