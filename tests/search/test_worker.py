"""The worker: a member that breaks its population fails alone, and a checkpoint that cannot be read is made anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmsa_core.cost import Cost
from mmsa_core.errors import UserError
from mmsa_core.population import Population
from search.populations import Outcome, Reply, Result, Slot, Task
from search.worker import Worker, explain, member
from tests.search import tiny

CONFIG = {**tiny.study().search_space().baseline()[0], "epochs": 4}


@pytest.fixture(scope="module")
def worker() -> Worker:
    return tiny.worker()


def task(*seeds: int, checkpoint: Path | None = None, bad: Mapping[int, Mapping[str, Any]] | None = None) -> Task:
    """Return a task with a slot per seed; ``bad`` changes the configuration of some slots by their position."""
    slots = tuple(Slot(k, seed, {**CONFIG, **(bad or {}).get(k, {})}) for k, seed in enumerate(seeds))
    return Task("p0000", slots, (1, 2), "mae", "mosi", None if checkpoint is None else str(checkpoint))


class Listener:
    """Takes reports, and answers them from a table of what to drop at which epoch."""

    def __init__(self, drop: Mapping[int, set[int]] | None = None, stop: int | None = None) -> None:
        self.drop, self.stop = drop or {}, stop
        self.heard: list[tuple[int, dict[int, float]]] = []
        self.costs: list[float | None] = []

    def __call__(self, name: str, epoch: int, values: Mapping[int, float], cost: float | None = None) -> Reply:
        assert name == "p0000"
        self.heard.append((epoch, dict(values)))
        self.costs.append(cost)
        return Reply(frozenset(self.drop.get(epoch, set()) & values.keys()), epoch == self.stop)

    def positions(self, epoch: int) -> list[int]:
        """Return which slots were heard of at an epoch, over all reports."""
        return sorted(k for e, values in self.heard for k in values if e == epoch)


def assert_equal(one: Outcome, other: Outcome) -> None:
    assert (one.curve, one.value, one.best_epoch, one.failure) == (
        other.curve,
        other.value,
        other.best_epoch,
        other.failure,
    )
    assert one.predictions is not None and other.predictions is not None
    np.testing.assert_array_equal(one.predictions, other.predictions)


def test_reports_every_epoch_and_obeys(worker: Worker) -> None:
    listener = Listener({2: {0}})
    result = worker.run(task(1, 2, 3), listener)
    assert [(e, sorted(v)) for e, v in listener.heard] == [(1, [0, 1, 2]), (2, [0, 1, 2]), (3, [1, 2]), (4, [1, 2])]
    assert [o.dropped for o in result.outcomes] == [True, False, False]
    assert [len(o.curve) for o in result.outcomes] == [2, 4, 4]
    assert not result.stopped and result.seconds > 0 and result.parameters > 0
    last = listener.heard[-1][1]
    assert [result.outcomes[k].value for k in last] == list(last.values())
    assert all(o.config is not None and o.config["optimizer"]["clip"] == 1.0 for o in result.outcomes), "completed"


def test_a_cost_is_measured_once_and_told_with_every_report(worker: Worker) -> None:
    """Of a population that is halved too, and not where the task does not ask."""
    for kind, bad in (
        ("parameters", None),
        ("latency", None),
        ("parameters", {1: {"heads": {"dim": 4, "dropout": 1.5}}}),
    ):
        listener = Listener()
        result = worker.run(replace(task(1, 2, 3, bad=bad), cost=Cost(kind)), listener)  # type: ignore[arg-type]
        assert result.cost is not None and result.cost > 0 and set(listener.costs) == {result.cost}
        assert kind == "latency" or result.cost == result.parameters
    listener = Listener()
    assert worker.run(task(1), listener).cost is None and set(listener.costs) == {None}


def test_stops_when_told(worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    result = worker.run(task(1, 2, checkpoint=path), Listener(stop=3))
    assert result.stopped and path.exists()
    assert [len(o.curve) for o in result.outcomes] == [3, 3]


def test_states_are_kept_where_asked(worker: Worker) -> None:
    asked = worker.run(replace(task(1, 2), keep_states=True), Listener())
    assert all(o.state is not None and o.state.keys() == asked.outcomes[0].state.keys() for o in asked.outcomes)  # type: ignore[union-attr]
    assert all(o.state is None for o in worker.run(task(1, 2), Listener()).outcomes)


@pytest.mark.parametrize("guilty", range(5))
def test_a_member_that_cannot_be_built_fails_alone(worker: Worker, guilty: int) -> None:
    """A dropout of 1.5 passes every check of the configuration, and is refused when the model is built."""
    seeds = (1, 2, 3, 4, 5)
    result = worker.run(task(*seeds, bad={guilty: {"heads": {"dim": 4, "dropout": 1.5}}}), Listener())
    assert [o.failure for o in result.outcomes] == [
        "dropout: must be 0 or more and below 1, got 1.5" if k == guilty else None for k in range(5)
    ]
    alone = worker.run(task(*seeds), Listener())
    for k in set(range(5)) - {guilty}:
        assert result.outcomes[k].value == pytest.approx(alone.outcomes[k].value, abs=1e-5)


def test_two_that_cannot_be_built(worker: Worker) -> None:
    bad = {k: {"heads": {"dim": 4, "dropout": 1.5}} for k in (0, 3)}
    result = worker.run(task(1, 2, 3, 4, bad=bad), Listener())
    assert [o.failure is None for o in result.outcomes] == [False, True, True, False]


def break_seed(monkeypatch: pytest.MonkeyPatch, seed: int, epoch: int, error: BaseException) -> None:
    """Let training raise at an epoch wherever a seed takes part."""
    true = Population.train_epoch

    def train_epoch(self: Population, now: int) -> Any:
        if seed in self.seeds and now == epoch:
            raise error
        return true(self, now)

    monkeypatch.setattr(Population, "train_epoch", train_epoch)


def limit_memory(monkeypatch: pytest.MonkeyPatch, members: int, error: Exception) -> None:
    """Let training raise wherever there are more members at once."""
    true = Population.train_epoch

    def train_epoch(self: Population, now: int) -> Any:
        if len(self.seeds) > members:
            raise error
        return true(self, now)

    monkeypatch.setattr(Population, "train_epoch", train_epoch)


def test_a_member_that_raises_in_training_fails_alone(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = worker.run(task(1, 2, 3, 4, 5), Listener())
    break_seed(monkeypatch, 4, 3, RuntimeError("CUDA error:\n an illegal address"))
    listener = Listener()
    result = worker.run(task(1, 2, 3, 4, 5), listener)
    assert [o.failure is None for o in result.outcomes] == [True, True, True, False, True]
    assert result.outcomes[3].failure is not None
    assert result.outcomes[3].failure.startswith("RuntimeError: CUDA error: an illegal address (test_worker.py:")
    for k in (0, 1, 2, 4):
        assert result.outcomes[k].value == pytest.approx(expected.outcomes[k].value, abs=1e-5)
        assert len(result.outcomes[k].curve) == 4
    assert listener.positions(4) == [0, 1, 2, 4], "every sound slot is heard of once, under its own position"
    values = {k: v for e, report in listener.heard if e == 4 for k, v in report.items()}
    assert values == {k: result.outcomes[k].value for k in (0, 1, 2, 4)}


def test_halves_obey_by_the_positions_of_the_whole(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    break_seed(monkeypatch, 4, 3, RuntimeError("broken"))
    result = worker.run(task(1, 2, 3, 4, 5), Listener({1: {1, 4}}))
    assert [o.dropped for o in result.outcomes] == [False, True, False, False, True]
    assert [len(o.curve) for o in result.outcomes] == [4, 1, 4, 0, 1]
    assert [o.failure is None for o in result.outcomes] == [True, True, True, False, True]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes"),
    ],
    ids=["device", "python", "allocator"],
)
def test_want_of_memory_is_no_members_fault(worker: Worker, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    limit_memory(monkeypatch, 2, error)
    result = worker.run(task(1, 2, 3), Listener())
    assert result.too_large and result.outcomes == [] and not result.stopped
    assert not worker.run(task(1, 2), Listener()).too_large


def test_a_trial_too_large_for_the_memory_is_trained_in_parts(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its seeds are told together, so they stay one task; and a single member that does not fit fails."""
    one = task(1, 2, 3, 4, 5)
    one = replace(one, slots=tuple(replace(s, trial=0) for s in one.slots))
    limit_memory(monkeypatch, 2, MemoryError())
    result = worker.run(one, Listener())
    assert all(o.failure is None and len(o.curve) == 4 for o in result.outcomes) and len(result.outcomes) == 5
    limit_memory(monkeypatch, 0, MemoryError())
    failed = worker.run(task(1), Listener())
    assert not failed.too_large and str(failed.outcomes[0].failure).startswith("MemoryError")


