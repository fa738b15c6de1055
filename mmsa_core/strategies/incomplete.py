"""Training on samples of which some modalities were never seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmsa_core.errors import UserError
from mmsa_core.noise import hashed, mix
from mmsa_core.plugin import Need, Strategy, hyper
from mmsa_core.strategies._views import kept
from mmsa_core.tensors import Batch, Outputs, Rows

SUBSETS = ("any", "single")


class Incomplete(Strategy):
    """Shows of each training sample the same random subset of its modalities in the whole training.

    With ``subsets: any`` each modality is shown with probability ``keep``, at least one that is available: where none
    would be, any of them with the same chance. With ``single`` it is exactly one, so that no two modalities are ever
    seen together; ``keep`` is idle then. The subset is a function of the sample's row and of ``draw`` alone: it is the
    same for every member and in every study of the same data. A higher ``keep`` shows more, never others.

    Predictions are the plain model's on whatever modalities there are, in combinations that training never had too.

    Source: Zhang et al., NeurIPS 2023, arXiv:2306.12795: training on modality-incomplete data. Only the protocol: its
    reorganised features are a fusion's affair, its pseudo-labels are left out.
    """

    forces: ClassVar[Mapping[str, Need]] = {}
    streams: ClassVar[bool] = False

    def __init__(self, modalities: tuple[str, ...], *, keep: float = 0.5, subsets: str = "any", draw: int = 0) -> None:
        super().__init__()
        if not 0 <= keep <= 1:
            raise UserError(f"incomplete.keep: must lie between 0 (one is shown) and 1 (all are), got {keep}")
        if subsets not in SUBSETS:
            raise UserError(f"incomplete.subsets: must be 'any' or 'single', got {subsets!r}")
        self.keep = hyper(keep)
        self.single = subsets == "single"
        self.keys = [mix("incomplete", draw, m) for m in modalities]

    def select(self, rows: Int[Tensor, "batch"], split: Rows) -> Int[Tensor, "batch"]:
        return rows

    def view(self, batch: Batch, rows: Int[Tensor, "batch"]) -> Batch:
        rate = 1.0 if self.single else 1 - self.keep
        return batch._replace(available=kept(self._draws(rows), rate, batch.available))

    def loss(
        self,
        model: Callable[[Batch], Outputs],
        batch: Batch,
        outputs: Outputs,
        labels: Float[Tensor, "batch"],
        rows: Int[Tensor, "batch"],
    ) -> Float[Tensor, ""]:
        return outputs.prediction.new_zeros(())

    def predict(self, model: Callable[[Batch], Outputs], batch: Batch) -> Float[Tensor, "batch"]:
        return model(batch).prediction

    def _draws(self, rows: Int[Tensor, "batch"]) -> Float[Tensor, "batch modality"]:
        """Return a number in [0, 1) for every modality of every row."""
        bits = [hashed(rows.int(), rows.new_full((), key, dtype=torch.int32)) for key in self.keys]
        return (torch.stack(bits, 1) >> 7).float() / 2**24
