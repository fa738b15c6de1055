"""Redundancy, uniqueness and synergy of two discrete sources, by the distribution that hides all synergy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmsa_core.analysis.gaussian import Parts

Array = NDArray[np.float64]
ROUNDS = 4000
"""Most rounds of the search."""
CHECKED = 50
"""Rounds between two looks at what they gained."""
RELAXED = 1.9
"""How far a round goes, as a power of its own step: below 2 it still ends where single steps do, and sooner."""
SCALINGS = 50
"""Scalings at the end, so that the marginals are right."""


def broja(p: Array, tolerance: float = 1e-9) -> Parts:
    """Return the parts, in bits, of distributions ``p`` [..., first, second, target].

    Of all distributions with the same p(first, target) and p(second, target) one is sought in which the two together
    say the least of the target: what p says beyond it is synergy. A round takes r(first, second) = sum_y q and fits
    each slice q(., ., y) = r a b to its marginals by scaling a and b: alternating projections, which lessen
    I_q(first, second; target). It ends when ``CHECKED`` rounds gain less than ``tolerance`` bits, or after ``ROUNDS``:
    where the best q has zeros it comes near them slowly, and the least information found is then too high by some
    1e-4 bits.

    Source: Bertschinger et al., Entropy 2014, arXiv:1311.2852; of multimodal data: Liang et al., NeurIPS 2023,
    arXiv:2302.12247, there by a conic solver.
    """
    assert p.ndim >= 3 and (p >= 0).all(), "a distribution [..., first, second, target]"
    shape = p.shape[:-3]
    p = np.moveaxis(p.reshape(-1, *p.shape[-3:]), 0, -1)  # many at once are fast where they stand last
    p = p / p.sum((0, 1, 2))
    one, two, both = _information(p.sum(1)), _information(p.sum(0)), _joint_information(p)
    least = np.clip(_joint_information(_least(p, tolerance)), np.maximum(one, two), np.minimum(both, one + two))
    return Parts(*(v.reshape(shape) for v in (one + two - least, least - two, least - one, both - least)))


def _least(p: Array, tolerance: float) -> Array:
    """Return q with the marginals of p [first, second, target, many] and the least information of both sources."""
    first, second = p.sum(1, keepdims=True), p.sum(0, keepdims=True)
    r = first.sum(2, keepdims=True) * second.sum(2, keepdims=True)
    b = _ratio(second, second.sum(0, keepdims=True) * second.sum(2, keepdims=True))
    known = np.full(p.shape[-1], np.inf)
    for number in range(1, ROUNDS + 1):
        a = _ratio(first, (r * b).sum(1, keepdims=True))
        b = _ratio(second, (r * a).sum(0, keepdims=True))
        q = r * a * b
        if number % CHECKED == 0:
            now = _joint_information(q)
            if np.abs(known - now).max() < tolerance:
                break
            known = now
        r = r * _ratio(q.sum(2, keepdims=True), r) ** RELAXED
    for _ in range(SCALINGS):
        q = q * _ratio(first, q.sum(1, keepdims=True))
        q = q * _ratio(second, q.sum(0, keepdims=True))
    return np.asarray(q)


def _ratio(wanted: Array, found: Array) -> Array:
    return np.divide(wanted, found, out=np.zeros_like(found), where=found > 0)


def _joint_information(p: Array) -> Array:
    """Return I(first, second; target) of [first, second, target, many]."""
    return _information(p.reshape(-1, *p.shape[2:]))


def _information(p: Array) -> Array:
    """Return the mutual information in bits of [source, target, many]."""
    independent = p.sum(1, keepdims=True) * p.sum(0, keepdims=True)
    ratio = np.divide(p, independent, out=np.ones_like(p), where=(p > 0) & (independent > 0))
    return np.asarray(np.maximum((p * np.log2(ratio)).sum((0, 1)), 0.0))
