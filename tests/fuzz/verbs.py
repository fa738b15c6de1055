"""The verbs that take a run folder, called in this process as the program calls them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmsa_core.errors import UserError
from search import cli, compare, pipeline, show
from search.confirm import read_record
from search.doctor import examine
from search.export import write_model
from search.ledger import Ledger
from search.report.build import write_report
from search.run_folder import RunFolder
from search.study import StudyConfig
from search.warm_start import leaders_of


@dataclass(frozen=True)
class Verb:
    """A verb, called with a run folder and another, sound one; ``weight`` is how often beside the others, ``signals``
    that it may end a process."""

    call: Callable[[Path, Path], object]
    weight: float
    slow: bool = False
    signals: bool = False


def _unseen(status: Mapping[str, Any]) -> None:
    """Nobody watches."""


def _run(run: Path, other: Path) -> None:
    """Take the run up again up to where a search would ask for its first trial."""
    config = StudyConfig.load(other / "resolved.yaml", [], str(run.parent / "planted.npz"))
    opened = pipeline.open_new(config, other / "study.yaml", run)
    try:
        Ledger(opened.config, opened.space, opened.folder, 4).close()
    finally:
        opened.folder.release()


def _export(run: Path, other: Path) -> None:
    opened, record = pipeline.open_run(run), read_record(run / "confirm")
    if record is None:
        raise UserError(f"{run}: nothing is confirmed yet; run or confirm first")
    write_model(opened, record)


VERBS = {
    "status": Verb(lambda run, other: show.status(run, False, True), 6),
    "stop": Verb(lambda run, other: cli.stop(run), 4, signals=True),
    "run": Verb(_run, 4, signals=True),
    "compare": Verb(lambda run, other: compare.show([run, other], True), 3),
    "warm_start": Verb(lambda run, other: leaders_of(run), 4),
    "open": Verb(lambda run, other: RunFolder(run).config(), 2),
    "export": Verb(_export, 3),
    "evaluate": Verb(lambda run, other: show.evaluate(run / "best", None, "valid", True), 2),
    "evaluate test": Verb(lambda run, other: show.evaluate(run / "best", None, "test", True), 1),
    "predict": Verb(lambda run, other: show.predict(run / "best", None, "test", [], run / "predictions.csv"), 2),
    "report": Verb(lambda run, other: write_report(run), 0.5, slow=True),
    "confirm": Verb(lambda run, other: pipeline.after_search(pipeline.open_run(run), _unseen), 0.3, slow=True),
    "doctor": Verb(lambda run, other: list(examine(run, None, None)), 0.1, slow=True),
}  # fmt: skip
