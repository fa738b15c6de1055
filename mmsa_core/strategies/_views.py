"""What a step hides of its batch."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmsa_core.tensors import Batch, Features


def kept(
    draws: Float[Tensor, "batch entry"], rate: Float[Tensor, ""] | float, candidates: Bool[Tensor, "batch entry"]
) -> Bool[Tensor, "batch entry"]:
    """Return which candidates stay when each goes with probability ``rate``: those whose draw in [0, 1) reaches it, and
    the highest of each row.

    So one stays where there was one: where all would go, any of them with the same chance.
    """
    among = torch.where(candidates, draws, torch.full_like(draws, -1))
    return candidates & ((draws >= rate) | (among == among.amax(1, keepdim=True)))


def alone(batch: Batch, modality: int) -> Batch:
    """Return the batch with nothing but one modality."""
    features = tuple(f if k == modality else empty(f) for k, f in enumerate(batch.features))
    only = torch.arange(len(features), device=batch.available.device) == modality
    return Batch(features, batch.available & only)


def empty(features: Features) -> Features:
    """Return sequences without a frame, in the shortest tensors that hold them, which cost an encoder little."""
    return Features(torch.zeros_like(features.values[:, :1]), torch.zeros_like(features.mask[:, :1]))
