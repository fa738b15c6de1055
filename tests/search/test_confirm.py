"""After the search: fresh seeds, one look at the test split, effects of modules, and a model that can be used again."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
import pytest
import torch
from safetensors import safe_open

from mmsa_core.data.synthetic import write_planted
from mmsa_core.errors import UserError
from mmsa_core.metrics import evaluate
from search import confirm, explain, export, pipeline
from search.asking import search_seeds
from search.confirm import ConfirmPlan, Weights, confirm_seeds
from search.engine import Engine
from search.explain.effects import effects
from search.explain.importance import importances
from search.explain.measure import Measure
from search.explain.switches import switches
from search.judgement import judge
from search.members import Candidate, drop_weights, load
from search.opening import OPENINGS, record_opening
from search.pipeline import Opened
from search.populations import Outcome, Reply, Result, Source, Task, Wait
from search.race import Race, at_once
from search.space import Space
from search.study import StudyConfig
from search.trials import POPULATION, leaders, open_study
from search.worker import Worker
from search.yaml_io import write_yaml
from tests.search import tiny
from tests.search.tiny import drain, pretend, study

SIZE = 4
SEEDS = {"search": 1, "confirm": 3, "effects": 2, "leaders": 2, "base": 0}


class Inline:
    """Stands in for the engine: does a source's tasks here and now."""

    interrupted = False

    def __init__(self) -> None:
        self.members = 0

    def on_status(self, status: Mapping[str, Any]) -> None:
        """Show nothing."""

    def run(self, make_source: Callable[[], Source], splits: Any) -> dict[str, Any]:
        source = make_source()
        worker = Worker(*splits, torch.device("cpu"))
        self.members += sum(len(t.slots) for t in drain(source, worker.run))
        source.close()
        return source.status()

    @property
    def engine(self) -> Engine:
        return cast(Engine, self)


@dataclass(frozen=True)
class Run:
    """A study that went through all stages."""

    opened: Opened
    record: dict[str, Any]
    explanation: dict[str, Any]
    model: Path
    members: int


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("run")
    write_planted(folder / "planted.npz", 0, train=64, valid=32, test=32)
    config = study(
        seeds=SEEDS, budget={"trials": 8}, data={"path": str(folder / "planted.npz")}, pruner="none", population=SIZE
    )
    write_yaml(folder / "study.yaml", config.resolved())
    opened = pipeline.open_new(config, folder / "study.yaml", folder / "out")
    asking = tiny.ledger(opened.config, folder / "out")
    for rate in (0.03, 0.025):  # ten times the baseline's: leaders with modules to switch off
        asking.study.enqueue_trial(
            {"alignment.text-audio": "coral", "alignment.text-audio.coral.weight": 0.01, "fusion": "sum"}
            | {"heads.dropout": 0.0, "optimizer.lr": rate}
        )
    search, engine = Inline(), Inline()
    pipeline.search(opened, search.engine, deterministic=False)
    assert search.members == 8
    record = pipeline.confirm_stage(opened, engine.engine, SIZE)
    explanation = pipeline.explain_stage(opened, engine.engine, SIZE, record)
    yield Run(opened, record, explanation, export.write_model(opened, record), engine.members)
    opened.folder.release()


def candidate(opened: Opened, number: int) -> Candidate:
    trial = open_study(opened.config, opened.folder).get_trials(deepcopy=False)[number]
    return Candidate(f"trial {number}", {**opened.space.config(trial.params), **opened.extra})


# ---- seeds and plans -------------------------------------------------------------------------------------------------


def test_seeds_are_fresh() -> None:
    config = study(seeds={"search": 5, "confirm": 40})
    fresh = confirm_seeds(config)
    assert len(set(fresh)) == 40
    searched = {s for replicate in range(50) for s in search_seeds(config, replicate)}
    assert len(searched) == 250 and not searched & set(fresh)
    assert confirm_seeds(study(seeds={"confirm": 3})) == fresh[:3], "more seeds keep the first ones"
    assert not set(confirm_seeds(study(seeds={"base": 1, "confirm": 40}))) & set(fresh)


def plan(folder: Path, count: int, size: int, *names: str, weights: Weights = "kept") -> ConfirmPlan:
    config = study(seeds={"confirm": count})
    made = [Candidate(n, {**config.search_space().baseline()[0], "width": 4 + int(n), "epochs": 4}) for n in names]
    return ConfirmPlan(partial(at_once, made, confirm_seeds(config)), folder, size, config, "confirm", weights)


