"""Several drivers on one study: no trial twice, the budget to the trial, and what a dead one left is taken up."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from search import drivers
from search.drivers import BEAT, LEASE, Drivers
from search.leadership import Terms
from search.ledger import Ledger
from search.populations import Result, Task
from search.processes import this_process
from search.run_folder import RunFolder
from search.study import StudyConfig
from search.trials import BASELINE, ORIGIN, POPULATION
from tests.search.tiny import pretend, study


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the monotonic clock of drivers, to be moved."""
    clock = [1000.0]
    monkeypatch.setattr(drivers, "time", SimpleNamespace(monotonic=lambda: clock[0], time=lambda: clock[0]))
    return clock


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return what makes this process look like one of another host."""

    def become(host: str) -> None:
        monkeypatch.setattr(drivers, "this_process", lambda: {"host": host, "pid": 7, "start": 1.0})

    return become


def shared(folder: Path, **changes: Any) -> StudyConfig:
    return study(storage=f"journal://{folder / 'shared.log'}", **changes)


def ledger(config: StudyConfig, folder: Path, size: int = 3) -> Ledger:
    folder.mkdir(exist_ok=True)
    return Ledger(config, config.search_space(), RunFolder(folder), size)


def memory() -> optuna.Study:
    return optuna.create_study(direction="minimize")


def driver(known: optuna.Study, folder: Path, **changes: Any) -> Drivers:
    return Drivers(known, study(storage="sqlite:///elsewhere.db", **changes), named(folder), 3)


def named(path: Path) -> RunFolder:
    """Return a run folder that has its name, as one that is held."""
    path.mkdir(exist_ok=True)
    folder = RunFolder(path)
    folder.claim_study()
    folder.release_study()
    return folder


# ---- who is alive, and who leads -------------------------------------------------------------------------------------


def test_the_first_leads_and_the_next_one_after_it(tmp_path: Path, now: list[float], on: Callable[[str], None]) -> None:
    known = memory()
    on("a")
    first = driver(known, tmp_path / "a")
    on("b")
    second = driver(known, tmp_path / "b")
    assert first.leads and not second.leads and second.leader is not None
    assert second.leader["host"] == "a" and second.leader["folder"] == str(tmp_path / "a")
    assert [d["host"] for d in first.alive()] == ["a", "b"] == [d["host"] for d in second.alive()][::-1]
    first.leave()
    assert second.leads and len(second.alive()) == 1


def test_a_clock_that_is_behind_does_not_lead(tmp_path: Path, now: list[float], on: Callable[[str], None]) -> None:
    known = memory()
    on("a")
    first = driver(known, tmp_path)
    assert first.leads
    now[0] -= 500
    on("b")
    assert not driver(known, tmp_path).leads and first.leads


def test_a_silent_driver_of_another_host_is_dead_after_the_lease(
    tmp_path: Path, now: list[float], on: Callable[[str], None]
) -> None:
    known = memory()
    on("a")
    silent = driver(known, tmp_path)
    assert silent.leads
    on("b")
    other = driver(known, tmp_path)
    for _ in range(3):
        now[0] += LEASE - 1
        silent.beat()
        assert not other.leads, "it beats"
    now[0] += LEASE - 1
    assert not other.leads
    now[0] += 2
    assert other.leads
    silent.beat()
    assert other.leads and not silent.leads, "it was not dead, but its term is over"


def test_a_killed_driver_of_this_host_is_dead_at_once(tmp_path: Path) -> None:
    known = memory()
    gone = {**this_process(), "pid": 2**22 + 1}
    known.set_user_attr("driver:1", {**gone, "folder": "there", "asks": 3, "beat": 3})
    Terms(known).claim(None, gone)
    assert driver(known, tmp_path).leads


def test_beats_are_rare(tmp_path: Path, now: list[float]) -> None:
    known = memory()
    own = driver(known, tmp_path)
    for _ in range(100):
        own.beat()
    assert known.user_attrs[f"driver:{own.token}"]["beat"] == 1
    now[0] += BEAT
    own.beat()
    assert known.user_attrs[f"driver:{own.token}"]["beat"] == 2


# ---- two ledgers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_two_drivers_keep_the_budget_to_the_trial(
    tmp_path: Path, now: list[float], on: Callable[[str], None], seed: int
) -> None:
    """They take turns at random; nothing is run twice, and there is one baseline."""
    rng, config = random.Random(seed), shared(tmp_path, budget={"trials": 20 + seed}, pruner="none")
    on("a")
    sources = [ledger(config, tmp_path / "a")]
    on("b")
    sources.append(ledger(config, tmp_path / "b"))
    held: list[tuple[Ledger, Task]] = []
    ran: Counter[int] = Counter()
    while any(s.pending() for s in sources):
        source = rng.choice(sources)
        if rng.random() < 0.5 and isinstance(task := source.next(), Task):
            held.append((source, task))
        elif held:
            source, task = held.pop(rng.randrange(len(held)))
            source.finish(task.name, pretend(task, source.report))
            ran.update(s.trial for s in task.slots)
    trials = sources[0].study.get_trials()
    assert [t.state for t in trials] == [TrialState.COMPLETE] * (20 + seed)
    assert sorted(ran) == [t.number for t in trials] and set(ran.values()) == {1}
    assert [t.number for t in trials if t.user_attrs.get(ORIGIN) == BASELINE] == [0]
    owners = {t.user_attrs[POPULATION]["owner"]["host"] for t in trials}
    assert owners == {"a", "b"}, "both worked"
    structures = {}
    for t in trials:
        own = sources[0].space.structural(t.params)
        assert structures.setdefault(t.user_attrs[POPULATION]["name"], own) == own, "no population has two structures"


def test_what_a_dead_driver_left_is_taken_up(tmp_path: Path, now: list[float], on: Callable[[str], None]) -> None:
    config = shared(tmp_path, budget={"trials": 9}, pruner="none")
    on("a")
    dead = ledger(config, tmp_path / "a")
    task = dead.next()
    on("b")
    source = ledger(config, tmp_path / "b")
    assert isinstance(task, Task) and source.ready() is True
    done = []
    while isinstance(own := source.next(), Task):
        source.finish(own.name, pretend(own, source.report))
        done += [s.trial for s in own.slots]
    assert source.pending() and not source.ready(), "the last trials are the other one's, or its to ask for"
    assert 0 not in done
    now[0] += LEASE + 1
    while isinstance(own := source.next(), Task):
        source.finish(own.name, pretend(own, source.report))
        done += [s.trial for s in own.slots]
    assert sorted(done) == list(range(9)) and not source.pending()
    values = [t.value for t in source.study.get_trials()]
    assert dead.report(task.name, 1, {0: 0.1, 1: 0.1, 2: 0.1}).drop == {0, 1, 2}, "it is not its any more"
    late = pretend(task, dead.report)
    dead.finish(task.name, Result(late.outcomes, False, 1.0, 1))
    assert [t.value for t in source.study.get_trials()] == values, "what is told stays"


# ---- two processes, and kills ----------------------------------------------------------------------------------------

PROGRAM = """
import sys, time
from pathlib import Path
from search.populations import Task
from tests.search.test_drivers import ledger, shared
from tests.search.tiny import pretend

