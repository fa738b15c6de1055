"""Fusion by all products of dimensions of different modalities."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from mmsa_core.fusion._masked import present
from mmsa_core.noise import Dropout
from mmsa_core.plugin import Fusion


class TensorFusion(Fusion):
    """Multiplies every dimension of each modality with every one of the others: the outer product of the ``[1; z_m]``.

    Each part is first reduced to ``hidden`` dimensions (Linear, ReLU), as the tensor has ``(hidden + 1)^M`` entries:
    729 for three modalities and the default. Then ``dropout`` and one Linear to ``dim``. A missing modality is
    ``[1; 0]``, so the products of the others remain.

    Source: Zadeh et al., EMNLP 2017, arXiv:1707.07250.
    """

    def __init__(self, modalities: int, width: int, *, hidden: int = 8, dim: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        self.dim = dim
        self.reduce = nn.ModuleList(nn.Linear(width, hidden) for _ in range(modalities))
        self.dropout = Dropout(dropout)
        self.out = nn.Linear((hidden + 1) ** modalities, dim)

    def forward(
        self, parts: Float[Tensor, "batch modality width"], available: Bool[Tensor, "batch modality"]
    ) -> Float[Tensor, "batch {self.dim}"]:
        known = present(parts, available)
        reduced = [reduce(part).relu() for reduce, part in zip(self.reduce, known.unbind(1), strict=True)]
        factors = F.pad(present(torch.stack(reduced, 1), available), (1, 0), value=1.0)
        product = parts.new_ones(parts.shape[0], 1)
        for factor in factors.unbind(1):
            product = torch.einsum("bi,bj->bij", product, factor).flatten(1)
        out: Tensor = self.out(self.dropout(product))
        return out