def worked(source: ConfirmPlan, most: int = 99, fail: int | None = None) -> list[Task]:
    """Do a plan's tasks without training; every member of a task keeps a state that names its seed."""

    def run(task: Task, report: Callable[..., Reply]) -> Result:
        result = pretend(task, report)
        for slot, outcome in zip(task.slots, result.outcomes, strict=True):
            outcome.predictions = np.full(3, slot.seed % 1000, np.float32)
            outcome.state = {"w": np.full((2,), slot.seed % 1000, np.float32)} if task.keep_states else None
            if slot.seed == fail:
                outcome.failure, outcome.state, outcome.predictions = "diverged", None, None
        return result

    return drain(source, run, most)


def test_a_plan_trains_every_candidate_with_every_seed_once(tmp_path: Path) -> None:
    tasks = worked(plan(tmp_path, 5, 2, "1", "2", "1"))
    assert sorted(len(t.slots) for t in tasks) == [1, 1, 2, 2, 2, 2], "equal candidates are one"
    for width in (5, 6):
        seeds = [s.seed for t in tasks for s in t.slots if s.config["width"] == width]
        assert seeds == confirm_seeds(study(seeds={"confirm": 5}))
    assert all(t.keep_states and t.rungs == () and t.checkpoint is None and t.metric == "mae" for t in tasks)
    assert all(len({s.config["width"] for s in t.slots}) == 1 for t in tasks), "a population has one structure"


def test_a_plan_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    first = worked(plan(tmp_path, 4, 2, "1", "2"), most=3)
    rest = worked(plan(tmp_path, 4, 2, "1", "2"))
    assert len(first) == 3 and len(rest) == 1
    assert not plan(tmp_path, 4, 2, "1", "2").pending()
    more = worked(plan(tmp_path, 6, 9, "1", "2"))
    fresh = confirm_seeds(study(seeds={"confirm": 6}))
    assert [[s.seed for s in t.slots] for t in more] == [fresh[4:], fresh[4:]], "two more seeds each, together"


def test_a_stopped_population_is_not_filed(tmp_path: Path) -> None:
    source = plan(tmp_path, 2, 2, "1")
    task = source.next()
    assert isinstance(task, Task) and isinstance(source.next(), Wait)
    source.drain()
    assert source.report(task.name, 1, {0: 0.5, 1: 0.5}).stop
    result = pretend(task, source.report)
    assert result.stopped
    source.finish(task.name, result)
    assert source.next() is None and not source.pending()
    assert len(worked(plan(tmp_path, 2, 2, "1"))) == 1


def test_a_population_too_large_for_the_device_comes_again_in_halves(tmp_path: Path) -> None:
    source, sizes = plan(tmp_path, 5, 5, "1", "2"), list[int]()

    def run(task: Task, report: Callable[..., Reply]) -> Result:
        sizes.append(len(task.slots))
        return Result([], False, 0.0, 0, too_large=True) if len(task.slots) > 3 else pretend(task, report)

    drain(source, run)
    assert sizes == [5, 5, 2, 3, 2, 3] and source.status()["done"] == source.status()["total"] == 4
    assert not plan(tmp_path, 5, 5, "1", "2").pending()


def test_a_lost_population_is_tried_once_more(tmp_path: Path) -> None:
    source = plan(tmp_path, 2, 2, "1")
    for left in (True, False):
        task = source.next()
        assert isinstance(task, Task)
        source.lost(task.name, "killed")
        assert source.pending() is left
    assert source.next() is None
    source = plan(tmp_path, 2, 2, "1")
    task = source.next()
    source.abandon()
    assert source.next() == task
    assert source.status() == {"stage": "confirm", "done": 0, "total": 1, "message": ""}


def test_members_are_loaded_in_the_order_of_the_seeds(tmp_path: Path) -> None:
    source = plan(tmp_path, 5, 2, "1")
    made = Candidate("1", source.queue[0].slots[0].config)
    worked(source)
    seeds = confirm_seeds(study(seeds={"confirm": 5}))
    for order in (seeds, seeds[::-1], seeds[3:] + seeds[:2]):
        members = load(tmp_path, made, order)
        assert members.seeds == order == members.attempted
        assert members.predictions[:, 0].tolist() == [s % 1000 for s in order]
        assert members.states["w"][:, 1].tolist() == [s % 1000 for s in order]
    assert load(tmp_path, made, seeds).seconds == pytest.approx(3 / 5), "three populations of a second, five members"


