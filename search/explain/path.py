"""The way from the baseline to the winner, one module after another: the surrogate orders it, seeds measure it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from search.explain.measure import Measure, changed, limits
from search.explain.surrogate import Surrogate
from search.explain.switches import completed
from search.explain.units import Ends
from search.members import Candidate
from search.report.wording import interval, label
from search.statistics import resolve

STEPS = 8
"""Steps of a path at most; each costs one more configuration with the seeds of effects."""


@dataclass(frozen=True)
class Step:
    """A configuration on the way, and the units that changed since the one before."""

    units: tuple[str, ...]
    candidate: Candidate
    predicted: float


def steps(
    ends: Ends,
    baseline: Candidate,
    winner: Candidate,
    surrogate: Surrogate,
    sign: float,
    candidate: Callable[[Mapping[str, Any], str], Candidate],
) -> list[Step]:
    """Return the way from the baseline to the winner: every next change is the one predicted to be best; what cannot be
    changed alone is changed together. Of the steps above ``STEPS`` those that are predicted to do least are joined.

    ``sign`` makes smaller better, ``candidate`` makes one of a configuration and a name. Without a difference between
    the ends there are no steps.

    Source: Fawcett & Hoos, Journal of Heuristics 2016, doi:10.1007/s10732-014-9275-9; with a surrogate: Biedenkapp et
    al., AAAI 2017.
    """
    if not ends.units:
        return []
    way: list[Step] = [Step((), baseline, float(surrogate.predict([ends.first])[0]))]
    done: list[str] = []
    while left := [u for u in ends.units if u not in done]:
        options = list({tuple(ends.together(unit, done)): None for unit in left})
        trees = [completed(ends.at([*done, *units])) for units in options]
        values = surrogate.predict(trees)
        best = min(range(len(options)), key=lambda k: sign * values[k])
        done += options[best]
        name = f"step {len(way)}: {', '.join(options[best])}"
        way.append(Step(options[best], candidate(trees[best], name), float(values[best])))
    return _shortened([*way[:-1], replace(way[-1], candidate=winner)])


def _shortened(way: Sequence[Step]) -> list[Step]:
    """Join steps until there are ``STEPS`` at most (the baseline, where the way starts, not counted)."""
    found = list(way)
    while len(found) > STEPS + 1:
        moves = [abs(b.predicted - a.predicted) for a, b in pairwise(found)]
        k = min(range(len(moves) - 1), key=lambda k: moves[k] + moves[k + 1]) + 1
        found[k : k + 2] = [replace(found[k + 1], units=found[k].units + found[k + 1].units)]
    return found


def reached(measure: Measure, way: Sequence[Step]) -> list[Step]:
    """Return the steps of which at least one member finished; the changes of the others go into the next one."""
    found: list[Step] = []
    units: tuple[str, ...] = ()
    for step in way:
        units += step.units
        if measure.known(step.candidate):
            found.append(replace(step, units=units))
            units = ()
    return found


def path(measure: Measure, ends: Ends, way: Sequence[Step]) -> list[dict[str, Any]]:
    """Return every step's value and its paired difference to the step before; the differences are one family for Holm's
    correction. Where the baseline is the winner there is no way to show."""
    if len(way) < 2:
        return []
    pairs = list(pairwise(way))
    moves = [measure.sum((1.0, step.candidate), (-1.0, before.candidate)) for before, step in pairs]
    there = [move for move in moves if move is not None]
    records = iter(resolve(there))
    rows = []
    for k, (step, move) in enumerate(zip(way, [None, *moves], strict=True)):
        value = measure.sum((1.0, step.candidate))
        assert value is not None, "a step that was reached has members"
        record = None if move is None else next(records)
        start = f"{ends.described(step.units)}: " if step.units else "the baseline: "
        said = f"{label(measure.metric)} {interval(value)}"
        if move is not None and record is not None:
            said = changed(measure.metric, record, move, len(there))
        changes = ends.changes(step.units)
        row = {"step": k, "changed": list(changes), "before": [old for old, _ in changes.values()]}
        row |= {"after": [new for _, new in changes.values()], "predicted": step.predicted, "value": value.to_dict()}
        rows.append({**row, "difference": record, "sentence": start + said})
    return rows


def spared(measure: Measure, ends: Ends, way: Sequence[Step]) -> dict[str, Any] | None:
    """Return the first step that is as good as the winner, and so what the winner could do without; None if there is
    none.

    As good is what is at most one standard error of the paired difference worse.

    Source: Breiman et al., Classification and Regression Trees, 1984, section 3.4.3 (the rule of one standard error).
    """
    for k, step in enumerate(way[:-1]):
        difference = measure.sum((1.0, step.candidate), (-1.0, way[-1].candidate))
        if difference is None or difference.n < 2 or measure.sign * difference.mean > difference.error:
            continue
        units = [unit for later in way[k + 1 :] for unit in later.units]
        (record,) = resolve([difference])
        verdict = "better" if record["resolved"] else "as good"
        return {
            "step": k,
            "without": list(ends.changes(units)),
            "difference": record,
            "sentence": (
                f"without {ends.described(units)} it would be {verdict}: {label(measure.metric)} differs by "
                f"{interval(difference, signed=True)}{limits(record, difference, 1)}"
            ),
        }
    return None
