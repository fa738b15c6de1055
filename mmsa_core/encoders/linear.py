"""The encoder with the fewest parameters: the mean over time, computed once, and one linear map."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmsa_core.noise import Dropout
from mmsa_core.plugin import Encoder
from mmsa_core.tensors import Features

CHUNK = 1024  # samples averaged at a time: the temporaries of a whole data set would need as much memory as the data


class MeanLinear(Encoder):
    """Encodes the mean over time by ``dropout`` and one Linear to ``dim``; blind to the order of frames.

    Meant for features of whole utterances and for few samples: dropout acts on the features themselves, where it works
    much like a ridge penalty. ``prepare`` turns [N, T, d] into [N, 1, d] once per data set. An empty sequence has a
    mean of 0.

    Source: averaged vectors and a linear map: Joulin et al., EACL 2017, arXiv:1607.01759; dropout of the inputs of a
    linear model: Wager et al., NeurIPS 2013, arXiv:1307.1493.
    """

    def __init__(self, inputs: int, *, dim: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        self.dim = dim
        self.dropout = Dropout(dropout)
        self.out = nn.Linear(inputs, dim)

    @staticmethod
    def prepare(features: Features) -> Features:
        parts = zip(torch.split(features.values, CHUNK), torch.split(features.mask, CHUNK), strict=True)
        means = torch.cat([_mean(values, mask) for values, mask in parts])
        return Features(means[:, None], features.mask.any(1, keepdim=True))

    def forward(self, features: Features) -> Float[Tensor, "batch {self.dim}"]:
        mean = torch.where(features.mask[:, :1], features.values[:, 0], torch.zeros_like(features.values[:, 0]))
        out: Tensor = self.out(self.dropout(mean))
        return out


def _mean(values: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"]) -> Float[Tensor, "batch dim"]:
    """Return the mean over the real frames; 0 for an empty sequence."""
    total = torch.where(mask[:, :, None], values, torch.zeros_like(values[:1, :1, :1])).sum(1)
    return total / mask.sum(1, keepdim=True).clamp(min=1)
