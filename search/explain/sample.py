"""The trials that explaining looks at: of a long search a sample, so that its time is bounded."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

SAMPLE = 1000
"""Complete trials that importances, the surrogate and its curves are made from (reports/benchmarks/explain_time.md)."""


def sampled(trials: Sequence[T], most: int = SAMPLE, seed: int = 0) -> list[T]:
    """Return all of ``trials``, or ``most`` of them in their order, drawn at random with a fixed seed.

    Every trial has the same chance: the best ones alone would say nothing of what the others did worse, and every n-th
    could always be the same one of its population.
    """
    if len(trials) <= most:
        return list(trials)
    return [trials[k] for k in sorted(random.Random(seed).sample(range(len(trials)), most))]