def test_failures_are_kept_with_their_reason(tmp_path: Path) -> None:
    seeds = confirm_seeds(study(seeds={"confirm": 3}))
    source = plan(tmp_path, 3, 3, "1")
    made = Candidate("1", source.queue[0].slots[0].config)
    worked(source, fail=seeds[1])
    members = load(tmp_path, made, seeds)
    assert members.seeds == [seeds[0], seeds[2]] and members.failures == [f"seed {seeds[1]}: diverged"]
    assert not plan(tmp_path, 3, 3, "1").pending(), "what failed is not tried again"


def test_no_member_at_all_is_said(tmp_path: Path) -> None:
    seeds = confirm_seeds(study(seeds={"confirm": 2}))[:1]
    source = plan(tmp_path, 2, 1, "1")
    made = Candidate("trial 4", source.queue[0].slots[0].config)
    with pytest.raises(UserError, match="no member of trial 4 finished; the first reason: its workers died"):
        load(tmp_path, made, seeds)
    worked(source, fail=seeds[0])
    with pytest.raises(UserError, match=f"no member of trial 4 finished; the first reason: seed {seeds[0]}: diverged"):
        load(tmp_path, made, seeds)


# ---- weights on the disk ---------------------------------------------------------------------------------------------


def test_weights_go_and_predictions_stay(tmp_path: Path) -> None:
    seeds = confirm_seeds(study(seeds={"confirm": 4}))
    source = plan(tmp_path, 4, 2, "1", "2")
    kept, other = (Candidate(n, source.queue[k].slots[0].config) for k, n in ((0, "1"), (2, "2")))
    worked(source, fail=seeds[3])
    before = load(tmp_path, other, seeds)
    drop_weights(tmp_path, [kept])
    assert load(tmp_path, kept, seeds).states["w"].shape == (3, 2)
    after = load(tmp_path, other, seeds, states=False)
    assert not after.weights and before.weights
    assert replace(after, weights=True, predictions=before.predictions) == replace(before, states={})
    assert np.array_equal(after.predictions, before.predictions)
    with pytest.raises(UserError, match="weights of 2 were dropped to save space; `mmsa-search confirm` trains its"):
        load(tmp_path, other, seeds)
    assert not plan(tmp_path, 4, 2, "1", "2").pending(), "a race needs no weights"


def test_lost_weights_are_trained_again_where_they_are_needed(tmp_path: Path) -> None:
    seeds = confirm_seeds(study(seeds={"confirm": 4}))
    source = plan(tmp_path, 4, 2, "1", weights="dropped")
    made = Candidate("1", source.queue[0].slots[0].config)
    assert not any(t.keep_states for t in worked(source, fail=seeds[3]))
    again = worked(plan(tmp_path, 4, 3, "1", weights="needed"))
    assert [s.seed for t in again for s in t.slots] == seeds[:3], "the one that failed is not tried again"
    assert all(t.keep_states for t in again) and not plan(tmp_path, 4, 2, "1", weights="needed").pending()
    members = load(tmp_path, made, seeds)
    assert members.seeds == seeds[:3] and members.states["w"][:, 0].tolist() == [s % 1000 for s in seeds[:3]]


# ---- judging ---------------------------------------------------------------------------------------------------------


def filed(folder: Path, made: Candidate, config: StudyConfig, errors: Mapping[int, float | None]) -> None:
    """File members by seed whose predictions miss every label of the valid split by an amount (None: failed)."""
    _, valid, _ = tiny.scaled()
    source = ConfirmPlan(partial(at_once, [made], list(errors)), folder, 99, config, "confirm")
    task = source.next()
    assert isinstance(task, Task)
    outcomes = []
    for slot in task.slots:
        error = errors[slot.seed]
        if error is None:
            outcomes.append(Outcome(failure="diverged"))
            continue
        predictions = (valid.labels + np.float32(error)).astype(np.float32)
        outcomes.append(
            Outcome(error, 3, [], predictions, config=dict(slot.config), state={"w": np.zeros(1, np.float32)})
        )
    source.finish(task.name, Result(outcomes, False, 2.0, 10))


