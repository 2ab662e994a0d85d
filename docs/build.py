"""Writes docs/reference/*.md from the tables that code and tests run on; `make docs` runs it.

tests/unit/test_docs.py fails when a table has changed and this has not been run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from hwtpm.boards import boards, search_path
from hwtpm.boards.file import Bus, Ftdi, SimulatedFtdi, Spidev
from hwtpm.tis.registers import REGISTERS
from hwtpm.tpm12.commands import TABLE
from hwtpm.tpm12.rc import Rc, describe
from hwtpm.tpm12.table import Command, Rule
from hwtpm.wire import Handle, Struct

# Where the tests declare what our engine and libtpms answer differently.
TESTS = Path(__file__).parents[1] / "tests"
for _place in (TESTS, TESTS / "conformance", TESTS / "fuzz"):
    if str(_place) not in sys.path:
        sys.path.append(str(_place))

from differences import DIFFERENCES, FORMS, LACKING  # noqa: E402 - found through the path above
from fuzz_differences import KNOWN  # noqa: E402

MANY = 4
"""Return codes that a cell still names."""
HEAD = "<!-- Written by docs/build.py; do not edit. -->\n"


def references() -> dict[str, str]:
    """File name under docs/reference to its text."""
    return {
        "tpm12-commands.md": "\n".join(_commands()),
        "tpm12-return-codes.md": "\n".join(_return_codes()),
        "tis-registers.md": "\n".join(_registers()),
        "boards.md": "\n".join(_boards()),
        "libtpms-differences.md": "\n".join(_differences()),
    }


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _commands() -> Iterator[str]:
    yield f"{HEAD}\n# TPM 1.2 commands (revision 116)\n"
    yield "From Part 2 section 17 (the normative table) and Part 3. Handles, in italics, lead the"
    yield "parameters and stay out of the authorisation digests. A dash: no body is declared yet.\n"
    yield _row("ordinal", "command", "section", "duration", "sessions", "rules", "request", "reply")
    yield _row(*["---"] * 8)
    for row in TABLE:
        yield _row(
            f"{row.ordinal:#04x}",
            row.name,
            row.section,
            row.duration.value,
            ", ".join(str(count) for count in sorted(row.auths)),
            _rules(row),
            _fields(row.request),
            _fields(row.reply),
        )
    yield ""


def _rules(row: Command) -> str:
    names = [rule.name or "" for rule in Rule if rule in row.rules]
    return ", ".join(name.lower().replace("_", " ") for name in names) or "none"


def _fields(body: type[Struct] | None) -> str:
    if body is None:
        return "-"
    shown = [
        f"*{name}*" if isinstance(codec, Handle) else name
        for name, codec in body.layout.codecs.items()
    ]
    return ", ".join(shown) or "nothing"


def _return_codes() -> Iterator[str]:
    yield f"{HEAD}\n# TPM 1.2 return codes\n"
    yield "Part 2 section 16. Codes from 0x800 on are not fatal: sessions stay open and the command"
    yield "may be sent again.\n"
    yield _row("code", "name", "meaning", "what to do")
    yield _row(*["---"] * 4)
    for code in Rc:
        name, meaning, hint = describe(code)
        yield _row(f"{int(code):#x}", name, meaning, hint)
    yield ""


def _registers() -> Iterator[str]:
    yield f"{HEAD}\n# TIS registers\n"
    yield "Offsets within the 4096-byte page of a locality; pages start at 0xFED40000 on LPC and at"
    yield "0xD40000 on SPI.\n"
    yield _row("offset", "register", "bits", "rights", "meaning", "fields")
    yield _row(*["---"] * 6)
    for register in REGISTERS:
        fields = ", ".join(f"{bits.name} `{int(bits):#x}`" for bits in register.fields)
        yield _row(
            f"{register.offset:#05x}",
            register.name,
            f"{8 * register.size}",
            register.rights,
            register.meaning,
            fields,
        )
    yield ""


def _boards() -> Iterator[str]:
    yield f"{HEAD}\n# Boards\n"
    yield "The files in `boards/`; [what their fields mean](../boards.md). Nothing here has been"
    yield "verified on hardware by this project: each file says what it is taken from.\n"
    yield _row("address", "board", "bus", "RST#, PIRQ#", "chip", "not verified", "source")
    yield _row(*["---"] * 7)
    for name, board in boards(search_path()[-1:]).items():
        yield _row(
            f"`board:{name}`",
            board.summary,
            _bus(board.bus),
            _lines(board.bus),
            board.chip.describe(),
            "; ".join(board.unverified),
            board.source,
        )
    yield ""


def _bus(bus: Bus) -> str:
    match bus:
        case Spidev(path=path, clock_hz=clock_hz):
            where = path
        case Ftdi(cs=cs, clock_hz=clock_hz):
            where = f"FTDI, CS on pin {cs}"
        case _:
            return f"simulated, profile {bus.profile}, {bus.engine}"
    return f"{where}, {clock_hz / 1e6:g} MHz"


def _lines(bus: Bus) -> str:
    match bus:
        case Spidev(reset=reset, irq=irq):
            names = [line and str(line.line) for line in (reset, irq)]
        case Ftdi(reset=reset, irq=irq):
            names = [pin and f"pin {pin.pin}" for pin in (reset, irq)]
        case _:
            return "wired" if isinstance(bus, SimulatedFtdi) else "not wired"
    return ", ".join(name or "not wired" for name in names)


def _differences() -> Iterator[str]:
    yield f"{HEAD}\n# Where our engine and libtpms answer differently\n"
    yield "libtpms 0.9.2, in process and as swtpm 0.7.1. Sections are those of Part 3, revision"
    yield "116, unless another part is named. Tests ask for each row of the first table: one that"
    yield "is no longer true fails. The fuzzer stops at whatever is in none of the three.\n"
    yield "## Commands that libtpms is built without\n"
    yield ", ".join(sorted(LACKING)) + ".\n"
    yield "## Found by the conformance suite\n"
    yield "[Return codes](tpm12-return-codes.md), unless the first column says otherwise. A dash:"
    yield "what the specification says.\n"
    yield _row("asked", "ours", "libtpms", "why")
    yield _row(*["---"] * 4)
    for name, difference in DIFFERENCES.items():
        codes = (difference.answers.get(side) for side in ("engine", "libtpms"))
        shown = ("-" if code is None else f"{code:#04x}" for code in codes)
        yield _row(name, *shown, _cell(difference.why))
    yield "\n## Damaged commands\n"
    yield "A command that is wrong in several ways gets the code of what is looked at first."
    yield "\\* is any command.\n"
    yield _row("command", "ours", "libtpms", "why")
    yield _row(*["---"] * 4)
    for (name, ours, theirs), why in FORMS.items():
        yield _row(_cell(name), _codes([ours]), _codes([theirs]), _cell(why))
    yield "\n## Found by the differential fuzzer\n"
    yield _row("commands", "ours", "libtpms", "why")
    yield _row(*["---"] * 4)
    for known in KNOWN:
        commands = _cell(", ".join(known.commands.split()))
        yield _row(commands, _codes(known.ours), _codes(known.theirs), _cell(known.why))
    yield ""


def _codes(codes: Iterable[int]) -> str:
    names = ["success" if not code else describe(code)[0] for code in sorted(codes)]
    return ", ".join(names) if len(names) <= MANY else "several"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def main() -> None:
    """Write all references."""
    directory = Path(__file__).parent / "reference"
    directory.mkdir(exist_ok=True)
    for name, text in references().items():
        (directory / name).write_text(text)


if __name__ == "__main__":
    main()
