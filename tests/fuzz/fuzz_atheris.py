"""Coverage-guided fuzzing with atheris: `fuzz_atheris.py decode|dispatch [libFuzzer options]`.

Finds go to the working directory; a find that is mended stays as a seed in `seeds/`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["hwtpm.softtpm.engine", "hwtpm.tpm12", "hwtpm.wire"]):
    import fuzz_targets

SEEDS = Path(__file__).parent / "seeds"
TARGETS = {"decode": fuzz_targets.check_decode, "dispatch": fuzz_targets.check_dispatch}


def main() -> None:
    name = sys.argv[1]
    # New inputs go to the first directory, the kept ones are only read.
    found = Path(".fuzz") / name
    found.mkdir(parents=True, exist_ok=True)
    for command, to_decode, to_dispatch in fuzz_targets.seeds():
        (found / command).write_bytes(to_decode if name == "decode" else to_dispatch)
    arguments = [sys.argv[0], *sys.argv[2:], "-max_len=4096", str(found), str(SEEDS / name)]
    atheris.Setup(arguments, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
