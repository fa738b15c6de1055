"""Why the winner wins, as tables: effects, interactions, the way from the baseline, arms and parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from search.report.collect import RunRecord
from search.report.figures.explained import pair_name, step_name
from search.report.tables.confirmed import claim
from search.report.tables.table import MAX_ROWS, Table, more, spelled
from search.report.wording import by_resolution, interval, is_resolved, label, number, place_name, read

METHODS = {"ped_anova": "PED-ANOVA", "fanova": "fANOVA"}


def effects(run: RunRecord) -> Table:
    """What each module of the winner does; resolved effects first."""
    entries = by_resolution(run.explain, "effects")
    frame, rows, marks = [], [], []
    for entry in entries:
        difference = read(entry["difference"])
        names = {k: entry[k] for k in ("module", "choice", "against")}
        more_of_it = {
            k: entry[k] for k in ("p", "p_adjusted", "resolved", "smallest_visible", "sentence") if k in entry
        }
        frame.append({**names, **spelled(difference), **more_of_it})
        rows.append(
            (
                str(entry["module"]),
                f"{entry['choice']} against {entry['against']}",
                interval(difference, signed=True),
                claim(entry),
                number(entry["smallest_visible"]),
                str(difference.n),
            )
        )
        marks.append("" if entry["resolved"] else "unresolved")
    columns = ("module", "choice", f"change in valid {label(run.metric)}", "resolved", "smallest visible", "seeds")
    return Table("effects", pd.DataFrame(frame), columns, tuple(rows), tuple(marks))


def importance(run: RunRecord) -> Table:
    """Both importances of every parameter, by their mean."""
    methods: Mapping[str, Mapping[str, float]] = (run.explain or {}).get("importance", {})
    conditional: Mapping[str, str] = (run.explain or {}).get("conditional", {})
    names = dict.fromkeys(name for values in methods.values() for name in values)
    ordered = sorted(names, key=lambda n: -sum(values.get(n, 0.0) for values in methods.values()))
    frame = pd.DataFrame(
        [
            {"parameter": n, **{m: methods.get(m, {}).get(n) for m in METHODS}, "only_with": conditional.get(n)}
            for n in ordered
        ]
    )
    rows = [(n, *(_share(methods.get(m, {}).get(n)) for m in METHODS), conditional.get(n, "")) for n in ordered]
    note = " ".join(text for text in (more(len(rows), "importance"), sample(run, "importance_sample")) if text)
    return Table("importance", frame, ("parameter", *METHODS.values(), "only with"), tuple(rows[:MAX_ROWS]), (), note)


def interactions(run: RunRecord) -> Table:
    """What pairs of modules do beyond the sum of their effects; the verified ones first."""
    entries: Sequence[Mapping[str, Any]] = (run.explain or {}).get("interactions", [])
    ordered = sorted(entries, key=lambda e: (not e["verified"], -abs(e["predicted"])))
    frame, rows, marks = [], [], []
    for entry in ordered:
        contrast = entry["contrast"]
        own = {"a": entry["modules"][0], "b": entry["modules"][1], "a_choice": entry["choices"][0]}
        own |= {"b_choice": entry["choices"][1], "a_against": entry["against"][0], "b_against": entry["against"][1]}
        keys = ("predicted", "verified", "smallest_visible", "sentence")
        frame.append({**own, **{k: entry[k] for k in keys}, **(contrast or {})})
        measured = ("not trained", "", "") if contrast is None else _measured(contrast, entry["smallest_visible"])
        rows.append((pair_name(entry), number(entry["predicted"], signed=True), *measured))
        marks.append("" if contrast is not None and is_resolved(contrast) else "unresolved")
    columns = ("modules", "predicted", f"interaction in valid {label(run.metric)}", "resolved", "smallest visible")
    note = more(len(rows), "interactions")
    return Table("interactions", pd.DataFrame(frame), columns, tuple(rows[:MAX_ROWS]), tuple(marks), note)


def path(run: RunRecord) -> Table:
    """The way from the baseline to the winner, one change after another."""
    steps: Sequence[Mapping[str, Any]] = (run.explain or {}).get("path", [])
    frame, rows, marks = [], [], []
    for step in steps:
        value, difference = read(step["value"]), step["difference"]
        changed = {k: "; ".join(map(str, step[k])) for k in ("changed", "before", "after")}
        own = {"step": step["step"], **changed, "predicted": step["predicted"], **spelled(value)}
        frame.append({**own, **{f"difference_{k}": v for k, v in (difference or {}).items()}})
        change = (
            ("reference", "") if difference is None else (interval(read(difference), signed=True), claim(difference))
        )
        rows.append((step_name(step, len(steps) - 1), interval(value), *change, str(value.n)))
        marks.append("baseline" if step["step"] == 0 else "winner" if step["step"] == len(steps) - 1 else "")
    columns = ("step", f"valid {label(run.metric)}", "difference to the step before", "resolved", "seeds")
    return Table("path", pd.DataFrame(frame), columns, tuple(rows), tuple(marks))


def arms(run: RunRecord) -> Table:
    """Every arm of every choice: how often it was tried, the best it reached, and its predicted mean."""
    entries: Sequence[Mapping[str, Any]] = (run.explain or {}).get("arms", [])
    places = list(dict.fromkeys(e["place"] for e in entries))
    best = math.inf if run.minimize else -math.inf
    ordered = sorted(
        entries, key=lambda e: (places.index(e["place"]), run.sign * (best if e["mean"] is None else e["mean"]))
    )
    rows = [
        (
            place_name(e["place"]),
            str(e["arm"]),
            str(e["trials"]),
            str(e["complete"]),
            "" if e["best"] is None else number(e["best"]),
            "" if e["mean"] is None else f"{number(e['mean'])} [{number(e['low'])}, {number(e['high'])}]",
        )
        for e in ordered
    ]
    columns = ("choice", "arm", "trials", "complete", f"best search {label(run.metric)}", "predicted mean")
    return Table("arms", pd.DataFrame(list(ordered)), columns, tuple(rows), (), sample(run, "surrogate"))


def sample(run: RunRecord, part: str) -> str:
    """Say how many trials a part of ``explain.json`` is made from; the record of an older run does not know."""
    counts: Mapping[str, Any] = (run.explain or {}).get(part, {})
    if "complete" not in counts:
        return ""
    if counts["trials"] == counts["complete"]:
        return f"Of all {counts['complete']} complete trials."
    return f"Of {counts['trials']} of {counts['complete']} complete trials, drawn at random."


def _measured(contrast: Mapping[str, Any], visible: float) -> tuple[str, str, str]:
    return interval(read(contrast), signed=True), claim(contrast), number(visible)


def _share(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f} %"
