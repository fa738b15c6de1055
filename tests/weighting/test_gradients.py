"""Every weighting by gradients against a slow reading of its algorithm, step by step, and what it promises."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmsa_core.errors import UserError
from mmsa_core.noise import Noise
from mmsa_core.plugin import GradientWeighting
from mmsa_core.weighting.gradnorm import SMALLEST, GradNorm
from mmsa_core.weighting.ogm_ge import OgmGe
from mmsa_core.weighting.pcgrad import PCGrad

Array = NDArray[np.float64]
TASKS = ("fusion", "text", "audio", "vision")
OWNERS = torch.tensor([0, 0, 1, -1, 1, 1, 2, 2, -1, 0, 2, -1])
SHARED = (OWNERS >= 0).numpy()


def draw(number: int, tasks: int = 4) -> tuple[Tensor, Tensor]:
    """Return losses and gradients of a step; every task moves every parameter, which is more than a model's do."""
    random = torch.Generator().manual_seed(number)
    return torch.rand(tasks, generator=random) + 0.2, torch.randn(tasks, len(OWNERS), generator=random)


def set_key(weighting: GradientWeighting, number: int) -> None:
    for layer in weighting.modules():
        if isinstance(layer, Noise):
            layer.key.fill_(7919 * (number + 1))


def balanced(weighting: GradientWeighting, losses: Tensor, gradients: Tensor, number: int = 0) -> Tensor:
    set_key(weighting, number)
    made: Tensor = weighting(losses, gradients, OWNERS)
    return made


def assert_close(found: Tensor, expected: Array) -> None:
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


# PCGrad


def slow_pcgrad(gradients: Array, orders: Sequence[Sequence[int]]) -> tuple[Array, int]:
    """Return the sum of the projected gradients, and how many projections there were: algorithm 1, row by row."""
    result, conflicts = np.zeros(gradients.shape[1]), 0
    for i, order in enumerate(orders):
        own = gradients[i].copy()
        for j in order:
            product = float(own[SHARED] @ gradients[j][SHARED])
            if j != i and product < 0:
                own[SHARED] -= product / float(gradients[j][SHARED] @ gradients[j][SHARED]) * gradients[j][SHARED]
                conflicts += 1
        result += own
    return result, conflicts


@pytest.mark.parametrize("tasks", [2, 3, 4])
def test_pcgrad_equals_the_slow_reading(tasks: int) -> None:
    weighting = PCGrad(TASKS[:tasks])
    seen = 0
    for number in range(12):
        losses, gradients = draw(number, tasks)
        made = balanced(weighting, losses, gradients, number)
        orders = weighting.uniform((tasks, tasks)).argsort(1).tolist()
        expected, conflicts = slow_pcgrad(gradients.numpy().astype(np.float64), orders)
        assert_close(made, expected)
        seen += conflicts
    assert seen >= 3 * tasks


@pytest.mark.parametrize("number", range(8))
def test_pcgrad_of_two_tasks_goes_against_neither(number: int) -> None:
    """Each projected gradient is at a right angle to the other task's: g_i' . g_j = 0, so the sum's is 0 or more."""
    _, gradients = draw(number, 2)
    if gradients[0][SHARED] @ gradients[1][SHARED] > 0:
        gradients[1] = -gradients[1]
    gradients = gradients.double()
    made = balanced(PCGrad(TASKS[:2]), torch.ones(2), gradients)[SHARED]
    parts = [g - (g @ h) / (h @ h) * h for g, h in (gradients[:, SHARED], gradients[:, SHARED].flip(0))]
    for part, other in zip(parts, gradients.flip(0), strict=True):
        assert abs(float(part @ other[SHARED])) < 1e-12
    torch.testing.assert_close(made, parts[0] + parts[1], rtol=1e-12, atol=1e-12)
    assert all(float(made @ g[SHARED]) >= -1e-12 for g in gradients)


def test_pcgrad_of_opposite_gradients_stands_still() -> None:
    _, gradients = draw(0, 2)
    gradients[1] = -3 * gradients[0]
    made = balanced(PCGrad(TASKS[:2]), torch.ones(2), gradients)
    torch.testing.assert_close(made[SHARED], torch.zeros(int(SHARED.sum())), rtol=0, atol=1e-5)
    assert torch.equal(made[~SHARED], gradients[:, ~SHARED].sum(0)), "what only one task has is left alone"


