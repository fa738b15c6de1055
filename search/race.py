"""The race over fresh seeds: every candidate runs with the first seeds, and only those not clearly behind run on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmsa_core.metrics import DIRECTIONS, Convention, objective_rows
from search.members import Candidate, drop_weights, has_members, load
from search.statistics import holm, paired

FALSE_DROP = 0.05
"""The chance that a race drops a candidate that is as good as its best."""
LEAST = 3
"""Seeds of the first heat, at least: with fewer, the spread over seeds is not known."""

Round = list[tuple[Candidate, list[int]]]
"""Candidates, each with the seeds that it needs by the end of the round."""
Rounds = Callable[[], Iterator[Round]]


def at_once(candidates: Sequence[Candidate], seeds: Sequence[int]) -> Iterator[Round]:
    """Train every candidate with every seed, in one round."""
    yield [(c, list(seeds)) for c in candidates]


def lean(rounds: Rounds, folder: Path) -> Iterator[Round]:
    """Return the rounds; before each, the weights of all that are not in it go."""
    for following in rounds():
        drop_weights(folder, [c for c, _ in following])
        yield following


@dataclass(frozen=True)
class Heat:
    """Who entered with how many seeds, by trial number, and who was dropped after it."""

    seeds: int
    entered: tuple[int, ...]
    dropped: tuple[int, ...]


@dataclass(frozen=True)
class Race:
    """The leaders and the baseline over common seeds; the heats end at a quarter of the seeds, at half and at all.

    After a heat a leader drops out that is worse than the best so far, paired by seed, by Holm's correction over the
    leaders and Bonferroni's over the heats. The baseline never drops out: everything is compared with it.

    ``candidates`` are by trial number. Source of the idea: Lopez-Ibanez et al., Operations Research Perspectives 2016
    (iterated racing); the tests and the corrections are ours.
    """

    candidates: Mapping[int, Candidate]
    baseline: int
    seeds: tuple[int, ...]
    folder: Path
    metric: str
    convention: Convention
    labels: NDArray[np.float32]

    @property
    def sign(self) -> float:
        """What a value is multiplied with so that smaller is better."""
        return 1.0 if DIRECTIONS[self.metric] == "minimize" else -1.0

    @property
    def lengths(self) -> list[int]:
        """The number of seeds at the end of each heat."""
        n = len(self.seeds)
        return sorted({min(n, max(LEAST, math.ceil(n * share))) for share in (0.25, 0.5, 1.0)})

    def rounds(self) -> Iterator[Round]:
        """Return what each heat needs; a heat is decided when the next one is asked for."""
        entered = tuple(self.candidates)
        for length in self.lengths:
            yield [(self.candidates[n], list(self.seeds[:length])) for n in entered]
            entered = tuple(n for n in entered if n not in self._behind(entered, length))

    def heats(self) -> list[Heat]:
        """Return the heats as the filed members decide them."""
        found, entered = [], tuple(self.candidates)
        for length in self.lengths:
            dropped = self._behind(entered, length)
            found.append(Heat(length, entered, dropped))
            entered = tuple(n for n in entered if n not in dropped)
        return found

    def values(self, number: int, length: int | None = None) -> dict[int, float]:
        """Return the metric on the valid split by seed, of the members that finished with the first ``length``."""
        seeds = self.seeds[:length]
        if not has_members(self.folder, self.candidates[number], seeds):
            return {}
        members = load(self.folder, self.candidates[number], seeds, states=False)
        rows = objective_rows(self.metric, members.predictions, self.labels, self.convention)
        return {s: float(v) for s, v in zip(members.seeds, rows, strict=True)}

    def _behind(self, entered: Sequence[int], length: int) -> tuple[int, ...]:
        """Return who is clearly worse than the best after ``length`` seeds, or has no member; after the last heat only
        the latter."""
        values = {n: self.values(n, length) for n in entered}
        lost = tuple(n for n in entered if n != self.baseline and not values[n])
        running = [n for n in entered if values[n]]
        if length == self.lengths[-1] or len(running) < 2:
            return lost
        best = min(running, key=lambda n: self.sign * float(np.mean(list(values[n].values()))))
        others = [n for n in running if n not in (best, self.baseline)]
        gaps = []
        for n in others:
            common = [s for s in values[n] if s in values[best]]
            gaps.append(paired([values[n][s] for s in common], [values[best][s] for s in common]) if common else None)
        ps = holm([1.0 if g is None else g.p for g in gaps])
        level = FALSE_DROP / (len(self.lengths) - 1)
        worse = (n for n, g, p in zip(others, gaps, ps, strict=True) if g and self.sign * g.mean > 0 and p < level)
        return (*lost, *worse)
