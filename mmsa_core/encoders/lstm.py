"""LSTM over the frames, read at the last real one."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmsa_core.noise import Dropout
from mmsa_core.plugin import Encoder
from mmsa_core.recurrence import LastState
from mmsa_core.tensors import Features


class LSTMEncoder(Encoder):
    """One-directional one-layer LSTM; its last state goes through dropout and a linear layer to ``dim``.

    Padding is never read: it lies behind the last real frame. Values of padded frames are zeroed first, so that they
    may be anything.

    Source: Hochreiter and Schmidhuber, Neural Computation 1997; as the audio and vision subnets of Self-MM, Yu et al.,
    AAAI 2021, arXiv:2102.04830, section 3.2.
    """

    def __init__(self, inputs: int, *, dim: int = 32, hidden: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        self.dim = dim
        self.recurrence = LastState("lstm", inputs, hidden)
        self.dropout = Dropout(dropout)
        self.out = nn.Linear(hidden, dim)

    @staticmethod
    def prepare(features: Features) -> Features:
        """Return the frames as they are, padding zeroed."""
        return Features(torch.where(features.mask[..., None], features.values, 0.0), features.mask)

    def forward(self, features: Features) -> Float[Tensor, "batch {self.dim}"]:
        state = self.recurrence(features.values, features.mask)
        encoded: Tensor = self.out(self.dropout(state))
        return encoded
