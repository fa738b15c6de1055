"""The confirmed candidates as figures: their values, their differences from the baseline, and how they rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from search.report.collect import RunRecord
from search.report.figures.plot import GREY, RED, Plot, axis, better, candidate, dots, empty, look
from search.report.wording import interval, label, read
from search.statistics import Estimate


def candidates(run: RunRecord) -> list[Plot]:
    """Draw every candidate's mean and interval, and its paired difference from the baseline."""
    if run.confirm is None:
        return []
    entries = list(reversed(run.confirm["candidates"]))
    names = [candidate(run, c["trial"]) for c in entries]
    values = [read(c["valid"][run.metric]) for c in entries]
    height = 120 + 42 * len(entries)
    figure = empty(height, f"valid {axis(run)}")
    _reference(figure, values[[c["trial"] for c in entries].index(run.confirm["baseline"])])
    _candidate_dots(figure, run, [c["trial"] for c in entries], values)
    search = {t.number: t.value for t in run.trials if t.value is not None}
    known = [(search[c["trial"]], n) for c, n in zip(entries, names, strict=True) if c["trial"] in search]
    if known:
        marker = {"symbol": "x-thin", "size": 8, "color": GREY, "line": {"width": 2, "color": GREY}}
        hover = "search value %{x:.4f}<extra>%{y}</extra>"
        figure.add_scatter(
            x=[x for x, _ in known], y=[y for _, y in known], mode="markers", name="search value", marker=marker,
            hovertemplate=hover,
        )  # fmt: skip
    figure.update_yaxes(categoryorder="array", categoryarray=names)
    caption = (
        "Means over fresh seeds with 95 % intervals; the dashed line and its band are the baseline. "
        "A cross is the value that the search saw."
    )
    found = [Plot("candidates", figure, "Confirmed candidates with intervals", caption)]
    return found + _differences(run, entries, height)


def _candidate_dots(
    figure: go.Figure, run: RunRecord, trials: Sequence[int], values: Sequence[Estimate], signed: bool = False
) -> None:
    assert run.confirm is not None
    for trial, value in zip(trials, values, strict=True):
        name = candidate(run, trial)
        colour, symbol = look(run, trial)
        figure.add_scatter(
            x=[value.mean], y=[name], mode="markers", name=name, showlegend=False, text=[interval(value, signed)],
            hovertemplate="%{text}<extra>%{y}</extra>", **dots(colour, symbol, [value]),
        )  # fmt: skip


def _reference(figure: go.Figure, value: Estimate) -> None:
    figure.add_vrect(x0=value.low, x1=value.high, fillcolor=RED, opacity=0.1, line_width=0, layer="below")
    figure.add_vline(x=value.mean, line_width=1, line_dash="dash", line_color=RED)


def _differences(run: RunRecord, entries: Sequence[Mapping[str, Any]], height: int) -> list[Plot]:
    assert run.confirm is not None
    if len(entries) < 2:
        return []
    names = [candidate(run, e["trial"]) for e in entries]
    figure = empty(height, f"difference in valid {label(run.metric)} ({better(run)} 0 is better)")
    differences = [read(e["difference"]) for e in entries]
    _candidate_dots(figure, run, [e["trial"] for e in entries], differences, signed=True)
    figure.add_vline(x=0, line_width=1.5, line_color=RED, line_dash="dash")
    figure.update_yaxes(categoryorder="array", categoryarray=names)
    caption = "Differences from the baseline, paired by seed: an interval that excludes 0 is resolved"
    caption += " by itself; the table says what is left after correction." if "p" in entries[0]["difference"] else "."
    return [Plot("differences", figure, "Paired differences from the baseline with intervals", caption)]
