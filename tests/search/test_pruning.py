"""The rung pruner against studies made by hand and a slow loop, and every pruner that a study file can name."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any, get_args

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.pareto import ranks
from search.pruning import RungPruner, Scope, make_pruner
from search.study import StudyConfig
from search.trials import BASELINE, COST, ORIGIN, POPULATION, sign
from tests.search.tiny import study

PRUNERS = get_args(StudyConfig.model_fields["pruner"].annotation)


def made(
    values: Mapping[str, Mapping[int, float]], direction: str = "minimize", baseline: str | None = None
) -> optuna.Study:
    """Return a study of running trials; names like ``a1`` are a population (``a``) and which of it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = optuna.create_study(direction=direction)
    for name, reported in values.items():
        attrs: dict[str, Any] = {POPULATION: {"name": name[0]}}
        if name == baseline:
            attrs[ORIGIN] = BASELINE
        found.add_trial(
            create_trial(state=TrialState.RUNNING, intermediate_values=dict(reported), user_attrs=attrs, value=None)
        )
    return found


def pruned(found: optuna.Study, epochs: tuple[int, ...] = (2, 4), keep: float = 0.5) -> set[int]:
    pruner = RungPruner(epochs, keep)
    return {t.number for t in found.get_trials() if pruner.prune(found, t)}


def at(epoch: int, *values: float, populations: str = "") -> dict[str, dict[int, float]]:
    """Return one trial per value, all of population ``a`` unless named."""
    names = populations or "a" * len(values)
    return {f"{p}{k}": {epoch: v} for k, (p, v) in enumerate(zip(names, values, strict=True))}


@pytest.mark.parametrize(
    ("keep", "weak"), [(0.5, {2, 3}), (0.25, {1, 2, 3}), (0.75, {3}), (0.3, {2, 3}), (0.01, {1, 2, 3})]
)
def test_keeps_its_share_rounded_up(keep: float, weak: set[int]) -> None:
    assert pruned(made(at(4, 0.1, 0.2, 0.3, 0.4)), keep=keep) == weak


def test_maximise_keeps_the_largest() -> None:
    assert pruned(made(at(4, 0.1, 0.2, 0.3, 0.4), "maximize")) == {0, 1}


def test_equal_values_are_kept_together() -> None:
    assert pruned(made(at(4, 0.1, 0.1, 0.1, 0.4))) == {3}


def test_nothing_happens_between_rungs() -> None:
    found = made({"a0": {3: 0.1}, "a1": {3: 0.9}, "a2": {}})
    assert pruned(found) == set()


def test_judges_at_its_last_rung_only() -> None:
    """Trial 1 was weak at epoch 2 and is good at 4; trial 2 the other way round."""
    found = made({"a0": {2: 0.1, 4: 0.1}, "a1": {2: 0.9, 4: 0.2}, "a2": {2: 0.2, 4: 0.9}, "a3": {2: 0.8, 4: 0.8}})
    assert pruned(found) == {2, 3}


def test_the_baseline_is_never_pruned() -> None:
    values = at(4, 0.9, 0.2, 0.3, 0.4)
    assert pruned(made(values)) == {0, 3}
    assert pruned(made(values, baseline="a0")) == {3}


def test_the_best_of_a_population_goes_on_to_the_last_rung() -> None:
    """Population b is worse than all of a: its best survives the first rung, but not the last."""
    four = {"populations": "aaaabb"}
    assert pruned(made(at(2, 0.1, 0.2, 0.3, 0.4, 0.8, 0.9, **four))) == {3, 5}
    assert pruned(made(at(4, 0.1, 0.2, 0.3, 0.4, 0.8, 0.9, **four))) == {3, 4, 5}
    assert pruned(made(at(2, 0.9, 0.8, 0.7, 0.6, 0.2, 0.1, **four), "maximize")) == {3, 5}


def test_trials_of_nobody_are_one_population() -> None:
    found = made({})
    for value in (0.1, 0.2, 0.3, 0.4):
        found.add_trial(create_trial(state=TrialState.RUNNING, intermediate_values={2: value}))
    assert pruned(found) == {2, 3}


def test_a_single_trial_goes_on() -> None:
    assert pruned(made(at(4, 0.7))) == set()


def test_the_study_decides_rungs_and_share() -> None:
    pruner = make_pruner(study(rungs={"epochs": [3, 5, 9], "keep": 0.25}))
    assert isinstance(pruner, RungPruner)
    assert (pruner.epochs, pruner.keep) == ((3, 5), 0.25)


def test_a_single_rung_prunes_nothing() -> None:
    pruner = make_pruner(study(rungs={"epochs": [4]}))
    found = made(at(4, 0.1, 0.9))
    assert [pruner.prune(found, t) for t in found.get_trials()] == [False, False]


