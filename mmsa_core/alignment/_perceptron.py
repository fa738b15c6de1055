"""The small network of the alignments that learn."""

from __future__ import annotations

from torch import nn


def perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return one hidden layer with ReLU and a linear output."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
