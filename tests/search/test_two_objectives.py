"""The metric together with a cost: fronts, pruning by them, and everything else as with the metric alone."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from mmsa_core.cost import Cost
from mmsa_core.errors import UserError
from search import pipeline
from search.explain.importance import importances
from search.ledger import Ledger
from search.pareto import Point, ranks
from search.populations import Outcome, Reply, Result, Task
from search.pruning import RungPruner
from search.report.collect import collect
from search.report.facts import facts
from search.run_folder import RunFolder
from search.sampling import make_sampler
from search.study import StudyConfig
from search.trials import BASELINE, COST, ORIGIN, POPULATION, best_trial, front, leaders, open_study, ranked, summary
from search.worker import Worker
from search.yaml_io import write_yaml
from tests.search import tiny
from tests.search.tiny import drain, interleaved, pretend, records
from tests.search.tiny import study as one_objective


def study(cost: str = "parameters", metric: str = "mae", **changes: Any) -> StudyConfig:
    return one_objective(objective={"metric": metric, "convention": "mosi", "cost": cost}, **changes)


@pytest.fixture(scope="module")
def real() -> Worker:
    return tiny.worker()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


# ---- fronts ----------------------------------------------------------------------------------------------------------


def dominates(a: Point, b: Point) -> bool:
    return a[0] <= b[0] and a[1] <= b[1] and a != b


def peeled(points: Sequence[Point]) -> list[int]:
    """Return every point's front by taking one front away after the other."""
    found, left, rank = [0] * len(points), set(range(len(points))), 0
    while left:
        outer = {k for k in left if not any(dominates(points[j], points[k]) for j in left)}
        for k in outer:
            found[k] = rank
        left, rank = left - outer, rank + 1
    return found


def test_fronts_are_those_of_a_slow_loop() -> None:
    fronts = set()
    for seed in range(400):
        draw = random.Random(seed)
        grid = draw.choice([2, 5, 1000])
        points = [(float(draw.randrange(grid)), float(draw.randrange(grid))) for _ in range(draw.randrange(30))]
        assert ranks(points) == peeled(points)
        fronts |= set(ranks(points))
    assert max(fronts) > 5


def test_without_a_second_loss_the_first_alone_orders() -> None:
    assert ranks([(0.3, 0.0), (0.1, 0.0), (0.2, 0.0), (0.1, 0.0)]) == [2, 0, 1, 0]
    assert ranks([]) == []


# ---- pruning ---------------------------------------------------------------------------------------------------------


def made(reported: Mapping[str, tuple[float, float]], rung: int = 2, metric: str = "minimize") -> optuna.Study:
    """Return a study of running trials with (metric at the rung, cost); the first letter of a name is a population."""
    found = optuna.create_study(directions=[metric, "minimize"])
    for name, (value, cost) in reported.items():
        attrs: dict[str, Any] = {POPULATION: {"name": name[0]}, COST: cost}
        if name == "base":
            attrs[ORIGIN] = BASELINE
        found.add_trial(create_trial(state=TrialState.RUNNING, intermediate_values={rung: value}, user_attrs=attrs))
    return found


def pruned(found: optuna.Study, keep: float = 0.5) -> set[int]:
    return {t.number for t in found.get_trials() if RungPruner((2, 4), keep).prune(found, t)}


def test_whole_fronts_go_on_and_what_is_beaten_in_both_ends() -> None:
    """Fronts: {0, 1, 2}, {3}, {4, 5}; the share of three is full with the first."""
    points = {"a0": (0.1, 30.0), "a1": (0.2, 20.0), "a2": (0.5, 10.0), "a3": (0.3, 20.0), "a4": (0.4, 30.0)}
    found = made({**points, "a5": (0.6, 20.0)}, rung=4)
    assert pruned(found) == {3, 4, 5}
    assert pruned(found, keep=0.6) == {4, 5}, "a fourth may go on: the second front"
    assert pruned(found, keep=0.1) == {3, 4, 5}, "a front is not divided"


