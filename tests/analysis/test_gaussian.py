"""The Gaussian closed form: against log-determinants, and what must add up."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mmsa_core.analysis.gaussian import decompose, information

Array = NDArray[np.float64]


def covariance(seed: int) -> Array:
    """Return a random covariance of first, second and target."""
    x = np.random.default_rng(seed).standard_normal((3, 5))
    return x @ x.T


def r2(c: Array, sources: list[int]) -> float:
    weights = np.linalg.solve(c[np.ix_(sources, sources)], c[sources, 2])
    return float(weights @ c[sources, 2] / c[2, 2])


def by_determinants(c: Array, sources: list[int]) -> float:
    """Return I(sources; target) in bits."""
    both = [*sources, 2]
    determinants = (np.linalg.det(c[np.ix_(s, s)]) for s in (sources, [2], both))
    source, target, joint = determinants
    return float(0.5 * np.log2(source * target / joint))


@pytest.mark.parametrize("seed", range(5))
def test_adds_up_to_the_mutual_informations(seed: int) -> None:
    c = covariance(seed)
    r, one, two, s = (float(p) for p in decompose(r2(c, [0]), r2(c, [1]), r2(c, [0, 1])))
    assert min(r, one, two, s) >= 0
    assert r + one == pytest.approx(by_determinants(c, [0]), abs=1e-9)
    assert r + two == pytest.approx(by_determinants(c, [1]), abs=1e-9)
    assert r + one + two + s == pytest.approx(by_determinants(c, [0, 1]), abs=1e-9)


def test_known_cases() -> None:
    assert [float(p) for p in decompose(0.75, 0.75, 0.75)] == [1, 0, 0, 0], "two copies"
    assert [float(p) for p in decompose(0.75, 0.0, 0.75)] == [0, 1, 0, 0], "one knows all"
    assert [float(p) for p in decompose(0.0, 0.0, 0.75)] == [0, 0, 0, 1], "only together"


def test_symmetry() -> None:
    a, b = decompose(0.3, 0.1, 0.5), decompose(0.1, 0.3, 0.5)
    assert (a.redundancy, a.synergy, a.unique_first) == (b.redundancy, b.synergy, b.unique_second)


def test_what_predicts_worse_than_the_mean_knows_nothing() -> None:
    assert information(-0.4) == 0
    assert [float(p) for p in decompose(-0.4, 0.75, 0.5)] == [0, 0, 1, 0], "the better one counts for both"
    assert np.isfinite(information(1.0))
