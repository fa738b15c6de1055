"""Smaller steps for the modality that is ahead of the others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mmsa_core.errors import UserError
from mmsa_core.noise import Normal
from mmsa_core.plugin import GradientWeighting, hyper

SMALLEST = 1e-30


class OgmGe(GradientWeighting):
    """Adds the tasks' gradients and damps that of the modalities whose unimodal tasks do better than the others'.

    With ``s_m = exp(-loss_m / high)`` and ``rho_m`` a modality's s over the mean of the other modalities', the gradient
    of its encoder and projection is scaled by ``1 - tanh(alpha rho_m)`` where ``rho_m > 1``, and normal noise of
    ``noise`` times its own standard deviation is added there (0 is OGM without GE). Equal losses change nothing.
    ``high`` is the largest label: 3 for MOSI and MOSEI, 1 for CH-SIMS.

    Deviations: the score is made of the unimodal task's own loss, whatever labels it has, instead of the probability
    of the right class, and a row without the modality counts as right; for three modalities the mean of the other two
    keeps balanced ones at rho = 1, where their sum would not; the noise comes with the damping alone, whose loss of
    gradient noise it makes up for (the authors' code adds it to every modality at every step), and has one deviation
    per modality instead of one per tensor.

    Source: Peng et al., CVPR 2022, arXiv:2203.15332, eq. 10, on-the-fly gradient modulation with generalization
    enhancement; the authors' code for the noise.
    """

    def __init__(self, tasks: tuple[str, ...], *, alpha: float = 0.3, noise: float = 1.0, high: float = 3.0) -> None:
        super().__init__()
        if high <= 0:
            raise UserError(f"ogm_ge.high: must be above 0, the largest label of the data, got {high}")
        self.alpha = hyper(alpha)
        self.noise = hyper(noise)
        self.high = hyper(high)
        self.normal = Normal()

    def forward(
        self, losses: Float[Tensor, "task"], gradients: Float[Tensor, "task all"], owners: Int[Tensor, "all"]
    ) -> Float[Tensor, "all"]:
        total = gradients.sum(0)
        ratio = self._ratio(losses[1:])
        ahead = ratio > 1
        scale = torch.where(ahead, 1 - torch.tanh(self.alpha * ratio), 1.0)
        spread = torch.where(ahead, self.noise * _deviation(total, owners, len(ratio)), 0.0)
        noise: Tensor = self.normal(tuple(total.shape))
        return _by_owner(scale, 1.0, owners) * total + _by_owner(spread, 0.0, owners) * noise

    def _ratio(self, losses: Float[Tensor, "modality"]) -> Float[Tensor, "modality"]:
        """Return rho by differences of losses: exactly 1 where they are equal, and finite for losses of any size."""
        if len(losses) < 2:
            return torch.ones_like(losses)
        behind = torch.exp((losses[:, None] - losses) / self.high)
        others = torch.where(torch.eye(len(losses), dtype=torch.bool, device=losses.device), 0.0, behind).sum(1)
        return (len(losses) - 1) / others.clamp(min=SMALLEST)


def _deviation(
    gradient: Float[Tensor, "all"], owners: Int[Tensor, "all"], modalities: int
) -> Float[Tensor, "modality"]:
    """Return the standard deviation of each modality's own gradient."""
    own = owners == torch.arange(modalities, device=owners.device)[:, None]
    count = own.sum(1).clamp(min=1)
    mean = torch.where(own, gradient, 0.0).sum(1) / count
    return (torch.where(own, gradient - mean[:, None], 0.0).square().sum(1) / count).sqrt()


def _by_owner(values: Float[Tensor, "modality"], otherwise: float, owners: Int[Tensor, "all"]) -> Float[Tensor, "all"]:
    """Return its owner's value for every parameter, ``otherwise`` where that is none (-1, so the last one)."""
    return F.pad(values, (0, 1), value=otherwise)[owners]
