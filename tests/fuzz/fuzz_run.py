"""Differential fuzzing: the same random life for our engine and for libtpms.

Both start from the same permanent state (root keys and tpmProof included). Every answer is held
against the other's: return code, size, tag, resAuth, and every field that is not random. A run is
decided by its seed alone.
"""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from engine_rig import OWNER_AUTH, SRK_AUTH, Identity, Rig, owned_engine, root_key
from fuzz_differences import COMPARABLE, OPAQUE, explanation, of_any_size
from fuzz_differences_sessions import CRASHES, ENDS_OSAP
from fuzz_grammar import Grammar, KeyModel, SessionHandle, prefabricate
from fuzz_peer import ForkedLibtpms, PeerDied
from fuzz_recipes import RECIPES, Bench
from fuzz_sides import Answer, Auth, Open, Plan, Side
from fuzz_targets import stock_key

from hwtpm.client.rsa import public_part
from hwtpm.clock import FakeClock
from hwtpm.softtpm.base import MemoryStorage, StateName
from hwtpm.softtpm.engine import Engine
from hwtpm.softtpm.engine.entropy import RepeatableEntropy
from hwtpm.softtpm.engine.state import Permanent, encode_permanent
from hwtpm.softtpm.migration.libtpms_state import export_permanent
from hwtpm.tpm12.commands.eviction import FlushSpecific
from hwtpm.tpm12.const import NvIndex, StartupType
from hwtpm.tpm12.frame import build_request, error_response
from hwtpm.tpm12.rc import NON_FATAL, Rc
from hwtpm.tpm12.table import TABLE, Command

__all__ = ["Report", "fuzz", "twins"]

for _subject in ("daa", "delegation", "keys", "migration", "origin", "sessions", "storage"):
    importlib.import_module(f"fuzz_recipes_{_subject}")

EPISODE = 300  # commands between two fresh starts
AFTER_SHELF = 100  # keys in the stock
UNOWNED_EPISODE = 80  # as long as there is no owner
MAX_OPEN = 10  # sessions: neither TPM runs out of them
MAX_LOADED = 8  # keys
MAX_FAILURES = 3  # wrong proofs: neither TPM locks out


class Parted(Exception):
    """The two TPMs are in different states now."""


@dataclass(frozen=True)
class Difference:
    """An answer that no row of the table explains: the first of its kind."""

    episode: int
    what: str
    before: str


@dataclass
class Report:
    """What a run did."""

    commands: int = 0
    episodes: int = 0
    succeeded: Counter[str] = field(default_factory=Counter)
    answered: Counter[tuple[str, int]] = field(default_factory=Counter)
    explained: Counter[str] = field(default_factory=Counter)
    differences: dict[str, Difference] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        reached = len({name for name, _ in self.answered})
        lines = [
            f"{self.commands} commands in {self.episodes} episodes",
            f"{reached} ordinals, {len(self.succeeded)} of them with success",
            f"{len({rc for _, rc in self.answered})} return codes",
            *(f"explained {count} times: {why}" for why, count in self.explained.most_common()),
            *(
                f"UNEXPLAINED {self.seen[kind]} times: {kind}; episode {one.episode}: {one.what}\n"
                f"    after {one.before}"
                for kind, one in self.differences.items()
            ),
        ]
        return "\n".join(lines)


class StockKeys(RepeatableEntropy):
    """Keys from a stock, none of them twice in an episode: a session is bound to a modulus."""

    def __init__(self, name: bytes, first: int) -> None:
        super().__init__(name)
        self._next = first

    def rsa_key(self, bits: int) -> RSAPrivateKey:
        self._next += 1
        return stock_key(bits, self._next)


