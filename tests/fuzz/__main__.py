"""Feeds broken and hostile files to every reader of what a person gives.

Whatever comes in, the reader returns or raises one sentence (UserError): no other exception, no hang, and no code of
the file is run. ``python -m tests.fuzz --inputs 100000`` does it at length; tests/search/test_fuzz.py in short.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.fuzz.readers import Fuzzer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder), given.seed)
        try:
            fuzzer.run(given.inputs)
        except Exception:
            kept = Path(tempfile.mkdtemp(prefix="fuzz-"))
            shutil.copytree(folder, kept, dirs_exist_ok=True)
            sys.stderr.write(f"the inputs are in {kept}\n")
            raise
    lines = [f"{name}: {count}" for name, count in sorted(fuzzer.outcomes.items())]
    sys.stdout.write("\n".join([*lines, f"slowest input: {fuzzer.slowest:.2f} s"]) + "\n")


if __name__ == "__main__":
    main()
