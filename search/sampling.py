"""Optuna samplers by the names that a study file uses, and what they see of a study."""

from __future__ import annotations

import warnings
from bisect import bisect_left, insort
from collections.abc import Container, Mapping, Sequence
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from search.changes import Changes
from search.study import StudyConfig
from search.trials import is_added, is_outside, sign

HISTORY = 150
"""Ended trials that TPE sees at most: with 100 it found worse ones, with 250 none that are resolved to be better
(reports/benchmarks/overhead.md)."""


def make_sampler(
    config: StudyConfig, seed: int, fixed: Mapping[str, Any], view: View | None = None
) -> optuna.samplers.BaseSampler:
    """Return the study's sampler with the parameters in ``fixed`` held; it reads the study from ``view``, if given.

    The first third of a study, but not more than ``HISTORY`` trials, is drawn at random, so that structures are seen
    before they are judged. TPE runs with
    ``multivariate=False, constant_liar=True``: with many trials asked before any is told, Optuna's default did worse
    than random search.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler: optuna.samplers.BaseSampler
        name, startup = config.sampler, min(max(10, config.budget.trials // 3), HISTORY)
        if name == "tpe":
            sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=startup, multivariate=False, constant_liar=True
            )
        elif name == "gp":
            sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
        elif name == "cmaes":
            sampler = optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
        elif name == "nsga2":
            sampler = optuna.samplers.NSGAIISampler(seed=seed)
        else:
            sampler = optuna.samplers.RandomSampler(seed=seed)
        if name != "random":
            sampler = PointsSampler(sampler, most_seen(config), view)
        return optuna.samplers.PartialFixedSampler(dict(fixed), sampler) if fixed else sampler


def most_seen(config: StudyConfig) -> int | None:
    """Return how many ended trials the study's sampler sees at most; None for all. Random draws look at none."""
    return {"tpe": HISTORY, "random": 0}.get(config.sampler)


def writes_nothing(config: StudyConfig) -> bool:
    """Tell whether the study's sampler keeps nothing in the storage: it can draw a trial before there is one."""
    return config.sampler in ("tpe", "random")


class PointsSampler(optuna.samplers.BaseSampler):
    """Asks another sampler, which sees the trials that are points of the space, and of many only the telling ones.

    What other tools added to the study need not be a point, and is left out.

    Optuna's relative samplers (GP, CMA-ES, NSGA-II) model the parameters that every complete trial has. A baseline from
    outside the space has none, so that they would fall back to random draws for the whole study. TPE orders pruned
    trials by their last rung's metric and asks for the study's one direction then: it is told the metric's. It also
    sorts all trials for every parameter that it draws, although it takes few for good ones and needs of the others
    their density: with ``most`` it sees the best, and an even choice of the rest.

    One instance draws one trial; ``view`` is what it sees of the study, where the caller has that already.
    """

    def __init__(self, sampler: optuna.samplers.BaseSampler, most: int | None, view: View | None = None) -> None:
        self._sampler = sampler
        self._most = most
        self._view = view

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(self._seen(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(self._seen(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(self._seen(study), trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(self._seen(study), trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        if self._most is None:  # who sees a part, keeps nothing of a trial's end
            self._sampler.after_trial(cast(optuna.Study, Sight(study, None).view()), trial, state, values)

    def reseed_rng(self) -> None:
        self._sampler.reseed_rng()

    def _seen(self, study: optuna.Study) -> optuna.Study:
        if self._view is None:
            self._view = Sight(study, self._most).view()
        return cast(optuna.Study, self._view)


class Sight:
    """What a sampler may see of a study: the trials that are points of the space; of those that have ended at most
    ``most``, the best by the metric, a quarter, and an even choice of the others. What has ended is read once."""

    def __init__(self, study: optuna.Study, most: int | None) -> None:
        self._study = study
        self._most = most
        self._changes = Changes(study)
        self._sign = sign(study)
        self._begun = 0
        self._ended: list[FrozenTrial] = []
        self._best: list[tuple[float, int]] = []

    def view(self) -> View:
        """Return what a sampler may see now."""
        changed = self._changes()
        self._begun += sum(t.state.is_finished() for t in changed)
        points = [t for t in changed if not is_outside(t) and not is_added(t)]
        for trial in points:
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
                insort(self._ended, trial, key=_number)
            if trial.state == TrialState.COMPLETE and self._most is not None:
                insort(self._best, (self._sign * trial.values[0], trial.number))
                del self._best[self._most // 4 :]
        pending = [t for t in changed if not t.state.is_finished()]
        seen = sorted([*self._telling(), *(t for t in pending if not is_outside(t))], key=_number)
        waiting = sum(t.state == TrialState.WAITING for t in pending)
        return View(self._study, self._begun + len(pending), waiting, seen)

    def _telling(self) -> list[FrozenTrial]:
        ended, most = self._ended, self._most
        if most is None or len(ended) <= most:
            return ended
        best = [bisect_left(ended, number, key=_number) for _, number in self._best]
        others = np.delete(np.arange(len(ended)), best)
        even = others[np.linspace(0, len(others) - 1, most - len(best)).astype(int)]
        return [ended[k] for k in (*best, *even.tolist())]


class View:
    """A study at one moment: what a sampler reads of it, and where it keeps its notes. It is made once for all trials
    of a population."""

    def __init__(self, study: optuna.Study, count: int, waiting: int, trials: list[FrozenTrial]) -> None:
        """``count`` is the number of all trials, ``waiting`` of those that were enqueued and not asked for yet;
        ``trials`` are seen, in their order."""
        self._study = study
        self.direction = study.directions[0]
        self.count = count
        self.waiting = waiting
        self._trials = trials

    def add(self, trial: FrozenTrial) -> None:
        """Take note of a trial that was asked for since."""
        self.count += 1
        if not is_outside(trial):
            self._trials.append(trial)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        return self._get_trials(deepcopy, states)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [t for t in self._trials if states is None or t.state in states]


def _number(trial: FrozenTrial) -> int:
    return trial.number
