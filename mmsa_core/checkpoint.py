"""Checks of a transformers checkpoint: whatever would give random or meaningless features, or fill the memory, is
refused before it is used."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmsa_core.errors import UserError

POOLER = "pooler"
"""The module that a body may have and nothing here uses: a checkpoint without it, or with another, is as good."""
MOST_LAYERS = 1000
"""The deepest published models have some hundred, and each takes time to build."""
MOST_LABELS = 100_000
"""Labels of a head, which is not used; transformers makes a name for each."""
MASKS = re.compile(r"(attn|attention)\.(masked_)?bias$")
"""The causal mask, which checkpoints of the GPT family hold from a time when it was stored."""
USUAL_LENGTH = 512
"""Tokens, where neither the tokenizer nor the model says how many it takes."""
NAMES_SHOWN = 3


def check_config(name: str, config: Mapping[str, Any]) -> None:
    """Check a ``config.json`` before transformers builds what it says.

    Raises:
        UserError: it asks for more parts than any model has, or for code from elsewhere.
    """
    for key, value in _items(config):
        most = MOST_LABELS if key == "num_labels" else MOST_LAYERS
        counted = key in ("num_labels", "num_hidden_groups") or "layer" in key
        if counted and isinstance(value, int | float) and not value <= most:
            raise UserError(
                f"text model {name}: config.json: {key} must be at most {most}, got {str(value)[:20]}; take the "
                "config.json that belongs to the weights"
            )
        if "attn_implementation" in key and "/" in str(value):
            raise UserError(
                f"text model {name}: config.json: {key} names code on the hub ({str(value)[:60]}), which is not run; "
                "remove the line"
            )


def _items(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of a configuration and of those inside it."""
    for key, value in tree.items():
        yield key, value
        if isinstance(value, Mapping):
            yield from _items(value)


def check_body(name: str, body: Any, size: int) -> None:
    """Check a body without values (on the device ``meta``) against the bytes of its weights.

    Raises:
        UserError: it is no text encoder, or larger than its files.
    """
    config = body.config
    if config.is_encoder_decoder:
        raise UserError(f"text model {name}: {config.model_type} is an encoder-decoder; take an encoder such as BERT")
    sizes = [getattr(config, key, None) for key in ("hidden_size", "num_hidden_layers", "vocab_size")]
    if "input_ids" not in inspect.signature(body.forward).parameters or not all(isinstance(s, int) for s in sizes):
        raise UserError(f"text model {name}: {config.model_type} is no text encoder; take an encoder such as BERT")
    needed = sum(p.numel() for key, p in body.named_parameters() if not _of_pooler(key))
    if needed > size:
        raise UserError(
            f"text model {name}: config.json describes {needed:,} weights, more than its files can hold ({size:,} "
            "bytes: cut off, or of another model); take weights and config.json of one model, saved by save_pretrained"
        )


def check_weights(name: str, body: Any, report: Mapping[str, Any]) -> None:
    """Check what transformers reports of loading a body, and that it computes.

    A fresh pooler and a head that is left out are no fault.

    Raises:
        UserError: weights are missing, left over, of another shape or not finite, or the outputs are.
    """
    shapes = {key: f"{key} {[*found]} for {[*needed]}" for key, found, needed in report["mismatched_keys"]}
    faults = {
        "missing": [k for k in report["missing_keys"] if not _of_pooler(k)],
        "unexpected": [k for k in report["unexpected_keys"] if _of_body(k, body)],
        "of another shape": [text for key, text in shapes.items() if not _of_pooler(key)],
    }
    if found := [f"{fault}: {_some(keys)}" for fault, keys in faults.items() if keys]:
        raise UserError(
            f"text model {name}: its weights do not fit its config.json ({'; '.join(found)}); take weights and "
            "config.json of one model, saved by save_pretrained"
        )
    broken = [k for k, v in body.state_dict().items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise UserError(f"text model {name}: weights are not finite: {_some(broken)}; save it again")
    _check_computes(name, body)


def _check_computes(name: str, body: Any) -> None:
    """Check that a body computes states of the right shape, finite and the same twice."""
    import torch

    ids = torch.zeros(1, 2, dtype=torch.long)
    options = {"attention_mask": torch.ones_like(ids), "output_hidden_states": True}
    with torch.inference_mode():
        once, twice = (body(input_ids=ids, **options) for _ in range(2))
    last = once.last_hidden_state
    shaped = last.shape == (1, 2, body.config.hidden_size)
    if not shaped or len(once.hidden_states) != body.config.num_hidden_layers + 1:
        raise UserError(f"text model {name}: {body.config.model_type} does not give a state per token and layer")
    if not last.isfinite().all() or not torch.equal(last, twice.last_hidden_state):
        raise UserError(f"text model {name}: its outputs are not finite or differ from pass to pass; save it again")


def check_tokenizer(name: str, tokenizer: Any, config: Any) -> None:
    """Check that a tokenizer is the model's.

    Raises:
        UserError: it has no words, numbers that the model does not know, or nothing to pad with.
    """
    vocabulary = tokenizer.get_vocab()
    if vocabulary.keys() <= {*tokenizer.all_special_tokens}:
        raise UserError(
            f"text model {name}: its tokenizer has no words; copy the tokenizer's files (tokenizer.json, vocab.txt, "
            "...) beside config.json"
        )
    rows, largest = getattr(config, "vocab_size", None), max(vocabulary.values())
    if isinstance(rows, int) and largest >= rows:
        raise UserError(
            f"text model {name}: its tokenizer numbers words up to {largest}, but config.json says vocab_size {rows}; "
            "take tokenizer and weights of one model"
        )
    if tokenizer.pad_token is None:
        raise UserError(f"text model {name}: its tokenizer has neither a padding nor an end token; name a pad_token")


def longest_input(tokenizer: Any, config: Any) -> int:
    """Return the tokens that tokenizer and model both take.

    Raises:
        ValueError: they take none.
    """
    limits = (tokenizer.model_max_length, getattr(config, "max_position_embeddings", None))
    positions = limits[1] if isinstance(limits[1], int) and limits[1] > 0 else USUAL_LENGTH  # XLNet says -1: any
    longest = min(int(limits[0]), positions)
    if longest <= tokenizer.num_special_tokens_to_add():
        raise ValueError(f"an input of {longest} tokens has no room for words")
    return longest


def _of_body(key: str, body: Any) -> bool:
    """Tell whether a weight that was left over belongs to a module of the body, and not to a head."""
    own = key.removeprefix(f"{body.base_model_prefix}.")
    modules = {name.split(".")[0] for name, _ in body.named_parameters()}
    return own.split(".")[0] in modules and not _of_pooler(own) and MASKS.search(own) is None


def _of_pooler(key: str) -> bool:
    return key.split(".")[0] == POOLER


def _some(names: Iterable[str]) -> str:
    """Return the first few names and how many more there are."""
    ordered = sorted(names)
    more = len(ordered) - NAMES_SHOWN
    return ", ".join(ordered[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
