"""Fine-tuning of a pre-trained text transformer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from mmsa_core.errors import UserError
from mmsa_core.noise import Dropout
from mmsa_core.plugin import PretrainedEncoder, hyper
from mmsa_core.pretrained import find_text_model, load_body, load_tokenizer, tokenize
from mmsa_core.tensors import Features

CHUNK = 8
"""Rows that pass the transformer together, of like lengths: padding 32 rows to the longest took 4 times as long."""


class Bert(PretrainedEncoder):
    """Fine-tunes any encoder of the transformers library on raw text, from BERT's published weights on.

    ``model`` is a hub name, a folder or an installed package. It reads ``raw_text`` by the model's own tokenizer, and
    where a file has none, MMSA's ``text_bert``. The sentence is the first token's state (``pooling`` "cls") or the mean
    over its tokens ("mean"), after ``dropout``. ``freeze`` 0 trains everything, 1 keeps what lies outside the layers
    (the embeddings), 1 + n the lowest n layers too. ``lr`` warms up over ``warmup`` epochs and then stays, so that a
    learning curve does not depend on when training is to end. It trains in bfloat16 on a GPU that has it.

    Source: Devlin et al., NAACL 2019, arXiv:1810.04805; as the text part of Self-MM, Yu et al., AAAI 2021,
    arXiv:2102.04830, section 3.2.
    """

    def __init__(
        self,
        inputs: int,
        *,
        model: str = "bert-base-uncased",
        pooling: str = "cls",
        max_length: int = 128,
        freeze: int = 0,
        lr: float = 5e-5,
        weight_decay: float = 1e-3,
        warmup: float = 0.5,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if pooling not in ("cls", "mean"):
            raise UserError(f"encoders.text.pooling: must be 'cls' or 'mean', got {pooling!r}")
        self.body = load_body(find_text_model(model))
        self.dim = int(self.body.config.hidden_size)  # type: ignore[union-attr,arg-type]  # transformers' own
        self.pooling = pooling
        self.lr, self.weight_decay, self.warmup = hyper(lr), hyper(weight_decay), hyper(warmup)
        self.dropout = Dropout(dropout)
        self.typed = "token_type_ids" in inspect.signature(self.body.forward).parameters
        _freeze(self.body, freeze)

    @staticmethod
    def prepare(features: Features) -> Features:
        return features

    @staticmethod
    def tokens(raw_text: Sequence[str], text_bert: NDArray[np.int64] | None, settings: Mapping[str, Any]) -> Features:
        tokenizer = load_tokenizer(find_text_model(settings["model"]))
        if raw_text:
            longest = min(settings["max_length"], tokenizer.model_max_length)
            made = tokenize(tokenizer, raw_text, longest, padding=True)
            mask = np.array(made["attention_mask"], bool) & np.array([[bool(t.strip())] for t in raw_text])
            ids = np.array(made["input_ids"])
            types = np.array(made["token_type_ids"]) if "token_type_ids" in made else np.zeros_like(ids)
        elif text_bert is not None:
            ids, mask, types = text_bert[:, 0], text_bert[:, 1] > 0, text_bert[:, 2]
            _check_vocabulary(ids[mask[:, 0]], tokenizer, settings["model"])
        else:
            raise UserError("encoders.text: bert reads raw_text or text_bert, and the data has neither; add raw_text")
        longest = max(1, int(mask.sum(1).max(initial=0)))
        values = np.stack([ids, types], 2) * mask[:, :, None]
        return Features(torch.tensor(values[:, :longest], dtype=torch.float32), torch.tensor(mask[:, :longest]))

    def forward(self, features: Features) -> Float[Tensor, "batch {self.dim}"]:
        real = features.mask[:, :, None]
        tokens = torch.where(real, features.values, torch.zeros_like(features.values)).long()
        order = features.mask.sum(1).argsort(stable=True)
        states = torch.cat([self._encode(tokens[rows], features.mask[rows]) for rows in order.split(CHUNK)])
        out: Tensor = self.dropout(states[order.argsort()])
        return out

    def _encode(
        self, tokens: Int[Tensor, "batch time two"], mask: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "batch dim"]:
        """Return the sentences' vectors of rows of about equal length."""
        longest = max(1, int(mask.sum(1).max()))
        ids, types = tokens[:, :longest].unbind(2)
        attended = mask[:, :longest].clone()
        attended[:, 0] = True  # an empty text attends to its padding: a softmax over nothing would be NaN
        inputs = {"input_ids": ids, "attention_mask": attended.long()}
        if self.typed:
            inputs["token_type_ids"] = types
        mixed = self.training and ids.is_cuda and torch.cuda.is_bf16_supported()
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=mixed):
            states: Tensor = self.body(**inputs).last_hidden_state.float()
        if self.pooling == "cls":
            return states[:, 0]
        return (states * attended[:, :, None]).sum(1) / attended.sum(1, keepdim=True)


def _freeze(body: nn.Module, count: int) -> None:
    """Keep what lies outside the layers (``count`` 1 or more) and the lowest ``count - 1`` layers as they are."""
    depth = int(body.config.num_hidden_layers)  # type: ignore[union-attr,arg-type]  # transformers' own
    if not 0 <= count <= depth:
        raise UserError(f"encoders.text.freeze: must lie in 0..{depth}, so that a layer is left to train, got {count}")
    if count == 0:
        return
    layers = next((m for m in body.modules() if isinstance(m, nn.ModuleList) and len(m) == depth), None)
    if layers is None:  # ALBERT's share their weights
        raise UserError(f"encoders.text.freeze: must be 0, for the model's {depth} layers share weights, got {count}")
    body.requires_grad_(False)
    for layer in layers[count - 1 :]:
        layer.requires_grad_(True)


def _check_vocabulary(ids: NDArray[np.int64], tokenizer: Any, model: str) -> None:
    """Refuse ids of another tokenizer: they would be other words."""
    if ids.size and ((ids[:, 0] != tokenizer.cls_token_id).any() or ids.max() >= len(tokenizer)):
        raise UserError(
            f"encoders.text: text_bert was not made by the tokenizer of {model!r} (a sentence begins with "
            f"{ids[0, 0]}, ids reach {ids.max()}); take the model it was made for, or add raw_text to the data"
        )
