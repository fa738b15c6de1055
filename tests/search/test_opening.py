"""An opening of the test split that was interrupted by SIGKILL is finished, not repeated, and counts once."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from mmsa_core.data.synthetic import write_planted
from mmsa_core.errors import UserError
from search import pipeline
from search.confirm import read_record
from search.engine import Engine
from search.opening import OPENINGS, read_opening
from search.report.build import write_report
from search.trials import open_study
from search.yaml_io import write_yaml
from tests.fuzz.seeds import Inline
from tests.search import killed
from tests.search.killed import COUNTING, SIZE, Point
from tests.search.tiny import study

RECORDS = ("opening.json", "holistic.json", "confirm.json", "explain.json", "information.json")
FILES = (RECORDS[0], "test_winner.npz", "test_baseline.npz", *RECORDS[1:])
POINTS: list[Point] = [(name, when) for name in (*FILES, COUNTING) for when in ("before", "after")]
USUAL = [
    ("opening.json", "after"), (COUNTING, "after"), ("test_winner.npz", "after"), ("holistic.json", "before"),
    ("confirm.json", "before"), ("explain.json", "before"),
]  # fmt: skip
"""What every run of the tests goes through; ``MMSA_KILLS=20`` goes through all points and so many random moments."""
KILLS = int(os.environ.get("MMSA_KILLS", "0"))


@dataclass(frozen=True)
class Undisturbed:
    """A run folder right before the opening, all of its members trained; what comes of it, and how long that takes."""

    before: Path
    after: Path
    seconds: float


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("runs")
    write_planted(folder / "planted.npz", 0, train=32, valid=16, test=16)
    config = study(
        seeds={"search": 1, "confirm": 2, "effects": 2, "leaders": 2, "base": 0}, budget={"trials": 6},
        data={"path": str(folder / "planted.npz")}, population=SIZE, pruner="none",
    )  # fmt: skip
    write_yaml(folder / "study.yaml", config.resolved())
    opened = pipeline.open_new(config, folder / "study.yaml", folder / "before")
    pipeline.search(opened, cast(Engine, Inline()), deterministic=False)
    opened.folder.release()
    assert killed.ended(killed.process(killed.confirm, folder / "before", ("opening.json", "before"))) == -9
    assert members(folder / "before") and not (folder / "before" / "confirm" / "opening.json").exists()
    shutil.copytree(folder / "before", folder / "after")
    started = time.monotonic()
    assert killed.ended(killed.process(killed.confirm, folder / "after")) == 0
    return Undisturbed(folder / "before", folder / "after", time.monotonic() - started)


def members(run: Path) -> dict[str, tuple[int, bytes]]:
    """Return the filed members: when each was written, and its bytes."""
    found = sorted((run / "confirm").glob("*/*.safetensors"))
    return {str(p.relative_to(run)): (p.stat().st_mtime_ns, p.read_bytes()) for p in found}


def openings(run: Path) -> list[dict[str, Any]]:
    opened = pipeline.open_run(run)
    found: list[dict[str, Any]] = open_study(opened.config, opened.folder).user_attrs.get(OPENINGS, [])
    return found


def check_finished(run: Path, expected: Path) -> None:
    """Check that a run's records are those of another one, and that it counts one opening."""
    for name in RECORDS:
        assert (run / "confirm" / name).read_bytes() == (expected / "confirm" / name).read_bytes(), name
    record = read_record(run / "confirm")
    assert record is not None and record["test_openings"] == 1
    assert [(o["by"], o["inputs"]) for o in openings(run)] == [("confirm", record["inputs"])]


@pytest.mark.parametrize("point", POINTS if KILLS else USUAL)
def test_an_opening_that_was_killed_is_finished(runs: Undisturbed, tmp_path: Path, point: Point) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs.before, run)
    assert killed.ended(killed.process(killed.confirm, run, point)) == -9
    before = members(run)
    assert killed.ended(killed.process(killed.confirm, run)) == 0
    assert {p: m for p, m in members(run).items() if p in before} == before, "nothing is trained twice"
    check_finished(run, runs.after)


def test_an_opening_that_is_killed_again_and_again(runs: Undisturbed, tmp_path: Path) -> None:
    """At random moments, until it comes to its end."""
    draws, run, kills = random.Random(0), tmp_path / "run", 0
    shutil.copytree(runs.before, run)
    while kills < (KILLS or 3):
        made = killed.process(killed.confirm, run)
        made.join(timeout=draws.uniform(0.2, 1.0) * runs.seconds)
        made.kill()
        if killed.ended(made) == 0:  # it was there first
            check_finished(run, runs.after)
            shutil.rmtree(run)
            shutil.copytree(runs.before, run)
        kills += made.exitcode == -9
    before = members(run)
    assert killed.ended(killed.process(killed.confirm, run)) == 0
    assert {p: m for p, m in members(run).items() if p in before} == before
    check_finished(run, runs.after)


