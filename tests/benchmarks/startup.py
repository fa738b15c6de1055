"""How long a person waits: for ``--help``, and from ``run`` to the first finished epoch, without Ray and with it.

Each is measured several times in processes of its own, as the installed program, the two ways of ``run`` in turns: as
it is, and with two workers asked for, for which Ray is started at once. The moments of a run are seen from outside:
``lock.json`` is written when study and data are opened and checked, ``.dispatcher`` when the study's owner stands, and
the journal has a first value when the first epoch is over. Writes Markdown: ``python -m tests.benchmarks.startup``.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from mmsa_core.data.synthetic import write_planted

ROOT = Path(__file__).parents[2]
PROGRAM = (sys.executable, "-c", "from search.cli import main; main()")
FIRST_VALUE = b'"intermediate_value"'
PATIENCE = 120.0
WAYS = {"": (), " with two workers, so with Ray,": ("resources.workers=2",)}


def help_seconds() -> float:
    started = time.perf_counter()
    subprocess.run([*PROGRAM, "--help"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def run_seconds(folder: Path, *more: str) -> list[float]:
    """Return the seconds until study and data are open, until the desk stands, and until the first epoch is over."""
    write_planted(folder / "data.npz", 0)
    study, out = str(ROOT / "spaces/studies/demo.yaml"), folder / "run"
    settings = ["rungs.epochs=[1,2,4]", *more, "--data", str(folder / "data.npz"), "--out", str(out)]
    moments: list[Callable[[], bool]] = [
        (out / "lock.json").exists,
        (out / ".dispatcher").exists,
        lambda: FIRST_VALUE in (out / "study.log").read_bytes(),
    ]
    started, seconds = time.perf_counter(), []
    process = subprocess.Popen([*PROGRAM, "run", study, *settings], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        for reached in moments:
            while not reached():
                assert process.poll() is None and time.perf_counter() - started < PATIENCE, "the run does not begin"
                time.sleep(0.01)
            seconds.append(time.perf_counter() - started)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    helps = [help_seconds() for _ in range(given.repeats)]
    runs: dict[str, list[list[float]]] = {name: [] for name in WAYS}
    for _ in range(given.repeats):
        for name, settings in WAYS.items():
            with tempfile.TemporaryDirectory() as folder:
                runs[name].append(run_seconds(Path(folder), *settings))
    rows = [("`mmsa-search --help`", helps)]
    for name, found in runs.items():
        opened, owner, epoch = (list(column) for column in zip(*found, strict=True))
        rows += [
            (f"`run`{name} until its first epoch is over", epoch),
            ("- imports, study and data opened, every arm of the space built once", opened),
            ("- until the study's owner stands", [b - a for a, b in zip(opened, owner, strict=True)]),
            ("- until the first epoch is trained", [b - a for a, b in zip(owner, epoch, strict=True)]),
        ]
    sys.stdout.write("| | median s | range |\n| --- | ---: | ---: |\n")
    for name, seconds in rows:
        sys.stdout.write(f"| {name} | {median(seconds):.2f} | {min(seconds):.2f} to {max(seconds):.2f} |\n")


if __name__ == "__main__":
    main()
