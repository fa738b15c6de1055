"""Pairs of modalities in double precision, and what an alignment makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmsa_core import registry
from mmsa_core.plugin import Alignment
from mmsa_core.tensors import Pair

Array = NDArray[np.float64]


def build(name: str, dim_x: int, dim_y: int | None = None, **settings: Any) -> Alignment:
    torch.manual_seed(0)
    alignment: Alignment = registry.build("alignment", name, dim_x, dim_x if dim_y is None else dim_y, **settings)
    return alignment.double()


def make(rows: int = 11, dim_x: int = 4, dim_y: int = 4, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, dim_x))
    mixed = x @ rng.normal(size=(dim_x, dim_y)) * 0.5
    return x, mixed + rng.normal(size=(rows, dim_y)) + 0.7


def as_pair(x: Array, y: Array, labels: Array | None = None, joint: Array | None = None) -> Pair:
    """Return the pair with all rows valid; labels on a grid, as people give them, and a fused representation."""
    rng = np.random.default_rng(7)
    some, fused = rng.integers(-3, 4, len(x)) / 1.0, rng.normal(size=(len(x), 5))
    return Pair(
        torch.tensor(x),
        torch.tensor(y),
        torch.ones(len(x), dtype=torch.bool),
        torch.tensor(some if labels is None else labels),
        torch.tensor(fused if joint is None else joint),
    )


def value(alignment: Alignment, x: Array, y: Array, labels: Array | None = None, joint: Array | None = None) -> float:
    with torch.no_grad():
        return float(alignment(as_pair(x, y, labels, joint)))


def chance(alignment: Alignment, x: Array, y: Array, labels: Array | None = None, joint: Array | None = None) -> float:
    return float(alignment.chance(as_pair(x, y, labels, joint)))


def slopes(alignment: Alignment, pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients with respect to both modalities and to what is fused, zeros where there is none."""
    leaves = [t.clone().requires_grad_() for t in (pair.x, pair.y, pair.joint)]
    loss = alignment(pair._replace(x=leaves[0], y=leaves[1], joint=leaves[2]))
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    x, y, joint = (torch.zeros_like(v) if g is None else g for g, v in zip(found, leaves, strict=True))
    return x, y, joint


def orthogonal_matrix(dim: int, seed: int = 5) -> Array:
    q: Array = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]
    return q


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def log_softmax_at(logits: list[float], at: int) -> float:
    """Return the log of one entry's share in the softmax."""
    return float(logits[at] - np.log(np.sum(np.exp(np.array(logits)))))
