"""Why the winner wins, as figures: effects of modules, their interactions, and the way from the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from search.report.collect import RunRecord
from search.report.figures.plot import BLUE, GREY, LETTERS, RED, Plot, Series, axis, better, empty, forest, quoted
from search.report.wording import by_resolution, is_resolved, label, place_name, read

HELP, HINDRANCE = "rgba(43,133,192,{})", "rgba(213,94,0,{})"
"""Colours of the map, by opacity: where there is no interaction the paper shines through."""
INK = "#1b1e22"


def effects(run: RunRecord) -> list[Plot]:
    """Draw the effect of every module of the winner."""
    entries = by_resolution(run.explain, "effects")
    if not entries:
        return []
    names = [f"{e['module']}: {e['choice']} against {e['against']}" for e in entries]
    title = f"change in valid {label(run.metric)} ({better(run)} 0: it helps)"
    figure = forest(names, by_claim([(k, e["difference"]) for k, e in enumerate(entries)]), title)
    return [Plot("effects", figure, "Effect of every module of the winner, with intervals")]


def interactions(run: RunRecord) -> list[Plot]:
    """Draw the predicted interaction of every pair of modules as a map, and the verified ones with their intervals."""
    entries: Sequence[Mapping[str, Any]] = (run.explain or {}).get("interactions", [])
    if not entries:
        return []
    verified = sorted((e for e in entries if e["verified"]), key=lambda e: not is_resolved(e["contrast"]))
    made = [_map(run, entries, verified)] if len({m for e in entries for m in e["modules"]}) > 2 else []
    if not verified:
        return made
    title = f"interaction in valid {label(run.metric)} ({better(run)} 0: they help each other)"
    names = [pair_name(e) for e in verified]
    figure = forest(names, by_claim([(k, e["contrast"]) for k, e in enumerate(verified)]), title)
    marker = {"symbol": "x-thin", "size": 8, "color": GREY, "line": {"width": 2, "color": GREY}}
    figure.add_scatter(
        x=[e["predicted"] for e in verified], y=list(range(len(verified)))[::-1], mode="markers", name="predicted",
        marker=marker, hovertemplate="predicted %{x:+.4f}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(autorange=True, range=None)
    caption = "Trained with both, either and none of the two, on the same seeds. A cross is the prediction."
    return [*made, Plot("interactions", figure, "Verified interactions of modules with intervals", caption)]


def path(run: RunRecord) -> list[Plot]:
    """Draw the metric at every step from the baseline to the winner."""
    steps: Sequence[Mapping[str, Any]] = (run.explain or {}).get("path", [])
    if len(steps) < 2:
        return []
    last = len(steps) - 1
    values = [(k, read(s["value"])) for k, s in enumerate(steps)]
    ends = {0: ("baseline", RED, "diamond"), last: ("winner", BLUE, "circle")}
    series = [Series(*ends[k], [values[k]]) for k in ends]
    if last > 1:
        series.insert(1, Series("on the way", GREY, "circle-open", values[1:-1]))
    figure = forest([step_name(s, last) for s in steps], series, f"valid {axis(run)}", zero=False)
    figure.add_scatter(
        x=[v.mean for _, v in values], y=list(range(len(steps)))[::-1], mode="lines", showlegend=False,
        line={"shape": "vh", "width": 1.5, "color": GREY}, hoverinfo="skip",
    )  # fmt: skip
    caption = (
        "One change a row, each on top of those above it; dots are means over the same seeds with 95 % intervals. "
        "Whether a step is resolved is in the table: intervals of single steps say less than paired differences."
    )
    return [Plot("path", figure, "The metric at every step from the baseline to the winner", caption)]


def by_claim(records: Sequence[tuple[int, Mapping[str, Any]]]) -> list[Series]:
    """Return differences by row as two series: those that are resolved, and those that are not."""
    kinds = ((True, "resolved", BLUE, "circle"), (False, "not resolved", GREY, "circle-open"))
    found = [
        Series(name, colour, symbol, [(k, read(r)) for k, r in records if is_resolved(r) == resolved])
        for resolved, name, colour, symbol in kinds
    ]
    return [series for series in found if series.at]


def pair_name(entry: Mapping[str, Any]) -> str:
    """Return the two choices of an interaction."""
    return " and ".join(f"{place_name(m)}: {c}" for m, c in zip(entry["modules"], entry["choices"], strict=True))


def step_name(step: Mapping[str, Any], last: int) -> str:
    """Return what a step of the path changes."""
    changes = zip(step["changed"], step["before"], step["after"], strict=True)
    said = ", ".join(_change(str(place), _value(old), _value(new)) for place, old, new in changes)
    if step["step"] == 0:
        return "baseline"
    return f"{step['step']}  {said or 'settings'}{' (winner)' if step['step'] == last else ''}"


def _change(place: str, old: str, new: str) -> str:
    """Return a change; of settings that change together, which is too long for a row, only where."""
    said = f"{place_name(place)} {old} → {new}"
    return said if len(said) <= LETTERS else place_name(place)


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _map(run: RunRecord, entries: Sequence[Mapping[str, Any]], verified: Sequence[Mapping[str, Any]]) -> Plot:
    """Draw the lower triangle of a map whose rows and columns are modules."""
    modules = list(dict.fromkeys(m for e in entries for m in e["modules"]))
    choices = {m: c for e in entries for m, c in zip(e["modules"], e["choices"], strict=True)}
    numbers = [str(k + 1) for k in range(len(modules))]
    predicted = {_cell(modules, e): e["predicted"] for e in entries}
    text = {_cell(modules, e): quoted(pair_name(e)) for e in entries}
    rows, columns = range(1, len(modules)), range(len(modules) - 1)
    figure = empty(146 + 34 * len(rows), "")
    reach = max(map(abs, predicted.values())) or 1.0
    low, high = (HELP, HINDRANCE) if run.minimize else (HINDRANCE, HELP)
    title = {"text": f"predicted interaction, {label(run.metric)}", "side": "bottom", "font": {"size": 12}}
    figure.add_heatmap(
        z=[[predicted.get((r, c)) for c in columns] for r in rows],
        text=[[text.get((r, c), "") for c in columns] for r in rows],
        x=numbers[:-1], y=numbers[1:], zmin=-reach, zmax=reach, xgap=2, ygap=2, hoverongaps=False,
        colorscale=[[0, low.format(0.9)], [0.5, low.format(0)], [0.5, high.format(0)], [1, high.format(0.9)]],
        colorbar={
            "orientation": "h", "y": -0.02, "yanchor": "top", "thickness": 10, "outlinewidth": 0, "nticks": 5,
            "tickfont": {"size": 11}, "title": title,
        },
        hovertemplate="%{text}<br>predicted %{z:+.4f}<extra></extra>",
    )  # fmt: skip
    for resolved, name, fill in ((True, "trained, resolved", INK), (False, "trained, not resolved", "#ffffff")):
        at = [_cell(modules, e) for e in verified if is_resolved(e["contrast"]) == resolved]
        if at:
            line = {"width": 2, "color": "#ffffff" if resolved else INK}
            figure.add_scatter(
                x=[numbers[c] for _, c in at], y=[numbers[r] for r, _ in at], mode="markers", name=name,
                marker={"symbol": "circle", "size": 10, "color": fill, "line": line}, hoverinfo="skip",
            )  # fmt: skip
    _map_axes(figure, numbers, [f"{place_name(m)}: {choices[m]}" for m in modules])
    caption = (
        "What the surrogate expects of two modules beyond the sum of their effects: blue pairs help each other, red "
        "ones hinder each other. A pair with a dot was trained. "
        f"Column 1 is {place_name(modules[0])}: {choices[modules[0]]}."
    )
    return Plot("interaction-map", figure, "Predicted interaction of every pair of modules", caption)


def _cell(modules: Sequence[str], entry: Mapping[str, Any]) -> tuple[int, int]:
    """Return row and column of a pair in the lower triangle."""
    a, b = (modules.index(m) for m in entry["modules"])
    return max(a, b), min(a, b)


def _map_axes(figure: go.Figure, numbers: Sequence[str], names: Sequence[str]) -> None:
    plain = {"type": "category", "showgrid": False, "ticks": "", "fixedrange": True, "title": None}
    short = [name if len(name) <= 26 else f"{name[:25]}…" for name in names]
    rows = [f"{quoted(name)}  {n}" for n, name in zip(numbers, short, strict=True)]
    figure.update_yaxes(autorange="reversed", tickvals=list(numbers[1:]), ticktext=rows[1:], **plain)
    figure.update_xaxes(side="top", tickvals=list(numbers[:-1]), ticktext=list(numbers[:-1]), **plain)
    figure.update_layout(
        margin={"l": 4, "r": 8, "t": 64, "b": 70}, legend={"y": 1, "yref": "container", "yanchor": "top"}
    )
