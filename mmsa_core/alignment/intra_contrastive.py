"""Telling a sample's other modality from everything else, the rest of its own modality included."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmsa_core.alignment._kinds import ConditionalAlignment, Need
from mmsa_core.alignment._moments import average, count, detached, guarded
from mmsa_core.alignment._similarity import among, both_valid, cosines, different
from mmsa_core.plugin import hyper
from mmsa_core.tensors import Pair


class IntraContrastive(ConditionalAlignment):
    """Makes each row find its partner among both modalities' rows: NT-Xent, with in-modality negatives too.

    The row is compared with all n rows of the other modality and the n - 1 others of its own, by cosines divided by
    ``temperature``; both directions are averaged. So partners must be closer than any two samples of one modality:
    unlike ``contrastive``, it does not rest while the modalities lie apart. Uses pairing; free of scale.

    ``chance`` is log(2 n - 1), the guess, which constant equal features reach. Modalities with other means do worse:
    rows resemble their own modality first.

    Source: MCLEA's intra-modal contrastive loss (ICL), Lin et al., COLING 2022, arXiv:2209.00891; Chen et al., ICML
    2020, arXiv:2002.05709. Its two knowledge graphs are the pair's two modalities here.
    """

    role: ClassVar[Literal["shared", "private"]] = "shared"
    equal_dims: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"common mean"})

    def __init__(self, dim_x: int, dim_y: int, *, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = hyper(temperature)

    def forward(self, pair: Pair) -> Float[Tensor, ""]:
        loss = self._find(pair.x, pair.y, pair) + self._find(pair.y, pair.x, pair)
        return guarded(loss / 2, pair.valid)

    def chance(self, pair: Pair) -> Float[Tensor, ""]:
        return (2 * count(detached(pair)).clamp(min=2) - 1).log()

    def _find(self, own: Float[Tensor, "batch dim"], other: Float[Tensor, "batch dim"], pair: Pair) -> Tensor:
        """Return the cross-entropy of finding the partner of each row of ``own``."""
        valid = pair.valid
        across = among(cosines(own, other, valid) / self.temperature, both_valid(valid))
        within = among(cosines(own, own, valid) / self.temperature, different(valid))
        return average(-torch.cat([across, within], 1).log_softmax(1).diagonal(), valid)
