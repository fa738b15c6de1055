"""What the modalities tell, as tables: the decompositions in bits, and what they advise to search."""

from __future__ import annotations

import pandas as pd

from search.report.collect import RunRecord
from search.report.figures.information import term_name, terms
from search.report.tables.table import Table
from search.report.wording import number


def information(run: RunRecord) -> Table:
    """Every term of every decomposition, of the label by the data and of the prediction by the winner."""
    frame, rows, marks = [], [], []
    for source in ("data", "model"):
        record = (run.information or {}).get(source)
        if record is None:
            continue
        for entry in [*record["pairs"], *record.get("one_versus_rest", [])]:
            for term in terms(entry):
                found = entry[term]
                names = {"of": record["target"], "first": entry["first"], "second": entry["second"], "term": term}
                frame.append({**names, **found, "discrete": entry.get("discrete", {}).get(term)})
                rows.append(
                    (
                        record["target"],
                        f"{entry['first']} and {entry['second']}",
                        term_name(term, entry),
                        f"{number(found['value'])} [{number(found['low'])}, {number(found['high'])}]",
                        number(found["null_high"]),
                        "yes" if found["resolved"] else "no",
                    )
                )
                marks.append("" if found["resolved"] else "unresolved")
    columns = ("of", "modalities", "information", "bits", "chance, 95 %", "above chance")
    return Table("information", pd.DataFrame(frame), columns, tuple(rows), tuple(marks))


def advice(run: RunRecord) -> Table:
    """What the data's decomposition advises to search, place by place."""
    entries = ((run.information or {}).get("data") or {}).get("advice", [])
    frame = [{"place": e["place"], "arms": ", ".join(e["arms"]), "reason": e["reason"]} for e in entries]
    rows = tuple((f["place"], f["arms"], f["reason"]) for f in frame)
    return Table("advice", pd.DataFrame(frame), ("place", "arms to try", "reason"), rows)
