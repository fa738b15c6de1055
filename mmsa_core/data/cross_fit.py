"""What one modality alone says of the label: ridge regression, each row by a model that saw no clip of its video."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mmsa_core.data.split import Split
from mmsa_core.errors import UserError

FOLDS = 5
PENALTIES = 10.0 ** np.arange(3, -4, -1)
"""Of the squared weights of standardised features, per training row; the strongest first, so that it wins a tie."""
CONSTANT = 1e-6
"""A feature whose deviation is smaller, relative to its mean or to what it is over all rows, says nothing."""
CHUNK = 512

Array = NDArray[np.float64]


def time_average(split: Split, modality: str) -> Array:
    """Return the mean [N, d] over a modality's real rows, 0 where it is missing."""
    values, real = split.features[modality], split.real_rows(modality)
    total = np.zeros((len(split), values.shape[2]))
    for start in range(0, len(split), CHUNK):  # a copy of all of MOSEI's text would be gigabytes
        rows = slice(start, start + CHUNK)
        total[rows] = np.where(real[rows, :, None], values[rows], 0).sum(1, dtype=np.float64)
    averages: Array = total / np.maximum(split.lengths[modality], 1)[:, None]
    return averages


def cross_fitted(
    features: Array, labels: NDArray[np.float32], present: NDArray[np.bool_], domains: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Predict ``labels`` [N] from ``features`` [N, d], every fold of domains by a ridge regression on the other folds.

    The penalty is the one with the least squared error when each of those other folds is predicted from the rest, so a
    prediction depends on no label of its own fold. It is kept inside the range of the labels that it was made from. A
    row that is not ``present`` takes no part and gets their mean. So does, nearly, every row of a modality that says
    nothing: with few videos that mean is lower where the fold's own labels are higher, which is no knowledge.

    Raises:
        UserError: there are fewer than 3 domains.
    """
    fold = deal(domains)
    count = int(fold.max()) + 1
    if count < 3:
        raise UserError(
            "labels: 'out_of_fold' predicts every video from other ones and needs 3 videos in the training split "
            f"(ids are video$_$clip), got {count}; use 'ulgm', 'copied' or 'none'"
        )
    x, y = _standardised(features, present, np.ones_like(present)), labels.astype(np.float64)
    own = [fold == f for f in range(count)]
    moments = np.stack([_moments(x[o & present], y[o & present]) for o in own])

    def predicted(rows: NDArray[np.bool_], held: tuple[int, ...]) -> Array:
        """Return predictions [row, penalty] of models that saw no fold of ``held``."""
        known = y[~np.isin(fold, held)]
        kept = [f for f in range(count) if f not in held]
        weights, bias = _ridge(moments[kept].sum(0), known.mean())
        made: Array = np.clip(x[rows] @ weights + bias, known.min(), known.max())
        return made

    errors = np.zeros((count, len(PENALTIES)))
    for pair in combinations(range(count), 2):
        either = (own[pair[0]] | own[pair[1]]) & present
        squares = (predicted(either, pair) - y[either, None]) ** 2
        for judged, other in (pair, pair[::-1]):
            errors[judged] += squares[fold[either] == other].sum(0)
    result = np.empty(len(y))
    for f, rows in enumerate(own):
        guess = predicted(rows, (f,))[:, errors[f].argmin()]
        result[rows] = np.where(present[rows], guess, y[~rows].mean())
    return result.astype(np.float32)


def transferred(
    features: Array,
    labels: NDArray[np.float32],
    present: NDArray[np.bool_],
    domains: NDArray[np.int64],
    others: Array,
    available: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Predict rows ``others`` [M, d] of another split by a ridge regression on ``features`` [N, d] and ``labels`` [N].

    The penalty is the one with the least squared error when each fold of domains is predicted from the other ones (the
    strongest where there is one domain). A prediction is kept inside the range of the labels; a row that is not
    ``available`` gets their mean.
    """
    fold, own = deal(domains), np.arange(len(features) + len(others)) < len(features)
    both = _standardised(np.concatenate([features, others]), np.concatenate([present, available]), own)
    x, y = both[own], labels.astype(np.float64)
    parts = [(fold == f) & present for f in range(int(fold.max()) + 1)]
    moments = np.stack([_moments(x[rows], y[rows]) for rows in parts])
    low, high = y.min(), y.max()
    errors = np.zeros(len(PENALTIES))
    for f, rows in enumerate(parts if len(parts) > 1 else []):
        weights, bias = _ridge(np.delete(moments, f, 0).sum(0), y[fold != f].mean())
        errors += ((np.clip(x[rows] @ weights + bias, low, high) - y[rows, None]) ** 2).sum(0)
    weights, bias = _ridge(moments.sum(0), y.mean())
    best = errors.argmin()
    guess: Array = np.clip(both[~own] @ weights[:, best] + bias[best], low, high)
    guess[~available] = y.mean()
    return guess.astype(np.float32)


def deal(domains: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the fold of every row: whole domains, the largest first, each to the fold with the fewest rows yet."""
    numbers, inverse, sizes = np.unique(domains, return_inverse=True, return_counts=True)
    rows = np.zeros(min(FOLDS, len(numbers)), np.int64)
    folds = np.empty(len(numbers), np.int64)
    for domain in np.argsort(-sizes, kind="stable"):
        folds[domain] = rows.argmin()
        rows[folds[domain]] += sizes[domain]
    dealt: NDArray[np.int64] = folds[inverse]
    return dealt


def _standardised(features: Array, present: NDArray[np.bool_], own: NDArray[np.bool_]) -> Array:
    """Return features of mean 0 and deviation 1 over the present rows of ``own``: for rounding alone, as every fit does
    it anew with what it sees."""
    seen = features[present & own] if (present & own).any() else features
    mean, deviation = seen.mean(0), seen.std(0)
    useful = deviation > CONSTANT * np.abs(mean)
    scaled = np.where(useful, (features - mean) / np.where(useful, deviation, 1.0), 0.0)
    return np.where(present[:, None], scaled, 0.0)


def _moments(x: Array, y: Array) -> Array:
    """Return the sums of products of (1, x, y): all that a regression needs, and additive over folds."""
    rows = np.concatenate([np.ones((len(x), 1)), x, y[:, None]], 1)
    products: Array = rows.T @ rows
    return products


def _ridge(moments: Array, otherwise: float) -> tuple[Array, Array]:
    """Return weights [d, penalty] and bias [penalty] from the moments; without a row the bias is ``otherwise``.

    The objective is the mean squared error plus the penalty times the squared weights of features that are standardised
    over these rows.
    """
    rows, mean = moments[0, 0], moments[0, 1:] / max(moments[0, 0], 1.0)
    if rows == 0:
        return np.zeros((len(mean) - 1, len(PENALTIES))), np.full(len(PENALTIES), otherwise)
    covariance = moments[1:, 1:] / rows - np.outer(mean, mean)
    deviation = np.sqrt(np.maximum(np.diag(covariance)[:-1], 0.0))
    scale = np.where(deviation > CONSTANT, 1 / np.maximum(deviation, CONSTANT), 0.0)
    values, vectors = np.linalg.eigh(covariance[:-1, :-1] * np.outer(scale, scale))
    target = vectors.T @ (scale * covariance[:-1, -1])
    weights = scale[:, None] * (vectors @ (target[:, None] / (np.maximum(values, 0.0)[:, None] + PENALTIES)))
    return weights, mean[-1] - mean[:-1] @ weights
