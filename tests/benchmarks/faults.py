"""Faults, really done: a small study is killed, interrupted and damaged again and again, and the same command goes on.

Each study runs in processes of its own, as a person runs it. At random moments a fault strikes; then the same command
is given again, until it ends by itself. At the end every trial must be told, their number must be the budget, no
configuration may be there twice, and what was told before a fault must not have changed. Writes Markdown:
``python -m tests.benchmarks.faults``.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.storages.journal import JournalFileBackend

from mmsa_core.data.synthetic import write_planted

ROOT = Path(__file__).parents[2]
TRIALS = 24
DISK = 600
"""MiB of the file system that a study on a full disk runs on."""
SETTINGS = ("rungs.epochs=[4,8,16]", "seeds.confirm=4", "seeds.effects=3", "seeds.leaders=2")
COMMAND = (sys.executable, "-c", "from search.cli import main; main()", "run", str(ROOT / "spaces/studies/demo.yaml"))


@dataclass
class Study:
    """A study under faults: its process, and what of it was told when. ``relative`` names its run folder from the
    current one, and ``run`` is what it is called."""

    folder: Path
    rng: random.Random
    trials_wanted: int = TRIALS
    workers: str = "2"
    environment: dict[str, str] = field(default_factory=dict)
    relative: bool = False
    run: str = "run"
    process: subprocess.Popen[bytes] | None = None
    told: dict[int, Any] = field(default_factory=dict)
    starts: int = 0

    def start(self) -> None:
        """Give the command; what it says goes to a file."""
        with (self.folder / "said.txt").open("ab") as said:
            place = Path() if self.relative else self.folder
            data, out = str(place / "data.npz"), str(place / self.run)
            size = (f"budget.trials={self.trials_wanted}", f"resources.workers={self.workers}")
            arguments = [*COMMAND, *SETTINGS, *size, "--data", data, "--out", out]
            environment = {**os.environ, **self.environment, "PYTHONPATH": str(ROOT)}
            self.process = subprocess.Popen(
                arguments, cwd=self.folder, stdout=said, stderr=said, start_new_session=True, env=environment
            )
        self.starts += 1

    @property
    def journal(self) -> Path:
        return self.folder / self.run / "study.log"

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        log = self.journal
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


def killed_in_write(study: Study) -> bool:
    """Kill the driver while it holds the journal's lock: the lock's link stays behind."""
    assert study.process is not None
    lock, end = study.journal.with_name("study.log.lock"), time.monotonic() + 20
    while not os.path.lexists(lock):
        if time.monotonic() > end or study.process.poll() is not None:
            return False
    study.process.kill()
    study.process.wait()
    return os.path.lexists(lock)


def killed_and_moved(study: Study) -> bool:
    """Kill the driver while it holds the journal's lock, and move the run folder."""
    if not killed_in_write(study):
        return False
    before, study.run = study.folder / study.run, f"{study.run}-moved"
    before.rename(study.folder / study.run)
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
    log = study.journal
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


def disk_full(study: Study) -> bool:
    """Leave not a byte free, until the study has ended by itself with a sentence that says so."""
    ballast = study.folder / "run" / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**16))
    return halted(study, "disk", ballast.unlink)


def read_only(study: Study) -> bool:
    """Take away the right to change anything in the run folder, until the study has ended by itself."""
    run = str(study.folder / "run")
    subprocess.run(["chattr", "-R", "+i", run], check=True, stderr=subprocess.DEVNULL)
    return halted(study, "cannot be", lambda: subprocess.run(["chattr", "-R", "-i", run], check=True))


def halted(study: Study, says: str, mend: Callable[[], object]) -> bool:
    """Wait until the study has ended by itself, which it must have said in a sentence, and mend the fault."""
    assert study.process is not None
    try:
        code = study.process.wait(120)
    finally:
        mend()
    if code == 0:
        return False
    last = (study.folder / "said.txt").read_text(encoding="utf-8").splitlines()[-1]
    assert code == 2 and last.startswith("mmsa-search: ") and says in last, last
    return True


def memory_taken(study: Study) -> bool:
    """Take memory up to where Ray's monitor kills workers, for some seconds."""
    victim = study.child("ray::ResourceTrainable")
    if victim is None:
        return False
    share = float(study.environment["RAY_memory_usage_threshold"])
    hog = "import sys, time; taken = b'x' * int(sys.argv[1]); time.sleep(8)"
    memory = psutil.virtual_memory()
    size = share * memory.total - (memory.total - memory.available) + 2**28
    subprocess.run([sys.executable, "-c", hog, str(int(size))], check=True)
    return not victim.is_running()


