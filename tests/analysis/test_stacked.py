"""Stacked ridge regressions of many labels at once: against scikit-learn, one fit after the other."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import nnls
from sklearn.linear_model import Ridge

from mmsa_core.analysis.stacked import PENALTIES, Block, Stack

Array = NDArray[np.float64]
ROWS = 60


def case(seed: int) -> tuple[list[Array], NDArray[np.int64], Array]:
    """Return two blocks of features, folds of unequal size, and three labels."""
    rng = np.random.default_rng(seed)
    features = [rng.standard_normal((ROWS, d)) / np.sqrt(d) + 0.3 for d in (4, 7)]
    fold = np.concatenate([np.arange(5), rng.integers(0, 5, ROWS - 5)]).astype(np.int64)
    told = 3 * features[0][:, 0] - 2 * features[1][:, 3]
    labels = np.stack([told, 0.3 * told, 0 * told]) + rng.standard_normal((3, ROWS)) + 1.0
    return features, fold, labels


def slow(x: Array, fold: NDArray[np.int64], y: Array, held: int) -> tuple[Array, Array, float]:
    """Return a fold's predictions, those of all other rows by models without their own fold, and the penalty."""

    def fitted(without: set[int], rows: NDArray[np.bool_], penalty: float) -> Array:
        train = ~np.isin(fold, list(without))
        model = Ridge(alpha=penalty * int(train.sum())).fit(x[train], y[train])
        return np.asarray(model.predict(x[rows]) - y[train].mean())

    others = sorted({*range(5)} - {held})
    guesses = []
    for penalty in PENALTIES:
        inner = np.zeros(len(y))
        for other in others:
            inner[fold == other] = fitted({held, other}, fold == other, penalty)
        guesses.append(inner)
    targets = relative(fold, y, held)
    errors = [((g - targets)[fold != held] ** 2).sum() for g in guesses]
    best = int(np.argmin(errors))
    return fitted({held}, fold == held, float(PENALTIES[best])), guesses[best], float(PENALTIES[best])


def relative(fold: NDArray[np.int64], y: Array, held: int) -> Array:
    """Return labels less the mean of the rows in neither the held nor their own fold."""
    return np.array([v - y[~np.isin(fold, [held, own])].mean() for v, own in zip(y, fold, strict=True)])


@pytest.mark.parametrize("seed", range(2))
def test_a_block_equals_a_slow_loop(seed: int) -> None:
    features, fold, labels = case(seed)
    penalties = set()
    for x in features:
        inner, outer = Block(x, fold).predict(labels)
        for p, y in enumerate(labels):
            for held in range(5):
                expected, before, penalty = slow(x, fold, y, held)
                np.testing.assert_allclose(outer[p, fold == held], expected, atol=1e-8)
                np.testing.assert_allclose(inner[held, p, fold != held], before[fold != held], atol=1e-8)
                penalties.add(penalty)
    assert len(penalties) >= 3, "other labels must want other penalties"


def test_a_stack_equals_a_slow_loop() -> None:
    features, fold, labels = case(0)
    predictions, means = Stack([Block(x, fold) for x in features], fold).predict(labels, [[0], [0, 1]])
    for p, y in enumerate(labels):
        for held in range(5):
            own = fold == held
            made = [slow(x, fold, y, held) for x in features]
            target = relative(fold, y, held)[~own]
            np.testing.assert_allclose(means[p, own], y[~own].mean())
            for v, view in enumerate([[0], [0, 1]]):
                weights, _ = nnls(np.stack([made[i][1][~own] for i in view], 1), target)
                expected = y[~own].mean() + np.stack([made[i][0] for i in view], 1) @ weights
                np.testing.assert_allclose(predictions[v, p, own], expected, atol=1e-4)


def test_a_fold_is_predicted_without_its_labels() -> None:
    features, fold, labels = case(0)
    changed = labels.copy()
    changed[:, fold == 2] += np.random.default_rng(1).standard_normal((3, int((fold == 2).sum())))
    blocks = [Block(x, fold) for x in features]
    before, after = (Stack(blocks, fold).predict(y, [[0, 1]])[0][0] for y in (labels, changed))
    np.testing.assert_allclose(before[:, fold == 2], after[:, fold == 2], atol=1e-12)
    assert np.abs(before[:, fold != 2] - after[:, fold != 2]).max() > 1e-3


def test_constant_and_repeated_blocks() -> None:
    features, fold, labels = case(0)
    blocks = [Block(features[0], fold), Block(np.zeros((ROWS, 1)), fold), Block(features[0], fold)]
    predictions, means = Stack(blocks, fold).predict(labels, [[0], [0, 1, 2], [1]])
    np.testing.assert_allclose(predictions[0], predictions[1], atol=1e-6)
    np.testing.assert_allclose(predictions[2], means)
