"""Optuna samplers and pruners by the names that a study file uses, the rung pruner, and what each may see."""

from __future__ import annotations

import heapq
import math
import warnings
from bisect import bisect_left
from collections.abc import Container, Mapping, Sequence
from typing import Any, cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.pareto import ranks
from search.study import StudyConfig
from search.trials import BASELINE, COST, ORIGIN, POPULATION, Directed, is_outside, losses, sign

HISTORY = 150
"""Ended trials that TPE sees at most: with 100 it found worse ones, with 250 none that are resolved to be better
(reports/benchmarks/overhead.md)."""


class RungPruner(optuna.pruners.BasePruner):
    """Asynchronous successive halving on a free list of rungs, without state of its own.

    A trial that reaches a rung goes on if it is among the best ``keep`` of all that have reached it so far. Learning
    curves of different structures cross, so the best of each population goes on in any case, up to the last rung: a
    combination is judged at its own good settings. The baseline is never pruned.

    With a cost that is known before the end, the best are those of the first fronts of metric and cost at the rung,
    whole fronts at a time: what another beats in both ends at its first rung, and what is cheapest of its kind goes on.

    Source: Li et al., MLSys 2020, arXiv:1810.05934, algorithm 2 (stopping variant), by fronts as in Schmucker et al.,
    2021, arXiv:2106.12639, section 3, without ordering within a front; the exceptions are ours.
    """

    def __init__(self, epochs: Sequence[int], keep: float) -> None:
        self.epochs = tuple(epochs)
        self.keep = keep

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Tell whether ``trial`` should end at its last reported epoch."""
        return trial.number in self.weak(study, [trial])

    def weak(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> set[int]:
        """Return the numbers of those of ``trials``, all at one rung, that should end there."""
        rung = trials[0].last_step if trials else None
        if rung is None or rung not in self.epochs:
            return set()
        seen = [t for t in study.get_trials(deepcopy=False) if rung in t.intermediate_values]
        fronts = _fronts(study, seen, rung)
        own = {t.number: front for t, front in zip(seen, fronts, strict=True)}
        ordered = sorted(fronts)
        least: dict[str | None, int] = {}
        for t, front in zip(seen, fronts, strict=True):
            least[_population(t)] = min(front, least.get(_population(t), front))
        found = set()
        for trial in trials:
            mine = own[trial.number]
            leads = rung != self.epochs[-1] and least[_population(trial)] == mine
            if trial.user_attrs.get(ORIGIN) == BASELINE or leads:
                continue
            if bisect_left(ordered, mine) >= math.ceil(self.keep * len(seen)):
                found.add(trial.number)
        return found


def weak(pruner: optuna.pruners.BasePruner, study: optuna.Study, trials: Sequence[FrozenTrial]) -> set[int]:
    """Return the numbers of the trials of one population, all at one rung, that a pruner ends."""
    if isinstance(pruner, RungPruner):
        return pruner.weak(study, trials)
    return {t.number for t in trials if pruner.prune(study, t)}


def _fronts(study: Directed, trials: Sequence[FrozenTrial], rung: int) -> list[int]:
    """Return every trial's front of metric and cost at a rung; by the metric alone where the cost of one is not known
    yet."""
    costs = [t.user_attrs.get(COST) for t in trials]
    values = [t.intermediate_values[rung] for t in trials]
    if None not in costs:
        return ranks([losses(study, value, cost) for value, cost in zip(values, costs, strict=True)])
    loss = sign(study) * np.array(values)
    order: list[int] = np.unique(np.where(np.isnan(loss), np.inf, loss), return_inverse=True)[1].tolist()
    return order


def make_pruner(config: StudyConfig) -> optuna.pruners.BasePruner:
    """Return the study's pruner; the last rung ends a trial and prunes nothing."""
    rungs = config.rungs.epochs
    if config.pruner == "rungs":
        return RungPruner(rungs[:-1], config.rungs.keep)
    if config.pruner == "median":
        return optuna.pruners.MedianPruner(n_warmup_steps=rungs[0] - 1)
    if config.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=rungs[0], max_resource=rungs[-1])
    if config.pruner == "successive_halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=rungs[0])
    return optuna.pruners.NopPruner()


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
        if name == "tpe" or config.baseline is not None or config.objective.cost is not None:
            sampler = PointsSampler(sampler, most_seen(config), view)
        return optuna.samplers.PartialFixedSampler(dict(fixed), sampler) if fixed else sampler


