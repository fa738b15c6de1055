"""The search as figures: the value of every trial in its order, and the learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from search.report.collect import Curve, RunRecord, TrialRecord
from search.report.figures.plot import BLUE, GREY, ORANGE, PINK, RED, Plot, axis, empty, evenly, value_range

RUNG_SYMBOLS = ("triangle-down-open", "square-open", "diamond-open", "pentagon-open", "hexagon-open", "star-open")
MAX_POINTS = 2000
"""Trials drawn in the history."""


def history(run: RunRecord) -> list[Plot]:
    """Draw every trial's value in the order they were asked for, and the best so far."""
    drawn = evenly(run.trials, MAX_POINTS, {n for n, _ in _best_so_far(run)} | set(_marked(run)))
    seen = [t for t in drawn if t.last is not None]
    if not seen:
        return []
    figure = empty(400, "trial", f"valid {axis(run)}")
    low, high = value_range([t.last for t in seen if t.last is not None], run)
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
    figure = empty(400, "epoch", f"valid {axis(run)}")
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
    low, high = value_range(values, run)
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


def _symbol(run: RunRecord, rung: int) -> str:
    epochs = run.config.rungs.epochs
    return RUNG_SYMBOLS[epochs.index(rung) % len(RUNG_SYMBOLS)] if rung in epochs else "x-open"


def _best_so_far(run: RunRecord) -> list[tuple[int, float]]:
    found: list[tuple[int, float]] = []
    for trial in run.trials:
        if trial.value is not None and (not found or run.sign * trial.value < run.sign * found[-1][1]):
            found.append((trial.number, trial.value))
    return [*found, (len(run.trials) - 1, found[-1][1])] if found else []


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
