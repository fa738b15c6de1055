"""What all figures share: colours that read on light and dark paper alike, axes, dots with intervals, rows with names.

Text and grid are coloured by the page.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go

from search.report.collect import RunRecord, TrialRecord
from search.report.wording import interval, label
from search.statistics import Estimate

BLUE, RED, ORANGE, PINK, GREY = "#2b85c0", "#d55e00", "#c98a00", "#c26a9c", "#8a9099"
"""Okabe and Ito's colours, at a lightness with contrast above 3 on white and on near-black (grey above 3 too)."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"
CLEAR = "rgba(0,0,0,0)"
LETTERS = 46
"""Letters of a row's name that fit side by side on a phone."""


@dataclass(frozen=True)
class Plot:
    """A figure with the identifier of its place on the page, what it shows in words, and a caption."""

    name: str
    figure: go.Figure
    alt: str
    caption: str = ""

    @property
    def height(self) -> int:
        return int(self.figure.layout.height)


@dataclass(frozen=True)
class Series:
    """Estimates in one colour, each with the row where it is drawn, counted from the top."""

    name: str
    colour: str
    symbol: str
    at: Sequence[tuple[int, Estimate]]
    shift: float = 0.0


def empty(height: int, x: str, y: str | None = None) -> go.Figure:
    """Return a figure without data, with titles on its axes."""
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 4, "r": 14, "t": 44, "b": 48},
        paper_bgcolor=CLEAR,
        plot_bgcolor=CLEAR,
        font={"family": FONT, "size": 13, "color": GREY},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "bgcolor": CLEAR},
        showlegend=True,
        hovermode="closest",
        modebar={"bgcolor": CLEAR, "color": GREY, "activecolor": BLUE},
    )
    axis = {"gridcolor": GREY, "zeroline": False, "automargin": True, "linecolor": GREY, "tickcolor": GREY}
    figure.update_xaxes(title={"text": x, "standoff": 12, "font": {"size": 13}}, **axis)
    figure.update_yaxes(title=None if y is None else {"text": y, "standoff": 10, "font": {"size": 13}}, **axis)
    return figure


def small(x: str, title: str, height: int = 230) -> go.Figure:
    """Return a figure without data for a grid of small ones: its title above, no legend."""
    figure = empty(height, x)
    text = {"text": "<br>".join(map(quoted, _lines(title, 38))), "x": 0, "xanchor": "left", "y": 1, "yanchor": "top"}
    figure.update_layout(title={**text, "yref": "container", "font": {"size": 13}, "pad": {"t": 8, "l": 4}})
    figure.update_layout(showlegend=False, margin={"l": 4, "r": 10, "t": 16 + 18 * len(_lines(title, 38)), "b": 40})
    return figure


def forest(names: Sequence[str], series: Sequence[Series], x: str, *, zero: bool = True) -> go.Figure:
    """Return rows of dots with intervals, names above them; with ``zero`` a line marks where there is no difference."""
    lines = [_lines(name) for name in names]
    step = 30 + 16 * max(len(part) for part in lines)
    figure = empty(100 + step * len(names), x)
    for part in series:
        values = [value for _, value in part.at]
        text = [f"{quoted(names[row])}<br>{interval(value, signed=zero)}" for row, value in part.at]
        figure.add_scatter(
            x=[v.mean for v in values], y=[len(names) - 1 - row + part.shift for row, _ in part.at], mode="markers",
            name=part.name, text=text, hovertemplate="%{text}<extra>" + part.name + "</extra>",
            **dots(part.colour, part.symbol, values),
        )  # fmt: skip
    write_rows(figure, lines[::-1])
    if zero:
        figure.add_vline(x=0, line_width=1.5, line_color=GREY)
    ends = [0.0] if zero else []
    ends += [end for part in series for _, value in part.at for end in (value.low, value.high)]
    edge = 0.05 * (max(ends) - min(ends)) or 1.0
    figure.update_xaxes(range=[min(ends) - edge, max(ends) + edge])
    return figure


def write_rows(figure: go.Figure, names: Sequence[Sequence[str]]) -> None:
    """Write row names above the rows, from the bottom up, so that long ones fit on a phone."""
    for k, lines in enumerate(names):
        figure.add_annotation(
            x=0, xref="paper", xanchor="left", y=k, yanchor="bottom", yshift=8, showarrow=False, align="left",
            text="<br>".join(map(quoted, lines)),
        )  # fmt: skip
    figure.update_yaxes(range=[-0.6, len(names) - 0.2], showticklabels=False, ticks="", showgrid=False, fixedrange=True)


def dots(colour: str, symbol: str, values: Sequence[Estimate], along: Literal["x", "y"] = "x") -> dict[str, Any]:
    """Return how dots look whose intervals lie ``along`` an axis."""
    bars = {
        "type": "data",
        "symmetric": False,
        "array": [v.high - v.mean for v in values],
        "arrayminus": [v.mean - v.low for v in values],
        "thickness": 2,
        "width": 5,
        "color": colour,
    }
    marker = {"symbol": symbol, "size": 10, "color": colour, "line": {"width": 2, "color": colour}}
    return {f"error_{along}": bars, "marker": marker}


def quoted(text: object) -> str:
    """Return text that Plotly shows as it is."""
    return html.escape(str(text))


def axis(run: RunRecord) -> str:
    """Return the metric as the title of an axis."""
    unit = "label units, " if run.metric == "mae" else ""
    return f"{label(run.metric)} ({unit}{'lower' if run.minimize else 'higher'} is better)"


def better(run: RunRecord) -> str:
    """Return on which side of zero a difference is a gain."""
    return "below" if run.minimize else "above"


def candidate(run: RunRecord, trial: int) -> str:
    """Return a confirmed candidate's name with its role."""
    assert run.confirm is not None
    role = " (winner)" if trial == run.confirm["winner"] else " (baseline)" if trial == run.confirm["baseline"] else ""
    return f"trial {trial}{role}"


def look(run: RunRecord, trial: int) -> tuple[str, str]:
    """Return a confirmed candidate's colour and symbol."""
    assert run.confirm is not None
    if trial == run.confirm["winner"]:
        return BLUE, "circle"
    return (RED, "diamond") if trial == run.confirm["baseline"] else (GREY, "circle-open")


def value_range(values: Sequence[float], run: RunRecord) -> tuple[float, float]:
    """Return the axis range: all values but those far worse than the better half, and complete trials."""
    best, *others = np.sort(run.sign * np.asarray(values, dtype=np.float64))
    worst = float(others[-1]) if others else float(best)
    quarter, median = np.quantile([best, *others], [0.25, 0.5]) - best
    reach = float(max(8.0 * quarter, 4.0 * median))
    if reach > 0:
        complete = [run.sign * t.value for t in run.trials if t.value is not None]
        worst = min(worst, max([float(best) + reach, *complete]))
    edge = 0.06 * (worst - float(best)) or 0.05 * abs(worst) or 1.0
    ends = run.sign * (float(best) - edge), run.sign * (worst + edge)
    return min(ends), max(ends)


def evenly(trials: Sequence[TrialRecord], limit: int, keep: set[int]) -> list[TrialRecord]:
    """Return at most about ``limit`` trials, evenly over the search, those whose numbers are in ``keep`` among them."""
    if len(trials) <= limit:
        return list(trials)
    even = {int(i) for i in np.linspace(0, len(trials) - 1, limit).round()}
    return [t for k, t in enumerate(trials) if k in even or t.number in keep]


def _lines(text: str, letters: int = LETTERS) -> list[str]:
    return textwrap.wrap(text, letters) or [""]
