"""The search as tables: its complete trials, all trials, what failed, and the ranges that were searched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pandas as pd

from search.nodes import FloatRange, IntRange, Leaf, options
from search.report.collect import RunRecord
from search.report.tables.table import MAX_ROWS, Table, changed_modules, more, role_of
from search.report.wording import label, number


def leaderboard(run: RunRecord) -> Table:
    """The complete trials by their search value."""
    frame, rows, marks = [], [], []
    for place, trial in enumerate(run.ranked, 1):
        assert trial.value is not None
        role = role_of(run, trial.number)
        own = {"rank": place, "trial": trial.number, "role": role, "value": trial.value}
        frame.append({**own, "seconds": trial.seconds, "parameters": trial.parameters, **trial.params})
        name = f"{trial.number}{f' ({role})' if role else ''}"
        rows.append((str(place), name, number(trial.value), changed_modules(run, trial)))
        marks.append(role)
    columns = ("rank", "trial", f"search {label(run.metric)}", "modules that differ from the baseline")
    note = more(len(rows), "leaderboard")
    return Table("leaderboard", pd.DataFrame(frame), columns, tuple(rows[:MAX_ROWS]), tuple(marks), note)


def failures(run: RunRecord) -> Table:
    """What failed, in the search and in confirmation, with equal reasons put together."""
    found = [(f"trial {t.number}", t.reason) for t in run.trials if t.reason is not None]
    for entry in (run.confirm or {"candidates": []})["candidates"]:
        found += [(f"confirming trial {entry['trial']}", str(reason)) for reason in entry["failures"]]
    groups: dict[str, list[str]] = defaultdict(list)
    for where, reason in found:
        groups[reason].append(where)
    rows = [(str(len(w)), reason, _listed(w)) for reason, w in sorted(groups.items(), key=lambda g: -len(g[1]))]
    frame = pd.DataFrame(found, columns=["where", "reason"])
    note = more(len(rows), "failures")
    return Table("failures", frame, ("count", "reason", "where"), tuple(rows[:MAX_ROWS]), (), note)


def trials(run: RunRecord) -> Table:
    """Every trial with its parameters."""
    frame = [
        {
            "number": t.number,
            "role": role_of(run, t.number),
            "state": t.state,
            "value": t.value,
            "last_value": t.last,
            "last_rung": t.last_rung,
            "seconds": t.seconds,
            "parameters": t.parameters,
            "reason": t.reason,
            **t.params,
        }
        for t in run.trials
    ]
    rows = [
        (
            str(t.number),
            t.state,
            "" if t.last is None else number(t.last),
            str(t.last_rung or ""),
            changed_modules(run, t),
        )
        for t in run.trials
    ]
    value = f"last valid {label(run.metric)}"
    columns = ("trial", "state", value, "last rung (epoch)", "modules that differ from the baseline")
    limit = 10 * MAX_ROWS
    note = f"{limit} of {len(rows)} trials; tables/trials.csv has all." if len(rows) > limit else ""
    return Table("trials", pd.DataFrame(frame), columns, tuple(rows[:limit]), (), note)


def ranges(run: RunRecord) -> Table:
    """What was searched: every parameter with its range, the default, and what the winner has."""
    params = {} if run.winner is None else run.trials[run.winner].params
    frame = [
        {"parameter": name, "range": _range(leaf), "default": leaf.default, "winner": params.get(name)}
        for name, leaf in run.leaves.items()
    ]
    rows = [(n, _range(leaf), _short(leaf.default), _short(params.get(n))) for n, leaf in run.leaves.items()]
    return Table("ranges", pd.DataFrame(frame), ("parameter", "range", "default", "winner"), tuple(rows))


def _range(leaf: Leaf) -> str:
    if isinstance(leaf, FloatRange | IntRange):
        step = f", step {leaf.step}" if isinstance(leaf, IntRange) and leaf.step > 1 else ""
        return f"{leaf.low:g} to {leaf.high:g}{', log' if leaf.log else ''}{step}"
    return ", ".join(map(str, options(leaf)))


def _short(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _listed(names: Sequence[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
