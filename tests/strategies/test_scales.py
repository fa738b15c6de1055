"""Running error scales and the weights made of them."""

from __future__ import annotations

import pytest
import torch

from mmsa_core.strategies._scales import MEMORY, PRIOR, ErrorScales

EVERYONE = torch.ones(1, 3, dtype=torch.bool)


def scales(*values: float) -> ErrorScales:
    made = ErrorScales(len(values))
    made.errors.copy_(torch.tensor(values))
    made.counts.fill_(1.0)
    return made


@pytest.mark.parametrize(
    ("sharpness", "expected"),
    [(1.0, [0.571, 0.286, 0.143]), (2.0, [0.762, 0.190, 0.048]), (0.0, [1 / 3, 1 / 3, 1 / 3])],
)
def test_weights_of_scales_a_half_1_and_2(sharpness: float, expected: list[float]) -> None:
    """Entropies of Gaussians give 1/sigma, precisions 1/sigma^2."""
    found = scales(0.5, 1.0, 2.0).weights(EVERYONE, sharpness)
    torch.testing.assert_close(found[0], torch.tensor(expected), atol=6e-4, rtol=0)


def test_weights_are_a_gaussians_entropies_softmax() -> None:
    sigma = torch.tensor([0.3, 0.7, 1.9])
    entropy = torch.distributions.Normal(torch.zeros(3), sigma).entropy()
    found = scales(*sigma.tolist()).weights(EVERYONE, 1.0)
    torch.testing.assert_close(found[0], (-entropy).softmax(0))


def test_weights_sum_to_1_over_those_there() -> None:
    there = (torch.arange(8)[:, None] >> torch.arange(3) & 1).bool()
    found = scales(0.4, 1.1, 0.9).weights(there, 1.7)
    torch.testing.assert_close(found.sum(1), torch.ones(8))
    assert not found[1:][~there[1:]].any() and torch.equal(found[0], torch.full((3,), 1 / 3))


def test_a_common_factor_changes_nothing() -> None:
    one, other = scales(0.4, 1.1, 0.9), scales(4.0, 11.0, 9.0)
    torch.testing.assert_close(one.weights(EVERYONE, 1.3), other.weights(EVERYONE, 1.3))


def test_nothing_known_weighs_all_alike_and_no_error_at_all_is_finite() -> None:
    torch.testing.assert_close(ErrorScales(3).weights(EVERYONE, 2.0)[0], torch.full((3,), 1 / 3))
    found = scales(0.0, 1.0, 1e30).weights(EVERYONE, 2.0)
    assert torch.isfinite(found).all() and found[0, 0] > 0.99


def test_running_mean_by_hand() -> None:
    made, total, count = ErrorScales(2), [PRIOR, PRIOR], [PRIOR, PRIOR]
    g = torch.Generator().manual_seed(0)
    for _ in range(30):
        errors, counted = torch.rand(5, 2, generator=g), torch.rand(5, 2, generator=g) < 0.3
        made.update(errors, counted)
        for k in range(2):
            own = errors[counted[:, k], k].tolist()
            if own:
                total[k] = MEMORY * total[k] + sum(own)
                count[k] = MEMORY * count[k] + len(own)
    expected = torch.tensor([t / c for t, c in zip(total, count, strict=True)])
    torch.testing.assert_close(made.errors / made.counts, expected)


def test_errors_that_do_not_count_are_not_read_and_do_not_age_the_mean() -> None:
    made = ErrorScales(2)
    for _ in range(5000):
        made.update(torch.tensor([[0.5, float("nan")]]), torch.tensor([[True, False]]))
    torch.testing.assert_close(made.errors / made.counts, torch.tensor([0.5, 1.0]))
