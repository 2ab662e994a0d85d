"""Recipes for the beginnings: an endorsement key, an owner, an operator."""

from __future__ import annotations

from typing import Final

from engine_rig import OWNER_AUTH, PID_OWNER, SRK_AUTH, template
from fuzz_recipes import Bench, Skip, recipe

from hwtpm.client.rsa import oaep_encrypt, to_public_key
from hwtpm.tpm12.const import KeyUsage

OPERATOR_AUTH: Final = b"p" * 20
RESET: Final = b"r" * 20


@recipe("TPM_CreateEndorsementKeyPair", "TPM_CreateRevocableEK", "TPM_RevokeTrust")
def endorse(bench: Bench) -> None:
    """Where there is an EK already, both refuse; one that can be revoked is, sometimes."""
    parms = template(KeyUsage.STORAGE).algorithm_parms
    fields = {"anti_replay": bench.rng.randbytes(20), "key_info": parms}
    if bench.chance(0.4):
        replies = bench.send("TPM_CreateEndorsementKeyPair", fields)
        revocable = False
    else:
        generate = bench.chance(0.5)
        reset = {"generate_reset": generate, "input_ekreset": RESET}
        replies = bench.send("TPM_CreateRevocableEK", {**fields, **reset})
        revocable = True
    bench.own_ek = True
    bench.by_side("ek", [reply.pub_endorsement_key for reply in replies])
    if revocable and bench.chance(0.6):
        bench.by_side("reset", [reply.output_ekreset for reply in replies])
        bench.send("TPM_RevokeTrust", {"ekreset": lambda side: side.blobs["reset"]})


@recipe("TPM_TakeOwnership")
def own(bench: Bench) -> None:
    to = [side.blobs["ek"] for side in bench.sides] if bench.own_ek else [bench.ek, bench.ek]
    for name, secret in (("owner", OWNER_AUTH), ("srk", SRK_AUTH)):
        bench.by_side(name, [oaep_encrypt(to_public_key(ek), secret) for ek in to])
    fields = {
        "protocol_id": PID_OWNER,
        "enc_owner_auth": lambda side: side.blobs["owner"],
        "enc_srk_auth": lambda side: side.blobs["srk"],
        "srk_params": bench.grammar.storage_template(),
    }
    bench.send("TPM_TakeOwnership", fields, bench.auths("owner"))


@recipe("TPM_SetOperatorAuth", "TPM_SetTempDeactivated")
def operate(bench: Bench) -> None:
    """The operator's AuthData, and sometimes its use until the next start."""
    bench.send("TPM_SetOperatorAuth", {"operator_auth": OPERATOR_AUTH})
    if bench.chance(0.4):
        try:
            bench.send("TPM_SetTempDeactivated", {}, bench.auths(OPERATOR_AUTH))
            for _ in range(4):
                bench.send("TPM_GetTicks", {})
                bench.send("TPM_GetCapabilityOwner", {}, bench.auths("owner"))
        except Skip:
            pass
        bench.episode.power_cycle()
