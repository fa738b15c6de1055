"""Covariance matching along the manifold of covariance matrices."""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from mmsa_core.alignment._logm import log_matrix
from mmsa_core.alignment._moments import covariance, detached, guarded
from mmsa_core.plugin import Alignment, hyper
from mmsa_core.tensors import Pair


class LogCoral(Alignment):
    """Matches the logarithms of the covariance matrices: ``||log(Cx + eps I) - log(Cy + eps I)||_F^2 / (4 d^2)``.

    Blind to pairing and means, like ``coral``, but small variances count as much as large ones. A batch of n rows gives
    covariances of rank n - 1, so with n <= d ``eps`` (in units of variance, above 0) decides what the rest is worth.
    The gradient uses divided differences of the logarithm, so equal eigenvalues do no harm.

    ``chance`` is the mean over all rotations of one modality: unrelated principal directions, given spectra. Modalities
    that vary in disjoint directions come out at up to 2.

    Source: Morerio et al., ICLR 2018, arXiv:1711.10288; Wang et al., 2017, arXiv:1707.09842.
    """

    role: ClassVar[Literal["shared", "private"]] = "shared"
    equal_dims: ClassVar[bool] = True

    def __init__(self, dim_x: int, dim_y: int, *, eps: float = 1e-3) -> None:
        super().__init__()
        self.dim = dim_x
        self.eps = hyper(eps)

    def forward(self, pair: Pair) -> Float[Tensor, ""]:
        gap = self._log(pair.x, pair) - self._log(pair.y, pair)
        return guarded(gap.square().sum() / (4 * self.dim**2), pair.valid)

    def chance(self, pair: Pair) -> Float[Tensor, ""]:
        fixed = detached(pair)
        lx, ly = self._log(fixed.x, fixed), self._log(fixed.y, fixed)
        aligned = 2 * lx.trace() * ly.trace() / self.dim
        return ((lx.square().sum() + ly.square().sum() - aligned) / (4 * self.dim**2)).clamp(1e-6)

    def _log(self, values: Float[Tensor, "batch dim"], pair: Pair) -> Float[Tensor, "dim dim"]:
        return log_matrix(covariance(values, pair.valid), self.eps)
