"""Faults, really done: a small study is killed, interrupted and damaged again and again, and the same command goes on.

Each study runs in processes of its own, as a person runs it. At random moments a fault strikes; then the same command
is given again, until it ends by itself. At the end every trial must be told, their number must be the budget, no
configuration may be there twice, and what was told before a fault must not have changed. Writes Markdown:
``python -m tests.benchmarks.faults``.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.storages.journal import JournalFileBackend

from mmsa_core.data.synthetic import write_planted

ROOT = Path(__file__).parents[2]
TRIALS = 24
SETTINGS = (
    f"budget.trials={TRIALS}", "rungs.epochs=[4,8,16]", "seeds.confirm=4", "seeds.effects=3", "seeds.leaders=2",
)  # fmt: skip
COMMAND = (sys.executable, "-c", "from search.cli import main; main()", "run", str(ROOT / "spaces/studies/demo.yaml"))


@dataclass
class Study:
    """A study under faults: its process, and what of it was told when."""

    folder: Path
    rng: random.Random
    process: subprocess.Popen[bytes] | None = None
    told: dict[int, Any] = field(default_factory=dict)
    starts: int = 0

    def start(self) -> None:
        """Give the command; what it says goes to a file."""
        with (self.folder / "said.txt").open("ab") as said:
            arguments = [
                *COMMAND,
                *SETTINGS,
                "--data",
                str(self.folder / "data.npz"),
                "--out",
                str(self.folder / "run"),
            ]
            self.process = subprocess.Popen(arguments, cwd=ROOT, stdout=said, stderr=said, start_new_session=True)
        self.starts += 1

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        log = self.folder / "run" / "study.log"
        if not log.exists():
            return []
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(log)))
        return optuna.load_study(study_name="demo", storage=storage).get_trials() if storage.get_all_studies() else []

    def remember(self) -> None:
        """Keep what is told now; what was told before must be the same."""
        now = {t.number: (t.state, t.values) for t in self.trials() if t.state.is_finished()}
        assert self.told.items() <= now.items(), "a trial that was told has changed"
        self.told = now

    def child(self, name: str) -> psutil.Process | None:
        """Return a process of the study by a part of its title, e.g. ``ray::Desk``."""
        assert self.process is not None
        try:
            below = psutil.Process(self.process.pid).children(recursive=True)
            found = [p for p in below if name in " ".join(p.cmdline())]
        except psutil.Error:
            return None
        return self.rng.choice(found) if found else None


Fault = Callable[[Study], bool]
"""Strikes a study that runs, and tells whether it did; the study may go on or end."""


def driver_killed(study: Study) -> bool:
    assert study.process is not None
    study.process.send_signal(signal.SIGKILL)
    return True


def signalled(number: signal.Signals, times: int = 1) -> Fault:
    def strike(study: Study) -> bool:
        assert study.process is not None
        for _ in range(times):
            study.process.send_signal(number)
            time.sleep(0.5)
        return True

    return strike


def child_killed(name: str) -> Fault:
    def strike(study: Study) -> bool:
        child = study.child(name)
        if child is not None:
            child.kill()
        return child is not None

    return strike


def journal_cut(study: Study) -> bool:
    """Kill the driver as if in the middle of a write: the last line of the journal is half there."""
    driver_killed(study)
    assert study.process is not None
    study.process.wait()
    time.sleep(3)
    log = study.folder / "run" / "study.log"
    if not log.exists() or log.stat().st_size < 100:
        return False
    with log.open("ab") as file:
        file.write(b'{"op_code": 5, "worker_id": "cut')
    return True


def checkpoint_cut(study: Study) -> bool:
    driver_killed(study)
    assert study.process is not None
    study.process.wait()
    time.sleep(3)
    files = sorted((study.folder / "run" / "populations").glob("*.safetensors"))
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return bool(files)


FAULTS: dict[str, tuple[Fault, int]] = {
    "driver, kill -9": (driver_killed, 20),
    "worker, kill -9": (child_killed("ray::ResourceTrainable"), 6),
    "the desk (the study's owner), kill -9": (child_killed("ray::Desk"), 3),
    "Ray's node process, kill -9": (child_killed("raylet/raylet"), 3),
    "SIGTERM": (signalled(signal.SIGTERM), 3),
    "Ctrl-C once": (signalled(signal.SIGINT), 3),
    "Ctrl-C twice": (signalled(signal.SIGINT, 2), 3),
    "journal cut within a line": (journal_cut, 3),
    "checkpoints cut in half": (checkpoint_cut, 3),
}


def suffer(fault: Fault, strikes: int, folder: Path, seed: int) -> tuple[Study, int]:
    """Run a study to its end under ``strikes`` faults; return it and how many there were."""
    write_planted(folder / "data.npz", 0, train=200, valid=100, test=100)
    study, done, deadline = Study(folder, random.Random(seed)), 0, time.monotonic() + 900
    study.start()
    while True:
        assert study.process is not None and time.monotonic() < deadline, "the study does not end"
        calm = study.rng.uniform(4.0, 25.0) if done < strikes else 900.0
        try:
            code = study.process.wait(calm)
        except subprocess.TimeoutExpired:
            study.remember()
            done += fault(study)
            continue
        study.remember()
        if code == 0:
            return study, done
        study.start()


def row(name: str, fault: Fault, tries: int) -> str:
    """Do a fault in as many studies as it takes for ``tries`` strikes, and return the result as a table's row."""
    done = studies = lost = twice = starts = 0
    while done < tries:
        with tempfile.TemporaryDirectory() as folder:
            study, struck = suffer(fault, min(5, tries - done), Path(folder), seed=100 * studies + len(name))
            found = study.trials()
            told = [t for t in found if t.state.is_finished()]
            lost += TRIALS - len(told)
            twice += len(told) - len({str(sorted(t.params.items())) for t in told})
            done, studies, starts = done + struck, studies + 1, starts + study.starts
        if struck == 0 and studies > 3:
            break
    return f"| {name} | {done} | {studies} | {starts} | {lost} | {twice} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="a part of a fault's name")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sys.stdout.write(
        "| fault | strikes | studies | times the command was given | trials lost | trials twice |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
    )
    for name, (fault, tries) in FAULTS.items():
        if given.only is None or given.only in name:
            sys.stdout.write(row(name, fault, tries) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
