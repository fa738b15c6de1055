"""The figures of a report. Their colours read on light and dark paper alike; text and grid are coloured by the page."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from search.report.collect import Curve, RunRecord, TrialRecord
from search.report.wording import by_resolution, interval, label, read
from search.statistics import Estimate

BLUE, RED, ORANGE, PINK, GREY = "#2b85c0", "#d55e00", "#c98a00", "#c26a9c", "#8a9099"
"""Okabe and Ito's colours, at a lightness with contrast above 3 on white and on near-black (grey above 3 too)."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif"
RUNG_SYMBOLS = ("triangle-down-open", "square-open", "diamond-open", "pentagon-open", "hexagon-open", "star-open")
MAX_POINTS = 2000
"""Trials drawn in the history."""
MAX_PARAMETERS = 12
"""Parameters drawn in the importances."""


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


def plots(run: RunRecord) -> dict[str, Plot]:
    """Return the figures that the run has results for, by name."""
    made = [*candidates(run), *effects(run), *importance(run), *history(run), *curves(run)]
    return {p.name: p for p in made}


def candidates(run: RunRecord) -> list[Plot]:
    """Draw every candidate's mean and interval, and its paired difference from the baseline."""
    if run.confirm is None:
        return []
    entries = list(reversed(run.confirm["candidates"]))
    names = [_candidate(run, c["trial"]) for c in entries]
    values = [read(c["valid"][run.metric]) for c in entries]
    height = 120 + 42 * len(entries)
    figure = _figure(height, f"valid {_axis(run)}")
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


def effects(run: RunRecord) -> list[Plot]:
    """Draw the effect of every module of the winner."""
    entries = by_resolution(run)[::-1]
    if not entries:
        return []
    figure = _figure(100 + 48 * len(entries), f"change in valid {label(run.metric)} ({_better(run)} 0: it helps)")
    for resolved, name in ((True, "resolved"), (False, "not resolved")):
        rows = [(k, e) for k, e in enumerate(entries) if e["resolved"] == resolved]
        if rows:
            values = [read(e["difference"]) for _, e in rows]
            hover = [_quoted(f"{e['module']}: {e['choice']} against {e['against']}") for _, e in rows]
            style = _dots(BLUE if resolved else GREY, "circle" if resolved else "circle-open", values)
            text = [f"{h}<br>{interval(v, signed=True)}" for h, v in zip(hover, values, strict=True)]
            figure.add_scatter(
                x=[v.mean for v in values], y=[k for k, _ in rows], mode="markers", name=name, text=text,
                hovertemplate="%{text}<extra></extra>", **style,
            )  # fmt: skip
    _rows(figure, [f"{e['module']}: {e['choice']} against {e['against']}" for e in entries])
    figure.add_vline(x=0, line_width=1.5, line_color=GREY)
    ends = [0.0, *(e["difference"][side] for e in entries for side in ("low", "high"))]
    edge = 0.05 * (max(ends) - min(ends)) or 1.0
    figure.update_xaxes(range=[min(ends) - edge, max(ends) + edge])
    return [Plot("effects", figure, "Effect of every module of the winner, with intervals")]


def importance(run: RunRecord) -> list[Plot]:
    """Draw both importances with the parameters in one order."""
    methods: Mapping[str, Mapping[str, float]] = (run.explain or {}).get("importance", {})
    names = dict.fromkeys(name for values in methods.values() for name in values)
    ordered = sorted(names, key=lambda n: -sum(values.get(n, 0.0) for values in methods.values()))[:MAX_PARAMETERS]
    return [
        _bars(f"importance-{method.replace('_', '-')}", title, methods[method], list(reversed(ordered)))
        for method, title in (("ped_anova", "PED-ANOVA"), ("fanova", "fANOVA"))
        if method in methods
    ]


