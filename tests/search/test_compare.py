"""Several runs side by side: what is paired, what is not, and what cannot be compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from mmsa_core.data.npz import NpzSource
from mmsa_core.data.split import videos
from mmsa_core.data.synthetic import write_planted
from mmsa_core.errors import UserError
from mmsa_core.metrics import evaluate
from search import cli, pipeline
from search.compare import compared, read_run
from search.configs import modules
from search.engine import Engine
from search.populations import Source
from search.run_folder import RunFolder
from search.statistics import compare, holm, welch
from search.study import StudyConfig
from search.trials import open_study
from search.worker import Worker
from search.yaml_io import write_yaml
from tests.search import tiny
from tests.search.tiny import drain


class Inline:
    """Stands in for the engine: does a source's tasks here and now."""

    interrupted = False

    def run(self, make_source: Callable[[], Source], splits: Any) -> dict[str, Any]:
        source = make_source()
        drain(source, Worker(*splits, torch.device("cpu")).run)
        source.close()
        return source.status()


def confirmed(folder: Path, data: Path, **changes: Any) -> Path:
    """Run a small study up to its confirmation and return its folder."""
    tree = {"budget": {"trials": 4}, "population": 4, "pruner": "none", **changes}
    config = tiny.study(**tree, data={"path": str(data), "modalities": ["text", "audio"]})
    folder.mkdir()
    write_yaml(folder / "study.yaml", config.resolved())
    config = StudyConfig.load(folder / "study.yaml")
    opened = pipeline.open_new(config, folder / "study.yaml", folder / "run")
    engine = cast(Engine, Inline())
    pipeline.search(opened, engine, deterministic=False)
    pipeline.confirm_stage(opened, engine, 4)
    opened.folder.release()
    return folder / "run"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs on the same data: ``a``; ``sum`` with another space, ``later`` with other seeds, ``corr`` by another metric;
    and ``other`` on other data."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("planted", 0), ("other", 1)):
        write_planted(folder / f"{name}.npz", seed, train=64, valid=32, test=32)
    data = folder / "planted.npz"
    three = {"search": 1, "confirm": 3, "leaders": 1}
    space = {**tiny.SPACE, "optimizer": {"lr": 0.02}, "fusion": "sum"}
    return {
        "a": confirmed(folder / "a", data),
        "sum": confirmed(folder / "sum", data, space=space, seeds={**three, "confirm": 4}),
        "later": confirmed(folder / "later", data, seeds={**three, "base": 7}),
        "corr": confirmed(folder / "corr", data, objective={"metric": "corr", "convention": "mosi"}, seeds=three),
        "other": confirmed(folder / "other", folder / "other.npz", seeds=three),
    }


def test_the_lines_are_what_the_runs_recorded(runs: dict[str, Path]) -> None:
    found = compared([runs["a"], runs["sum"]])
    for name, row in zip(("a", "sum"), found["runs"], strict=True):
        record = json.loads((runs[name] / "confirm" / "confirm.json").read_text())
        lock = json.loads((runs[name] / "lock.json").read_text())
        assert (row["run"], row["study"], row["trials"]) == (str(runs[name]), "tiny", 4)
        assert row["data"] == {"name": "planted.npz", "fingerprint": lock["data_fingerprint"]}
        assert row["objective"] == {"metric": "mae", "direction": "minimize", "convention": "mosi"}
        for role in ("winner", "baseline"):
            own = next(c for c in record["candidates"] if c["trial"] == record[role])
            assert row[role] == {
                "trial": record[role],
                "modules": modules(own["config"]),
                "valid": own["valid"]["mae"],
                "test": record["test"][role]["mae"],
            }
    assert found["runs"][0]["seeds"] == 3 and found["runs"][1]["seeds"] == 4
    assert found["runs"][0]["space"]["fingerprint"] != found["runs"][1]["space"]["fingerprint"]


def test_common_seeds_are_paired_over_videos(runs: dict[str, Path]) -> None:
    (pair,) = compared([runs["a"], runs["sum"]])["pairs"]
    assert (pair["kind"], pair["a"], pair["b"]) == ("paired", str(runs["a"]), str(runs["sum"]))
    first, second = read_run(runs["a"]), read_run(runs["sum"])
    source = NpzSource(runs["a"].parents[1] / "planted.npz")
    labels = source.read("valid/regression_labels").astype(np.float32)
    own, its = (run.members.predictions[:3] for run in (first, second))
    by_hand = [
        evaluate(p, labels, "mosi")["mae"] - evaluate(q, labels, "mosi")["mae"] for p, q in zip(own, its, strict=True)
    ]
    assert pair["valid"]["mean"] == pytest.approx(np.mean(by_hand))
    assert pair["valid"]["std"] == pytest.approx(np.std(by_hand, ddof=1))
    clusters = videos([str(i) for i in source.read("valid/id")])
    assert pair["valid"]["low"] == compare("mae", "mosi", own, its, labels, clusters).low
    tests = [read(run) for run in (first, second)]
    assert pair["test"]["mean"] == pytest.approx(tests[0].mean - tests[1].mean)
    assert (pair["test"]["low"], pair["test"]["clusters"]) == (welch(*tests).low, 0)


