"""Estimates written down by hand."""

from __future__ import annotations

import math

from search.statistics import Estimate


def over_seeds(mean: float, std: float, n: int, low: float, high: float) -> Estimate:
    """Return an estimate over seeds alone."""
    return Estimate(mean, std, n, low, high, std / math.sqrt(n), n - 1.0, 0)
