"""Data for an exported model: a split of a data set, rows without labels, or raw text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmsa_core.config import MODALITIES
from mmsa_core.data.dataset import Dataset, open_dataset, open_source
from mmsa_core.data.source import SPLITS, ArraySource, Overlay, Source
from mmsa_core.data.split import Split
from mmsa_core.data.text import TextModel, embed
from mmsa_core.errors import UserError, nearest
from mmsa_core.loader import SplitTensors
from mmsa_core.population import stackable

if TYPE_CHECKING:
    from search.export import Model

UNLABELED = ("id", "raw_text", "text_bert", *(f"{m}{end}" for m in MODALITIES for end in ("", "_lengths")))
"""The keys of a file of rows without labels."""


def text_model(provenance: Mapping[str, Any]) -> TextModel | None:
    """Return what made the text features that a model was trained on, where that is known."""
    record = provenance["text_model"]
    return None if record is None else TextModel.from_dict(record, "text_model")


def open_like_training(model: Model, data: str | None, modalities: Sequence[str]) -> Dataset:
    """Open a data set as the model's training data was opened; ``data`` None takes that file itself.

    Raises:
        UserError: the file is missing or unsound, or the text model is not the one of training.
    """
    facts = model.provenance
    return open_dataset(data or facts["data_path"], modalities, facts["nonfinite"], text_model(facts))


def labeled_split(model: Model, data: str | None, name: str) -> Split:
    """Return a split of a data set for the model, not scaled yet.

    Raises:
        UserError: there is no such split, or its features are not those of training.
    """
    if name not in SPLITS:
        raise UserError(f"--split: must be one of {', '.join(SPLITS)}, got {name!r}")
    dataset = open_like_training(model, data, model.modalities)
    if dataset.dims() != model.widths:
        raise UserError(
            f"{dataset.path}: the model was trained on feature widths {model.widths}, the data has {dataset.dims()}"
        )
    return dataset.split(name)


def is_unlabeled(path: str) -> bool:
    """Tell whether a data file holds rows without split and label: ``raw_text``, ``audio``, ... by themselves."""
    return any(key in open_source(Path(path)).keys for key in ("raw_text", *MODALITIES))


def unlabeled_rows(model: Model, path: str) -> Split:
    """Return the rows of a file without splits and labels; a modality that it lacks is missing in every row.

    Raises:
        UserError: an unknown key, arrays that do not fit together, or text features that cannot be made.
    """
    source = open_source(Path(path))
    for key in source.keys:
        if key not in UNLABELED:
            raise UserError(f"{source.place}: unknown key {key!r}{nearest(key, UNLABELED)}")
    return _rows(model, source)


def texts_alone(model: Model, texts: Sequence[str]) -> Split:
    """Return raw texts as rows; every other modality is missing.

    Raises:
        UserError: the model does not read text, or text features cannot be made.
    """
    if "text" not in model.modalities:
        raise UserError(f"--text: the model reads {', '.join(model.modalities)}, not text; give --data with these")
    return _rows(model, ArraySource("--text", {"raw_text": np.array(texts)}))


def missing(model: Model, split: Split) -> list[str]:
    """Return the modalities that the model reads and no row has."""
    available = SplitTensors(split, torch.device("cpu")).batch(model.config).available.any(0)
    return [m for m, there in zip(model.modalities, available.tolist(), strict=True) if not there]


def _rows(model: Model, source: Source) -> Split:
    """Return a file's rows; where it has no text features, they are made of ``raw_text`` as in training."""
    reads_features = "text" in model.modalities and stackable(model.config)  # else the encoder reads the text itself
    if reads_features and "text" not in source.keys and "raw_text" in source.keys:
        maker = text_model(model.provenance)
        if maker is None:
            raise UserError(
                f"{source.place}: the model reads text features and it is not known what made them, so raw text alone "
                "will not do; give the key 'text', or train on data with text_model"
            )
        values, lengths = embed([str(t) for t in source.read("raw_text").tolist()], maker)
        source = Overlay(source, ArraySource(source.place, {"text": values, "text_lengths": lengths}))
    return Dataset(Path(source.place), source, model.modalities, model.provenance["nonfinite"]).unlabeled(model.widths)
