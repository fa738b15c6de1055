"""One modality leads, the others may shift it, but not far."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmsa_core.fusion._masked import present, root
from mmsa_core.plugin import Fusion, hyper


class MAG(Fusion):
    """Shifts the first modality by the others, gated: ``z_1 + min(beta |z_1| / |H|, 1) H``; ``dim`` is the width.

    ``H = sum_m relu(G_m [z_m; z_1]) * V_m z_m`` over the others that are there (G and V with bias). The first modality
    is text wherever text is in use. The shift is never longer than ``beta`` times the part that it moves; alone, the
    first modality stays as it is. Where it is missing what comes out is H itself: there is nothing to measure it by.

    The paper shifts BERT's word vectors inside the transformer; here the pooled part is shifted. No LayerNorm and
    dropout behind it: the head has its dropout, and a text without company shall be itself.

    Source: Rahman et al., ACL 2020, arXiv:1908.05787 (MAG-BERT).
    """

    def __init__(self, modalities: int, width: int, *, beta: float = 1.0) -> None:
        super().__init__()
        self.dim = width
        self.beta = hyper(beta)
        self.gates = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(1, modalities))
        self.values = nn.ModuleList(nn.Linear(width, width) for _ in range(1, modalities))

    def forward(
        self, parts: Float[Tensor, "batch modality width"], available: Bool[Tensor, "batch modality"]
    ) -> Float[Tensor, "batch {self.dim}"]:
        first, *others = present(parts, available).unbind(1)
        shift = torch.zeros_like(first)
        for m, (other, gate, value) in enumerate(zip(others, self.gates, self.values, strict=True), start=1):
            moved = gate(torch.cat([other, first], 1)).relu() * value(other)
            shift = shift + torch.where(available[:, m, None], moved, torch.zeros_like(moved))
        return first + torch.where(available[:, :1], self._bound(shift, first), shift)

    def _bound(
        self, shift: Float[Tensor, "batch width"], first: Float[Tensor, "batch width"]
    ) -> Float[Tensor, "batch width"]:
        """Return ``shift`` shortened to at most ``beta`` times the length of ``first``."""
        length, limit = (root(v.square().sum(1, keepdim=True)) for v in (shift, first))
        none = length == 0
        factor = self.beta * limit / torch.where(none, torch.ones_like(length), length)
        return torch.where(none, torch.ones_like(factor), factor.clamp(max=1)) * shift
