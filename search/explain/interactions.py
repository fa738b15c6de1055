"""Whether modules of the winner help or hinder each other: 2 x 2 contrasts, the most promising trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from mmsa_core.errors import UserError
from search.explain.measure import Measure, limits, named, size
from search.explain.surrogate import Surrogate
from search.explain.switches import Switch, completed
from search.members import Candidate
from search.report.wording import interval, label, number
from search.statistics import Estimate, resolve, smallest_visible

VERIFIED = 3
"""Pairs that are trained: those with the largest predicted interaction."""


@dataclass(frozen=True)
class Crossed:
    """Two switches of the winner, the configuration with both of them, and the contrast that the surrogate predicts."""

    first: Switch
    second: Switch
    both: Candidate
    predicted: float


def crossed(
    winner: Candidate,
    found: Sequence[Switch],
    surrogate: Surrogate,
    candidate: Callable[[Mapping[str, Any], str], Candidate],
) -> list[Crossed]:
    """Return all pairs of switches that can be made together, the largest predicted interaction first.

    ``candidate`` makes one of a configuration and a name.
    """
    base, pairs = completed(winner.config), []
    for a, b in combinations(found, 2):
        one, other = completed(a.candidate.config), completed(b.candidate.config)
        tree = merged(base, one, other)
        if tree is None:
            continue
        try:
            both = completed(tree)
        except UserError:  # a strategy that needs what is switched off
            continue
        values = surrogate.predict([base, one, other, both])
        contrast = float(values[0] - values[1] - values[2] + values[3])
        pairs.append(Crossed(a, b, candidate(both, f"{a.candidate.name} and {b.candidate.name}"), contrast))
    return sorted(pairs, key=lambda pair: -abs(pair.predicted))


def merged(base: Mapping[str, Any], one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return ``base`` with the changes of both trees, or None where they change the same thing in two ways."""
    absent = object()
    found: dict[str, Any] = {}
    for key in dict.fromkeys([*base, *one, *other]):
        old, *new = (tree.get(key, absent) for tree in (base, one, other))
        if all(isinstance(value, Mapping) and "name" not in value for value in (old, *new)):
            found[key] = merged(old, *new)
            if found[key] is None:
                return None
        elif old in new or new[0] == new[1]:
            found[key] = new[0] if new[1] == old else new[1]
        else:
            return None
    return {key: value for key, value in found.items() if value is not absent}


def interactions(measure: Measure, winner: Candidate, pairs: Sequence[Crossed]) -> list[dict[str, Any]]:
    """Return every pair with its predicted contrast f(1, 1) - f(0, 1) - f(1, 0) + f(0, 0), and the measured one of the
    first ``VERIFIED``, which are one family for Holm's correction.

    The contrast is what the pair adds to the sum of its single effects; where the metric is to be minimized, a negative
    one says that the modules help each other.
    """
    measured: dict[int, Estimate] = {}
    for k, pair in enumerate(pairs[:VERIFIED]):
        terms = (1.0, winner), (-1.0, pair.first.candidate), (-1.0, pair.second.candidate), (1.0, pair.both)
        if (contrast := measure.sum(*terms)) is not None:
            measured[k] = contrast
    records = dict(zip(measured, resolve(list(measured.values())), strict=True))
    return [_row(measure, pair, measured.get(k), records.get(k), len(records)) for k, pair in enumerate(pairs)]


def _row(
    measure: Measure, pair: Crossed, contrast: Estimate | None, record: dict[str, Any] | None, family: int
) -> dict[str, Any]:
    switches = (pair.first, pair.second)
    names = " and ".join(named(s.place, s.chosen) for s in switches)
    if contrast is None or record is None:
        predicted = number(pair.predicted, signed=True)
        sentence = f"{names}: not trained; the surrogate predicts an interaction of {predicted}"
    elif not record["resolved"]:
        sentence = (
            f"{names}: an interaction is not resolved: {label(measure.metric)} with both differs from the sum of their "
            f"single effects by {interval(contrast, signed=True)}{limits(record, contrast, family)}"
        )
    else:
        verb = "help" if measure.sign * contrast.mean < 0 else "hinder"
        side = "lower" if contrast.mean < 0 else "higher"
        sentence = (
            f"{names} {verb} each other: with both, {label(measure.metric)} is {side} by {size(contrast)} than the sum "
            f"of their single effects{limits(record, contrast, family)}"
        )
    return {
        "modules": [s.place for s in switches],
        "choices": [s.chosen for s in switches],
        "against": [s.against for s in switches],
        "predicted": pair.predicted,
        "verified": record is not None,
        "contrast": record,
        "smallest_visible": None if contrast is None else smallest_visible(contrast),
        "sentence": sentence,
    }
