"""Candidates compared by what their members predicted, and what a comparison says after correction for all of its
kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmsa_core.config import NONE
from mmsa_core.data.split import Split, videos
from mmsa_core.errors import UserError
from mmsa_core.metrics import DIRECTIONS
from search.confirm import effect_seeds
from search.members import Candidate, load
from search.report.wording import interval, label, number
from search.statistics import CONFIDENCE, Estimate, combined, smallest_visible
from search.study import StudyConfig


class Measure:
    """Reads members filed in ``folder`` and compares them on the study's metric, with the seeds of effects."""

    def __init__(self, study: StudyConfig, folder: Path, valid: Split) -> None:
        self.metric = study.objective.metric
        self.convention = study.objective.decided
        self.seeds = effect_seeds(study)
        self.folder = folder
        self.valid = valid
        self._videos = videos(valid.ids)
        self._seen: dict[str, dict[int, NDArray[np.float32]]] = {}

    @property
    def sign(self) -> float:
        """What a value is multiplied with so that smaller is better."""
        return 1.0 if DIRECTIONS[self.metric] == "minimize" else -1.0

    def known(self, candidate: Candidate) -> bool:
        """Tell whether at least one member of a candidate finished."""
        return bool(self._predictions(candidate))

    def sum(self, *terms: tuple[float, Candidate]) -> Estimate | None:
        """Return the weighted sum of the candidates' metric over common seeds, or None where they have none."""
        seen = [self._predictions(candidate) for _, candidate in terms]
        common = [s for s in self.seeds if all(s in own for own in seen)]
        if not common:
            return None
        rows = [(w, np.stack([own[s] for s in common])) for (w, _), own in zip(terms, seen, strict=True)]
        return combined(self.metric, self.convention, rows, self.valid.labels, self._videos)

    def _predictions(self, candidate: Candidate) -> dict[int, NDArray[np.float32]]:
        if candidate.mark not in self._seen:
            try:
                members = load(self.folder, candidate, self.seeds, states=False)
            except UserError:  # none of them finished
                return self._seen.setdefault(candidate.mark, {})
            self._seen[candidate.mark] = dict(zip(members.seeds, members.predictions, strict=True))
        return self._seen[candidate.mark]


def size(difference: Estimate) -> str:
    """Return how large a difference is, whichever its sign, with its interval."""
    if difference.mean >= 0:
        return interval(difference)
    return interval(replace(difference, mean=-difference.mean, low=-difference.high, high=-difference.low))


def limits(record: Mapping[str, Any], difference: Estimate, family: int) -> str:
    """Return the end of a sentence: over how many seeds, whether correction took the difference away, what was
    visible."""
    seeds = f" over {difference.n} seed{'' if difference.n == 1 else 's'}"
    if difference.n < 2:
        return f"{seeds}, which resolves nothing"
    lost = ""
    if not record["resolved"] and difference.p < 1 - CONFIDENCE:
        lost = (
            f", resolved by itself (p = {difference.p:.2g}) but not after correction for {family} comparisons "
            f"(p = {record['p_adjusted']:.2g})"
        )
    return f"{seeds}{lost}; {number(smallest_visible(difference))} was the smallest effect visible"


def changed(metric: str, record: Mapping[str, Any], difference: Estimate, family: int) -> str:
    """Return what a change does to the metric: ``lowers MAE by 0.012 [0.004, 0.020] over 20 seeds; ...``."""
    end = limits(record, difference, family)
    if not record["resolved"]:
        return f"is not resolved: {label(metric)} differs by {interval(difference, signed=True)}{end}"
    verb = "lowers" if difference.mean < 0 else "raises"
    return f"{verb} {label(metric)} by {size(difference)}{end}"


def named(place: str, arm: str) -> str:
    """Return how a plug-in at a place is called in a sentence.

    >>> named("alignment.audio-vision", "coral"), named("encoders.text", "lstm"), named("fusion", "gated")
    ('coral on audio-vision', 'encoder lstm of text', 'fusion gated')
    """
    kind, _, at = place.partition(".")
    if kind == "alignment":
        return f"{'no alignment' if arm == NONE else arm} on {at}"
    if kind == "encoders":
        return f"no {at}" if arm == NONE else f"encoder {arm} of {at}"
    return f"no {place}" if arm == NONE else f"{place} {arm}"
