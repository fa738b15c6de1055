"""A small run for the tests of the report, without Ray, and what its page holds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import optuna
import torch

from mmsa_core.data.split import Split
from mmsa_core.data.synthetic import write_planted
from search import pipeline
from search.engine import Engine
from search.ledger import Ledger
from search.populations import Outcome, Report, Result, Source, Task, Wait
from search.study import StudyConfig
from search.worker import Worker

STUDY = """
study: small
budget: {trials: 8}
seeds: {search: 1, confirm: 3, leaders: 2}
rungs: {epochs: [1, 2, 4], keep: 0.5}
space: quick
"""
INJECTED = "<script>alert(1)</script> | `x`"
SIZE = 4
"""Members of a population."""


class Inline:
    """The engine without Ray: trains one task after another here. ``failing`` is a trial that is made to fail."""

    interrupted = False

    def __init__(self, failing: int | None = None) -> None:
        self.failing = failing

    def run(self, make: Callable[[], Source], data: tuple[Split, Split]) -> dict[str, Any]:
        source, worker = make(), Worker(*data, torch.device("cpu"))
        while isinstance(task := source.next(), Task):
            source.finish(task.name, self._train(worker, task, source.report))
        assert not isinstance(task, Wait)
        source.close()
        return source.status()

    def _train(self, worker: Worker, task: Task, report: Report) -> Result:
        result = worker.run(task, report)
        broken = [not task.keep_states and slot.trial == self.failing for slot in task.slots]
        outcomes = [Outcome(failure=INJECTED) if b else o for b, o in zip(broken, result.outcomes, strict=True)]
        return replace(result, outcomes=outcomes)


class Links(HTMLParser):
    """Collects what a page refers to and the elements it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.links += [v for k in ("src", "href", "srcset", "data", "action") if (v := found.get(k)) is not None]
        self.ids += [v for v in [found.get("id")] if v is not None]


def search_small(folder: Path) -> pipeline.Opened:
    """Search a study of 8 trials, one of them failed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    write_planted(folder / "data.npz", 0, train=60, valid=40, test=40)
    (folder / "study.yaml").write_text(STUDY)
    config = StudyConfig.load(folder / "study.yaml", ["objective.convention=mosi"], data=str(folder / "data.npz"))
    found = pipeline.open_new(config, folder / "study.yaml", folder / "run")
    make = partial(Ledger, found.config, found.space, found.folder, SIZE)
    Inline(failing=1).run(make, (found.train, found.valid))
    found.folder.release()
    return found


def finish(opened: pipeline.Opened) -> Path:
    """Confirm and explain, and write a record of the machine that tries to inject a script."""
    engine = cast(Engine, Inline())
    record = pipeline.confirm_stage(opened, engine, SIZE)
    pipeline.explain_stage(opened, engine, SIZE, record)
    facts = opened.folder.facts()
    (opened.folder.path / "lock.json").write_text(json.dumps({**facts, "command": INJECTED}))
    return opened.folder.path


def plots_of(text: str) -> set[str]:
    return {i.removeprefix("plot-") for i in Links(text).ids if i.startswith("plot-")}


def specs_of(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="specs">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    specs: dict[str, Any] = json.loads(found[1])
    return specs


def sections(text: str) -> set[str]:
    return set(re.findall(r'<section id="(\w+)"', text))
