"""Gaussians of a small multimodal variational autoencoder: experts, their product with the prior, and decoders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmsa_core.alignment._perceptron import perceptron

LIMIT = 4.0  # log variances stay within +-LIMIT: a density without bound would reward an exact copy without end


class Gaussian(NamedTuple):
    """A Gaussian over the latent dimensions, which are independent."""

    mean: Float[Tensor, "*rows latent"]
    precision: Float[Tensor, "*rows latent"]

    def at(self, noise: Float[Tensor, "*rows latent"]) -> Float[Tensor, "*rows latent"]:
        """Return the value that standard normal ``noise`` stands for."""
        return self.mean + noise * self.precision.rsqrt()

    def divergence(self) -> Float[Tensor, "*rows"]:
        """Return KL(this || N(0, I)) in nats."""
        return (1 / self.precision + self.mean.square() - 1 + self.precision.log()).sum(-1) / 2


def product(experts: Sequence[Gaussian]) -> Gaussian:
    """Return the product of the experts and the prior N(0, I), normalised: precisions add.

    An expert left out is a modality that is missing.

    Source: Wu and Goodman, NeurIPS 2018, arXiv:1802.05335.
    """
    precision = 1 + torch.stack([e.precision for e in experts]).sum(0)
    return Gaussian(torch.stack([e.mean * e.precision for e in experts]).sum(0) / precision, precision)


class Expert(nn.Module):
    """What one modality says of the latent variable."""

    def __init__(self, dim: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.body = perceptron(dim, hidden, 2 * latent)

    def forward(self, values: Float[Tensor, "*rows dim"]) -> Gaussian:
        mean, spread = self.body(values).chunk(2, -1)
        return Gaussian(mean, bounded(-spread).exp())


class Decoder(nn.Module):
    """A Gaussian over one modality given the latent variable, with a learned log variance per dimension."""

    def __init__(self, latent: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.body = perceptron(latent, hidden, dim)
        self.spread = nn.Parameter(torch.zeros(dim))

    def forward(self, z: Float[Tensor, "*rows latent"], target: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows"]:
        """Return the log density of ``target``, in nats."""
        log_variance = bounded(self.spread)
        error = (target - self.body(z)).square() * torch.exp(-log_variance)
        nats: Tensor = (error + log_variance + math.log(2 * math.pi)).sum(-1) / 2
        return -nats

    def highest(self) -> float:
        """Return what no log density exceeds: no error, and the smallest variance."""
        return len(self.spread) * (LIMIT - math.log(2 * math.pi)) / 2


def least(squares: Float[Tensor, "dim"]) -> Float[Tensor, "dim"]:
    """Return by how much a decoder that knows the mean alone falls short of :meth:`Decoder.highest` in a dimension.

    ``squares`` are the mean squared deviations; the best variance is theirs, or the smallest there is.
    """
    smallest = math.exp(-LIMIT)
    return torch.where(
        squares > smallest, (1 + squares.clamp(min=smallest).log() + LIMIT) / 2, squares / (2 * smallest)
    )


def bounded(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return ``values`` near 0, and at most ``LIMIT`` of either sign; unlike a clamp's, its gradient never ends."""
    return LIMIT * torch.tanh(values / LIMIT)
