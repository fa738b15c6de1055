"""Whether intervals hold what they promise: how many labels lie inside those of each level.

Source: Kuleshov et al., ICML 2018, arXiv:1807.00263, section 3.5. Deviation: the error is the mean absolute difference
between nominal and observed, in the unit of a share, not a weighted sum of its squares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

LEVELS = tuple(k / 20 for k in range(1, 20))


@dataclass(frozen=True)
class Calibration:
    """Nominal and observed shares of ``n`` labels inside intervals, and the mean size of their difference."""

    nominal: list[float]
    observed: list[float]
    error: float
    n: int

    def to_dict(self) -> dict[str, list[float] | float | int]:
        return asdict(self)


def calibration(
    prediction: NDArray[np.float32],
    half_width: Callable[[float], NDArray[np.float64]],
    labels: NDArray[np.float32],
    levels: Sequence[float] = LEVELS,
) -> Calibration:
    """Compare intervals ``prediction`` [row] +- ``half_width(level)`` [row] with labels that took no part in them."""
    errors = np.abs(labels.astype(np.float64) - prediction)
    observed = [float((errors <= half_width(level)).mean()) for level in levels]
    difference = np.abs(np.subtract(observed, levels))
    return Calibration(list(levels), observed, float(difference.mean()), len(labels))
