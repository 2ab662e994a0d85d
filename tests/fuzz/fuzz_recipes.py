"""Commands that mean something only with what other commands have made: blobs, tickets, sessions.

A recipe is a function that gives one or a few of them to both TPMs. The recipes are in the modules
`fuzz_recipes_*`; the fuzzer calls one where it would otherwise make up its command's fields.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from engine_rig import OWNER_AUTH, SRK_AUTH
from fuzz_grammar import Grammar
from fuzz_sides import Answer, Auth, Plan, Through
from fuzz_values import KeyModel

from hwtpm.tpm12.commands.eviction import FlushSpecific
from hwtpm.tpm12.const import KeyHandleValue, ResourceType
from hwtpm.tpm12.frame import build_request
from hwtpm.tpm12.table import TABLE, Command
from hwtpm.tpm12.types import PubKey
from hwtpm.tpm12.types.transport import TransportPublic
from hwtpm.wire import Handle

if TYPE_CHECKING:
    from fuzz_episode import Episode

__all__ = ["RECIPES", "Bench", "Skip", "recipe"]


class Skip(Exception):
    """What the recipe needs is not there: a key, a session, or a command that succeeded."""


Recipe = TypeVar("Recipe", bound=Callable[..., Any])  # its only argument that is needed: a Bench
RECIPES: Final[dict[str, Callable[..., Any]]] = {}
"""By the command that the fuzzer wants."""


def recipe(*commands: str) -> Callable[[Recipe], Recipe]:
    """The function makes those commands."""

    def register(function: Recipe) -> Recipe:
        for command in commands:
            assert command in {row.name for row in TABLE}, command
            RECIPES[command] = function
        return function

    return register


class Bench:
    """What a recipe works with: the episode, what is random, and what recipes have left."""

    def __init__(self, episode: Episode) -> None:
        self.episode = episode
        self.grammar: Grammar = episode.grammar
        self.pick, self.chance = self.grammar.pick, self.grammar.chance
        self.rng, self.sides = episode.rng, episode.sides
        self.ek: PubKey = episode.twins.ek
        self.srk: PubKey = episode.twins.srk
        self.families: list[int] = []
        self.delegations: dict[str, KeyModel | None] = {}  # of a key, or of the owner
        self.contexts: dict[str, Any] = {}  # name -> what was saved
        self.transports: dict[str, Through] = {}
        self.daa: list[str] = []
        self.own_ek = False  # each TPM made its EK: what they say about it differs

    def forget(self) -> None:
        """A power cycle."""
        self.transports.clear()
        self.daa.clear()

    def follow(self, command: str) -> None:
        """Run the recipe of that command as far as it comes."""
        with contextlib.suppress(Skip):
            RECIPES[command](self)

    # --- what there is -------------------------------------------------------------------------

    def key(self, *usages: int, fits: Callable[[KeyModel], bool] = lambda model: True) -> str:
        """The name of a loaded key of one of these usages, loaded if need be."""
        grammar = self.grammar

        def suits(model: KeyModel) -> bool:
            return (not usages or model.key.key_usage in usages) and fits(model)

        loaded = [name for name, model in grammar.loaded.items() if suits(model)]
        if loaded and self.chance(0.8):
            return self.rng.choice(loaded)
        name = self.episode.load(self.model(suits))
        if name is None:
            raise Skip
        return name

    def model(self, fits: Callable[[KeyModel], bool]) -> KeyModel:
        """A key that can be loaded under the SRK."""
        models = [model for model in self.grammar.shelf if fits(model) and model.parent == "srk"]
        if not models:
            raise Skip
        return self.rng.choice(models)

    def handle(self, key: str) -> Any:
        """What a command calls the key; "srk" is one."""
        if key == "srk":
            return int(KeyHandleValue.SRK)
        return lambda side: side.handles[key]

    def public(self, key: str) -> PubKey:
        return self.srk if key == "srk" else self.grammar.loaded[key].public

    def secret(self, entity: str) -> bytes:
        fixed = {"owner": OWNER_AUTH, "srk": SRK_AUTH}.get(entity)
        return self.grammar.loaded[entity].auth if fixed is None else fixed

    # --- sessions ------------------------------------------------------------------------------

    def auths(self, *wanted: str | bytes, osap: bool = False) -> tuple[Auth, ...]:
        """A session for each entity by name, or for each secret in an OIAP session.

        Args:
            osap: the first one is no OIAP session.
        """
        made: list[Auth] = []
        for what in wanted:
            entity = what if isinstance(what, str) else ""
            needs_osap = osap and not made
            session = self.episode.session(entity, osap=needs_osap)
            if session in {auth.session for auth in made}:
                session = self.episode.open(self.grammar.oiap())
            if session is None or any(auth.session not in self.grammar.sessions for auth in made):
                raise Skip
            secret = what if isinstance(what, bytes) else self.secret(what)
            made.append(self.grammar.auth(session, secret))
        return tuple(made)

    def encrypted(self, auth: Auth, secret: bytes) -> Any:
        """A new AuthData under the session."""
        return lambda side: side.encrypt_auth(auth.session, secret)

    def wrapped(self, plan: Plan) -> Plan:
        """The command in a transport session, sometimes and if it can be."""
        if not self.transports or plan.damage is not None or plan.row.name in _NOT_WRAPPED:
            return plan
        if not self.chance(0.3):
            return plan
        through = self.rng.choice(list(self.transports.values()))
        session = through.auth.session
        if session not in self.sides[0].sessions or session == plan.note.get("saves"):
            return plan  # a session that saves itself would come back with an older nonce
        auth = self.grammar.auth(session, through.auth.secret)
        auth = replace(auth, go_on=self.chance(0.97))
        return replace(plan, through=Through(auth, through.public))

    def transport(self, name: str, secret: bytes, public: TransportPublic) -> None:
        """A transport session that is open now."""
        self.transports[name] = Through(Auth(name, secret, bytes(20)), public)

    def dsap(self, entity: str) -> Plan | None:
        """A session for the owner or a key by one of their delegations."""
        model = self.grammar.loaded.get(entity)
        fitting = [name for name, of in self.delegations.items() if of is model]
        if entity not in ("owner", *self.grammar.loaded) or not fitting:
            return None
        blob = self.rng.choice(fitting)
        kind = 9 if model is not None else 8 if blob.startswith("row") else 7
        nonce = self.rng.randbytes(20)
        fields = {
            "entity_type": kind,
            "key_handle": 0 if model is None else self.handle(entity),
            "nonce_odd_dsap": nonce,
            "entity_value": lambda side: side.blobs[blob],
        }
        note = {"entity": entity, "secret": DELEGATE_AUTH, "nonce": nonce}
        return Plan(TABLE["TPM_DSAP"], fields, tell=self.grammar.name("session"), note=note)

    # --- commands ------------------------------------------------------------------------------

    def send(
        self,
        command: str,
        fields: dict[str, Any],
        auths: tuple[Auth, ...] = (),
        *,
        tell: str = "",
        calm: bool = False,
        **note: Any,
    ) -> tuple[Any, Any]:
        """Both replies; a field is random sometimes, unless a long recipe has to stay `calm`.

        Raises:
            Skip: the TPMs refused it, or cannot be asked any more.
        """
        if any(auth.session not in self.sides[0].sessions for auth in auths):
            raise Skip
        row = TABLE[command]
        if not calm and self.chance(0.06):
            fields, note = self._spoilt(row, fields), {**note, "meant": False}
        locality = self.pick(0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4)
        damage = self.episode.damage() if not calm and self.chance(0.02) else None
        plan = Plan(row, fields, auths, locality, damage, tell, note=note)
        answers: tuple[Answer, Answer] = self.episode.run(plan)
        if any(answer.reply is None for answer in answers):
            raise Skip
        return answers[0].reply, answers[1].reply

    def _spoilt(self, row: Command, fields: dict[str, Any]) -> dict[str, Any]:
        assert row.request is not None
        codecs = {
            name: codec
            for name, codec in row.request.layout.codecs.items()
            if not isinstance(codec, Handle)
            and getattr(codec, "spec_name", "") not in ("TPM_ENCAUTH", "TPM_TRANSPORT_PUBLIC")
            # The fuzzer has to know the first; the others make libtpms unload a key or crash.
            and name not in ("secret", "keep_handle", "offset")
        }
        if not codecs:
            return fields
        name = self.rng.choice(list(codecs))
        return {**fields, name: self.grammar.value(codecs[name])}

    def one_of(self, replies: tuple[Any, Any]) -> Any:
        """Either TPM's reply: what one has made is for both."""
        return self.rng.choice(replies)

    def by_side(self, name: str, values: Any) -> None:
        """Keep what each TPM has made for itself alone."""
        for side, value in zip(self.sides, values, strict=True):
            side.blobs[name] = value

    def drop_handle(self, name: str, kind: ResourceType = ResourceType.KEY) -> None:
        """Neither has it any more, whatever became of it."""
        for side in self.sides:
            flush = FlushSpecific(side.handles.pop(name), kind)
            side.tpm.execute(build_request(flush.command.ordinal, flush.encode()))

    def shelve(self, model: KeyModel) -> None:
        """One more key that can be loaded."""
        shelf = self.grammar.shelf
        shelf.append(model)
        if len(shelf) > _SHELF:
            del shelf[self.rng.randrange(_SHELF // 2, _SHELF)]


DELEGATE_AUTH: Final = b"D" * 20
_SHELF: Final = 48
_NOT_WRAPPED: Final = frozenset(
    {
        "TPM_EstablishTransport",
        "TPM_ExecuteTransport",
        "TPM_ReleaseTransportSigned",
        "TPM_OwnerClear",
        "TPM_ForceClear",
        "TPM_Reset",
        "TPM_Startup",
        "TPM_SaveState",
        "TPM_TakeOwnership",
    }
)
