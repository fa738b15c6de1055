"""Missing modalities are data: whatever their values hold, no loss, gradient or prediction of any plug-in sees it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mmsa_core.config import MemberConfig
from mmsa_core.loader import SplitTensors, widths
from mmsa_core.model import Member
from mmsa_core.noise import salt_layers
from tests.members import member
from tests.test_population import every, with_plugin

Splits = tuple[SplitTensors, SplitTensors]


def poisoned(train: SplitTensors, junk: float) -> SplitTensors:
    """Return the split with ``junk`` in all that is no real frame, missing modalities included."""
    split = train.split
    features = {m: np.where(split.real_rows(m)[:, :, None], f, np.float32(junk)) for m, f in split.features.items()}
    return SplitTensors(replace(split, features=features), torch.device("cpu"))


def learned(config: MemberConfig, train: SplitTensors) -> tuple[Tensor, list[Tensor], Tensor]:
    """Return the loss and gradients of a training step on all rows, and the predictions afterwards."""
    data = train.batch(config)
    torch.manual_seed(0)
    made = Member(config, widths(data, config), train.table(config), train.rows)
    salt_layers(made)
    losses = made(data, torch.arange(len(train)), train.labels, torch.tensor(3))
    gradients = torch.autograd.grad(losses.sum(), list(made.parameters()), allow_unused=True)
    made.eval()
    with torch.no_grad():
        return losses.detach(), [g for g in gradients if g is not None], made.model(data).prediction


@every
@pytest.mark.parametrize("junk", [float("nan"), 1e9])
def test_what_is_missing_never_matters(splits: Splits, kind: str, name: str, junk: float) -> None:
    train, _ = splits
    config = member(1, **with_plugin(kind, name, 1)).config
    available = train.batch(config).available
    assert not available.all() and available.any(0).all()
    losses, gradients, predictions = learned(config, train)
    other, other_gradients, other_predictions = learned(config, poisoned(train, junk))
    assert torch.isfinite(losses).all() and torch.equal(losses, other)
    assert torch.isfinite(predictions).all() and torch.equal(predictions, other_predictions)
    for g, o in zip(gradients, other_gradients, strict=True):
        assert torch.isfinite(g).all() and torch.equal(g, o)
