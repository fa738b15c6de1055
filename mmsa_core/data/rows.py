"""Which rows of a padded sequence are real, and how they come to stand first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def left_align(
    values: NDArray[np.float32], given: NDArray[np.int64] | None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return sequences [N, T, d] with their real rows first and zeros behind, and the number of real rows [N].

    ``given`` [N] are lengths from the file: the first rows are real, or the last ones where only those hold values
    (MMSA-FET can pad in front). Without them the zero rows at both ends are padding; zero rows between others are real.
    A sample without any value has length 0, whatever the file says: its modality is missing. So an utterance-level
    vector (T = 1) that is all zero counts as missing too. Time is cut to the longest sequence, but not below 1.
    """
    samples, time, _ = values.shape
    filled = (values != 0).any(axis=2)
    first = filled.argmax(axis=1)
    end = np.where(filled.any(axis=1), time - filled[:, ::-1].argmax(axis=1), 0)
    if given is None:
        start, lengths = first, np.where(end > 0, end - first, 0)
    else:
        padded_in_front = (end > given) & (first >= time - given)
        start, lengths = np.where(padded_in_front, time - given, 0), given
    steps = np.arange(max(1, lengths.max()))
    index = np.minimum(start[:, None] + steps, time - 1)
    aligned = values[np.arange(samples)[:, None], index]
    aligned[steps >= lengths[:, None]] = 0
    present = aligned.any(axis=(1, 2))
    return aligned, np.where(present, lengths, 0).astype(np.int64)
