"""The metric against what a model costs: complete trials of the search, confirmed candidates, and the front."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from search.report.collect import RunRecord, TrialRecord
from search.report.figures.plot import BLUE, GREY, Plot, axis, candidate, dots, empty, evenly, look, value_range
from search.report.wording import interval, read
from search.statistics import Estimate

MAX_POINTS = 800
"""Trials drawn against one cost."""
TITLES = {
    "latency": "milliseconds per utterance",
    "parameters": "trained parameters",
    "seconds": "seconds of training, per seed",
}


def pareto(run: RunRecord) -> list[Plot]:
    """Draw the metric against every cost that is known and differs."""
    costs = {name: trial_costs(run, name) for name in TITLES}
    return [_against(run, name, known) for name, known in costs.items() if len(set(known.values())) > 1]


def trial_costs(run: RunRecord, name: str) -> dict[int, float]:
    """Return the cost of each complete trial: what the study weighs it by where it weighs this one."""
    share = run.config.seeds.search if name == "seconds" else 1
    found = {}
    for trial in run.trials:
        own = {"parameters": trial.parameters, "seconds": trial.seconds}.get(name)
        known = trial.cost if run.config.objective.cost == name == "latency" else own
        if trial.value is not None and known is not None and known > 0:
            found[trial.number] = known / share
    return found


def front(run: RunRecord, costs: Mapping[int, float]) -> list[TrialRecord]:
    """Return the complete trials that no other beats in the metric without costing more, the cheapest first."""
    found: list[TrialRecord] = []
    known = [t for t in run.ranked if t.number in costs]
    for trial in sorted(known, key=lambda t: (costs[t.number], run.sign * (t.value or 0.0))):
        assert trial.value is not None
        if not found or run.sign * trial.value < run.sign * (found[-1].value or 0.0):
            found.append(trial)
    return found


def _against(run: RunRecord, name: str, costs: Mapping[int, float]) -> Plot:
    title = TITLES[name]
    best = front(run, costs)
    known = sorted((t for t in run.ranked if t.number in costs), key=lambda t: t.number)
    drawn = evenly(known, MAX_POINTS, {t.number for t in best})
    figure = empty(380, f"{title} (fewer is better)", f"valid {axis(run)}")
    figure.add_scatter(
        x=[costs[t.number] for t in drawn], y=[t.value for t in drawn], mode="markers", name="complete trials",
        marker={"size": 6, "color": GREY, "opacity": 0.65}, text=[f"trial {t.number}" for t in drawn],
        hovertemplate="%{text}: %{y:.4f} at %{x:.4g}<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        x=[costs[t.number] for t in best], y=[t.value for t in best], mode="lines", name="front of the search",
        line={"shape": "hv", "width": 1.5, "color": BLUE, "dash": "dot"}, hoverinfo="skip",
    )  # fmt: skip
    low, high = value_range([t.value for t in drawn if t.value is not None], run)
    ends = [end for value in _candidates(figure, run, name, costs) for end in (value.low, value.high)]
    figure.update_yaxes(range=[min([low, *ends]), max([high, *ends])])
    figure.update_xaxes(type="log" if max(costs.values()) / min(costs.values()) > 5 else "linear", nticks=6)
    caption = "Candidates on fresh seeds have intervals; values of the search, and so their front, are optimistic."
    return Plot(f"pareto-{name}", figure, f"The metric against {title}", caption if run.confirm is not None else "")


def _candidates(figure: go.Figure, run: RunRecord, name: str, costs: Mapping[int, float]) -> list[Estimate]:
    """Draw the confirmed candidates at their cost and return their values."""
    found = []
    for entry in [] if run.confirm is None else run.confirm["candidates"]:
        cost = entry.get(name, costs.get(entry["trial"]))
        if cost is None:
            continue
        value, (colour, symbol) = read(entry["valid"][run.metric]), look(run, entry["trial"])
        title = candidate(run, entry["trial"])
        named = entry["trial"] in (run.confirm["winner"], run.confirm["baseline"]) if run.confirm else False
        figure.add_scatter(
            x=[cost], y=[value.mean], mode="markers", name=title, showlegend=named, text=[interval(value)],
            hovertemplate="%{text} at %{x:.4g}<extra>" + title + "</extra>", **dots(colour, symbol, [value], "y"),
        )  # fmt: skip
        found.append(value)
    return found
