"""What every encoder that fine-tunes a pre-trained model must do, for every such file, on a BERT of two layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmsa_core import registry
from mmsa_core.encoders.bert import Bert
from mmsa_core.errors import UserError
from mmsa_core.plugin import PretrainedEncoder
from mmsa_core.pretrained import load_body, load_tokenizer
from mmsa_core.tensors import Features
from tests.contracts.stacking import assert_near, gradients, stackable_encoders
from tests.text_models import SENTENCES

NAMES = sorted({*registry.names("encoders")} - {*stackable_encoders()})
every = pytest.mark.parametrize("name", NAMES)
Loaded = tuple[PretrainedEncoder, Features]


def load(name: str, model: Path, **settings: Any) -> Loaded:
    """Return an encoder in evaluation mode and the tokens of the sentences (the last is empty)."""
    made: PretrainedEncoder = registry.build("encoders", name, 2, model=str(model), **settings)
    given = registry.arguments("encoders", name, {"model": str(model), **settings}, name)
    return made.eval(), made.tokens(SENTENCES, None, given)


def parameter_gradients(encoder: PretrainedEncoder, features: Features) -> dict[str, Tensor]:
    trained = {n: p for n, p in encoder.named_parameters() if p.requires_grad}
    out = encoder(features)
    weights = torch.linspace(-1, 2, out.numel()).view_as(out)
    return dict(zip(trained, gradients((out * weights).sum(), list(trained.values())), strict=True))


def test_some_were_found() -> None:
    assert "bert" in NAMES


@every
def test_shape_and_finite_with_an_empty_text(name: str, tiny_bert: Path) -> None:
    encoder, features = load(name, tiny_bert)
    assert features.values.shape[2] == 2 and not features.mask[-1].any() and features.mask[:-1, 0].all()
    out = encoder(features)
    assert encoder.dim == 16 and out.shape == (len(SENTENCES), 16) and torch.isfinite(out).all()
    assert all(torch.isfinite(g).all() for g in parameter_gradients(encoder, features).values())


@every
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_equals_the_model_on_one_sentence_at_a_time(name: str, tiny_bert: Path, pooling: str) -> None:
    encoder, features = load(name, tiny_bert, pooling=pooling)
    out = encoder(features)
    for i, sentence in enumerate(SENTENCES[:-1]):
        with torch.no_grad():
            tokens = load_tokenizer(tiny_bert)(sentence, return_tensors="pt")
            states = load_body(tiny_bert)(**tokens).last_hidden_state[0]
        assert_near(out[i], states[0] if pooling == "cls" else states.mean(0), rtol=1e-4)


@every
def test_padding_and_order_do_not_matter(name: str, tiny_bert: Path) -> None:
    encoder, (values, mask) = load(name, tiny_bert)
    out = encoder(Features(values, mask))
    longer = torch.nn.functional.pad(mask, (0, 3))
    for junk in (1e9, float("nan")):
        padded = torch.nn.functional.pad(values, (0, 0, 0, 3)).masked_fill(~longer[:, :, None], junk)
        assert torch.equal(encoder(Features(padded, longer)), out)
    order = torch.arange(len(values)).flip(0)
    assert_near(encoder(Features(values[order], mask[order])), out[order])
    assert_near(encoder(Features(values[1:2], mask[1:2])), out[1:2])


@every
def test_degenerate_batches_are_finite(name: str, tiny_bert: Path) -> None:
    encoder, (values, mask) = load(name, tiny_bert)
    for features in (Features(values[4:], mask[4:]), Features(values[:, :1], mask[:, :1])):
        assert torch.isfinite(encoder(features)).all()


@every
@pytest.mark.parametrize("freeze", [0, 1, 2])
def test_freezing_keeps_the_lowest_parts(name: str, tiny_bert: Path, freeze: int) -> None:
    encoder, features = load(name, tiny_bert, freeze=freeze)
    found = parameter_gradients(encoder, features)
    assert all(g.abs().max() > 1e-9 for n, g in found.items() if "key.bias" not in n), (
        "attention is blind to key biases"
    )
    frozen = {n for n, p in encoder.named_parameters() if not p.requires_grad}
    assert any("embeddings" in n for n in frozen) == (freeze >= 1)
    assert any("layer.0" in n for n in frozen) == (freeze >= 2) and not any("layer.1" in n for n in frozen)


@every
def test_floats_are_buffers_and_dropout_is_ours(name: str, tiny_bert: Path) -> None:
    settings = {"lr": 1e-3, "weight_decay": 0.25, "warmup": 2.0, "dropout": 0.5}
    encoder, features = load(name, tiny_bert, **settings)
    buffers = dict(encoder.named_buffers())
    found = {k: float(buffers[f"{k}.p" if k == "dropout" else k]) for k in settings}
    assert found == pytest.approx(settings)
    zeros = (encoder.train()(features)[:-1] == 0).float().mean()
    assert 0.3 < zeros < 0.7 and not (encoder.eval()(features)[:-1] == 0).any()


@every
def test_text_bert_is_read_where_there_is_no_raw_text(name: str, tiny_bert: Path) -> None:
    encoder, features = load(name, tiny_bert)
    settings = registry.arguments("encoders", name, {"model": str(tiny_bert)}, name)
    made = load_tokenizer(tiny_bert)(list(SENTENCES[:-1]), padding="max_length", max_length=12, return_tensors="np")
    table = np.stack([made["input_ids"], made["attention_mask"], made["token_type_ids"]], 1).astype(np.int64)
    table = np.concatenate([table, np.zeros((1, 3, 12), np.int64)])
    tokens = encoder.tokens((), table, settings)
    assert torch.equal(tokens.values, features.values) and torch.equal(tokens.mask, features.mask)
    table[:, 0, 0] = 7
    with pytest.raises(UserError, match=r"text_bert was not made by the tokenizer of .*begins with 7"):
        encoder.tokens((), table, settings)
    with pytest.raises(UserError, match="reads raw_text or text_bert, and the data has neither; add raw_text"):
        encoder.tokens((), None, settings)


@every
def test_long_texts_are_cut(name: str, tiny_bert: Path) -> None:
    encoder, _ = load(name, tiny_bert)
    settings = registry.arguments("encoders", name, {"model": str(tiny_bert), "max_length": 6}, name)
    assert encoder.tokens(["very " * 50, "good"], None, settings).mask.sum(1).tolist() == [6, 3]


@every
def test_refusals(name: str, tiny_bert: Path) -> None:
    with pytest.raises(UserError, match="pooling: must be 'cls' or 'mean', got 'max'"):
        load(name, tiny_bert, pooling="max")
    with pytest.raises(UserError, match=r"freeze: must lie in 0..2, .* got 3"):
        load(name, tiny_bert, freeze=3)


@every
def test_card_names_its_source(name: str) -> None:
    card = registry.card("encoders", name)
    assert card.source and card.summary.endswith(".") and len(card.summary) < 200


def test_layers_that_share_weights_cannot_be_frozen_one_by_one(tmp_path: Path) -> None:
    from transformers import AlbertConfig, AlbertModel

    config = AlbertConfig(
        vocab_size=16, embedding_size=8, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8
    )
    AlbertModel(config).save_pretrained(tmp_path)
    assert Bert(1, model=str(tmp_path), freeze=0).dim == 8
    with pytest.raises(UserError, match=r"freeze: must be 0, for the model's 3 layers share weights, got 1"):
        Bert(1, model=str(tmp_path), freeze=1)
