"""Task weights that are learned as the noise of each task."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmsa_core.plugin import Weighting, hyper


class Uncertainty(Weighting):
    """Adds the task losses, each divided by its own learned noise scale: ``sum_i exp(-s_i) L_i + s_i``.

    This is the negative log-likelihood of a Laplace error with scale ``exp(s)``, which belongs to absolute errors (a
    Gaussian would have ``exp(-s) L / 2 + s / 2`` with squared ones), up to a constant. The optimum is ``s = log L``, so
    fixed weights beside it are absorbed; the sum may be negative. ``s`` starts at 0 and is bounded smoothly to
    (-``limit``, ``limit``): beyond a hard clamp it would have no gradient and never return. A task whose loss is
    exactly 0 costs nothing and does not move its ``s``: with Self-MM's labels that is every unimodal task at first.

    Source: Kendall et al., CVPR 2018, arXiv:1705.07115, eq. 7 with a Laplace likelihood.
    """

    def __init__(self, tasks: tuple[str, ...], *, limit: float = 3.0) -> None:
        super().__init__()
        self.limit = hyper(limit)
        self.raw = nn.Parameter(torch.zeros(len(tasks)))

    def forward(self, losses: Float[Tensor, "task"]) -> Float[Tensor, ""]:
        s = self.limit * torch.tanh(self.raw / self.limit)
        return torch.where(losses != 0, torch.exp(-s) * losses + s, torch.zeros_like(losses)).sum()
