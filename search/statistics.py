"""Estimates with intervals over seeds, and what a number of seeds could have seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95
POWER = 0.8


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` seeds with its standard deviation and 95 % t-interval (the mean itself where n is 1)."""

    mean: float
    std: float
    n: int
    low: float
    high: float

    def to_dict(self) -> dict[str, float | int]:
        return asdict(self)

    @property
    def excludes_zero(self) -> bool:
        """Tell whether the interval lies on one side of zero."""
        return self.n > 1 and (self.low > 0 or self.high < 0)


def estimate(values: ArrayLike) -> Estimate:
    """Return the mean of ``values`` with its t-interval.

    >>> e = estimate([1.0, 2.0, 3.0])
    >>> round(e.mean, 3), round(e.low, 3), round(e.high, 3)
    (2.0, -0.484, 4.484)
    """
    x = np.asarray(values, dtype=np.float64)
    assert x.ndim == 1 and len(x) > 0, "an estimate needs at least one value"
    mean, n = float(x.mean()), len(x)
    if n == 1:
        return Estimate(mean, 0.0, 1, mean, mean)
    std = float(x.std(ddof=1))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * std / math.sqrt(n)
    return Estimate(mean, std, n, mean - half, mean + half)


def paired(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """Return the mean difference a - b over common seeds."""
    assert len(a) == len(b), "paired values need the same seeds"
    return estimate(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64))


@dataclass(frozen=True)
class PredictionInterval:
    """Turns the spread of an ensemble into an interval for the label: mean +- ``scale`` * sqrt(spread^2 + floor^2).

    ``spread`` is the standard deviation of a sample's predictions over the members, ``floor`` its mean over the samples
    that ``scale`` was found on (1 where there is one member). Split-conformal: on data like those samples, ``level`` of
    the labels lie inside.

    Source: Lei et al., JASA 2018, arXiv:1604.04173, section 5.2 (locally weighted).
    """

    level: float
    scale: float
    floor: float

    @staticmethod
    def fit(predictions: NDArray[np.float32], labels: NDArray[np.float32], level: float = 0.9) -> PredictionInterval:
        """Find ``scale`` from predictions [member, row] and labels [row] that training did not see."""
        floor = float(predictions.std(0).mean()) if len(predictions) > 1 else 1.0
        unit = PredictionInterval(level, 1.0, floor or 1.0)
        scores = np.sort(np.abs(labels - predictions.mean(0)) / unit.half(predictions))
        rank = min(len(scores), math.ceil((len(scores) + 1) * level))
        return PredictionInterval(level, float(scores[rank - 1]), unit.floor)

    def half(self, predictions: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return half the width [row] of each interval."""
        spread = predictions.std(0).astype(np.float64)
        return np.asarray(self.scale * np.sqrt(spread**2 + self.floor**2))

    def coverage(self, predictions: NDArray[np.float32], labels: NDArray[np.float32]) -> float:
        """Return the share of labels inside."""
        return float((np.abs(labels - predictions.mean(0)) <= self.half(predictions)).mean())

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def smallest_visible(difference: Estimate) -> float:
    """Return the smallest true difference that ``n`` seeds with this spread would find 4 times in 5 (two-sided, 5
    %)."""
    if difference.n < 2:
        return math.inf
    df = difference.n - 1
    factor = float(stats.t.ppf(0.5 + CONFIDENCE / 2, df) + stats.t.ppf(POWER, df))
    return factor * difference.std / math.sqrt(difference.n)