class Twins:
    """The two TPMs from one state, and the keys that both can load."""

    def __init__(self, seed: int, permanent: Permanent, keys: list[KeyModel]) -> None:
        assert permanent.ek is not None
        assert permanent.srk is not None
        self.seed = seed
        self.keys = keys
        self.ek, self.srk = public_part(permanent.ek.key), public_part(permanent.srk.key)
        self.libtpms = ForkedLibtpms()
        unowned = replace(permanent, owner_auth=bytes(20), srk=None)
        unowned = replace(unowned, flags=replace(unowned.flags, read_pubek=True))
        starts = {"owned": permanent, "endorsed": unowned, "new": replace(unowned, ek=None)}
        self._starts = {
            start: (encode_permanent(state), export_permanent(state))
            for start, state in starts.items()
        }

    def fresh(self, episode: int) -> tuple[Side, Side]:
        """Both at one start, powered on; what is random follows from the episode."""
        name = b"%d/%d" % (self.seed, episode)
        ours, theirs = self._starts[start_of(episode)]
        storage = MemoryStorage()
        storage.blobs = {StateName.PERMANENT: ours}
        engine = Engine(storage, entropy=StockKeys(name, AFTER_SHELF), clock=FakeClock())
        engine.power_on()
        self.libtpms.fresh(name, theirs)
        return Side("ours", engine), Side("libtpms", self.libtpms)


def start_of(episode: int) -> str:
    """With an owner mostly; with an endorsement key only, or as it left the factory."""
    return {3: "endorsed", 7: "new"}.get(episode % 10, "owned")


