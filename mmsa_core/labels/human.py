"""Unimodal labels that people gave, as in CH-SIMS."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from mmsa_core.errors import UserError
from mmsa_core.labels._table import constant, lookup
from mmsa_core.plugin import LabelGenerator
from mmsa_core.tensors import LabelTable, Outputs


class HumanLabels(LabelGenerator):
    """Use the data set's own unimodal labels (``regression_labels_T``, ``_A`` and ``_V``).

    Raises:
        UserError: the data set has none.

    Source: Yu et al., ACL 2020, "CH-SIMS: A Chinese Multimodal Sentiment Analysis Dataset with Fine-grained Annotation
    of Modality" (the MTFN, MLMF and MLF-DNN baselines).
    """

    def __init__(self, table: LabelTable, fused: int, post: int) -> None:
        super().__init__()
        if table.unimodal is None:
            raise UserError(
                "labels: 'human' needs regression_labels_T, _A and _V of the modalities in use, and the data has none; "
                "use 'ulgm', 'copied' or 'none'"
            )
        self.table = constant(table.unimodal)

    def targets(
        self, rows: Int[Tensor, "batch"]
    ) -> tuple[Float[Tensor, "batch modality"], Float[Tensor, "batch modality"]]:
        return lookup(self.table, rows)

    def update(self, rows: Int[Tensor, "batch"], outputs: Outputs, epoch: Int[Tensor, ""]) -> None:
        """Nothing is learned."""
