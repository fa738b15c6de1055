"""Parameters as figures: how much each matters, and how the metric goes along the numbers among them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search.report.collect import RunRecord
from search.report.figures.plot import BLUE, GREY, ORANGE, Plot, axis, empty, quoted, small, value_range, write_rows

MAX_PARAMETERS = 12
"""Parameters drawn in the importances."""
MAX_POINTS = 300
"""Trials drawn in one curve of a parameter."""


def importance(run: RunRecord) -> list[Plot]:
    """Draw both importances with the parameters in one order."""
    explained = run.explain or {}
    methods: Mapping[str, Mapping[str, float]] = explained.get("importance", {})
    names = dict.fromkeys(name for values in methods.values() for name in values)
    ordered = sorted(names, key=lambda n: -sum(values.get(n, 0.0) for values in methods.values()))[:MAX_PARAMETERS]
    conditional: Mapping[str, str] = explained.get("conditional", {})
    return [
        _bars(f"importance-{method.replace('_', '-')}", title, methods[method], list(reversed(ordered)), conditional)
        for method, title in (("ped_anova", "PED-ANOVA"), ("fanova", "fANOVA"))
        if method in methods
    ]


def marginals(run: RunRecord) -> list[Plot]:
    """Draw how the predicted metric goes along each number, all on one range of values."""
    curves: Sequence[Mapping[str, Any]] = (run.explain or {}).get("marginals", [])
    if not curves:
        return []
    ends = [v for c in curves for side in ("low", "high") for v in c[side]]
    low, high = value_range([*ends, *(p[1] for c in curves for p in c["points"])], run)
    return [_marginal(run, k, curve, (low, high)) for k, curve in enumerate(curves)]


def _marginal(run: RunRecord, place: int, curve: Mapping[str, Any], ends: tuple[float, float]) -> Plot:
    figure = small("", str(curve["parameter"]))
    band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    figure.add_scatter(x=curve["x"], y=curve["low"], **band)
    figure.add_scatter(x=curve["x"], y=curve["high"], fill="tonexty", fillcolor="rgba(43,133,192,0.18)", **band)
    points = [p for p in curve["points"] if ends[0] <= p[1] <= ends[1]]
    kept = [points[i] for i in np.unique(np.linspace(0, len(points) - 1, min(MAX_POINTS, len(points))).astype(int))]
    figure.add_scatter(
        x=[p[0] for p in kept], y=[p[1] for p in kept], mode="markers",
        marker={"size": 4, "color": GREY, "opacity": 0.7}, hovertemplate="%{x:.4g}: %{y:.4f}<extra>trial</extra>",
    )  # fmt: skip
    figure.add_scatter(
        x=curve["x"], y=curve["mean"], mode="lines", line={"width": 2.5, "color": BLUE},
        hovertemplate="%{x:.4g}: %{y:.4f}<extra>predicted</extra>",
    )  # fmt: skip
    if curve["log"]:
        ticks = _ticks(min(curve["x"]), max(curve["x"]))
        figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{v:g}" for v in ticks])
    figure.update_xaxes(nticks=5, title=None)
    figure.update_yaxes(range=list(ends), nticks=5)
    return Plot(f"marginal-{place}", figure, f"Predicted {axis(run)} along {curve['parameter']}")


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers in a range that is drawn on a logarithmic scale, three to seven or so."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if high / low >= 300 else (1, 3) if high / low > 10 else (1, 2, 3, 5)
    return [v for d in decades for s in steps if low <= (v := float(f"{s}e{d}")) <= high]


def _bars(
    name: str, title: str, values: Mapping[str, float], order: Sequence[str], conditional: Mapping[str, str]
) -> Plot:
    figure = empty(90 + 36 * len(order), f"{title} importance (share)")
    figure.add_bar(
        x=[values.get(n, 0.0) for n in order], y=list(range(len(order))), orientation="h", width=0.28,
        marker={"color": [ORANGE if n in conditional else BLUE for n in order]}, text=[quoted(n) for n in order],
        textposition="none", showlegend=False, hovertemplate="%{text}: %{x:.3f}<extra></extra>",
    )  # fmt: skip
    write_rows(
        figure, [[f"{n}{' *' if n in conditional else ''}{'' if n in values else ' (no value)'}"] for n in order]
    )
    figure.update_layout(margin={"l": 4, "r": 14, "t": 8, "b": 48})
    figure.update_annotations(font={"size": 12}, yshift=5)
    figure.update_xaxes(range=[0, max(0.05, 1.08 * max(values.values(), default=1.0))])
    return Plot(name, figure, f"{title} importance of the parameters")