def history(run: RunRecord) -> list[Plot]:
    """Draw every trial's value in the order they were asked for, and the best so far."""
    drawn = _thinned(run)
    seen = [t for t in drawn if t.last is not None]
    if not seen:
        return []
    figure = _figure(400, "trial", f"valid {_axis(run)}")
    low, high = _range([t.last for t in seen if t.last is not None], run)
    best = _best_so_far(run)
    size = 8 if len(seen) <= 300 else 5
    for rung in sorted({t.last_rung for t in seen if t.state == "pruned" and t.last_rung is not None}):
        which = [t for t in seen if t.state == "pruned" and t.last_rung == rung]
        _trials(
            figure, which, f"dropped at epoch {rung}", {"symbol": _symbol(run, rung), "size": size, "color": ORANGE}
        )
    _trials(figure, [t for t in seen if t.state == "complete"], "complete", {"size": size, "color": BLUE})
    running = {"size": size, "color": GREY, "symbol": "hourglass-open"}
    _trials(figure, [t for t in seen if t.state == "running"], "running", running)
    failed = [t.number for t in drawn if t.state == "failed"]
    if failed:
        marker = {"symbol": "x", "size": size, "color": PINK}
        floor = [low if run.minimize else high] * len(failed)
        figure.add_scatter(
            x=failed, y=floor, mode="markers", name="failed (no value)", marker=marker, cliponaxis=False,
            hovertemplate="trial %{x} failed<extra></extra>",
        )  # fmt: skip
    if best:
        figure.add_scatter(
            x=[n for n, _ in best], y=[v for _, v in best], mode="lines", name="best so far",
            line={"shape": "hv", "width": 1.5, "color": BLUE}, hovertemplate="best so far %{y:.4f}<extra></extra>",
        )  # fmt: skip
    _ring(figure, run, seen)
    figure.update_yaxes(range=[low, high])
    figure.update_xaxes(range=[-0.02 * len(run.trials) - 0.5, 1.02 * len(run.trials) - 0.5])
    return [Plot("history", figure, "Value of every trial by its number", _history_caption(run, drawn, low, high))]


def curves(run: RunRecord) -> list[Plot]:
    """Draw the valid metric by epoch for all trials, the winner and the baseline highlighted."""
    if not run.curves:
        return []
    marked = _marked(run)
    figure = _figure(400, "epoch", f"valid {_axis(run)}")
    grey = [c for n, c in run.curves.items() if n not in marked]
    if grey:
        figure.add_scatter(
            x=_joined([c.epochs for c in grey]), y=_joined([c.values for c in grey]), mode="lines", name="other trials",
            line={"width": 1, "color": GREY}, opacity=0.45, hoverinfo="skip", connectgaps=False,
        )  # fmt: skip
    for trial, (name, colour, symbol, dash) in marked.items():
        if trial in run.curves:
            _curve(figure, run.curves[trial], name, colour, symbol, dash)
    values = [v for c in run.curves.values() for v in c.values if np.isfinite(v)]
    low, high = _range(values, run)
    figure.update_yaxes(range=[low, high])
    figure.update_xaxes(rangemode="tozero")
    caption = (
        "Curves of the search, the mean over a trial's seeds. A line ends where its trial was dropped; "
        "a trial's value is its best epoch."
    )
    if not low <= min(values) <= max(values) <= high:
        caption += " Values that are much worse lie outside of the drawn range."
    if len(run.curves) < len(run.trials):
        caption += f" Drawn: {len(run.curves)} of {len(run.trials)} trials."
    return [Plot("curves", figure, "Learning curves of the trials", caption)]


# ---- parts -----------------------------------------------------------------------------------------------------------


def _figure(height: int, x: str, y: str | None = None) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 4, "r": 14, "t": 44, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 13, "color": GREY},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "bgcolor": "rgba(0,0,0,0)"},
        showlegend=True,
        hovermode="closest",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": BLUE},
    )
    axis = {"gridcolor": GREY, "zeroline": False, "automargin": True, "linecolor": GREY, "tickcolor": GREY}
    figure.update_xaxes(title={"text": x, "standoff": 12, "font": {"size": 13}}, **axis)
    figure.update_yaxes(title=None if y is None else {"text": y, "standoff": 10, "font": {"size": 13}}, **axis)
    return figure


