"""Non-dominated sorting of points of two losses."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

Point = tuple[float, float]
"""Two losses of one thing: smaller is better in both."""


def ranks(points: Sequence[Point]) -> list[int]:
    """Return the front of every point: 0 where no other point dominates it, 1 where only points of front 0 do, ...

    A point dominates another that it is not worse than in both losses and better than in one; equal points share a
    front. Where the second losses are all equal this orders the first ones.

    In lexicographic order dominators come first, and the smallest second loss of a front grows with the front: a
    point's front is found by bisection, n log n in all.

    Source: Jensen, IEEE Transactions on Evolutionary Computation 2003, 7(5), the case of two objectives.
    """
    found = [0] * len(points)
    least: list[float] = []  # by front, the smallest second loss so far
    order = sorted(range(len(points)), key=lambda k: points[k])
    for before, k in zip([None, *order], order, strict=False):
        if before is not None and points[before] == points[k]:
            found[k] = found[before]
            continue
        found[k] = bisect_right(least, points[k][1])
        least[found[k] : found[k] + 1] = [points[k][1]]
    return found
