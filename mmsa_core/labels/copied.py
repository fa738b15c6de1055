"""Every unimodal head learns the multimodal label."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from mmsa_core.labels._table import constant, lookup
from mmsa_core.plugin import LabelGenerator
from mmsa_core.tensors import LabelTable, Outputs


class CopiedLabels(LabelGenerator):
    """Copy the multimodal label to every modality: plain multi-task learning, the control for generated labels.

    Source: the baseline of Yu et al., AAAI 2021, arXiv:2102.04830, section 4 (unimodal subtasks on the m-label).
    """

    def __init__(self, table: LabelTable, fused: int, post: int) -> None:
        super().__init__()
        self.table = constant(table.labels[:, None].expand(-1, table.modalities))

    def targets(
        self, rows: Int[Tensor, "batch"]
    ) -> tuple[Float[Tensor, "batch modality"], Float[Tensor, "batch modality"]]:
        return lookup(self.table, rows)

    def update(self, rows: Int[Tensor, "batch"], outputs: Outputs, epoch: Int[Tensor, ""]) -> None:
        """Nothing is learned."""
