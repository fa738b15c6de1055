"""Estimates over seeds: against scipy and hand-computed numbers, and by simulation what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from search.statistics import Estimate, estimate, paired, smallest_visible


def test_estimate_of_three_numbers_by_hand() -> None:
    """Mean 2, variance 1; the 97.5 % point of Student's t with 2 degrees of freedom is 4.303 (any table)."""
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.std, found.n) == (2.0, 1.0, 3)
    assert found.low == pytest.approx(2 - 4.303 / math.sqrt(3), abs=1e-3)
    assert found.high == pytest.approx(2 + 4.303 / math.sqrt(3), abs=1e-3)


def test_estimate_agrees_with_scipy() -> None:
    x = np.random.default_rng(0).normal(0.7, 0.02, 20)
    found = estimate(x)
    interval = stats.ttest_1samp(x, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.mean == pytest.approx(x.mean()) and found.std == pytest.approx(x.std(ddof=1))


def test_one_value_is_its_own_interval_and_shows_nothing() -> None:
    found = estimate([0.5])
    assert found == Estimate(0.5, 0.0, 1, 0.5, 0.5)
    assert not found.excludes_zero
    assert smallest_visible(found) == math.inf


def test_equal_values_have_no_width() -> None:
    found = estimate([0.25] * 4)
    assert (found.low, found.high, found.std) == (0.25, 0.25, 0.0)
    assert found.excludes_zero and smallest_visible(found) == 0.0


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]]])
def test_no_estimate_of_nothing(values: list[float]) -> None:
    with pytest.raises(AssertionError, match="at least one value"):
        estimate(values)


def test_plain_data() -> None:
    assert estimate([1.0, 1.0]).to_dict() == {"mean": 1.0, "std": 0.0, "n": 2, "low": 1.0, "high": 1.0}


@pytest.mark.parametrize(("low", "high", "n", "excluded"), [
    (0.1, 0.2, 5, True), (-0.2, -0.1, 5, True), (-0.1, 0.1, 5, False), (0.0, 0.2, 5, False), (0.1, 0.1, 1, False),
])  # fmt: skip
def test_excludes_zero(low: float, high: float, n: int, excluded: bool) -> None:
    assert Estimate((low + high) / 2, 0.1, n, low, high).excludes_zero is excluded


@pytest.mark.parametrize("n", [3, 10])
def test_intervals_cover_the_truth_95_times_in_100(n: int) -> None:
    rng = np.random.default_rng(n)
    found = [estimate(rng.normal(2.0, 0.5, n)) for _ in range(3000)]
    covered = float(np.mean([e.low <= 2.0 <= e.high for e in found]))
    assert covered == pytest.approx(0.95, abs=0.015)  # 4 standard errors of a share of 3000


def test_paired_takes_the_seeds_noise_out() -> None:
    """Both have the seed's own effect, ten times as large as the difference between them."""
    rng = np.random.default_rng(1)
    seeds = rng.normal(0, 1.0, 12)
    a, b = seeds + rng.normal(0.1, 0.02, 12), seeds
    difference = paired(a.tolist(), b.tolist())
    assert difference.mean == pytest.approx(float(np.mean(a - b)))
    assert difference.excludes_zero
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high))
    assert difference.low > 0 > estimate(a).low


def test_paired_refuses_other_seeds() -> None:
    with pytest.raises(AssertionError, match="same seeds"):
        paired([1.0, 2.0], [1.0])


@pytest.mark.parametrize("n", [6, 20])
def test_the_smallest_visible_effect_is_found_4_times_in_5(n: int) -> None:
    effect = smallest_visible(Estimate(0.0, 0.3, n, -1.0, 1.0))
    rng = np.random.default_rng(n)
    power = float(np.mean([estimate(rng.normal(effect, 0.3, n)).excludes_zero for _ in range(3000)]))
    # 4 standard errors of a share of 3000, and the sum of two t quantiles only stands for the noncentral t
    assert power == pytest.approx(0.8, abs=0.04)


def test_more_seeds_see_smaller_effects() -> None:
    visible = [smallest_visible(Estimate(0.0, 1.0, n, -1.0, 1.0)) for n in (2, 5, 20, 80)]
    assert visible == sorted(visible, reverse=True)
    assert visible[-1] == pytest.approx(2.8 / math.sqrt(80), rel=0.03)  # 1.96 + 0.84 for many seeds