def judged(folder: Path, errors: Mapping[int, Mapping[int, float | None]], **changes: Any) -> dict[str, Any]:
    """Judge candidates by the errors of their seeds (0, 1, ...); the first is the baseline."""
    config = study(**{"seeds": {"confirm": 3}, **changes})
    seeds = confirm_seeds(config)
    made = {n: Candidate(f"trial {n}", {"encoders": {"text": "pool"}, "width": 4 + n, "epochs": 4}) for n in errors}
    for number, own in errors.items():
        filed(folder, made[number], config, {seeds[k]: e for k, e in own.items()})
    _, valid, _ = tiny.scaled()
    own = config.objective
    race = Race(made, next(iter(made)), tuple(seeds), folder, own.metric, own.decided, valid.labels)
    return judge(config, race, valid)


def test_the_winner_has_the_best_mean(tmp_path: Path) -> None:
    """Trial 5 has the best single seed and trial 9 the best mean."""
    found = judged(tmp_path, {
        0: {0: 0.5, 1: 0.6, 2: 0.7}, 5: {0: 0.1, 1: 0.9, 2: 0.9}, 9: {0: 0.4, 1: 0.5, 2: 0.6},
    })  # fmt: skip
    assert (found["winner"], found["baseline"], found["metric"], found["direction"]) == (9, 0, "mae", "minimize")
    assert [c["trial"] for c in found["candidates"]] == [9, 0, 5]
    best = found["candidates"][0]
    assert best["valid"]["mae"]["mean"] == pytest.approx(0.5, abs=1e-6) and best["valid"]["mae"]["n"] == 3
    assert best["difference"]["mean"] == pytest.approx(-0.1, abs=1e-6)
    assert best["difference"]["std"] == pytest.approx(0.0, abs=1e-6), "paired by seed: each is better by 0.1"
    assert best["valid"]["mae"]["std"] == pytest.approx(0.1, abs=1e-6)
    assert (best["best_epoch"], best["parameters"], best["seconds"]) == (3.0, 10, pytest.approx(2 / 3))
    assert found["candidates"][1]["difference"]["mean"] == 0.0
    assert set(best["valid"]) == {"mae", "corr", "acc2_has0", "f1_has0", "acc2_non0", "f1_non0", "acc5", "acc7"}


def test_the_baseline_can_win(tmp_path: Path) -> None:
    assert judged(tmp_path, {0: {0: 0.1, 1: 0.1}, 3: {0: 0.2, 1: 0.3}})["winner"] == 0


def test_a_metric_to_maximise(tmp_path: Path) -> None:
    accuracy = {"metric": "acc7", "convention": "mosi"}
    found = judged(tmp_path, {0: {0: 0.4, 1: 0.4}, 3: {0: 0.1, 1: 0.1}, 4: {0: 2.0, 1: 2.0}}, objective=accuracy)
    assert [c["trial"] for c in found["candidates"]] == [3, 0, 4]
    assert found["winner"] == 3 and found["candidates"][0]["difference"]["mean"] > 0


def test_pairs_are_of_common_seeds(tmp_path: Path) -> None:
    """Seed 1 failed for trial 3 and seed 2 for the baseline: only seed 0 can be compared."""
    found = judged(tmp_path, {0: {0: 0.5, 1: 0.5, 2: None}, 3: {0: 0.3, 1: None, 2: 0.9}})
    entry = next(c for c in found["candidates"] if c["trial"] == 3)
    assert entry["difference"]["mean"] == pytest.approx(-0.2, abs=1e-6) and entry["difference"]["n"] == 1
    assert entry["valid"]["mae"]["mean"] == pytest.approx(0.6, abs=1e-6) and entry["valid"]["mae"]["n"] == 2
    assert len(entry["failures"]) == 1 and entry["failures"][0].endswith(": diverged")


def test_a_leader_that_failed_with_every_seed_is_left_out(tmp_path: Path) -> None:
    found = judged(tmp_path, {0: {0: 0.5}, 3: {0: None}, 4: {0: 0.4}})
    assert [c["trial"] for c in found["candidates"]] == [4, 0]
    with pytest.raises(UserError, match="no member of trial 7 finished"):
        judged(tmp_path, {7: {0: None}, 8: {0: 0.4}})


# ---- the whole way ---------------------------------------------------------------------------------------------------


