"""The verb interactions, and what a run writes of what its data say and its winner uses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmsa_core.data.npz import write_arrays
from mmsa_core.data.synthetic import planted, write_planted
from search import interactions
from search.cli import main
from tests.search.tiny import scaled

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


def test_prints_a_table_with_what_is_planted(capsys: Capture) -> None:
    write_planted("data.npz", 0, train=300, valid=60, test=5)
    main(["interactions", "data.npz"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "360 rows of 72 videos, train and valid"
    row = next(line for line in lines if line.startswith("audio   vision"))
    assert "(.000)" in row, "alone they say nothing, in parentheses"
    fusion = next(line for line in lines if line.startswith("fusion: try low_rank, tensor"))
    assert "audio and vision" in fusion


def test_prints_json(capsys: Capture) -> None:
    write_planted("data.npz", 0, train=100, valid=40, test=5)
    main(["interactions", "data.npz", "--modalities", "vision,audio", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["videos"], found["target"]) == (140, 28, "label")
    assert [(c["first"], c["second"]) for c in found["pairs"]] == [("audio", "vision")]
    assert found["one_versus_rest"] == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere.npz"], "nowhere.npz: there is no such file"),
        (["data.npz", "--modalities", "text"], "interactions: takes two modalities or three, got text alone"),
        (["data.npz", "--modalities", "text,sound"], "data.npz: has no modality 'sound'"),
        (["data.npz"], "interactions: predicts every video from other ones and needs 30 rows in 5 videos"),
        (["bad.npz"], "bad.npz: train/audio has 1 values that are NaN or infinite"),
        (["data.npz", "--nonfinite", "drop"], "data.nonfinite: must be 'refuse' or 'zero', got 'drop'"),
    ],
)
def test_wrong_calls(capsys: Capture, arguments: list[str], sentence: str) -> None:
    write_planted("data.npz", 0, train=20, valid=5, test=5)
    with np.load("data.npz", allow_pickle=False) as file:
        arrays = {k: file[k].copy() for k in file.files}
    arrays["train/audio"][0, 0, 0] = np.nan
    write_arrays("bad.npz", arrays)
    with pytest.raises(SystemExit) as ended:
        main(["interactions", *arguments])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith(f"mmsa-search: {sentence}") and error.count("\n") == 1


def test_a_run_writes_what_the_data_say_and_the_model_uses(folder: Path) -> None:
    train, valid, _ = scaled()
    interactions.write(folder, train, valid, valid.features["text"].mean((1, 2)))
    found = json.loads((folder / "information.json").read_text(encoding="utf-8"))
    assert (found["data"]["rows"], found["data"]["target"]) == (96, "label")
    assert (found["model"]["rows"], found["model"]["target"]) == (32, "prediction")
    assert found["agreement"] is None or 0 <= found["agreement"] <= 1


def test_a_model_that_says_the_same_of_all_uses_nothing(folder: Path) -> None:
    train, valid, _ = scaled()
    interactions.write(folder, train, valid, np.zeros(len(valid), np.float32))
    found = json.loads((folder / "information.json").read_text(encoding="utf-8"))
    assert found["model"] is None and found["agreement"] is None


def test_too_few_rows_write_nothing(folder: Path) -> None:
    few = planted(0, train=5, valid=5, test=5)
    interactions.write(folder, few["train"], few["valid"], np.arange(5, dtype=np.float32))
    assert not (folder / "information.json").exists()
