"""Elo ratings: what is conserved, a slow tournament, and intervals that know of videos."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from search.elo import K, expected, play, ratings, scores

Array = NDArray[np.float64]


def errors(candidates: int, rows: int, seed: int = 0, step: float = 0.1) -> Array:
    """Return errors of candidates that get worse from one to the next."""
    drawn = np.abs(np.random.default_rng(seed).normal(0, 1, (candidates, rows)))
    return drawn * (1 + step * np.arange(candidates))[:, None]


def shuffled(rows: int, count: int) -> NDArray[np.int64]:
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(rows) for _ in range(count)])


def slow(made: Array, order: NDArray[np.int64]) -> list[float]:
    """Return ratings after one utterance after the other, pair by pair."""
    rated = [1000.0] * len(made)
    for row in order:
        change = [0.0] * len(made)
        for a in range(len(made)):
            for b in range(len(made)):
                if a != b:
                    first, second = made[a, row], made[b, row]
                    result = 0.5 if abs(first - second) < 1e-6 else float(first < second)
                    change[a] += 4 * (result - 1 / (1 + 10 ** ((rated[b] - rated[a]) / 400)))
        rated = [r + c for r, c in zip(rated, change, strict=True)]
    return rated


def test_equals_a_slow_tournament() -> None:
    made = errors(3, 60, step=0.5)
    made[1, ::5] = made[0, ::5]
    orders = shuffled(60, 20)
    fast = play(scores(made, 1e-6), orders)
    assert fast.tolist() == [pytest.approx(slow(made, order), abs=1e-9) for order in orders]
    assert fast.std(0).min() > 0.5, "the order matters"


def test_ratings_are_the_median_over_orders() -> None:
    made = errors(4, 200, step=0.5)
    found = [r.rating for r in ratings(made, list(range(200)), 0)]
    played = play(scores(made, 1e-6), shuffled(200, 1000))
    assert found == pytest.approx(np.median(played, 0), abs=5 * 1.25 * played.std(0).max() * (2 / 1000) ** 0.5)


def test_the_sum_is_conserved_and_the_better_is_ahead() -> None:
    made = errors(6, 400)
    found = ratings(made, [i // 20 for i in range(400)], 0)
    assert sum(r.rating for r in found) == pytest.approx(6000, abs=1e-6)
    assert play(scores(made, 1e-6), shuffled(400, 50)).sum(1) == pytest.approx(6000, abs=1e-6)
    assert found[0].rating == max(r.rating for r in found) and found[-1].rating == min(r.rating for r in found)
    assert all(r.low < r.rating < r.high for r in found)
    assert found == ratings(made, [i // 20 for i in range(400)], 0)


def test_identical_configurations_have_1000_exactly() -> None:
    made = np.tile(errors(1, 50), (4, 1))
    for found in (ratings(made, list(range(50)), 1), ratings(made + np.arange(4)[:, None] * 1e-8, list(range(50)), 1)):
        assert {(r.rating, r.low, r.high) for r in found} == {(1000.0, 1000.0, 1000.0)}
    assert ratings(errors(1, 50), list(range(50)), 1)[0].rating == 1000


def test_less_than_a_tie_apart_is_a_draw() -> None:
    made = np.array([[0.10, 0.30], [0.15, 0.10]])
    assert scores(made, 0.06)[:, 0, 1].tolist() == [0.5, 0.0]
    assert scores(made, 1e-6)[:, 0, 1].tolist() == [1.0, 0.0]
    assert (scores(made, 0.06) + scores(made, 0.06).transpose(0, 2, 1) == 1).all()


def test_the_mean_course_is_what_the_mean_over_orders_tends_to() -> None:
    won = scores(errors(4, 300, step=0.2), 1e-6)
    played = play(won, shuffled(300, 3000))
    course = expected(won.mean(0)[None], np.array([300.0]))[0]
    assert course == pytest.approx(played.mean(0), abs=K)
    assert course.max() - course.min() > 10 * K
    half = expected(np.repeat(won.mean(0)[None], 2, 0), np.array([300.0, 150.0]))
    assert half[0] == pytest.approx(course, abs=1e-9)
    assert half[1] == pytest.approx(expected(won.mean(0)[None], np.array([150.0]))[0], abs=1e-9)


def test_intervals_resample_videos_not_utterances() -> None:
    """Where all utterances of a video end alike, a video is one observation, however many utterances it has."""
    rng = np.random.default_rng(3)
    better = np.repeat(rng.random(20) < 0.6, 30)
    made = np.stack([np.where(better, 0.2, 0.4), np.full(600, 0.3)])
    by_video = ratings(made, np.repeat(np.arange(20), 30).tolist(), 0)[0]
    by_row = ratings(made, list(range(600)), 0)[0]
    assert by_video.high - by_video.low > 3 * (by_row.high - by_row.low)
    assert by_video.rating == by_row.rating
    alone = ratings(made, ["one"] * 600, 0)[0]
    assert alone.low == alone.rating == alone.high, "one video says nothing of others"


def test_errors_need_a_video_each() -> None:
    with pytest.raises(AssertionError, match="a video for each row"):
        ratings(errors(2, 5), [1, 2], 0)
