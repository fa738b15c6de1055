"""The holistic numbers as figures: differences on slices, missing modalities, noise, and calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search.report.collect import RunRecord
from search.report.figures.plot import BLUE, GREY, RED, Plot, Series, empty, forest, small
from search.report.wording import MINUS, read

KINDS = {"noise": "noise added", "drop": "entries dropped", "structured": "time steps dropped"}


def holistic(run: RunRecord) -> list[Plot]:
    """Draw what is known of the winner beyond its mean."""
    if run.holistic is None:
        return []
    return [*slices(run.holistic), *subsets(run.holistic), *robustness(run.holistic), *calibration(run.holistic)]


def slices(record: Mapping[str, Any]) -> list[Plot]:
    """Draw the winner's difference from the baseline on every slice."""
    entries: Sequence[Mapping[str, Any]] = record["slices"]
    if not entries:
        return []
    found = [(k, read(e["difference"])) for k, e in enumerate(entries)]
    sides = (
        ("winner better", BLUE, "circle", [(k, v) for k, v in found if v.excludes_zero and v.mean < 0]),
        ("baseline better", RED, "diamond", [(k, v) for k, v in found if v.excludes_zero and v.mean > 0]),
        ("includes 0", GREY, "circle-open", [(k, v) for k, v in found if not v.excludes_zero]),
    )
    series = [Series(name, colour, symbol, at) for name, colour, symbol, at in sides if at]
    title = f"winner {MINUS} baseline, {record['split']} MAE (below 0: the winner is better)"
    caption = (
        "Intervals over training seeds and videos, not corrected for their number: one slice in twenty excludes 0 by "
        "chance."
    )
    return [Plot("slices", forest([slice_name(e) for e in entries], series, title), "Difference on slices", caption)]


def subsets(record: Mapping[str, Any]) -> list[Plot]:
    """Draw winner and baseline with every subset of the modalities."""
    entries: Sequence[Mapping[str, Any]] = record["subsets"]
    if not entries:
        return []
    roles = (("winner", BLUE, "circle", 0.08), ("baseline", RED, "diamond", -0.16))
    series = [Series(r, c, s, [(k, read(e[r])) for k, e in enumerate(entries)], shift) for r, c, s, shift in roles]
    names = [" + ".join(e["modalities"]) for e in entries]
    figure = forest(names, series, f"{record['split']} MAE (lower is better)", zero=False)
    caption = "The other modalities are missing in every row; the models are not trained again."
    return [Plot("subsets", figure, "Winner and baseline with some modalities only", caption)]


def robustness(record: Mapping[str, Any]) -> list[Plot]:
    """Draw winner and baseline along the level of every kind of noise, all on one range."""
    curves: Sequence[Mapping[str, Any]] = record["robustness"]
    values = [v for c in curves for role in ("winner", "baseline") for v in c[role]]
    if not values:
        return []
    edge = 0.06 * (max(values) - min(values)) or 0.05
    made = []
    for curve in curves:
        figure = small("level", f"{curve['modality']}, {KINDS.get(curve['kind'], curve['kind'])}", 220)
        for role, colour, dash in (("baseline", RED, "dash"), ("winner", BLUE, "solid")):
            figure.add_scatter(
                x=curve["levels"], y=curve[role], mode="lines", name=role,
                line={"width": 2.5, "color": colour, "dash": dash},
                hovertemplate=f"{role} %{{y:.4f}} at %{{x}}<extra></extra>",
            )  # fmt: skip
        figure.update_yaxes(range=[min(values) - edge, max(values) + edge], nticks=5)
        figure.update_xaxes(nticks=5)
        name = f"robustness-{curve['modality']}-{curve['kind']}"
        made.append(Plot(name, figure, f"MAE along {KINDS.get(curve['kind'], curve['kind'])} of {curve['modality']}"))
    return made


def calibration(record: Mapping[str, Any]) -> list[Plot]:
    """Draw how many labels lie in intervals against how many should."""
    found = record["calibration"]
    if not found or not found["nominal"]:
        return []
    figure = empty(320, "nominal share of the interval", "labels inside")
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="as promised", line={"width": 1.5, "color": GREY, "dash": "dash"},
        hoverinfo="skip",
    )  # fmt: skip
    figure.add_scatter(
        x=found["nominal"], y=found["observed"], mode="lines+markers", name="exported model",
        line={"width": 2.5, "color": BLUE}, marker={"size": 6},
        hovertemplate="%{y:.3f} inside at %{x:.2f}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(range=[0, 1])
    figure.update_yaxes(range=[0, 1])
    caption = (
        f"Mean distance {found['error']:.3f} over {found['n']} labels; the widths were found on the valid split. "
        "Above the line intervals are too wide, below it too narrow."
    )
    return [Plot("calibration", figure, "Observed against nominal shares of labels in intervals", caption)]


def slice_name(entry: Mapping[str, Any]) -> str:
    """Return what a slice holds and how many rows it has."""
    group = "" if entry["group"] in ("all", "video") else f"{entry['group']}: "
    return f"{'video ' if entry['group'] == 'video' else ''}{group}{entry['name']} (n = {entry['n']})"