class Episode:
    """One life of both TPMs."""

    def __init__(self, twins: Twins, number: int, report: Report) -> None:
        self.rng = rng = random.Random(f"{twins.seed}/{number}")
        self.number = number
        self.report = report
        self.sides = twins.fresh(number)
        self.twins = twins
        self.owned = start_of(number) == "owned"
        self.grammar = Grammar(rng, twins.keys)
        self.bench = Bench(self)
        self.over = False  # the two have parted for a known reason
        self.nv_locked = False
        self.miscounted = False
        self.failures = 0  # wrong proofs since the owner forgave them
        self.log: list[str] = []

    def live(self, commands: int) -> None:
        """Run that many commands, or until the two part."""
        self._startup(StartupType.CLEAR)
        if self.rng.random() < 0.7:
            self.run(self.grammar.nv_lock())
        stop = self.report.commands + (commands if self.owned else min(commands, UNOWNED_EPISODE))
        while self.report.commands < stop and not self.over:
            if self.failures >= MAX_FAILURES:
                self._forgive()
            elif self.rng.random() < 0.003:
                self.power_cycle()
            else:
                self._command()

    # --- power -----------------------------------------------------------------------------------

    def power_cycle(self) -> None:
        self.miscounted |= self.failures > 0  # ours keeps the count, libtpms does not
        kind = StartupType.CLEAR
        if self.rng.random() < 0.5:
            self._empty()
            self.run(Plan(TABLE["TPM_SaveState"], {}))
            kind = StartupType.STATE
        for side in self.sides:
            side.tpm.power_on()
            side.forget()
        self.grammar.forget()
        self.bench.forget()
        self._startup(kind)

    def _empty(self) -> None:
        """What comes back after ST_STATE is up to the TPM (Part 2 section 4.6): leave nothing."""
        for session in list(self.sides[0].sessions):
            self.drop_session(session)
        for key in list(self.grammar.loaded):
            self.bench.drop_handle(key)
        self.grammar.loaded.clear()

    def _startup(self, kind: StartupType) -> None:
        self.run(Plan(TABLE["TPM_Startup"], {"startup_type": int(kind)}))
        self.run(Plan(TABLE["TSC_PhysicalPresence"], {"physical_presence": 0x20}))
        self.run(Plan(TABLE["TSC_PhysicalPresence"], {"physical_presence": 0x08}))
        for model in self.rng.sample(self.grammar.shelf, 4 if self.owned else 0):
            self.load(model)

    def _forgive(self) -> None:
        """The owner resets the count of wrong proofs: the two defend themselves differently.

        Ours keeps the count over a power cycle, and they wait for different times.
        """
        self.failures = 0
        if not self.owned:
            self.over = True
            return
        session = self.open(self.grammar.oiap())
        if session is None:
            self.over = True
            return
        auth = Auth(session, OWNER_AUTH, self.rng.randbytes(20), go_on=False)
        answers = self.run(Plan(TABLE["TPM_ResetLockValue"], {}, (auth,)))
        self.drop_session(session)
        self.over = bool(answers[0].rc)
        self.miscounted = False

    # --- commands --------------------------------------------------------------------------------

    def _command(self) -> None:
        grammar, rng = self.grammar, self.rng
        row = grammar.next_row()
        if not self.owned and rng.random() < 0.2:
            row = TABLE[rng.choice(_BEGINNINGS)]
        if row.name in RECIPES and rng.random() < 0.85:
            return self.bench.follow(row.name)
        key = grammar.key_for(row)
        if row.name == "TPM_OIAP":
            self.open(grammar.oiap())
            return None
        if row.name == "TPM_OSAP" and rng.random() < 0.9:
            self.open(grammar.osap(rng.choice(["owner", "srk", *grammar.loaded])))
            return None
        if row.name in _DROPS and rng.random() < 0.9:
            return self.flush(row)
        count = max(row.auths) if rng.random() < 0.9 else rng.choice(sorted(row.auths))
        wanted = grammar.wanted_sessions(row, key)
        wanted = (wanted + [(b"x" * 20, "")] * count)[:count] if count else []
        encrypts = (
            any("auth" in name for name in row.request.layout.codecs) if row.request else False
        )
        sessions = [self.session(entity, osap=encrypts) for _, entity in wanted]
        if None in sessions or len(set(sessions)) != len(sessions):
            return None
        names = [name for name in sessions if name is not None]
        auths = tuple(
            grammar.auth(name, secret) for name, (secret, _) in zip(names, wanted, strict=True)
        )
        fields = grammar.fields(row, key, names, [auth.nonce_odd for auth in auths])
        locality = rng.choice((0, 0, 0, 0, 0, 0, 1, 2, 3, 4))
        damage = self.damage() if rng.random() < 0.06 else None
        tell = grammar.name("counter" if row.name == "TPM_CreateCounter" else row.name)
        self.run(Plan(row, fields, auths, locality, damage, tell, {"key": key}))
        return None

    def damage(self) -> Callable[[bytes], bytes]:
        where, how, kind = self.rng.random(), 1 << self.rng.randrange(8), self.rng.random()

        def damage(frame: bytes) -> bytes:
            at = int(where * len(frame))
            if kind < 0.1:
                frame = frame[:at] + bytes([how]) + frame[at:]
                return frame[:2] + len(frame).to_bytes(4, "big") + frame[6:]
            if kind < 0.2 and at > 10:
                frame = frame[:at]
                return frame[:2] + len(frame).to_bytes(4, "big") + frame[6:]
            return frame[:at] + bytes([frame[at] ^ how]) + frame[at + 1 :]

        return damage

    def load(self, model: KeyModel) -> str | None:
        """Load the key; its name, or None if both refused or have no room."""
        grammar = self.grammar
        if len(grammar.loaded) > MAX_LOADED:
            self.flush(TABLE["TPM_FlushSpecific"], "key")
            return None
        parent = model.parent if model.parent in grammar.loaded else "srk"
        session = self.session(parent, osap=False)
        if session is None:
            return None
        secret = SRK_AUTH if parent == "srk" else grammar.loaded[parent].auth
        fields = {"parent_handle": self.bench.handle(parent), "in_key": model.key}
        name, row = grammar.name("key"), TABLE[self.rng.choice(("TPM_LoadKey", "TPM_LoadKey2"))]
        answers = self.run(Plan(row, fields, (grammar.auth(session, secret),), tell=name))
        replies: list[Any] = [answer.reply for answer in answers]
        if None in replies:
            return None
        grammar.loaded[name] = model
        for side, reply in zip(self.sides, replies, strict=True):
            side.handles[name] = reply.inkey_handle
        return name

    def flush(self, row: Command, kind: str = "") -> None:
        grammar = self.grammar
        kind = kind or _DROPS[row.name] or self.rng.choice(("key", "session"))
        names = list(grammar.loaded if kind == "key" else grammar.sessions)
        if not names:
            return
        name = self.rng.choice(names)
        assert row.request is not None
        fields: dict[str, Any] = {"resource_type": 1 if kind == "key" else 2}
        if row.name != "TPM_FlushSpecific":
            fields = {}
        handle_field = next(iter(row.request.layout.codecs))
        fields[handle_field] = lambda side: (
            side.handles[name] if kind == "key" else side.sessions[name].handle
        )
        answers = self.run(Plan(row, fields))
        if answers[0].rc == 0:
            grammar.loaded.pop(name, None)
            self.drop_session(name)
            self._drop_bound_to(name)

    def session(self, entity: str, *, osap: bool) -> str | None:
        """An open session for that entity, mostly; perhaps by a delegation of it."""
        grammar, rng = self.grammar, self.rng
        bindable = entity in ("owner", "srk") or entity in grammar.loaded
        osap = bindable and (osap or rng.random() < 0.4)
        wanted = entity if osap else ""
        open_ones = [name for name, bound in grammar.sessions.items() if bound == wanted]
        if open_ones and rng.random() < 0.6:
            return rng.choice(open_ones)
        while len(grammar.sessions) >= MAX_OPEN:
            self.flush(TABLE["TPM_FlushSpecific"], "session")
            if self.over:
                return None
        if osap and rng.random() < 0.1 and (plan := self.bench.dsap(entity)) is not None:
            return self.open(plan)
        return self.open(grammar.osap(entity) if osap else grammar.oiap())

    def open(self, plan: Plan) -> str | None:
        """Open a session; its name, or None if both refused."""
        answers = self.run(plan)
        if answers[0].rc or answers[1].rc:
            return None
        self.grammar.sessions[plan.tell] = plan.note.get("entity", "")
        for side, answer in zip(self.sides, answers, strict=True):
            reply: Any = answer.reply
            shared = None
            if "secret" in plan.note:
                even = "nonce_even_osap" if plan.row.name == "TPM_OSAP" else "nonce_even_dsap"
                shared = self.grammar.shared_secret(plan, getattr(reply, even))
            side.sessions[plan.tell] = Open(reply.auth_handle, reply.nonce_even, shared)
        return plan.tell

    # --- comparing -------------------------------------------------------------------------------

    def run(self, plan: Plan) -> tuple[Answer, Answer]:
        """Give the command to both and compare.

        Raises:
            Parted: one of them carried it out and the other did not.
        """
        report, name = self.report, plan.row.name
        report.commands += 1
        plan = self.bench.wrapped(plan)
        if self.bench.own_ek:
            plan = replace(plan, note={**plan.note, "own_ek": True})
        plan.note["nv locked"] = self.nv_locked
        plan.note["miscounted"] = self.miscounted
        ours, theirs = (self._issue(side, plan) for side in self.sides)
        self.log.append(f"{name} {ours.rc:#x} {theirs.rc:#x}")
        report.answered[name, ours.rc] += 1
        if ours.rc != theirs.rc or ours.outer != theirs.outer:
            self._judge(plan, ours.rc, theirs.rc)
            if ours.outer != theirs.outer:
                raise Parted  # one of them has tried the wrapped command
        elif (field_name := self._differs(plan, ours, theirs)) is not None:
            self._note(f"{name}.{field_name}", _told(plan, ours, theirs, field_name))
        if ours.rc == 0:
            report.succeeded[name] += 1
        if plan.through is not None and not ours.outer:
            report.succeeded["TPM_ExecuteTransport"] += 1
        self._follow(plan, (ours, theirs))
        return ours, theirs

    def _judge(self, plan: Plan, ours: int, theirs: int) -> None:
        """Two return codes.

        Raises:
            Parted: one of them carried it out, or libtpms is in failure mode now.
        """
        why = explanation(plan, ours, theirs)
        if why is None:
            kind = f"{plan.row.name} {ours:#x}, libtpms {theirs:#x}"
            kind += "" if plan.through is None else " in a transport session"
            self._note(kind, _told(plan))
        else:
            self.report.explained[why] += 1
        self.miscounted |= (ours in _FAILURES) != (theirs in _FAILURES)
        if 0 in (ours, theirs) or theirs == Rc.FAIL:
            raise Parted

    def _issue(self, side: Side, plan: Plan) -> Answer:
        try:
            return side.issue(plan)
        except PeerDied:
            if (why := CRASHES.get(plan.row.name)) is not None:
                self.report.explained[f"libtpms crashed on {plan.row.name}: {why}"] += 1
            else:
                self._note(f"{plan.row.name}: libtpms crashed", f"{plan.fields}")
            raise Parted from None
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self._note(
                f"{plan.row.name}: {side.name} raised {error!r}",
                f"at {where.filename}:{where.lineno}; {plan.fields}",
            )
            raise Parted from error

    def _note(self, kind: str, what: str) -> None:
        report = self.report
        report.seen[kind] += 1
        before = ", ".join(self.log[-6:])
        report.differences.setdefault(kind, Difference(self.number, what, before))

    def _differs(self, plan: Plan, ours: Answer, theirs: Answer) -> str | None:
        """Where two answers with the same return code differ."""
        name = plan.row.name
        if ours.rc:
            if ours.raw != error_response(ours.rc) and plan.through is None:
                return "error response"
            # Its answers to what is no command of its own repeat the request's tag, plus 3.
            same = ours.raw == theirs.raw or (
                ours.rc == Rc.BAD_ORDINAL and ours.raw[2:] == theirs.raw[2:]
            )
            return None if same else "error response"
        free = of_any_size(plan)
        if ours.raw[:2] != theirs.raw[:2] or not (free or len(ours.raw) == len(theirs.raw)):
            return "tag or size"
        if ours.reply is None or theirs.reply is None:
            return None
        sessions = 0 if name in ENDS_OSAP else len(plan.auths)
        if ours.continued(sessions) != theirs.continued(sessions):
            return "continueAuthSession"
        if free:
            return None
        for field_name in ours.reply.layout.codecs:
            if (name, field_name) in OPAQUE:
                continue
            values = [getattr(answer.reply, field_name) for answer in (ours, theirs)]
            if (part := COMPARABLE.get((name, field_name))) is not None:
                values = [part(plan, value) for value in values]
            if values[0] != values[1]:
                return field_name
        return None

    def _follow(self, plan: Plan, answers: tuple[Answer, Answer]) -> None:
        """What both now have or have lost."""
        rc = answers[0].rc or answers[1].rc
        if {answers[0].rc, answers[1].rc} & _FAILURES:
            self.failures += 1
        through = plan.through
        outer = any(answer.outer for answer in answers)
        if through is not None and (outer or not through.auth.go_on):
            self.bench.transports.pop(through.auth.session, None)
            self.drop_session(through.auth.session)
        if outer:
            return
        if plan.damage is not None and plan.row.name == "TPM_LoadContext":
            self.over = True  # libtpms may have unloaded the key whose handle the context wanted
        if plan.row.name == "TPM_LoadContext" and rc and callable(plan.fields["context_blob"]):
            self.over = True  # libtpms has unloaded the key whose handle the context wanted
        if plan.row.name in ENDS_OSAP:
            for session in [name for name, bound in self.grammar.sessions.items() if bound]:
                self.drop_session(session)
        for auth in plan.auths:
            if (
                plan.damage is not None
                or (rc and not rc & NON_FATAL)
                or auth.session not in self.sides[0].sessions
            ):
                self.drop_session(auth.session)
        if plan.row.name in ENDS_OSAP:  # of libtpms' even if it refuses the command in the end
            for name in [name for name, bound in self.grammar.sessions.items() if bound]:
                self.drop_session(name)
        if rc in (Rc.RESOURCES, Rc.NOSPACE) and plan.row.name in _TAKES_ROOM:
            self.power_cycle()
        elif rc == 0 and plan.damage is None:
            self._keep(plan, answers)
        elif rc == 0 and plan.row.name in _DROPS:
            self.over = True  # which handle was damaged into which?

    def _keep(self, plan: Plan, answers: tuple[Answer, Answer]) -> None:
        grammar, name = self.grammar, plan.row.name
        moved = plan.fields.get("auth_handle")
        if name == "TPM_SaveAuthContext" and isinstance(moved, SessionHandle):
            self.drop_session(moved.session)
        if name == "TPM_NV_DefineSpace" and not plan.auths:
            self.nv_locked |= plan.fields["pub_info"].nv_index == NvIndex.LOCK
        if name in _ENDS_ALL:
            self.over = True
        elif (kept := _MAKES.get(name)) is not None:
            names: list[str] = getattr(grammar, kept[0])
            names.append(plan.tell)
            del names[:-_KEPT]
            # Blobs of either TPM are for both: they have the same SRK and the same tpmProof.
            blob = getattr(self.rng.choice(answers).reply, kept[1])
            for side, answer in zip(self.sides, answers, strict=True):
                if kept[0] == "counters":
                    side.handles[plan.tell] = getattr(answer.reply, kept[1])
                else:
                    side.blobs[plan.tell] = blob

    def drop_session(self, name: str) -> None:
        """Neither has it any more: a side that kept it would run out of sessions alone."""
        self.grammar.sessions.pop(name, None)
        for side in self.sides:
            if (opened := side.sessions.pop(name, None)) is not None:
                flush = FlushSpecific(opened.handle, opened.kind)
                side.tpm.execute(build_request(flush.command.ordinal, flush.encode()))

    def _drop_bound_to(self, entity: str) -> None:
        for name in [name for name, bound in self.grammar.sessions.items() if bound == entity]:
            self.drop_session(name)


