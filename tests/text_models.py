"""A BERT of a few thousand weights with a word-piece tokenizer of its own: real transformers, no download."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

WORDS = ("good", "bad", "film", "very", "not", "a", "it", "was", "##ly", "real", "!")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SENTENCES = ("good", "a very good film !", "it was bad", "not a really bad film", "")


def save_tiny_bert(folder: Path, seed: int = 0, layers: int = 2) -> Path:
    """Write a BERT with ``layers`` layers of width 16 as ``save_pretrained`` does."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    BertTokenizer(vocab=vocabulary, model_max_length=32).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
    return folder


def with_weights(source: Path, target: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    """Copy a model with other weights beside the same configuration."""
    shutil.copytree(source, target)
    weights = change(load_file(target / "model.safetensors"))
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def with_config(source: Path, target: Path, **changed: Any) -> Path:
    """Copy a model with another configuration beside the same weights."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    (target / "config.json").write_text(json.dumps({**config, **changed}), encoding="utf-8")
    return target
