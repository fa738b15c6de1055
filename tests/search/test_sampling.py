"""Every sampler that a study file can name, and what it sees of a study."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.sampling import PointsSampler, Sight, make_sampler
from search.space import Space
from search.study import StudyConfig
from search.trials import CONFIG, POPULATION, finished, is_added, is_outside, sign
from tests.search.tiny import study

SAMPLERS = get_args(StudyConfig.model_fields["sampler"].annotation)


def with_history(space: Space, trials: int = 24) -> optuna.Study:
    """Return a study with enough complete trials that every sampler has left its random start."""
    found = optuna.create_study(direction="minimize")
    source = optuna.samplers.RandomSampler(seed=0)
    found.sampler = source
    for _ in range(trials):
        trial = found.ask()
        space.sample(trial)
        trial.set_user_attr(POPULATION, {})
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
    made = {name: make_sampler(study(sampler=name), 0, {}) for name in SAMPLERS}
    kinds = {n: type(s._sampler if isinstance(s, PointsSampler) else s).__name__ for n, s in made.items()}
    assert kinds == {
        "tpe": "TPESampler", "random": "RandomSampler", "gp": "GPSampler", "cmaes": "CmaEsSampler",
        "nsga2": "NSGAIISampler",
    }  # fmt: skip


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_sampler_learns_from_what_other_tools_added(name: str) -> None:
    """Their parameters need not be of the space: an empty trial, another range, and another kind of parameter."""
    config = study(sampler=name)
    found = [with_history(config.search_space()) for _ in range(2)]
    other = {"optimizer.lr": FloatDistribution(0.0, 9.0), "heads.dropout": IntDistribution(0, 9)}
    for params in ({}, {"optimizer.lr": 7.5}, {"heads.dropout": 3}):
        distributions = {key: other[key] for key in params}
        found[1].add_trial(create_trial(value=-1.0, params=params, distributions=distributions))
    assert asked(found[0], config, 3, {}).keys() == asked(found[1], config, 3, {}).keys()
    if name in ("tpe", "gp"):  # the others' draws depend on how many trials there are
        assert asked(found[0], config, 4, {}) == asked(found[1], config, 4, {})


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


def whole(found: optuna.Study, most: int | None) -> list[int]:
    """Return the trials that a sampler should see, in one look at all of them."""
    points = [t for t in found.get_trials() if not is_outside(t) and not is_added(t)]
    ended = [t for t in points if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    pending = [t.number for t in points if not t.state.is_finished()]
    if most is None or len(ended) <= most:
        return sorted([t.number for t in ended] + pending)
    complete = [t for t in ended if t.state == TrialState.COMPLETE]
    best = [t.number for t in sorted(complete, key=lambda t: (sign(found) * t.values[0], t.number))[: most // 4]]
    others = [t.number for t in ended if t.number not in best]
    return sorted([*best, *(others[int(i)] for i in np.linspace(0, len(others) - 1, most - len(best))), *pending])


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("most", [None, 0, 20])
def test_what_is_seen_is_the_same_as_in_one_look(direction: str, most: int | None) -> None:
    rng = random.Random(0)
    found = optuna.create_study(direction=direction)
    sight = Sight(found, most)
    for number in range(120):
        own = {} if number % 11 == 5 else {POPULATION: {}}  # every eleventh is of another tool
        outside = {CONFIG: {}} if number % 7 == 3 else {}
        found.add_trial(create_trial(state=TrialState.RUNNING, user_attrs={**own, **outside}))
        running = [t.number for t in found.get_trials() if t.state == TrialState.RUNNING]
        for n in running if rng.random() < 0.2 else []:
            state = rng.choice([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
            found.tell(n, float(rng.randrange(20)) if state == TrialState.COMPLETE else None, state)
        if number == 100:
            found.enqueue_trial({})
        if rng.random() < 0.5:
            view = sight.view()
            assert [t.number for t in view.get_trials()] == whole(found, most)
            assert (view.count, view.waiting) == (len(found.trials), int(number >= 100))