def test_confirmed_are_the_leaders_and_the_baseline(run: Run) -> None:
    known = open_study(run.opened.config, run.opened.folder)
    expected = {0, *(t.number for t in leaders(known, 2))}
    assert {c["trial"] for c in run.record["candidates"]} == expected and len(expected) == 3
    assert run.record["seeds"] == confirm_seeds(run.opened.config)
    means = [c["valid"]["mae"]["mean"] for c in run.record["candidates"]]
    ends = {c["trial"]: (round(c["valid"]["mae"]["high"], 3), c["parameters"]) for c in run.record["candidates"]}
    assert means == sorted(means) and run.record["rule"] == "bound"
    assert ends[run.record["winner"]] == min(ends.values()), "the best pessimistic end, the cheapest of equal ones"
    assert all(c["valid"]["mae"]["n"] == 3 and c["failures"] == [] for c in run.record["candidates"])


def test_filed_predictions_are_of_the_valid_split(run: Run) -> None:
    members = load(run.opened.folder.path / "confirm", candidate(run.opened, 0), run.record["seeds"])
    entry = next(c for c in run.record["candidates"] if c["trial"] == 0)
    own = [evaluate(p, run.opened.valid.labels)["mae"] for p in members.predictions]
    assert entry["valid"]["mae"]["mean"] == pytest.approx(float(np.mean(own)))
    assert len(set(own)) == 3, "seeds differ"


def test_the_test_split_is_opened_once_and_counted(run: Run) -> None:
    known = open_study(run.opened.config, run.opened.folder)
    openings = known.user_attrs[OPENINGS]
    assert [o["by"] for o in openings] == ["confirm"] and openings[0]["time"].endswith("+00:00")
    assert run.record["test_openings"] == 1
    assert set(run.record["test"]) == {"winner", "baseline", "difference"}
    test = run.opened.test()
    with np.load(run.opened.folder.path / "confirm" / "test_winner.npz") as kept:
        assert kept["predictions"].shape == (3, len(test)) and kept["seeds"].tolist() == run.record["seeds"]
        own = [evaluate(p, test.labels)["mae"] for p in kept["predictions"]]
    assert run.record["test"]["winner"]["mae"]["mean"] == pytest.approx(float(np.mean(own)))


def test_the_holistic_report_is_of_that_opening(run: Run) -> None:
    numbers = json.loads((run.opened.folder.path / "confirm" / "holistic.json").read_text(encoding="utf-8"))
    assert (numbers["split"], numbers["rows"], numbers["kept_seeds"]) == ("test", 32, 3)
    whole, tested = numbers["slices"][0], run.record["test"]
    assert whole["name"] == "all rows" and whole["mae"] == pytest.approx(tested["winner"]["mae"])
    for name in ("mean", "std", "low", "high"):
        assert whole["difference"][name] == pytest.approx(tested["difference"][name])
    assert len(numbers["subsets"]) == 3 and len(numbers["robustness"]) == 6


def test_doing_it_again_trains_nothing_and_opens_nothing(run: Run) -> None:
    engine = Inline()
    again = pipeline.confirm_stage(run.opened, engine.engine, SIZE)
    assert again == run.record == confirm.read_record(run.opened.folder.path / "confirm")
    assert pipeline.explain_stage(run.opened, engine.engine, SIZE, again) == run.explanation
    assert engine.members == 0
    assert len(open_study(run.opened.config, run.opened.folder).user_attrs[OPENINGS]) == 1


def test_every_opening_counts() -> None:
    known = optuna.create_study()
    assert [record_opening(known, by) for by in ("confirm", "evaluate")] == [1, 2]
    assert [o["by"] for o in known.user_attrs[OPENINGS]] == ["confirm", "evaluate"]


def test_more_seeds_open_the_test_split_again(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.opened.folder.path, tmp_path / "out")
    opened = pipeline.open_run(tmp_path / "out", ["seeds.confirm=4"])
    engine = Inline()
    record = pipeline.confirm_stage(opened, engine.engine, SIZE)
    assert engine.members == 3, "one more seed for each of three candidates"
    assert record["test_openings"] == 2
    assert record["seeds"][:3] == run.record["seeds"] and len(record["seeds"]) == 4
    assert confirm.read_record(run.opened.folder.path / "confirm") == run.record
    export.write_model(opened, record)


def test_another_winner_whose_weights_are_gone_is_trained_again(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.opened.folder.path, tmp_path / "out")
    opened = pipeline.open_run(tmp_path / "out", ["winner=cheapest"])
    folder = opened.folder.path / "confirm"
    finalists = {run.record["winner"], run.record["baseline"]}
    other = next(c["trial"] for c in run.record["candidates"] if c["trial"] not in finalists)
    drop_weights(folder, [candidate(opened, n) for n in finalists])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.judgement._Standings.winner", lambda *_: other)
        engine = Inline()
        record = pipeline.confirm_stage(opened, engine.engine, SIZE)
    assert (record["winner"], engine.members) == (other, 3), "its three seeds, and nobody else's"
    assert len(load(folder, candidate(opened, other), record["seeds"]).states) > 0
    export.write_model(opened, record)


