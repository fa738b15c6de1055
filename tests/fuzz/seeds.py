"""Sound things to spoil that take a training: a model folder and a run folder, each as small as it can be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file

from mmsa_core.config import MemberConfig
from mmsa_core.data.synthetic import write_planted
from mmsa_core.train import Objective
from search import export, pipeline
from search.engine import Engine
from search.populations import Source
from search.worker import Worker
from search.yaml_io import write_yaml
from tests.search.tiny import drain, study
from tests.text_models import save_tiny_bert


class Inline:
    """The engine without Ray."""

    interrupted = False

    def run(self, make_source: Callable[[], Source], splits: Any) -> dict[str, Any]:
        source = make_source()
        drain(source, Worker(*splits, torch.device("cpu")).run)
        source.close()
        return source.status()


def model(folder: Path) -> Path:
    """Write a model of two members."""
    write_planted(folder / "planted.npz", 0, train=16, valid=8, test=8)
    small = {"name": "pool", "dim": 4, "hidden": 4}
    tree = {"encoders": {"text": small, "audio": small}, "width": 4, "heads": {"dim": 4}, "epochs": 1}
    config, objective = MemberConfig.from_dict(tree), Objective("mae", "mosi")
    export.train_model(config, str(folder / "planted.npz"), [0, 1], objective, "refuse", folder / "model")
    return folder / "model"


def without_hashes(model: Path) -> Path:
    """Make a model folder one of an older version, whose reader has only its own checks to find damage."""
    facts = json.loads((model / "provenance.json").read_text(encoding="utf-8"))
    del facts["files"]
    (model / "provenance.json").write_text(json.dumps(facts), encoding="utf-8")
    return model


def text_model(folder: Path) -> Path:
    """Write a small BERT with its tokenizer."""
    return save_tiny_bert(folder)


def text_model_of_torch(folder: Path) -> Path:
    """Write a small BERT whose weights are in torch's format."""
    save_tiny_bert(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def run(folder: Path) -> Path:
    """Write a run folder of a study that went through all stages."""
    write_planted(folder / "planted.npz", 0, train=32, valid=16, test=16)
    config = study(
        seeds={"search": 1, "confirm": 2, "effects": 2, "leaders": 1, "base": 0}, budget={"trials": 4},
        rungs={"epochs": [1, 2], "keep": 0.5}, data={"path": str(folder / "planted.npz")}, population=4,
    )  # fmt: skip
    write_yaml(folder / "study.yaml", config.resolved())
    opened = pipeline.open_new(config, folder / "study.yaml", folder / "run")
    engine = cast(Engine, Inline())
    pipeline.search(opened, engine, deterministic=False)
    record = pipeline.confirm_stage(opened, engine, 4)
    pipeline.explain_stage(opened, engine, 4, record)
    export.write_model(opened, record)
    opened.folder.release()
    return folder / "run"