def test_pcgrad_draws_an_order_for_every_task_at_every_step() -> None:
    """Each of the 24 orders of four tasks comes up about 25 times in 600 steps, for every task."""
    weighting, tables = PCGrad(TASKS), []
    for number in range(600):
        set_key(weighting, number)
        tables.append(weighting.uniform((4, 4)).argsort(1))
    for orders in torch.stack(tables, 1):
        counts = Counter(map(tuple, orders.tolist()))
        assert len(counts) == 24 and sum((n - 25) ** 2 / 25 for n in counts.values()) < 50  # chi-square, 23 degrees
    # three tasks in a fan: which of two comes first changes where the third ends up
    fan = torch.zeros(3, len(OWNERS))
    fan[:, :2] = torch.tensor([[1.0, 0.0], [-0.5, 1.0], [-0.5, -0.6]])
    made = {tuple(balanced(PCGrad(TASKS[:3]), torch.ones(3), fan, k).tolist()) for k in range(40)}
    assert 2 <= len(made) <= 8


def test_pcgrad_never_projects_a_task_on_itself() -> None:
    """The first of these, after the other two in turn, points away from where it pointed at first."""
    fan = torch.zeros(3, len(OWNERS))
    fan[:, :2] = torch.tensor([[1.0, 0.0], [-1.0, 0.2], [-0.5, -1.0]])
    weighting, last = PCGrad(TASKS[:3]), 0
    for number in range(20):
        made = balanced(weighting, torch.ones(3), fan, number)
        orders = weighting.uniform((3, 3)).argsort(1).tolist()
        last += orders[0] == [1, 2, 0]
        assert_close(made, slow_pcgrad(fan.numpy().astype(np.float64), orders)[0])
    assert last > 0


@pytest.mark.parametrize("idle", [0, 1, 3])
def test_pcgrad_passes_over_a_zero_gradient(idle: int) -> None:
    losses, gradients = draw(3)
    gradients[idle] = 0.0
    weighting = PCGrad(TASKS)
    made = balanced(weighting, losses, gradients)
    orders = weighting.uniform((4, 4)).argsort(1).tolist()
    rest = [[j for j in order if j != idle] for order in orders]
    assert_close(made, slow_pcgrad(gradients.numpy().astype(np.float64), rest)[0])


# GradNorm


class SlowGradNorm:
    """Algorithm 1 with the objective's slope by hand, one task at a time."""

    def __init__(self, tasks: int, alpha: float, rate: float) -> None:
        self.alpha, self.rate = alpha, rate
        self.weights = [1.0] * tasks
        self.first: list[float | None] = [None] * tasks
        self.floored = 0

    def step(self, losses: Array, gradients: Array) -> Array:
        result = sum((w * g for w, g in zip(self.weights, gradients, strict=True)), np.zeros(gradients.shape[1]))
        active = [i for i, loss in enumerate(losses) if loss > 0]
        if not active:
            return result
        for i in active:
            self.first[i] = losses[i] if self.first[i] is None else self.first[i]
        norms = {i: math.sqrt(sum(x * x for x in gradients[i][SHARED])) for i in active}
        left = {i: losses[i] / self.first[i] for i in active}
        mean_left = sum(left.values()) / len(active)
        mean_norm = sum(self.weights[i] * norms[i] for i in active) / len(active)
        before, moved = sum(self.weights[i] for i in active), {}
        for i in active:
            gap = self.weights[i] * norms[i] - mean_norm * (left[i] / mean_left) ** self.alpha
            moved[i] = self.weights[i] - self.rate * float(np.sign(gap)) * norms[i]
            self.floored += moved[i] < SMALLEST
        moved = {i: max(w, SMALLEST) for i, w in moved.items()}
        for i, w in moved.items():
            self.weights[i] = w * before / sum(moved.values())
        return result


