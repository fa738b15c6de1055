"""Feeds run folders with foreign things in them to every verb that takes one.

Whatever is there, a verb returns or raises one sentence; it changes nothing outside the run folder, ends no process
that is not the run's, and does not hang. ``python -m tests.fuzz.folders --inputs 10000`` counts what fails by its kind;
``--first N --inputs 1`` does one input again.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

from mmsa_core.errors import UserError
from search.outage import outage
from search.processes import KEYS, this_process
from search.report.build import write_report
from tests.fuzz import seeds
from tests.fuzz.places import EXTRA, KINDS, Outside, change, clear
from tests.fuzz.verbs import VERBS

SECONDS = 8
"""An input that takes longer hangs; ``SLOW`` verbs may take as many times longer."""
SLOW = 5
HOLD = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(file, fcntl.LOCK_EX)
os.set_inheritable(file, True)
print(flush=True)
os.execvp("sleep", ["sleep", "1000000"])
"""
"""A process that holds a file's lock and ends at the first signal, as any program may."""
SETTLE = 0.03
"""Seconds until a process that was ended is seen to be."""


class HangError(BaseException):
    """An input took too long; no handler of errors may take it for one of its own."""


@dataclass(frozen=True)
class Input:
    """What is put where, and the verb that finds it there."""

    number: int
    verb: str
    changes: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"input {self.number}: {self.verb}, {'; '.join(f'{kind} at {place}' for place, kind in self.changes)}"


