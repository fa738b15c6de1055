"""Label generators that only look labels up share this: a table of unimodal labels, one row per training sample."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def lookup(
    table: Float[Tensor, "row modality"], rows: Int[Tensor, "batch"]
) -> tuple[Float[Tensor, "batch modality"], Float[Tensor, "batch modality"]]:
    """Return the labels of ``rows``, each with weight 1."""
    labels = table[rows]
    return labels, torch.ones_like(labels)


def constant(table: Float[Tensor, "row modality"]) -> nn.Buffer:
    """Hold a table that is not worth a place in a checkpoint, because it is the data's own."""
    return nn.Buffer(table.clone(), persistent=False)
