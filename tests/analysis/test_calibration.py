"""Observed against nominal shares of labels inside intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mmsa_core.analysis.calibration import LEVELS, calibration


def test_by_hand() -> None:
    prediction, labels = np.zeros(4, np.float32), np.array([-0.5, 1.0, 2.0, 3.0], np.float32)
    found = calibration(prediction, lambda level: np.full(4, 4 * level), labels, [0.25, 0.5])
    assert found.nominal == [0.25, 0.5] and found.observed == [0.5, 0.75], "an end lies inside"
    assert found.error == pytest.approx(0.25) and found.n == 4
    assert found.to_dict() == {"nominal": [0.25, 0.5], "observed": [0.5, 0.75], "error": 0.25, "n": 4}


@pytest.mark.parametrize(("believed", "low", "high"), [(1.0, 0.0, 0.02), (0.5, 0.2, 0.3), (2.0, 0.15, 0.3)])
def test_intervals_of_a_known_deviation(believed: float, low: float, high: float) -> None:
    """Labels are standard normal; where the model believes in half of the deviation, too few of them lie inside."""
    labels = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    found = calibration(
        np.zeros(4000, np.float32), lambda p: np.full(4000, believed * stats.norm.ppf((1 + p) / 2)), labels
    )
    assert found.nominal == list(LEVELS) and low <= found.error < high
    for nominal, observed in zip(found.nominal, found.observed, strict=True):
        truth = 2 * stats.norm.cdf(believed * stats.norm.ppf((1 + nominal) / 2)) - 1
        assert observed == pytest.approx(truth, abs=4 * math.sqrt(truth * (1 - truth) / 4000))
