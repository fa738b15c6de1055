"""The doctor: checks the machine, the disk, the storage, and a study with its data, before hours are spent."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import typer
from rich.console import Console
from rich.markup import escape

from mmsa_core.errors import UserError
from search import machine
from search.machine import Finding
from search.storage import check_file, measured, open_storage, without_password
from search.study import StudyConfig

SLOW_WRITE = 0.05
"""Seconds of one write to the study's storage above which a search waits for it; a trial takes about seven."""
WRITES = 20
COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


def doctor(folder: Path, study: Path | None, data: str | None, as_json: bool) -> bool:
    """Print what is found, as it is found; tell whether a study can run."""
    console = Console(highlight=False, soft_wrap=True)
    findings = []
    for finding in examine(folder, study, data):
        findings.append(finding)
        if not as_json:
            colour = COLOURS[finding.state]
            console.print(f"[{colour}]{finding.state:<8}[/] {finding.name:<15} {escape(finding.found)}")
            if finding.advice:
                console.print(f"{'':<24} -> {escape(finding.advice)}")
    if as_json:
        typer.echo(json.dumps(verdict(findings), indent=2))
    return all(finding.state != "error" for finding in findings)


def verdict(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings as plain data with the worst of their states."""
    worst = max(findings, key=lambda f: list(COLOURS).index(f.state))
    return {"state": worst.state, "findings": [f.to_dict() for f in findings]}


def examine(folder: Path, study: Path | None, data: str | None) -> Iterator[Finding]:
    """Check everything that a study in ``folder`` will need; with ``study`` also that study, its storage and data."""
    yield machine.python()
    yield machine.packages()
    yield machine.cores()
    yield machine.gpu()
    yield machine.memory()
    yield machine.shared_memory()
    place = _existing(folder)
    yield machine.disk(place)
    yield machine.locking(place)
    config = None
    if study is not None:
        loaded, config = _load(study, data)
        yield loaded
    yield storage(config, place)
    if config is not None and study is not None:
        yield space_and_data(config, study)


def storage(config: StudyConfig | None, folder: Path) -> Finding:
    """Check how long one write to the study's storage takes: beside a file that is shared, in a file of its own; in a
    database in a study of its own that is deleted again."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spec = "journal" if config is None else config.storage
    named = without_password(spec)
    try:
        shared = check_file(spec)
        with tempfile.TemporaryDirectory(dir=shared.parent if shared else folder, prefix=".doctor-") as place:
            opened = open_storage(measured(spec), Path(place))
            study = optuna.create_study(storage=opened, study_name=f"doctor-{os.getpid()}-{time.time_ns()}")
            try:
                seconds = _timed(lambda k: study.set_user_attr("beat", k))
            finally:
                optuna.delete_study(study_name=study.study_name, storage=opened)
    except UserError as error:
        return Finding(
            "storage", "error", str(error).removeprefix("storage: "), "start it, or mend the URL, user or password"
        )
    except Exception as error:  # a database reports its troubles in its own classes
        reason = without_password(" ".join(str(error).split()))[:200]
        return Finding("storage", "error", f"{named}: {reason}", "start it, or mend the URL, user or password")
    found = f"{named}: {1000 * seconds:.1f} ms a write"
    if seconds > SLOW_WRITE:
        return Finding(
            "storage",
            "warning",
            found,
            "a trial takes about ten writes: put the run folder on a local disk, or take a database nearer by",
        )
    return Finding("storage", "ok", found)


def space_and_data(config: StudyConfig, study: Path) -> Finding:
    """Check the study as ``run --check`` does: its data, its space, and that every module can be built for them."""
    from search import pipeline

    try:
        opened = pipeline.open_new(config, study, Path("runs") / config.study, dry=True)
    except UserError as error:
        return Finding("data and space", "error", str(error), "mend what the sentence names")
    count = opened.space.count()
    return Finding(
        "data and space",
        "ok",
        f"{len(opened.train)} rows to train on, {len(opened.valid)} to validate; {count.structures:,} structures, "
        f"{count.continuous} further parameters",
    )


def _load(study: Path, data: str | None) -> tuple[Finding, StudyConfig | None]:
    try:
        config = StudyConfig.load(study, (), data)
    except UserError as error:
        return Finding("study", "error", str(error), "mend what the sentence names"), None
    return Finding(
        "study", "ok", f"{config.study}: {config.budget.trials} trials, storage {without_password(config.storage)}"
    ), config


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it, that exists and is no run folder: nothing is tried out there."""
    around = (folder.resolve(), *folder.resolve().parents)
    return next(p for p in around if p.is_dir() and not (p / "resolved.yaml").exists())


def _timed(write: Callable[[int], object]) -> float:
    """Return the seconds of one write, the median of some."""
    spent = []
    for k in range(WRITES):
        started = time.perf_counter()
        write(k)
        spent.append(time.perf_counter() - started)
    return sorted(spent)[WRITES // 2]
