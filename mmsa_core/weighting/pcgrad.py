"""Task gradients that do not pull against each other."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmsa_core.noise import Uniform
from mmsa_core.plugin import GradientWeighting


class PCGrad(GradientWeighting):
    """Adds the tasks' gradients after taking out of each what goes against another one.

    Where ``g_i . g_j < 0``, ``g_i`` loses its part along ``g_j``, for one other task j after the other, in an order
    that every task draws anew at every step; the ``g_j`` are the original ones. Without a conflict it is the plain sum.

    It acts on what tasks can share: encoders and projections. Anything else belongs to one task and has the plain sum,
    as in the paper; the authors' code projects whole gradients, which turns a head against its own task and lets the
    size of the heads' gradients soften the projection of the rest (and its shuffle has no effect).

    Source: Yu et al., NeurIPS 2020, arXiv:2001.06782, algorithm 1 (PCGrad).
    """

    def __init__(self, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.uniform = Uniform()

    def forward(
        self, losses: Float[Tensor, "task"], gradients: Float[Tensor, "task all"], owners: Int[Tensor, "all"]
    ) -> Float[Tensor, "all"]:
        shared = owners >= 0
        own = torch.where(shared, gradients, 0.0)
        count = self._projected(own @ own.T).sum(0)
        return torch.where(shared, count @ gradients, gradients.sum(0))

    def _projected(self, products: Float[Tensor, "task task"]) -> Float[Tensor, "task task"]:
        """Return every task's projected gradient as a combination of the original ones, of which the products are."""
        tasks = torch.arange(len(products), device=products.device)
        order = self.uniform((len(tasks), len(tasks))).argsort(1)
        itself = tasks[:, None] == tasks
        made = itself.to(products.dtype)
        for turn in order.unbind(1):
            met = turn[:, None] == tasks
            along = torch.where(met, made @ products, 0.0).sum(1)
            square = torch.where(met, products.diagonal(), 0.0).sum(1)
            conflict = (along < 0) & (square > 0) & ~(met & itself).any(1)
            part = torch.where(conflict, along / square, 0.0)
            made = made - part[:, None] * met
        return made
