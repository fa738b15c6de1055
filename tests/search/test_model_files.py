"""A model folder changes as a whole: readers see one model or another, whoever is killed while writing."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from mmsa_core import atomic
from mmsa_core.errors import UserError
from search.export import Model, read_model
from search.model_files import HASHED, NAMES, check_own, check_replaceable, write_files
from tests.fuzz import seeds
from tests.search import killed

EXPORTS, KILLS = 100, 10
LEAST_READ = 20


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeds.model(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "model")
    return tmp_path / "model"


def write(folder: Path, source: Model, factor: int) -> None:
    """Write a model that says in all of its files which one it is; all have the same shapes."""
    own = replace(source.config, epochs=factor).to_dict()
    tensors = {f"model.{n}": (factor * t).numpy() for n, t in source.states.items()}
    tensors |= {f"scaler.{n}": t for n, t in source.scaler.to_dict().items()}
    write_files(folder, own, tensors, {"factor": factor}, {**source.provenance, "factor": factor}, "")


def export_on(trained: Path, folder: Path, count: Path, whole: bool) -> None:
    """Export two models in turn until killed, and count."""
    if not whole:
        atomic.exchange = lambda *_: False  # as on a file system that has none
    source = read_model(trained)
    while True:
        for factor in (1, 2):
            write(folder, source, factor)
            with count.open("ab") as file:
                file.write(b".")


def size(count: Path) -> int:
    return count.stat().st_size if count.exists() else 0


def read_on(trained: Path, folder: Path, stop: Path, found: Path) -> None:
    """Read the model over and over, and write down what was there: a model, no model, or what must not be."""
    source, seen = read_model(trained), Counter[str]()
    name = next(n for n, t in source.states.items() if t.abs().sum() > 0)
    while not stop.exists():
        try:
            model = read_model(folder)
        except UserError as error:
            seen["none" if "no model is here" in str(error) else str(error)] += 1
            continue
        weights = (model.states[name].abs().sum() / source.states[name].abs().sum()).round().item()
        same = weights == model.config.epochs == model.provenance["factor"]
        seen[f"{weights:g}" if same else f"mixed: {weights:g}, {model.config.epochs}"] += 1
    found.write_text(json.dumps(seen), encoding="utf-8")


@pytest.mark.parametrize("whole", [True, False], ids=["exchange", "fallback"])
def test_a_reader_never_sees_a_mixed_model(trained: Path, tmp_path: Path, whole: bool) -> None:
    folder, count, stop, found = (tmp_path / n for n in ("model", "count", "stop", "found"))
    shutil.copytree(trained, folder)
    write(folder, read_model(trained), 1)
    reader = killed.process(read_on, trained, folder, stop, found)
    draws = random.Random(0)
    for _ in range(KILLS):
        goal = size(count) + EXPORTS // KILLS
        writer = killed.process(export_on, trained, folder, count, whole)
        while size(count) < goal and writer.is_alive():
            time.sleep(draws.uniform(0.0, 0.02))
        writer.kill()
        assert killed.ended(writer) == -9
    stop.touch()
    assert killed.ended(reader) == 0
    seen = json.loads(found.read_text(encoding="utf-8"))
    assert set(seen) <= ({"1", "2"} if whole else {"1", "2", "none"}), seen
    assert min(seen["1"], seen["2"]) > LEAST_READ
    write(folder, read_model(trained), 1)
    assert {p.name for p in tmp_path.iterdir()} == {"model", "count", "stop", "found"}, "what was killed is gone"
    assert sorted(p.name for p in folder.iterdir()) == sorted(NAMES)


# ---- files of two exports --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HASHED)
def test_a_file_of_another_export_is_refused(model: Path, tmp_path: Path, name: str) -> None:
    """Shapes are equal, so that nothing else would tell."""
    write(tmp_path / "other", read_model(model), 2)
    shutil.copy(tmp_path / "other" / name, model / name)
    sentence = rf"model: the model is damaged .{name} is not of the export that provenance.json is of.; export it again"
    with pytest.raises(UserError, match=sentence):
        read_model(model)
    (model / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is missing"):
        read_model(model)


def test_a_folder_of_an_older_version_is_read(model: Path) -> None:
    facts = json.loads((model / "provenance.json").read_text(encoding="utf-8"))
    assert set(facts["files"]) == set(HASHED)
    del facts["files"]
    (model / "provenance.json").write_text(json.dumps(facts), encoding="utf-8")
    (model / "metrics.json").unlink()
    assert read_model(model).provenance["seeds"] == [0, 1]


@pytest.mark.parametrize("files", [[], "x", None, {}, {"config.yaml": 1}])
def test_hashes_that_are_none_are_refused(model: Path, files: object) -> None:
    facts = json.loads((model / "provenance.json").read_text(encoding="utf-8"))
    (model / "provenance.json").write_text(json.dumps({**facts, "files": files}), encoding="utf-8")
    with pytest.raises(UserError, match=r"the model is damaged \(config.yaml is not of the export"):
        read_model(model)


# ---- where a model may be written ------------------------------------------------------------------------------------


def test_a_model_takes_the_place_of_a_model_only(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (model, tmp_path / "empty", tmp_path / "new"):
        check_own(folder)
        check_replaceable(folder)
    (tmp_path / "home").mkdir()
    for name, kind in (("README.md", "file"), ("config.yaml", "file"), ("thesis.tex", "file"), ("work", "folder")):
        shutil.rmtree(tmp_path / "home")
        (tmp_path / "home").mkdir()
        path = tmp_path / "home" / name
        path.touch() if kind == "file" else path.mkdir()
        with pytest.raises(UserError, match=rf"home: holds {name} and is no model folder; give --out a new or empty"):
            check_own(tmp_path / "home")
    (model / "predictions.csv").touch()
    with pytest.raises(UserError, match=r"model: holds predictions.csv"):
        check_own(model)


def test_folders_that_cannot_be_replaced(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    for path, sentence in (
        (tmp_path / "loop", "loop: leads nowhere"),
        (tmp_path / "file", "file: is a file where the model folder should be; move it, or give another --out"),
        (Path("/proc"), r"/proc: is a mount point, .*; give --out a folder in it, e.g. /proc/model"),
    ):
        with pytest.raises(UserError, match=sentence):
            check_replaceable(path)
    monkeypatch.chdir(model)
    for path in (Path(), model):
        with pytest.raises(UserError, match=r"is the current folder, and it is replaced as a whole; go to another"):
            check_replaceable(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_parent_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(UserError, match=r"closed cannot be written, and a model is written beside its folder first"):
        check_replaceable(tmp_path / "closed" / "model")