def small_disk(study: Study) -> None:
    (study.folder / "run").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", study.folder / "run"], check=True)


def small_memory(study: Study) -> None:
    memory = psutil.virtual_memory()
    share = (memory.total - memory.available + 5 * 2**30) / memory.total
    study.environment |= {"RAY_memory_usage_threshold": f"{share:.4f}", "RAY_memory_monitor_refresh_ms": "100"}


BEFORE: dict[str, tuple[Callable[[Study], None], str]] = {
    "full disk": (small_disk, "mount"),
    "memory taken, Ray's monitor kills a worker": (small_memory, "python3"),
}
"""What must be made before a study starts, and the program that is needed for it."""
ALONE = {"driver in a write, kill -9", "driver in a write, kill -9, folder moved"}
"""Faults of a driver that writes to the journal itself: one that has no Ray."""
FAULTS: dict[str, tuple[Fault, int]] = {
    "driver, kill -9": (driver_killed, 20),
    "driver in a write, kill -9": (killed_in_write, 20),
    "driver in a write, kill -9, folder moved": (killed_and_moved, 6),
    "worker, kill -9": (child_killed("ray::ResourceTrainable"), 6),
    "the desk (the study's owner), kill -9": (child_killed("ray::Desk"), 3),
    "Ray's node process, kill -9": (child_killed("raylet/raylet"), 3),
    "SIGTERM": (signalled(signal.SIGTERM), 3),
    "Ctrl-C once": (signalled(signal.SIGINT), 3),
    "Ctrl-C twice": (signalled(signal.SIGINT, 2), 3),
    "journal cut within a line": (journal_cut, 3),
    "checkpoints cut in half": (checkpoint_cut, 3),
    "full disk": (disk_full, 3),
    "run folder made read-only": (read_only, 3),
    "memory taken, Ray's monitor kills a worker": (memory_taken, 3),
}


def suffer(name: str, strikes: int, study: Study) -> int:
    """Run a study to its end under ``strikes`` faults; return how many there were."""
    write_planted(study.folder / "data.npz", 0, train=200, valid=100, test=100)
    fault, done, deadline = FAULTS[name][0], 0, time.monotonic() + 30 * study.trials_wanted + 200
    if name in BEFORE:
        BEFORE[name][0](study)
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
            return done
        study.start()


def row(name: str, tries: int, trials: int, workers: str) -> str:
    """Do a fault in as many studies as it takes for ``tries`` strikes, every other one with relative paths, and return
    the result as a table's row."""
    done = studies = lost = twice = starts = 0
    while done < tries and not (studies > 3 and done == 0):
        folder = Path(tempfile.mkdtemp())
        study = Study(folder, random.Random(100 * studies + len(name)), trials, workers, relative=studies % 2 == 1)
        try:
            done += suffer(name, min(5 if trials == TRIALS else tries, -(-tries // 2), tries - done), study)
            told = [t for t in study.trials() if t.state.is_finished()]
        finally:
            if (folder / "run").is_mount():
                subprocess.run(["umount", folder / "run"], check=True)
        lost += trials - len(told)
        twice += len(told) - len({str(sorted(t.params.items())) for t in told})
        studies, starts = studies + 1, starts + study.starts
        shutil.rmtree(folder)
    return f"| {name} | {workers} | {trials} | {done} | {studies} | {starts} | {lost} | {twice} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="a part of a fault's name")
    parser.add_argument("--trials", type=int, default=TRIALS, help="trials of a study")
    parser.add_argument(
        "--workers", default="2", help="resources.workers: 1 runs without Ray, auto starts it on the way"
    )
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sys.stdout.write(
        "| fault | workers | trials of a study | strikes | studies | times the command was given "
        "| trials lost | trials twice |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    for name, (_, tries) in FAULTS.items():
        if given.only is not None and given.only not in name:
            continue
        program = BEFORE[name][1] if name in BEFORE else "python3"
        if shutil.which(program) is None or (program == "mount" and os.geteuid() != 0):
            sys.stdout.write(f"| {name} | not done: {program} is missing or not allowed | | | | | | |\n")
            continue
        workers = "1" if name in ALONE else given.workers
        sys.stdout.write(row(name, tries, given.trials, workers) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
