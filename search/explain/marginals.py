"""What the trials suggest about one setting at a time: curves of numbers, and means of arms, by the surrogate."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from search.configs import modules
from search.explain.sample import sampled
from search.explain.surrogate import Matrix, Surrogate, config_path, flat
from search.explain.switches import completed
from search.nodes import Arms, FloatRange
from search.space import Space
from search.trials import CONFIG, configuration, finished, is_outside, score

CURVES = 8
"""Curves that are kept: those along which the metric is predicted to change most."""
POINTS = 20
BAND = (2.5, 97.5)
"""Percentiles over the trees: each was grown on one bootstrap sample of the trials."""


@dataclass(frozen=True)
class Trials:
    """The trials of a study that have ended; ``epochs`` is what a complete one was trained for."""

    ended: Sequence[FrozenTrial]
    space: Space
    epochs: int

    @cached_property
    def complete(self) -> list[FrozenTrial]:
        return [t for t in finished(self.ended) if t.state == TrialState.COMPLETE]

    @cached_property
    def sample(self) -> list[FrozenTrial]:
        """The complete trials that the surrogate is made from."""
        return sampled(self.complete)

    @cached_property
    def configs(self) -> list[dict[str, Any]]:
        """The configurations of the sample."""
        return [configuration(t, self.space, self.epochs) for t in self.sample]

    @cached_property
    def values(self) -> list[float]:
        """The metric of the sample."""
        return [value for t in self.sample if (value := score(t)) is not None]

    def names(self, winner: FrozenTrial) -> list[str]:
        """Return the winner's parameters, or those that all complete trials have where it is outside the space."""
        if not is_outside(winner):
            return list(winner.params)
        inside = [t.params for t in self.complete if not is_outside(t)]
        return [name for name in (inside[0] if inside else {}) if all(name in params for params in inside)]


def marginals(trials: Trials, surrogate: Surrogate, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return how the predicted metric changes along the float parameters among ``names``, the largest change first.

    Everything else stays at the values of the trials that have the parameter (of that arm, therefore), over which the
    mean is taken; ``points`` are these trials with their own values.

    Source: Friedman, Annals of Statistics 2001, section 8.2 (partial dependence).
    """
    matrix, leaves = _matrix(trials, surrogate), trials.space.leaves()
    curves = []
    for name in names:
        leaf, column = leaves[name], (config_path(trials.space, name), None)
        with_it = [k for k, t in enumerate(trials.sample) if name in t.params]
        if not isinstance(leaf, FloatRange) or column not in surrogate.columns or not with_it:
            continue
        grid = np.geomspace(leaf.low, leaf.high, POINTS) if leaf.log else np.linspace(leaf.low, leaf.high, POINTS)
        x = np.repeat(matrix[with_it][None], POINTS, 0)
        x[:, :, surrogate.columns.index(column)] = [[surrogate.value(column[0], v)] for v in grid]
        mean, low, high = _band(surrogate, x)
        points = [[float(trials.sample[k].params[name]), trials.values[k]] for k in with_it]
        curve = {"parameter": name, "log": leaf.log, "x": grid.tolist()}
        curves.append({**curve, "mean": mean.tolist(), "low": low.tolist(), "high": high.tolist(), "points": points})
    return sorted(curves, key=lambda c: min(c["mean"]) - max(c["mean"]))[:CURVES]


def arms(trials: Trials, surrogate: Surrogate, sign: float) -> list[dict[str, Any]]:
    """Return every arm of every choice between plug-ins: its trials, the best value and the predicted mean with a band.

    The mean is over the sample, each trial with that arm in the place of its own; the arm comes with the settings of
    those that have it, in turn. An arm that no trial of the sample has has no mean.
    """
    matrix, table = _matrix(trials, surrogate), []
    for place, leaf in trials.space.leaves().items():
        if not isinstance(leaf, Arms):
            continue
        at = config_path(trials.space, place).removesuffix(".name")
        tried = Counter(_arm(t, place) for t in finished(trials.ended))
        reached: dict[Any, list[float]] = defaultdict(list)
        for t in trials.complete:
            reached[_arm(t, place)] += [value for value in [score(t)] if value is not None]
        own = [_arm(t, place) for t in trials.sample]
        block = [k for k, (path, _) in enumerate(surrogate.columns) if path == at or path.startswith(f"{at}.")]
        for arm in leaf.arms:
            values = reached[arm]
            row: dict[str, Any] = {"place": place, "arm": arm, "trials": tried[arm], "complete": len(values)}
            row |= {"best": min(values, key=lambda v: sign * v, default=None)}
            donors = [k for k, other in enumerate(own) if other == arm]
            table.append({**row, **_swapped(surrogate, matrix, block, donors)})
    return table


def _matrix(trials: Trials, surrogate: Surrogate) -> NDArray[np.float32]:
    """Return the columns [row, column] of the sample, as trees read them."""
    return surrogate.matrix([flat(completed(c)) for c in trials.configs]).astype(np.float32)


def _swapped(
    surrogate: Surrogate, matrix: NDArray[np.float32], block: Sequence[int], donors: Sequence[int]
) -> dict[str, Any]:
    if not donors:
        return dict.fromkeys(("mean", "low", "high"))
    x = matrix.copy()
    x[:, block] = matrix[np.resize(donors, len(matrix))][:, block]
    mean, low, high = _band(surrogate, x[None])
    return {"mean": float(mean[0]), "low": float(low[0]), "high": float(high[0])}


def _band(surrogate: Surrogate, x: NDArray[np.float32]) -> tuple[Matrix, Matrix, Matrix]:
    """Return the mean [point] over rows and trees of columns [point, row, column], with the band over the trees."""
    points, rows = x.shape[:2]
    each = surrogate.each_tree(x.reshape(points * rows, -1))
    trees = np.stack([values.reshape(points, rows).mean(1) for values in each])  # one after another: all take much room
    low, high = np.percentile(trees, BAND, axis=0)
    return trees.mean(0), low, high


def _arm(trial: FrozenTrial, place: str) -> Any:
    """Return the arm that a trial chose, or None where it had no choice."""
    if is_outside(trial):
        return modules(trial.user_attrs[CONFIG]).get(place)
    return trial.params.get(place)
