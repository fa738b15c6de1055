"""The ledger: populations of one structure, exact budgets, true states, and nothing lost or done twice."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from mmsa_core.errors import UserError
from mmsa_core.noise import mix
from search.asking import search_seeds
from search.ledger import Ledger
from search.populations import Reply, Result, Slot, Task, Wait, split_task
from search.run_folder import RunFolder
from search.study import StudyConfig
from search.trials import (
    BASELINE,
    ORIGIN,
    POPULATION,
    baseline_trial,
    best_trial,
    leaders,
    open_study,
    reasons,
    summary,
)
from search.worker import Worker
from tests.search import tiny
from tests.search.tiny import drain, failing, interleaved, pretend, records, steps, study


@pytest.fixture(scope="module")
def real() -> Worker:
    return tiny.worker()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def take(source: Ledger) -> Task:
    task = source.next()
    assert isinstance(task, Task)
    return task


def by_population(source: Ledger) -> dict[str, list[optuna.trial.FrozenTrial]]:
    found = defaultdict(list)
    for t in source.study.get_trials():
        found[t.user_attrs[POPULATION]["name"]].append(t)
    return dict(found)


def states(source: Ledger) -> list[str]:
    return [t["state"] for t in summary(source.study, source.config, running=False)["trials"]]


# ---- asking ----------------------------------------------------------------------------------------------------------


def test_the_baseline_is_trial_0(run: Path) -> None:
    source = tiny.ledger(study(), run)
    task = take(source)
    first = source.study.get_trials()[0]
    assert first.params == tiny.BASELINE
    assert first.user_attrs[ORIGIN] == BASELINE
    assert task.slots[0].trial == 0
    assert task.slots[0].config == {**source.space.baseline()[0], "epochs": 4}
    assert [t.number for t in source.study.get_trials() if t.user_attrs.get(ORIGIN) == BASELINE] == [0]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_population_has_one_structure(run: Path, sampler: str) -> None:
    source = tiny.ledger(study(budget={"trials": 24}, sampler=sampler), run, size=4)
    tasks = drain(source, pretend)
    groups = by_population(source)
    assert [len(g) for g in groups.values()] == [4] * 6 == [len(t.slots) for t in tasks]
    structures = []
    for trials in groups.values():
        found = [source.space.structural(t.params) for t in trials]
        assert all(s == found[0] for s in found)
        assert len({t.params["optimizer.lr"] for t in trials}) == 4, "settings must vary within a structure"
        structures.append(tuple(sorted(found[0].items())))
    assert len(set(structures)) > 1, "structures must vary between populations"


def test_a_task_says_what_to_do(run: Path) -> None:
    source = tiny.ledger(study(objective={"metric": "corr", "convention": "sims"}), run)
    task = take(source)
    assert (task.rungs, task.metric, task.convention) == ((1, 2), "corr", "sims")
    assert task.checkpoint == str(run / "populations" / f"{task.name}.safetensors")
    assert not task.keep_states and all(s.config["epochs"] == 4 for s in task.slots)


def test_the_budget_is_exact_and_of_the_study(run: Path) -> None:
    config = study(budget={"trials": 7})
    for most, total in ((1, 3), (1, 6), (9, 7), (9, 7)):
        source = tiny.ledger(config, run)
        drain(source, pretend, most)
        source.close()
        assert len(source.study.get_trials()) == total
    assert source.next() is None and not source.pending()
    assert summary(source.study, config, running=False)["state"] == "finished"
    assert [len(g) for g in by_population(source).values()] == [3, 3, 1]
    bigger = tiny.ledger(study(budget={"trials": 10}), run)
    drain(bigger, pretend)
    assert len(bigger.study.get_trials()) == 10 and "running" not in states(bigger)


def test_waits_while_others_work(run: Path) -> None:
    source = tiny.ledger(study(budget={"trials": 3}), run)
    task = take(source)
    assert isinstance(source.next(), Wait) and source.pending()
    source.finish(task.name, pretend(task, source.report))
    assert source.next() is None and not source.pending()


def test_minutes_stop_asking(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("search.ledger.time", SimpleNamespace(monotonic=lambda: now[0]))
    config = study(budget={"trials": 100, "minutes": 10})
    source = tiny.ledger(config, run)
    drain(source, pretend, 1)
    now[0] += 5 * 60
    source.close()

    again = tiny.ledger(config, run)  # 5 minutes were used before
    assert summary(again.study, config, running=False)["state"] == "interrupted"
    task = take(again)
    now[0] += 5 * 60 + 1
    assert isinstance(again.next(), Wait)
    again.finish(task.name, pretend(task, again.report))
    assert again.next() is None and not again.pending()
    assert len(again.study.get_trials()) == 6
    found = summary(again.study, config, running=False)
    assert (found["state"], found["used"]["seconds"]) == ("finished", pytest.approx(601))
    longer = tiny.ledger(study(budget={"trials": 100, "minutes": 11}), run)
    assert isinstance(longer.next(), Task)


def test_strays_get_a_population_of_their_own(run: Path) -> None:
    source = tiny.ledger(study(budget={"trials": 5}), run, size=4)
    source.study.enqueue_trial({**tiny.BASELINE, "fusion": "sum"})
    source.study.enqueue_trial({**tiny.BASELINE, "optimizer.lr": 0.01})
    tasks = drain(source, pretend)
    assert [[s.trial for s in t.slots] for t in tasks] == [[0, 2, 3], [1], [4]]
    assert [t.params["fusion"] for t in source.study.get_trials()[:4]] == ["concat", "sum", "concat", "concat"]
    assert "running" not in states(source) and len(source.study.get_trials()) == 5


# ---- seeds -----------------------------------------------------------------------------------------------------------


def test_a_repeated_configuration_gets_another_seed(run: Path) -> None:
    config = study()
    source = tiny.ledger(config, run, size=4)
    for _ in range(2):
        source.study.enqueue_trial({**tiny.BASELINE, "optimizer.lr": 0.01})
    slots = take(source).slots
    first, second = ([s for s in slots if s.trial == n] for n in (1, 2))
    assert first[0].config == second[0].config
    assert (first[0].seed, second[0].seed) == (search_seeds(config, 0)[0], search_seeds(config, 1)[0])
    assert first[0].seed != second[0].seed
    assert slots[0].seed == slots[3].seed == first[0].seed, "different configurations share their first seed"


def test_several_seeds_are_one_trial_with_their_mean(run: Path) -> None:
    config = study(budget={"trials": 2}, seeds={"search": 3}, pruner="none")
    source = tiny.ledger(config, run, size=6)
    task = take(source)
    assert [s.trial for s in task.slots] == [0, 0, 0, 1, 1, 1]
    assert [s.seed for s in task.slots[:3]] == [s.seed for s in task.slots[3:]] == search_seeds(config, 0)
    assert len({s.seed for s in task.slots}) == 3
    result = pretend(task, source.report, lambda slot, epoch: float(task.slots.index(slot)) + 1 / epoch)
    source.finish(task.name, result)
    found = source.study.get_trials()
    assert [t.value for t in found] == [pytest.approx(1.25), pytest.approx(4.25)]
    assert found[1].intermediate_values == {1: pytest.approx(5.0), 2: pytest.approx(4.5)}
    lines = (run / "trials/0001/curve.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 3 * 4 and {line.split(",")[0] for line in lines[1:]} == {str(s.seed) for s in task.slots}
    with np.load(run / "trials/0001/valid_predictions.npz") as filed:
        assert set(filed) == {f"seed_{s.seed}" for s in task.slots}


def test_one_bad_seed_fails_its_trial(run: Path) -> None:
    source = tiny.ledger(study(budget={"trials": 2}, seeds={"search": 2}, pruner="none"), run, size=4)
    task = take(source)
    result = pretend(task, source.report)
    result.outcomes[3].failure = "training loss is not finite at epoch 3"
    source.finish(task.name, result)
    assert states(source) == ["complete", "failed"]
    assert "seed" in (run / "trials/0001/error.txt").read_text(encoding="utf-8")


def test_seeds_follow_the_base() -> None:
    one, other = study(seeds={"base": 0, "search": 4}), study(seeds={"base": 1, "search": 4})
    assert not set(search_seeds(one, 0)) & set(search_seeds(other, 0))
    assert not set(search_seeds(one, 0)) & set(search_seeds(one, 1))
    assert search_seeds(one, 0) == [mix("search", 0, k) for k in range(4)]


# ---- states ----------------------------------------------------------------------------------------------------------


def test_states_in_optuna_and_in_the_summary(run: Path) -> None:
    config = study(budget={"trials": 4}, rungs={"epochs": [1, 2, 4], "keep": 0.5})
    source = tiny.ledger(config, run, size=4)
    value: dict[int, float] = {0: 0.4, 1: 0.1, 2: 0.5, 3: 0.2}
    task = take(source)
    now = summary(source.study, config, running=True)
    assert now["state"] == "running" and now["counts"]["running"] == 4
    result = pretend(task, source.report, lambda slot, epoch: value[slot.trial] + 0.1 / epoch)
    result.outcomes[3].failure = "training loss is not finite at epoch 4"
    source.finish(task.name, result)

    found = source.study.get_trials()
    assert [t.state.name for t in found] == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL"]
    assert found[2].intermediate_values == {1: pytest.approx(0.6)}, "dropped at the first rung"
    assert found[2].value == pytest.approx(0.6), "a pruned trial keeps the value of its last rung"
    assert found[1].value == pytest.approx(0.125)
    assert found[1].intermediate_values == {1: pytest.approx(0.2), 2: pytest.approx(0.15)}

    end = summary(source.study, config, running=False)
    assert end["counts"] == {"complete": 2, "pruned": 1, "failed": 1, "running": 0, "waiting": 0}
    assert (end["state"], end["used"]["trials"], end["test_openings"]) == ("finished", 4, 0)
    assert end["best"] == {"number": 1, "value": found[1].value, "params": found[1].params}
    shown = end["trials"][3]
    assert shown == {
        "number": 3, "state": "failed", "value": None, "cost": None, "reason": "training loss is not finite at epoch 4",
        "params": found[3].params,
    }  # fmt: skip
    assert [t["state"] for t in end["trials"]] == ["complete", "complete", "pruned", "failed"]
    assert all(t["reason"] is None for t in end["trials"][:3])
    assert json.loads(json.dumps(end)) == end


def test_a_dropped_member_is_told_to_go(run: Path) -> None:
    source = tiny.ledger(study(budget={"trials": 4}), run, size=4)
    task = take(source)
    values = {0: 0.4, 1: 0.1, 2: 0.5, 3: 0.2}
    assert source.report(task.name, 1, values).drop == {2}, "the worse half, but for the baseline"
    assert states(source) == ["running", "running", "pruned", "running"]
    assert source.report(task.name, 1, values).drop == {2}, "a report that is repeated changes nothing"
    assert source.study.get_trials()[1].intermediate_values == {1: 0.1}
    assert source.report(task.name, 3, values).drop == frozenset(), "between rungs nothing happens"
    assert source.report("p9999", 1, {0: 0.1, 1: 0.2}).drop == {0, 1}, "nobody's members are dropped"


def test_maximise(run: Path) -> None:
    source = tiny.ledger(study(objective={"metric": "corr", "convention": "mosi"}, budget={"trials": 3}), run)
    task = take(source)
    assert source.report(task.name, 1, {0: 0.1, 1: 0.2, 2: 0.8}).drop == frozenset()  # keeps 2 of 3 and the baseline
    assert source.report(task.name, 2, {0: 0.1, 1: 0.2, 2: 0.8}).drop == frozenset()
    source.finish(task.name, pretend(task, lambda *_: Reply(), lambda slot, _: [0.1, 0.2, 0.8][slot.trial]))
    best = best_trial(source.study)
    assert best is not None and best.number == 2
    assert [t.number for t in leaders(source.study, 5)] == [2, 1]


def test_leaders_are_distinct_and_not_the_baseline(run: Path) -> None:
    source = tiny.ledger(study(budget={"trials": 5}, pruner="none"), run, size=5)
    for rate in (0.003, 0.01, 0.01):
        source.study.enqueue_trial({**tiny.BASELINE, "optimizer.lr": rate})
    task = take(source)
    value = {0: 0.1, 1: 0.2, 2: 0.4, 3: 0.3, 4: 0.9}
    source.finish(task.name, pretend(task, source.report, lambda slot, _: value[slot.trial]))
    assert [t.number for t in leaders(source.study, 9)] == [3, 4], "1 is the baseline again, 2 is 3 again"
    assert [t.number for t in leaders(source.study, 1)] == [3]
    assert baseline_trial(source.study).number == 0


def test_another_direction_is_refused(run: Path) -> None:
    tiny.ledger(study(), run)
    with pytest.raises(UserError, match="a study named 'tiny' is there with direction minimize"):
        open_study(study(objective={"metric": "corr", "convention": "mosi"}), RunFolder(run))


def test_cost_is_shared_out(run: Path) -> None:
    source = tiny.ledger(study(budget={"trials": 2}, pruner="none"), run)
    drain(source, pretend)
    found = source.study.get_trials()[1].user_attrs["result"]
    assert found == {"seconds": 0.5, "parameters": 10, "best_epochs": [4]}


def test_no_checkpoint_is_left_behind(run: Path, real: Worker) -> None:
    source = tiny.ledger(study(budget={"trials": 2}), run)
    task = take(source)
    assert task.checkpoint is not None
    result = real.run(task, source.report)
    assert Path(task.checkpoint).exists()
    source.finish(task.name, result)
    assert not Path(task.checkpoint).exists()


# ---- members that fail -----------------------------------------------------------------------------------------------


def test_a_member_that_diverges_fails_alone(run: Path, real: Worker) -> None:
    """A rate of 1e30 makes weights whose products are infinite."""
    wide = tiny.space("optimizer.lr", {"float": [0.001, 1.0e30], "log": True, "default": 0.003})
    source = tiny.ledger(study(budget={"trials": 3}, space=wide, pruner="none"), run)
    source.study.enqueue_trial({**tiny.BASELINE, "optimizer.lr": 1e30})
    source.study.enqueue_trial({**tiny.BASELINE, "optimizer.lr": 0.01})
    tasks = drain(source, real.run)
    assert [[s.trial for s in t.slots] for t in tasks] == [[0, 1, 2]]
    found = summary(source.study, source.config, running=False)["trials"]
    assert [t["state"] for t in found] == ["complete", "failed", "complete"]
    assert "is not finite at epoch 1" in found[1]["reason"]
    assert (run / "trials/0001/error.txt").read_text(
        encoding="utf-8"
    ) == f"seed {tasks[0].slots[1].seed}: {found[1]['reason']}\n"
    assert all(0 < found[n]["value"] < 3 for n in (0, 2))


def test_a_setting_that_cannot_be_built_fails_alone(run: Path, real: Worker) -> None:
    wide = tiny.space("heads.dropout", {"float": [0.0, 1.5], "default": 0.1})
    source = tiny.ledger(study(budget={"trials": 4}, space=wide, pruner="none"), run, size=4)
    for dropout in (0.2, 1.25, 0.3):
        source.study.enqueue_trial({**tiny.BASELINE, "heads.dropout": dropout})
    drain(source, real.run)
    found = summary(source.study, source.config, running=False)["trials"]
    assert [t["state"] for t in found] == ["complete", "complete", "failed", "complete"]
    assert found[2]["reason"] == "dropout: must be 0 or more and below 1, got 1.25"


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_reasons_are_counted(run: Path) -> None:
    source = tiny.ledger(study(budget={"trials": 6}, max_failure_rate=1.0, pruner="none"), run, size=6)
    task = take(source)
    result = pretend(task, source.report)
    for k, reason in enumerate(("not finite at epoch 3", "no CUDA", "not finite at epoch 12", "a", "b")):
        result.outcomes[k].failure = reason
    source.finish(task.name, result)
    trials = source.study.get_trials()
    assert reasons(trials) == "2 x not finite at epoch 3; 1 x no CUDA; 1 x a; 1 x others"
    assert reasons(trials[5:]) == ""


def test_the_overhead_is_counted_over_all_drivers(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100_000))
    monkeypatch.setattr("search.overhead.time", SimpleNamespace(perf_counter=lambda: 0.25 * next(ticks)))
    config = study(pruner="none")
    for done in (3, 6):
        source = tiny.ledger(config, run)
        drain(source, pretend, 1)
        source.close()
        assert source.spent == 0.25 * (1 + 4 + 1) * done / 3, "asked once, four epochs, told once"
        found = summary(source.study, config, running=False)
        assert found["overhead"]["milliseconds_per_trial"] == pytest.approx(1000 * source.spent / done)
        assert found["overhead"]["share"] == pytest.approx(source.spent / found["used"]["seconds"])


# ---- memory ----------------------------------------------------------------------------------------------------------


def fitting(most: int, sizes: list[int]) -> Callable[[Task, Callable[..., Reply]], Result]:
    """Return a worker whose device has room for ``most`` members."""

    def run(task: Task, report: Callable[..., Reply]) -> Result:
        sizes.append(len(task.slots))
        return Result([], False, 0.0, 0, too_large=True) if len(task.slots) > most else pretend(task, report)

    return run


def test_a_population_too_large_for_the_device_comes_again_in_halves(run: Path) -> None:
    config = study(budget={"trials": 24}, pruner="none", space=tiny.space("fusion", "sum"))
    source, sizes = tiny.ledger(config, run, size=8), list[int]()
    source.study.enqueue_trial({"alignment.text-audio": "none"})
    drain(source, fitting(3, sizes), most=3)
    assert sizes[:3] == [8, 4, 4]
    assert source.asker.limit(source.space.structural(source.study.get_trials()[0].params)) == 2
    source.close()

    again = tiny.ledger(config, run, size=8)  # what was learned is kept, and the quarters are taken up
    drain(again, fitting(3, sizes))
    assert states(again) == ["complete"] * 24
    assert all(size <= 2 for size in sizes[3:7])
    groups = {name: {t.params["alignment.text-audio"] for t in g} for name, g in by_population(again).items()}
    assert all(len(arms) == 1 for arms in groups.values())
    assert sum(size > 3 for size in sizes[7:]) <= 3, "the other structure learns its own limit, once"
    assert not list((run / "populations").glob("*"))


def test_a_half_that_is_done_is_not_done_again(run: Path) -> None:
    config = study(budget={"trials": 4}, pruner="none")
    source, sizes = tiny.ledger(config, run, size=4), list[int]()
    source.study.enqueue_trial(tiny.BASELINE)
    tasks = drain(source, fitting(2, sizes), most=2)
    assert [t.checkpoint for t in tasks] == [str(run / "populations" / f"{t.name}.safetensors") for t in tasks]
    assert sorted(states(source)) == ["complete", "complete", "running", "running"]
    source.close()
    again = drain(tiny.ledger(config, run, size=4), fitting(2, sizes))
    assert [t.slots[0].trial for t in again] == [2] and again[0].name == f"{tasks[0].name}b"
    assert sizes == [4, 2, 2]


def test_too_many_failures_stop_the_study(run: Path) -> None:
    config = study(budget={"trials": 40}, max_failure_rate=0.5, pruner="none")
    source = tiny.ledger(config, run, size=2)
    drain(source, failing("no CUDA device", trials={1, 2, 3, 5}), 4)  # 4 of 8: not more than half
    assert source.message == "" and source.pending()
    tasks = drain(source, failing("something else"))
    assert len(tasks) == 1
    assert source.message == (
        "stopped: 6 of 10 trials failed, more than max_failure_rate=0.5: 4 x no CUDA device; 2 x something else"
    )
    assert source.status()["message"] == source.message
    assert source.next() is None and not source.pending()


def test_few_failures_do_not_stop_a_young_study(run: Path) -> None:
    source = tiny.ledger(study(budget={"trials": 7}), run, size=1)
    assert len(drain(source, failing("once"))) == 7
    assert source.message == ""


# ---- workers that die ------------------------------------------------------------------------------------------------


def test_a_lost_task_is_tried_again_as_it_was(run: Path) -> None:
    source = tiny.ledger(study(budget={"trials": 3}), run)
    task = take(source)
    source.lost(task.name, "killed")
    assert source.next() == task
    source.finish(task.name, pretend(task, source.report))
    assert "failed" not in states(source) and len(source.study.get_trials()) == 3
    source.lost("p9999", "killed")  # nobody's task
    assert source.next() is None


def test_a_task_lost_twice_is_halved_until_the_guilty_one_is_alone(run: Path) -> None:
    """Trial 2 kills its worker whatever it trains with."""
    source = tiny.ledger(study(budget={"trials": 5}, pruner="none"), run, size=5)
    handed = []
    while isinstance(task := source.next(), Task):
        handed.append((re.sub("-[0-9a-f]{4}", "", task.name), [s.trial for s in task.slots]))
        if any(s.trial == 2 for s in task.slots):
            source.lost(task.name, "the worker process ended")
        else:
            source.finish(task.name, pretend(task, source.report))
    assert handed[:2] == [("p0000", [0, 1, 2, 3, 4])] * 2
    assert len({name for name, _ in handed[1:]}) == len(handed) - 1, "halves have names of their own"
    assert states(source) == ["complete", "complete", "failed", "complete", "complete"]
    assert source.study.get_trials()[2].user_attrs["reason"] == "its worker died twice: the worker process ended"
    assert [t for _, ts in handed for t in ts].count(2) <= 5


def test_a_single_task_lost_twice_fails(run: Path) -> None:
    source = tiny.ledger(study(budget={"trials": 1}), run, size=1)
    for _ in range(2):
        assert states(source) in (["waiting"], ["running"])
        source.lost(take(source).name, "killed")
    assert states(source) == ["failed"]
    assert source.next() is None


def test_halves_keep_a_trials_seeds_together(run: Path) -> None:
    """Three trials of two seeds: cut in the middle, trial 1 would be told after one of its seeds."""
    source = tiny.ledger(study(budget={"trials": 3}, seeds={"search": 2}, pruner="none"), run, size=6)
    for _ in range(2):
        task = take(source)
        source.lost(task.name, "killed")
    halves = [take(source), take(source)]
    assert sorted(tuple(s.trial for s in t.slots) for t in halves) == [(0, 0), (1, 1, 2, 2)]
    assert all(t.checkpoint is None for t in halves)
    for half in halves:
        source.finish(half.name, pretend(half, source.report))
    assert states(source) == ["complete"] * 3
    assert all(len(t.user_attrs["result"]["best_epochs"]) == 2 for t in source.study.get_trials())


@pytest.mark.parametrize(
    ("trials", "cut"), [([7], 0), ([1, 1], 1), ([1, 1, 1, 2], 3), ([1, 2, 2, 2], 1), ([1, 2, 3, 4], 2)]
)
def test_split_task(trials: list[int], cut: int) -> None:
    task = Task("p", tuple(Slot(t, k, {}) for k, t in enumerate(trials)), (1,), "mae", "mosi", "here")
    parts = split_task(task)
    if cut == 0:
        assert parts == [task]
        return
    assert [s for part in parts for s in part.slots] == list(task.slots)
    assert len(parts[0].slots) == cut and all(part.checkpoint is None for part in parts)


def test_abandon_hands_out_again(run: Path) -> None:
    source = tiny.ledger(study(budget={"trials": 6}), run)
    tasks = [take(source), take(source)]
    source.abandon()
    assert [source.next(), source.next()] == tasks
    assert isinstance(source.next(), Wait)


# ---- stopping and going on -------------------------------------------------------------------------------------------


def test_draining_stops_and_the_next_run_goes_on(run: Path) -> None:
    config = study(budget={"trials": 6})
    source = tiny.ledger(config, run)
    task = take(source)
    going = steps(task, source.report)
    next(going)
    source.drain()
    assert source.next() is None and not source.pending()
    with pytest.raises(StopIteration) as end:
        next(going)
    assert end.value.value.stopped, "the worker is told at its next report"
    source.finish(task.name, end.value.value)
    source.close()
    assert states(source).count("running") == 3 - states(source).count("pruned")
    assert summary(source.study, config, running=False)["state"] == "interrupted"
    ended = {n for n, state in enumerate(states(source)) if state == "pruned"}
    assert {int(p.name) for p in run.glob("trials/*")} == ended != set(), "only what has ended has its folder"

    again = tiny.ledger(config, run)
    drain(again, pretend)
    assert len(again.study.get_trials()) == 6 and "running" not in states(again)


class Killed(BaseException):
    """Ends a driver and its worker at once, past every ``except Exception``."""


def killing(source: Ledger, epoch: int, after: bool = False) -> Callable[[str, int, Any], Reply]:
    """Return the ledger's ``report``, in which everything ends at an epoch (``after``: once the ledger knows)."""

    def report(name: str, now: int, values: Any, cost: float | None = None) -> Reply:
        if now == epoch and not after:
            raise Killed
        reply = source.report(name, now, values, cost)
        if now == epoch:
            raise Killed
        return reply

    return report