def test_a_half_too_large_for_the_memory_is_halved_on_the_spot(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first error is another one, and so the halves are the worker's."""
    true = Population.train_epoch

    def train_epoch(self: Population, now: int) -> Any:
        if len(self.seeds) > 1:
            raise RuntimeError("broken") if len(self.seeds) > 2 else MemoryError()
        return true(self, now)

    monkeypatch.setattr(Population, "train_epoch", train_epoch)
    result = worker.run(task(1, 2, 3, 4), Listener())
    assert not result.too_large and [o.failure for o in result.outcomes] == [None] * 4


def test_all_slots_can_fail(worker: Worker) -> None:
    bad = {k: {"fusion": "tensors"} for k in range(3)}
    result = worker.run(task(1, 2, 3, bad=bad), Listener())
    assert {o.failure for o in result.outcomes} == {"fusion: there is no plug-in 'tensors'; did you mean 'tensor'?"}
    assert not result.stopped


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_an_order_to_end_is_no_failure(worker: Worker, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    break_seed(monkeypatch, 2, 1, error)
    with pytest.raises(type(error)):
        worker.run(task(1, 2), Listener())


def resumed(worker: Worker, path: Path, *seeds: int) -> tuple[Result, list[int]]:
    listener = Listener()
    result = worker.run(task(*seeds, checkpoint=path), listener)
    return result, [epoch for epoch, _ in listener.heard]


def checkpointed(worker: Worker, path: Path, *seeds: int) -> Result:
    """Train to the third epoch, save, and return what an uninterrupted run gives."""
    assert worker.run(task(*seeds, checkpoint=path), Listener(stop=3)).stopped
    return worker.run(task(*seeds), Listener())


def test_a_sound_checkpoint_is_taken_up(worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    expected = checkpointed(worker, path, 1, 2)
    result, epochs = resumed(worker, path, 1, 2)
    assert epochs == [4]
    for one, other in zip(result.outcomes, expected.outcomes, strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize("damage", ["garbage", "cut", "empty", "foreign"])
def test_a_damaged_checkpoint_is_replaced_by_a_fresh_start(worker: Worker, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "p.safetensors"
    expected = checkpointed(worker, path, 1, 2)
    if damage == "foreign":
        from safetensors.torch import save_file

        save_file({"weights": torch.zeros(2)}, path)
    else:
        whole = path.read_bytes()
        path.write_bytes({"garbage": b"\x00garbage" * 40, "cut": whole[: len(whole) // 2], "empty": b""}[damage])
    result, epochs = resumed(worker, path, 1, 2)
    assert epochs == [1, 2, 3, 4]
    for one, other in zip(result.outcomes, expected.outcomes, strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize("others", [(1,), (2, 1), (1, 2, 3), (1, 3)])
def test_a_checkpoint_of_other_members_is_not_taken_up(worker: Worker, tmp_path: Path, others: tuple[int, ...]) -> None:
    path = tmp_path / "p.safetensors"
    checkpointed(worker, path, *others)
    expected = worker.run(task(1, 2), Listener())
    result, epochs = resumed(worker, path, 1, 2)
    assert epochs == [1, 2, 3, 4]
    for one, other in zip(result.outcomes, expected.outcomes, strict=True):
        assert_equal(one, other)


def test_a_member_is_completed_and_checked() -> None:
    spec = member(Slot(0, 7, CONFIG))
    assert spec.seed == 7 and spec.config.encoders["text"].params["dim"] == 4
    with pytest.raises(UserError, match="unknown key 'widht'; did you mean 'width'"):
        member(Slot(0, 7, {**CONFIG, "widht": 3}))


def test_explain_is_one_short_line() -> None:
    assert explain(UserError("fusion: no\n such thing")) == "fusion: no such thing"
    try:
        raise ValueError("x" * 2000)
    except ValueError as error:
        text = explain(error)
    assert text.startswith("ValueError: xxx") and len(text) < 600
    assert text.endswith("in test_explain_is_one_short_line)")