folder, own, trials = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
source = ledger(shared(folder, budget={"trials": trials}, pruner="none"), folder / own)
while source.pending():
    task = source.next()
    if not isinstance(task, Task):
        time.sleep(0.01)
        continue
    time.sleep(0.02)
    source.finish(task.name, pretend(task, source.report))
source.close()
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str, int], subprocess.Popen[bytes]]]:
    """Return what starts a driver that pretends to train, in a process of its own."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(own: str, trials: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path), own, str(trials)])
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()


def test_two_drivers_under_kills(tmp_path: Path, start: Callable[[str, int], subprocess.Popen[bytes]]) -> None:
    """One of two is killed again and again at random moments, and started anew: 60 trials, each told once."""
    trials, rng, kills = 60, random.Random(0), 0
    two = {own: start(own, trials) for own in ("a", "b")}
    while any(p.poll() is None for p in two.values()):
        time.sleep(rng.uniform(1.0, 3.0))
        own = rng.choice(list(two))
        if two[own].poll() is None and kills < 6:
            two[own].send_signal(signal.SIGKILL)
            two[own].wait()
            kills += 1
            two[own] = start(own, trials)
    assert [p.returncode for p in two.values()] == [0, 0]
    known = ledger(shared(tmp_path, budget={"trials": trials}), tmp_path / "c").study
    found = known.get_trials()
    assert [t.state for t in found] == [TrialState.COMPLETE] * trials, f"after {kills} kills"
    assert len({t.params["optimizer.lr"] for t in found}) == trials, "no configuration is there twice"
