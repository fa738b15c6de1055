"""The cheapest encoder: statistics over time, computed once, and a small network."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmsa_core.noise import Dropout
from mmsa_core.plugin import Encoder
from mmsa_core.tensors import Features

CHUNK = 1024  # samples pooled at a time: the temporaries of a whole data set would need several times its memory


class Pool(Encoder):
    """Encodes the mean, deviation and maximum over time by a two-layer network; blind to the order of frames.

    ``prepare`` turns [N, T, d] into [N, 1, 3 d] once per data set, so ``inputs`` is 3 d. The deviation is the biased
    one: 0 for a single frame, as utterance-level features have. An empty sequence gives zeros.

    Source: statistics pooling, Snyder et al., Interspeech 2017, doi:10.21437/Interspeech.2017-620; the maximum is ours.
    """

    def __init__(self, inputs: int, *, dim: int = 32, hidden: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        self.dim = dim
        self.first = nn.Linear(inputs, hidden)
        self.dropout = Dropout(dropout)
        self.second = nn.Linear(hidden, dim)

    @staticmethod
    def prepare(features: Features) -> Features:
        parts = zip(torch.split(features.values, CHUNK), torch.split(features.mask, CHUNK), strict=True)
        pooled = torch.cat([_statistics(values, mask) for values, mask in parts])
        return Features(pooled[:, None], features.mask.any(1, keepdim=True))

    def forward(self, features: Features) -> Float[Tensor, "batch {self.dim}"]:
        pooled = torch.where(features.mask[:, :1], features.values[:, 0], torch.zeros_like(features.values[:, 0]))
        out: Tensor = self.second(self.dropout(self.first(pooled).relu()))
        return out


def _statistics(
    values: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"]
) -> Float[Tensor, "batch three_dims"]:
    """Return mean, deviation and maximum over the real frames; 0 for an empty sequence."""
    real = mask[:, :, None]
    zero = values.new_zeros(())
    n = mask.sum(1, keepdim=True).clamp(min=1)
    mean = torch.where(real, values, zero).sum(1) / n
    variance = torch.where(real, (values - mean[:, None]).square(), zero).sum(1) / n
    highest = torch.where(real, values, torch.full_like(zero, torch.finfo(values.dtype).min)).amax(1)
    return torch.cat([mean, variance.sqrt(), torch.where(mask.any(1, keepdim=True), highest, zero)], 1)
