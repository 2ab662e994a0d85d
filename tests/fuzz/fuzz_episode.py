"""One life of both TPMs: what is sent, whether the answers differ, and what both then have."""

from __future__ import annotations

import importlib
import random
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from engine_rig import OWNER_AUTH, SRK_AUTH
from fuzz_differences import explanation
from fuzz_differences_sessions import CRASHES, ENDS_OSAP
from fuzz_grammar import Grammar, SessionHandle
from fuzz_peer import PeerDied
from fuzz_recipes import RECIPES, Bench
from fuzz_report import Difference, Report, differing_field, told
from fuzz_sides import Answer, Auth, Open, Plan, Side
from fuzz_twins import Twins, start_of
from fuzz_values import KeyModel

from hwtpm.tpm12.commands.eviction import FlushSpecific
from hwtpm.tpm12.const import NvIndex, StartupType
from hwtpm.tpm12.frame import build_request
from hwtpm.tpm12.rc import NON_FATAL, Rc
from hwtpm.tpm12.table import TABLE, Command

__all__ = ["Episode", "Parted"]

for _subject in ("daa", "delegation", "keys", "migration", "origin", "sessions", "storage"):
    importlib.import_module(f"fuzz_recipes_{_subject}")

UNOWNED_EPISODE = 80  # commands, as long as there is no owner
MAX_OPEN = 10  # sessions: neither TPM runs out of them
MAX_LOADED = 8  # keys
MAX_FAILURES = 3  # wrong proofs: neither TPM locks out


class Parted(Exception):
    """The two TPMs are in different states now."""


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
        if not grammar.sessions.keys() >= set(sessions):
            return None  # one had to make room for the other
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
        elif (field_name := differing_field(plan, ours, theirs)) is not None:
            self._note(f"{name}.{field_name}", told(plan, ours, theirs, field_name))
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
            self._note(kind, told(plan))
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
