"""Predictions of trained members: inference only, for evaluation, export and prediction."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, vmap

from mmsa_core.config import MemberConfig
from mmsa_core.data.split import Split
from mmsa_core.loader import SplitTensors, take, widths
from mmsa_core.model import SentimentModel
from mmsa_core.population import stackable

ROWS = 512


def predict(config: MemberConfig, states: Mapping[str, Tensor], split: Split) -> NDArray[np.float32]:
    """Return predictions [member, row] of members of one completed configuration.

    ``states`` are the stacked parameters and settings of :class:`SentimentModel` (leading member axis), and ``split``
    is scaled as in training.
    """
    return predict_rows(config, states, SplitTensors(split, torch.device("cpu")))


def predict_rows(config: MemberConfig, states: Mapping[str, Tensor], data: SplitTensors) -> NDArray[np.float32]:
    """Return what :func:`predict` does for a split that is made into tensors on the CPU already."""
    batch = data.batch(config)
    model = SentimentModel(config, widths(batch, config)).eval()

    def one(state: dict[str, Tensor]) -> Tensor:
        chunks = (slice(start, start + ROWS) for start in range(0, len(data), ROWS))
        return torch.cat([functional_call(model, state, (take(batch, c),)).prediction for c in chunks])

    with torch.no_grad():
        if stackable(config):
            return vmap(one)(dict(states)).numpy()
        members = len(next(iter(states.values())))
        return torch.stack([one({n: t[k] for n, t in states.items()}) for k in range(members)]).numpy()
