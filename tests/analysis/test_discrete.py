"""The discrete estimator: known distributions, a search over all with the same marginals, and what must hold."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from mmsa_core.analysis.discrete import broja

Array = NDArray[np.float64]


def table(target: Callable[[int, int], int]) -> Array:
    """Return p(first, second, target) of two fair bits and a function of them."""
    p = np.zeros((2, 2, 1 + max(target(a, b) for a, b in product(range(2), repeat=2))))
    for a, b in product(range(2), repeat=2):
        p[a, b, target(a, b)] += 0.25
    return p


def same() -> Array:
    p = np.zeros((2, 2, 2))
    p[0, 0, 0] = p[1, 1, 1] = 0.5
    return p


def drawn(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).dirichlet(np.ones(np.prod(shape))).reshape(shape)


def bits(p: Array) -> float:
    """Return the mutual information of [source, target], term by term."""
    total = 0.0
    for i, j in product(*map(range, p.shape)):
        if p[i, j] > 0:
            total += p[i, j] * np.log2(p[i, j] / (p[i].sum() * p[:, j].sum()))
    return total


def known(p: Array) -> tuple[float, float, float]:
    return bits(p.sum(1)), bits(p.sum(0)), bits(p.reshape(-1, p.shape[-1]))


@pytest.mark.parametrize(
    ("p", "parts"),
    [
        (table(lambda a, b: a ^ b), (0, 0, 0, 1)),
        (table(lambda a, b: a & b), (0.311278, 0, 0, 0.5)),
        (table(lambda a, b: a), (0, 1, 0, 0)),
        (same(), (1, 0, 0, 0)),
        (table(lambda a, b: 2 * a + b), (0, 1, 1, 0)),
        (table(lambda a, b: a + b), (0.5, 0, 0, 1)),
    ],
    ids=["xor", "and", "unique", "redundant", "copy", "sum"],
)
def test_known_distributions(p: Array, parts: tuple[float, ...]) -> None:
    """Source: Bertschinger et al., Entropy 2014, table 1, and Griffith & Koch 2014."""
    np.testing.assert_allclose(np.array(broja(p)), parts, atol=2e-6)


@pytest.mark.parametrize("seed", range(4))
def test_equals_a_search_over_all_with_the_same_marginals(seed: int) -> None:
    p = drawn(seed, 2, 2, 2)
    move = np.array([[1.0, -1.0], [-1.0, 1.0]])
    ends = [(-min(q[0, 0], q[1, 1]), min(q[0, 1], q[1, 0])) for q in p.transpose(2, 0, 1)]
    best = np.inf
    for a, b in product(*(np.linspace(*e, 151) for e in ends)):
        q = np.maximum(p + np.stack([a * move, b * move], -1), 0.0)
        best = min(best, bits(q.reshape(4, 2)))
    assert float(broja(p).synergy) == pytest.approx(known(p)[2] - best, abs=2e-4)


@pytest.mark.parametrize("seed", range(3))
def test_what_must_hold(seed: int) -> None:
    p = drawn(seed, 4, 3, 3)
    parts = r, one, two, s = [float(v) for v in broja(p)]
    first, second, both = known(p)
    assert min(parts) >= -1e-12
    assert (r + one, r + two) == (pytest.approx(first, abs=1e-9), pytest.approx(second, abs=1e-9))
    assert r + one + two + s == pytest.approx(both, abs=1e-9)
    swapped = broja(p.transpose(1, 0, 2))
    np.testing.assert_allclose([swapped[i] for i in (0, 2, 1, 3)], parts, atol=1e-6)
    renamed = p[[2, 0, 3, 1]][:, [1, 2, 0]][:, :, [2, 0, 1]]
    np.testing.assert_allclose(np.array(broja(renamed)), parts, atol=1e-6)


def test_a_copied_source_is_redundant() -> None:
    marginal = drawn(0, 3, 3)
    p = np.zeros((3, 3, 3))
    p[np.arange(3), np.arange(3)] = marginal
    np.testing.assert_allclose(np.array(broja(p)), [bits(marginal), 0, 0, 0], atol=1e-9)


def test_many_at_once_are_each_by_itself() -> None:
    many = np.stack([drawn(seed, 3, 3, 2) for seed in range(4)])
    together = np.array(broja(many))
    for i, p in enumerate(many):
        np.testing.assert_allclose(together[:, i], np.array(broja(p)), atol=1e-6)


def test_empty_cells_and_classes() -> None:
    p = np.zeros((3, 3, 3))
    p[:2, :2, :2] = drawn(1, 2, 2, 2)
    np.testing.assert_allclose(np.array(broja(p)), np.array(broja(p[:2, :2, :2])), atol=1e-6)
