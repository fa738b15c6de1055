"""The rung pruner against studies made by hand, and every sampler and pruner that a study file can name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.sampling import RungPruner, make_pruner, make_sampler
from search.space import Space
from search.study import StudyConfig
from search.trials import BASELINE, ORIGIN, POPULATION, finished
from tests.search.tiny import study

SAMPLERS = get_args(StudyConfig.model_fields["sampler"].annotation)
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


def with_history(space: Space, trials: int = 24) -> optuna.Study:
    """Return a study with enough complete trials that every sampler has left its random start."""
    found = optuna.create_study(direction="minimize")
    source = optuna.samplers.RandomSampler(seed=0)
    found.sampler = source
    for _ in range(trials):
        trial = found.ask()
        space.sample(trial)
        found.tell(trial, trial.params["optimizer.lr"] + trial.params["heads.dropout"])
    return found


def asked(found: optuna.Study, config: StudyConfig, seed: int, fixed: Mapping[str, Any]) -> dict[str, Any]:
    found.sampler = make_sampler(config, seed, fixed)
    trial = found.ask()
    config.search_space().sample(trial)
    return dict(trial.params)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_holds_a_structure(name: str) -> None:
    config = study(sampler=name)
    space = config.search_space()
    found = with_history(space)
    for fixed in (
        {"fusion": "sum", "alignment.text-audio": "coral"},
        {"fusion": "concat", "alignment.text-audio": "none"},
    ):
        drawn = [asked(found, config, seed, fixed) for seed in range(3)]
        for params in drawn:
            assert space.structural(params) == fixed
            assert space.config(params)  # inside its domains, none missing
            assert ("alignment.text-audio.coral.weight" in params) == (fixed["alignment.text-audio"] == "coral")
        rates = {params["optimizer.lr"] for params in drawn}
        assert len(rates) == 3, "what is not fixed must vary"


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_follows_its_seed(name: str) -> None:
    config = study(sampler=name)

    def draw(seed: int) -> dict[str, Any]:
        return asked(with_history(config.search_space()), config, seed, {})

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_every_named_sampler_is_its_own() -> None:
    kinds = {name: type(make_sampler(study(sampler=name), 0, {})).__name__ for name in SAMPLERS}
    assert kinds == {
        "tpe": "PointsSampler", "random": "RandomSampler", "gp": "GPSampler", "cmaes": "CmaEsSampler",
        "nsga2": "NSGAIISampler",
    }  # fmt: skip


def test_the_first_third_is_drawn_at_random() -> None:
    """After 24 complete trials TPE models; in a study of 90 it still draws what the random start would."""
    short, long = study(sampler="tpe"), study(sampler="tpe", budget={"trials": 90})
    found = [asked(with_history(c.search_space()), c, 3, {}) for c in (short, long)]
    assert found[0] != found[1]
    nothing = asked(optuna.create_study(direction="minimize"), long, 3, {})
    assert found[1] == nothing


def test_finished_counts_every_end() -> None:
    found: list[FrozenTrial] = [
        create_trial(state=s, value=1.0 if s == TrialState.COMPLETE else None) for s in TrialState
    ]
    assert {t.state for t in finished(found)} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
