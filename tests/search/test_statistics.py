"""Estimates over seeds: against scipy and hand-computed numbers, and by simulation what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mmsa_core.data.split import videos
from mmsa_core.metrics import objective_rows
from search.statistics import (
    combined,
    compare,
    estimate,
    holm,
    paired,
    paired_errors,
    resolve,
    smallest_visible,
    welch,
)
from tests.search.estimates import over_seeds


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
    assert found == over_seeds(0.5, 0.0, 1, 0.5, 0.5)
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
    own = {"mean": 1.0, "std": 0.0, "n": 2, "low": 1.0, "high": 1.0}
    assert estimate([1.0, 1.0]).to_dict() == {**own, "error": 0.0, "df": 1.0, "clusters": 0}


@pytest.mark.parametrize(("low", "high", "n", "excluded"), [
    (0.1, 0.2, 5, True), (-0.2, -0.1, 5, True), (-0.1, 0.1, 5, False), (0.0, 0.2, 5, False), (0.1, 0.1, 1, False),
])  # fmt: skip
def test_excludes_zero(low: float, high: float, n: int, excluded: bool) -> None:
    assert over_seeds((low + high) / 2, 0.1, n, low, high).excludes_zero is excluded


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
    effect = smallest_visible(over_seeds(0.0, 0.3, n, -1.0, 1.0))
    rng = np.random.default_rng(n)
    power = float(np.mean([estimate(rng.normal(effect, 0.3, n)).excludes_zero for _ in range(3000)]))
    # 4 standard errors of a share of 3000, and the sum of two t quantiles only stands for the noncentral t
    assert power == pytest.approx(0.8, abs=0.04)


def test_more_seeds_see_smaller_effects() -> None:
    visible = [smallest_visible(over_seeds(0.0, 1.0, n, -1.0, 1.0)) for n in (2, 5, 20, 80)]
    assert visible == sorted(visible, reverse=True)
    assert visible[-1] == pytest.approx(2.8 / math.sqrt(80), rel=0.03)  # 1.96 + 0.84 for many seeds


# ---- seeds and videos ------------------------------------------------------------------------------------------------


def drawn(
    rng: np.random.Generator, seeds: int, groups: int, rows: int, truth: float = 0.5, spread: float = 0.1
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Draw errors [seed, row] around ``truth``: a part of the seed's own, a part of the video's own, and noise."""
    clusters = np.repeat(np.arange(groups), rows)
    seed, video = rng.normal(0, spread / 2, (seeds, 1)), rng.normal(0, spread, groups)[clusters]
    return truth + seed + video + rng.normal(0, spread, (seeds, groups * rows)), clusters


@pytest.mark.parametrize(("seeds", "groups", "rows"), [(5, 12, 4), (20, 40, 5), (10, 150, 2)])
def test_intervals_over_seeds_and_videos_cover_the_truth_95_times_in_100(seeds: int, groups: int, rows: int) -> None:
    rng = np.random.default_rng(seeds)
    covered, narrow = 0, 0
    for _ in range(400):
        errors, clusters = drawn(rng, seeds, groups, rows)
        found = paired_errors(errors, np.zeros_like(errors), clusters)
        own = estimate(errors.mean(1))
        covered += found.low <= 0.5 <= found.high
        narrow += own.low <= 0.5 <= own.high
    assert 0.92 < covered / 400 <= 0.99  # 4 standard errors of a share of 400 is .04; slightly wide is meant
    assert narrow / 400 < covered / 400, "seeds alone do not know that the videos are a sample"


@pytest.mark.parametrize("metric", ["mae", "corr", "acc2_has0", "f1_non0"])
def test_the_jackknife_agrees_with_a_bootstrap_of_the_videos(metric: str) -> None:
    rng = np.random.default_rng(4)
    clusters = np.repeat(np.arange(60), 5)
    labels = rng.normal(0, 1.0, 60)[clusters] + rng.normal(0, 1.0, 300)
    predictions = (labels + rng.normal(0, 0.8, (1, 300)) + np.zeros((4, 1))).astype(np.float32)  # seeds do not differ
    found = combined(metric, "mosi", [(1.0, predictions)], labels.astype(np.float32), clusters)
    means = []
    for _ in range(1000):
        rows = np.concatenate([np.flatnonzero(clusters == v) for v in rng.integers(0, 60, 60)])
        means.append(objective_rows(metric, predictions[:, rows], labels[rows])[0])
    assert found.error == pytest.approx(float(np.std(means)), rel=0.15)
    assert found.clusters == 60 and found.std == 0.0


def test_a_mean_of_a_video_left_out_by_hand() -> None:
    """Errors 1, 3 and 8 of three videos: leaving one out gives 5.5, 4.5 and 2; jackknife variance 2/3 * 6.5 = 4.333,
    which is the variance of the mean, 13 / 3."""
    errors = np.array([[1.0, 3.0, 8.0]] * 2)
    found = paired_errors(errors, np.zeros((2, 3)), np.arange(3))
    assert found.mean == 4.0 and found.error == pytest.approx(math.sqrt(13 / 3)) and found.df == pytest.approx(2)


