"""The desk: what gives out on the way (disk, storage, workers, our own code) halts or is mended, and loses nothing."""

from __future__ import annotations

import os
import re
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from optuna.storages.journal import JournalFileBackend

from mmsa_core.errors import UserError
from search import outage
from search.desk import Desk, Patience
from search.engine import Engine, Placement
from search.ledger import Ledger
from search.populations import Reply, Task, Wait
from search.run_folder import RunFolder
from search.storage import open_storage
from tests.search.tiny import ledger, pretend, scaled, study

TRIALS = 12
WORKER = "ray::ResourceTrainable"
CONFIG = study(budget={"trials": TRIALS})


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``size`` bytes: a write that would is done in part, and then refused."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def told(run: Path) -> dict[int, Any]:
    """Return what a second reader of the journal finds told."""
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(run / "study.log")))
    trials = optuna.load_study(study_name="tiny", storage=storage).get_trials()
    return {t.number: (t.state, t.values, t.params) for t in trials if t.state.is_finished()}


def work(desk: Desk, most: int = TRIALS) -> None:
    """Do up to ``most`` of the tasks that the desk hands out, as one worker."""
    for _ in range(most):
        if not isinstance(name := desk.next(), str):
            return
        desk.finish(name, pretend(desk.take(name, worker=None), desk.report))


@pytest.mark.parametrize("room", range(0, 9000, 500))
def test_a_full_disk_halts_and_loses_nothing(tmp_path: Path, room: int) -> None:
    """Wherever the journal's growth ends, every line is whole, and the same study goes on."""
    run = tmp_path / "run"
    source = ledger(CONFIG, run)
    desk = Desk(lambda: source)
    with files_at_most((run / "study.log").stat().st_size + room):
        work(desk)
    failure = desk.failure()
    assert isinstance(failure, UserError)
    assert "the disk is full (File too large)" in str(failure) and str(failure).endswith(outage.GO_ON)
    assert desk.next() is None and not desk.open() and desk.close()["speed"]["member_epochs"] >= 0
    assert (run / "study.log").read_bytes().endswith(b"\n")
    before = told(run)
    assert len(before) < TRIALS

    again = Desk(partial(ledger, CONFIG, run))
    work(again)
    assert again.failure() is None
    after = told(run)
    assert len(after) == TRIALS and before.items() <= after.items()
    assert len({str(params) for _, _, params in after.values()}) == TRIALS


def test_a_failed_write_leaves_no_half_line(tmp_path: Path) -> None:
    made = optuna.create_study(storage=open_storage("journal", tmp_path), study_name="s")
    log = tmp_path / "study.log"
    whole = log.read_bytes()
    with files_at_most(len(whole) + 10), pytest.raises(OSError, match="File too large"):
        made.set_user_attr("key", "value")
    assert log.read_bytes() == whole
    made.set_user_attr("key", "other")
    again = optuna.load_study(study_name="s", storage=open_storage("journal", tmp_path))
    assert again.user_attrs == {"key": "other"}


def test_nothing_is_begun_on_a_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ledger(CONFIG, tmp_path / "run")
    desk = Desk(lambda: source)
    name = desk.next()
    assert isinstance(name, str)
    monkeypatch.setattr(outage, "LEAST_ROOM", 2**60)
    task = desk.take(name, None)
    desk.finish(name, pretend(task, source.report))  # what runs is told
    assert len(told(tmp_path / "run")) == len({s.trial for s in task.slots})
    assert desk.next() is None
    assert "MiB of this disk are free, and 1099511627776 MiB are needed to go on safely; mend" in str(desk.failure())


def test_room_is_kept_for_the_largest_checkpoint_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outage, "LEAST_ROOM", 0)
    (tmp_path / "populations").mkdir()
    with (tmp_path / "populations" / "a.safetensors").open("wb") as sparse:
        sparse.truncate(2**42)
    with pytest.raises(UserError, match=r"and 8388608 MiB are needed"):
        outage.check_room(tmp_path)
    outage.check_room(tmp_path / "of a run" / "that is new")


def test_a_mistake_in_our_own_code_is_raised_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Ledger) -> Task | Wait | None:
        raise KeyError("no such thing")

    monkeypatch.setattr(Ledger, "next", broken)
    desk = Desk(partial(ledger, CONFIG, tmp_path / "run"))
    assert desk.next() is None
    assert isinstance(desk.failure(), KeyError)
    assert "in broken" in desk.failure().__notes__[0]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(13, "Permission denied", "runs/x"), "runs/x: cannot be read or written: Permission denied"),
        (OSError(28, "No space left on device"), "the disk is full (No space left on device)"),
        (optuna.exceptions.StorageInternalError("gone"), "storage: the database does not answer (gone)"),
        (ValueError("ours"), None),
    ],
)
def test_outages_are_told_from_mistakes(error: Exception, says: str | None) -> None:
    assert outage.outage(error) == says


def test_a_worker_that_is_silent_is_named_once_and_its_task_tried_again(tmp_path: Path) -> None:
    source = ledger(study(budget={"trials": 1}), tmp_path / "run", 1)
    desk = Desk(lambda: source, Patience(first=60.0, least=0.05, factor=2.0))
    for _ in range(2):
        name = desk.next()
        assert isinstance(name, str)
        desk.take(name, "the worker")
        time.sleep(0.1)
        assert desk.silent() == [], "before its first epoch it has more time"
        assert desk.report(name, 1, {0: 1.0}, None) == Reply()
        assert desk.silent() == []
        time.sleep(0.4)  # more than twice its slowest epoch
        assert desk.silent() == ["the worker"]
        assert desk.silent() == []
        desk.lost(name, "the worker process ended")
    assert desk.next() is None
    reason = source.study.get_trials()[0].user_attrs["reason"]
    assert re.fullmatch(r"its worker died twice: it said nothing for \d+ s and was ended", reason)


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended meanwhile
        return ""


@pytest.mark.ray
def test_a_worker_that_hangs_is_ended_and_made_up_for(tmp_path: Path) -> None:
    """SIGSTOP to a worker at work: it says nothing more and cannot even be asked to end."""
    config = study(budget={"trials": TRIALS}, rungs={"epochs": [400, 800], "keep": 0.5})
    frozen: list[psutil.Process] = []

    def freeze(status: Any) -> None:
        if not frozen and status["speed"]["member_epochs"] > 0:
            frozen.extend([p for p in psutil.Process().children(recursive=True) if title(p).startswith(WORKER)][:1])
            for process in frozen:
                os.kill(process.pid, signal.SIGSTOP)

    run = tmp_path / "run"
    run.mkdir()
    with Engine(Placement(1, 1.0, 0.0), freeze, Patience(least=3.0)) as engine:
        make = partial(Ledger, config, config.search_space(), RunFolder(run), 3)
        started = time.monotonic()
        engine.run(make, scaled()[:2])
    assert frozen and time.monotonic() - started > 3.0
    assert not any(p.is_running() and p.status() == psutil.STATUS_STOPPED for p in frozen)
    after = told(run)
    assert len(after) == TRIALS and all(state.name != "FAIL" for state, _, _ in after.values())
