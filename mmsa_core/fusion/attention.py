"""Fusion by self-attention between the modalities."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmsa_core.fusion._masked import present
from mmsa_core.noise import Dropout
from mmsa_core.plugin import Fusion


class Attention(Fusion):
    """Lets the modalities look at each other as tokens, then averages those available; ``dim`` is the width.

    One pre-norm attention layer with a residual path and one learned vector per modality; ``heads`` heads of ``size``
    dimensions each, ``dropout`` on what attention adds. Missing tokens are neither seen nor averaged; a sample
    without any modality gives 0. No feed-forward layer: the post-fusion layers follow.

    Source: Vaswani et al., NeurIPS 2017, arXiv:1706.03762, eq. 1; pre-norm: Xiong et al., ICML 2020, arXiv:2002.04745.
    """

    def __init__(self, modalities: int, width: int, *, heads: int = 4, size: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        self.dim = width
        self.heads = heads
        self.which = nn.Parameter(torch.randn(modalities, width) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, heads * size, bias=False)
        self.key = nn.Linear(width, heads * size, bias=False)
        self.value = nn.Linear(width, heads * size, bias=False)
        self.out = nn.Linear(heads * size, width)
        self.dropout = Dropout(dropout)

    def forward(
        self, parts: Float[Tensor, "batch modality width"], available: Bool[Tensor, "batch modality"]
    ) -> Float[Tensor, "batch {self.dim}"]:
        tokens = present(parts, available) + self.which
        seen = self.norm(tokens)
        query, key, value = (self._split(layer(seen)) for layer in (self.query, self.key, self.value))
        scores = query @ key.mT * query.shape[-1] ** -0.5
        # the lowest finite number, not -inf: a sample without any modality must not give NaN
        lowest = torch.full_like(scores, torch.finfo(scores.dtype).min)
        looked = torch.where(available[:, None, None, :], scores, lowest).softmax(-1) @ value
        tokens = tokens + self.dropout(self.out(looked.transpose(1, 2).flatten(2)))
        return present(tokens, available).sum(1) / available.sum(1, keepdim=True).clamp(min=1)

    def _split(self, values: Float[Tensor, "batch modality inner"]) -> Float[Tensor, "batch head modality size"]:
        return values.reshape(*values.shape[:2], self.heads, -1).transpose(1, 2)
