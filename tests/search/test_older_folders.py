"""Run and model folders that version 0.1.0 wrote go on, report, predict and verify.

``tests/fixtures/run-0.1`` is a study of 8 trials that was searched and half confirmed: one population of each finalist
is there, the other is not. ``tests/fixtures/model-0.1`` is the model that the undisturbed run exported.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mmsa_core.data.synthetic import write_planted
from search import cli

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with copies of both, and the data that they were made from."""
    folder = tmp_path_factory.mktemp("old")
    for name in ("run-0.1", "model-0.1"):
        shutil.copytree(FIXTURES / name, folder / name)
    write_planted(folder / "planted.npz", 0, train=64, valid=32, test=32)
    for path in (folder / "run-0.1" / "resolved.yaml", folder / "run-0.1" / "lock.json"):
        path.write_text(path.read_text(encoding="utf-8").replace("planted.npz", str(folder / "planted.npz")), "utf-8")
    return folder


def command(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a verb in this process and return what it printed."""
    try:
        cli.main(arguments)
    except SystemExit as end:
        assert end.code in (0, None), capsys.readouterr().err
    return capsys.readouterr().out


def test_a_run_goes_on_and_trains_nothing_twice(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, data = old / "run-0.1", str(old / "planted.npz")
    before = {p: p.read_bytes() for p in [*run.glob("trials/*/*"), *run.glob("confirm/*/*")]}
    assert len(before) > 20
    found = json.loads(command("status", str(run), "--json", capsys=capsys))
    assert (found["state"], found["used"]["trials"], found["test_openings"]) == ("finished", 8, 0)
    options = ("--data", data, "--out", str(run), "resources.workers=1", "--deterministic", "--json")
    record = json.loads(command("run", str(run / "study.yaml"), *options, capsys=capsys))
    assert (record["winner"], record["baseline"], record["test_openings"]) == (5, 0, 1)
    assert len(record["seeds"]) == 4
    assert {p: p.read_bytes() for p in before} == before, "what was trained is not trained again"
    assert (run / "report" / "index.html").exists()


def test_a_run_reports_and_exports_again(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = old / "run-0.1"
    command("export", str(run), capsys=capsys)
    command("report", str(run), capsys=capsys)
    assert "Winner" in (run / "report" / "report.md").read_text(encoding="utf-8")


def test_a_model_predicts_evaluates_and_verifies(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, data = str(old / "model-0.1"), str(old / "planted.npz")
    recorded = json.loads((old / "model-0.1" / "metrics.json").read_text(encoding="utf-8"))
    found = json.loads(command("evaluate", model, "--data", data, "--json", capsys=capsys))
    assert found["valid"]["mae"]["mean"] == pytest.approx(recorded["valid"]["mae"]["mean"], abs=1e-5)
    lines = command("predict", model, "--data", data, "--split", "test", capsys=capsys).splitlines()
    assert lines[0] == "id,prediction,std,low,high" and len(lines) == 33
    assert json.loads(command("verify", model, "--data", data, "--json", capsys=capsys))["reproduced"]