def whole(config: StudyConfig, folder: Path, real: Worker) -> Ledger:
    """Run a study without interruption."""
    source = tiny.ledger(config, folder)
    drain(source, real.run)
    return source


def files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text(encoding="utf-8") for p in folder.glob("trials/*/c*")}


@pytest.mark.parametrize(("epoch", "saved"), [(1, False), (3, False), (4, True), (6, True)])
def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path: Path, real: Worker, epoch: int, saved: bool) -> None:
    """Before the first rung there is no checkpoint, after it there is one; both ways give the uninterrupted trials."""
    config = study(budget={"trials": 6}, rungs={"epochs": [3, 5, 7], "keep": 0.4})
    expected = whole(config, tmp_path / "whole", real)
    assert {"PRUNED", "COMPLETE"} == {r["state"] for r in records(expected)}

    source = tiny.ledger(config, tmp_path / "run")
    first = take(source)
    with pytest.raises(Killed):
        real.run(first, killing(source, epoch))
    assert (first.checkpoint is not None and Path(first.checkpoint).exists()) == saved
    del source

    again = tiny.ledger(config, tmp_path / "run")
    tasks = drain(again, real.run)
    assert [s.trial for t in tasks for s in t.slots] == [0, 1, 2, 3, 4, 5], "each once"
    assert tasks[0] == first
    assert records(again) == records(expected)
    assert files(tmp_path / "run") == files(tmp_path / "whole") and len(files(tmp_path / "run")) == 12


