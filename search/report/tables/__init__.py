"""The tables of a report, a file for each topic; :func:`tables` returns all of them."""

from __future__ import annotations

from search.report.collect import RunRecord
from search.report.tables.checklist import checklist
from search.report.tables.confirmed import confirmed, pairs, test
from search.report.tables.costs import expenses, pareto
from search.report.tables.explained import arms, effects, importance, interactions, path
from search.report.tables.holistic import robustness, slices, subsets
from search.report.tables.information import advice, information
from search.report.tables.papers import paper_test, paper_valid
from search.report.tables.searched import failures, leaderboard, ranges, trials
from search.report.tables.table import Table

TOPICS = (
    confirmed, pairs, paper_test, test, paper_valid, effects, path, interactions, importance, arms, slices, subsets,
    robustness, information, advice, expenses, pareto, leaderboard, failures, ranges, trials, checklist,
)  # fmt: skip


def tables(run: RunRecord) -> dict[str, Table]:
    """Return every table of a run by name; those of stages that are not done are empty."""
    made = [topic(run) for topic in TOPICS]
    return {t.name: t for t in made}
