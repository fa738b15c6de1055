"""How far off several predictors are, and what each should count when they are combined."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

MEMORY = 0.95
"""What an error still counts a step later."""
PRIOR = 1e-6
"""Samples with an error of 1 to begin with: all predictors are alike until something is known of them."""
SMALLEST = 1e-6


class ErrorScales(nn.Module):
    """The running mean of each predictor's absolute error, over the steps in which it answered."""

    def __init__(self, predictors: int) -> None:
        super().__init__()
        self.errors = nn.Buffer(torch.full((predictors,), PRIOR))
        self.counts = nn.Buffer(torch.full((predictors,), PRIOR))

    def update(self, errors: Float[Tensor, "batch predictor"], counted: Bool[Tensor, "batch predictor"]) -> None:
        """Learn from the absolute errors that are ``counted``, in place."""
        with torch.no_grad():
            forget = torch.where(counted.any(0), MEMORY, 1.0)
            self.errors.mul_(forget).add_(torch.where(counted, errors, torch.zeros_like(errors)).sum(0))
            self.counts.mul_(forget).add_(counted.sum(0))

    def weights(
        self, there: Bool[Tensor, "batch predictor"], sharpness: Float[Tensor, ""] | float
    ) -> Float[Tensor, "batch predictor"]:
        """Return weights in proportion to scale^-sharpness over the predictors that are ``there``, all alike where none
        is; they sum to 1."""
        scores = -sharpness * (self.errors / self.counts).clamp(min=SMALLEST).log()
        return torch.where(there, scores, torch.finfo(scores.dtype).min).softmax(1)
