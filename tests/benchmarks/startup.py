"""How long a person waits: for ``--help``, and from ``run`` to the first finished epoch, with Ray's part of it.

Each is measured several times in processes of its own, as the installed program. The moments of a run are seen from
outside: ``lock.json`` is written when study and data are opened and checked, ``.desk`` when Ray has started the process
that owns the study, and the journal has a first value when the first epoch is over. Writes Markdown: ``python -m
tests.benchmarks.startup``.
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


def help_seconds() -> float:
    started = time.perf_counter()
    subprocess.run([*PROGRAM, "--help"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def run_seconds(folder: Path) -> list[float]:
    """Return the seconds until study and data are open, until the desk stands, and until the first epoch is over."""
    write_planted(folder / "data.npz", 0)
    study, out = str(ROOT / "spaces/studies/demo.yaml"), folder / "run"
    settings = ["rungs.epochs=[1,2,4]", "--data", str(folder / "data.npz"), "--out", str(out)]
    moments: list[Callable[[], bool]] = [
        (out / "lock.json").exists,
        (out / ".desk").exists,
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
    runs = []
    for _ in range(given.repeats):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(run_seconds(Path(folder)))
    opened, desk, epoch = (list(column) for column in zip(*runs, strict=True))
    ray = [b - a for a, b in zip(opened, desk, strict=True)]
    first = [b - a for a, b in zip(desk, epoch, strict=True)]
    rows = [
        ("`mmsa-search --help`", helps),
        ("`run` until its first epoch is over", epoch),
        ("- imports, study and data opened, every arm of the space built once", opened),
        ("- population size measured, Ray started, the study's owner in its process", ray),
        ("- a worker started, the data sent to it, the first epoch trained", first),
    ]
    sys.stdout.write("| | median s | range |\n| --- | ---: | ---: |\n")
    for name, seconds in rows:
        sys.stdout.write(f"| {name} | {median(seconds):.2f} | {min(seconds):.2f} to {max(seconds):.2f} |\n")


if __name__ == "__main__":
    main()
