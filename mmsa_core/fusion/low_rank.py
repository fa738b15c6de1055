"""Tensor fusion with a weight tensor of low rank, so that the outer product is never built."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from mmsa_core.fusion._masked import present
from mmsa_core.plugin import Fusion


class LowRank(Fusion):
    """Multiplies the modalities' projections, summed over ``rank`` terms: ``sum_r w_r prod_m W_m^(r) [1; z_m] + b``.

    Equal to a linear map of the outer product of the ``[1; z_m]`` whose weight tensor has rank ``rank``. A missing
    modality is ``[1; 0]``. Weights start so that every factor keeps unit variance, and ``w_r`` at 1 / sqrt(rank).

    Source: Liu et al., ACL 2018, arXiv:1806.00064, eq. 9.
    """

    def __init__(self, modalities: int, width: int, *, rank: int = 4, dim: int = 64) -> None:
        super().__init__()
        self.dim = dim
        size = (modalities, rank, width + 1, dim)
        self.factors = nn.Parameter(torch.randn(size) * (width + 1) ** -0.5)
        self.weights = nn.Parameter(torch.full((rank,), rank**-0.5))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(
        self, parts: Float[Tensor, "batch modality width"], available: Bool[Tensor, "batch modality"]
    ) -> Float[Tensor, "batch {self.dim}"]:
        with_1 = F.pad(present(parts, available), (1, 0), value=1.0)
        projected = torch.einsum("bmi,mrid->mbrd", with_1, self.factors)
        product = projected[0]
        for factor in projected[1:]:  # not torch.prod: its gradient looks at the values
            product = product * factor
        return torch.einsum("brd,r->bd", product, self.weights) + self.bias
