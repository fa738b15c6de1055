"""The tensors that modules exchange. Everything here is for ONE member; the population adds its axis by
``torch.func.vmap``."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mmsa_core.config import MODALITIES

__all__ = [
    "MODALITIES",
    "Batch",
    "Features",
    "LabelTable",
    "OutOfFold",
    "Outputs",
    "Pair",
    "Rows",
    "own_device",
    "pair_names",
]


def pair_names(modalities: tuple[str, ...]) -> tuple[str, ...]:
    """Return the unordered pairs of ``modalities`` in canonical order, e.g. ``("text-audio", ...)``."""
    ordered = [m for m in MODALITIES if m in modalities]
    return tuple(f"{a}-{b}" for i, a in enumerate(ordered) for b in ordered[i + 1 :])


class Features(NamedTuple):
    """One modality of a batch: zero-padded rows and which of them are real (a prefix: padding is always behind)."""

    values: Float[Tensor, "batch time dim"]
    mask: Bool[Tensor, "batch time"]


class Batch(NamedTuple):
    """Every modality of a batch, in the order of :data:`MODALITIES`.

    ``available[:, m]`` is False where modality ``m`` of a sample is missing; its values must never reach a result.
    """

    features: tuple[Features, ...]
    available: Bool[Tensor, "batch modality"]


class Pair(NamedTuple):
    """What an alignment sees of a pair of modalities: rows where ``valid`` is False do not exist.

    ``joint`` is the fused representation: a teacher to take as it is (detached), or one of the views.
    """

    x: Float[Tensor, "batch dim_x"]
    y: Float[Tensor, "batch dim_y"]
    valid: Bool[Tensor, "batch"]
    labels: Float[Tensor, "batch"]
    joint: Float[Tensor, "batch joint"]


class OutOfFold(NamedTuple):
    """What each modality alone predicts of every label, by a model that did not see it, and 0 where it is missing."""

    labels: Float[Tensor, "row modality"]
    counts: Float[Tensor, "row modality"]


class LabelTable(NamedTuple):
    """The labels of a whole split: multimodal, and human unimodal ones where the data set has them (else None).

    ``out_of_fold`` computes what it returns, so only who needs it calls it.
    """

    labels: Float[Tensor, "row"]
    unimodal: Float[Tensor, "row modality"] | None
    modalities: int
    out_of_fold: Callable[[], OutOfFold] | None = None


class Rows(NamedTuple):
    """The rows of a training split: those with labels come first, then those without; each is of a domain."""

    labeled: int
    unlabeled: int
    domains: Int[Tensor, "all"]


class Outputs(NamedTuple):
    """What the model returns: predictions, the representations that label generators and alignments read, and what the
    fusion handed to the head."""

    prediction: Float[Tensor, "batch"]
    unimodal: Float[Tensor, "batch modality"]
    fused: Float[Tensor, "batch post"]
    representations: tuple[Float[Tensor, "batch post"], ...]
    embeddings: tuple[Float[Tensor, "batch dim"], ...]
    projections: tuple[Float[Tensor, "batch width"], ...]
    fusion: Float[Tensor, "batch dim"]

    def first(self, count: int) -> Outputs:
        """Return the outputs of the first ``count`` rows."""
        return Outputs(
            self.prediction[:count],
            self.unimodal[:count],
            self.fused[:count],
            tuple(t[:count] for t in self.representations),
            tuple(t[:count] for t in self.embeddings),
            tuple(t[:count] for t in self.projections),
            self.fusion[:count],
        )


def own_device() -> torch.device:
    """Return what this process computes on: its GPU, or the CPU where it has none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
