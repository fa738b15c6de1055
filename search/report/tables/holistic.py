"""The holistic numbers as tables: slices of the test split, subsets of the modalities, and noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from search.report.collect import RunRecord
from search.report.figures.holistic import KINDS, slice_name
from search.report.tables.table import Table, spelled
from search.report.wording import MINUS, interval, label, number, read

SHOWN = ("corr", "acc2_has0", "acc2")
"""Metrics of a slice beside its MAE on the page; the CSV has all."""


def slices(run: RunRecord) -> Table:
    """The winner on every slice, and its difference from the baseline there."""
    entries = _part(run, "slices")
    shown = [m for m in SHOWN if any(m in e["metrics"] for e in entries)]
    frame, rows = [], []
    for e in entries:
        own = {k: e[k] for k in ("group", "name", "n", "videos", "skill")}
        estimates = {**spelled(read(e["mae"]), "mae_"), **spelled(read(e["difference"]), "difference_")}
        frame.append({**own, **estimates, **{f"winner_{m}": v for m, v in e["metrics"].items()}})
        cells = [_known(e["metrics"].get(m)) for m in shown]
        both = (interval(read(e["mae"])), interval(read(e["difference"]), signed=True))
        rows.append((slice_name(e), str(e["videos"]), *both, *cells, _known(e["skill"])))
    columns = ("slice", "videos", "winner's MAE", f"winner {MINUS} baseline", *map(label, shown), "skill")
    note = f"Skill is 1 {MINUS} MAE / MAE of always saying the training labels' median: 0 knows nothing, 1 is perfect."
    return Table("slices", pd.DataFrame(frame), columns, tuple(rows), (), note if rows else "")


def subsets(run: RunRecord) -> Table:
    """Winner and baseline with every subset of the modalities."""
    frame, rows = [], []
    for e in _part(run, "subsets"):
        winner, baseline, name = read(e["winner"]), read(e["baseline"]), " + ".join(e["modalities"])
        own = {**spelled(winner, "winner_"), **spelled(baseline, "baseline_")}
        frame.append({"modalities": name, **own, "skill": e["skill"]})
        rows.append((name, interval(winner), interval(baseline), _known(e["skill"])))
    columns = ("modalities", "winner's MAE", "baseline's MAE", "winner's skill")
    return Table("subsets", pd.DataFrame(frame), columns, tuple(rows))


def robustness(run: RunRecord) -> Table:
    """The areas under the curves of noise: the mean MAE over all levels."""
    entries = _part(run, "robustness")
    frame = [
        {"modality": e["modality"], "kind": e["kind"], "level": level, "winner": winner, "baseline": baseline}
        for e in entries
        for level, winner, baseline in zip(e["levels"], e["winner"], e["baseline"], strict=True)
    ]
    rows = [
        (e["modality"], KINDS.get(e["kind"], e["kind"]), number(e["area"]["winner"]), number(e["area"]["baseline"]))
        for e in entries
    ]
    columns = ("modality", "what is done to it", "winner's area", "baseline's area")
    note = "The area under a curve is the mean MAE over all levels, smaller is better." if rows else ""
    return Table("robustness", pd.DataFrame(frame), columns, tuple(rows), (), note)


def _part(run: RunRecord, name: str) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = (run.holistic or {}).get(name, [])
    return found


def _known(value: float | None) -> str:
    return "" if value is None else number(value)
