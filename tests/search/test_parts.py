"""What comes after the search on a small run: its parts are shown in order, and a signal stops between two of them."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from search import pipeline
from search.parts import PARTS, TRAINING
from search.trials import STAGE, open_study, summary
from tests.fuzz import seeds


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeds.run(tmp_path_factory.mktemp("parts"))


def members(run: Path) -> dict[str, tuple[int, int]]:
    """Return what is trained and filed, with when it was written."""
    files = (p for p in (run / "confirm").rglob("*") if p.is_file() and p.parent != run / "confirm")
    return {str(p): (p.stat().st_ino, p.stat().st_mtime_ns) for p in files}


def test_every_part_is_shown_in_its_order_and_is_in_the_study(run: Path) -> None:
    seen: list[tuple[str, str]] = []
    stored: list[Any] = []
    opened = pipeline.open_run(run)

    def show(status: Mapping[str, Any]) -> None:
        at = (status["stage"], status["part"])
        if at not in seen:
            seen.append(at)
            stored.append(summary(opened.study, opened.config, running=True)["after_search"])

    pipeline.after_search(opened, show)
    expected = [(s, p) for s, own in PARTS.items() for p in own if p not in (TRAINING, "test split")]
    assert seen == expected, "the test split is not opened again, and nothing is trained"
    assert stored == [f"{stage}: {part}" for stage, part in expected]
    ended = summary(opened.study, opened.config, running=False)
    assert ended["after_search"] is None and opened.study.user_attrs[STAGE] == "report: page and tables"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("part", ["surrogate", "importances", "information"])
def test_a_signal_stops_after_the_part_and_nothing_is_trained_again(run: Path, part: str, number: int) -> None:
    before, seen = members(run), []
    assert before

    def show(status: Mapping[str, Any]) -> None:
        if status["part"] not in seen:
            seen.append(status["part"])
            if status["part"] == part:
                os.kill(os.getpid(), number)

    with pytest.raises(pipeline.InterruptedStudyError):
        pipeline.after_search(pipeline.open_run(run), show)
    assert seen[-1] == part, "no other part began"
    pipeline.after_search(pipeline.open_run(run), lambda status: None)
    assert members(run) == before
    assert open_study(pipeline.open_run(run).config, pipeline.open_run(run).folder).user_attrs[STAGE].startswith("rep")
