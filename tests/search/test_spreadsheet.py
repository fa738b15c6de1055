"""What a spreadsheet would run is text in every CSV file, and numbers stay numbers."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmsa_core.config import MemberConfig
from mmsa_core.data.npz import NpzSource, write, write_arrays
from mmsa_core.data.synthetic import planted
from mmsa_core.train import Objective
from search.cli import main
from search.export import train_model
from search.report.tables.table import Table
from search.spreadsheet import cell

FORMULAS = (
    '=HYPERLINK("http://x")', "+1", "-1+cmd", "@x", "\t=1", "\r=1", "\n=1", "\uff1d1", "'=1", "-", "'",
)  # fmt: skip
PLAIN = ("video_3$_$1", "0", "a=b", "x'y", " 1", "", "\u2212 1", "good, film")


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_gets_an_apostrophe(text: str) -> None:
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_stays(text: str) -> None:
    assert cell(text) == text


def test_predictions_of_hostile_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write("data.npz", planted(0, train=16, valid=8, test=8))
    small = {"name": "pool", "dim": 4, "hidden": 4}
    tree = {"encoders": {"text": small, "audio": small}, "width": 4, "heads": {"dim": 4}, "epochs": 1}
    train_model(MemberConfig.from_dict(tree), "data.npz", [0], Objective(), "refuse", Path("model"))
    source = NpzSource(Path("data.npz"))
    ids = [*FORMULAS, *PLAIN]
    rows = np.arange(len(ids)) % 8
    new = {key: source.read(f"test/{key}")[rows] for key in ("text", "audio")}
    write_arrays("new.npz", {**new, "id": np.array(ids)})
    capsys.readouterr()
    main(["predict", "model", "--data", "new.npz"])
    written = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    assert [row["id"].removeprefix("'") for row in written] == ids, "the first apostrophe is ours"
    assert not any(row["id"].startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d")) for row in written)
    assert any(row["low"].startswith("-") for row in written), "numbers stay numbers"


def test_tables_of_a_report() -> None:
    frame = pd.DataFrame({"@name": ["=1+1", "a"], "value": [-1.5, 2.0], "n": [-1, 2], "mixed": [-3, "-3"]})
    assert Table("t", frame, (), ()).csv() == "'@name,value,n,mixed\n'=1+1,-1.5,-1,-3\na,2.0,2,'-3\n"
    assert Table("t", pd.DataFrame(), (), ()).csv() == "\n"