def test_the_cheapest_is_never_beaten_in_both() -> None:
    found = made({"a0": (0.1, 30.0), "a1": (0.2, 30.0), "a2": (9.0, 1.0), "a3": (9.5, 1.0)}, rung=4)
    assert pruned(found) == {1, 3}


def test_maximise_keeps_the_largest() -> None:
    found = made(
        {"a0": (0.9, 30.0), "a1": (0.8, 20.0), "a2": (0.7, 30.0), "a3": (0.6, 25.0)}, rung=4, metric="maximize"
    )
    assert pruned(found) == {2, 3}


def test_the_best_of_a_population_and_the_baseline_go_on() -> None:
    """At rung 2; population b is beaten in both by all of a, and so is the baseline."""
    points = {"a0": (0.1, 10.0), "a1": (0.2, 10.0), "a2": (0.3, 10.0), "b0": (0.8, 20.0), "b1": (0.9, 20.0)}
    assert pruned(made({**points, "base": (9.0, 99.0)})) == {4}
    assert pruned(made({**points, "base": (9.0, 99.0)}, rung=4)) == {3, 4}


def test_without_a_known_cost_the_metric_decides() -> None:
    found = optuna.create_study(directions=["minimize", "minimize"])
    for value in (0.1, 0.2, 0.3, 0.4):
        found.add_trial(create_trial(state=TrialState.RUNNING, intermediate_values={4: value}))
    assert pruned(found) == {2, 3}
    told = create_trial(
        state=TrialState.COMPLETE, values=[0.5, 9.0], intermediate_values={4: 0.5}, user_attrs={COST: 9.0}
    )
    found.add_trial(told)
    assert pruned(found) == {3, 4}, "and no cost counts where one is missing"


def expected_drops(points: Sequence[Point], trials: Sequence[tuple[str, bool]], keep: float, last: bool) -> set[int]:
    """Return what a rung drops, by definition: ``trials`` are population and whether it is the baseline."""
    fronts = peeled(points)
    gone = set()
    for k, (population, baseline) in enumerate(trials):
        better = [j for j in range(len(points)) if fronts[j] < fronts[k]]
        best_of_its_own = not any(trials[j][0] == population for j in better)
        if not baseline and len(better) >= keep * len(points) and (last or not best_of_its_own):
            gone.add(k)
    return gone


def test_drops_are_those_of_a_slow_loop() -> None:
    sizes = []
    for seed in range(60):
        draw = random.Random(seed)
        names = ["base", *(f"{draw.choice('abcd')}{k}" for k in range(draw.randrange(20)))]
        points = [(draw.random(), float(draw.randrange(4))) for _ in names]
        for rung, keep in ((2, 0.5), (4, 0.3)):
            drops = pruned(made(dict(zip(names, points, strict=True)), rung), keep)
            assert drops == expected_drops(points, [(n[0], n == "base") for n in names], keep, rung == 4)
            sizes.append(len(drops))
    assert max(sizes) > 5


# ---- the ledger ------------------------------------------------------------------------------------------------------


def points_of(source: Ledger) -> dict[int, Point]:
    complete = source.study.get_trials(states=(TrialState.COMPLETE,))
    return {t.number: (t.values[0], t.values[1]) for t in complete}


@pytest.mark.parametrize(
    ("sampler", "storage"),
    [("random", "journal"), ("tpe", "journal"), ("tpe", "sqlite"), ("gp", "journal"), ("nsga2", "journal")],
)
def test_a_ledger_prunes_and_every_sampler_goes_on_from_it(run: Path, sampler: str, storage: str) -> None:
    config = study(budget={"trials": 32}, sampler=sampler, storage=storage)
    source = tiny.ledger(config, run, size=4)
    tasks = drain(source, pretend)
    assert {t.cost for t in tasks} == {Cost("parameters")}
    known = source.study.get_trials()
    found = summary(source.study, config, running=False)
    assert found["counts"]["pruned"] >= 8 and found["counts"]["complete"] + found["counts"]["pruned"] == 32
    costs = {s.trial: tiny.pretended_cost(s) for t in tasks for s in t.slots}
    for trial, told in zip(known, found["trials"], strict=True):
        assert told["cost"] == costs[trial.number] == trial.user_attrs[COST]
        if trial.state == TrialState.PRUNED:
            assert trial.values is None and trial.last_step is not None
            assert told["value"] == trial.intermediate_values[trial.last_step]
        else:
            assert trial.values == [told["value"], told["cost"]] and set(trial.intermediate_values) == {1, 2}
    if storage == "sqlite":
        source.study._storage.remove_session()