def test_only_the_finalists_keep_their_weights(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.opened.folder.path, tmp_path / "out")
    opened, engine = pipeline.open_run(tmp_path / "out"), Inline()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "write_report", lambda *_: None)
        assert pipeline._confirm_and_explain(opened, engine.engine) == run.record
    finalists = {candidate(opened, run.record[role]).mark for role in ("winner", "baseline")}
    filed = list((opened.folder.path / "confirm").glob("*/*.safetensors"))
    assert {p.parent.name for p in filed if _has_weights(p)} == finalists
    assert len({p.parent.name for p in filed}) > len(finalists) and engine.members == 0


def _has_weights(path: Path) -> bool:
    with safe_open(path, "np") as file:
        return any(n.startswith("state.") for n in file.keys())  # noqa: SIM118 (not a mapping)


# ---- explaining ------------------------------------------------------------------------------------------------------


def test_switches_compare_with_none_or_the_baseline() -> None:
    space = study().search_space()
    params = {
        "alignment.text-audio": "coral", "alignment.text-audio.coral.weight": 0.4, "fusion": "sum",
        "heads.dropout": 0.2, "optimizer.lr": 0.02,
    }  # fmt: skip
    found = {s.place: s for s in switches(space, params, {"epochs": 4})}
    assert {p: (s.chosen, s.against) for p, s in found.items()} == {
        "alignment.text-audio": ("coral", "none"), "fusion": ("sum", "concat"),
    }  # fmt: skip
    full = {**space.config(params), "epochs": 4}
    off = dict(found["alignment.text-audio"].candidate.config)
    assert off["alignment"] == {"text-audio": {"name": "none"}}
    assert {**off, "alignment": full["alignment"]} == full, "everything else is equal"
    other = dict(found["fusion"].candidate.config)
    assert other["fusion"] == {"name": "concat"} and {**other, "fusion": full["fusion"]} == full


def test_the_baseline_has_nothing_to_switch() -> None:
    assert switches(study().search_space(), tiny.BASELINE, {}) == []


def effects_of(folder: Path, winner: list[float], without: list[float | None], **changes: Any) -> list[dict[str, Any]]:
    config = study(**{"seeds": {"confirm": 4, "effects": 4}, **changes})
    space: Space = config.search_space()
    params = {**tiny.BASELINE, "fusion": "sum"}
    best = Candidate("trial 3", space.config(params))
    found = switches(space, params, {})
    seeds = confirm_seeds(config)
    filed(folder, best, config, dict(zip(seeds, winner, strict=True)))
    filed(folder, found[0].candidate, config, dict(zip(seeds, without, strict=True)))
    _, valid, _ = tiny.scaled()
    return effects(Measure(config, folder, valid), best, found)


def test_an_effect_that_is_resolved(tmp_path: Path) -> None:
    """The winner's seeds spread by 0.3, but each is better than without its module by 0.1, give or take 0.01."""
    (row,) = effects_of(tmp_path, [0.2, 0.3, 0.4, 0.5], [0.31, 0.39, 0.51, 0.59])
    assert (row["module"], row["choice"], row["against"]) == ("fusion", "sum", "concat")
    assert row["difference"]["mean"] == pytest.approx(-0.1, abs=1e-6) and row["difference"]["n"] == 4
    assert row["resolved"] and 0 < row["smallest_visible"] < 0.1
    # t-interval: 0.1 +- 3.182 * 0.01155 / 2
    assert row["sentence"].startswith("fusion sum against concat lowers MAE by 0.100 [0.082, 0.118] over 4 seeds; ")


def test_an_effect_that_is_not(tmp_path: Path) -> None:
    (row,) = effects_of(tmp_path, [0.2, 0.3, 0.4, 0.5], [0.3, 0.2, 0.5, 0.4])
    assert not row["resolved"]
    assert row["sentence"].startswith("fusion sum against concat is not resolved: MAE differs by ")
    assert row["sentence"].endswith(f"{row['smallest_visible']:.3f} was the smallest effect visible")


