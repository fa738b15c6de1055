"""The autoencoder of related pairs: its Gaussians against closed forms, its loss against a loop, and what it learns."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from mmsa_core.alignment._experts import LIMIT, Decoder, Gaussian, bounded, least, product
from mmsa_core.alignment.related_pairs import STILL, RelatedPairs, shifts
from mmsa_core.errors import UserError
from mmsa_core.tensors import Pair
from tests.alignment.pairs import Array, as_pair, build, chance, make, slopes, value


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(*shape: int, seed: int = 0) -> Gaussian:
    return Gaussian(numbers(*shape, seed=seed), numbers(*shape, seed=seed + 50).exp())


# Gaussians


def test_product_of_one_expert_with_the_prior_is_analytic() -> None:
    """reference/methods.md 10e: precision 1 + t and mean t m / (1 + t); and so is the density, point by point."""
    expert = gaussian(5, 3)
    found = product([expert])
    torch.testing.assert_close(found.precision, 1 + expert.precision)
    torch.testing.assert_close(found.mean, expert.precision * expert.mean / (1 + expert.precision))
    grid = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    density = (-(grid**2) / 2 - (grid - expert.mean[0, 0]) ** 2 * expert.precision[0, 0] / 2).exp()
    density /= density.sum()
    mean = (density * grid).sum()
    torch.testing.assert_close(mean, found.mean[0, 0])
    torch.testing.assert_close(1 / (density * (grid - mean) ** 2).sum(), found.precision[0, 0])


def test_product_does_not_know_the_order_and_one_that_says_nothing_is_as_good_as_missing() -> None:
    """reference/methods.md 10e: a missing modality is its expert dropped."""
    one, other = gaussian(5, 3), gaussian(5, 3, seed=1)
    for a, b in zip(product([one, other]), product([other, one]), strict=True):
        torch.testing.assert_close(a, b)
    silent = Gaussian(other.mean, torch.full_like(other.mean, 1e-12))
    for a, b in zip(product([one, silent]), product([one]), strict=True):
        torch.testing.assert_close(a, b)


def test_divergence_and_values_are_those_of_torch() -> None:
    q = gaussian(5, 3)
    spread = q.precision.rsqrt()
    expected = kl_divergence(Normal(q.mean, spread), Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean))).sum(-1)
    torch.testing.assert_close(q.divergence(), expected)
    torch.testing.assert_close(q.at(torch.ones(5, 3).double()), q.mean + spread)


def linear_decoder(weight: Tensor, bias: Tensor, spread: Tensor) -> Decoder:
    """Return a decoder whose mean is ``weight z + bias``: a ReLU of z and one of -z together pass everything."""
    dim, latent = weight.shape
    decoder = Decoder(latent, 2 * latent, dim).double()
    both = torch.cat([torch.eye(latent), -torch.eye(latent)]).double()
    values = {"0.weight": both, "0.bias": torch.zeros(2 * latent), "2.weight": torch.cat([weight, -weight], 1)}
    decoder.body.load_state_dict(values | {"2.bias": bias})
    decoder.spread.data.copy_(spread)
    return decoder


def test_decoder_is_a_gaussian_density_and_bounded() -> None:
    weight, bias, spread, z, x = numbers(4, 2), numbers(4), numbers(4), numbers(6, 2, seed=1), numbers(6, 4, seed=2)
    decoder = linear_decoder(weight, bias, spread)
    expected = Normal(z @ weight.T + bias, bounded(spread).mul(0.5).exp()).log_prob(x).sum(-1)
    torch.testing.assert_close(decoder(z, x), expected)
    decoder.spread.data.fill_(-1e6)
    torch.testing.assert_close(decoder(z, z @ weight.T + bias), torch.full((6,), decoder.highest()).double())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_bounded_is_the_identity_near_0_and_keeps_its_limit(scale: float) -> None:
    values = scale * torch.linspace(-3, 3, 13)
    found = bounded(values)
    assert (found.abs() <= LIMIT).all() and torch.equal(found.sign(), values.sign())
    if scale == 1e-3:
        torch.testing.assert_close(found, values)


def log_density(weight: Tensor, bias: Tensor, spread: Tensor, values: Tensor) -> Tensor:
    """Return log p of ``weight z + bias + noise`` with z standard normal: analytic."""
    covariance = weight @ weight.T + torch.diag(bounded(spread).exp())
    return MultivariateNormal(bias, covariance).log_prob(values)


def bound(decoders: tuple[Decoder, Decoder], q: Gaussian, values: Tensor, draws: int) -> Tensor:
    """Return the evidence lower bound of each row, its expectation by Monte Carlo."""
    z = q.at(numbers(draws, *q.mean.shape, seed=9))
    targets = values.expand(draws, *values.shape).split([len(d.spread) for d in decoders], -1)
    return sum(d(z, t) for d, t in zip(decoders, targets, strict=True)).mean(0) - q.divergence()


def test_bound_is_below_the_evidence_of_a_linear_gaussian_model() -> None:
    """reference/methods.md 10e; whatever the experts say."""
    weight, bias, spread = numbers(5, 2), numbers(5, seed=1), numbers(5, seed=2)
    decoders = tuple(linear_decoder(weight[s], bias[s], spread[s]) for s in (slice(0, 3), slice(3, 5)))
    values = numbers(8, 5, seed=3)
    for seed in range(5):
        posterior = product([gaussian(8, 2, seed=seed), gaussian(8, 2, seed=seed + 10)])
        found = bound((decoders[0], decoders[1]), posterior, values, 100_000)
        gap = log_density(weight, bias, spread, values) - found
        assert (gap > 0).all() and gap.min() < 20


def test_bound_is_the_evidence_at_the_exact_posterior() -> None:
    """With each latent dimension alone in its columns the posterior is a product of one expert per modality."""
    weight = torch.zeros(5, 2).double()
    weight[[0, 1, 3], 0], weight[[2, 4], 1] = numbers(3), numbers(2, seed=1)
    bias, spread, values = numbers(5, seed=2), numbers(5, seed=3), numbers(8, 5, seed=4)
    sides = (slice(0, 3), slice(3, 5))
    decoders = tuple(linear_decoder(weight[s], bias[s], spread[s]) for s in sides)
    noise = bounded(spread).exp()
    experts = []
    for s in sides:
        precision = (weight[s].square() / noise[s, None]).sum(0)
        mean = ((values[:, s] - bias[s]) / noise[s]) @ weight[s] / precision
        experts.append(Gaussian(mean, precision.expand(8, -1)))
    found = bound((decoders[0], decoders[1]), product(experts), values, 200_000)
    torch.testing.assert_close(found, log_density(weight, bias, spread, values), rtol=0, atol=0.02)


# unrelated pairs


@pytest.mark.parametrize("valid", [[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
def test_shifts_move_within_the_valid_rows(valid: list[int]) -> None:
    places = [i for i, v in enumerate(valid) if v]
    expected = torch.zeros(4, 5, 5, dtype=torch.bool)
    for step in range(4):
        for r, place in enumerate(places):
            expected[step, place, places[(r + step) % len(places)]] = True
    assert torch.equal(shifts(torch.tensor(valid).bool(), 3), expected)


def standard(v: Array) -> Array:
    result: Array = (v - v.mean(0)) / np.sqrt(v.var(0) + STILL)
    return result


def related_loop(model: RelatedPairs, x: Array, y: Array, gamma: float, negatives: int) -> float:
    """The loss without noise, row by row and pair by pair."""
    a, b = torch.tensor(standard(x)), torch.tensor(standard(y))
    n, dims = len(x), x.shape[1] + y.shape[1]

    def evidence(i: int | None, j: int | None) -> float:
        """The lower bound of row i of x with row j of y, or of one of them alone."""
        said, seen = [], []
        sides = ((i, a, model.expert_x, model.decoder_x), (j, b, model.expert_y, model.decoder_y))
        for row, values, expert, decoder in sides:
            if row is not None:
                said.append(expert(values[row]))
                seen.append((decoder, values[row]))
        precision = 1 + sum(e.precision for e in said)
        mean = sum(e.precision * e.mean for e in said) / precision
        divergence = (1 / precision + mean**2 - 1 + precision.log()).sum() / 2
        return float(sum(decoder(mean, target) for decoder, target in seen) - divergence)

    def share(scores: list[float]) -> float:
        return scores[0] - math.log(sum(math.exp(s) for s in scores))

    highest = dims * (LIMIT - math.log(2 * math.pi)) / 2
    total = 0.0
    for i in range(n):
        met = [(i + s) % n for s in range(min(negatives, n - 1) + 1)]
        contrast = -share([evidence(i, j) - evidence(None, j) for j in met])
        contrast -= share([evidence(j, i) - evidence(j, None) for j in met])
        below = 2 * highest - evidence(i, i) - evidence(i, None) - evidence(None, i)
        total += (gamma - 1) * below / (2 * dims) + contrast / 2
    return total / n


@pytest.mark.parametrize(("rows", "gamma"), [(11, 2.0), (11, 1.0), (4, 3.0)])
def test_related_pairs_is_the_loop(rows: int, gamma: float) -> None:
    x, y = make(rows, dim_y=3)
    model = cast(RelatedPairs, build("related_pairs", 4, 3, gamma=gamma, hidden=6, latent=2)).eval()
    with torch.no_grad():
        expected = related_loop(model, x, y, gamma, negatives=5)
    assert value(model, x, y) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("rows", "candidates"), [(2, 2), (3, 3), (5, 5), (6, 6), (7, 6), (20, 6)])
def test_negatives_like_the_positive_make_the_contrast_a_guess(rows: int, candidates: int) -> None:
    """reference/methods.md 10e: log N, also with noise, which all candidates of a row share."""
    x = np.full((rows, 4), 1.5)
    model = build("related_pairs", 4, gamma=1.0)
    assert value(model, x, 2 * x) == pytest.approx(math.log(candidates), rel=1e-12)
    assert chance(model, x, x) == pytest.approx(math.log(candidates), rel=1e-12)
    assert chance(model, *make(rows)) == pytest.approx(math.log(candidates), rel=1e-12)


def test_chance_is_the_loss_of_a_model_that_knows_means_and_variances_alone() -> None:
    """Silent experts and decoders; one dimension is constant, at the least variance, and one hardly varies."""
    x, y = make(dim_y=3)
    x[:, 0] *= 0.01
    y[:, 1] = 4.0
    model = cast(RelatedPairs, build("related_pairs", 4, 3, gamma=3.0))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    for expert, decoder, values in ((model.expert_x, model.decoder_x, x), (model.expert_y, model.decoder_y, y)):
        list(expert.parameters())[3].data.chunk(2)[1].fill_(1e6)  # as little as an expert can say
        variance = np.maximum(standard(values).var(0), math.exp(-LIMIT))
        decoder.spread.data.copy_(LIMIT * torch.atanh(torch.tensor(np.log(variance) / LIMIT).clamp(-1 + 1e-12)))
    assert value(model.eval(), x, y) == pytest.approx(chance(model, x, y), rel=1e-3)  # the experts say a little
    assert chance(model, x, y) < 2 * (1 + LIMIT) / 2 * 6 / 7 + math.log(6)


@pytest.mark.parametrize("square", [0.0, 1e-3, math.exp(-LIMIT), 0.1, 1.0, 4.0])
def test_least_is_the_minimum_over_the_variances_allowed(square: float) -> None:
    variances = np.exp(np.linspace(-LIMIT, LIMIT, 100_001))
    expected = min((square / variances + np.log(variances) + LIMIT) / 2)
    assert float(least(torch.tensor([square]).double())) == pytest.approx(expected, abs=1e-7)


# learning


def test_embeddings_learn_through_the_experts_alone() -> None:
    """With silenced experts nothing reaches the embeddings: what is to be explained has no gradient."""
    pair = as_pair(*make(dim_y=3))
    model = cast(RelatedPairs, build("related_pairs", 4, 3))
    gx, gy, joint = slopes(model, pair)
    assert gx.any() and gy.any() and not joint.any()
    for expert in (model.expert_x, model.expert_y):
        nn.init.zeros_(list(expert.parameters())[2])
    assert not any(g.any() for g in slopes(model, pair))


def test_noise_follows_the_key_in_training_and_is_0_in_evaluation() -> None:
    x, y = make()
    model = cast(RelatedPairs, build("related_pairs", 4))
    one, still = value(model, x, y), value(model.eval(), x, y)
    model.train().noise.key.fill_(5)
    other = value(model, x, y)
    assert value(model, x, y) == other and len({one, other, still}) == 3


def causes(seed: int, related: bool, rows: int = 64, dim: int = 8) -> Pair:
    """Return modalities that three common causes, or three each, make through fixed weights."""
    weights = np.random.default_rng(99).normal(size=(2, 3, dim))
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, rows, 3))
    x, y = a @ weights[0], (a if related else b) @ weights[1]
    return as_pair(x + 0.3 * rng.normal(size=x.shape), y + 0.3 * rng.normal(size=y.shape))


@pytest.mark.parametrize("related", [True, False])
def test_contrast_on_new_batches_is_met_by_related_pairs_and_a_guess_for_unrelated_ones(related: bool) -> None:
    model = cast(RelatedPairs, build("related_pairs", 8))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for seed in range(200):
        optimizer.zero_grad()
        model(causes(seed, related)).backward()
        optimizer.step()
    model.gamma.fill_(1.0)
    with torch.no_grad():
        contrast = np.mean([float(model(causes(1000 + k, related))) for k in range(5)]) / math.log(6)
    assert contrast < 0.25 if related else abs(contrast - 1) < 0.05


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"gamma": 0.5}, r"related_pairs\.gamma: must be 1 \(contrast alone\) or more, got 0\.5"),
        ({"negatives": 0}, r"related_pairs\.negatives: must be 1 or more, got 0"),
    ],
)
def test_what_has_no_meaning_is_refused(settings: dict[str, float], match: str) -> None:
    with pytest.raises(UserError, match=match):
        build("related_pairs", 4, **settings)