def most_seen(config: StudyConfig) -> int | None:
    """Return how many ended trials the study's sampler sees at most; None for all."""
    return HISTORY if config.sampler == "tpe" else None


def writes_nothing(config: StudyConfig) -> bool:
    """Tell whether the study's sampler keeps nothing in the storage: it can draw a trial before there is one."""
    return config.sampler in ("tpe", "random")


class PointsSampler(optuna.samplers.BaseSampler):
    """Asks another sampler, which sees the trials that are points of the space, and of many only the telling ones.

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
        if self._most is None:  # TPE, which sees a part, keeps nothing of a trial's end
            self._sampler.after_trial(cast(optuna.Study, View(study, None)), trial, state, values)

    def reseed_rng(self) -> None:
        self._sampler.reseed_rng()

    def _seen(self, study: optuna.Study) -> optuna.Study:
        if self._view is None:
            self._view = View(study, self._most)
        return cast(optuna.Study, self._view)


class View:
    """A study at one moment, without the trials from outside the space: what a sampler reads of it, and where it keeps
    its notes. It is made once for all trials of a population, as it costs more the longer a study is."""

    def __init__(self, study: optuna.Study, most: int | None) -> None:
        self._study = study
        self.direction = study.directions[0]
        known = study.get_trials(deepcopy=False)
        self.count = len(known)
        self.waiting = sum(t.state == TrialState.WAITING for t in known)
        points = [t for t in known if not is_outside(t)]
        self._trials = points if most is None else telling(points, sign(study), most)

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


def telling(trials: Sequence[FrozenTrial], sign: float, most: int) -> list[FrozenTrial]:
    """Return at most ``most`` of the trials that have ended, in their order: the best by the metric, a quarter, and an
    even choice of the others; and all that have not ended."""
    ended = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    if len(ended) <= most:
        return list(trials)
    complete = [t for t in ended if t.state == TrialState.COMPLETE]
    best = {t.number for t in heapq.nsmallest(most // 4, complete, key=lambda t: sign * t.values[0])}
    others = [t.number for t in ended if t.number not in best]
    picked = {others[int(i)] for i in np.linspace(0, len(others) - 1, most - len(best))}
    kept = best | picked
    return [t for t in trials if t.number in kept or t.state in (TrialState.RUNNING, TrialState.WAITING)]


def _population(trial: FrozenTrial) -> str | None:
    record = trial.user_attrs.get(POPULATION)
    return None if record is None else str(record["name"])


class GenerationView:
    """The study as a population of a generation may see it: what earlier generations left, and itself.

    Pruning that looks only here does not depend on how fast other workers are.
    """

    def __init__(self, study: optuna.Study, generation: int, own: set[int]) -> None:
        self.directions = study.directions
        self._storage = study._storage  # successive halving keeps its rungs there
        self._study = study
        self._generation = generation
        self._own = own

    @property
    def direction(self) -> StudyDirection:
        """The metric's direction, for Optuna's pruners, which know no other objective."""
        return self.directions[0]

    def get_trials(self, deepcopy: bool = True, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
        trials = self._study.get_trials(deepcopy=deepcopy, states=None if states is None else tuple(states))
        return [t for t in trials if t.number in self._own or self._earlier(t)]

    def _earlier(self, trial: FrozenTrial) -> bool:
        record = trial.user_attrs.get(POPULATION)
        return record is not None and record["generation"] < self._generation
