"""Functional ANOVA of a random forest: which share of its predictions' variance each parameter explains alone.

The forest, its encoding and the shares are those of Optuna's evaluator, whose way to a marginal doubles with every arm
of a choice: minutes from 300 trials on, where choices have 18 arms. Here the leaves of a tree are compared in pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.search_space import intersection_search_space
from optuna.trial import FrozenTrial

TREES, DEPTH = 64, 64
FEW = 64
"""Leaves that are not worth a look for equal ones."""

Array = NDArray[np.float64]


def fanova(trials: Sequence[FrozenTrial], seed: int = 0) -> dict[str, float]:
    """Return the shares of the parameters that all trials have; one that has a single value has none of the variance.

    Trials whose value is not finite are left out. Nothing is returned where the forest has no variance; where no
    parameter explains any of it alone, all have the same share.

    Source: Hutter et al., ICML 2014, with a forest of scikit-learn's as in Optuna's ``FanovaImportanceEvaluator``.
    """
    from sklearn import config_context  # slow to import, and needed after the search only
    from sklearn.ensemble import RandomForestRegressor

    known = [(t, t.value) for t in trials if t.value is not None and np.isfinite(t.value)]
    space = intersection_search_space(list(trials))
    varied = {name: d for name, d in space.items() if not d.single()}
    if not varied or len(known) < 2:
        return _normalized(dict.fromkeys(space, 0.0))
    forest = RandomForestRegressor(TREES, max_depth=DEPTH, random_state=seed)
    with config_context(skip_parameter_validation=True):  # of 64 trees, each as long as a small one's growth
        forest.fit(_encoded([t.params for t, _ in known], varied), np.array([value for _, value in known]))
    bounds, owners = _bounds(varied)
    fractions = [f for tree in forest.estimators_ if (f := _fractions(tree.tree_, bounds, owners)) is not None]
    if not fractions:
        return {}
    own: list[float] = np.mean(fractions, axis=0).tolist()
    return _normalized({**dict.fromkeys(space, 0.0), **dict(zip(varied, own, strict=True))})


@dataclass(frozen=True)
class Leaves:
    """The leaves of a tree: what each predicts, and the box [leaf, column] of the search space where it does, in the
    columns that the tree splits."""

    columns: NDArray[np.int64]
    values: Array
    low: Array
    high: Array

    @staticmethod
    def of(tree: Any, space: Array) -> Leaves:
        """Return the leaves of a fitted tree over a space with these bounds [column, 2]."""
        columns = np.unique(tree.feature[tree.feature >= 0])
        bounds, features = space[columns], np.searchsorted(columns, tree.feature)
        low, high = (np.repeat(bounds[None, :, k], tree.node_count, 0) for k in (0, 1))
        level = np.array([0])
        while len(level := level[tree.children_left[level] >= 0]):
            left, right, split = tree.children_left[level], tree.children_right[level], features[level]
            for child in (left, right):
                low[child], high[child] = low[level], high[level]
            high[left, split] = low[right, split] = tree.threshold[level]
            level = np.concatenate([left, right])
        ends = tree.children_left < 0
        return Leaves(columns, tree.value[ends, 0, 0].astype(np.float64), low[ends], high[ends])


def _fractions(tree: Any, space: Array, owners: NDArray[np.int64]) -> Array | None:
    """Return the share [parameter] of a tree's variance that each parameter explains alone; None where it has none.

    ``space`` has the bounds [column, 2] of the columns, ``owners`` [column] the parameter that each belongs to.
    """
    leaves = Leaves.of(tree, space)
    bounds, owner = space[leaves.columns], owners[leaves.columns]
    sizes = (leaves.high - leaves.low) / (bounds[:, 1] - bounds[:, 0])
    weights = sizes.prod(1)
    values = leaves.values - weights @ leaves.values / weights.sum()
    variance = float(weights @ values**2 / weights.sum())
    if variance <= 0:
        return None
    parts = np.zeros(int(owners.max()) + 1)
    for parameter in np.unique(owner):
        first, end = np.searchsorted(owner, [parameter, parameter + 1])
        kept, low, high = (part[:, first:end] for part in (sizes, leaves.low, leaves.high))
        terms = values * weights / kept.prod(1)
        if np.count_nonzero(owners == parameter) == 1:
            parts[parameter] = _of_number(low[:, 0], high[:, 0], bounds[first], terms)
        else:
            parts[parameter] = _of_choice(kept, low, terms)
    return parts / variance


def _of_number(low: Array, high: Array, bounds: Array, terms: Array) -> float:
    """Return the variance along one column of the sum of ``terms`` [leaf] over the leaves that reach a point."""
    edges = np.sort(np.concatenate([bounds, low, high]))  # equal ones are parts without a length
    steps = np.zeros(len(edges))
    np.add.at(steps, np.searchsorted(edges, low), terms)
    np.add.at(steps, np.searchsorted(edges, high), -terms)
    share = np.diff(edges) / (bounds[1] - bounds[0])
    course = np.cumsum(steps)[:-1]
    return float(share @ (course - share @ course) ** 2)


def _of_choice(sizes: Array, low: Array, terms: Array) -> float:
    """Return the variance over the corners of a choice's columns of the sum of ``terms`` over the leaves that hold a
    corner.

    A leaf holds half of the corners for every column that it splits. Two leaves share those of both, or none where they
    split a column apart; so the variance is a sum over pairs of leaves, equal ones taken together.
    """
    split, upper = sizes < 1, low > 0
    if len(terms) > FEW:
        marks = np.packbits(np.concatenate([split, upper], 1), axis=1)
        _, first, place = np.unique(marks, axis=0, return_index=True, return_inverse=True)
        terms = np.bincount(place.ravel(), terms).astype(np.float64)
        split, upper = split[first], upper[first]
    ones, zeros = (split & upper).astype(np.float64), (split & ~upper).astype(np.float64)
    apart = ones @ zeros.T
    together = ones @ ones.T + zeros @ zeros.T
    count = ones.sum(1) + zeros.sum(1)
    shared = np.where(apart + apart.T > 0, 0.0, 0.5 ** (count[:, None] + count - together))
    mean = terms @ 0.5**count
    return max(0.0, float(terms @ shared @ terms - mean**2))


def _normalized(shares: Mapping[str, float]) -> dict[str, float]:
    total = sum(shares.values())
    return {name: share / total if total > 0 else 1.0 / len(shares) for name, share in shares.items()}


def _encoded(params: Sequence[Mapping[str, Any]], space: Mapping[str, BaseDistribution]) -> Array:
    """Return numbers as they are, and a column for each option of a choice."""
    parts = []
    for name, distribution in space.items():
        own = np.array([distribution.to_internal_repr(p[name]) for p in params])
        if isinstance(distribution, CategoricalDistribution):
            parts.append((own[:, None] == np.arange(len(distribution.choices))).astype(np.float64))
        else:
            parts.append(own[:, None])
    return np.concatenate(parts, 1)


def _bounds(space: Mapping[str, BaseDistribution]) -> tuple[Array, NDArray[np.int64]]:
    """Return the bounds [column, 2] of the encoded space, and the parameter [column] that each column belongs to."""
    rows: list[tuple[float, float]] = []
    owners: list[int] = []
    for k, d in enumerate(space.values()):
        own = [(0.0, 1.0)] * len(d.choices) if isinstance(d, CategoricalDistribution) else [(d.low, d.high)]  # type: ignore[attr-defined]  # a number's
        rows += own
        owners += [k] * len(own)
    return np.array(rows, np.float64), np.array(owners)
