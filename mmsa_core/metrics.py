"""The field's metrics by MMSA's definitions (``utils/metricsTop.py``), unrounded; numpy only.

Every metric maps predictions ``[K, N]`` and labels ``[N]`` to K values, so one call scores a whole population.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmsa_core.errors import UserError, nearest

Array = NDArray[Any]
Metric = Callable[[Array, Array], Array]
Convention = Literal["mosi", "sims"]
Direction = Literal["minimize", "maximize"]


def mae_rows(predictions: Array, target: Array) -> Array:
    """Mean absolute error of every row of ``predictions`` [K, N] against ``target`` [N]."""
    return np.asarray(np.abs(predictions.astype(np.float64) - target).mean(axis=1))


def corr_rows(predictions: Array, target: Array) -> Array:
    """Pearson correlation of every row with ``target``.

    Deviation: MMSA gives NaN where the predictions or the labels are constant; here it is 0, so that a search and a
    mean over seeds stay finite.
    """
    x, y = _standard(predictions), _standard(target[None])
    return np.asarray(np.clip((x * y).sum(axis=1), -1.0, 1.0))


def _standard(rows: Array) -> Array:
    """Centre every row and scale it to length 1; a constant row becomes zero (tested before rounding can hide it)."""
    rows = rows.astype(np.float64)
    varies = rows.max(axis=1, keepdims=True) > rows.min(axis=1, keepdims=True)
    scaled = rows / np.where(varies, np.abs(rows).max(axis=1, keepdims=True), 1.0)
    centred = np.where(varies, scaled - scaled.mean(axis=1, keepdims=True), 0.0)
    length = np.sqrt((centred**2).sum(axis=1, keepdims=True))
    return np.asarray(centred / np.where(length > 0, length, 1.0))


def _f1(guess: Array, truth: Array) -> Array:
    """Weighted F1 of two classes: sum over classes of (true support / N) * 2TP / (2TP + FP + FN); N = 0 gives 0."""
    total = np.zeros(len(guess))
    for p, y in ((guess, truth), (~guess, ~truth)):
        support = y.sum()
        total += support * 2.0 * (p & y).sum(axis=1) / np.maximum(p.sum(axis=1) + support, 1)
    return np.asarray(total / max(truth.size, 1))


def _accuracy(guess: Array, truth: Array) -> Array:
    """Share of equal classes; no sample gives 0."""
    return np.asarray((guess == truth).sum(axis=1) / max(truth.size, 1))


def _has0(p: Array, y: Array) -> tuple[Array, Array]:
    """Negative against non-negative, all samples."""
    return p >= 0, y >= 0


def _non0(p: Array, y: Array) -> tuple[Array, Array]:
    """Negative against positive, without the samples labelled 0; a prediction of 0 is not positive."""
    keep = y != 0
    return p[:, keep] > 0, y[keep] > 0


def _rounded(limit: int) -> Callable[[Array, Array], tuple[Array, Array]]:
    """Classes -limit..limit: clip, then round half to even (0.5 -> 0, 1.5 -> 2, 2.5 -> 2), as numpy does."""
    return lambda p, y: (np.round(np.clip(p, -limit, limit)), np.round(np.clip(y, -limit, limit)))


def _clipped(values: Array) -> Array:
    return np.asarray(np.clip(values, -1.0, 1.0))


def _cut(*edges: float) -> Callable[[Array, Array], tuple[Array, Array]]:
    """SIMS classes of values clipped to [-1, 1], intervals open left and closed right.

    Edges are compared in the dtype of the data, as in MMSA: a float32 label 0.1 is not above the edge 0.1.
    """

    def classes(values: Array) -> Array:
        return np.asarray(sum((_clipped(values) > edge).astype(np.int64) for edge in edges))

    return lambda p, y: (classes(p), classes(y))


def _positive(p: Array, y: Array) -> tuple[Array, Array]:
    """Non-positive against positive: in SIMS the zero is negative, the other way round from MOSI's Has0."""
    return p > 0, y > 0


def _scored(score: Metric, classes: Callable[[Array, Array], tuple[Array, Array]]) -> Metric:
    return lambda p, y: score(*classes(p, y))


