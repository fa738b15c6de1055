"""What every weighting must do, for every file found in the folder."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmsa_core import registry
from mmsa_core.plugin import Weighting
from tests.contracts.stacking import (
    assert_floats_are_buffers,
    assert_same_alone_and_together,
    gradients,
    members,
)

NAMES = registry.names("weighting")
TASKS = ("fusion", "text", "audio", "vision")
every = pytest.mark.parametrize("name", NAMES)
some_tasks = pytest.mark.parametrize("tasks", [TASKS, ("fusion", "text", "vision"), ("fusion", "audio"), ("fusion",)])


def build(name: str, tasks: tuple[str, ...] = TASKS) -> Weighting:
    weighting: Weighting = registry.build("weighting", name, tasks)
    return weighting


def run(weighting: Weighting, losses: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the total and its gradients: first with respect to the losses, then to the parameters."""
    losses = losses.clone().requires_grad_()
    total = weighting(losses)
    return total, gradients(total, [losses, *weighting.parameters()])


def test_some_were_found() -> None:
    assert len(NAMES) >= 2


@every
@some_tasks
def test_scalar_and_every_task_counts(name: str, tasks: tuple[str, ...]) -> None:
    total, grads = run(build(name, tasks), torch.linspace(0.4, 1.3, len(tasks)))
    assert total.shape == () and torch.isfinite(total)
    assert (grads[0] > 0).all(), "a higher loss of any task must cost more"
    for g in grads[1:]:
        assert torch.isfinite(g).all() and g.abs().max() > 1e-6


@every
def test_a_loss_of_0_costs_nothing(name: str) -> None:
    weighting = build(name)
    for parameter in weighting.parameters():
        torch.nn.init.constant_(parameter, 0.7)
    all_zero, grads = run(weighting, torch.zeros(4))
    assert all_zero == 0 and all(torch.isfinite(g).all() for g in grads) and not any(g.any() for g in grads[1:])
    fewer = build(name, ("fusion", "vision"))
    for parameter in fewer.parameters():
        torch.nn.init.constant_(parameter, 0.7)
    torch.testing.assert_close(weighting(torch.tensor([0.9, 0.0, 0.0, 0.3])), fewer(torch.tensor([0.9, 0.3])))


@every
@pytest.mark.parametrize("size", [1e-8, 1e4])
def test_extreme_losses_are_finite(name: str, size: float) -> None:
    total, grads = run(build(name), torch.full((4,), size))
    assert torch.isfinite(total) and all(torch.isfinite(g).all() for g in grads)


@every
def test_starts_with_fusion_at_weight_1(name: str) -> None:
    _, grads = run(build(name), torch.tensor([0.5, 0.4, 0.3, 0.2]))
    assert grads[0][0] == 1


@every
@some_tasks
def test_members_give_the_same_alone_and_together(name: str, tasks: tuple[str, ...]) -> None:
    losses = torch.rand(3, len(tasks), generator=torch.Generator().manual_seed(0)) + 0.1
    made = members("weighting", name, tasks)
    for k, module in enumerate(made):
        for parameter in module.parameters():
            torch.nn.init.constant_(parameter, 0.5 * k - 0.4)
    assert_same_alone_and_together(made, [losses], lambda run, given: run(given))


@every
def test_floats_are_buffers(name: str) -> None:
    assert_floats_are_buffers("weighting", name, TASKS)


@every
def test_state_round_trip(name: str) -> None:
    one, other = members("weighting", name, TASKS, count=2)
    for parameter in one.parameters():
        torch.nn.init.constant_(parameter, 0.9)
    losses = torch.tensor([0.9, 0.1, 0.2, 0.3])
    assert not torch.equal(one(losses), other(losses))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(losses), other(losses))


@every
def test_card_names_its_source(name: str) -> None:
    card = registry.card("weighting", name)
    assert card.source and card.summary.endswith(".") and len(card.summary) < 200
