"""What every weighting must do, for every file found in the folder: by the losses, or by the tasks' gradients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from mmsa_core import registry
from mmsa_core.loader import SplitTensors
from mmsa_core.noise import Noise
from mmsa_core.plugin import GradientWeighting, Weighting
from mmsa_core.population import MemberSpec, Population
from mmsa_core.solo import SoloMembers
from mmsa_core.train import Objective, Progress, Verdict, fit
from tests.contracts.stacking import (
    assert_floats_are_buffers,
    assert_near,
    assert_same_alone_and_together,
    float_settings,
    gradients,
    members,
)
from tests.members import member, optimizer

Splits = tuple[SplitTensors, SplitTensors]
Step = tuple[Tensor, Tensor]
"""The losses [task] and gradients [task, all] of one training step."""

NAMES = registry.names("weighting")
BY_LOSS = [n for n in NAMES if issubclass(registry.load("weighting", n), Weighting)]
BY_GRADIENT = [n for n in NAMES if issubclass(registry.load("weighting", n), GradientWeighting)]
ORDERED = {"pcgrad"}
"""Those that go through the tasks in an order which they draw: with other draws they step elsewhere."""
TASKS = ("fusion", "text", "audio", "vision")
every = pytest.mark.parametrize("name", NAMES)
by_loss = pytest.mark.parametrize("name", BY_LOSS)
by_gradient = pytest.mark.parametrize("name", BY_GRADIENT)
some_tasks = pytest.mark.parametrize("tasks", [TASKS, ("fusion", "text", "vision"), ("fusion", "audio"), ("fusion",)])


def build(name: str, tasks: tuple[str, ...] = TASKS) -> nn.Module:
    weighting: nn.Module = registry.build("weighting", name, tasks)
    return weighting


def test_some_were_found_and_each_is_of_one_kind() -> None:
    assert len(BY_LOSS) >= 2 and len(BY_GRADIENT) >= 3
    assert sorted(BY_LOSS + BY_GRADIENT) == list(NAMES) and set(BY_GRADIENT) > ORDERED


@every
def test_floats_are_buffers(name: str) -> None:
    assert_floats_are_buffers("weighting", name, TASKS)


@every
def test_card_names_its_source(name: str) -> None:
    card = registry.card("weighting", name)
    assert card.source and card.summary.endswith(".") and len(card.summary) < 200


# by the losses


def run(weighting: nn.Module, losses: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the total and its gradients: first with respect to the losses, then to the parameters."""
    losses = losses.clone().requires_grad_()
    total = weighting(losses)
    return total, gradients(total, [losses, *weighting.parameters()])


@by_loss
@some_tasks
def test_scalar_and_every_task_counts(name: str, tasks: tuple[str, ...]) -> None:
    total, grads = run(build(name, tasks), torch.linspace(0.4, 1.3, len(tasks)))
    assert total.shape == () and torch.isfinite(total)
    assert (grads[0] > 0).all(), "a higher loss of any task must cost more"
    for g in grads[1:]:
        assert torch.isfinite(g).all() and g.abs().max() > 1e-6


@by_loss
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


@by_loss
@pytest.mark.parametrize("size", [1e-8, 1e4])
def test_extreme_losses_are_finite(name: str, size: float) -> None:
    total, grads = run(build(name), torch.full((4,), size))
    assert torch.isfinite(total) and all(torch.isfinite(g).all() for g in grads)


@by_loss
def test_starts_with_fusion_at_weight_1(name: str) -> None:
    _, grads = run(build(name), torch.tensor([0.5, 0.4, 0.3, 0.2]))
    assert grads[0][0] == 1


@by_loss
@some_tasks
def test_members_give_the_same_alone_and_together(name: str, tasks: tuple[str, ...]) -> None:
    losses = torch.rand(3, len(tasks), generator=torch.Generator().manual_seed(0)) + 0.1
    made = members("weighting", name, tasks)
    for k, module in enumerate(made):
        for parameter in module.parameters():
            torch.nn.init.constant_(parameter, 0.5 * k - 0.4)
    assert_same_alone_and_together(made, [losses], lambda run, given: run(given))


