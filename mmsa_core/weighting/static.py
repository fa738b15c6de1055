"""Task weights that are set, not learned."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mmsa_core.plugin import Weighting, hyper


class Static(Weighting):
    """Adds the task losses with fixed weights: 1 for fusion, ``text``, ``audio`` and ``vision`` for the unimodal tasks.

    Only ratios matter to the optimum, so fusion is fixed at 1. Weights of tasks that are not trained have no effect.
    Self-MM has 1 throughout, with label-dependent weights inside its losses.

    Source: Yu et al., AAAI 2021, arXiv:2102.04830 (Self-MM).
    """

    def __init__(self, tasks: tuple[str, ...], *, text: float = 0.3, audio: float = 0.3, vision: float = 0.3) -> None:
        super().__init__()
        self.tasks = tasks
        self.text = hyper(text)
        self.audio = hyper(audio)
        self.vision = hyper(vision)

    def forward(self, losses: Float[Tensor, "task"]) -> Float[Tensor, ""]:
        weights = {"fusion": torch.ones_like(self.text), "text": self.text, "audio": self.audio, "vision": self.vision}
        return losses @ torch.stack([weights[task] for task in self.tasks])
