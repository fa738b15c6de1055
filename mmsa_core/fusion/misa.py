"""Fusion of what the modalities share and what each has for itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from mmsa_core.fusion._masked import average, guarded, present, root, unit
from mmsa_core.plugin import RegularizedFusion, hyper

CONSTANT = 1e-10  # a column whose variance is below this share of its mean square is constant in float32
MOMENTS = 5


class MISA(RegularizedFusion):
    """Splits each modality into a shared and a private vector of ``hidden`` numbers, and maps all of them to ``dim``.

    ``s_m = sigmoid(C n(z_m))`` with one C for all, ``p_m = sigmoid(P_m n(z_m))``; n standardises a sample's part
    (LayerNorm, without weights). Missing vectors are 0. Behind them is one Linear, without the paper's Transformer over
    the six vectors.

    The penalty has three terms, each a mean over what there is to compare:

    - ``similar``: central moment discrepancy of order 5 between the shared vectors of each pair of modalities. Chance:
      moments at right angles.
    - ``different``: squared Frobenius norm of ``A'B``, rows centred and of length 1, of each modality's shared against
      its private vectors and of the private vectors of each pair. Chance: the Cauchy-Schwarz bound. We do not detach
      the row lengths: detached, the gradient rewards shrinking.
    - ``reconstruct``: squared error of a Linear of ``s_m + p_m`` against ``n(z_m)``, which is detached (not so in the
      paper: its targets may move to be easy). Chance: 1, the mean square of a standardised target.

    The weights' defaults are a third of MMSA's for MOSI (0.3, 0.1, 1), whose terms are not divided by their chance.

    Source: Hazarika et al., ACM MM 2020, arXiv:2005.03545; discrepancy: Zellinger et al., ICLR 2017,
    arXiv:1702.08811.
    """

    weights: ClassVar[tuple[str, ...]] = ("similar", "different", "reconstruct")

    def __init__(
        self,
        modalities: int,
        width: int,
        *,
        hidden: int = 32,
        dim: int = 64,
        similar: float = 0.1,
        different: float = 0.03,
        reconstruct: float = 0.3,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.similar, self.different, self.reconstruct = hyper(similar), hyper(different), hyper(reconstruct)
        self.shared = nn.Linear(width, hidden)
        self.private = nn.ModuleList(nn.Linear(width, hidden) for _ in range(modalities))
        self.decoders = nn.ModuleList(nn.Linear(hidden, width) for _ in range(modalities))
        self.out = nn.Linear(2 * modalities * hidden, dim)

    def forward(
        self, parts: Float[Tensor, "batch modality width"], available: Bool[Tensor, "batch modality"]
    ) -> Float[Tensor, "batch {self.dim}"]:
        _, shared, private = self._split(parts, available)
        fused: Tensor = self.out(torch.cat([shared, private], 1).flatten(1))
        return fused

    def penalty(
        self, parts: Float[Tensor, "batch modality width"], available: Bool[Tensor, "batch modality"]
    ) -> Float[Tensor, ""]:
        target, shared, private = self._split(parts, available)
        similar = [discrepancy(x, y, valid) for x, y, valid in _pairs(shared, available)]
        own = zip(shared.unbind(1), private.unbind(1), available.unbind(1), strict=True)
        different = [overlap(x, y, valid) for x, y, valid in (*own, *_pairs(private, available))]
        decoded = [d(both) for d, both in zip(self.decoders, (shared + private).unbind(1), strict=True)]
        targets = target.detach().unbind(1)
        errors = [error(x, y, valid) for x, y, valid in zip(decoded, targets, available.unbind(1), strict=True)]
        loss: Tensor = (
            self.similar * average(similar, parts)
            + self.different * average(different, parts)
            + self.reconstruct * average(errors, parts)
        )
        return loss

    def _split(
        self, parts: Float[Tensor, "batch modality width"], available: Bool[Tensor, "batch modality"]
    ) -> tuple[
        Float[Tensor, "batch modality width"],
        Float[Tensor, "batch modality hidden"],
        Float[Tensor, "batch modality hidden"],
    ]:
        """Return the standardised parts, their shared and their private vectors; zeros where a modality is missing."""
        seen = F.layer_norm(present(parts, available), parts.shape[-1:])
        own = torch.stack([layer(part) for layer, part in zip(self.private, seen.unbind(1), strict=True)], 1)
        return seen, present(self.shared(seen).sigmoid(), available), present(own.sigmoid(), available)


def discrepancy(
    x: Float[Tensor, "batch dim"], y: Float[Tensor, "batch dim"], valid: Bool[Tensor, "batch"]
) -> Float[Tensor, ""]:
    """Return the central moment discrepancy over its chance value; 0 where fewer than two rows are valid."""
    mine, theirs = _moments(x, valid), _moments(y, valid)
    chance = root(mine.detach().square().sum(1) + theirs.detach().square().sum(1)).sum()
    return guarded(root((mine - theirs).square().sum(1)).sum() / chance.clamp(1e-6), valid)


def overlap(
    x: Float[Tensor, "batch dim"], y: Float[Tensor, "batch dim"], valid: Bool[Tensor, "batch"]
) -> Float[Tensor, ""]:
    """Return how much of their directions two sets of rows share, in [0, 1]; 0 where fewer than two are valid."""
    x, y = unit(_centred(x, valid)), unit(_centred(y, valid))
    fixed_x, fixed_y = x.detach(), y.detach()
    chance = root((fixed_x.T @ fixed_x).square().sum() * (fixed_y.T @ fixed_y).square().sum())
    return guarded((x.T @ y).square().sum() / chance.clamp(1e-6), valid)


def error(
    decoded: Float[Tensor, "batch dim"], target: Float[Tensor, "batch dim"], valid: Bool[Tensor, "batch"]
) -> Float[Tensor, ""]:
    """Return the mean squared error over the valid rows; 0 where there are fewer than two."""
    return guarded(_mean((decoded - target).square(), valid).mean(), valid)


def _pairs(
    vectors: Float[Tensor, "batch modality dim"], available: Bool[Tensor, "batch modality"]
) -> Iterator[tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"], Bool[Tensor, "batch"]]]:
    """Yield every pair of modalities and the rows that have both."""
    for i, j in combinations(range(vectors.shape[1]), 2):
        yield vectors[:, i], vectors[:, j], available[:, i] & available[:, j]


def _moments(values: Float[Tensor, "batch dim"], valid: Bool[Tensor, "batch"]) -> Float[Tensor, "moment dim"]:
    """Return the mean and the central moments up to order 5 over the valid rows."""
    moved = _centred(values, valid)
    return torch.stack([_mean(values, valid), *(_mean(moved**k, valid) for k in range(2, MOMENTS + 1))])


def _mean(values: Float[Tensor, "batch dim"], valid: Bool[Tensor, "batch"]) -> Float[Tensor, "dim"]:
    return _rows(values, valid).sum(0) / valid.sum().clamp(min=1)


def _rows(values: Float[Tensor, "batch dim"], valid: Bool[Tensor, "batch"]) -> Float[Tensor, "batch dim"]:
    return torch.where(valid[:, None], values, torch.zeros_like(values))


def _centred(values: Float[Tensor, "batch dim"], valid: Bool[Tensor, "batch"]) -> Float[Tensor, "batch dim"]:
    """Return the valid rows less their mean; constant columns are exactly 0, or rounding would pass for a signal."""
    moved = _rows(values - _mean(values, valid), valid)
    constant = moved.square().sum(0) <= CONSTANT * _rows(values, valid).square().sum(0)
    return torch.where(constant, torch.zeros_like(moved), moved)
