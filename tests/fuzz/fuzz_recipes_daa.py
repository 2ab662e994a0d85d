"""Recipes for DAA (Part 3 section 26): joins and signatures, a few stages at a time."""

from __future__ import annotations

from typing import Any, Final

from daa_issuer import JOIN_ORDER, SIGN_ORDER, Join, Sign, the_issuer
from fuzz_recipes import Bench, Skip, recipe

from hwtpm.tpm12.const import ResourceType

_FEW: Final = 8


def _refuse(request: Any) -> bytes:
    raise AssertionError("the fuzzer sends the stages itself")


@recipe("TPM_DAA_Join")
def join(bench: Bench) -> None:
    """A whole join now and then; in between, the first stages of one."""
    name = bench.grammar.name("join")
    bench.by_side(name, [Join(_refuse, the_issuer(), bench.ek) for _ in bench.sides])
    stages = len(JOIN_ORDER) if bench.chance(0.3) else bench.rng.randrange(2, _FEW)
    _run(bench, "TPM_DAA_Join", name, stages)
    if stages == len(JOIN_ORDER):
        bench.daa.append(name)
        bench.by_side(f"{name} credential", [side.blobs[name].credential for side in bench.sides])


@recipe("TPM_DAA_Sign")
def sign(bench: Bench) -> None:
    """With the credential of a join that both have finished."""
    if not bench.daa:
        join(bench)
    if not bench.daa:
        raise Skip
    joined = bench.rng.choice(bench.daa)
    name = bench.grammar.name("sign")
    digest = bench.rng.randbytes(20)
    key = the_issuer().key
    for side in bench.sides:
        credential = side.blobs[f"{joined} credential"]
        side.blobs[name] = Sign(_refuse, key, credential, 1, digest)
    stages = len(SIGN_ORDER) if bench.chance(0.5) else bench.rng.randrange(2, _FEW)
    _run(bench, "TPM_DAA_Sign", name, stages)


def _run(bench: Bench, command: str, name: str, stages: int) -> None:
    """The stages one after the other; sessions that stay behind are flushed."""
    done = 0
    try:
        while done < stages:
            due = {side.name: side.blobs[name].due() for side in bench.sides}
            fields = {
                "handle": lambda side: side.blobs[name].handle,
                "stage": due["ours"].stage,
                "input_data0": lambda side, due=due: due[side.name].input_data0,
                "input_data1": lambda side, due=due: due[side.name].input_data1,
            }
            replies = bench.send(command, fields, bench.auths("owner"), calm=stages > _FEW)
            for side, reply in zip(bench.sides, replies, strict=True):
                side.blobs[name].done(reply.output_data)
            done += 1
    finally:
        if done:
            for side in bench.sides:
                side.handles[name] = side.blobs[name].handle
            bench.drop_handle(name, ResourceType.DAA_TPM)
