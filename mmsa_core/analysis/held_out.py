"""The parts of what two sets of modalities say, from held-out predictions: intervals, and what chance would show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmsa_core.analysis.discrete import broja
from mmsa_core.analysis.gaussian import Parts, decompose, information
from mmsa_core.analysis.sources import Predictor, View

Array = NDArray[np.float64]
RESAMPLES = 2000
"""Draws of videos for an interval, and of swaps for chance."""
BINS, CLASSES = 4, 3
"""Of predictions and of targets, for the discrete estimator: more cells need more rows."""


@dataclass(frozen=True)
class Quantity:
    """Bits with a 95 % interval over videos, the largest that chance shows in 95 of 100 cases, and whether the value is
    beyond that and its interval clear of 0."""

    value: float
    low: float
    high: float
    null_high: float
    resolved: bool


@dataclass(frozen=True)
class Comparison:
    """The parts of what two sources say. ``products`` is the part of the synergy that takes products of the two and no
    sum reaches (None against several modalities); ``discrete`` are the parts by the other estimator."""

    first: str
    second: str
    redundancy: Quantity
    unique_first: Quantity
    unique_second: Quantity
    synergy: Quantity
    products: Quantity | None
    discrete: Mapping[str, float]


class HeldOut:
    """Squared errors by video of every view's held-out predictions, and what they are on shuffled targets."""

    def __init__(
        self,
        predictor: Predictor,
        videos: NDArray[np.int64],
        y: Array,
        order: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> None:
        self._view = {v: i for i, v in enumerate(predictor.views)}
        self._predictions, means = predictor.predict(y)
        number = np.unique(videos, return_inverse=True)[1]
        errors = (np.concatenate([self._predictions, means[None]]) - y) ** 2
        self._errors = np.stack([np.bincount(number, weights=e) for e in errors])
        self._null = predictor.explained(y[order])
        shape = (RESAMPLES, self._errors.shape[1])
        self._counts = rng.multinomial(shape[1], np.full(shape[1], 1 / shape[1]), RESAMPLES)
        self._swaps = rng.random(shape) < 0.5
        classes = _binned(y, CLASSES)
        self._classes = np.concatenate([classes[None], classes[order]])

    def compare(self, first: tuple[str, ...], second: tuple[str, ...]) -> Comparison:
        """Return the parts of two disjoint sets of modalities."""
        both = tuple(m for v in self._view for m in v.modalities if len(v.modalities) == 1 and m in first + second)
        one, two, joint = (self._view[View(v)] for v in (first, second, both))
        added = self._view.get(View(both, products=False), joint)
        chosen = [one, two, joint, added]
        value, low, high = self._bits(chosen)
        null = self._chance(chosen)
        *parts, products = [
            Quantity(float(v), float(lo), float(hi), float(n), bool(v > n and lo > 0))
            for v, lo, hi, n in zip(value, low, high, null, strict=True)
        ]
        names = "+".join(first), "+".join(second)
        redundancy, unique_first, unique_second, synergy = parts
        return Comparison(
            *names,
            redundancy,
            unique_first,
            unique_second,
            synergy,
            products if added != joint else None,
            self._discrete(one, two),
        )

    def _bits(self, chosen: list[int]) -> tuple[Array, Array, Array]:
        """Return all quantities, and the ends of their intervals over videos."""
        errors = self._errors[[*chosen, -1]]
        value = _quantities(1 - errors[:-1].sum(1) / errors[-1].sum())
        sums = self._counts @ errors.T
        low, high = np.percentile(_quantities(1 - (sums[:, :-1] / sums[:, -1:]).T), (2.5, 97.5), axis=1)
        return value, low, high

    def _chance(self, chosen: list[int]) -> Array:
        """Return the larger 95th percentile of all quantities: on shuffled targets, and with predictions swapped.

        A redundancy is there if both sources say something, so each of them has to be beyond its own percentile.
        """
        shown = np.percentile(_quantities(self._null[chosen]), 95, axis=1)
        shown[0] = np.percentile(information(self._null[chosen[:2]]), 95, axis=1).max()
        one, two, joint, added = self._floored(chosen)
        better = min(one, two, key=np.sum)
        pairs = ((one, two), (two, one), (joint, better), (joint, added))
        return np.maximum(shown, [0.0, *(self._swapped(*pair) for pair in pairs)])

    def _floored(self, chosen: list[int]) -> list[Array]:
        """Return errors [video] of the views; instead of a view that predicts worse than the mean the mean's, and
        instead of both sources together the better one's where that is better."""
        mean = self._errors[-1]
        one, two = (min(self._errors[i], mean, key=np.sum) for i in chosen[:2])
        better = min(one, two, key=np.sum)
        return [one, two, *(min(self._errors[i], better, key=np.sum) for i in chosen[2:])]

    def _swapped(self, a: Array, b: Array) -> float:
        """Return the 95th percentile of how much more one of two predictions says if they are swapped at random."""
        total, moved = self._errors[-1].sum(), self._swaps @ (b - a)
        gain = information(1 - (a.sum() + moved) / total) - information(1 - (b.sum() - moved) / total)
        return max(float(np.percentile(gain, 95)), 0.0)

    def _discrete(self, one: int, two: int) -> dict[str, float]:
        """Return the parts of binned predictions and target in thirds, less what they are on shuffled targets."""
        cells = _binned(self._predictions[one], BINS) * BINS + _binned(self._predictions[two], BINS)
        flat = cells * CLASSES + self._classes
        counts = np.stack([np.bincount(f, minlength=BINS * BINS * CLASSES) for f in flat])
        parts = broja(counts.reshape(-1, BINS, BINS, CLASSES).astype(np.float64), tolerance=1e-5)
        return {n: float(p[0] - p[1:].mean()) for n, p in zip(Parts._fields, parts, strict=True)}


def _quantities(r2: Array) -> Array:
    """Return the four parts and, fifth, what products bring, [5, ...], of R2 [first, second, joint, added; ...]."""
    parts = decompose(*r2[:3])
    known = information(r2[:3]).max(0) - np.maximum(information(r2[:2]).max(0), information(r2[3]))
    return np.stack([*parts, np.maximum(known, 0.0)])


def _binned(values: Array, count: int) -> NDArray[np.int64]:
    """Return the number of each value's bin: as many in each as ties allow."""
    edges = np.quantile(values, np.arange(1, count) / count)
    return np.searchsorted(edges, values, side="left").astype(np.int64)
