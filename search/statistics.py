"""Estimates with intervals over seeds and videos, what several of them may claim, and what was too small to see."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from mmsa_core.metrics import Convention, objective_rows

CONFIDENCE = 0.95
POWER = 0.8
GROUPS = 100
"""Parts of a split that are left out in turn, to see what other videos would have given: more cost time alone."""


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` seeds with its standard deviation over them, and a 95 % interval.

    With ``clusters`` the interval covers other training seeds and another sample of as many videos; without (0), other
    seeds alone. ``error`` is the standard error behind it and ``df`` its degrees of freedom. Where ``n`` is 1 the
    interval is the mean itself and says nothing.
    """

    mean: float
    std: float
    n: int
    low: float
    high: float
    error: float
    df: float
    clusters: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def over_seeds(self) -> Estimate:
        """The same mean with its interval over other seeds alone, on these very videos."""
        if self.n < 2 or self.clusters == 0:
            return self
        error, df = self.std / math.sqrt(self.n), self.n - 1.0
        half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, df)) * error
        return replace(self, low=self.mean - half, high=self.mean + half, error=error, df=df, clusters=0)

    @property
    def excludes_zero(self) -> bool:
        """Tell whether the interval lies on one side of zero."""
        return self.n > 1 and (self.low > 0 or self.high < 0)

    @property
    def p(self) -> float:
        """The chance of a mean this far from 0, either way, if the truth were 0; 1 where ``n`` is 1."""
        if self.n < 2 or self.mean == 0:
            return 1.0
        return float(2 * stats.t.sf(abs(self.mean) / self.error, self.df)) if self.error > 0 else 0.0


def estimate(values: ArrayLike) -> Estimate:
    """Return the mean of one value per seed with Student's t-interval.

    >>> e = estimate([1.0, 2.0, 3.0])
    >>> round(e.mean, 3), round(e.low, 3), round(e.high, 3)
    (2.0, -0.484, 4.484)
    """
    return _with_interval(np.asarray(values, dtype=np.float64), 0.0, 0)


def paired(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """Return the mean difference a - b over common seeds, with an interval over seeds alone."""
    assert len(a) == len(b), "paired values need the same seeds"
    return estimate(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64))


def welch(a: Estimate, b: Estimate) -> Estimate:
    """Return the difference a - b of two means over different seeds, with Welch's t-interval over seeds alone; ``n`` is
    the smaller number of seeds and ``std`` the two deviations together.

    Source: Welch, Biometrika 1947.
    """
    mean, n, std = a.mean - b.mean, min(a.n, b.n), math.hypot(a.std, b.std)
    if n < 2:
        return Estimate(mean, 0.0, 1, mean, mean, 0.0, 0.0, 0)
    own = [e.std**2 / e.n for e in (a, b)]
    error = math.sqrt(sum(own))
    parts = sum(v**2 / (e.n - 1) for v, e in zip(own, (a, b), strict=True))
    df = error**4 / parts if parts > 0 else float(a.n + b.n - 2)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, df)) * error
    return Estimate(mean, std, n, mean - half, mean + half, error, df, 0)


def combined(
    metric: str,
    convention: Convention,
    parts: Sequence[tuple[float, NDArray[np.float32]]],
    labels: NDArray[np.float32],
    clusters: NDArray[np.int64],
) -> Estimate:
    """Return a weighted sum of a metric of several configurations, over seeds and videos: one configuration with weight
    1, a difference with 1 and -1, a 2x2 contrast with 1, -1, -1 and 1.

    Every part has its predictions [seed, row] of the same seeds in the same order; ``clusters`` [row] numbers each
    row's video. The two sources of chance add: the spread of the seeds on this split, and what leaving out each video
    in turn does to the mean over the seeds. With few seeds or videos a t quantile with Satterthwaite's degrees of
    freedom keeps the interval honest where percentiles of a bootstrap are too narrow.

    Source: Efron & Stein, Annals of Statistics 1981 (jackknife); Owen, Annals of Applied Statistics 2007,
    arXiv:0712.1111 (seeds crossed with videos). Deviation: with more than ``GROUPS`` videos, groups of whole videos are
    left out together.
    """
    assert len({len(p) for _, p in parts}) == 1, "combined configurations need the same seeds"

    def values(rows: slice | NDArray[np.bool_]) -> NDArray[np.float64]:
        scored = [w * objective_rows(metric, p[:, rows], labels[rows], convention) for w, p in parts]
        return np.sum(scored, axis=0)  # type: ignore[no-any-return]  # numpy's stub knows no type of a sum

    return _over_seeds_and_groups(values, clusters)


