"""Tables as papers of the field print them: mean and standard deviation over seeds, accuracies in percent, both forms
of Acc-2 and F1 in one column.

The forms are those of MMSA (Mao et al., ACL 2022, arXiv:2203.12441): negative against the others ("Has0"), and negative
against positive without the labels that are 0 ("Non0").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from search.report.collect import RunRecord
from search.report.tables.table import Table, spelled
from search.report.wording import number, read

COLUMNS = (
    ("MAE ↓", ("mae",)),
    ("Corr ↑", ("corr",)),
    ("Acc-7 ↑", ("acc7",)),
    ("Acc-5 ↑", ("acc5",)),
    ("Acc-3 ↑", ("acc3",)),
    ("Acc-2 ↑ (Has0/Non0)", ("acc2_has0", "acc2_non0")),
    ("F1 ↑ (Has0/Non0)", ("f1_has0", "f1_non0")),
    ("Acc-2 ↑", ("acc2",)),
    ("F1 ↑", ("f1",)),
)
"""Titles and metrics, in the order of papers; a convention has some of them."""


def paper_test(run: RunRecord) -> Table:
    """Winner and baseline on the test split."""
    record = (run.confirm or {}).get("test")
    rows = {} if record is None else {role: record[role] for role in ("winner", "baseline")}
    return _table(run, "test", rows)


def paper_valid(run: RunRecord) -> Table:
    """Winner and baseline on the valid split."""
    if run.confirm is None:
        return _table(run, "valid", {})
    return _table(run, "valid", {role: run.candidate(run.confirm[role])["valid"] for role in ("winner", "baseline")})


def _table(run: RunRecord, split: str, found: Mapping[str, Mapping[str, Any]]) -> Table:
    assert run.confirm is not None or not found
    if not found or run.confirm is None:
        return Table(f"paper_{split}", pd.DataFrame(), (), ())
    known = [(title, metrics) for title, metrics in COLUMNS if all(m in found["baseline"] for m in metrics)]
    roles = ["baseline"] if run.confirm["winner"] == run.confirm["baseline"] else ["winner", "baseline"]
    frame, rows = [], []
    for role in roles:
        values = found[role]
        own = {k: v for m, e in values.items() for k, v in spelled(read(e), f"{m}_").items()}
        frame.append({"model": f"{role}, trial {run.confirm[role]}", **own})
        cells = [" / ".join(_spread(m, values[m]) for m in metrics) for _, metrics in known]
        rows.append((f"{role}, trial {run.confirm[role]}", *cells, str(values[run.metric]["n"])))
    exported = run.confirm.get("ensemble", {}).get(split)
    if exported:
        name = "exported model, the winner's mean prediction"
        frame.append({"model": name, **{f"{m}_mean": v for m, v in exported.items()}})
        rows.append((name, *(" / ".join(_value(m, exported[m]) for m in metrics) for _, metrics in known), ""))
    columns = ("model", *(title for title, _ in known), "n")
    note = "Mean ± standard deviation over n training seeds; Acc and F1 in percent."
    return Table(f"paper_{split}", pd.DataFrame(frame), columns, tuple(rows), (*roles, ""), note)


def _spread(metric: str, record: Mapping[str, Any]) -> str:
    if record["n"] == 1:
        return _value(metric, record["mean"])
    return f"{_value(metric, record['mean'])} ± {_value(metric, record['std'])}"


def _value(metric: str, value: float) -> str:
    return number(value, 3) if metric in ("mae", "corr") else number(100 * value, 2)