@pytest.mark.parametrize(
    ("alpha", "rate", "size"), [(1.5, 0.025, 1.0), (0.0, 0.01, 1.0), (3.0, 0.1, 1.0), (1.5, 0.3, 2.0)]
)
def test_gradnorm_equals_the_slow_reading(alpha: float, rate: float, size: float) -> None:
    """Over 40 steps; fusion begins at the second and the others at the sixth; one is silent now and then."""
    weighting, slow = GradNorm(TASKS, alpha=alpha, rate=rate), SlowGradNorm(4, alpha, rate)
    for number in range(40):
        losses, gradients = draw(number)
        losses = losses * torch.linspace(1.5, 0.5, 40)[number] * torch.tensor([1.0, 0.2, 5.0, 1.0])
        gradients = size * gradients * torch.tensor([1.0, 0.3, 2.0, 1.0])[:, None]
        silent = [1, 2, 3] if number < 5 else [2] if number % 7 == 0 else []
        losses[0] = -0.1 if number in (0, 9) else losses[0]  # what is added to fusion's may be below 0: it is left out
        losses[silent], gradients[silent] = 0.0, 0.0
        expected = slow.step(losses.numpy().astype(np.float64), gradients.numpy().astype(np.float64))
        assert_close(balanced(weighting, losses, gradients), expected)
        assert_close(weighting.weights, np.array(slow.weights))
        if number < 5:
            assert weighting.weights.tolist() == [1, 1, 1, 1]
            assert weighting.first.bool().tolist() == [number > 0, False, False, False]
        assert float(weighting.weights.sum()) == pytest.approx(4, rel=1e-5)
    assert (slow.floored > 0) == (alpha > 0), "the bound must be seen, and not everywhere"
    assert weighting.first.tolist() == pytest.approx([f for f in slow.first if f is not None])


def test_gradnorm_takes_the_slope_of_its_objective() -> None:
    """Autograd through ``sum |w_i n_i - target_i|``, the target held fixed as in the paper."""
    losses, gradients = draw(5)
    weighting = GradNorm(TASKS, rate=1e-3)
    start = torch.tensor([0.7, 1.4, 0.9, 1.0])
    weighting.weights.copy_(start)
    weighting.first.copy_(torch.tensor([1.0, 0.5, 2.0, 0.8]))
    relative = losses / weighting.first
    target = (start * gradients[:, SHARED].norm(dim=1)).mean() * (relative / relative.mean()) ** 1.5
    given = start.clone().requires_grad_()
    weighted = torch.stack([(w * g[SHARED]).norm() for w, g in zip(given, gradients, strict=True)])
    (slope,) = torch.autograd.grad((weighted - target).abs().sum(), [given])
    moved = start - 1e-3 * slope
    balanced(weighting, losses, gradients)
    torch.testing.assert_close(weighting.weights, moved * 4 / moved.sum())


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_gradnorm_reaches_its_targets(alpha: float) -> None:
    """Gradients of fixed norms, and one task that has not learned while the others' losses fell to half.

    For these two exponents the targets sum to the norms' own sum, so that all can be met.
    """
    norms, losses = torch.tensor([0.5, 1.0, 2.0, 4.0]), torch.tensor([0.5, 0.5, 0.5, 1.0])
    _, gradients = draw(1)
    gradients *= (norms / gradients[:, SHARED].norm(dim=1))[:, None]
    weighting = GradNorm(TASKS, alpha=alpha, rate=1e-3)
    balanced(weighting, torch.ones(4), gradients)
    for _ in range(3000):
        balanced(weighting, losses, gradients)
    weighted = weighting.weights * norms
    torch.testing.assert_close(weighted / weighted.mean(), (losses / losses.mean()) ** alpha, rtol=0.05, atol=0)


# OGM-GE


def slow_ogm(losses: Array, gradients: Array, alpha: float, high: float) -> tuple[Array, Array, list[int]]:
    """Return the damped gradient, the deviation of the noise by parameter, and the modalities that are ahead."""
    scores = [math.exp(-loss / high) for loss in losses[1:]]
    result, spread, ahead = gradients.sum(0), np.zeros(gradients.shape[1]), []
    for m, own in enumerate(scores):
        others = [s for k, s in enumerate(scores) if k != m]
        rho = own / (sum(others) / len(others))
        if rho > 1:
            block = [p for p, owner in enumerate(OWNERS.tolist()) if owner == m]
            spread[block] = np.std(result[block])
            result[block] *= 1 - math.tanh(alpha * rho)
            ahead.append(m)
    return result, spread, ahead