def test_a_trial_that_another_beats_ends_at_its_first_rung(run: Path) -> None:
    source = tiny.ledger(study(budget={"trials": 8}), run, size=4)
    for fusion in ("sum", "concat"):
        for rate in (0.01, 0.011, 0.012, 0.013)[: 3 if fusion == "sum" else 4]:
            source.study.enqueue_trial({**tiny.BASELINE, "fusion": fusion, "optimizer.lr": rate})
    tasks = drain(source, lambda task, report: pretend(task, report, lambda slot, _: 1.0 + slot.trial))
    assert len(tasks) > 1
    ended = {t.number: (t.state.name, t.user_attrs[COST]) for t in source.study.get_trials()}
    cheap = min(n for n, (_, cost) in ended.items() if cost == 10.0)
    assert ended[0] == ("COMPLETE", 20.0) and ended[cheap] == ("COMPLETE", 10.0)
    beaten = [t for t in source.study.get_trials() if t.state == TrialState.PRUNED]
    assert len(beaten) >= 3 and any(set(t.intermediate_values) == {1} for t in beaten)


def test_front_leaders_and_best(run: Path) -> None:
    config = study(budget={"trials": 40}, pruner="none")
    source = tiny.ledger(config, run, size=4)
    drain(source, pretend)
    points = points_of(source)
    fronts = dict(zip(points, peeled(list(points.values())), strict=True))
    outer = sorted((n for n in points if fronts[n] == 0), key=lambda n: points[n])
    assert len(points) == 40 and len(outer) > 1
    assert [t.number for t in front(source.study)] == outer
    assert sorted(outer) == sorted(t.number for t in source.study.best_trials), "Optuna's own front"
    by_front = sorted((n for n in points if n != 0), key=lambda n: (fronts[n], points[n]))
    assert [t.number for t in leaders(source.study, 99)] == by_front
    assert [(rank, t.number) for rank, t in ranked(source.study) if t.number != 0] == [(fronts[n], n) for n in by_front]
    best = best_trial(source.study)
    assert best is not None and points[best.number][0] == min(value for value, _ in points.values())
    found = summary(source.study, config, running=False)
    assert found["front"] == outer and found["cost"] == "parameters"
    assert found["best"] == {"number": best.number, "value": points[best.number][0], "params": best.params}
    assert json.loads(json.dumps(found)) == found


def test_a_study_of_the_metric_alone_has_its_best_in_front(run: Path) -> None:
    config = one_objective()
    source = tiny.ledger(config, run)
    drain(source, pretend)
    best, found = best_trial(source.study), summary(source.study, config, running=False)
    assert best is not None and found["front"] == [best.number] and found["cost"] is None
    assert {t["cost"] for t in found["trials"]} == {None}


def test_what_fails_is_told_as_ever(run: Path) -> None:
    config = study(budget={"trials": 3}, pruner="none")
    source = tiny.ledger(config, run)
    drain(source, tiny.failing("it broke", {1}))
    found = summary(source.study, config, running=False)["trials"]
    assert (found[1]["state"], found[1]["reason"], found[1]["value"]) == ("failed", "it broke", None)
    assert found[0]["state"] == "complete" and source.study.get_trials()[1].values is None


def test_seconds_are_a_trials_share_of_its_populations_epochs(run: Path) -> None:
    """They are known at the end alone: the metric alone prunes."""
    source = tiny.ledger(study("seconds", budget={"trials": 4}), run, size=4)
    task = source.next()
    assert isinstance(task, Task) and task.cost is None
    value = {0: 0.4, 1: 0.1, 2: 0.5, 3: 0.3}
    result = pretend(task, source.report, lambda slot, epoch: value[slot.trial])
    assert [len(o.curve) for o in result.outcomes] == [4, 4, 1, 4]
    source.finish(task.name, Result(result.outcomes, False, 26.0, 10))
    found = source.study.get_trials()
    assert [t.values for t in found] == [[0.4, 8.0], [0.1, 8.0], None, [0.3, 8.0]]


