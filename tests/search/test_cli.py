"""The command line as its user meets it: bad input is one sentence and exit code 2, and nothing is written or lost."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from mmsa_core import registry
from mmsa_core.config import MemberConfig
from mmsa_core.data.npz import write, write_arrays
from mmsa_core.data.synthetic import planted
from mmsa_core.model import complete
from search import cli
from search.cli import main
from search.configs import read_config
from search.shipped import shipped

Arrays = dict[str, NDArray[Any]]
Capture = pytest.CaptureFixture[str]
PROGRAM = Path(sys.executable).parent / "mmsa-search"
STUDY = """
study: tiny
data: {path: data.npz}
objective: mae
budget: {trials: 4}
seeds: {confirm: 2, leaders: 1}
rungs: {epochs: [1, 2]}
space:
  encoders: {text: &e {name: pool, dim: 4, hidden: 4}, audio: *e, vision: *e}
  width: 4
  fusion: {choice: {concat: {}, sum: {}}}
  optimizer: {lr: {float: [0.001, 0.01], log: true}}
"""
CONFIG = """
encoders: {text: {name: pool, dim: 4, hidden: 4}, audio: {name: pool, dim: 4, hidden: 4}}
width: 4
epochs: 2
"""
TOP = {"run", "status", "stop", "space", "modules", "confirm", "explain", "report", "export", "train", "evaluate"}
TOP |= {"predict", "verify", "bench", "dashboard", "compare", "doctor", "interactions"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data and a study, which is the current one."""
    monkeypatch.chdir(tmp_path)
    write("data.npz", planted(0, train=24, valid=10, test=10))
    Path("study.yaml").write_text(STUDY, encoding="utf-8")
    Path("config.yaml").write_text(CONFIG, encoding="utf-8")
    return tmp_path


def files() -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in Path.cwd().rglob("*") if p.is_file()}


def ran(capsys: Capture, *arguments: str) -> str:
    """Run a verb that succeeds quietly; return what it printed."""
    try:
        main(arguments)
    except SystemExit as stop:
        assert stop.code in (0, None), capsys.readouterr().err
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys: Capture, *arguments: str, code: int = 2) -> str:
    """Run a verb that refuses in one sentence, prints nothing else and leaves every file as it was."""
    before = files()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    out, err = capsys.readouterr()
    assert stop.value.code == code, err
    assert out == ""
    assert err.startswith("mmsa-search: ")
    assert err.count("\n") == 1
    assert files() == before
    return err


def arrays() -> Arrays:
    with np.load("data.npz") as file:
        return dict(file)


def study(old: str, new: str) -> None:
    assert old in STUDY
    Path("study.yaml").write_text(STUDY.replace(old, new), encoding="utf-8")


# ---- studies and spaces ----------------------------------------------------------------------------------------------


