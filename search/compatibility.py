"""Choices that decide others: a strategy that works with one fusion alone, task weights where there is one task."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from mmsa_core.config import NONE

DECIDING = ("strategy", "labels")
"""The places whose choice decides others; they are drawn first."""


@cache
def decided(place: str, arm: str) -> Mapping[str, str | None]:
    """Return what choosing ``arm`` at ``place`` decides: place -> arm, or None for whatever the default is there.

    A place without a pair (``alignment``) stands for every pair of modalities.
    """
    if place == "labels" and arm == NONE:
        return {"weighting": None}  # there is one task: nothing to weigh
    if place == "strategy" and arm != NONE:
        from mmsa_core import registry

        return {at: need.arm for at, need in registry.load("strategies", arm).forces.items()}
    return {}