@by_loss
def test_state_round_trip(name: str) -> None:
    one, other = members("weighting", name, TASKS, count=2)
    for parameter in one.parameters():
        torch.nn.init.constant_(parameter, 0.9)
    losses = torch.tensor([0.9, 0.1, 0.2, 0.3])
    assert not torch.equal(one(losses), other(losses))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(losses), other(losses))


# by the gradients


def owners(tasks: Sequence[str]) -> Tensor:
    """Return whose the parameters are, in blocks of five: the modalities', fusion's and every unimodal head's."""
    modalities = len(tasks) - 1
    return torch.tensor([*range(modalities), *[-1] * len(tasks)], dtype=torch.int64).repeat_interleave(5)


def step(tasks: Sequence[str], number: int, member: int = 0) -> Step:
    """Return losses and gradients as a model has them: a unimodal task moves its own modality and head alone."""
    random = torch.Generator().manual_seed(100 * member + number)
    modalities, blocks = len(tasks) - 1, 2 * len(tasks) - 1
    touched = torch.zeros(len(tasks), blocks, dtype=torch.bool)
    touched[0, : modalities + 1] = True
    for task in range(1, len(tasks)):
        touched[task, [task - 1, modalities + task]] = True
    made = torch.randn(len(tasks), 5 * blocks, generator=random) * touched.repeat_interleave(5, 1)
    return torch.rand(len(tasks), generator=random) + 0.2, made


def course(weighting: nn.Module, steps: Sequence[Step], whose: Tensor) -> list[Tensor]:
    """Return the balanced gradient of every step; each step has noise of its own."""
    made = []
    for number, (losses, own) in enumerate(steps):
        for layer in weighting.modules():
            if isinstance(layer, Noise):
                layer.key.fill_(1234567 * (number + 1))
        made.append(weighting(losses, own, whose))
    return made


