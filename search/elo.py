"""Elo ratings of configurations that play against each other on every utterance: the smaller error wins.

Source: HEMM, Liang et al., 2024, arXiv:2407.03418 (``calc_elo.py``: K 4, scale 400, base 10, first rating 1000, a tie
is half a win, the median of 1000 shuffles). Deviations: all pairs play an utterance at once, from the ratings before
it; and there is an interval, from resampling videos, because utterances of one video are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

K, SCALE, BASE, FIRST = 4.0, 400.0, 10.0, 1000.0
SHUFFLES = 1000
RESAMPLES = 400
CONFIDENCE = 0.95

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Rating:
    """A rating and its 95 % interval over videos (the rating itself where there is one video)."""

    rating: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def ratings(errors: Array, videos: Sequence[str | int], seed: int, tie: float = 1e-6) -> list[Rating]:
    """Rate candidates by ``errors`` [candidate, row] on the same rows, each of a video; less apart than ``tie`` is one.

    A rating is relative to the other candidates: their mean is 1000. The intervals' ends are shifted by what the mean
    course (see :func:`expected`) and the shuffled games differ in.
    """
    candidates, rows = errors.shape
    assert candidates > 0 and rows == len(videos) > 0, "errors are [candidate, row], with a video for each row"
    rng = np.random.default_rng(seed)
    won = scores(errors, tie)
    orders = rng.permuted(np.tile(np.arange(rows), (SHUFFLES, 1)), axis=1)
    found = np.median(play(won, orders), 0)
    found += FIRST - found.mean()  # a median does not conserve the sum
    names, number = np.unique(videos, return_inverse=True)
    if len(names) == 1:
        return [Rating(r, r, r) for r in found.tolist()]
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(expected(*resampled(won, number, rng)), [tail, 100 - tail], axis=0)
    shift = found - expected(won.mean(0)[None], np.array([float(rows)]))[0]
    return [Rating(*ends) for ends in zip(found.tolist(), (low + shift).tolist(), (high + shift).tolist(), strict=True)]


def scores(errors: Array, tie: float) -> Array:
    """Return what each candidate scores against each other one [row, candidate, candidate]: 1, .5 or 0; .5 against
    itself."""
    ahead = errors.T[:, None, :] - errors.T[:, :, None]
    return np.where(np.abs(ahead) < tie, 0.5, (ahead > 0).astype(np.float64))


def play(won: Array, orders: NDArray[np.int64]) -> Array:
    """Return ratings [shuffle, candidate] after all rows were played in each of ``orders`` [shuffle, row]."""
    total = won.sum(2)
    rated = np.full((len(orders), total.shape[1]), FIRST)
    for rows in orders.T:
        rated += K * (total[rows] - _expected_total(rated))
    return rated


def expected(shares: Array, rows: Array) -> Array:
    """Return ratings [sample, candidate] after ``rows`` [sample] utterances that all end as they do on average.

    ``shares`` [sample, candidate, candidate] are mean scores. It is what the mean over all orders of play tends to for
    small K, and needs no orders.
    """
    total = shares.sum(2)
    rated = np.full(total.shape, FIRST)
    for step in range(int(rows.max())):
        rated += np.where(step < rows, K, 0.0)[:, None] * (total - _expected_total(rated))
    return rated


def resampled(won: Array, videos: NDArray[np.int64], rng: np.random.Generator) -> tuple[Array, Array]:
    """Return mean scores [sample, candidate, candidate] and numbers of rows [sample] of as many videos, drawn with
    replacement."""
    count = int(videos.max()) + 1
    sums, sizes = np.zeros((count, *won.shape[1:])), np.bincount(videos).astype(np.float64)
    np.add.at(sums, videos, won)
    drawn = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64)
    rows = drawn @ sizes
    return np.einsum("sv,vab->sab", drawn, sums) / rows[:, None, None], rows


def _expected_total(rated: Array) -> Array:
    """Return the sum of the scores that ratings [.., candidate] let expect against all, oneself (.5) included."""
    power = BASE ** ((rated - FIRST) / SCALE)
    total: Array = (power[:, :, None] / (power[:, :, None] + power[:, None, :])).sum(2)
    return total