@pytest.mark.parametrize("name", PRUNERS)
def test_every_pruner_works_on_reports_at_rungs(name: str) -> None:
    """The weakest of eight is ended by every pruner but none, and the best by no pruner."""
    config = study(pruner=name, rungs={"epochs": [1, 2, 4, 8], "keep": 0.5})
    pruner = make_pruner(config)
    sampler = optuna.samplers.RandomSampler(0)
    # named, because hyperband draws brackets from the name
    found = optuna.create_study(study_name="tiny", direction="minimize", sampler=sampler)
    ended: set[int] = set()
    for number in range(8):  # each better than the next one: the first is the best
        trial = found.ask()
        for epoch in (1, 2, 4):
            trial.report(number + 1.0 / epoch, epoch)
            if pruner.prune(found, found.get_trials(deepcopy=False)[number]):
                ended.add(number)
                found.tell(number, state=TrialState.PRUNED)
                break
        else:
            found.tell(number, number + 0.1)
    assert 0 not in ended
    assert (7 in ended) == (name != "none")
    expected = {
        "rungs": "RungPruner", "median": "MedianPruner", "hyperband": "HyperbandPruner",
        "successive_halving": "SuccessiveHalvingPruner", "none": "NopPruner",
    }  # fmt: skip
    assert type(pruner).__name__ == expected[name]


# ---- kept from one look to the next ----------------------------------------------------------------------------------


def slow(found: optuna.Study, pruner: RungPruner, numbers: list[int], rung: int, scope: Scope | None) -> set[int]:
    """Return what the pruner should end, by a loop over all trials of the study."""

    def visible(t: FrozenTrial) -> bool:
        return scope is None or t.number in scope.own or t.user_attrs[POPULATION]["generation"] < scope.generation

    seen = {t.number: t for t in found.get_trials() if rung in t.intermediate_values and visible(t)}
    costs = [t.user_attrs.get(COST) for t in seen.values()]
    points = [(sign(found) * t.intermediate_values[rung], t.user_attrs.get(COST)) for t in seen.values()]
    fronts = dict(zip(seen, ranks([(v, 0.0 if None in costs else c) for v, c in points]), strict=True))
    weak = set()
    for number in numbers:
        home = seen[number].user_attrs[POPULATION]["name"]
        least = min(fronts[n] for n, t in seen.items() if t.user_attrs[POPULATION]["name"] == home)
        leads = fronts[number] == least and rung != pruner.epochs[-1]
        baseline = seen[number].user_attrs.get(ORIGIN) == BASELINE
        better = sum(front < fronts[number] for front in fronts.values())
        if not leads and not baseline and better >= math.ceil(pruner.keep * len(seen)):
            weak.add(number)
    return weak


def place(name: str, generation: int) -> dict[str, Any]:
    return {POPULATION: {"name": name, "generation": generation}}


@pytest.mark.parametrize("directions", [("minimize",), ("maximize",), ("minimize", "minimize")])
@pytest.mark.parametrize("scoped", [False, True])
def test_is_a_loop_over_all_trials_however_they_come_and_end(directions: tuple[str, ...], scoped: bool) -> None:
    """Populations of three side by side, whose trials report, end, and come to another population as one is halved."""
    rng = random.Random(0)
    found = optuna.create_study(directions=directions)
    pruner = RungPruner((1, 2, 4), 0.4)
    running: list[tuple[Scope, list[int]]] = []
    asked = ended = 0
    while asked < 90 or running:
        if asked < 90 and len(running) < 4:
            generation = asked // 9
            own = [asked, asked + 1, asked + 2]
            for n in own:
                attributes = place(f"p{asked}", generation) | ({COST: n % 3} if len(directions) > 1 else {})
                found.add_trial(create_trial(state=TrialState.RUNNING, user_attrs=attributes))
            running.append((Scope(generation, frozenset(own)), own))
            asked += 3
        scope, alive = running.pop(rng.randrange(len(running)))
        ids = {n: found.trials[n]._trial_id for n in alive}
        rung = pruner.epochs[len(found.trials[alive[0]].intermediate_values)]
        for n in alive:
            found._storage.set_trial_intermediate_value(ids[n], rung, rng.choice([1, 2, 3, 4]))
        if rng.random() < 0.2:
            half = place(f"half{alive[0]}", scope.generation)
            found._storage.set_trial_user_attr(ids[alive[0]], POPULATION, half[POPULATION])
        weak = pruner.weak(found, alive, rung, scope if scoped else None)
        assert weak == slow(found, pruner, alive, rung, scope if scoped else None)
        ended += len(weak)
        for n in weak:
            found.tell(n, state=TrialState.PRUNED)
        alive = [n for n in alive if n not in weak]
        if rung == pruner.epochs[-1]:
            for n in alive:
                found.tell(n, [1.0] * len(directions))
        elif alive:
            running.append((scope, alive))
    assert 20 < ended < 80


def test_a_pruner_can_be_asked_about_another_study() -> None:
    pruner = RungPruner((2, 4), 0.5)
    for values, weak in ((at(4, 0.1, 0.2), {1}), (at(4, 0.2, 0.1, 0.3), {2})):
        found = made(values)
        assert {t.number for t in found.get_trials() if pruner.prune(found, t)} == weak
