"""What the modalities tell about the label, and about the winner's prediction: bits of each kind, a figure a pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.report.collect import RunRecord
from search.report.figures.plot import BLUE, GREY, ORANGE, Plot, small

TERMS = ("redundancy", "unique_first", "unique_second", "synergy", "products")
"""The parts of what two sources say, and the part of the synergy that takes products of the two."""
SOURCES = (("data", "label, by the data", BLUE, 0.2), ("model", "prediction, by the winner", ORANGE, -0.2))


def information(run: RunRecord) -> list[Plot]:
    """Draw the decomposition of every pair, and of each modality against the others, data beside model."""
    record = run.information
    if record is None:
        return []
    made = []
    for part in ("pairs", "one_versus_rest"):
        for k, entry in enumerate(record["data"].get(part, [])):
            model = (record["model"] or {}).get(part, [])
            both = {"data": entry, **({"model": model[k]} if k < len(model) else {})}
            made.append(_decomposition(f"pid-{part.replace('_', '-')}-{k}", both))
    return made


def terms(entry: Mapping[str, Any]) -> list[str]:
    """Return the terms that a decomposition has: products are measured between two single modalities alone."""
    return [term for term in TERMS if entry.get(term) is not None]


def term_name(term: str, entry: Mapping[str, Any]) -> str:
    """Return a term of a decomposition with the modality that it is unique to."""
    if term.startswith("unique"):
        return f"only {entry[term.removeprefix('unique_')]}"
    return "of it by products" if term == "products" else term


def _decomposition(name: str, both: Mapping[str, Mapping[str, Any]]) -> Plot:
    first = both["data"]
    title = f"{first['first']} and {first['second']}"
    known = [term for term in terms(first) if all(term in terms(entry) for entry in both.values())]
    figure = small("bits", title, 90 + 40 * len(known))
    rows = {term: len(known) - 1 - k for k, term in enumerate(known)}
    for source, legend, colour, shift in SOURCES:
        if source not in both:
            continue
        values = [both[source][term] for term in known]
        at = [rows[term] + (shift if len(both) > 1 else 0.0) for term in known]
        bars = {
            "type": "data", "symmetric": False, "thickness": 1.5, "width": 3, "color": GREY,
            "array": [max(0.0, v["high"] - v["value"]) for v in values],
            "arrayminus": [max(0.0, v["value"] - v["low"]) for v in values],
        }  # fmt: skip
        figure.add_bar(
            x=[v["value"] for v in values], y=at, orientation="h", width=0.34, name=legend, error_x=bars,
            marker={"color": colour, "opacity": [1.0 if v["resolved"] else 0.4 for v in values]},
            hovertemplate="%{x:.4f} bits<extra>" + legend + "</extra>",
        )  # fmt: skip
        figure.add_scatter(
            x=[v["null_high"] for v in values], y=at, mode="markers",
            marker={"symbol": "line-ns", "size": 13, "line": {"width": 2, "color": GREY}},
            hovertemplate="chance, 95 %: %{x:.4f}<extra></extra>",
        )  # fmt: skip
    names = [term_name(term, first) for term in known]
    figure.update_yaxes(tickvals=[rows[t] for t in known], ticktext=names, range=[-0.6, len(known) - 0.4], ticks="")
    figure.update_yaxes(showgrid=False)
    figure.update_xaxes(nticks=5, rangemode="tozero")
    return Plot(name, figure, f"Information of {title} in bits: redundancy, unique parts and synergy")