def read(run: Any) -> Any:
    return run.estimate("test")


def test_other_seeds_are_not_paired(runs: dict[str, Path]) -> None:
    (pair,) = compared([runs["a"], runs["later"]])["pairs"]
    a, b = (read_run(runs[n]).estimate("valid") for n in ("a", "later"))
    assert a is not None and b is not None
    assert (pair["kind"], pair["why"]) == ("unpaired", "other seeds")
    assert (pair["valid"]["low"], pair["valid"]["df"]) == (welch(a, b).low, welch(a, b).df)


def test_what_cannot_be_compared(runs: dict[str, Path]) -> None:
    found = compared([runs["a"], runs["other"], runs["corr"]])["pairs"]
    assert [(p["kind"], p["why"]) for p in found] == [
        ("none", "not comparable: other data"),
        ("none", "not comparable: other metric"),
        ("none", "not comparable: other metric"),
    ]
    assert all(p["valid"] is None and p["test"] is None for p in found)


def test_pairs_are_corrected_together(runs: dict[str, Path]) -> None:
    found = compared([runs[n] for n in ("a", "sum", "other", "later")])["pairs"]
    assert [p["kind"] for p in found] == ["paired", "none", "unpaired", "none", "unpaired", "none"]
    for split in ("valid", "test"):
        own = [p[split] for p in found if p[split] is not None]
        assert [r["p_adjusted"] for r in own] == holm([r["p"] for r in own]) and len(own) == 3
        assert [r["resolved"] for r in own] == [r["p_adjusted"] < 0.05 for r in own]


def test_data_that_is_gone_or_has_changed(runs: dict[str, Path], tmp_path: Path) -> None:
    data = runs["a"].parents[1] / "planted.npz"
    kept = tmp_path / "kept.npz"
    shutil.move(data, kept)
    try:
        (gone,) = compared([runs["a"], runs["sum"]])["pairs"]
        write_planted(data, 5, train=64, valid=32, test=32)
        (changed,) = compared([runs["a"], runs["sum"]])["pairs"]
    finally:
        shutil.move(kept, data)
    assert gone == changed
    assert (gone["kind"], gone["why"]) == ("unpaired", "the data is gone or has changed")
    assert gone["valid"]["clusters"] == 0


def test_the_test_split_stays_closed(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str] = []
    plain = NpzSource.read

    def spied(self: NpzSource, key: str) -> Any:
        keys.append(key)
        return plain(self, key)

    monkeypatch.setattr(NpzSource, "read", spied)
    before = {p: p.read_bytes() for p in runs["a"].rglob("*") if p.is_file() and p.name not in (".lock", "study.log")}
    compared([runs["a"], runs["sum"], runs["later"]])
    assert keys and all(key.startswith("valid/") for key in keys)
    assert {p: p.read_bytes() for p in before} == before, "nothing is written"
    folder = RunFolder(runs["a"])
    assert len(open_study(folder.config(), folder).user_attrs["test_openings"]) == 1


def test_printed(runs: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    cli.main(["compare", *(str(runs[n]) for n in ("a", "sum", "other"))])
    text = capsys.readouterr().out
    assert "planted.npz" in text and "not comparable: other data" in text and "paired: 3 common seeds" in text
    cli.main(["compare", str(runs["a"]), str(runs["sum"]), "--json"])
    assert json.loads(capsys.readouterr().out) == compared([runs["a"], runs["sum"]])


def test_wrong_runs(runs: dict[str, Path], tmp_path: Path) -> None:
    source = tiny.ledger(tiny.study(), tmp_path)
    write_yaml(tmp_path / "resolved.yaml", source.config.resolved())
    for given, sentence in (
        ([runs["a"]], "compare: needs two or more run folders, got 1; name the others too"),
        ([runs["a"], runs["a"] / "."], "is there twice; name every run folder once"),
        ([runs["a"], tmp_path / "no"], "no: no run folder is here"),
        ([runs["a"], tmp_path], "nothing is confirmed yet; run or confirm first"),
    ):
        with pytest.raises(UserError, match=sentence):
            compared(given)