# ---- other settings --------------------------------------------------------------------------------------------------


@pytest.fixture
def run(runs: Undisturbed, tmp_path: Path) -> Path:
    """A run that was killed between the opening and its record."""
    shutil.copytree(runs.before, tmp_path / "run")
    assert killed.ended(killed.process(killed.confirm, tmp_path / "run", ("confirm.json", "before"))) == -9
    return tmp_path / "run"


def confirmed(run: Path, *overrides: str) -> dict[str, Any]:
    return pipeline.confirm_stage(pipeline.open_run(run, overrides), cast(Engine, Inline()), SIZE)


def test_the_next_run_says_that_it_finished_an_opening(run: Path) -> None:
    message = confirmed(run)["message"]
    assert message == "the opening of the test split that was interrupted is finished; it counts once"
    again = confirmed(run)
    assert "message" not in again and again == read_record(run / "confirm")


def test_its_record_is_what_was_judged_before_the_split_was_read(run: Path) -> None:
    """Members that are lost and trained again elsewhere have other last digits."""
    frozen = json.loads((run / "confirm" / "opening.json").read_text(encoding="utf-8"))
    frozen["record"]["candidates"][0]["valid"]["mae"]["mean"] += 1e-7
    (run / "confirm" / "opening.json").write_text(json.dumps(frozen), encoding="utf-8")
    record = confirmed(run)
    assert record["candidates"] == frozen["record"]["candidates"] and record["test_openings"] == 1


def test_other_settings_are_another_opening(run: Path, runs: Undisturbed) -> None:
    record = confirmed(run, "seeds.confirm=3")
    assert record["message"] == "an opening of the test split with other settings was interrupted and stays counted"
    assert (len(record["seeds"]), record["test_openings"]) == (3, 2)
    assert [o["inputs"] for o in openings(run)] == [frozen_inputs(runs.after), record["inputs"]]
    assert read_opening(run / "confirm") is not None and confirmed(run, "seeds.confirm=3")["test_openings"] == 2


def test_an_opening_that_was_given_up_leaves_the_confirmed_one(runs: Undisturbed, tmp_path: Path) -> None:
    """Confirmed, then killed with more seeds, then asked for the first again: what lies beside is of one opening."""
    run = tmp_path / "run"
    shutil.copytree(runs.after, run)
    assert killed.ended(killed.process(more_seeds, run, ("confirm.json", "before"))) == -9
    page = write_report(run).read_text(encoding="utf-8")
    assert "Left out, as they belong to another confirmation: holistic.json" in page and 'id="holistic"' not in page
    record = confirmed(run)
    assert (record["test_openings"], len(openings(run))) == (2, 2), "the first opening is not counted again"
    known = read_record(runs.after / "confirm")
    assert known is not None
    assert all(record[key] == known[key] for key in ("inputs", "winner", "seeds", "ensemble", "test"))
    assert (run / "confirm" / "holistic.json").read_bytes() == (runs.after / "confirm" / "holistic.json").read_bytes()
    assert 'id="holistic"' in write_report(run).read_text(encoding="utf-8")


def more_seeds(run: Path, point: Point) -> None:
    killed.die_at(*point)
    confirmed(run, "seeds.confirm=3")


def test_an_explanation_of_another_confirmation_is_left_out(runs: Undisturbed, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs.after, run)
    confirmed(run, "seeds.confirm=3")
    page = write_report(run).read_text(encoding="utf-8")
    assert "Left out, as they belong to another confirmation: explain.json and information.json;" in page
    assert 'id="effects"' not in page and 'id="holistic"' in page


def test_a_run_of_an_older_version_is_not_opened_again(runs: Undisturbed, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs.after, run)
    (run / "confirm" / "opening.json").unlink()
    for name in ("confirm.json", "explain.json", "holistic.json", "information.json"):
        record = json.loads((run / "confirm" / name).read_text(encoding="utf-8"))
        del record["inputs"]
        (run / "confirm" / name).write_text(json.dumps(record), encoding="utf-8")
    opened = pipeline.open_run(run)
    known = open_study(opened.config, opened.folder)
    known.set_user_attr(OPENINGS, [{k: o[k] for k in ("time", "by")} for o in known.user_attrs[OPENINGS]])
    assert confirmed(run) == read_record(run / "confirm") and len(openings(run)) == 1
    assert "Left out" not in write_report(run).read_text(encoding="utf-8")


def test_a_damaged_opening_is_refused(run: Path) -> None:
    (run / "confirm" / "opening.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"opening.json: cannot be read as JSON .*delete it and confirm the run again"):
        confirmed(run)


def frozen_inputs(run: Path) -> str:
    found = read_opening(run / "confirm")
    assert found is not None
    return found.inputs
