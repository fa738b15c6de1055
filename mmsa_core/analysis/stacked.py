"""Ridge regressions on blocks of features, cross-fitted by video and stacked: what they predict of many labels at once.

A permuted label costs little, because all that depends on the features alone is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]
PENALTIES = 10.0 ** np.arange(1, -6, -1)
"""Of the squared weights, per training row, of blocks whose variances add up to 1; the strongest first wins a tie."""
JITTER = 1e-9
"""Added to the diagonal where blocks say the same, relative to the largest entry."""


class Block:
    """Features [N, d] whose regressions on every four and every three of five folds are prepared.

    ``fold`` [N] numbers each row's fold. Predictions are told relative to the mean label of the rows that a regression
    saw.
    """

    def __init__(self, features: Array, fold: NDArray[np.int64]) -> None:
        self._fold = fold
        self._count = int(fold.max()) + 1
        self._own = [np.flatnonzero(fold == f) for f in range(self._count)]
        self._x = features - features.mean(0)
        self._sums = np.stack([self._x[o].sum(0) for o in self._own])
        self._products = np.stack([self._x[o].T @ self._x[o] for o in self._own])
        helds: list[tuple[int, ...]] = [(f,) for f in range(self._count)]
        helds += combinations(range(self._count), 2)
        self._fits = {held: self._decomposed(held) for held in helds}

    def predict(self, labels: Array) -> tuple[Array, Array]:
        """Return predictions of ``labels`` [label, N] for stacking, [fold, label, N], and for use, [label, N].

        Those for use on a fold saw the other folds, with the penalty that is best when each of those is predicted from
        the rest. Those very predictions, of a fold's other folds, are what a stack for that fold may learn from.
        """
        totals = np.stack([labels[:, o].sum(1) for o in self._own])
        products = np.stack([self._x[o].T @ labels[:, o].T for o in self._own])
        errors = np.zeros((self._count, len(PENALTIES), len(labels)))
        slopes = {held: self._slopes(held, totals, products) for held in self._fits}
        for pair in combinations(range(self._count), 2):
            for judged, other in (pair, pair[::-1]):
                errors[judged] += self._errors(pair, other, slopes[pair], totals, products)
        best = PENALTIES[errors.argmin(1)]
        inner = np.zeros((self._count, *labels.shape))
        outer = np.empty(labels.shape)
        for f in range(self._count):
            outer[:, self._own[f]] = self._predicted((f,), f, slopes[(f,)], best[f])
            for g in set(range(self._count)) - {f}:
                pair = (min(f, g), max(f, g))
                inner[f][:, self._own[g]] = self._predicted(pair, g, slopes[pair], best[f])
        return inner, outer

    def _decomposed(self, held: tuple[int, ...]) -> tuple[Array, Array, Array]:
        """Return the mean [d] over all folds but ``held``, and eigenvalues [d] and vectors [d, d] of the covariance."""
        kept = [f for f in range(self._count) if f not in held]
        rows = sum(len(self._own[f]) for f in kept)
        mean = self._sums[kept].sum(0) / rows
        values, vectors = np.linalg.eigh(self._products[kept].sum(0) / rows - np.outer(mean, mean))
        return mean, np.maximum(values, 0.0), vectors

    def _slopes(self, held: tuple[int, ...], totals: Array, products: Array) -> Array:
        """Return the covariance [d, label] of features and labels, along the eigenvectors."""
        mean, _, vectors = self._fits[held]
        kept = [f for f in range(self._count) if f not in held]
        rows = sum(len(self._own[f]) for f in kept)
        return np.asarray(vectors.T @ (products[kept].sum(0) - np.outer(mean, totals[kept].sum(0))) / rows)

    def _errors(self, held: tuple[int, ...], f: int, slopes: Array, totals: Array, products: Array) -> Array:
        """Return the squared errors [penalty, label] on fold ``f``, but for a constant, from moments alone."""
        mean, values, vectors = self._fits[held]
        kept = [k for k in range(self._count) if k not in held]
        known = totals[kept].sum(0) / sum(len(self._own[k]) for k in kept)
        rows, total = len(self._own[f]), self._sums[f]
        squares = self._products[f] - np.outer(total, mean) - np.outer(mean, total) + rows * np.outer(mean, mean)
        crossed = products[f] - np.outer(mean, totals[f]) - np.outer(total - rows * mean, known)
        squares, crossed = vectors.T @ squares @ vectors, vectors.T @ crossed
        weights = slopes / (values[:, None] + PENALTIES[:, None, None])
        return np.asarray((weights * (squares @ weights - 2 * crossed)).sum(1))

    def _predicted(self, held: tuple[int, ...], f: int, slopes: Array, penalty: Array) -> Array:
        """Return the predictions [label, row] on fold ``f`` with one penalty [label] each."""
        mean, values, vectors = self._fits[held]
        weights = slopes / (values[:, None] + penalty)
        return np.asarray(((self._x[self._own[f]] - mean) @ (vectors @ weights)).T)


class Stack:
    """Views, i.e. sets of blocks whose predictions are added up with weights of at least 0, learned without the fold
    that they predict.

    Every block has a penalty of its own, so that a weak modality does not spoil what a strong one says, as it would in
    one regression on all features.

    Source: Breiman, Machine Learning 1996 (stacked regressions).
    """

    def __init__(self, blocks: Sequence[Block], fold: NDArray[np.int64]) -> None:
        self._blocks = blocks
        self._folds = [fold == f for f in range(int(fold.max()) + 1)]

    def predict(self, labels: Array, views: Sequence[Sequence[int]]) -> tuple[Array, Array]:
        """Return cross-fitted predictions of ``labels`` [label, N] by each view, [view, label, N], and the means of the
        rows that they are made from, [label, N]: the predictions of who knows nothing. ``views`` number the blocks."""
        made = [block.predict(labels) for block in self._blocks]
        inner, outer = np.stack([i for i, _ in made], -1), np.stack([o for _, o in made], -1)
        predictions = np.empty((len(views), *labels.shape))
        means = np.empty(labels.shape)
        for f, own in enumerate(self._folds):
            known, x = self._targets(labels, f), inner[f][:, ~own]
            grams = x.transpose(0, 2, 1) @ x
            crossed = (x * (labels[:, ~own] - known)[..., None]).sum(1)
            means[:, own] = labels[:, ~own].mean(1, keepdims=True)
            for v, view in enumerate(views):
                weights = _nonnegative(grams[:, view][:, :, view], crossed[:, view])
                predictions[v][:, own] = means[:, own] + (outer[:, own][:, :, view] @ weights[..., None])[..., 0]
        return predictions, means

    def _targets(self, labels: Array, f: int) -> Array:
        """Return what the blocks' predictions for stacking are relative to, [label, row]: the mean of all folds but
        ``f`` and the row's own."""
        known = np.empty_like(labels)
        for g, rows in enumerate(self._folds):
            if g != f:
                known[:, rows] = labels[:, ~(rows | self._folds[f])].mean(1, keepdims=True)
        return known[:, ~self._folds[f]]


def _nonnegative(grams: Array, crossed: Array) -> Array:
    """Return weights [label, block] of least squares that are not negative, from products [label, block, block] and
    [label, block]."""
    largest = np.maximum(np.einsum("...ii->...i", grams).max(1), np.finfo(np.float64).tiny)
    scaled = grams / largest[:, None, None] + JITTER * np.eye(grams.shape[1])
    roots = np.linalg.cholesky(scaled)
    targets = np.linalg.solve(roots, (crossed / largest[:, None])[..., None])[..., 0]
    return np.stack([nnls(root.T, target)[0] for root, target in zip(roots, targets, strict=True)])
