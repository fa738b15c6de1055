"""Writes a run's report: ``index.html`` (one self-contained page), ``report.md``, tables as CSV, Markdown and TeX."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from mmsa_core.atomic import replacing_folder, write_text
from search.report.collect import RunRecord, collect
from search.report.diagram import describe, diagram
from search.report.facts import commands, facts
from search.report.figures import plots
from search.report.figures.plot import Plot
from search.report.headline import RULES, Headline, headline
from search.report.tables import tables
from search.report.tables.explained import sample
from search.report.tables.table import Table, escape
from search.report.wording import by_resolution, duration, label, seeds
from search.run_folder import RunFolder

TITLES = {
    "confirmed": "Confirmed candidates",
    "pairs": "Leaders against each other",
    "paper_test": "Test split, as papers print it",
    "test": "Test split",
    "paper_valid": "Valid split, as papers print it",
    "effects": "Module effects",
    "path": "From the baseline to the winner",
    "interactions": "Interactions of modules",
    "importance": "Importances",
    "arms": "Arms of every choice",
    "slices": "Slices of the test split",
    "subsets": "With some modalities only",
    "robustness": "With noisy modalities",
    "information": "Information of the modalities",
    "advice": "What the information advises",
    "expenses": "What it cost",
    "pareto": "Front of the metric against parameters",
    "leaderboard": "Leaderboard of the search",
    "failures": "Failures",
    "ranges": "What was searched",
    "trials": "Trials",
    "checklist": "Reproducibility checklist",
}
"""Every table of the report, in the order of ``report.md``."""
ENDINGS = (".csv", ".md", ".tex")
"""Of a table's files."""


def rewrite_report(run: Path, out: Path | None) -> Path:
    """Write the report of a run again, into ``out`` or where the run has it, and return the page's path.

    Raises:
        UserError: as :func:`write_report`; without ``out`` also where the run folder is in use or cannot be written.
    """
    if out is not None:
        return write_report(run, out=out)
    with RunFolder(run).held("give --out FOLDER"):
        return write_report(run)


def write_report(folder: Path, storage: str | None = None, out: Path | None = None) -> Path:
    """Write the report of a run, finished or not, and return the page's path.

    ``storage`` is needed where the study's storage has a password: ``resolved.yaml`` does not keep it. ``out`` is the
    report's folder, ``report`` in the run folder by default.

    Raises:
        UserError: ``folder`` is no run folder, or its study cannot be opened.
    """
    run = collect(folder, storage)
    made, found = tables(run), headline(run)
    report = folder / "report" if out is None else out
    with replacing_folder(report / "tables", [f"{t.name}{end}" for t in made.values() for end in ENDINGS]) as new:
        for table in made.values():
            _write_table(new, table)
    write_text(report / "report.md", markdown(run, found, made))
    write_text(report / "index.html", page(run, found, made))
    return report / "index.html"


def page(run: RunRecord, found: Headline, made: Mapping[str, Table]) -> str:
    """Return the report as one HTML page with everything in it."""
    environment = Environment(
        loader=PackageLoader("search", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = plots(run)
    winner = _winning_configuration(run)
    return environment.get_template("page.html").render(
        run=run,
        headline=found,
        tables=made,
        titles=TITLES,
        plots=figures,
        effects=_told(run, "effects"),
        samples={"importance": sample(run, "importance_sample"), "curves": sample(run, "surrogate")},
        interactions=_told(run, "interactions"),
        rule=None if run.confirm is None else RULES.get(run.confirm.get("rule", "")),
        spent=duration(run.seconds),
        metric=label(run.metric),
        winner=winner,
        picture=None if winner is None else Markup(diagram(winner)),  # escapes its own texts
        changes={} if run.winner is None else run.changes(run.trials[run.winner]),
        settings={} if winner is None else _flat(winner),
        facts=facts(run),
        commands=commands(run),
        seed_count=seeds(len(run.confirm["seeds"])) if run.confirm is not None else "",
        specs=Markup(_specs(figures)),  # every < in it is written as a JSON escape
        plotly=Markup(get_plotlyjs()) if figures else "",
    )


def markdown(run: RunRecord, found: Headline, made: Mapping[str, Table]) -> str:
    """Return headline and tables as Markdown."""
    parts = [f"# {escape(run.config.study)}", f"**{escape(found.claim)}** {escape(found.verdict)}"]
    parts += [escape(note) for note in (found.test, *found.notes) if note]
    if (winner := _winning_configuration(run)) is not None:
        parts += ["## Winner", escape(describe(winner))]
    for name, title in TITLES.items():
        table = made[name]
        if table.rows:
            parts += [f"## {title}", table.markdown()]
            parts += [f"- {escape(e['sentence'])}" for e in _told(run, name)]
        elif name == "failures":
            parts += [f"## {title}", "None."]
    rows = "\n".join(f"| {escape(k)} | {escape(v)} |" for k, v in facts(run).items())
    parts += ["## What was run", f"| | |\n| --- | --- |\n{rows}", "```\n" + "\n".join(commands(run)) + "\n```"]
    return "\n\n".join(parts) + "\n"


def _told(run: RunRecord, name: str) -> list[Mapping[str, Any]]:
    """Return the entries of a table that are told in sentences too."""
    if name == "effects":
        return by_resolution(run.explain, name)
    return [e for e in (run.explain or {}).get(name, []) if e["verified"]] if name == "interactions" else []


def _winning_configuration(run: RunRecord) -> Mapping[str, Any] | None:
    if run.winner is None:
        return None
    config: Mapping[str, Any] = run.candidate(run.winner)["config"]
    return config


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a configuration as dotted paths and short values."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = f"{value:.4g}" if isinstance(value, float) else str(value)
    return found


def _write_table(folder: Path, table: Table) -> None:
    """Write a table's CSV, and what can be pasted into a text; a table without rows has none."""
    (folder / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
    if table.rows:
        (folder / f"{table.name}.md").write_text(table.markdown() + "\n", encoding="utf-8")
        (folder / f"{table.name}.tex").write_text(table.latex(), encoding="utf-8")


def _specs(figures: Mapping[str, Plot]) -> str:
    """Return the figures as JSON that is safe inside a script element."""
    specs = {name: json.loads(plot.figure.to_json()) for name, plot in figures.items()}
    return json.dumps(specs, separators=(",", ":")).replace("<", "\\u003c").replace("\u2028", "\\u2028")