@by_gradient
@some_tasks
def test_shape_finite_and_nothing_is_written_to(name: str, tasks: tuple[str, ...]) -> None:
    weighting, whose = build(name, tasks), owners(tasks)
    steps, fresh = ([step(tasks, k) for k in range(4)] for _ in range(2))
    made = course(weighting, steps, whose)
    assert all(m.shape == whose.shape and torch.isfinite(m).all() for m in made)
    for one, other in zip(steps, fresh, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    assert torch.equal(whose, owners(tasks)) and not any(b.requires_grad for b in weighting.buffers())
    assert not list(weighting.parameters()), "no optimiser moves what balances gradients"


@by_gradient
def test_one_task_goes_as_it_would(name: str) -> None:
    steps = [step(("fusion",), k) for k in range(4)]
    for made, (_, own) in zip(course(build(name, ("fusion",)), steps, owners(("fusion",))), steps, strict=True):
        assert torch.equal(made, own[0])


@by_gradient
@some_tasks
def test_the_plain_sum_where_nothing_is_to_be_balanced(name: str, tasks: tuple[str, ...]) -> None:
    """At the first step, with equal losses and no two gradients in conflict."""
    _, own = step(tasks, 0)
    (made,) = course(build(name, tasks), [(torch.full((len(tasks),), 0.7), own.abs())], owners(tasks))
    torch.testing.assert_close(made, own.abs().sum(0))


@by_gradient
def test_a_task_without_loss_and_gradient_disturbs_nobody(name: str) -> None:
    """As Self-MM's unimodal tasks at first: until they begin, the step is fusion's own; then they do as from new."""
    weighting, whose = build(name), owners(TASKS)
    steps = [step(TASKS, k) for k in range(8)]
    idle = [(torch.cat([losses[:1], 0 * losses[1:]]), torch.cat([own[:1], 0 * own[1:]])) for losses, own in steps[:4]]
    for made, (_, own) in zip(course(weighting, idle, whose), idle, strict=True):
        assert torch.equal(made, own[0])
    assert all(torch.isfinite(made).all() for made in course(weighting, steps[4:], whose))
    assert all(torch.isfinite(b).all() for b in weighting.buffers())


@by_gradient
@pytest.mark.parametrize("idle", [(0,), (2,), (1, 3), (0, 1, 2, 3)])
def test_zeros_now_and_then_are_harmless(name: str, idle: tuple[int, ...]) -> None:
    weighting, whose = build(name), owners(TASKS)
    index = torch.tensor(idle)
    steps = [step(TASKS, k) for k in range(6)]
    for number in (0, 2, 3):
        for part in steps[number]:
            part[index] = 0.0
    made = course(weighting, steps, whose)
    assert all(torch.isfinite(m).all() for m in made) and made[1].any() and made[5].any()
    if len(idle) == 4:
        assert not made[0].any() and not made[2].any()
    # a loss without a gradient, as of a head that is dead, and a gradient that has no loss
    for silent in (0, 1):
        odd = [part.clone() for part in step(TASKS, 9)]
        odd[silent][index] = 0.0
        assert torch.isfinite(torch.stack(course(weighting, [(odd[0], odd[1])] * 2, whose))).all()
    assert all(torch.isfinite(b).all() for b in weighting.buffers())


@by_gradient
@pytest.mark.parametrize("losses", [1e-8, 1e4])
@pytest.mark.parametrize("size", [1e-12, 1e-8, 1e4, 1e8])
def test_extreme_losses_and_gradients_are_finite(name: str, losses: float, size: float) -> None:
    weighting = build(name)
    steps = [(losses * given, size * own) for given, own in (step(TASKS, k) for k in range(4))]
    steps.append(step(TASKS, 4))
    for small in range(4):
        one, own = step(TASKS, 5 + small)
        own[small] *= 1e-25  # its square is 0
        steps.append((one, own))
    made = course(weighting, [*steps, *steps], owners(TASKS))
    assert all(torch.isfinite(m).all() for m in made) and all(torch.isfinite(b).all() for b in weighting.buffers())


@pytest.mark.parametrize("name", [n for n in BY_GRADIENT if n not in ORDERED])
@pytest.mark.parametrize("turn", [(0, 2, 1, 3), (0, 3, 1, 2), (0, 3, 2, 1)])
def test_the_order_of_unimodal_tasks_does_not_matter(name: str, turn: tuple[int, ...]) -> None:
    """Tasks, their losses and gradients and the modalities' numbers change places together; parameters stay."""
    index, whose = torch.tensor(turn), owners(TASKS)
    steps = [step(TASKS, k) for k in range(6)]
    turned = [(losses[index], own[index]) for losses, own in steps]
    place = torch.tensor([*(turn.index(m + 1) - 1 for m in range(3)), -1])
    other = build(name, tuple(TASKS[i] for i in turn))
    for a, b in zip(course(build(name), steps, whose), course(other, turned, place[whose]), strict=True):
        assert_near(a, b)


@by_gradient
@some_tasks
def test_gradients_are_balanced_alone_as_together(name: str, tasks: tuple[str, ...]) -> None:
    """Members with other settings and noise keep their own state over several steps."""
    together, alone = members("weighting", name, tasks), members("weighting", name, tasks)
    _, state = stack_module_state(together)
    whose = owners(tasks)

    def one(own: dict[str, Tensor], losses: Tensor, given: Tensor) -> Tensor:
        made: Tensor = functional_call(together[0], own, (losses, given, whose))
        return made

    for number in range(5):
        parts = [step(tasks, number, k) for k in range(3)]
        losses, given = (torch.stack(p) for p in zip(*parts, strict=True))
        joint = vmap(one)(state, losses, given)
        for k, weighting in enumerate(alone):
            assert_near(joint[k], weighting(*parts[k], whose))
    for k, weighting in enumerate(alone):
        for n, buffer in weighting.named_buffers():
            assert_near(state[n][k].float(), buffer.float())


@by_gradient
def test_buffers_are_all_the_state(name: str) -> None:
    one, other = build(name), build(name)
    whose = owners(TASKS)
    course(one, [step(TASKS, k) for k in range(4)], whose)
    other.load_state_dict(one.state_dict())
    later = [step(TASKS, k) for k in range(4, 8)]
    for a, b in zip(course(one, later, whose), course(other, later, whose), strict=True):
        assert torch.equal(a, b)


def company(name: str, count: int = 4, **changes: Any) -> list[MemberSpec]:
    """Return members that differ in the weighting's floats, the optimiser's and the seed; every task has a loss."""
    plain = {"labels": "copied", **changes}
    accumulate = plain.pop("accumulate", 1)
    return [
        member(
            k + 1,
            weighting={"name": name, **float_settings("weighting", name, k)},
            optimizer={**optimizer(k), "accumulate": accumulate},
            **plain,
        )
        for k in range(count)
    ]


@by_gradient
@pytest.mark.parametrize("labels", ["copied", "ulgm"])
def test_trains_alone_as_in_a_population(name: str, labels: str, splits: Splits) -> None:
    train, valid = splits
    specs = company(name, labels=labels)
    together, alone = Population(specs, train), Population([specs[2]], train)
    for epoch in range(1, 5):
        losses, own = together.train_epoch(epoch), alone.train_epoch(epoch)
        assert torch.isfinite(losses).all()
        torch.testing.assert_close(losses[[2]], own, rtol=1e-4, atol=1e-4)
    batch = valid.batch(specs[0].config)
    torch.testing.assert_close(together.predict(batch)[[2]], alone.predict(batch), rtol=1e-3, atol=1e-3)


@by_gradient
def test_members_that_are_dropped_leave_the_rest_as_they_were(name: str, splits: Splits) -> None:
    specs = company(name)
    whole, shrinking = Population(specs, splits[0]), Population(specs, splits[0])
    left = [0, 1, 2, 3]
    for epoch, kept in enumerate(([0, 1, 2, 3], [1, 3], [3]), start=1):
        shrinking.keep([left.index(k) for k in kept])
        left = kept
        assert torch.equal(whole.train_epoch(epoch)[left], shrinking.train_epoch(epoch))
    state = whole.state()
    for n, mine in shrinking.state().items():
        assert n == "steps" or torch.equal(mine[:1], state[n][[3]]), n


@by_gradient
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("labels", ["copied", "ulgm"])
def test_solo_members_equal_a_population(name: str, labels: str, accumulate: int, splits: Splits) -> None:
    """Gradients of plain modules, task by task, against those of the stacked members."""
    train, valid = splits
    specs = company(name, 3, labels=labels, accumulate=accumulate)
    stacked, solo = Population(specs, train), SoloMembers(specs, train)
    for epoch in range(1, 5):
        torch.testing.assert_close(solo.train_epoch(epoch), stacked.train_epoch(epoch), rtol=1e-4, atol=1e-4)
    batch = valid.batch(specs[0].config)
    torch.testing.assert_close(solo.predict(batch), stacked.predict(batch), rtol=1e-3, atol=1e-3)
    for k, one in enumerate(solo.members):
        assert one.member.weighting is not None
        for n, buffer in one.member.weighting.named_buffers():
            if f"weighting.{n}" in stacked.buffers:
                torch.testing.assert_close(buffer, stacked.buffers[f"weighting.{n}"][k], rtol=1e-3, atol=1e-3)


@by_gradient
def test_a_stopped_course_goes_on_as_if_it_had_not(name: str, splits: Splits, tmp_path: Path) -> None:
    train, valid = splits
    specs, path = company(name, 2), tmp_path / "p.safetensors"
    whole = fit(specs, train, valid, objective=Objective())

    def stop(progress: Progress) -> Verdict:
        return Verdict(stop=progress.epoch == 2)

    assert fit(specs, train, valid, objective=Objective(), on_epoch=stop, checkpoint=path).stopped
    again = fit(specs, train, valid, objective=Objective(), checkpoint=path)
    for a, b in zip(whole.runs, again.runs, strict=True):
        assert len(a.curve) == 4 and a.curve == b.curve and a.value == b.value


@by_gradient
def test_training_is_not_that_of_equal_weights(name: str, splits: Splits) -> None:
    (spec,) = company(name, 1)
    equal = {"name": "static", "text": 1.0, "audio": 1.0, "vision": 1.0}
    plain = member(1, labels="copied", weighting=equal, optimizer=optimizer(0))
    one, other = Population([spec], splits[0]), Population([plain], splits[0])
    assert torch.equal(one.weights, other.weights)
    for epoch in (1, 2):
        one.train_epoch(epoch)
        other.train_epoch(epoch)
    assert (one.weights - other.weights).abs().max() > 1e-4