def test_two_kills_of_one_population(tmp_path: Path, real: Worker) -> None:
    """The first comes between a trial's pruning and the checkpoint, so that a later one holds fewer members."""
    config = study(budget={"trials": 3}, rungs={"epochs": [2, 4, 6], "keep": 0.4})
    expected = whole(config, tmp_path / "whole", real)
    source = tiny.ledger(config, tmp_path / "run")
    with pytest.raises(Killed):
        real.run(take(source), killing(source, 2, after=True))
    pruned = states(source).count("pruned")
    assert pruned > 0
    second = tiny.ledger(config, tmp_path / "run")
    task = take(second)
    assert len(task.slots) == 3 - pruned, "what is over is not trained again"
    with pytest.raises(Killed):
        real.run(task, killing(second, 5))
    third = tiny.ledger(config, tmp_path / "run")
    drain(third, real.run)
    assert records(third) == records(expected)


def test_a_finished_part_of_a_population_keeps_its_place_in_the_checkpoint(tmp_path: Path, real: Worker) -> None:
    config = study(budget={"trials": 3}, rungs={"epochs": [2, 4, 6], "keep": 0.4})
    source = tiny.ledger(config, tmp_path / "run")
    with pytest.raises(Killed):
        real.run(take(source), killing(source, 3))
    assert "pruned" in states(source)
    again = tiny.ledger(config, tmp_path / "run")
    epochs: list[int] = []

    def report(name: str, epoch: int, values: Any, cost: float | None = None) -> Reply:
        epochs.append(epoch)
        return again.report(name, epoch, values, cost)

    task = take(again)
    assert [s.trial for s in task.slots] == [0, 1, 2]
    again.finish(task.name, real.run(task, report))
    assert epochs == [3, 4, 5, 6], "goes on from the checkpoint"