def test_check_counts_and_writes_nothing(capsys: Capture) -> None:
    before = files()
    assert ran(capsys, "run", "study.yaml", "--check") == "study.yaml: sound; 2 structures, 1 further parameters\n"
    assert json.loads(ran(capsys, "run", "study.yaml", "--check", "--json")) == {"structures": 2, "continuous": 1}
    assert files() == before


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("rungs:", "rung:", "rung: unknown key; did you mean 'rungs'?"),
        ("leaders:", "leader:", "seeds.leader: unknown key; did you mean 'leaders'?"),
        ("budget: {trials: 4}\n", "", "budget: the key is missing; add it"),
        ("{trials: 4}", "{trials: 4.5}", "budget.trials: must be a valid integer"),
        ("objective: mae", "objective: maee", "no metric 'maee'; did you mean 'mae'?"),
        ("width: 4", "widht: 4", "did you mean 'width'?"),
        ("hidden: 4", "hiden: 4", "did you mean 'hidden'?"),
        ("sum: {}", "sun: {}", "there is no plug-in 'sun'; did you mean 'sum'?"),
        ("sum: {}", "sum: {rank: 3}", "sum has no parameter 'rank'"),
        ("{concat: {}, sum: {}}", "{}", "fusion: choice needs at least one arm"),
        ("{concat: {}, sum: {}}", "[]", "fusion: choice needs at least one arm"),
        ("[0.001, 0.01]", "[0.01, 0.001]", "optimizer.lr: a range needs low < high"),
        ("[0.001, 0.01]", "[0, 0.01]", "optimizer.lr: a log range needs low > 0"),
        ("[0.001, 0.01]", "[1e-3, 0.01]", "optimizer.lr: this number is text in YAML 1.1, got '1e-3'"),
        ("sum: {}", "no: {}", "bare no means true or false in YAML"),
        ("width: 4", "width: 4\n  width: 8", "the key 'width' is written twice"),
        ("study: tiny", "study: [tiny", "study.yaml: line "),
    ],
)
def test_a_wrong_study(capsys: Capture, old: str, new: str, sentence: str) -> None:
    study(old, new)
    assert sentence in refused(capsys, "run", "study.yaml")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere.yaml"], "nowhere.yaml: there is no such file"),
        (["study.yaml", "budget.trials"], "override 'budget.trials': must be key=value"),
        (["study.yaml", "budget.trials=many"], "override budget.trials: must be a valid integer, got 'many'"),
        (["study.yaml", "budget.trials=-1"], "override budget.trials: must be greater than 0, got -1"),
        (["study.yaml", "budget.trails=3"], "budget.trails: unknown key; did you mean 'trials'?"),
        (["study.yaml", "space.fusion=sun"], "there is no arm 'sun'; did you mean 'sum'?"),
        (["study.yaml", "resources.gpus=-1"], "resources.gpus: must be 'auto' or a number of at least 0, got -1"),
        (["study.yaml", "--data", "nowhere.npz"], "nowhere.npz: there is no such file"),
        (["study.yaml", "--data", "config.yaml"], "config.yaml: the data must be an .npz or an MMSA .pkl"),
        (["study.yaml", "--out", "config.yaml"], "config.yaml: is a file where the run folder should be"),
        (["study.yaml", "--out", "config.yaml", "--check"], "config.yaml: is a file where the run folder should be"),
        (["study.yaml", "--chekc"], "No such option: --chekc"),
        ([], "Missing argument 'STUDY.yaml'; see mmsa-search run --help"),
    ],
)
def test_a_wrong_call(capsys: Capture, arguments: list[str], sentence: str) -> None:
    assert sentence in refused(capsys, "run", *arguments)


def test_a_study_without_data(capsys: Capture) -> None:
    study("data: {path: data.npz}\n", "")
    assert "study.yaml: data.path is missing; write it there or give --data PATH" in refused(
        capsys, "run", "study.yaml"
    )


def test_check_builds_the_named_baseline(capsys: Capture) -> None:
    before = files()
    named = ("run", "study.yaml", "--check", "baseline=dma", "baseline.encoders.text=pool")
    assert ran(capsys, *named) == "study.yaml: sound; 2 structures, 1 further parameters\n"
    assert files() == before
    for override, sentence in (
        ("baseline.fusion=sun", "baseline: fusion: there is no plug-in 'sun'; did you mean 'sum'?"),
        ("baseline.encoders.audio.hiden=3", "baseline: encoders.audio: lstm has no parameter 'hiden'; did you mean"),
        ("baseline=dmaa", "study.yaml: configuration: there is no shipped configuration 'dmaa'; did you mean 'dma'?"),
    ):
        assert sentence in refused(capsys, *named, override)


# ---- data ------------------------------------------------------------------------------------------------------------


def shorter(a: Arrays) -> None:
    a["train/audio"] = a["train/audio"][:-1]


def narrower(a: Arrays) -> None:
    a["valid/text"] = a["valid/text"][..., :-1]


def not_numbers(a: Arrays) -> None:
    a["train/audio"][3, 0, :2] = np.nan


def infinite(a: Arrays) -> None:
    a["test/vision"][1, 0, 0] = np.inf


def empty(a: Arrays) -> None:
    a |= {key: value[:0] for key, value in a.items() if key.startswith("valid/")}


def shared(a: Arrays) -> None:
    a["test/id"] = np.array([a["train/id"][5], *a["test/id"][1:]])


def unlabelled(a: Arrays) -> None:
    del a["valid/regression_labels"]


def misspelt(a: Arrays) -> None:
    a["test/regression_label"] = a.pop("test/regression_labels")