def test_a_cost_is_kept_as_it_was_first_told(run: Path) -> None:
    """A latency is measured again when its population is taken up; what pruning looked at is what is told."""
    source = tiny.ledger(study("latency", budget={"trials": 2}, pruner="none"), run)
    task = source.next()
    assert isinstance(task, Task) and task.cost == Cost("latency", 1)
    values = {0: 0.1, 1: 0.2}
    source.report(task.name, 1, values, 1.5)
    source.report(task.name, 2, values, 9.9)
    source.finish(task.name, Result([Outcome(0.1), Outcome(0.2)], False, 1.0, 10, 9.9))
    assert [t.values for t in source.study.get_trials()] == [[0.1, 1.5], [0.2, 1.5]]


def test_a_single_rung_leaves_the_cost_to_the_end(run: Path) -> None:
    source = tiny.ledger(study(budget={"trials": 3}, rungs={"epochs": [4]}), run)
    drain(source, pretend)
    assert [t.values[1] for t in source.study.get_trials()] == [20.0] * 3


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_deterministic_on_any_number_of_workers(tmp_path: Path, sampler: str) -> None:
    config = study(budget={"trials": 26}, sampler=sampler)
    found = []
    for workers, order in ((1, 0), (3, 1)):
        source = tiny.ledger(config, tmp_path / f"{workers}", size=3, deterministic=True)
        interleaved(source, workers, order)
        found.append([(t.state, t.values, t.params, t.intermediate_values) for t in source.study.get_trials()])
    assert found[0] == found[1] and len({state for state, *_ in found[0]}) == 2


class Killed(BaseException):
    """Ends a driver and its worker at once, past every ``except Exception``."""


@pytest.mark.parametrize(("epoch", "saved"), [(2, False), (4, True), (6, True)])
def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path: Path, real: Worker, epoch: int, saved: bool) -> None:
    config = study(budget={"trials": 6}, rungs={"epochs": [3, 5, 7], "keep": 0.4})
    whole = tiny.ledger(config, tmp_path / "whole")
    drain(whole, real.run)
    source = tiny.ledger(config, tmp_path / "run")
    task = source.next()
    assert isinstance(task, Task) and task.checkpoint is not None

    def report(name: str, now: int, values: Mapping[int, float], cost: float | None = None) -> Reply:
        if now == epoch:
            raise Killed
        return source.report(name, now, values, cost)

    with pytest.raises(Killed):
        real.run(task, report)
    assert Path(task.checkpoint).exists() == saved
    again = tiny.ledger(config, tmp_path / "run")
    drain(again, real.run)
    assert points_of(again) == points_of(whole) and len(points_of(whole)) > 1
    states = [(t.state, t.params, t.intermediate_values, t.user_attrs[COST]) for t in whole.study.get_trials()]
    assert [(t.state, t.params, t.intermediate_values, t.user_attrs[COST]) for t in again.study.get_trials()] == states
    assert {state for state, *_ in states} == {TrialState.COMPLETE, TrialState.PRUNED}


# ---- what else reads a study -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["memory", "journal", "sqlite"])
def test_intermediate_values_are_kept_in_every_storage(tmp_path: Path, storage: str) -> None:
    """Optuna's ``Trial.report`` refuses studies of two objectives; its storages do not."""
    spec = {
        "memory": None,
        "sqlite": f"sqlite:///{tmp_path / 'x.db'}",
        "journal": optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "x.log"))),
    }[storage]
    found = optuna.create_study(directions=["minimize", "minimize"], storage=spec)
    trial = found.ask()
    with pytest.raises(NotImplementedError, match="multi-objective"):
        trial.report(0.5, 2)
    found._storage.set_trial_intermediate_value(trial._trial_id, 2, 0.5)
    found.tell(trial.number, state=TrialState.PRUNED)
    assert [(t.values, t.intermediate_values) for t in found.get_trials()] == [(None, {2: 0.5})]
    if storage == "sqlite":
        found._storage.remove_session()


