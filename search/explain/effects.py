"""The effect of every module of the winner: with it minus without it, with the same seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmsa_core.config import NONE
from search.explain.measure import Measure, changed, named
from search.explain.switches import Switch
from search.members import Candidate
from search.statistics import resolve, smallest_visible


def effects(measure: Measure, winner: Candidate, found: Sequence[Switch]) -> list[dict[str, Any]]:
    """Return each switch's effect on the study's metric, winner minus switched, paired by seed, largest gain first.

    They are one family for Holm's correction. A switched configuration that failed with every seed has no effect to
    show and is left out.
    """
    measured = [(s, d) for s in found if (d := measure.sum((1.0, winner), (-1.0, s.candidate))) is not None]
    records = resolve([difference for _, difference in measured])
    table = []
    for (switch, difference), record in zip(measured, records, strict=True):
        subject = named(switch.place, switch.chosen)
        against = "" if switch.against == NONE else f" against {switch.against}"
        table.append(
            {
                "module": switch.place,
                "choice": switch.chosen,
                "against": switch.against,
                "difference": record,
                **{key: record[key] for key in ("p", "p_adjusted", "resolved")},
                "smallest_visible": smallest_visible(difference),
                "sentence": f"{subject}{against} {changed(measure.metric, record, difference, len(records))}",
            }
        )
    return sorted(table, key=lambda row: measure.sign * row["difference"]["mean"])