def test_effects_use_the_first_of_the_confirmations_seeds(tmp_path: Path) -> None:
    (row,) = effects_of(tmp_path, [0.2, 0.3, 9.0, 9.0], [0.3, 0.5, 0.0, 0.0], seeds={"confirm": 4, "effects": 2})
    assert row["difference"]["n"] == 2 and row["difference"]["mean"] == pytest.approx(-0.15, abs=1e-6)


def test_a_switch_that_failed_with_every_seed_is_left_out(tmp_path: Path) -> None:
    assert effects_of(tmp_path, [0.2, 0.3, 0.4, 0.5], [None] * 4) == []


def test_the_winners_effects(run: Run) -> None:
    known = open_study(run.opened.config, run.opened.folder)
    winner = known.get_trials()[run.record["winner"]]
    expected = {s.place for s in switches(run.opened.space, winner.params, {})}
    assert expected == {"alignment.text-audio", "fusion"}, "the fixture's winner must have modules to switch off"
    rows = run.explanation["effects"]
    assert {row["module"] for row in rows} == expected
    assert all(row["difference"]["n"] == 2 for row in rows)
    gains = [row["difference"]["mean"] for row in rows]
    assert gains == sorted(gains)
    assert explain.read_explanation(run.opened.folder.path / "confirm") == run.explanation


def test_the_way_to_the_winner_is_trained_once(run: Run) -> None:
    found = run.explanation
    folders = [p for p in (run.opened.folder.path / "confirm").iterdir() if p.is_dir()]
    assert run.members == 3 * 3 + 2 * (len(folders) - 3), "three candidates with three seeds, all others with two"
    (pair,) = found["interactions"]
    assert pair["verified"] and set(pair["modules"]) == {"alignment.text-audio", "fusion"}
    first, *_, last = found["path"]
    changes = [place for step in found["path"] for place in step["changed"]]
    assert first["changed"] == [] and sorted(changes) == ["alignment.text-audio", "fusion", "optimizer", "settings"]
    assert all(step["difference"]["n"] == 2 for step in found["path"][1:])
    gain = sum(step["difference"]["mean"] for step in found["path"][1:])
    assert gain == pytest.approx(last["value"]["mean"] - first["value"]["mean"]), "the steps lead all the way"
    assert len(folders) <= 3 + 2 + 1 + 3, "two switches, both together, and three steps between baseline and winner"


def small_study(trials: int) -> optuna.Study:
    found = optuna.create_study(direction="minimize", sampler=optuna.samplers.RandomSampler(0))
    for _ in range(trials):
        trial = found.ask()
        x, _y = trial.suggest_float("matters", 0.0, 1.0), trial.suggest_float("idle", 0.0, 1.0)
        trial.set_user_attr(POPULATION, {})
        found.tell(trial, x)
    return found


def test_importances_find_what_matters() -> None:
    found = importances(small_study(40))
    assert set(found) == {"ped_anova", "fanova"}
    for name, values in found.items():
        assert values["matters"] > 0.8 > 0.2 > values["idle"] >= 0, name
        assert math.isclose(sum(values.values()), 1.0, abs_tol=1e-6)


def test_importances_of_few_trials_say_nothing() -> None:
    assert importances(small_study(3)) == {}
    assert importances(optuna.create_study()) == {}


# ---- exporting -------------------------------------------------------------------------------------------------------


def test_files_of_the_model(run: Run) -> None:
    assert sorted(p.name for p in run.model.iterdir()) == [
        "README.md", "config.yaml", "metrics.json", "model.safetensors", "provenance.json",
    ]  # fmt: skip
    metrics = json.loads((run.model / "metrics.json").read_text(encoding="utf-8"))
    winner = next(c for c in run.record["candidates"] if c["trial"] == run.record["winner"])
    for own, whole in ((metrics["valid"], winner["valid"]), (metrics["test"], run.record["test"]["winner"])):
        assert own.keys() == whole.keys() and all(whole[m].items() >= e.items() for m, e in own.items())
    assert metrics["test_openings"] == 1 and metrics["baseline"]["test"].keys() == metrics["test"].keys()
    assert metrics["valid"]["mae"].keys() == {"mean", "std", "n", "low", "high"}
    facts = json.loads((run.model / "provenance.json").read_text(encoding="utf-8"))
    assert facts["trial"] == run.record["winner"] and facts["seeds"] == run.record["seeds"]
    assert facts["data_fingerprint"] == run.opened.data.fingerprint() and "commit" in facts
    card = (run.model / "README.md").read_text(encoding="utf-8")
    assert f"{metrics['valid']['mae']['mean']:.4f}" in card and "{" not in card