def _axis(run: RunRecord) -> str:
    unit = "label units, " if run.metric == "mae" else ""
    return f"{label(run.metric)} ({unit}{'lower' if run.minimize else 'higher'} is better)"


def _better(run: RunRecord) -> str:
    return "below" if run.minimize else "above"


def _quoted(text: object) -> str:
    """Return text that Plotly shows as it is."""
    return html.escape(str(text))


def _dots(colour: str, symbol: str, values: Sequence[Estimate]) -> dict[str, Any]:
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
    return {"error_x": bars, "marker": marker}


def _candidate(run: RunRecord, trial: int) -> str:
    assert run.confirm is not None
    role = " (winner)" if trial == run.confirm["winner"] else " (baseline)" if trial == run.confirm["baseline"] else ""
    return f"trial {trial}{role}"


def _candidate_dots(
    figure: go.Figure, run: RunRecord, trials: Sequence[int], values: Sequence[Estimate], signed: bool = False
) -> None:
    assert run.confirm is not None
    for trial, value in zip(trials, values, strict=True):
        name = _candidate(run, trial)
        baseline, winner = trial == run.confirm["baseline"], trial == run.confirm["winner"]
        colour = BLUE if winner else RED if baseline else GREY
        symbol = "circle" if winner else "diamond" if baseline else "circle-open"
        figure.add_scatter(
            x=[value.mean], y=[name], mode="markers", name=name, showlegend=False, text=[interval(value, signed)],
            hovertemplate="%{text}<extra>%{y}</extra>", **_dots(colour, symbol, [value]),
        )  # fmt: skip


def _reference(figure: go.Figure, value: Estimate) -> None:
    figure.add_vrect(x0=value.low, x1=value.high, fillcolor=RED, opacity=0.1, line_width=0, layer="below")
    figure.add_vline(x=value.mean, line_width=1, line_dash="dash", line_color=RED)


def _differences(run: RunRecord, entries: Sequence[Mapping[str, Any]], height: int) -> list[Plot]:
    assert run.confirm is not None
    if len(entries) < 2:
        return []
    names = [_candidate(run, e["trial"]) for e in entries]
    figure = _figure(height, f"difference in valid {label(run.metric)} ({_better(run)} 0 is better)")
    differences = [read(e["difference"]) for e in entries]
    _candidate_dots(figure, run, [e["trial"] for e in entries], differences, signed=True)
    figure.add_vline(x=0, line_width=1.5, line_color=RED, line_dash="dash")
    figure.update_yaxes(categoryorder="array", categoryarray=names)
    caption = "Differences from the baseline, paired by seed: an interval that excludes 0 is resolved."
    return [Plot("differences", figure, "Paired differences from the baseline with intervals", caption)]


def _rows(figure: go.Figure, names: Sequence[str]) -> None:
    """Write row names above the rows instead of beside them, so that long ones fit on a phone."""
    for k, name in enumerate(names):
        figure.add_annotation(
            x=0, xref="paper", xanchor="left", y=k, yanchor="bottom", yshift=8, text=_quoted(name), showarrow=False
        )
    figure.update_yaxes(range=[-0.6, len(names) - 0.2], showticklabels=False, ticks="", showgrid=False, fixedrange=True)


def _bars(name: str, title: str, values: Mapping[str, float], order: Sequence[str]) -> Plot:
    figure = _figure(90 + 36 * len(order), f"{title} importance (share)")
    figure.add_bar(
        x=[values.get(n, 0.0) for n in order], y=list(range(len(order))), orientation="h", width=0.28,
        marker={"color": BLUE}, text=[_quoted(n) for n in order], textposition="none", showlegend=False,
        hovertemplate="%{text}: %{x:.3f}<extra></extra>",
    )  # fmt: skip
    _rows(figure, [n if n in values else f"{n} (no value)" for n in order])
    figure.update_layout(margin={"l": 4, "r": 14, "t": 8, "b": 48})
    figure.update_annotations(font={"size": 12}, yshift=5)
    figure.update_xaxes(range=[0, max(0.05, 1.08 * max(values.values(), default=1.0))])
    return Plot(name, figure, f"{title} importance of the parameters")


