"""CPU time of a trial-epoch: MMSA 2.2.1's tune mode against a search with the same kind of model, on MOSI's shape.

A trial-epoch is one epoch of one configuration, training and the valid split. MMSA runs in an interpreter of its own;
ours is the ledger and the worker in this process, one structure in populations of 16, and all that they do counts:
asking, journal, rungs. Both on one thread, on the same random features of MOSI's numbers and shapes. Writes Markdown:
``python -m tests.benchmarks.whole_study_mmsa --mmsa-python VENV/bin/python``.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel

from mmsa_core.data.dataset import open_dataset
from mmsa_core.data.scaler import Scaler
from mmsa_core.data.text import TextModel, embed
from search.ledger import Ledger
from search.populations import Task
from search.run_folder import RunFolder
from search.study import StudyConfig
from search.worker import Worker
from search.yaml_io import write_yaml

SIZES = {"train": 1284, "valid": 229, "test": 686}
SHAPES = {"text": (50, 768), "audio": (375, 5), "vision": (500, 20)}
POPULATION, EPOCHS = 16, 2
WORDS, FIRST_WORD = 3000, 1000
EXTRACTED = 64
"""Texts that the one-time extraction is measured on."""
TYPICAL = 200 * 8
"""Trial-epochs that it is spread over: 200 trials of 8 epochs in the mean."""
LR = {"lr": {"float": [0.0005, 0.005], "log": True, "default": 0.001}}
DROPOUT = {"float": [0.0, 0.5], "default": 0.2}


@dataclass(frozen=True)
class Pair:
    """One of MMSA's models with drawn parameters, and what stands beside it here."""

    model: str
    settings: dict[str, Any]
    space: dict[str, Any]
    epochs: int = EPOCHS


def _late(fusion: dict[str, Any], text: int) -> dict[str, Any]:
    """Return a space with MMSA's subnets: an LSTM on text, networks on audio and vision averaged over time."""
    encoders = {
        "text": {"name": "lstm", "hidden": 64, "dim": text, "dropout": DROPOUT},
        "audio": {"name": "pool", "hidden": 16, "dim": 16, "dropout": DROPOUT},
        "vision": {"name": "pool", "hidden": 64, "dim": 64, "dropout": DROPOUT},
    }
    heads = {"dim": 32, "dropout": DROPOUT}
    return {"encoders": encoders, "width": 32, "fusion": fusion, "heads": heads, "optimizer": LR, "batch_size": 32}


SUBNETS = {"batch_size": 32, "hidden_dims": [64, 16, 64], "dropouts": [0.2, 0.2, 0.2, 0.2]}
SELF_MM = {
    "encoders": {
        "text": {"name": "linear", "dim": 128, "dropout": DROPOUT},
        "audio": {"name": "lstm", "dim": 16, "hidden": 16, "dropout": DROPOUT},
        "vision": {"name": "lstm", "dim": 32, "hidden": 32, "dropout": DROPOUT},
    },
    "width": 64,
    "fusion": "concat",
    "heads": {"dim": 64, "dropout": DROPOUT},
    "labels": {"name": "ulgm", "exclude_zero": True},
    "optimizer": {**LR, "accumulate": 4},
    "batch_size": 32,
}
PAIRS = (
    Pair("lf_dnn", {**SUBNETS, "text_out": 32, "post_fusion_dim": 32}, _late({"name": "concat"}, 32)),
    Pair(
        "tfn",
        {**SUBNETS, "text_out": 32, "post_fusion_dim": 32},
        _late({"name": "tensor", "hidden": 32, "dim": 32}, 32),
    ),
    Pair("lmf", {**SUBNETS, "rank": 4}, _late({"name": "low_rank", "rank": 4, "dim": 32}, 64)),
    Pair(
        "self_mm",
        {"batch_size": 32, "a_lstm_hidden_size": 16, "v_lstm_hidden_size": 32, "post_fusion_dim": 64},
        SELF_MM,
        epochs=1,
    ),
)


def make_data(path: Path, share: float) -> None:
    """Write random features of MOSI's shape, of a share of its rows, as MMSA's pickle of unaligned features."""
    rng, made = np.random.default_rng(0), {}
    for split, n in ((split, round(share * rows)) for split, rows in SIZES.items()):
        labels = np.clip(rng.normal(0, 1.5, n), -3, 3).astype(np.float32)
        words = np.clip(rng.lognormal(2.3, 0.55, n).astype(int) + 2, 4, SHAPES["text"][0])
        lengths = {"text": words, "audio": np.minimum(words * 8, 375), "vision": np.minimum(words * 11, 500)}
        own: dict[str, Any] = {"id": [f"{split}{i // 20}$_${i % 20}" for i in range(n)], "regression_labels": labels}
        for modality, shape in SHAPES.items():
            values = rng.standard_normal((n, *shape)).astype(np.float32) + 0.1 * labels[:, None, None]
            values[np.arange(shape[0]) >= lengths[modality][:, None]] = 0
            own[modality] = values
        ids = rng.integers(FIRST_WORD, WORDS, (n, SHAPES["text"][0]))
        mask = np.arange(SHAPES["text"][0]) < words[:, None]
        own["text_bert"] = np.stack([ids * mask, mask, np.zeros_like(ids)], 1)
        own["raw_text"] = np.array([" ".join(f"w{k}" for k in row[: m - 2]) for row, m in zip(ids, words, strict=True)])
        own["annotations"] = ["Neutral"] * n
        own["classification_labels"] = np.ones(n, np.float32)
        own |= {f"{m}_lengths": lengths[m].tolist() for m in ("audio", "vision")}
        made[split] = own
    path.write_bytes(pickle.dumps(made, protocol=4))


