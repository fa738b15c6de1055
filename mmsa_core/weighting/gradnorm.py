"""Task weights that keep the tasks' gradients at norms which follow how fast each task learns."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmsa_core.plugin import GradientWeighting, hyper

SMALLEST = 1e-3


class GradNorm(GradientWeighting):
    """Weighs the tasks so that one which learns more slowly than the others has a larger gradient.

    With G_i the norm of a task's weighted gradient over what tasks share (encoders and projections), its target is
    ``mean(G) r_i^alpha``, where r_i is its loss, relative to its first, over the mean of these ratios. After each step
    the weights go one step of size ``rate`` down ``sum_i |G_i - target_i|`` and are scaled back to their sum, which is
    the number of tasks. With ``alpha`` 0 all norms should be equal.

    A task whose loss is 0 keeps its weight and is left out of means and sums; its first loss is the first above 0 (with
    Self-MM's labels the unimodal tasks begin in epoch 3). Deviations: the objective's slope, which is
    ``sign(G_i - target_i) |g_i|`` with the target held fixed, is taken in closed form, so that no second pass backward
    is needed, and without Adam; the norms are over all encoders and projections, because the tasks have no last common
    layer; weights stay above 0.

    Source: Chen et al., ICML 2018, arXiv:1711.02257, algorithm 1.
    """

    def __init__(self, tasks: tuple[str, ...], *, alpha: float = 1.5, rate: float = 0.025) -> None:
        super().__init__()
        self.alpha = hyper(alpha)
        self.rate = hyper(rate)
        self.weights = nn.Buffer(torch.ones(len(tasks)))
        self.first = nn.Buffer(torch.zeros(len(tasks)))

    def forward(
        self, losses: Float[Tensor, "task"], gradients: Float[Tensor, "task all"], owners: Int[Tensor, "all"]
    ) -> Float[Tensor, "all"]:
        balanced: Tensor = self.weights @ gradients
        norms = torch.where(owners >= 0, gradients, 0.0).norm(dim=1)
        self._learn(losses, norms, losses > 0)
        return balanced

    def _learn(self, losses: Float[Tensor, "task"], norms: Float[Tensor, "task"], active: Bool[Tensor, "task"]) -> None:
        self.first.copy_(torch.where(active & (self.first == 0), losses, self.first))
        left = losses / self.first
        relative = left / _mean(left, active)
        weighted = self.weights * norms
        target = _mean(weighted, active) * relative**self.alpha
        moved = (self.weights - self.rate * torch.sign(weighted - target) * norms).clamp(min=SMALLEST)
        scaled = moved * _mean(self.weights, active) / _mean(moved, active)
        self.weights.copy_(torch.where(active, scaled, self.weights))


def _mean(values: Float[Tensor, "task"], chosen: Bool[Tensor, "task"]) -> Float[Tensor, ""]:
    """Return the mean of the chosen values, whatever the others are."""
    return torch.where(chosen, values, 0.0).sum() / chosen.sum()