def _thinned(run: RunRecord) -> list[TrialRecord]:
    """Return at most about ``MAX_POINTS`` trials, those that improved the best value among them."""
    if len(run.trials) <= MAX_POINTS:
        return list(run.trials)
    keep = {int(i) for i in np.linspace(0, len(run.trials) - 1, MAX_POINTS).round()}
    keep |= {n for n, _ in _best_so_far(run)} | set(_marked(run))
    return [t for t in run.trials if t.number in keep]


def _symbol(run: RunRecord, rung: int) -> str:
    epochs = run.config.rungs.epochs
    return RUNG_SYMBOLS[epochs.index(rung) % len(RUNG_SYMBOLS)] if rung in epochs else "x-open"


def _best_so_far(run: RunRecord) -> list[tuple[int, float]]:
    found: list[tuple[int, float]] = []
    for trial in run.trials:
        if trial.value is not None and (not found or run.sign * trial.value < run.sign * found[-1][1]):
            found.append((trial.number, trial.value))
    return [*found, (len(run.trials) - 1, found[-1][1])] if found else []


def _range(values: Sequence[float], run: RunRecord) -> tuple[float, float]:
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


def _trials(figure: go.Figure, which: Sequence[TrialRecord], name: str, marker: Mapping[str, Any]) -> None:
    if which:
        figure.add_scatter(
            x=[t.number for t in which], y=[t.last for t in which], mode="markers", name=name,
            marker={**marker, "line": {"width": 1.5, "color": marker["color"]}},
            hovertemplate="trial %{x}: %{y:.4f}<extra>" + name + "</extra>",
        )  # fmt: skip


def _ring(figure: go.Figure, run: RunRecord, seen: Sequence[TrialRecord]) -> None:
    """Circle the winner and the baseline."""
    for trial in seen:
        if trial.number in _marked(run) and trial.last is not None:
            name, colour, _, _ = _marked(run)[trial.number]
            marker = {"symbol": "circle-open", "size": 17, "color": colour, "line": {"width": 2, "color": colour}}
            figure.add_scatter(
                x=[trial.number], y=[trial.last], mode="markers", name=name, marker=marker, hoverinfo="skip"
            )


def _marked(run: RunRecord) -> dict[int, tuple[str, str, str, str]]:
    """Return the trials to highlight with name, colour, symbol and dash."""
    found = {0: ("baseline", RED, "diamond", "dash")}
    best = run.winner if run.winner is not None else run.ranked[0].number if run.ranked else None
    if best is not None and best != 0:
        found[best] = ("winner" if run.winner is not None else "best so far (trial)", BLUE, "circle", "solid")
    return found


def _history_caption(run: RunRecord, drawn: Sequence[TrialRecord], low: float, high: float) -> str:
    caption = (
        "One mark a trial. A dropped trial is shown with its best value at the rung where it was dropped; only "
        "complete trials count for the best so far."
    )
    outside = sum(t.last is not None and not low <= t.last <= high for t in drawn)
    if outside:
        caption += f" Outside of the drawn range, as much worse: {outside} trial{'' if outside == 1 else 's'}."
    if len(drawn) < len(run.trials):
        caption += f" Drawn: {len(drawn)} of {len(run.trials)} trials, every improvement among them."
    return caption


def _curve(figure: go.Figure, curve: Curve, name: str, colour: str, symbol: str, dash: str) -> None:
    figure.add_scatter(
        x=list(curve.epochs), y=list(curve.values), mode="lines+markers", name=name,
        line={"width": 2.5, "color": colour, "dash": dash}, marker={"symbol": symbol, "size": 7},
        hovertemplate="epoch %{x}: %{y:.4f}<extra>" + name + "</extra>",
    )  # fmt: skip


def _joined(parts: Sequence[Sequence[float]]) -> list[float | None]:
    """Join lines into one with gaps, which draws many times faster than a trace each."""
    return [v for part in parts for v in (*part, None)]