def compare(
    metric: str,
    convention: Convention,
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    labels: NDArray[np.float32],
    clusters: NDArray[np.int64],
) -> Estimate:
    """Return the difference a - b of two configurations' metric, by predictions [seed, row] of the same seeds, over
    seeds and videos."""
    return combined(metric, convention, [(1.0, a), (-1.0, b)], labels, clusters)


def paired_errors(a: NDArray[np.float64], b: NDArray[np.float64], clusters: NDArray[np.int64]) -> Estimate:
    """Return the mean difference a - b of errors [seed, row] of the same seeds and rows, over seeds and videos."""
    assert a.shape == b.shape, "paired errors need the same seeds and rows"
    return _over_seeds_and_groups(lambda rows: (a[:, rows] - b[:, rows]).mean(1), clusters)


def holm(ps: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number: a claim for each that is below 5 % makes any false claim at all in at
    most 5 of 100 studies.

    Source: Holm, Scandinavian Journal of Statistics 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(ps, kind="stable")
    steps = np.asarray(ps, dtype=np.float64)[order] * np.arange(len(ps), 0, -1)
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(p) for p in adjusted]


def resolve(differences: Sequence[Estimate]) -> list[dict[str, Any]]:
    """Return a family of differences as records: with ``p``, ``p_adjusted`` (Holm's) and whether each is
    ``resolved``, which is a claim that its sign is right."""
    adjusted = holm([d.p for d in differences])
    return [
        {**d.to_dict(), "p": d.p, "p_adjusted": p, "resolved": p < 1 - CONFIDENCE}
        for d, p in zip(differences, adjusted, strict=True)
    ]


def smallest_visible(difference: Estimate) -> float:
    """Return the smallest true difference that as many seeds and videos with this spread would find 4 times in 5
    (two-sided, 5 %)."""
    if difference.n < 2:
        return math.inf
    factor = stats.t.ppf(0.5 + CONFIDENCE / 2, difference.df) + stats.t.ppf(POWER, difference.df)
    return float(factor) * difference.error


def _over_seeds_and_groups(
    values: Callable[[slice | NDArray[np.bool_]], NDArray[np.float64]], clusters: NDArray[np.int64]
) -> Estimate:
    """Return the estimate of what ``values`` says of a split's rows, one value per seed."""
    groups = _dealt(clusters)
    count = int(groups.max()) + 1
    if count < 2:
        return estimate(values(slice(None)))
    without = np.array([values(groups != g).mean() for g in range(count)])
    variance = (count - 1) / count * float(((without - without.mean()) ** 2).sum())
    return _with_interval(values(slice(None)), variance, len(np.unique(clusters)), count)


def _with_interval(x: NDArray[np.float64], variance: float, clusters: int, groups: int = 2) -> Estimate:
    """Return the mean of one value per seed; ``variance`` is what another sample of the videos adds to its variance."""
    assert x.ndim == 1 and len(x) > 0, "an estimate needs at least one value"
    mean, n = float(x.mean()), len(x)
    if n == 1:
        return Estimate(mean, 0.0, 1, mean, mean, 0.0, 0.0, clusters)
    std = float(x.std(ddof=1))
    own = std**2 / n
    total = own + variance
    df = total**2 / (own**2 / (n - 1) + variance**2 / (groups - 1)) if total > 0 else float(n - 1)
    error = math.sqrt(total)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, df)) * error
    return Estimate(mean, std, n, mean - half, mean + half, error, df, clusters)


def _dealt(clusters: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the group [row] of each row: its video, or with more videos than ``GROUPS`` one of as many groups of whole
    videos, of about equal numbers of rows."""
    numbers, inverse, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    if len(numbers) <= GROUPS:
        return inverse.astype(np.int64)
    order = np.argsort(-sizes, kind="stable")
    turn = np.arange(len(numbers)) % (2 * GROUPS)
    group = np.empty(len(numbers), np.int64)
    group[order] = np.where(turn < GROUPS, turn, 2 * GROUPS - 1 - turn)  # there and back: the large ones are spread
    return group[inverse]


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