def _told(plan: Plan, *answers: Answer | str) -> str:
    """The command and what was answered, for whoever looks into it."""
    fields = {name: "by side" if callable(v) else v for name, v in plan.fields.items()}
    damage = "damaged, " if plan.damage else ""
    command = f"locality {plan.locality}, {damage}{len(plan.auths)} sessions, {fields}"
    if not answers:
        return command
    ours, theirs, name = answers
    assert isinstance(ours, Answer)
    assert isinstance(theirs, Answer)
    values = [getattr(answer.reply, str(name), answer.raw.hex()) for answer in (ours, theirs)]
    return f"{values[0]!r}, libtpms {values[1]!r}; {command}"


_FAILURES = frozenset({Rc.AUTHFAIL, Rc.AUTH2FAIL})
_KEPT = 12
_TAKES_ROOM = frozenset({"TPM_OIAP", "TPM_OSAP", "TPM_DSAP", "TPM_LoadKey2", "TPM_LoadContext"})
_DROPS = {"TPM_Terminate_Handle": "session", "TPM_EvictKey": "key", "TPM_FlushSpecific": ""}
"""What a command ends; the last one can end either."""
_ENDS_ALL = frozenset(
    {"TPM_OwnerClear", "TPM_ForceClear", "TPM_RevokeTrust", "TPM_Reset", "TPM_TakeOwnership"}
)
_BEGINNINGS = (
    "TPM_CreateRevocableEK",
    "TPM_TakeOwnership",
    "TPM_ForceClear",
    "TPM_ReadPubek",
    "TPM_SetOwnerInstall",
)
_MAKES = {
    "TPM_Seal": ("sealed", "sealed_data"),
    "TPM_Sealx": ("sealed", "sealed_data"),
    "TPM_CreateWrapKey": ("wrapped", "wrapped_key"),
    "TPM_CMK_CreateKey": ("wrapped", "wrapped_key"),
    "TPM_CreateCounter": ("counters", "count_id"),
}
"""What a command makes: the grammar's list of such things, and the reply's field."""


