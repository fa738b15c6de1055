"""The confirmed candidates as tables: against the baseline, among each other, and on the test split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from search.report.collect import RunRecord
from search.report.tables.table import Table, role_of, spelled
from search.report.wording import MINUS, chance, interval, is_resolved, label, number, read, spread, thousands


def confirmed(run: RunRecord) -> Table:
    """The candidates on fresh seeds."""
    record = run.confirm or {"candidates": [], "baseline": None}
    search = {t.number: t.value for t in run.trials}
    rated = any("elo" in entry for entry in record["candidates"])
    frame, rows, marks = [], [], []
    for entry in record["candidates"]:
        role, before = role_of(run, entry["trial"]), search.get(entry["trial"])
        reference = entry["trial"] == record["baseline"]
        frame.append(_unrounded(run, entry, role, before))
        value, difference = read(entry["valid"][run.metric]), entry["difference"]
        rows.append(
            (
                f"trial {entry['trial']}{f' ({role})' if role else ''}",
                interval(value),
                "pruned" if before is None else number(before),
                "reference" if reference else interval(read(difference), signed=True),
                "" if reference else claim(difference),
                *([_rating(entry["elo"]) if "elo" in entry else ""] if rated else []),
                _seeds(entry, value.n),
                thousands(entry["parameters"]),
            )
        )
        marks.append(role)
    titles = ["candidate", f"valid {label(run.metric)}", "in the search", "difference from baseline", "resolved"]
    columns = (*titles, *(["Elo"] if rated else []), "seeds", "parameters")
    return Table("confirmed", pd.DataFrame(frame), columns, tuple(rows), tuple(marks))


def pairs(run: RunRecord) -> Table:
    """The leaders that ran to the end against each other, the metric of the row minus that of the column."""
    entries = (run.confirm or {}).get("pairs", [])
    frame = [{"a": e["a"], "b": e["b"], **e["difference"]} for e in entries]
    found = {(e["a"], e["b"]): _cell(e["difference"], 1.0) for e in entries}
    found |= {(e["b"], e["a"]): _cell(e["difference"], -1.0) for e in entries}
    order = [c["trial"] for c in (run.confirm or {"candidates": []})["candidates"]]
    trials = [n for n in order if any(n in pair for pair in found)]
    rows = tuple((f"trial {a}", *("" if a == b else found.get((a, b), "") for b in trials)) for a in trials)
    columns = (f"valid {label(run.metric)}, row {MINUS} column", *(f"trial {b}" for b in trials))
    note = "A star marks a difference that is resolved after Holm's correction over all pairs." if rows else ""
    return Table("pairs", pd.DataFrame(frame), columns, rows, (), note)


def test(run: RunRecord) -> Table:
    """All metrics of the winner and the baseline on the test split."""
    record = (run.confirm or {}).get("test")
    if record is None:
        return Table("test", pd.DataFrame(), (), ())
    frame, rows, marks = [], [], []
    same = run.confirm is not None and run.confirm["winner"] == run.confirm["baseline"]
    for metric, entry in record["winner"].items():
        winner, base = read(entry), read(record["baseline"][metric])
        frame.append({"metric": metric, **spelled(winner, "winner_"), **spelled(base, "baseline_")})
        both = (spread(base),) if same else (spread(winner), spread(base))
        rows.append((label(metric), *both, str(winner.n)))
        marks.append("objective" if metric == run.metric else "")
    columns = ("metric", "baseline", "seeds") if same else ("metric", "winner", "baseline", "seeds")
    return Table("test", pd.DataFrame(frame), columns, tuple(rows), tuple(marks))


def claim(record: Mapping[str, Any]) -> str:
    """Return whether a difference is resolved, with the corrected p-value where its record has one."""
    said = "yes" if is_resolved(record) else "no"
    return f"{said}, p {chance(record['p_adjusted'])}" if "p_adjusted" in record else said


def _unrounded(run: RunRecord, entry: Mapping[str, Any], role: str, before: float | None) -> dict[str, Any]:
    difference, elo = entry["difference"], entry.get("elo", {})
    return {
        "trial": entry["trial"],
        "role": role,
        "search_value": before,
        **spelled(read(entry["valid"][run.metric])),
        **spelled(read(difference), "difference_"),
        **{f"difference_{k}": difference[k] for k in ("p", "p_adjusted") if k in difference},
        "resolved": is_resolved(difference),
        "dropped_after": entry.get("dropped_after"),
        **{f"elo_{k}": v for k, v in elo.items()},
        "best_epoch": entry["best_epoch"],
        "seconds": entry["seconds"],
        "parameters": entry["parameters"],
        "failed_seeds": len(entry["failures"]),
        **{f"valid_{m}": e["mean"] for m, e in entry["valid"].items()},
    }


def _seeds(entry: Mapping[str, Any], count: int) -> str:
    dropped = entry.get("dropped_after")
    return str(count) if dropped is None else f"{count} (out)"


def _rating(elo: Mapping[str, float]) -> str:
    return f"{elo['rating']:.0f} [{elo['low']:.0f}, {elo['high']:.0f}]"


def _cell(record: Mapping[str, Any], sign: float) -> str:
    star = " *" if is_resolved(record) else ""
    return f"{number(sign * record['mean'], 3, signed=True)}{star}"
