"""Optuna pruners by the names that a study file uses, the rung pruner, and which trials each may see."""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.changes import Changes
from search.pareto import ranks
from search.study import StudyConfig
from search.trials import BASELINE, COST, ORIGIN, POPULATION, by_number, losses

COLUMNS = 6
NUMBER, LOSS, EXPENSE, GENERATION, HOME, KEPT = range(COLUMNS)
"""Columns of a report at a rung: the trial, its metric as a loss, its cost (nan: not known), the generation and
population that it belongs to, and whether it is the baseline, which is kept."""


@dataclass(frozen=True)
class Scope:
    """Which trials a population of a generation may look at: those of earlier generations, and its own.

    Pruning that looks only here does not depend on how fast other workers are.
    """

    generation: int
    own: frozenset[int]


class RungPruner(optuna.pruners.BasePruner):
    """Asynchronous successive halving on a free list of rungs.

    A trial that reaches a rung goes on if it is among the best ``keep`` of all that have reached it so far. Learning
    curves of different structures cross, so the best of each population goes on in any case, up to the last rung: a
    combination is judged at its own good settings. The baseline is never pruned.

    With a cost that is known before the end, the best are those of the first fronts of metric and cost at the rung,
    whole fronts at a time: what another beats in both ends at its first rung, and what is cheapest of its kind goes on.

    What ended trials reported is kept, as it follows from the study alone: it is read once, not at every report.

    Source: Li et al., MLSys 2020, arXiv:1810.05934, algorithm 2 (stopping variant), by fronts as in Schmucker et al.,
    2021, arXiv:2106.12639, section 3, without ordering within a front; the exceptions are ours.
    """

    def __init__(self, epochs: Sequence[int], keep: float) -> None:
        self.epochs = tuple(epochs)
        self.keep = keep
        self._study: optuna.Study | None = None

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Tell whether ``trial`` should end at its last reported epoch."""
        rung = trial.last_step
        return rung is not None and bool(self.weak(study, [trial.number], rung))

    def weak(self, study: optuna.Study, numbers: Collection[int], rung: int, scope: Scope | None = None) -> set[int]:
        """Return those of ``numbers``, trials that have reported at ``rung``, which should end there."""
        if rung not in self.epochs:
            return set()
        self._look(study)
        seen = np.concatenate([np.array(self._ended[rung]), np.array(self._open[rung])]).reshape(-1, COLUMNS)
        if scope is not None:
            seen = seen[(seen[:, GENERATION] < scope.generation) | np.isin(seen[:, NUMBER], list(scope.own))]
        places = _fronts(seen)
        most = math.ceil(self.keep * len(seen))
        found = set()
        for number in numbers:
            row = int(np.flatnonzero(seen[:, NUMBER] == number)[0])
            leads = rung != self.epochs[-1] and places[row] == places[seen[:, HOME] == seen[row, HOME]].min()
            if not seen[row, KEPT] and not leads and np.count_nonzero(places < places[row]) >= most:
                found.add(number)
        return found

    def _look(self, study: optuna.Study) -> None:
        """Take note of what was reported since the last look."""
        if study is not self._study:
            self._study, self._changes = study, Changes(study)
            self._homes: dict[str | None, int] = {}
            self._ended: dict[int, array[float]] = defaultdict(lambda: array("d"))
        self._open: dict[int, array[float]] = defaultdict(lambda: array("d"))
        for trial in self._changes():
            kept = self._ended if trial.state.is_finished() else self._open
            for rung in trial.intermediate_values.keys() & {*self.epochs}:
                kept[rung].extend(self._report(study, trial, rung))

    def _report(self, study: optuna.Study, trial: FrozenTrial, rung: int) -> tuple[float, ...]:
        attributes = trial.user_attrs
        loss, _ = losses(study, trial.intermediate_values[rung], None)
        cost = attributes.get(COST)
        home = attributes.get(POPULATION, {})
        return (
            trial.number,
            loss,
            math.nan if cost is None else cost,
            home.get("generation", math.inf),
            self._homes.setdefault(home.get("name"), len(self._homes)),
            attributes.get(ORIGIN) == BASELINE,
        )


def _fronts(seen: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what orders reports: the front of metric and cost; the metric alone where a cost is not known yet."""
    if np.isnan(seen[:, EXPENSE]).any():
        return seen[:, LOSS]
    return np.array(ranks(list(zip(seen[:, LOSS].tolist(), seen[:, EXPENSE].tolist(), strict=True))), np.float64)


def weak(
    pruner: optuna.pruners.BasePruner,
    study: optuna.Study,
    numbers: Collection[int],
    rung: int,
    scope: Scope | None = None,
) -> set[int]:
    """Return those of the trials of one population, all at one rung, that a pruner ends; it sees no more than
    ``scope``."""
    if isinstance(pruner, RungPruner):
        return pruner.weak(study, numbers, rung, scope)
    view = study if scope is None else ScopedView(study, scope)
    return {n for n in numbers if pruner.prune(view, by_number(study, n))}  # type: ignore[arg-type]


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


class ScopedView:
    """The trials of a scope, as Optuna's pruners read a study."""

    def __init__(self, study: optuna.Study, scope: Scope) -> None:
        self.directions = study.directions
        self._storage = study._storage  # successive halving keeps its rungs there
        self._study = study
        self._scope = scope

    @property
    def direction(self) -> StudyDirection:
        """The metric's direction, for Optuna's pruners, which know no other objective."""
        return self.directions[0]

    def get_trials(self, deepcopy: bool = True, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
        trials = self._study.get_trials(deepcopy=deepcopy, states=None if states is None else tuple(states))
        return [t for t in trials if t.number in self._scope.own or self._earlier(t)]

    def _earlier(self, trial: FrozenTrial) -> bool:
        record = trial.user_attrs.get(POPULATION)
        return record is not None and record["generation"] < self._scope.generation