def test_parts_are_weighed() -> None:
    rng = np.random.default_rng(0)
    labels = rng.normal(size=40).astype(np.float32)
    a, b, c, d = (rng.normal(size=(3, 40)).astype(np.float32) for _ in range(4))
    found = combined("mae", "mosi", [(1, a), (-1, b), (-1, c), (1, d)], labels, np.arange(40))
    single = [float(np.abs(x - labels).mean()) for x in (a, b, c, d)]
    assert found.mean == pytest.approx(single[0] - single[1] - single[2] + single[3], abs=1e-5)
    difference = compare("mae", "mosi", a, b, labels, np.arange(40))
    errors = paired_errors(np.abs(a - labels), np.abs(b - labels), np.arange(40))
    assert difference.mean == pytest.approx(errors.mean) and difference.error == pytest.approx(errors.error, rel=1e-4)
    with pytest.raises(AssertionError, match="same seeds"):
        compare("mae", "mosi", a, b[:2], labels, np.arange(40))


def test_one_video_leaves_the_seeds_alone() -> None:
    errors = np.random.default_rng(0).normal(size=(5, 9))
    found = paired_errors(errors, np.zeros((5, 9)), np.zeros(9, np.int64))
    assert found == estimate(errors.mean(1)) and found.clusters == 0


def test_many_videos_are_left_out_in_groups() -> None:
    rng = np.random.default_rng(3)
    errors, clusters = drawn(rng, 6, 700, 2)
    found = paired_errors(errors, np.zeros_like(errors), clusters)
    by_video = errors.mean(0).reshape(700, 2).mean(1)
    assert found.clusters == 700
    expected = math.sqrt(by_video.var(ddof=1) / 700 + errors.mean(1).var(ddof=1) / 6)
    assert found.error == pytest.approx(expected, rel=0.1)


def test_seeds_alone_are_the_seeds_own_interval() -> None:
    errors, clusters = drawn(np.random.default_rng(8), 6, 12, 4)
    both, alone = paired_errors(errors, np.zeros_like(errors), clusters), estimate(errors.mean(1))
    assert both.over_seeds.to_dict() == pytest.approx(alone.to_dict()) and alone.over_seeds is alone
    assert both.high - both.low > alone.high - alone.low


def test_videos_of_ids() -> None:
    assert videos(["b$_$1", "a$_$7", "b$_$2", "c"]).tolist() == [1, 0, 1, 2]


def test_p_agrees_with_scipy() -> None:
    x = np.random.default_rng(2).normal(0.1, 0.3, 12)
    assert estimate(x).p == pytest.approx(stats.ttest_1samp(x, 0.0).pvalue)
    assert estimate([0.4]).p == 1.0 and estimate([0.0, 0.0]).p == 1.0 and estimate([0.2, 0.2]).p == 0.0


def test_holm_by_hand() -> None:
    """Sorted .01 .02 .03 .04 become .04 .06 .06 .06; the largest can not be below a smaller one; none is above 1."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([0.03]) == [0.03] and holm([]) == []


def test_a_family_makes_a_false_claim_in_5_of_100_studies() -> None:
    rng = np.random.default_rng(0)
    false = [
        any(r["resolved"] for r in resolve([estimate(rng.normal(0, 1, 10)) for _ in range(8)])) for _ in range(800)
    ]
    assert np.mean(false) == pytest.approx(0.05, abs=0.03)


def test_a_claim_that_its_number_takes_back() -> None:
    weak, strong = estimate([0.1, 0.3, 0.2, 0.4, 0.02]), estimate([1.0, 1.01, 0.99, 1.0])
    assert weak.excludes_zero
    alone, among = resolve([weak])[0], resolve([weak, *[estimate([1.0, -1.0])] * 8, strong])
    assert alone["resolved"] and not among[0]["resolved"] and among[-1]["resolved"]
    assert among[0]["p"] == alone["p"] and {"mean", "n", "clusters", "p_adjusted"} <= set(alone)


def test_welch_is_scipys() -> None:
    a, b = over_seeds(1.0, 0.2, 5, 0, 0), over_seeds(0.7, 0.5, 12, 0, 0)
    found = welch(a, b)
    scipys = stats.ttest_ind_from_stats(1.0, 0.2, 5, 0.7, 0.5, 12, equal_var=False)
    assert found.p == pytest.approx(scipys.pvalue)
    assert (found.mean, found.n, found.clusters) == (pytest.approx(0.3), 5, 0)
    assert found.low == pytest.approx(0.3 - stats.t.ppf(0.975, found.df) * found.error)
    assert welch(a, over_seeds(0.7, 0.0, 1, 0.7, 0.7)).p == 1.0, "one seed resolves nothing"
    assert welch(over_seeds(1.0, 0.0, 3, 1, 1), over_seeds(1.0, 0.0, 3, 1, 1)).low == 0.0
