"""Writes a run's report: ``index.html`` (one self-contained page), ``report.md`` and ``tables/*.csv``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from mmsa_core.atomic import write_text
from search.origins import origin_sentences
from search.report.collect import RunRecord, collect
from search.report.diagram import describe, diagram
from search.report.figures import Plot, plots
from search.report.tables import Table, escape, tables
from search.report.wording import Headline, by_resolution, duration, headline, label, seeds
from search.storage import without_password

TITLES = {
    "confirmed": "Confirmed candidates",
    "test": "Test split",
    "effects": "Module effects",
    "importance": "Importances",
    "leaderboard": "Leaderboard of the search",
    "failures": "Failures",
    "trials": "Trials",
}


def write_report(folder: Path, storage: str | None = None) -> Path:
    """Write the report of a run, finished or not, and return the page's path.

    ``storage`` is needed where the study's storage has a password: ``resolved.yaml`` does not keep it.

    Raises:
        UserError: ``folder`` is no run folder, or its study cannot be opened.
    """
    run = collect(folder, storage)
    made, found = tables(run), headline(run)
    report = folder / "report"
    (report / "tables").mkdir(parents=True, exist_ok=True)
    for table in made.values():
        write_text(report / "tables" / f"{table.name}.csv", _csv(table))
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
        effects=by_resolution(run),
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
            parts += [f"- {escape(e['sentence'])}" for e in by_resolution(run)] if name == "effects" else []
        elif name == "failures":
            parts += [f"## {title}", "None."]
    rows = "\n".join(f"| {escape(k)} | {escape(v)} |" for k, v in facts(run).items())
    parts += ["## What was run", f"| | |\n| --- | --- |\n{rows}", "```\n" + "\n".join(commands(run)) + "\n```"]
    return "\n\n".join(parts) + "\n"


def facts(run: RunRecord) -> dict[str, str]:
    """Return what was run, with what, for how long."""
    config, lock = run.config, run.facts
    minutes = "" if config.budget.minutes is None else f", {config.budget.minutes:g} minutes"
    states = ("complete", "pruned", "failed", "running", "waiting")
    counts = ", ".join(f"{run.count(s)} {s}" for s in states if run.count(s))
    packages = ", ".join(f"{k} {v}" for k, v in lock.get("packages", {}).items())
    confirm = "" if run.confirm is None else f"; to confirm {', '.join(map(str, run.confirm['seeds']))}"
    objective, rungs = config.objective, ", ".join(map(str, config.rungs.epochs))
    first = " ".join(origin_sentences(run.origins, label(objective.metric), run.sign))
    return {
        "Study": config.study,
        "Objective": f"{objective.metric} of the valid split, {objective.direction}, {objective.convention} convention",
        "Data": f"{Path(config.data.path or '').name}, fingerprint {lock.get('data_fingerprint', 'unknown')}",
        "Modalities": ", ".join(config.data.modalities or ()) or "all of the data",
        "Text features": _text_model(lock.get("text_model")),
        "Baseline": "the space's defaults" if run.named is None else describe(run.named.to_dict()),
        **({"First trials": first} if first else {}),
        "Budget": f"{config.budget.trials} trials{minutes}",
        "Spent": f"{counts or 'nothing'}; {duration(run.seconds)}",
        "Search": f"{config.sampler} sampler, {config.pruner} pruner, rungs at epochs {rungs}",
        "Seeds": f"{config.seeds.search} per trial in the search, base {config.seeds.base}{confirm}",
        "Test openings": str(run.openings),
        "Storage": without_password(config.storage),
        "Device": str(lock.get("device", "unknown")),
        "Platform": f"{lock.get('platform', 'unknown')}, Python {lock.get('python', 'unknown')}",
        "Versions": packages or "unknown",
        "Commit": str(lock.get("commit") or "unknown"),
        "Command": without_password(str(lock.get("command", "unknown"))),
    }


def _text_model(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return "the data's own"
    content = f", content {record['content']}" if record["content"] else ""
    return f"{Path(record['name']).name}, {record['pooling']} of layer {record['layer']}{content}"


def commands(run: RunRecord) -> list[str]:
    """Return the commands that run it again and check its model."""
    again = f"mmsa-search run {shlex.quote(run.path + '/resolved.yaml')} --out NEW_FOLDER"
    found = [f"{again} storage=journal" if "://" in run.config.storage else again]
    if run.confirm is not None:
        found.append(f"mmsa-search verify {shlex.quote(run.path + '/best')}")
    return found


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


def _csv(table: Table) -> str:
    return table.frame.to_csv(index=False) if len(table.frame.columns) else "\n"


def _specs(figures: Mapping[str, Plot]) -> str:
    """Return the figures as JSON that is safe inside a script element."""
    specs = {name: json.loads(plot.figure.to_json()) for name, plot in figures.items()}
    return json.dumps(specs, separators=(",", ":")).replace("<", "\\u003c").replace("\u2028", "\\u2028")