@pytest.mark.parametrize(("alpha", "high"), [(0.3, 3.0), (1.0, 1.0), (0.1, 0.2)])
@pytest.mark.parametrize("tasks", [3, 4])
def test_ogm_ge_equals_the_slow_reading(alpha: float, high: float, tasks: int) -> None:
    weighting = OgmGe(TASKS[:tasks], alpha=alpha, high=high)
    plain = OgmGe(TASKS[:tasks], alpha=alpha, high=high, noise=0.0)
    half = OgmGe(TASKS[:tasks], alpha=alpha, high=high, noise=0.5)
    seen: set[tuple[int, ...]] = set()
    for number in range(20):
        losses, gradients = draw(number, tasks)
        expected, spread, ahead = slow_ogm(
            losses.numpy().astype(np.float64), gradients.numpy().astype(np.float64), alpha, high
        )
        assert_close(balanced(plain, losses, gradients, number), expected)
        made = balanced(weighting, losses, gradients, number)
        noise = weighting.normal((len(OWNERS),)).numpy().astype(np.float64)
        assert_close(made, expected + spread * noise)
        assert_close(balanced(half, losses, gradients, number), expected + 0.5 * spread * noise)
        seen.add(tuple(ahead))
    assert len(seen) >= tasks - 1, "other modalities must be ahead at other steps"


@pytest.mark.parametrize("loss", [0.0, 0.1, 1 / 3, 0.7, 2.9, 50.0])
def test_ogm_ge_leaves_balanced_modalities_untouched(loss: float) -> None:
    """reference/methods.md 11: against the sum of the others two of three balanced modalities would be damped."""
    _, gradients = draw(2)
    made = balanced(OgmGe(TASKS), torch.tensor([0.4, loss, loss, loss]), gradients)
    assert torch.equal(made, gradients.sum(0))


def test_ogm_ge_damps_the_leader_alone() -> None:
    _, gradients = draw(2)
    made = balanced(OgmGe(TASKS), torch.tensor([9.0, 0.9, 0.9, 0.5]), gradients)
    kept = OWNERS != 2
    assert torch.equal(made[kept], gradients.sum(0)[kept]) and not torch.equal(made[~kept], gradients.sum(0)[~kept])
    further = balanced(OgmGe(TASKS, noise=0.0), torch.tensor([9.0, 0.9, 0.9, 0.1]), gradients)
    nearer = balanced(OgmGe(TASKS, noise=0.0), torch.tensor([9.0, 0.9, 0.9, 0.5]), gradients)
    assert (further[~kept].abs() < nearer[~kept].abs()).all()
    assert (nearer[~kept].abs() < gradients.sum(0)[~kept].abs()).all()


def test_ogm_ge_adds_noise_of_mean_0_and_the_gradients_deviation() -> None:
    size = 20_000
    whose = torch.tensor([0, 1, -1]).repeat_interleave(size)
    gradients = torch.randn(3, 3 * size, generator=torch.Generator().manual_seed(0)) * 0.01 + 0.5
    losses = torch.tensor([1.0, 0.3, 0.9])
    noisy, plain = OgmGe(TASKS[:3]), OgmGe(TASKS[:3], noise=0.0)
    total = gradients.sum(0)
    found = []
    for number in (0, 1):
        set_key(noisy, number)
        noise = noisy(losses, gradients, whose) - plain(losses, gradients, whose)
        assert not noise[size:].any()
        found.append(noise[:size])
        assert float(found[-1].std()) == pytest.approx(float(total[:size].std()), rel=0.02)
        assert abs(float(found[-1].mean())) < 4 * float(total[:size].std()) / math.sqrt(size)
    correlation = torch.corrcoef(torch.stack([*found, total[:size]]))
    assert correlation.triu(1).abs().max() < 0.03, "each step's noise is new, and is not the gradient"


def test_ogm_ge_has_nobody_to_compare_one_modality_with() -> None:
    losses, gradients = draw(4, 2)
    made = OgmGe(("fusion", "audio"))(losses, gradients, OWNERS.clamp(max=0))
    assert torch.equal(made, gradients.sum(0))


def test_ogm_ge_without_alpha_is_the_plain_sum_however_far_ahead_one_is() -> None:
    _, gradients = draw(2)
    made = balanced(OgmGe(TASKS, alpha=0.0, noise=0.0), torch.tensor([1.0, 1e4, 1e4, 0.0]), gradients)
    assert torch.equal(made, gradients.sum(0))


@pytest.mark.parametrize("high", [0.0, -1.0])
def test_ogm_ge_refuses_a_range_that_is_none(high: float) -> None:
    with pytest.raises(UserError, match=r"ogm_ge\.high: must be above 0, the largest label of the data, got"):
        OgmGe(TASKS, high=high)