def make_bert(folder: Path) -> None:
    """Write a model of BERT-base's size with random weights, and a vocabulary of the made-up words."""
    torch.manual_seed(0)
    BertModel(BertConfig()).save_pretrained(folder)
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    words = [special.get(k, f"w{k}" if k >= FIRST_WORD else f"[unused{k}]") for k in range(30522)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}', encoding="utf-8")


def theirs(python: Path, pair: Pair, data: Path, bert: Path, scratch: Path) -> tuple[float, float]:
    """Return MMSA's CPU seconds of a trial-epoch, the last one, and of loading the data for a try."""
    program = Path(__file__).with_name("mmsa_trial.py").resolve()
    given = [data, bert, scratch / pair.model, pair.model, pair.epochs, json.dumps(pair.settings)]
    env = {**os.environ, "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    env.pop("PYTHONPATH", None)
    done = subprocess.run([python, program, *map(str, given)], env=env, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-2000:])
    found = json.loads(done.stdout.splitlines()[-1])
    return float(found["epochs"][-1]), float(found["load"])


def ours(pair: Pair, worker: Worker, folder: Path) -> float:
    """Return the CPU seconds of a trial-epoch in a search of one population of 16, two epochs each."""
    tree = {"study": pair.model, "objective": {"metric": "mae", "convention": "mosi"}, "space": pair.space}
    config = StudyConfig.check({**tree, "budget": {"trials": POPULATION}, "rungs": {"epochs": [EPOCHS]}})
    folder.mkdir()
    write_yaml(folder / "resolved.yaml", config.resolved())
    began, epochs = time.process_time(), 0
    source = Ledger(config, config.search_space(), RunFolder(folder), POPULATION)
    while isinstance(task := source.next(), Task):
        result = worker.run(task, source.report)
        epochs += sum(len(o.curve) for o in result.outcomes)
        source.finish(task.name, result)
    return (time.process_time() - began) / epochs


def extraction(data: Path, bert: Path) -> float:
    """Return the CPU seconds of making text features of all rows once, by those of a sample."""
    texts = [str(t) for t in open_dataset(data).split("train").raw_text[:EXTRACTED]]
    began = time.process_time()
    embed(texts, TextModel(str(bert), "mean"))
    return (time.process_time() - began) * sum(SIZES.values()) / EXTRACTED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mmsa-python", type=Path, required=True, help="an interpreter with torch 2.13.0, MMSA 2.2.1")
    parser.add_argument("--models", nargs="+", default=[p.model for p in PAIRS])
    parser.add_argument("--share", type=float, default=1.0, help="of MOSI's rows; seconds are those of this share")
    given = parser.parse_args()
    torch.set_num_threads(1)
    out = sys.stdout
    out.write("| MMSA's model | MMSA, s | a search here, s | ratio | MMSA besides, once a try: loading, s |\n| --- |")
    out.write(" ---: |" * 4 + "\n")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        data, bert = scratch / "mosi.pkl", scratch / "bert"
        make_data(data, given.share)
        make_bert(bert)
        raw = open_dataset(data)
        scaler = Scaler.fit(raw.split("train"))
        worker = Worker(scaler.apply(raw.split("train")), scaler.apply(raw.split("valid")), torch.device("cpu"))
        for pair in sorted((p for p in PAIRS if p.model in given.models), key=lambda p: given.models.index(p.model)):
            epoch, load = theirs(given.mmsa_python.absolute(), pair, data, bert, scratch)
            own = ours(pair, worker, scratch / f"ours-{pair.model}")
            out.write(f"| {pair.model} | {epoch:.3f} | {own:.3f} | {epoch / own:.1f} | {load:.1f} |\n")
            out.flush()
        once = extraction(data, bert)
        out.write(f"\nText features, once: {once:.0f} s, over {TYPICAL} trial-epochs {once / TYPICAL:.3f} s each. ")
    out.write(f"Load {os.getloadavg()[0]:.1f}.\n")


if __name__ == "__main__":
    main()