def without_test(a: Arrays) -> None:
    for key in [k for k in a if k.startswith("test/")]:
        del a[key]


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (shorter, "train/audio has 23 rows but train/regression_labels has 24"),
        (narrower, "valid/text has width 19 but train/text has 20"),
        (not_numbers, "train/audio has 2 values that are NaN or infinite"),
        (infinite, "test/vision has 1 values that are NaN or infinite"),
        (empty, "valid is empty"),
        (shared, "the id 'train0001$_$0' occurs in train and in test; ids must be unique"),
        (unlabelled, "valid/regression_labels is missing"),
        (misspelt, "test/regression_labels is missing; every split needs it; did you mean 'regression_label'?"),
        (without_test, "the split 'test' is missing"),
    ],
)
def test_wrong_data(capsys: Capture, break_it: Callable[[Arrays], None], sentence: str) -> None:
    broken = arrays()
    break_it(broken)
    write_arrays("data.npz", broken)
    error = refused(capsys, "run", "study.yaml")
    assert f"data.npz: {sentence}" in error


@pytest.mark.parametrize("break_it", [not_numbers, infinite])
def test_values_that_are_not_finite_can_be_read_as_zero(capsys: Capture, break_it: Callable[[Arrays], None]) -> None:
    broken = arrays()
    break_it(broken)
    write_arrays("data.npz", broken)
    assert "sound" in ran(capsys, "run", "study.yaml", "data.nonfinite=zero", "--check")


def test_garbage_is_not_data(capsys: Capture) -> None:
    for name in ("garbage.npz", "garbage.pkl"):
        Path(name).write_bytes(b"\x80garbage")
        assert f"{name}: " in refused(capsys, "run", "study.yaml", "--data", name)


