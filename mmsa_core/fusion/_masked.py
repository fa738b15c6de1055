"""What fusions share: missing modalities are replaced before any arithmetic touches them, and lengths that may be 0.

What has no length is found by ``<=``, never by ``not >``: NaN in an available part must stay NaN: divergence must show.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TINY = 1e-16  # squared length below which a vector counts as zero: its direction would be rounding noise


def present(
    parts: Float[Tensor, "batch modality inner"], available: Bool[Tensor, "batch modality"]
) -> Float[Tensor, "batch modality inner"]:
    """Return ``parts`` with zeros where a modality is missing: what it holds reaches neither result nor gradient."""
    return torch.where(available[:, :, None], parts, torch.zeros((), dtype=parts.dtype, device=parts.device))


def unit(values: Float[Tensor, "*shape inner"]) -> Float[Tensor, "*shape inner"]:
    """Return ``values`` scaled to length 1 along the last axis; what has no length stays 0, with no gradient."""
    square = values.square().sum(-1, keepdim=True)
    dead = square <= TINY
    scale = torch.where(dead, torch.zeros_like(square), torch.where(dead, torch.ones_like(square), square).rsqrt())
    return values * scale


def root(square: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the square root, with gradient 0 instead of infinity at 0."""
    dead = square <= TINY**2
    return torch.where(dead, torch.zeros_like(square), torch.where(dead, torch.ones_like(square), square).sqrt())


def guarded(value: Float[Tensor, ""], valid: Bool[Tensor, "batch"]) -> Float[Tensor, ""]:
    """Return ``value``, or 0 without gradient where fewer than two rows are valid."""
    return torch.where(valid.sum() >= 2, value, torch.zeros_like(value))


def average(terms: list[Tensor], like: Tensor) -> Float[Tensor, ""]:
    """Return the mean of scalars, or a zero of the kind of ``like`` where there are none."""
    return torch.stack(terms).mean() if terms else like.new_zeros(())
