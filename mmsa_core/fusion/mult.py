"""Fusion by crossmodal attention: each modality looks at the tokens of the others."""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmsa_core.fusion._masked import present
from mmsa_core.noise import Dropout
from mmsa_core.plugin import Fusion


class MulT(Fusion):
    """Turns each modality into tokens that attend to those of the others, and puts the tokens' means side by side.

    ``tokens`` tokens of ``size`` per modality; ``layers`` layers of ``heads`` heads of ``size`` dimensions each;
    ``dropout`` on the tokens; ``dim`` is modalities times ``size``. Missing modalities are not seen. A sample with no
    other modality keeps its own tokens as they are, and a missing modality gives 0.

    The paper attends between sequences; ours are already encoded to one vector, which a Linear cuts into tokens, so
    positions are not needed and the mean stands for the last element. It has one transformer for each of the six
    directions and a self-attention over their results; here each modality has one, whose softmax is over all tokens of
    the others together, and nothing follows. Keys and values are the others' first tokens in every layer, as there.

    Source: Tsai et al., ACL 2019, arXiv:1906.00295.
    """

    def __init__(
        self,
        modalities: int,
        width: int,
        *,
        tokens: int = 4,
        size: int = 16,
        layers: int = 2,
        heads: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = modalities * size
        self.tokens = tokens
        self.cut = nn.ModuleList(nn.Linear(width, tokens * size) for _ in range(modalities))
        self.dropout = Dropout(dropout)
        self.streams = nn.ModuleList(
            nn.ModuleList(_Crossmodal(size, heads) for _ in range(layers)) for _ in range(modalities)
        )

    def forward(
        self, parts: Float[Tensor, "batch modality width"], available: Bool[Tensor, "batch modality"]
    ) -> Float[Tensor, "batch {self.dim}"]:
        known = present(parts, available).unbind(1)
        cut = [layer(part).unflatten(1, (self.tokens, -1)) for part, layer in zip(known, self.cut, strict=True)]
        everything = self.dropout(torch.cat(cut, 1))
        which = torch.arange(available.shape[1], device=available.device)
        means = []
        for m, (own, blocks) in enumerate(zip(everything.split(self.tokens, 1), self.streams, strict=True)):
            seen = (available & (which != m))[:, :, None].expand(-1, -1, self.tokens).flatten(1)
            for block in cast(nn.ModuleList, blocks):
                own = block(own, everything, seen)
            means.append(own.mean(1))
        return present(torch.stack(means, 1), available).flatten(1)


class _Crossmodal(nn.Module):
    """One pre-norm layer: attention to the tokens that are seen, then a feed-forward layer, each with a residual path.

    Without any token to see, the layer does nothing.
    """

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.own_norm, self.other_norm, self.norm = (nn.LayerNorm(size) for _ in range(3))
        self.query, self.key, self.value = (nn.Linear(size, heads * size, bias=False) for _ in range(3))
        self.out = nn.Linear(heads * size, size)
        self.forth = nn.Linear(size, 4 * size)
        self.back = nn.Linear(4 * size, size)

    def forward(
        self,
        own: Float[Tensor, "batch token size"],
        others: Float[Tensor, "batch other size"],
        seen: Bool[Tensor, "batch other"],
    ) -> Float[Tensor, "batch token size"]:
        looked = own + self._attend(self.own_norm(own), self.other_norm(others), seen)
        moved = looked + self.back(self.forth(self.norm(looked)).relu())
        return torch.where(seen.any(1)[:, None, None], moved, own)

    def _attend(
        self,
        own: Float[Tensor, "batch token size"],
        others: Float[Tensor, "batch other size"],
        seen: Bool[Tensor, "batch other"],
    ) -> Float[Tensor, "batch token size"]:
        query, key, value = self._split(self.query(own)), self._split(self.key(others)), self._split(self.value(others))
        scores = query @ key.mT * query.shape[-1] ** -0.5
        # the lowest finite number, not -inf: a sample with nothing to see must give a number, which is then left out
        lowest = torch.full_like(scores, torch.finfo(scores.dtype).min)
        looked = torch.where(seen[:, None, None, :], scores, lowest).softmax(-1) @ value
        added: Tensor = self.out(looked.transpose(1, 2).flatten(2))
        return added

    def _split(self, values: Float[Tensor, "batch token inner"]) -> Float[Tensor, "batch head token size"]:
        heads: Tensor = values.unflatten(2, (self.heads, -1))
        return heads.transpose(1, 2)
