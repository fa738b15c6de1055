"""What the study cost, and the trials on the front of the metric against the cost."""

from __future__ import annotations

import pandas as pd

from search.report.collect import RunRecord
from search.report.figures.costs import front, trial_costs
from search.report.tables.table import Table, changed_modules, role_of
from search.report.wording import duration, label, number, thousands

STATES = ("complete", "pruned", "failed", "running", "waiting")


def expenses(run: RunRecord) -> Table:
    """Trials, epochs of members and seconds by how the trials ended, and what confirmation trained."""
    frame, rows = [], []
    for state in STATES:
        which = [t for t in run.trials if t.state == state]
        if which:
            times, epochs = [t.seconds for t in which if t.seconds is not None], sum(t.epochs for t in which)
            known = sum(times) if times else None  # a trial that is dropped at a rung has none of its own
            frame.append({"what": f"{state} trials", "count": len(which), "member_epochs": epochs, "seconds": known})
            said = "not measured" if known is None else duration(known)
            rows.append((f"{state} trials", str(len(which)), thousands(epochs), said))
    if run.confirm is not None:
        candidates = run.confirm["candidates"]
        counts = [c["valid"][run.metric]["n"] for c in candidates]
        seconds = sum(n * c["seconds"] for n, c in zip(counts, candidates, strict=True))
        members = run.confirm.get("members", sum(counts))
        budget = f" of {run.confirm['budget']}" if "budget" in run.confirm else ""
        frame.append({"what": "confirmation's members", "count": members, "member_epochs": None, "seconds": seconds})
        rows.append(("confirmation's members", f"{members}{budget}", "", duration(seconds)))
    return Table("expenses", pd.DataFrame(frame), ("what", "number", "member-epochs", "training time"), tuple(rows))


def pareto(run: RunRecord) -> Table:
    """The complete trials that no other beats in the metric without more parameters."""
    best = front(run, trial_costs(run, "parameters"))
    frame, rows = [], []
    for t in best:
        assert t.value is not None and t.parameters is not None
        own = {"trial": t.number, "role": role_of(run, t.number), "value": t.value}
        frame.append({**own, "parameters": t.parameters, "seconds": t.seconds})
        rows.append((f"trial {t.number}", thousands(t.parameters), number(t.value), changed_modules(run, t)))
    columns = ("trial", "parameters", f"search {label(run.metric)}", "modules that differ from the baseline")
    return Table("pareto", pd.DataFrame(frame), columns, tuple(rows), tuple(role_of(run, t.number) for t in best))