class Folder:
    """A run folder that is brought back to what it was, whatever was done to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        files = [p for p in path.rglob("*") if p.is_file()]
        self.files = {str(p.relative_to(path)): p.read_bytes() for p in files}
        self.folders = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_dir()}
        self._marks = {name: _mark(path / name) for name in self.files}

    def restore(self) -> None:
        """Take away what does not belong here, and write again what is not as it was."""
        if self.path.is_symlink() or not self.path.is_dir():
            clear(self.path)
            self.path.mkdir()
        self.path.chmod(0o755)
        self._take_away(self.path, "")
        for name in sorted(self.folders):
            (self.path / name).mkdir(exist_ok=True)
        for name, content in self.files.items():
            if _mark(self.path / name) != self._marks[name]:
                clear(self.path / name)
                (self.path / name).write_bytes(content)
                self._marks[name] = _mark(self.path / name)

    def _take_away(self, folder: Path, prefix: str) -> None:
        for entry in list(os.scandir(folder)):
            name = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False) and name in self.folders:
                Path(entry.path).chmod(0o755)
                self._take_away(Path(entry.path), f"{name}/")
            elif name not in self.files or not entry.is_file(follow_symlinks=False):
                clear(Path(entry.path))


class Fuzzer:
    """Makes one changed run folder after another and collects what fails, by kind, with the first input of each."""

    def __init__(self, base: Path, seed: int) -> None:
        self.seed = seed
        self.outside_folder = base / "outside"
        run = seeds.run(_made(base / "seed"))
        write_report(run)
        (base / "other").mkdir()
        self.other = seeds.run(base / "other")
        self.folder = Folder(run)
        self.processes: list[subprocess.Popen[str]] = []
        self.outcomes: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self._begin()

    def run(self, numbers: range) -> None:
        """Feed the inputs with these numbers."""
        signal.signal(signal.SIGALRM, _hang)
        for number in numbers:
            self.one(number)

    def one(self, number: int) -> None:
        """Feed one input and bring everything back."""
        rng = random.Random(f"{self.seed} {number}")
        made = self._made(number, rng)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found = self._call(made.verb, SECONDS * (SLOW if VERBS[made.verb].slow else 1))
        if found is not None:
            self._fail(found, made)
        self._check(made)
        self.folder.restore()

    def close(self) -> None:
        """End the processes that this fuzzer started."""
        for process in self.processes:
            process.kill()
            process.wait()

    def _made(self, number: int, rng: random.Random) -> Input:
        """Change one to three places, none of which lies in another."""
        names, weights = list(VERBS), [verb.weight for verb in VERBS.values()]
        there = [*self.folder.files, *self.folder.folders, *EXTRA]
        seldom = ["/tables/" in place for place in there]  # there are many, and all are alike
        changes: list[tuple[str, str]] = []
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            (place,) = rng.choices(there, [1 if few else 10 for few in seldom])
            kind = rng.choice(list(KINDS))
            path = self.folder.path / place
            if any(_within(place, other) or _within(other, place) for other, _ in changes):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            change(kind, path, rng, self.outside)
            changes.append((place, kind))
        return Input(number, rng.choices(names, weights)[0], tuple(changes))

    def _call(self, verb: str, seconds: float) -> str | None:
        """Return what is wrong with how a verb ends, or None."""
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            VERBS[verb].call(self.folder.path, self.other)
            self.outcomes[f"{verb}: done"] += 1
        except UserError as error:
            return self._refused(verb, str(error))
        except HangError as error:
            return f"hangs: {_where(error)}"
        except Exception as error:
            said = outage(error)  # as the program says it
            return f"raises {type(error).__name__}: {_where(error)}" if said is None else self._refused(verb, said)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return None

    def _refused(self, verb: str, text: str) -> str | None:
        self.outcomes[f"{verb}: refused"] += 1
        sound = text.strip() and text.isprintable() and len(text) < 2000
        return None if sound else f"{verb}: what it says is no sentence"

    def _check(self, made: Input) -> None:
        """Note what changed outside, and begin anew if anything did."""
        if VERBS[made.verb].signals:
            time.sleep(SETTLE)
        now = state(self.outside_folder)
        changed = [name for name in {**self.before, **now} if self.before.get(name) != now.get(name)]
        ended = [process for process in self.processes if process.poll() is not None]
        for name in changed:
            self._fail(f"changes what is outside: {name}, {_culprits(made)}", made)
        if ended:
            self._fail(f"ends a foreign process: {_culprits(made)}", made)
        if changed or ended:
            self._begin()

    def _fail(self, kind: str, made: Input) -> None:
        self.failures[kind] += 1
        self.first.setdefault(kind, str(made))

    def _begin(self) -> None:
        """Make what lies outside, and the foreign processes: one sleeps, and one holds a lock."""
        self.close()
        clear(self.outside_folder)
        tree = _made(self.outside_folder) / "tree"
        (tree / "confirm").mkdir(parents=True)
        for path in (self.outside_folder / "file.json", tree / "resolved.yaml", tree / "confirm" / "confirm.json"):
            path.write_text('{"kept": true}\n', encoding="utf-8")
        (self.outside_folder / "journal.log").write_bytes((self.other / "study.log").read_bytes())
        sleep = subprocess.Popen(["sleep", "1000000"], text=True)
        held = self.outside_folder / "held"
        held.touch()
        holder = subprocess.Popen([sys.executable, "-c", HOLD, str(held)], stdout=subprocess.PIPE, text=True)
        held.write_text(str(holder.pid), encoding="utf-8")
        assert holder.stdout is not None
        holder.stdout.readline()
        self.processes = [sleep, holder]
        self.outside = Outside(self.outside_folder, _record(sleep.pid))
        self.before = state(self.outside_folder)


def _record(pid: int) -> dict[str, object]:
    """Return the record of another process, as it would write it itself."""
    own = psutil.Process(pid)
    start = own.create_time() - psutil.boot_time()
    return {**{key: this_process()[key] for key in KEYS}, "pid": pid, "start": start}


def state(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return content, inode and time of change of everything below a folder; of a folder its names."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        own = path.lstat()
        content: object = None
        if path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.is_dir():
            content = tuple(sorted(p.name for p in path.iterdir()))
        found[str(path.relative_to(folder))] = (own.st_ino, own.st_mtime_ns, own.st_mode, content)
    return found


def _mark(path: Path) -> tuple[int, ...] | None:
    try:
        own = path.lstat()
    except OSError:
        return None
    return own.st_ino, own.st_size, own.st_mtime_ns, own.st_mode, own.st_nlink


def _culprits(made: Input) -> str:
    """Return the input without its numbers: what fails for the same reason has the same name."""
    parts = [f"{kind} at {_general(place)}" for place, kind in made.changes]
    return f"{made.verb}, {'; '.join(sorted(parts))}" if len(parts) == 1 else f"{made.verb}, several changes"


def _general(place: str) -> str:
    first, _, rest = place.partition("/")
    return f"{first}/*" if rest else place


def _where(error: BaseException) -> str:
    """Return the innermost place of the project's own code in a traceback."""
    own = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}search{os.sep}" in f.filename]
    frame = [f for f in own if "/fuzz/" not in f.filename][-1:]
    return f"{Path(frame[0].filename).name}, {frame[0].name}" if frame else "outside the project"


def _within(place: str, other: str) -> bool:
    return other in (".", place) or place.startswith(f"{other}/")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _hang(number: int, frame: FrameType | None) -> None:
    raise HangError


def report(fuzzer: Fuzzer, seconds: float) -> str:
    """Return what came of the inputs as Markdown."""
    lines = [f"- {name}: {count}" for name, count in sorted(fuzzer.outcomes.items())]
    lines += [f"- seconds: {seconds:.0f}", "", "| failure | inputs | the first |", "| --- | ---: | --- |"]
    lines += [f"| {kind} | {count} | {fuzzer.first[kind]} |" for kind, count in fuzzer.failures.most_common()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fuzzer, started = Fuzzer(Path(folder), given.seed), time.perf_counter()
        try:
            fuzzer.run(range(given.first, given.first + given.inputs))
        finally:
            fuzzer.close()
            sys.stdout.write(report(fuzzer, time.perf_counter() - started))
    sys.exit(1 if fuzzer.failures else 0)


if __name__ == "__main__":
    main()
