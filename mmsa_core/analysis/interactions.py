"""What modalities say of a target alone, alike and only together: with intervals, and with what chance would show."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsa_core.analysis.held_out import Comparison, HeldOut, Quantity
from mmsa_core.analysis.sources import Predictor, Sources
from mmsa_core.errors import UserError

Array = NDArray[np.float64]
SHUFFLES = 200
"""Of the target."""
LEAST_ROWS, LEAST_VIDEOS = 30, 5


@dataclass(frozen=True)
class Interactions:
    """The parts of each pair, and of each modality against all others; ``target`` is "label" or "prediction"."""

    rows: int
    videos: int
    target: str
    pairs: tuple[Comparison, ...]
    one_versus_rest: tuple[Comparison, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data (JSON)."""
        return {**asdict(self), "pairs": _plain(self.pairs), "one_versus_rest": _plain(self.one_versus_rest)}


def measure(sources: Sources, target: NDArray[np.float32], kind: str = "label", seed: int = 0) -> Interactions:
    """Decompose what the modalities say of ``target`` [N].

    What a set of modalities says is the R2 of held-out predictions (:class:`Predictor`), so no part is there only
    because a regression has seen its labels. The interval comes from resampling the videos of these predictions. Chance
    is asked twice. First the target is shuffled ``SHUFFLES`` times, all videos in another order and their rows in a
    line, so that what rows of one video have in common stays (single rows shuffled would show too little), and
    everything is measured again. Second, for a part that is a difference of two predictions, the two are swapped in
    every video at random: that is all the difference there is when neither is better. The larger 95th percentile
    counts.

    Raises:
        UserError: there are fewer than two modalities, too few rows or videos, or the target is constant.
    """
    if (reason := obstacle(sources, target)) is not None:
        raise UserError(reason)
    rng = np.random.default_rng(seed)
    y = target.astype(np.float64)
    order = shuffled(sources.videos, SHUFFLES, rng)
    predictor = Predictor(sources)
    held = HeldOut(predictor, sources.videos, y, order, rng)
    modalities = list(sources.averages)
    pairs = tuple(held.compare((a,), (b,)) for a, b in combinations(modalities, 2))
    rest = [(m, tuple(o for o in modalities if o != m)) for m in modalities] if len(modalities) > 2 else []
    against = tuple(held.compare((m,), others) for m, others in rest)
    return Interactions(len(y), len(np.unique(sources.videos)), kind, pairs, against)


def obstacle(sources: Sources, target: NDArray[np.float32]) -> str | None:
    """Return in one sentence why nothing can be measured; None where it can."""
    modalities, rows, videos = list(sources.averages), len(target), len(np.unique(sources.videos))
    if len(modalities) < 2:
        return f"interactions: takes two modalities or three, got {modalities[0]} alone; add another"
    if rows < LEAST_ROWS or videos < LEAST_VIDEOS:
        return (
            f"interactions: predicts every video from other ones and needs {LEAST_ROWS} rows in {LEAST_VIDEOS} videos "
            f"(ids are video$_$clip), got {rows} rows in {videos}; use a larger data set"
        )
    if (target == target[0]).all():
        return f"interactions: all {rows} labels are {target[0]:g}, so there is nothing to know of them"
    return None


def shuffled(videos: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return orders [count, N] of the rows: whole videos in random order, laid along the rows sorted by video."""
    rows = np.argsort(videos, kind="stable")
    parts = np.split(rows, np.flatnonzero(np.diff(videos[rows])) + 1)
    orders = np.empty((count, len(videos)), np.int64)
    for order in orders:
        order[rows] = np.concatenate([parts[i] for i in rng.permutation(len(parts))])
    return orders


def agreement(data: Interactions, model: Interactions) -> float | None:
    """Return the cosine of the parts that the data have and that a model uses, 1 where they are in proportion; None
    where one has none at all."""
    one, two = (np.array([q.value for c in (*i.pairs, *i.one_versus_rest) for q in _parts(c)]) for i in (data, model))
    length = float(np.linalg.norm(one) * np.linalg.norm(two))
    return float(one @ two) / length if length > 0 else None


def _plain(comparisons: tuple[Comparison, ...]) -> list[dict[str, Any]]:
    return [asdict(c) for c in comparisons]


def _parts(c: Comparison) -> tuple[Quantity, ...]:
    return c.redundancy, c.unique_first, c.unique_second, c.synergy