def test_tpe_alone_cannot_go_on_from_pruned_trials_of_two_objectives(run: Path) -> None:
    """Why the study's sampler is told a direction: when Optuna mends this, the telling can go."""
    config = study(budget={"trials": 32}, sampler="tpe")
    source = tiny.ledger(config, run, size=4)
    drain(source, pretend, 7)
    with pytest.raises(RuntimeError, match="single direction"):
        source.study.sampler = optuna.samplers.TPESampler(multivariate=False)
        source.study.ask().suggest_float("heads.dropout", 0.0, 0.5)
    source.study.sampler = make_sampler(config, 1, {})
    assert 0.0 <= source.study.ask().suggest_float("heads.dropout", 0.0, 0.5) <= 0.5


def test_it_is_a_plain_optuna_study(run: Path) -> None:
    drain(tiny.ledger(study(budget={"trials": 12}), run, size=4), pretend)
    plain = optuna.load_study(
        study_name="tiny", storage=optuna.storages.JournalStorage(JournalFileBackend(str(run / "study.log")))
    )
    assert [d.name for d in plain.directions] == ["MINIMIZE", "MINIMIZE"]
    assert plain.metric_names == ["mae", "parameters"] and plain.best_trials
    assert list(plain.trials_dataframe()["values_parameters"].dropna())
    drawn = optuna.visualization.plot_pareto_front(plain)
    assert [axis.title.text for axis in (drawn.layout.xaxis, drawn.layout.yaxis)] == ["mae", "parameters"]


def test_another_number_of_objectives_is_refused(run: Path) -> None:
    tiny.ledger(study(), run)
    with pytest.raises(UserError, match="a study named 'tiny' is there with direction minimize, minimize"):
        open_study(one_objective(), RunFolder(run))


def test_importances_are_those_of_the_metric(run: Path, tmp_path: Path) -> None:
    found = []
    for name, config in (("one", one_objective(pruner="none")), ("two", study(pruner="none"))):
        config = config.model_copy(update={"budget": config.budget.model_copy(update={"trials": 24})})
        source = tiny.ledger(config, tmp_path / name, size=4)
        drain(source, pretend)
        found.append(importances(source.study))
    assert found[0] == found[1] and set(found[0]) == {"ped_anova", "fanova"}


def test_the_report_reads_metric_and_cost(run: Path) -> None:
    config = study(budget={"trials": 12})
    source = tiny.ledger(config, run, size=4)
    write_yaml(run / "resolved.yaml", config.resolved())
    drain(source, pretend)
    record = collect(run)
    states = {t.state for t in record.trials}
    assert states == {"complete", "pruned"}
    for shown, trial in zip(record.trials, source.study.get_trials(), strict=True):
        assert shown.cost == trial.user_attrs[COST]
        assert shown.value == (None if trial.values is None else trial.values[0])
    assert facts(record)["Objective"] == "mae of the valid split, minimize, mosi convention; parameters, minimize"
    assert record.ranked[0].value == min(t.value for t in record.trials if t.value is not None)


@pytest.mark.parametrize("cost", ["latency", "seconds"])
def test_a_cost_that_is_measured_cannot_be_deterministic(cost: str) -> None:
    with pytest.raises(UserError, match=rf"^objective\.cost: {cost} is a measurement of this machine .* take param"):
        pipeline.check_deterministic(study(cost, population=4))
    pipeline.check_deterministic(study(population=4))


def test_without_a_cost_nothing_is_another(tmp_path: Path) -> None:
    """The trials of a study with a cost and no pruner are those without, where the sampler looks at no values."""
    sources = []
    for name, config in (("one", one_objective(pruner="none")), ("two", study(pruner="none"))):
        source = tiny.ledger(config, tmp_path / name)
        drain(source, pretend)
        sources.append(source)
    values = [{t.number: (t.params, t.values[0]) for t in s.study.get_trials()} for s in sources]
    assert values[0] == values[1] and len(records(sources[0])) == 6
