"""Optuna samplers and pruners by the names that a study file uses, and the rung pruner."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.study import StudyConfig


class RungPruner(optuna.pruners.BasePruner):
    """Asynchronous successive halving on a free list of rungs, without state of its own.

    A trial that reaches a rung goes on if it is among the best ``keep`` of all that have reached it so far.

    Source: Li et al., MLSys 2020, arXiv:1810.05934, algorithm 2 (stopping variant).
    """

    def __init__(self, epochs: Sequence[int], keep: float) -> None:
        self.epochs = frozenset(epochs)
        self.keep = keep

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Tell whether ``trial`` should end at its last reported epoch."""
        rung = trial.last_step
        if rung is None or rung not in self.epochs:
            return False
        seen = [t.intermediate_values[rung] for t in study.get_trials(deepcopy=False) if rung in t.intermediate_values]
        sign = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0
        mine = trial.intermediate_values[rung]
        better = sum(sign * (value - mine) < 0 for value in seen)
        return better >= math.ceil(self.keep * max(len(seen), 1))


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


def make_sampler(name: str, seed: int, fixed: Mapping[str, Any]) -> optuna.samplers.BaseSampler:
    """Return the sampler ``name`` with the parameters in ``fixed`` held.

    TPE runs with ``multivariate=False, constant_liar=True``: with many trials asked before any is told, Optuna's default
    did worse than random search.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler: optuna.samplers.BaseSampler
        if name == "tpe":
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=False, constant_liar=True)
        elif name == "gp":
            sampler = optuna.samplers.GPSampler(seed=seed)
        elif name == "cmaes":
            sampler = optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        elif name == "nsga2":
            sampler = optuna.samplers.NSGAIISampler(seed=seed)
        else:
            sampler = optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.PartialFixedSampler(dict(fixed), sampler) if fixed else sampler


def finished(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that have ended, in whatever way."""
    return [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)]
