"""What was run, with what and for how long, and the commands that do it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search.origins import origin_sentences
from search.report.collect import RunRecord
from search.report.diagram import describe
from search.report.wording import duration, label
from search.storage import without_password


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
        "Objective": f"{objective.metric} of the valid split, {objective.direction}, {objective.convention} convention"
        + ("" if objective.cost is None else f"; {objective.cost}, minimize"),
        "Data": f"{Path(config.data.path or '').name}, fingerprint {lock.get('data_fingerprint', 'unknown')}",
        "Splits": splits(lock),
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


def splits(lock: Mapping[str, Any]) -> str:
    """Return how many utterances, of how many videos, each split has; the record of an older run does not know."""
    found = lock.get("splits", {})
    return ", ".join(f"{name} {s['rows']} utterances of {s['videos']} videos" for name, s in found.items()) or "unknown"


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
