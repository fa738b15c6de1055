"""Estimates with intervals over seeds, and what a number of seeds could have seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike
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


def smallest_visible(difference: Estimate) -> float:
    """Return the smallest true difference that ``n`` seeds with this spread would find 4 times in 5 (two-sided, 5
    %)."""
    if difference.n < 2:
        return math.inf
    df = difference.n - 1
    factor = float(stats.t.ppf(0.5 + CONFIDENCE / 2, df) + stats.t.ppf(POWER, df))
    return factor * difference.std / math.sqrt(difference.n)
