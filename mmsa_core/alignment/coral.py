"""Covariance matching (Deep CORAL): the shared-information term of the paper this project reproduces."""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from mmsa_core.alignment._moments import covariance, detached, guarded
from mmsa_core.plugin import Alignment
from mmsa_core.tensors import Pair


class Coral(Alignment):
    """Matches the covariance matrices of two modalities: ``||Cx - Cy||_F^2 / (4 d^2)`` with unbiased covariances.

    Blind to pairing (shuffling one modality's rows changes nothing), to means and to what leaves the covariances alone;
    its minimum includes collapse, and a negative weight makes it unbounded below (see ``coral_private``). Raw values
    are tiny: 1 / (4 d^2) is 2.4e-4 at d = 32. With a batch of n rows the covariances have rank n - 1 at most.

    ``chance`` is ``(||Cx||^2 + ||Cy||^2) / (4 d^2)``: two modalities that vary in orthogonal directions. Unrelated
    features of like variance come out lower (about ``d / (n + d)`` for white noise), as pairing does not count here.

    Source: Sun and Saenko, ECCV Workshops 2016, arXiv:1607.01719, eq. 1; for pairs of modalities: Lai et al., IJCNN
    2024, arXiv:2305.08473 (that it keeps the factor 1 / (4 d^2) is our assumption).
    """

    role: ClassVar[Literal["shared", "private"]] = "shared"
    equal_dims: ClassVar[bool] = True

    def __init__(self, dim_x: int, dim_y: int) -> None:
        super().__init__()
        self.factor = 1 / (4 * dim_x**2)

    def forward(self, pair: Pair) -> Float[Tensor, ""]:
        gap = covariance(pair.x, pair.valid) - covariance(pair.y, pair.valid)
        return guarded(self.factor * gap.square().sum(), pair.valid)

    def chance(self, pair: Pair) -> Float[Tensor, ""]:
        x, y, valid, *_ = detached(pair)
        return (self.factor * (covariance(x, valid).square().sum() + covariance(y, valid).square().sum())).clamp(1e-8)
