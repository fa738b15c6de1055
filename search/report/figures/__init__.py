"""The figures of a report, a file for each topic; :func:`plots` returns all that a run has results for."""

from __future__ import annotations

from search.report.collect import RunRecord
from search.report.figures.confirmed import candidates
from search.report.figures.costs import pareto
from search.report.figures.explained import effects, interactions, path
from search.report.figures.holistic import holistic
from search.report.figures.information import information
from search.report.figures.plot import Plot
from search.report.figures.searched import curves, history
from search.report.figures.weights import importance, marginals

TOPICS = (
    candidates, effects, path, interactions, importance, marginals, holistic, information, pareto, history, curves,
)  # fmt: skip


def plots(run: RunRecord) -> dict[str, Plot]:
    """Return the figures that the run has results for, by name."""
    return {plot.name: plot for topic in TOPICS for plot in topic(run)}
