"""Members that train by a strategy, on a few samples of which modalities are missing, step by step."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmsa_core import registry
from mmsa_core.config import MODALITIES, MemberConfig
from mmsa_core.loader import take
from mmsa_core.model import Member, complete
from mmsa_core.noise import Noise, salt_layers
from mmsa_core.tensors import Batch, Features, LabelTable, Rows

WIDTHS = {"text": 5, "audio": 3, "vision": 4}
TIME = {"text": 1, "audio": 6, "vision": 5}


class Data(NamedTuple):
    """A training split: rows with labels first."""

    batch: Batch
    labels: Tensor
    rows: Rows


def parts(name: str, **settings: Any) -> dict[str, Any]:
    """Return the parts of a configuration that train by a strategy: itself, and what it needs at other places."""
    needs = registry.load("strategies", name).forces
    forced: dict[str, Any] = {at: {} if at == "alignment" else need.arm for at, need in needs.items()}
    return {**forced, "strategy": {"name": name, **settings}}


def make_data(
    modalities: tuple[str, ...] = MODALITIES, labeled: int = 24, unlabeled: int = 0, missing: bool = True, seed: int = 0
) -> Data:
    """Return rows in which every subset of the modalities occurs (with ``missing``), also none at all."""
    g = torch.Generator().manual_seed(seed)
    count = labeled + unlabeled
    subsets = (torch.arange(count)[:, None] >> torch.arange(len(modalities)) & 1).bool()
    available = ~subsets if missing else torch.ones_like(subsets)
    features = []
    for k, m in enumerate(modalities):
        lengths = torch.randint(1, TIME[m] + 1, (count,), generator=g) * available[:, k]
        mask = torch.arange(TIME[m]) < lengths[:, None]
        features.append(Features(torch.randn(count, TIME[m], WIDTHS[m], generator=g) * mask[:, :, None], mask))
    labels = torch.randn(count, generator=g) * (torch.arange(count) < labeled)
    return Data(Batch(tuple(features), available), labels, Rows(labeled, unlabeled, torch.arange(count) // 5))


def make_member(strategy: str, data: Data, modalities: tuple[str, ...] = MODALITIES, /, **settings: Any) -> Member:
    """Return a member in training with a small attention encoder for every modality; ``changes`` are of its
    configuration, all others the strategy's."""
    changes = settings.pop("changes", {})
    tree = {
        "encoders": {m: {"name": "attention", "dim": 8, "hidden": 8, "heads": 2} for m in modalities},
        "width": 8,
        "heads": {"dim": 8, "dropout": 0.0},
        "fusion": "sum",
        **({} if strategy == "none" else parts(strategy, **settings)),
        **changes,
    }
    config = complete(MemberConfig.from_dict(tree))
    table = LabelTable(data.labels[: data.rows.labeled], None, len(modalities))
    torch.manual_seed(0)
    member = Member(config, {m: WIDTHS[m] for m in modalities}, table, data.rows).train()
    salt_layers(member)
    return member


def set_key(module: torch.nn.Module, key: int) -> None:
    """Set what a member draws in a step."""
    for layer in module.modules():
        if isinstance(layer, Noise):
            layer.key.fill_(key)


def step(member: Member, data: Data, rows: Tensor, key: int = 1, epoch: int = 1) -> tuple[Tensor, list[Tensor]]:
    """Return the loss of a step and its gradients, zeros where a parameter has none; the member's state moves on."""
    set_key(member, key)
    loss = member(data.batch, rows, data.labels, torch.tensor(epoch)).sum()
    wanted = list(member.parameters())
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return loss.detach(), [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)]


def viewed(member: Member, data: Data, rows: Tensor, key: int = 1) -> tuple[Tensor, Batch, Batch]:
    """Return the rows that the next step selects, what they hold and what is shown of it; the state stays as it is."""
    strategy = deepcopy(member.model.strategy)
    assert strategy is not None
    set_key(strategy, key)
    shown = strategy.select(rows, data.rows)
    whole = take(data.batch, shown)
    return shown, whole, strategy.view(whole, shown)


def spoiled(batch: Batch, hidden: Tensor, junk: float) -> Batch:
    """Return the batch with ``junk`` in every value of the modalities that are ``hidden`` [batch, modality]."""
    features = tuple(
        Features(torch.where(hidden[:, k, None, None], torch.tensor(junk), f.values), f.mask)
        for k, f in enumerate(batch.features)
    )
    return Batch(features, batch.available)


def predicted(member: Member, batch: Batch) -> Tensor:
    """Return a member's predictions, which leave it in training."""
    member.eval()
    with torch.no_grad():
        result: Tensor = member.model(batch).prediction
    member.train()
    return result
