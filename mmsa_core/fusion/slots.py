"""Every modality is poured into the same slots, so that any subset of them can be added."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmsa_core.fusion._masked import present
from mmsa_core.plugin import Fusion


class Slots(Fusion):
    """Reorganises each modality into ``slots`` common slots, adds them up slot by slot, and maps the sum to ``dim``.

    A part becomes ``tokens`` tokens X of ``size``; ``S^T X`` with ``S = softmax(W n(X))`` over the slots shares each
    token out among them, so that the sum over slots is that over tokens exactly. LayerNorm and Linear per modality
    follow, then the sum over the available ones, or with ``average`` their mean: a sum grows with their number.

    The paper reorganises sequences through a transformer, has 512 slots and another transformer behind them. Our
    sequences are already encoded to one vector, which is cut into tokens by a Linear; behind the slots is one Linear.
    Its pseudo-labels and its alignment to label prototypes are not part of the fusion.

    Source: Zhang et al., NeurIPS 2023, arXiv:2306.12795, feature space reorganisation.
    """

    def __init__(
        self,
        modalities: int,
        width: int,
        *,
        slots: int = 8,
        tokens: int = 4,
        size: int = 16,
        dim: int = 64,
        average: bool = False,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.tokens = tokens
        self.average = average
        self.cut = nn.ModuleList(nn.Linear(width, tokens * size) for _ in range(modalities))
        self.share = nn.ModuleList(nn.Sequential(nn.LayerNorm(size), nn.Linear(size, slots)) for _ in range(modalities))
        self.adapt = nn.ModuleList(nn.Sequential(nn.LayerNorm(size), nn.Linear(size, size)) for _ in range(modalities))
        self.out = nn.Linear(slots * size, dim)

    def forward(
        self, parts: Float[Tensor, "batch modality width"], available: Bool[Tensor, "batch modality"]
    ) -> Float[Tensor, "batch {self.dim}"]:
        columns = []
        for part, cut, share, adapt in zip(
            present(parts, available).unbind(1), self.cut, self.share, self.adapt, strict=True
        ):
            tokens = cut(part).unflatten(1, (self.tokens, -1))
            columns.append(adapt(reorganise(tokens, share(tokens))).flatten(1))
        total = present(torch.stack(columns, 1), available).sum(1)
        if self.average:
            total = total / available.sum(1, keepdim=True).clamp(min=1)
        fused: Tensor = self.out(total)
        return fused


def reorganise(
    tokens: Float[Tensor, "batch token size"], scores: Float[Tensor, "batch token slot"]
) -> Float[Tensor, "batch slot size"]:
    """Return the slots: every token is shared out among them by the softmax of its scores."""
    return scores.softmax(2).mT @ tokens