def test_a_trial_without_a_population_is_taken_up(run: Path) -> None:
    """The driver died between asking and labelling: once before, once after the parameters were drawn."""
    config = study(budget={"trials": 4})
    source = tiny.ledger(config, run)
    source.study.ask()
    half = source.study.ask()
    half.suggest_categorical("alignment.text-audio", ("none", "coral"))
    before = dict(half.params)
    del source
    again = tiny.ledger(config, run)
    drain(again, pretend)
    found = again.study.get_trials()
    assert [t.state.is_finished() for t in found] == [True] * 4
    assert found[0].params == tiny.BASELINE
    assert before.items() <= found[1].params.items() and again.space.config(found[1].params)
    names = [t.user_attrs[POPULATION]["name"] for t in found]
    assert names[0] != names[1] and names[2] == names[3]


def test_a_trial_taken_up_is_drawn_from_the_studys_seed(tmp_path: Path) -> None:
    drawn = []
    for name in ("one", "other"):
        source = tiny.ledger(study(), tmp_path / name)
        source.study.ask()
        source.study.ask()
        drawn.append([t.params for t in tiny.ledger(study(), tmp_path / name).study.get_trials()])
    assert drawn[0] == drawn[1] and drawn[0][1]


def test_the_trials_of_a_driver_that_lives_are_left_alone(run: Path) -> None:
    storage = f"journal://{run.parent / 'shared.log'}"
    source = tiny.ledger(study(storage=storage), run)
    take(source)
    other = {"host": "another", "pid": 1, "start": 0.0}
    source.study.set_user_attr("driver:1", {**other, "folder": "there", "asks": 3, "beat": 1})
    for t in source.study.get_trials(deepcopy=False):
        record = {**t.user_attrs[POPULATION], "owner": other}
        optuna.trial.Trial(source.study, t._trial_id).set_user_attr(POPULATION, record)
    source.close()
    again = tiny.ledger(study(budget={"trials": 20}, storage=storage), run)
    assert [s.trial for s in take(again).slots] == [3, 4, 5]
    source.study.set_user_attr("driver:1", None)
    assert [s.trial for s in take(again).slots] == [0, 1, 2]


