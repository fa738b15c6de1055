"""Every weighting against its closed form."""

from __future__ import annotations

import math

import pytest
import torch

from mmsa_core.weighting.static import Static
from mmsa_core.weighting.uncertainty import Uncertainty

TASKS = ("fusion", "text", "audio", "vision")


def test_static_is_the_weighted_sum_of_the_tasks_present() -> None:
    losses = torch.tensor([0.5, 0.4, 0.3, 0.2])
    weighting = Static(TASKS, text=1.0, audio=0.5, vision=0.25)
    assert float(weighting(losses)) == pytest.approx(0.5 + 1.0 * 0.4 + 0.5 * 0.3 + 0.25 * 0.2)
    two = Static(("fusion", "vision"), text=1.0, audio=0.5, vision=0.25)
    assert float(two(losses[:2])) == pytest.approx(0.5 + 0.25 * 0.4)


def test_uncertainty_starts_as_the_plain_sum() -> None:
    losses = torch.tensor([0.5, 0.4, 0.3, 0.2])
    torch.testing.assert_close(Uncertainty(TASKS)(losses), torch.tensor(1.4))


def test_uncertainty_is_the_likelihood_of_a_laplace_error() -> None:
    """-log p(r) = |r| / b + log b + log 2 with b = exp(s)."""
    weighting = Uncertainty(("fusion",), limit=100.0)
    torch.nn.init.constant_(weighting.raw, 0.6)
    s = 100 * math.tanh(0.6 / 100)
    laplace = torch.distributions.Laplace(0.0, math.exp(s))
    log_likelihood = laplace.log_prob(torch.tensor(0.9))  # type: ignore[no-untyped-call]
    expected = -float(log_likelihood) - math.log(2)
    assert weighting(torch.tensor([0.9])).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [(1.0, 1.0), (100.0, 0.01)])
def test_uncertainty_settles_at_s_equal_to_log_loss_and_absorbs_weights(scale: tuple[float, float]) -> None:
    """reference/methods.md 0.2: the effective weight at the optimum is 1 / L, whatever fixed weight stands before L."""
    losses = torch.tensor([0.7, 3.0])
    scaled = losses * torch.tensor(scale)
    weighting = Uncertainty(("fusion", "text"), limit=20.0)
    optimizer = torch.optim.LBFGS(weighting.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        total: torch.Tensor = weighting(scaled)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    s = 20 * torch.tanh(weighting.raw / 20)
    torch.testing.assert_close(s, scaled.log(), rtol=1e-3, atol=1e-3)
    given = losses.clone().requires_grad_()
    (effective,) = torch.autograd.grad(weighting(given * torch.tensor(scale)), [given])
    torch.testing.assert_close(effective, 1 / losses, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("raw", [50.0, -50.0, 4.0])
def test_uncertainty_is_bounded(raw: float) -> None:
    weighting = Uncertainty(("fusion",), limit=3.0)
    torch.nn.init.constant_(weighting.raw, raw)
    loss = torch.tensor([0.5], requires_grad=True)
    (effective,) = torch.autograd.grad(weighting(loss), [loss])
    assert math.exp(-3.001) < float(effective) < math.exp(3.001)


def test_uncertainty_returns_from_beyond_the_bound() -> None:
    weighting = Uncertainty(("fusion",), limit=3.0)
    torch.nn.init.constant_(weighting.raw, 4.0)
    (g,) = torch.autograd.grad(weighting(torch.tensor([0.5])), [weighting.raw])
    assert g > 1e-2
