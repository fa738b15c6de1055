"""Matching whole distributions with a kernel."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmsa_core.alignment._moments import centred, detached, guarded, mean_distance, square_distances
from mmsa_core.plugin import Alignment, hyper
from mmsa_core.tensors import Pair


class MMD(Alignment):
    """Matches the distributions of two modalities: the squared maximum mean discrepancy, biased estimate, in [0, 2].

    The kernel is the mean of ``kernels`` Gaussians ``exp(-|a - b|^2 / s)``; s is ``bandwidth`` times the mean squared
    distance of the pooled batch, times 2^-2 .. 2^2 for five kernels. So its value is free of scale; its gradient, which
    takes s as given, still rewards shrinking both modalities. Blind to pairing. Means within a modality include i = j.

    ``chance`` is ``mean Kxx + mean Kyy``: no overlap at all. As the kernel's width follows the gap, modalities however
    far apart reach about 0.75 of it with the defaults; unrelated features of like distribution come out near 0.

    Source: Gretton et al., JMLR 13, 2012; several bandwidths: Long et al., ICML 2015, arXiv:1502.02791.
    """

    role: ClassVar[Literal["shared", "private"]] = "shared"
    equal_dims: ClassVar[bool] = True

    def __init__(self, dim_x: int, dim_y: int, *, kernels: int = 5, bandwidth: float = 1.0) -> None:
        super().__init__()
        self.kernels = kernels
        self.bandwidth = hyper(bandwidth)

    def forward(self, pair: Pair) -> Float[Tensor, ""]:
        xx, yy, xy = self._means(pair)
        return guarded(xx + yy - 2 * xy, pair.valid)

    def chance(self, pair: Pair) -> Float[Tensor, ""]:
        xx, yy, _ = self._means(detached(pair))
        return (xx + yy).clamp(1e-3)

    def _means(self, pair: Pair) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the mean kernel within x, within y and between them."""
        valid = torch.cat([pair.valid, pair.valid])
        both = valid[:, None] & valid
        pooled = centred(torch.cat([pair.x, pair.y]), valid)
        distances = square_distances(pooled, pooled)
        scaled = distances / (mean_distance(distances, valid) * self.bandwidth)
        powers = [2.0 ** (k - self.kernels // 2) for k in range(self.kernels)]
        kernel = torch.stack([torch.exp(-scaled / p) for p in powers]).mean(0)
        kernel = torch.where(both, kernel, torch.zeros_like(kernel))
        n, size = pair.valid.sum().clamp(min=1), pair.x.shape[0]
        within_x, within_y = kernel[:size, :size].sum(), kernel[size:, size:].sum()
        return within_x / n**2, within_y / n**2, kernel[:size, size:].sum() / n**2