def test_a_trial_is_told_once(run: Path) -> None:
    source = tiny.ledger(study(budget={"trials": 3}), run)
    task = take(source)
    result = pretend(task, source.report)
    source.finish(task.name, result)
    values = [t.value for t in source.study.get_trials()]
    other = Result([*result.outcomes], False, 1.0, 10)
    other.outcomes[0].value = 99.0
    source.finish(task.name, other)
    assert [t.value for t in source.study.get_trials()] == values


# ---- the same everywhere ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [("random", "rungs"), ("tpe", "rungs"), ("random", "median"), ("random", "successive_halving")],
)
def test_deterministic_on_any_number_of_workers(tmp_path: Path, sampler: str, pruner: str) -> None:
    config = study(budget={"trials": 26}, sampler=sampler, pruner=pruner, rungs={"epochs": [1, 2, 4], "keep": 0.4})
    found = []
    for workers, order in ((1, 0), (3, 1)):
        source = tiny.ledger(config, tmp_path / f"{workers}", size=3, deterministic=True)
        interleaved(source, workers, order)
        found.append(records(source))
    assert found[0] == found[1]
    kinds = {r["state"] for r in found[0]}
    assert len(found[0]) == 26 and kinds == {"COMPLETE", "PRUNED"}


def test_without_it_pruning_follows_the_workers(tmp_path: Path) -> None:
    """So that the test above is known to see a difference where there is one."""
    config = study(budget={"trials": 26}, rungs={"epochs": [1, 2, 4], "keep": 0.4})
    found = []
    for workers, order in ((1, 0), (3, 1)):
        source = tiny.ledger(config, tmp_path / f"{workers}", size=3)
        interleaved(source, workers, order)
        found.append(records(source))
    assert found[0] != found[1]


def test_sqlite_works_like_the_journal(tmp_path: Path) -> None:
    found = []
    for storage in ("journal", "sqlite"):
        config = study(budget={"trials": 7}, storage=storage)
        for most in (1, 9):
            source = tiny.ledger(config, tmp_path / storage)
            if most == 1:
                take(source)  # left behind
            drain(source, pretend, most)
        assert "RUNNING" not in {r["state"] for r in records(source)}
        found.append(records(source))
        if storage == "sqlite":
            source.study._storage.remove_session()
    assert found[0] == found[1] and len(found[0]) == 7
    assert (tmp_path / "journal/study.log").is_file() and (tmp_path / "sqlite/study.db").is_file()


def test_what_is_done_is_not_done_again(run: Path) -> None:
    """Trials that are over are never handed out again."""
    config = study(budget={"trials": 6})
    drain(tiny.ledger(config, run), pretend)
    again = tiny.ledger(config, run)
    assert again.next() is None
    assert again.status()["counts"]["running"] == 0
    assert all(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in again.study.get_trials())