class Evil:
    """Pickles to a call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def test_a_pickle_does_not_run_code(capsys: Capture) -> None:
    Path("evil.pkl").write_bytes(pickle.dumps({"train": Evil()}))
    error = refused(capsys, "run", "study.yaml", "--data", "evil.pkl")
    assert "evil.pkl: the pickle asks for posix.mkdir, which is no array and was not run" in error
    assert not Path("ran").exists()


def test_plant_describe_convert(capsys: Capture) -> None:
    assert ran(capsys, "data", "plant", "made/planted.npz", "--seed", "3") == "wrote made/planted.npz\n"
    found = json.loads(ran(capsys, "data", "describe", "made/planted.npz", "--json"))
    assert found["modalities"] == ["text", "audio", "vision"]
    assert found["splits"]["train"]["samples"] == 600
    assert "samples: 600" in ran(capsys, "data", "describe", "made/planted.npz")
    tree: dict[str, dict[str, Any]] = {"train": {}, "valid": {}, "test": {}}
    for key, value in arrays().items():
        split, name = key.split("/")
        tree[split][name] = value
    Path("mmsa.pkl").write_bytes(pickle.dumps(tree))
    assert ran(capsys, "data", "convert", "mmsa.pkl", "converted.npz") == "wrote converted.npz\n"
    both = [json.loads(ran(capsys, "data", "describe", name, "--json")) for name in ("mmsa.pkl", "converted.npz")]
    assert both[0]["splits"] == both[1]["splits"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["plant", "planted.txt"], "planted.txt: the target must end in .npz, got suffix '.txt'"),
        (["plant", "planted.npz", "--problem", "gates"], "problem: there is no 'gates'; known: gating, missing, "),
        (["plant", "config.yaml/planted.npz"], "config.yaml: cannot be read or written: "),
        (["describe", "nowhere.npz"], "nowhere.npz: there is no such file"),
        (["convert", "nowhere.pkl", "a.npz"], "nowhere.pkl: there is no such file"),
        (["convert", "data.npz", "a.npz"], "data.npz: is an .npz already; only MMSA's pickles need to be converted"),
        (["convert", "nowhere.pkl", "a.txt"], "a.txt: the target must end in .npz"),
        (["frob"], "No such command 'frob'"),
    ],
)
def test_wrong_data_verbs(capsys: Capture, arguments: list[str], sentence: str) -> None:
    assert sentence in refused(capsys, "data", *arguments)


# ---- run folders -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run_folder(folder: Path) -> Path:
    """A run folder that was started and left."""
    from search import pipeline
    from search.study import StudyConfig

    source = Path("study.yaml")
    opened = pipeline.open_new(StudyConfig.load(source), source, Path("runs/tiny"))
    opened.folder.release()
    return Path("runs/tiny")


@pytest.mark.parametrize("verb", ["status", "stop", "confirm", "explain", "report", "export", "dashboard"])
@pytest.mark.parametrize("where", ["nowhere", ".", "config.yaml"])
def test_no_run_folder(capsys: Capture, verb: str, where: str) -> None:
    assert f"{where}: no run folder is here" in refused(capsys, verb, where)


def test_a_run_folder_of_another_study(capsys: Capture, run_folder: Path) -> None:
    study("epochs: [1, 2]", "epochs: [1, 3]")
    error = refused(capsys, "run", "study.yaml")
    assert "runs/tiny: holds a run with another rungs: epochs: [1, 2] before, [1, 3] now; give another --out" in error


def test_a_run_folder_on_other_data(capsys: Capture, run_folder: Path) -> None:
    write("data.npz", planted(1, train=24, valid=10, test=10))
    assert "runs/tiny: holds a run on other data" in refused(capsys, "run", "study.yaml")
    assert "data.npz: the data has changed since the run" in refused(capsys, "confirm", str(run_folder))


def test_a_run_folder_in_use(capsys: Capture, run_folder: Path) -> None:
    with (run_folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("4711")
        file.flush()
        said = "runs/tiny: process 4711 is at work here; wait, "
        assert f"{said}stop it, or give --out" in refused(capsys, "run", "study.yaml")
        assert f"{said}stop it, or give --out FOLDER" in refused(capsys, "report", "runs/tiny")
        for verb in ("confirm", "explain", "export"):
            assert f"{said}or stop it" in refused(capsys, verb, "runs/tiny")


def _write(lock: IO[str], pid: int) -> None:
    lock.seek(0)
    lock.truncate()
    lock.write(str(pid))
    lock.flush()


def test_stop_asks_the_driver(capsys: Capture, run_folder: Path) -> None:
    with (
        (run_folder / ".lock").open("w") as file,
        subprocess.Popen(["sleep", "60"], pass_fds=(file.fileno(),)) as driver,
        subprocess.Popen(["sleep", "60"]) as bystander,
    ):
        fcntl.flock(file, fcntl.LOCK_EX)
        _write(file, bystander.pid)
        sentence = f"runs/tiny: process {bystander.pid} is at work here, of another machine, container or user"
        assert sentence in refused(capsys, "stop", "runs/tiny")
        assert bystander.poll() is None, "a process that has the number but not the folder's lock is another one"
        bystander.kill()
        _write(file, driver.pid)
        assert ran(capsys, "stop", "runs/tiny") == f"asked process {driver.pid} to save and stop\n"
        assert driver.wait(timeout=20) == -signal.SIGINT
    assert "runs/tiny: nobody is at work here" in refused(capsys, "stop", "runs/tiny")


def test_nothing_is_confirmed_yet(capsys: Capture, run_folder: Path) -> None:
    assert "runs/tiny: nothing is confirmed yet; run or confirm first" in refused(capsys, "export", "runs/tiny")


def test_a_run_folder_is_found_from_any_folder(capsys: Capture, run_folder: Path, monkeypatch: Any) -> None:
    where = run_folder.resolve()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert "nothing is confirmed yet" in refused(capsys, "export", str(where))


def test_status_before_the_first_trial(capsys: Capture, run_folder: Path) -> None:
    found = json.loads(ran(capsys, "status", "runs/tiny", "--json"))
    assert found["study"] == "tiny"
    assert found["state"] == "interrupted"
    assert found["budget"] == {"trials": 4, "minutes": None}
    assert found["trials"] == []
    text = ran(capsys, "status", "runs/tiny")
    assert "tiny: interrupted, 0 of 4 trials" in text
    assert "no trial is complete yet" in text


# ---- models ----------------------------------------------------------------------------------------------------------


def test_train_evaluate_predict_verify(capsys: Capture) -> None:
    trained = json.loads(ran(capsys, "train", "config.yaml", "--data", "data.npz", "--seeds", "2", "--json"))
    assert trained["model"] == "model"
    assert trained["valid"]["mae"]["n"] == 2
    measured = json.loads(ran(capsys, "evaluate", "model", "--json"))
    assert measured["valid"]["mae"] == pytest.approx(trained["valid"]["mae"], abs=1e-5)
    assert "mae" in measured["ensemble"]
    assert "mae" in ran(capsys, "evaluate", "model", "--split", "test")
    rows = list(csv.DictReader(io.StringIO(ran(capsys, "predict", "model"))))
    assert [row["id"] for row in rows] == arrays()["test/id"].tolist()
    assert all(np.isfinite([float(row["prediction"]), float(row["std"])]).all() for row in rows)
    assert ran(capsys, "predict", "model", "--out", "made.csv") == ""
    assert list(csv.DictReader(io.StringIO(Path("made.csv").read_text()))) == rows
    again = json.loads(ran(capsys, "verify", "model", "--seeds", "1", "--json"))
    assert again["reproduced"] is True
    assert again["seeds"] == [0]
    write("other.npz", planted(1, train=24, valid=10, test=10))
    wide = arrays()
    for split in ("train", "valid", "test"):
        wide[f"{split}/audio"] = np.repeat(wide[f"{split}/audio"], 2, axis=2)
    write_arrays("wide.npz", wide)
    for arguments, sentence in (
        (["evaluate", "model", "--split", "tset"], "--split: must be one of train, valid, test, got 'tset'"),
        (["predict", "model", "--split", "all"], "--split: must be one of train, valid, test, got 'all'"),
        (["evaluate", "model", "--data", "wide.npz"], "wide.npz: the model was trained on feature widths"),
        (["evaluate", "model", "--data", "nowhere.npz"], "nowhere.npz: there is no such file"),
        (["predict", "model", "--out", "nowhere/a.csv"], "nowhere/a.csv: cannot be read or written"),
        (["verify", "model", "--data", "other.npz"], "other.npz: is not the data this model was trained on"),
        (["verify", "model", "--seeds", "0"], "Invalid value for '--seeds'"),
    ):
        assert sentence in refused(capsys, *arguments)
    Path("model/model.safetensors").write_bytes(b"garbage")
    assert "model: the model is damaged" in refused(capsys, "evaluate", "model")


@pytest.mark.parametrize("verb", ["evaluate", "predict", "verify"])
@pytest.mark.parametrize("where", ["nowhere", ".", "config.yaml"])
def test_no_model(capsys: Capture, verb: str, where: str) -> None:
    assert f"{where}: no model is here" in refused(capsys, verb, where)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere.yaml", "--data", "data.npz"], "nowhere.yaml: there is no such file"),
        (["config.yaml"], "Missing option '--data'"),
        (["config.yaml", "--data", "data.npz", "--seeds", "0"], "Invalid value for '--seeds'"),
        (["config.yaml", "--data", "data.npz", "--metric", "maee"], "did you mean 'mae'?"),
        (["config.yaml", "--data", "data.npz", "--nonfinite", "no"], "must be 'refuse' or 'zero', got 'no'"),
        (
            ["config.yaml", "--data", "data.npz", "--out", "study.yaml"],
            "study.yaml: is a file where the model folder should be",
        ),
        (
            ["config.yaml", "--data", "data.npz", "--out", "."],
            ".: is the current folder, and it is replaced as a whole",
        ),
        (["config.yaml", "--data", "data.npz", "--out", ".."], "is no model folder; give --out a new or empty folder"),
        (["study.yaml", "--data", "data.npz"], "study.yaml: "),
    ],
)
def test_a_wrong_training(capsys: Capture, arguments: list[str], sentence: str) -> None:
    assert sentence in refused(capsys, "train", *arguments)


def test_train_a_shipped_configuration_with_changes(capsys: Capture) -> None:
    small = ["encoders.text=pool", "encoders.text.dim=4", "width=8", "heads.dim=8", "epochs=1", "optimizer.lr=5e-4"]
    arguments = ("train", "dma", *small, "--data", "data.npz", "--seeds", "2", "--json")
    assert json.loads(ran(capsys, *arguments))["valid"]["mae"]["n"] == 2
    config = yaml.safe_load(Path("model/config.yaml").read_text())
    assert (config["encoders"]["text"]["name"], config["encoders"]["text"]["dim"]) == ("pool", 4)
    assert config["alignment"]["audio-vision"]["name"] == "coral" and config["labels"]["name"] == "ulgm"
    assert (config["epochs"], config["width"], config["optimizer"]["lr"]) == (1, 8, 0.0005)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["selfmm"], "configuration: there is no shipped configuration 'selfmm'; did you mean 'self_mm'?"),
        (["config"], "there is no shipped configuration 'config'; known: dma, self_mm, "),
        (["config.yaml", "optimzer.lr=1"], "override optimzer.lr: config: unknown key 'optimzer'; did you mean 'optim"),
        (["config.yaml", "optimizer.lrr=1"], "config.optimizer: unknown key 'lrr'; did you mean 'lr'?"),
        (["config.yaml", "encoders.txt=pool"], "config.encoders: unknown key 'txt'; did you mean 'text'?"),
        (
            ["config.yaml", "encoders.text.hiden=3"],
            "encoders.text: pool has no parameter 'hiden'; did you mean 'hidden'?",
        ),
        (["config.yaml", "encoders.text=poool"], "there is no plug-in 'poool'; did you mean 'pool'?"),
        (["config.yaml", "width=wide"], "config.width: must be a whole number of at least 1, got 'wide'"),
        (["config.yaml", "width"], "override 'width': must be key=value"),
    ],
)
def test_a_wrong_name_or_change(capsys: Capture, arguments: list[str], sentence: str) -> None:
    assert sentence in refused(capsys, "train", *arguments, "--data", "data.npz")


def test_help_names_what_is_shipped(capsys: Capture) -> None:
    assert len(shipped("configuration")) >= 5
    for verb in ("train", "bench"):
        words = re.findall(r"\w+", ran(capsys, verb, "--help"))
        assert set(shipped("configuration")) <= set(words), verb


# ---- the small verbs -------------------------------------------------------------------------------------------------


def test_space(capsys: Capture) -> None:
    found = json.loads(ran(capsys, "space", "quick", "--sample", "2", "--json"))
    assert found["space"] == "spaces/quick.yaml"
    assert (found["structures"], found["continuous"]) == (36, 10)
    assert len(found["samples"]) == 2
    assert all(set(s) >= {"encoders", "alignment", "fusion", "optimizer"} for s in found["samples"])
    assert found == json.loads(ran(capsys, "space", "quick", "--sample", "2", "--seed", "0", "--json"))
    other = json.loads(ran(capsys, "space", "quick", "--sample", "2", "--seed", "1", "--json"))
    assert other["samples"] != found["samples"]
    assert ran(capsys, "space", "quick", "--sample", "1").count("---") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["quik"], "there is no shipped space 'quik'; did you mean 'quick'?"),
        (["nowhere.yaml"], "nowhere.yaml: there is no such file"),
        (["quick", "--sample", "-1"], "Invalid value for '--sample'"),
    ],
)
def test_a_wrong_space(capsys: Capture, arguments: list[str], sentence: str) -> None:
    assert sentence in refused(capsys, "space", *arguments)


def test_modules(capsys: Capture) -> None:
    cards = json.loads(ran(capsys, "modules", "--json"))
    assert {(c["kind"], c["name"]) for c in cards} == {(k, n) for k in registry.KINDS for n in registry.names(k)}
    assert len(cards) > 20
    for card in cards:
        assert set(card) == {"kind", "name", "summary", "source", "parameters"}
        assert card["summary"].strip(), card
        assert card["source"].strip(), card
        assert all(set(p) == {"kind", "default", "range"} for p in card["parameters"].values())
    low_rank = next(c for c in cards if c["name"] == "low_rank")
    assert low_rank["parameters"]["rank"]["kind"] == "int"
    weight = next(c for c in cards if c["name"] == "contrastive")["parameters"]["temperature"]
    assert weight == {"kind": "float", "default": 0.1, "range": "[0.03, 1] log"}
    text = " ".join(ran(capsys, "modules").split())
    assert "coral_private" in text


def test_bench(capsys: Capture) -> None:
    arguments = ("bench", "--data", "data.npz", "--config", "config.yaml", "--members", "1,2")
    found = json.loads(ran(capsys, *arguments, "--json"))
    assert found["device"]
    assert [row["members"] for row in found["rows"]] == [1, 2]
    for row in found["rows"]:
        assert set(row) == {"members", "member_epochs_per_second", "speedup", "peak_bytes"}
        assert row["member_epochs_per_second"] > 0
        assert row["speedup"] > 0


def test_bench_takes_a_shipped_configuration(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from search import bench

    measured: list[MemberConfig] = []

    def measure(config: MemberConfig, *_: object) -> list[bench.Row]:
        measured.append(config)
        return []

    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench, "to_json", lambda *_: {})
    ran(capsys, "bench", "--data", "data.npz", "--config", "self_mm_mosei", "--members", "1", "--json")
    assert measured == [complete(read_config("self_mm_mosei"))]
    assert "did you mean 'self_mm'?" in refused(capsys, "bench", "--data", "data.npz", "--config", "selfmm")


@pytest.mark.parametrize("members", ["1,x", "0", "", "-1", "1.5"])
def test_wrong_members(capsys: Capture, members: str) -> None:
    error = refused(capsys, "bench", "--data", "data.npz", f"--members={members}")
    assert "--members: must be whole numbers of at least 1 with commas" in error


# ---- the program -----------------------------------------------------------------------------------------------------


def test_the_verbs() -> None:
    assert {c.name or c.callback.__name__ for c in cli.app.registered_commands if c.callback} == TOP
    assert {c.name for c in cli.data_app.registered_commands} == {"convert", "describe", "features", "plant"}


@pytest.mark.parametrize(
    "verb",
    [[], *([v] for v in sorted(TOP)), ["data"], *(["data", v] for v in ("convert", "describe", "features", "plant"))],
)
def test_help(capsys: Capture, verb: list[str]) -> None:
    text = " ".join(ran(capsys, *verb, "--help").split())
    assert " ".join(["Usage: mmsa-search", *verb]) in text
    assert "Show this message and exit." in text
    assert "--no-" not in text


def test_an_unknown_verb(capsys: Capture) -> None:
    assert "No such command 'frob'; see mmsa-search --help" in refused(capsys, "frob")


@pytest.mark.parametrize("arguments", [[], ["data"]])
def test_a_bare_command_prints_its_help(capsys: Capture, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert "Usage:" in out
    assert err == ""


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        ("NothingFinishedError", 3, "no trial finished"),
        ("InterruptedStudyError", 130, "stopped and saved; run the same command again to go on"),
        ("KeyboardInterrupt", 130, "interrupted; run the same command again to go on"),
    ],
)
def test_exit_codes(capsys: Capture, monkeypatch: pytest.MonkeyPatch, error: str, code: int, sentence: str) -> None:
    from search import pipeline

    kind = KeyboardInterrupt if error == "KeyboardInterrupt" else getattr(pipeline, error)

    def fail(*_: object, **__: object) -> None:
        raise kind("no trial finished")

    monkeypatch.setattr(pipeline, "open_new", fail)
    assert sentence in refused(capsys, "run", "study.yaml", code=code)


def test_our_own_faults_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from search import show

    def fail(*_: object) -> None:
        raise AssertionError("ours")

    monkeypatch.setattr(show, "modules", fail)
    with pytest.raises(AssertionError, match="ours"):
        main(["modules"])


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(PROGRAM), *arguments], capture_output=True, text=True, check=False, timeout=120)


def test_the_installed_program() -> None:
    before = files()
    done = program("run", "study.yaml", "--data", "nowhere.npz")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("mmsa-search: ")
    assert done.stderr.endswith("from the current folder\n")
    assert done.stderr.count("\n") == 1
    assert files() == before


def test_a_reader_that_leaves_early_is_no_fault() -> None:
    with subprocess.Popen([str(PROGRAM), "modules", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as done:
        assert done.stdout is not None
        assert done.stderr is not None
        done.stdout.close()
        assert b"Traceback" not in done.stderr.read()


def test_the_command_line_starts_without_heavy_imports() -> None:
    code = "import sys, search.cli; print([m for m in ('torch', 'ray', 'optuna', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