def test_a_model_read_back_predicts_what_was_filed(run: Run) -> None:
    model = export.read_model(run.model)
    filed = load(run.opened.folder.path / "confirm", candidate(run.opened, run.record["winner"]), run.record["seeds"])
    raw = run.opened.data.split("valid")
    found = model.predict(raw)
    assert found.shape == (3, 32)
    np.testing.assert_allclose(found, filed.predictions, rtol=0, atol=1e-5)
    assert model.modalities == ("text", "audio"), "of a data set that has vision too"
    assert not np.allclose(run.opened.valid.features["text"], raw.features["text"]), "the model scales by itself"


def test_verify_reproduces(run: Run) -> None:
    found = export.verify(run.model, None, None)
    assert found["seeds"] == run.record["seeds"] and found["reproduced"]
    assert found["largest_difference"] < 1e-4
    entry = next(c for c in run.record["candidates"] if c["trial"] == run.record["winner"])["valid"]["mae"]
    assert float(np.mean(found["recorded"])) == pytest.approx(entry["mean"], abs=1e-5)
    assert len(export.verify(run.model, None, 1)["again"]) == 1


def test_verify_sees_another_model(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "best"
    shutil.copytree(run.model, copy)
    facts = json.loads((copy / "provenance.json").read_text(encoding="utf-8"))
    (copy / "provenance.json").write_text(json.dumps({**facts, "seeds": [1, 2, 3]}), encoding="utf-8")
    found = export.verify(copy, None, None)
    assert not found["reproduced"] and found["largest_difference"] > 1e-3


def test_verify_does_not_take_a_failed_member_for_reproduced(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    true = export.fit

    def fit(*args: Any, **kwargs: Any) -> Any:
        done = true(*args, **kwargs)
        done.runs[-1].value = float("nan")
        return done

    monkeypatch.setattr(export, "fit", fit)
    assert not export.verify(run.model, None, None)["reproduced"]


def test_verify_refuses_other_data(run: Run, tmp_path: Path) -> None:
    write_planted(tmp_path / "other.npz", 1, train=64, valid=32, test=32)
    with pytest.raises(UserError, match="is not the data this model was trained on; give that file with --data"):
        export.verify(run.model, str(tmp_path / "other.npz"), None)


@pytest.mark.parametrize(("name", "text", "message"), [
    ("config.yaml", None, "no model is here .config.yaml is missing"),
    ("model.safetensors", None, "no model is here .model.safetensors is missing"),
    ("model.safetensors", "garbage" * 9, "the model is damaged"),
    ("provenance.json", "{", "cannot be read as JSON .*export it again"),
])  # fmt: skip
def test_a_model_folder_that_is_not_whole(run: Run, tmp_path: Path, name: str, text: str | None, message: str) -> None:
    copy = tmp_path / "best"
    shutil.copytree(run.model, copy)
    (copy / name).unlink()
    if text is not None:
        (copy / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        export.read_model(copy)


# ---- opening ---------------------------------------------------------------------------------------------------------


def test_a_run_whose_data_changed_is_refused(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.opened.folder.path, tmp_path / "out")
    write_planted(tmp_path / "other.npz", 1, train=64, valid=32, test=32)
    with pytest.raises(UserError, match="the data has changed since the run"):
        pipeline.open_run(tmp_path / "out", [f"data.path={tmp_path / 'other.npz'}"])


def test_hyperband_is_refused_where_trials_must_not_depend_on_speed(run: Run) -> None:
    opened = replace(run.opened, config=run.opened.config.model_copy(update={"pruner": "hyperband"}))
    with pytest.raises(UserError, match=r"hyperband .* cannot be --deterministic; take rungs"):
        pipeline.run(opened, True, lambda _: None)


def test_a_study_in_which_nothing_finished(run: Run, tmp_path: Path) -> None:
    config = study(
        budget={"trials": 2}, data=run.opened.config.data.model_dump(), population=2,
        space=tiny.space("optimizer.lr", 1.0e30), pruner="none",
    )  # fmt: skip
    write_yaml(tmp_path / "study.yaml", config.resolved())
    opened = pipeline.open_new(config, tmp_path / "study.yaml", tmp_path / "out")
    with pytest.raises(pipeline.NothingFinishedError, match=r"no trial finished: \d+ x .*not finite at epoch 1"):
        pipeline.search(opened, Inline().engine, deterministic=False)
    opened.folder.release()
