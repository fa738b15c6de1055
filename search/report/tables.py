"""The tables of a report: a data frame for the CSV, and the same rows as text for the page and for Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from search.report.collect import RunRecord, TrialRecord
from search.report.wording import by_resolution, interval, label, number, read, spread
from search.statistics import Estimate

MAX_ROWS = 20
"""Rows of the leaderboard and of the failures on the page; the CSV has all."""


@dataclass(frozen=True)
class Table:
    """``frame`` is complete and unrounded; ``rows`` are what a person reads, with a mark (a CSS class) each."""

    name: str
    frame: pd.DataFrame
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marks: tuple[str, ...] = ()
    note: str = ""

    def markdown(self) -> str:
        """Return the rows as a Markdown table."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        text = "\n".join("| " + " | ".join(map(escape, line)) + " |" for line in lines)
        return f"{text}\n\n{escape(self.note)}" if self.note else text


def escape(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    for character, code in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("`", "\\`"), ("*", "\\*"), ("\n", " ")):
        text = text.replace(character, code)
    return text


def tables(run: RunRecord) -> dict[str, Table]:
    """Return every table of a run by name; those of stages that are not done are empty."""
    made = [confirmed(run), test(run), effects(run), importance(run), leaderboard(run), failures(run), trials(run)]
    return {t.name: t for t in made}


def confirmed(run: RunRecord) -> Table:
    """The candidates on fresh seeds."""
    record = run.confirm or {"candidates": []}
    search = {t.number: t.value for t in run.trials}
    frame, rows, marks = [], [], []
    for entry in record["candidates"]:
        value, difference = read(entry["valid"][run.metric]), read(entry["difference"])
        role = _role(run, entry["trial"])
        before = search.get(entry["trial"])
        frame.append(
            {
                "trial": entry["trial"],
                "role": role,
                "search_value": before,
                **_flat(value),
                **_flat(difference, "difference_"),
                "resolved": difference.excludes_zero,
                "best_epoch": entry["best_epoch"],
                "seconds": entry["seconds"],
                "parameters": entry["parameters"],
                "failed_seeds": len(entry["failures"]),
                **{f"valid_{m}": e["mean"] for m, e in entry["valid"].items()},
            }
        )
        reference = entry["trial"] == record["baseline"]
        rows.append(
            (
                f"trial {entry['trial']}{f' ({role})' if role else ''}",
                interval(value),
                "reference" if reference else interval(difference, signed=True),
                "" if reference else "yes" if difference.excludes_zero else "no",
                "dropped" if before is None else number(before),
                str(value.n),
                f"{entry['parameters']:,}".replace(",", " "),
                number(entry["seconds"], 1),
            )
        )
        marks.append(role)
    titles = ["candidate", f"valid {label(run.metric)}", "difference from baseline", "resolved", "search value"]
    columns = (*titles, "seeds", "parameters", "seconds per seed")
    return Table("confirmed", pd.DataFrame(frame), columns, tuple(rows), tuple(marks))


def test(run: RunRecord) -> Table:
    """All metrics of the winner and the baseline on the test split."""
    record = (run.confirm or {}).get("test")
    if record is None:
        return Table("test", pd.DataFrame(), (), ())
    frame, rows, marks = [], [], []
    same = run.confirm is not None and run.confirm["winner"] == run.confirm["baseline"]
    for metric, entry in record["winner"].items():
        winner, base = read(entry), read(record["baseline"][metric])
        frame.append({"metric": metric, **_flat(winner, "winner_"), **_flat(base, "baseline_")})
        both = (spread(base),) if same else (spread(winner), spread(base))
        rows.append((label(metric), *both, str(winner.n)))
        marks.append("objective" if metric == run.metric else "")
    columns = ("metric", "baseline", "seeds") if same else ("metric", "winner", "baseline", "seeds")
    return Table("test", pd.DataFrame(frame), columns, tuple(rows), tuple(marks))


def effects(run: RunRecord) -> Table:
    """What each module of the winner does; resolved effects first."""
    entries = by_resolution(run)
    frame, rows, marks = [], [], []
    for entry in entries:
        difference = read(entry["difference"])
        names = {k: entry[k] for k in ("module", "choice", "against")}
        more = {k: entry[k] for k in ("resolved", "smallest_visible", "sentence")}
        frame.append({**names, **_flat(difference), **more})
        rows.append(
            (
                str(entry["module"]),
                f"{entry['choice']} against {entry['against']}",
                interval(difference, signed=True),
                "yes" if entry["resolved"] else "no",
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
    names = dict.fromkeys(name for values in methods.values() for name in values)
    ordered = sorted(names, key=lambda n: -sum(values.get(n, 0.0) for values in methods.values()))
    frame = pd.DataFrame(
        [{"parameter": n, **{m: methods.get(m, {}).get(n) for m in ("ped_anova", "fanova")}} for n in ordered]
    )
    rows = [(n, *(_share(methods.get(m, {}).get(n)) for m in ("ped_anova", "fanova"))) for n in ordered]
    note = _more(len(rows), "importance")
    return Table("importance", frame, ("parameter", "PED-ANOVA", "fANOVA"), tuple(rows[:MAX_ROWS]), (), note)


def leaderboard(run: RunRecord) -> Table:
    """The complete trials by their search value."""
    frame, rows, marks = [], [], []
    for place, trial in enumerate(run.ranked, 1):
        assert trial.value is not None
        role = _role(run, trial.number)
        own = {"rank": place, "trial": trial.number, "role": role, "value": trial.value}
        frame.append({**own, "seconds": trial.seconds, "parameters": trial.parameters, **trial.params})
        name = f"{trial.number}{f' ({role})' if role else ''}"
        rows.append((str(place), name, number(trial.value), _modules(run, trial)))
        marks.append(role)
    columns = ("rank", "trial", f"search {label(run.metric)}", "modules that differ from the baseline")
    note = _more(len(rows), "leaderboard")
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
    note = _more(len(rows), "failures")
    return Table("failures", frame, ("count", "reason", "where"), tuple(rows[:MAX_ROWS]), (), note)


def trials(run: RunRecord) -> Table:
    """Every trial with its parameters."""
    frame = [
        {
            "number": t.number,
            "role": _role(run, t.number),
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
        (str(t.number), t.state, "" if t.last is None else number(t.last), str(t.last_rung or ""), _modules(run, t))
        for t in run.trials
    ]
    value = f"last valid {label(run.metric)}"
    columns = ("trial", "state", value, "last rung (epoch)", "modules that differ from the baseline")
    limit = 10 * MAX_ROWS
    note = f"{limit} of {len(rows)} trials; tables/trials.csv has all." if len(rows) > limit else ""
    return Table("trials", pd.DataFrame(frame), columns, tuple(rows[:limit]), (), note)


def _role(run: RunRecord, number: int) -> str:
    if run.confirm is None:
        return "baseline" if number == 0 else ""
    roles = [role for role in ("winner", "baseline") if run.confirm[role] == number]
    return " and ".join(roles)


def _modules(run: RunRecord, trial: TrialRecord) -> str:
    found = run.changes(trial)
    return ", ".join(f"{name} {value}" for name, value in found.items()) or "none"


def _flat(estimate: Estimate, prefix: str = "") -> dict[str, Any]:
    return {f"{prefix}{k}": v for k, v in estimate.to_dict().items()}


def _share(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f} %"


def _listed(names: Sequence[str], limit: int = 6) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _more(count: int, name: str) -> str:
    return f"The first {MAX_ROWS} of {count}; tables/{name}.csv has all." if count > MAX_ROWS else ""