def fuzz(
    twins: Twins, commands: int, *, first_episode: int = 0, stop_at_first: bool = True
) -> Report:
    """That many commands."""
    report = Report()
    while report.commands < commands:
        episode = Episode(twins, first_episode + report.episodes, report)
        report.episodes += 1
        with suppress(Parted):
            episode.live(min(EPISODE, commands - report.commands))
        if report.differences and stop_at_first:
            break
    return report


@contextmanager
def twins(seed: int) -> Iterator[Twins]:
    """Our engine and libtpms with one identity, one owner and nothing else."""
    entropy = StockKeys(b"twins %d" % seed, 0)
    roots = [root_key(entropy.rsa_key(2048)) for _ in range(2)]
    engine = owned_engine(Identity(roots[0], roots[1], entropy.random(20)), entropy=entropy)
    keys = prefabricate(Rig(engine), random.Random(seed))
    made = Twins(seed, engine.permanent, keys)
    try:
        yield made
    finally:
        made.libtpms.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--episode", type=int, default=0, help="the first one to run")
    parser.add_argument("--all", action="store_true", help="go on after a difference")
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}", flush=True)
    with twins(chosen.seed) as both:
        report = fuzz(
            both,
            chosen.commands,
            first_episode=chosen.episode,
            stop_at_first=not chosen.all,
        )
    print(report)
    sys.exit(1 if report.differences else 0)


if __name__ == "__main__":
    main()
