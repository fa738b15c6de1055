"""Small members for the tests of training: every kind of module, and optimiser settings that differ between members."""

from __future__ import annotations

from typing import Any

from mmsa_core.config import MemberConfig
from mmsa_core.model import complete
from mmsa_core.population import MemberSpec


def plain(**changes: Any) -> dict[str, Any]:
    """Return a small configuration with dropout, an alignment and Self-MM's labels; ``changes`` replace its parts."""
    return {
        "encoders": {
            "text": {"name": "pool", "dim": 8, "hidden": 8, "dropout": 0.1},
            "audio": {"name": "lstm", "dim": 8, "hidden": 8},
            "vision": {"name": "pool", "dim": 8, "hidden": 8},
        },
        "alignment": {"audio-vision": {"name": "coral", "weight": 0.2}},
        "labels": "ulgm",
        "heads": {"dim": 8, "dropout": 0.1},
        "optimizer": {"lr": 5e-3},
        "width": 8,
        "batch_size": 16,
        "epochs": 4,
        **changes,
    }


def member(seed: int, **changes: Any) -> MemberSpec:
    return MemberSpec(complete(MemberConfig.from_dict(plain(**changes))), seed)


def several(count: int, **changes: Any) -> list[MemberSpec]:
    """Return members of one signature; each has its own optimiser settings, and members 0 and 1 share their seed."""
    return [member(max(k, 1), optimizer=optimizer(k), **changes) for k in range(count)]


def optimizer(k: int) -> dict[str, float]:
    """Return the optimiser settings of the ``k``-th member: other rates, decay and clip for each."""
    return {"lr": 2e-3 * (1 + k % 5), "weight_decay": 0.01 * (k % 3), "clip": 0.2 + 0.4 * (k % 4)}
