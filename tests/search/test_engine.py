"""Where work is done: in this process while it is short, with Ray where it is long, and the trials are the same."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from search import engine as engines
from search import runner
from search.engine import Engine, Placement
from search.interruption import SIGNALS
from search.ledger import Ledger
from search.populations import Source
from search.progress import seconds_left, waiting
from search.run_folder import RunFolder
from search.study import ResourcesConfig
from tests.search import tiny

TRIALS = 12
CONFIG = tiny.study(budget={"trials": TRIALS}, rungs={"epochs": [60, 120], "keep": 0.5})
ALONE = Placement(1, 1.0, 0.0, begins_here=True)
PAIR = Placement(2, 1.0, 0.0, begins_here=True)
SPLITS = tiny.scaled()[:2]
Trials = dict[int, tuple[str, Any, dict[str, Any]]]


def source(run: Path) -> Callable[[], Source]:
    run.mkdir(exist_ok=True)
    return partial(Ledger, CONFIG, CONFIG.search_space(), RunFolder(run), 3, True)


def told(run: Path) -> Trials:
    trials = tiny.ledger(CONFIG, run).study.get_trials()
    return {t.number: (t.state.name, t.values, t.params) for t in trials}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trials:
    """The trials of a study that stays in this process."""
    run = tmp_path_factory.mktemp("whole")
    with Engine(ALONE, lambda _: None) as engine:
        status = engine.run(source(run), SPLITS)
    assert status["used"]["trials"] == TRIALS and status["queued"] == 0
    return told(run)


def test_a_short_search_needs_no_ray(whole: Trials) -> None:
    assert not runner.ray.is_initialized()
    assert len(whole) == TRIALS and {state for state, _, _ in whole.values()} <= {"COMPLETE", "PRUNED"}


@pytest.mark.ray
def test_long_work_moves_to_ray_and_loses_nothing(
    tmp_path: Path, whole: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ran is stopped and taken up by Ray's workers; a study in fixed order has the same trials."""
    ray = runner.ray
    monkeypatch.setattr(engines, "SHORT", 0.0)
    monkeypatch.setattr(engines, "WORTH", 0.0)
    rays: list[bool] = []
    with Engine(PAIR, lambda _: rays.append(ray.is_initialized())) as engine:
        status = engine.run(source(tmp_path / "run"), SPLITS)
        assert rays[0] is False and ray.is_initialized()
        assert signal.getsignal(signal.SIGTERM) == engine._interruption.handle, "Ray has not kept the signal"
    assert not ray.is_initialized()
    assert status["used"]["trials"] == TRIALS and status["counts"]["failed"] == 0
    assert told(tmp_path / "run") == whole


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_saves_what_runs_here(tmp_path: Path, whole: Trials, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    shown: list[Mapping[str, Any]] = []

    def stop(status: Mapping[str, Any]) -> None:
        shown.append(status)
        if len(shown) == 1:
            os.kill(os.getpid(), number)

    with Engine(ALONE, stop) as engine:
        status = engine.run(source(tmp_path / "run"), SPLITS)
        assert engine.interrupted and status["used"]["trials"] < TRIALS
    assert signal.getsignal(number) == before
    with Engine(ALONE, lambda _: None) as engine:
        engine.run(source(tmp_path / "run"), SPLITS)
    assert told(tmp_path / "run") == whole


def test_the_study_is_shown_while_a_long_epoch_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that says nothing for a minute counts as dead on other hosts, so the source is asked from a thread."""
    shown = threading.Event()

    def slow(self: Any, task: Any, report: Any) -> Any:
        assert shown.wait(20), "nothing was shown"
        return tiny.pretend(task, report)

    monkeypatch.setattr(engines.Worker, "run", slow)
    with Engine(ALONE, lambda _: shown.set()) as engine:
        engine.run(source(tmp_path / "run"), SPLITS)


def test_a_status_that_cannot_be_shown_stops_no_watching(
    tmp_path: Path, whole: Trials, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: Mapping[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise OSError("the terminal is gone")

    with Engine(ALONE, broken) as engine:
        status = engine.run(source(tmp_path / "run"), SPLITS)
    assert engine.interrupted and status["used"]["trials"] < TRIALS
    assert caplog.text.count("the progress cannot be shown") == 1


def test_the_source_s_mistake_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Ledger, *_: object) -> None:
        raise KeyError("no such thing")

    monkeypatch.setattr(Ledger, "finish", broken)
    with Engine(ALONE, lambda _: None) as engine, pytest.raises(KeyError, match="no such thing"):
        engine.run(source(tmp_path / "run"), SPLITS)


@pytest.mark.parametrize(
    ("workers", "cluster", "here"),
    [("auto", False, True), (1, False, True), (2, False, False), ("auto", True, False), (1, True, False)],
)
def test_where_work_begins(workers: Any, cluster: bool, here: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if cluster:
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert Placement.of(ResourcesConfig(workers=workers)).begins_here is here


SEARCH = {
    "used": {"trials": 10, "seconds": 20.0},
    "budget": {"trials": 40, "minutes": None},
    "counts": {"running": 8},
    "queued": 0,
    "speed": {"seconds": 15.0},
}
STAGE = {"stage": "confirm", "done": 1, "total": 5, "speed": {"seconds": 15.0}}


@pytest.mark.parametrize(
    ("status", "left", "more", "long"),
    [
        (SEARCH, 60.0, True, True),
        (SEARCH | {"speed": {"seconds": 9.0}}, 60.0, True, False),
        (SEARCH | {"used": {"trials": 30, "seconds": 20.0}}, 20 / 3, True, False),
        (SEARCH | {"used": {"trials": 0, "seconds": 20.0}}, None, True, True),
        (SEARCH | {"counts": {"running": 30}}, 60.0, False, False),
        (SEARCH | {"counts": {"running": 30}, "queued": 2}, 60.0, True, True),
        (SEARCH | {"budget": {"trials": 40, "minutes": 0.5}}, 10.0, True, False),
        (STAGE, 60.0, True, True),
        (STAGE | {"done": 4}, 3.75, False, False),
        (STAGE | {"done": 0, "total": 1}, None, False, False),
    ],
)
def test_when_ray_is_worth_its_start(status: Mapping[str, Any], left: float | None, more: bool, long: bool) -> None:
    assert seconds_left(status) == (None if left is None else pytest.approx(left))
    assert waiting(status) is more
    assert Engine(PAIR, lambda _: None)._is_long(status) is long
    assert Engine(ALONE, lambda _: None)._is_long(status) is False
