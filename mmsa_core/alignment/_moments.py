"""Masked moments shared by the alignments: rows that are not valid are replaced before any arithmetic touches them.

What has no direction is found by ``<=``, never by ``not >``: NaN in a valid row must stay NaN: divergence must show.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmsa_core.tensors import Pair

TINY = 1e-16  # squared length below which a vector counts as zero: its direction would be rounding noise
CONSTANT = 1e-10  # a column whose variance is below this share of its mean square is constant in float32


def detached(pair: Pair) -> Pair:
    """Return the pair without gradient, for ``chance``."""
    return pair._replace(x=pair.x.detach(), y=pair.y.detach(), joint=pair.joint.detach())


def count(pair: Pair) -> Float[Tensor, ""]:
    """Return the number of valid rows."""
    return pair.valid.sum().to(pair.x.dtype)


def guarded(value: Float[Tensor, ""], valid: Bool[Tensor, "batch"]) -> Float[Tensor, ""]:
    """Return ``value``, or 0 without gradient where fewer than two rows are valid."""
    return torch.where(valid.sum() >= 2, value, torch.zeros_like(value))


def rows(values: Float[Tensor, "batch dim"], valid: Bool[Tensor, "batch"]) -> Float[Tensor, "batch dim"]:
    """Return ``values`` with zeros in the rows that are not valid."""
    return torch.where(valid[:, None], values, torch.zeros_like(values))


def mean(values: Float[Tensor, "batch dim"], valid: Bool[Tensor, "batch"]) -> Float[Tensor, "dim"]:
    """Return the mean over the valid rows; 0 where there are none."""
    return rows(values, valid).sum(0) / valid.sum().clamp(min=1)


def average(values: Float[Tensor, "batch"], valid: Bool[Tensor, "batch"]) -> Float[Tensor, ""]:
    """Return the mean of one value per row over the valid rows; 0 where there are none."""
    return torch.where(valid, values, torch.zeros_like(values)).sum() / valid.sum().clamp(min=1)


def centred(values: Float[Tensor, "batch dim"], valid: Bool[Tensor, "batch"]) -> Float[Tensor, "batch dim"]:
    """Return the valid rows less their mean.

    Constant columns become exactly 0, with no gradient: what rounding leaves of them must not be normalised into noise.
    """
    kept = rows(values, valid)
    moved = rows(values - mean(values, valid), valid)
    constant = moved.square().sum(0) <= CONSTANT * kept.square().sum(0) + TINY
    return torch.where(constant, torch.zeros_like(moved), moved)


def covariance(values: Float[Tensor, "batch dim"], valid: Bool[Tensor, "batch"]) -> Float[Tensor, "dim dim"]:
    """Return the unbiased covariance over the valid rows."""
    moved = centred(values, valid)
    return moved.T @ moved / (valid.sum() - 1).clamp(min=1)


def cross_covariance(pair: Pair) -> Float[Tensor, "dim_x dim_y"]:
    """Return the unbiased cross-covariance over the valid rows."""
    return centred(pair.x, pair.valid).T @ centred(pair.y, pair.valid) / (pair.valid.sum() - 1).clamp(min=1)


def root(square: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the square root, with gradient 0 instead of infinity at 0."""
    dead = square <= TINY**2
    return torch.where(dead, torch.zeros_like(square), torch.where(dead, torch.ones_like(square), square).sqrt())


def norm(matrix: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the Frobenius norm, with gradient 0 at 0."""
    return root(matrix.square().sum())


def unit(values: Float[Tensor, "a b"], dim: int) -> Float[Tensor, "a b"]:
    """Return ``values`` scaled to length 1 along ``dim``; what has no length stays 0, with no gradient."""
    square = values.square().sum(dim, keepdim=True)
    dead = square <= TINY
    scale = torch.where(dead, torch.zeros_like(square), torch.where(dead, torch.ones_like(square), square).rsqrt())
    return values * scale


def ratio(top: Float[Tensor, ""], bottom: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return ``top / bottom``, or 0 where ``bottom`` is 0."""
    dead = bottom <= TINY**2
    return torch.where(dead, torch.zeros_like(top), top / torch.where(dead, torch.ones_like(bottom), bottom))


def square_distances(a: Float[Tensor, "n dim"], b: Float[Tensor, "m dim"]) -> Float[Tensor, "n m"]:
    """Return all squared Euclidean distances; centre the rows first, or cancellation costs digits."""
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0)


def mean_distance(distances: Float[Tensor, "n n"], valid: Bool[Tensor, "n"]) -> Float[Tensor, ""]:
    """Return the mean squared distance between different valid rows, without gradient and above 0."""
    both = valid[:, None] & valid
    n = valid.sum()
    total = torch.where(both, distances.detach(), torch.zeros_like(distances)).sum()
    return (total / (n * (n - 1)).clamp(min=1)).clamp(min=TINY)
