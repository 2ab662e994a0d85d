"""How a TPM 1.2 command is declared: one class per command drives everything about it.

The rules columns are those of the normative table in Part 2 section 17, which overrides the other
parts of the specification. The declarations themselves live in `hwtpm.tpm12.commands`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, IntFlag, auto
from typing import Any, ClassVar, Generic, TypeVar, dataclass_transform, get_args

from hwtpm.wire import Struct, structure

__all__ = [
    "TABLE",
    "Authorises",
    "Command",
    "Duration",
    "NoReply",
    "Request",
    "Rule",
    "Table",
    "command",
    "declare",
]


class Duration(Enum):
    """How long a command may take (Part 2 section 17, column Duration)."""

    SHORT = "short"  # no asymmetric cryptography
    MEDIUM = "medium"  # an asymmetric operation
    LONG = "long"  # asymmetric key generation


class Authorises(Enum):
    """Whose AuthData an authorisation session proves (HMAC tables of Part 3)."""

    OWNER = auto()
    SRK = auto()
    KEY = auto()  # the key that the next handle of the request names
    KEY_TO_READ = auto()  # as KEY, for its public part: PRIV_USE_ONLY keys need no session
    TRANSPORT = auto()  # the transport session itself; always the last
    KEY_LATER = auto()  # as KEY, but the actions prove it, as they check something before
    LATER = auto()  # the actions find out themselves: data, NV area, counter, new owner


class Rule(IntFlag):
    """Columns of the ordinal table (Part 2 section 17)."""

    OPTIONAL = auto()
    DEPRECATED = auto()
    DELETED = auto()
    NO_OWNER = auto()  # executable when there is no owner
    PRESENCE = auto()  # sometimes considers physical presence
    PCR_ENFORCED = auto()
    AUDITED = auto()  # audited by default
    NEVER_AUDITED = auto()
    WHEN_DEACTIVATED = auto()
    MAYBE_DEACTIVATED = auto()  # see the command's actions
    WHEN_DISABLED = auto()
    MAYBE_DISABLED = auto()


NO_RULES = Rule(0)

R_co = TypeVar("R_co", bound=Struct, covariant=True)


class Request(Struct, Generic[R_co]):
    """Base of all requests; the type argument is the reply."""

    __slots__ = ()
    command: ClassVar[Command]


@dataclass(frozen=True, slots=True)
class Command:
    """One row of the ordinal table. `request` and `reply` are None where no body is declared."""

    ordinal: int
    name: str
    section: str
    duration: Duration
    auths: frozenset[int]
    rules: Rule
    request: type[Request[Struct]] | None = None
    reply: type[Struct] | None = None
    authorises: tuple[Authorises, ...] = ()


class Table:
    """All declared commands, by ordinal and by name."""

    def __init__(self) -> None:
        self._by_ordinal: dict[int, Command] = {}
        self._by_name: dict[str, Command] = {}

    def add(self, row: Command) -> None:
        """Enter a command; a second declaration of an ordinal or name is a programming error."""
        if row.ordinal in self._by_ordinal or row.name in self._by_name:
            raise TypeError(f"{row.name} ({row.ordinal:#x}) is declared twice")
        self._by_ordinal[row.ordinal] = row
        self._by_name[row.name] = row

    def get(self, ordinal: int) -> Command | None:
        """The command with that ordinal, if there is one."""
        return self._by_ordinal.get(ordinal)

    def name_of(self, ordinal: int) -> str:
        """The command's name, or the ordinal in hex for an unknown one."""
        row = self._by_ordinal.get(ordinal)
        return row.name if row else f"ordinal {ordinal:#010x}"

    def __getitem__(self, name: str) -> Command:
        return self._by_name[name]

    def __iter__(self) -> Iterator[Command]:
        return iter(sorted(self._by_ordinal.values(), key=lambda row: row.ordinal))

    def __len__(self) -> int:
        return len(self._by_ordinal)


TABLE = Table()


@structure("empty reply", ref="Part 3, 2")
class NoReply(Struct):
    """A reply without parameters."""


Q = TypeVar("Q", bound=Request[Any])


@dataclass_transform(frozen_default=True)
def command(
    ordinal: int,
    name: str,
    section: str,
    duration: Duration,
    auths: tuple[int, ...],
    rules: Rule = NO_RULES,
    *,
    authorises: tuple[Authorises, ...] = (),
) -> Callable[[type[Q]], type[Q]]:
    """Declare a command with its request; the reply is the request's type argument.

    Args:
        ordinal: TPM_COMMAND_CODE.
        name: the command's name in the specification.
        section: its section in Part 3.
        duration: its duration class.
        auths: how many authorisation sessions it may carry.
        rules: the other columns of the ordinal table.
        authorises: whose AuthData each session proves, in order. A key whose authDataUsage is
            NEVER (or PRIV_USE_ONLY, where it is only read) may come without its session.
    """

    def enter(cls: type[Q]) -> type[Q]:
        made = structure(name, ref=f"Part 3, {section}")(cls)
        (reply,) = get_args(cls.__orig_bases__[0])  # type: ignore[attr-defined]
        made.command = Command(
            ordinal, name, section, duration, frozenset(auths), rules, made, reply, authorises
        )
        TABLE.add(made.command)
        return made

    return enter


def declare(
    ordinal: int,
    name: str,
    section: str,
    duration: Duration,
    auths: tuple[int, ...],
    rules: Rule = NO_RULES,
) -> None:
    """Declare a command's row without its bodies."""
    TABLE.add(Command(ordinal, name, section, duration, frozenset(auths), rules))
