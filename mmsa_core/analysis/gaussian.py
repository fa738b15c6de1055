"""Redundancy, uniqueness and synergy of two sources that predict a scalar, in closed form from three held-out R2."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
CERTAIN = 1e-12
"""The least unexplained share of variance: a target predicted without error has 20 bits, not infinitely many."""


class Parts(NamedTuple):
    """The information in two sources, in bits, each of any shape: known from either, from one alone, and only from
    both together. Redundancy and the first's own make up what the first says; all four what both say."""

    redundancy: Array
    unique_first: Array
    unique_second: Array
    synergy: Array


def information(r2: Array | float) -> Array:
    """Return the bits -1/2 log2(1 - R2) that a prediction says of a Gaussian target.

    A held-out R2 below 0 (worse than the mean) counts as 0: who knows nothing can predict the mean.

    >>> float(information(0.75))
    1.0
    """
    unknown = 1 - np.maximum(np.asarray(r2, dtype=np.float64), 0.0)
    bits: Array = -0.5 * np.log2(np.maximum(unknown, CERTAIN))
    return np.asarray(bits + 0.0)


def decompose(first: Array | float, second: Array | float, joint: Array | float) -> Parts:
    """Return the parts from the held-out R2 of the first source, of the second, and of both.

    For jointly Gaussian sources and a scalar target every decomposition that depends on the pairs (source, target)
    alone has the smaller of the two informations as redundancy, be it the same in both or not; whether two sources
    repeat each other is told by redundancy less synergy, I_1 + I_2 - I_12, on which all decompositions agree. Where
    both together predict worse than the better one alone, which only a finite sample does, the better one's R2 is taken
    for both: synergy is 0, and no part is negative.

    Source: Barrett, Physical Review E 2015, arXiv:1411.2832, section 4; of multimodal data: Liang et al., NeurIPS 2023,
    arXiv:2302.12247.

    >>> [float(p) for p in decompose(0.75, 0.0, 0.9375)]
    [0.0, 1.0, 0.0, 1.0]
    """
    one, two = information(first), information(second)
    both = np.maximum(information(joint), np.maximum(one, two))
    redundancy = np.minimum(one, two)
    return Parts(redundancy, one - redundancy, two - redundancy, both - np.maximum(one, two))
