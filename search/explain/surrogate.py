"""A random forest that predicts the metric of any configuration from the search's trials; it proposes, seeds verify."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.explain.switches import completed
from search.nodes import Arms, FloatRange, IntRange
from search.space import Space

TREES = 300
FEATURES = 1 / 3
"""Share of the columns that a split chooses from. With all of them, one setting is credited with what is due to several
where the sampler has tied them together, as it does in small studies."""
MINIMUM_TRIALS = 4
"""Complete trials below which a fit or an importance says nothing."""
TINY = 1e-12
"""What a setting that the space searches on a logarithmic scale counts as where it is 0."""

Flat = dict[str, Any]
Matrix = NDArray[np.float64]


def flat(tree: Mapping[str, Any], prefix: str = "") -> Flat:
    """Return a configuration's values by dotted path.

    >>> flat({"fusion": {"name": "gated"}, "width": 32})
    {'fusion.name': 'gated', 'width': 32}
    """
    found: Flat = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def config_path(space: Space, parameter: str) -> str:
    """Return where a configuration has a parameter: arms that name the parameter's place are left out.

    ``alignment.text-audio.coral.weight`` is at ``alignment.text-audio.weight``, a choice ``fusion`` at ``fusion.name``.
    """
    leaves = space.leaves()
    keys, found, here = parameter.split("."), [], ""
    inside = False  # below a choice: the next key is the name of its arm
    for key in keys:
        here = f"{here}.{key}" if here else key
        if not inside:
            found.append(key)
        inside = not inside and isinstance(leaves.get(here), Arms)
    return ".".join([*found, "name"] if isinstance(leaves[parameter], Arms) else found)


@dataclass(frozen=True)
class Surrogate:
    """A forest fitted to ``n`` complete trials.

    A column is a path whose values are numbers, or a path with one value of a choice, as Python writes it; what is
    absent is a value of its own, also among numbers (NaN). ``r2`` is out of bag, None where there are too few trials to
    tell.

    Pruned trials are left out: what is known of them is the metric of an earlier epoch. With that, corrected by what
    complete trials gained after it, predicted effects came no nearer to those measured with 10 seeds (root mean square
    error 0.066 against 0.060, over 24 effects of the winners of three demo studies).

    Source: Breiman, Machine Learning 45, 2001; Hutter et al., LION 2011 (SMAC), section 4.1, for forests over
    conditional configurations.
    """

    forest: Any
    columns: tuple[tuple[str, str | None], ...]
    logarithmic: frozenset[str]
    n: int
    r2: float | None

    @staticmethod
    def fit(configs: Sequence[Mapping[str, Any]], values: Sequence[float], space: Space, seed: int = 0) -> Surrogate:
        """Fit to configurations, from the space or not, and their search values."""
        from sklearn.ensemble import RandomForestRegressor  # slow to import, and needed after the search only

        rows = [flat(completed(config)) for config in configs]
        paths = dict.fromkeys(path for row in rows for path in row)
        columns = tuple(column for path in paths for column in _columns(path, [row.get(path) for row in rows]))
        columns = columns or (("epochs", None),)  # equal configurations: a constant
        ranges = ((p, leaf) for p, leaf in space.leaves().items() if isinstance(leaf, FloatRange | IntRange))
        logarithmic = frozenset(config_path(space, p) for p, leaf in ranges if leaf.log)
        enough = len(rows) >= MINIMUM_TRIALS and len(set(values)) > 1
        forest = RandomForestRegressor(TREES, max_features=FEATURES, oob_score=enough, random_state=seed)
        made = Surrogate(forest, columns, logarithmic, len(rows), None)
        forest.fit(made.matrix(rows), np.asarray(values, np.float64))
        return Surrogate(forest, columns, logarithmic, len(rows), float(forest.oob_score_) if enough else None)

    def predict(self, configs: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        """Return the predicted metric [config]; none of them needs to be a point of the space."""
        found: NDArray[np.float64] = self.trees(self.matrix([flat(completed(c)) for c in configs])).mean(0)
        return found

    def trees(self, matrix: Matrix) -> Matrix:
        """Return what each tree predicts [tree, row] for columns [row, column]."""
        return np.stack(list(self.each_tree(matrix.astype(np.float32))))

    def each_tree(self, matrix: NDArray[np.float32]) -> Iterator[NDArray[np.float64]]:
        """Yield what a tree after the other predicts [row]."""
        return (tree.tree_.predict(matrix)[:, 0] for tree in self.forest.estimators_)

    def matrix(self, rows: Sequence[Flat]) -> Matrix:
        """Return the columns [row, column] of flat, completed configurations."""
        found = np.array([[self._cell(row, *column) for column in self.columns] for row in rows], np.float64)
        return found.reshape(len(rows), len(self.columns))

    def value(self, path: str, value: float) -> float:
        """Return a number as its column holds it: on a logarithmic scale where the space has one."""
        return math.log(max(value, TINY)) if path in self.logarithmic else float(value)

    def _cell(self, row: Flat, path: str, level: str | None) -> float:
        value = row.get(path)
        if level is not None:
            return float(repr(value) == level)
        return math.nan if value is None else self.value(path, value)


def _columns(path: str, values: Sequence[Any]) -> list[tuple[str, str | None]]:
    """Return the columns of a path: one where all its values are numbers, else one for every value; none if they are
    equal."""
    levels = list(dict.fromkeys(map(repr, values)))
    if len(levels) == 1:
        return []
    numbers = all(_is_number(value) for value in values if value is not None)
    return [(path, None)] if numbers else [(path, level) for level in levels]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