METRICS: Mapping[Convention, Mapping[str, Metric]] = {
    "mosi": {
        "mae": mae_rows,
        "corr": corr_rows,
        "acc2_has0": _scored(_accuracy, _has0),
        "f1_has0": _scored(_f1, _has0),
        "acc2_non0": _scored(_accuracy, _non0),
        "f1_non0": _scored(_f1, _non0),
        "acc5": _scored(_accuracy, _rounded(2)),
        "acc7": _scored(_accuracy, _rounded(3)),
    },
    "sims": {
        "mae": lambda p, y: mae_rows(_clipped(p), _clipped(y)),
        "corr": lambda p, y: corr_rows(_clipped(p), _clipped(y)),
        "acc2": _scored(_accuracy, _positive),
        "f1": _scored(_f1, _positive),
        "acc3": _scored(_accuracy, _cut(-0.1, 0.1)),
        "acc5": _scored(_accuracy, _cut(-0.7, -0.1, 0.1, 0.7)),
    },
}
"""Metrics by convention: "mosi" for labels in [-3, 3] (MOSI, MOSEI), "sims" for labels in [-1, 1] (CH-SIMS, v2)."""

DIRECTIONS: Mapping[str, Direction] = {
    name: "minimize" if name == "mae" else "maximize" for metrics in METRICS.values() for name in metrics
}


def evaluate(prediction: ArrayLike, target: ArrayLike, convention: Convention = "mosi") -> dict[str, float]:
    """Score one prediction per sample, both of shape [N] with N > 0, on every metric of the convention, unrounded.

    SIMS clips predictions and labels to [-1, 1] first, so its mae and corr are of clipped values. F1 is weighted by
    true support, 0/0 is 0; metrics over no sample (only zero labels in ``acc2_non0``) are 0.

    Source: thuiar/MMSA 2.2.1, ``utils/metricsTop.py``; deviations: no rounding, and corr of a constant is 0, not NaN.

    Raises:
        UserError: shapes differ or are not [N], no samples, or a value that is not finite.
    """
    p, y = _numbers(prediction, "prediction"), _numbers(target, "target")
    if p.ndim != 1:
        raise UserError(f"evaluate: prediction must be of shape [N], got {list(p.shape)}")
    _check(p[None], y)
    if not np.isfinite(p).all():
        raise UserError(f"evaluate: predictions must be finite, got {p[~np.isfinite(p)][0]}; the model has diverged")
    return {name: float(metric(p[None], y)[0]) for name, metric in _metrics(convention).items()}


def objective_rows(
    name: str, predictions: ArrayLike, target: ArrayLike, convention: Convention = "mosi"
) -> NDArray[np.float64]:
    """Score every row of ``predictions`` [K, N] against ``target`` [N] on one metric; returns [K].

    A row with a value that is not finite scores NaN: that member has diverged, and the others are not affected.

    Raises:
        UserError: unknown metric, shapes that do not fit, no samples, or a label that is not finite.
    """
    p, y = _numbers(predictions, "predictions"), _numbers(target, "target")
    metrics = _metrics(convention)
    if name not in metrics:
        raise UserError(f"metric: {convention} has no metric {name!r}{nearest(name, metrics)}")
    _check(p, y)
    finite = np.isfinite(p).all(axis=1)
    scores: NDArray[np.float64] = np.full(len(p), np.nan)
    if finite.any():
        scores[finite] = metrics[name](p[finite], y)
    return scores


def _metrics(convention: str) -> Mapping[str, Metric]:
    if convention not in get_args(Convention):
        raise UserError(f"convention: there is no {convention!r}{nearest(convention, get_args(Convention))}")
    return METRICS[convention]  # type: ignore[index]  # checked above


def _numbers(values: ArrayLike, what: str) -> Array:
    """Return an array of floats that keeps a float32 as it is (see ``_cut``)."""
    try:
        array = np.asarray(values)
        return array if array.dtype.kind == "f" else array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"evaluate: {what} must be numbers of equal rows, got {values!r:.60}") from error


def _check(p: Array, y: Array) -> None:
    if y.ndim != 1 or p.ndim != 2 or p.shape[1] != y.shape[0]:
        raise UserError(
            f"evaluate: predictions [K, N] and target [N] must agree in N, got {list(p.shape)} and {list(y.shape)}"
        )
    if y.size == 0:
        raise UserError("evaluate: at least one sample is needed, got 0")
    if not np.isfinite(y).all():
        raise UserError(f"evaluate: labels must be finite, got {y[~np.isfinite(y)][0]}; drop or mend these samples")
