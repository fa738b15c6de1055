"""Random numbers from a hash: their distribution, and what they depend on."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor, nn
from torch.func import functional_call, vmap

from mmsa_core.errors import UserError
from mmsa_core.noise import Dropout, Normal, mix, salt_layers, uniform_bits

N = 200_000


def key(value: int) -> Tensor:
    return torch.tensor(value, dtype=torch.int32)


def layer(p: float, at: int = 12345, salt: int = 0) -> Dropout:
    made = Dropout(p)
    made.key.fill_(at)
    made.salt = salt
    return made


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.9])
def test_keep_rate_and_mean(p: float) -> None:
    out = layer(p)(torch.ones(N // 100, 100))
    kept = (out != 0).float().mean().item()
    assert abs(kept - (1 - p)) < 5 * (p * (1 - p) / N) ** 0.5
    assert abs(out.mean().item() - 1) < 5 * (p / (1 - p) / N) ** 0.5
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 1 / (1 - p)))


def test_p_0_and_evaluation_change_nothing() -> None:
    x = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer(0.0)(x), x)
    assert torch.equal(layer(0.7).eval()(x), x) and not torch.equal(layer(0.7)(x), x)


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_p_must_be_a_rate_that_keeps_something(p: float) -> None:
    with pytest.raises(UserError, match="dropout: must be 0 or more and below 1, got"):
        Dropout(p)


def test_mask_is_a_function_of_key_and_salt() -> None:
    x = torch.ones(64, 32)
    out = layer(0.5)(x)
    assert torch.equal(layer(0.5)(x), out) and torch.equal(layer(0.5)(2 * x), 2 * out)
    for other in (layer(0.5, at=12346), layer(0.5, salt=1), layer(0.5, at=-5), layer(0.5, salt=2**31 - 1)):
        same = (other(x) != 0).eq(out != 0).float().mean().item()
        assert abs(same - 0.5) < 5 * 0.5 / 2048**0.5


def test_gradient_goes_through_what_is_kept() -> None:
    x = torch.ones(64, 32, requires_grad=True)
    out = layer(0.25)(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient, out.detach())


def test_the_same_under_vmap_and_alone() -> None:
    x = torch.randn(4, 30, 8, generator=torch.Generator().manual_seed(0))
    keys = torch.tensor([7, 2**31 - 1, 0, 123456789], dtype=torch.int32)
    rates = torch.tensor([0.1, 0.3, 0.5, 0.0])
    template = layer(0.0, salt=99)
    together = vmap(lambda p, k, v: functional_call(template, {"p": p, "key": k}, (v,)))(rates, keys, x)
    for i in range(4):
        alone = layer(float(rates[i]), at=int(keys[i]), salt=99)(x[i])
        assert torch.equal(together[i], alone)


@pytest.mark.parametrize("start", [0, 1000, 2**31 - 2])
@pytest.mark.parametrize("step", [1, 2, 256, 2**20])
def test_streams_of_near_keys_are_uncorrelated(start: int, step: int) -> None:
    there = (start + step) % 2**31
    a, b = (uniform_bits((N,), key(k)).double() / 2**31 - 0.5 for k in (start, there))
    assert abs((a * b).mean().item()) * 12 < 5 / N**0.5
    assert abs((a[1:] * b[:-1]).mean().item()) * 12 < 5 / N**0.5


@pytest.mark.parametrize("start", [0, 1, 77, -3, 2**31 - 1, mix("weights", 1)])
def test_bits_are_uniform(start: int) -> None:
    bits = uniform_bits((N,), key(start))
    assert bits.dtype == torch.int32 and int(bits.min()) >= 0 and int(bits.max()) < 2**31
    for shift in (0, 11, 25):  # the lowest, middle and highest six of 31 bits
        counts = ((bits >> shift) & 63).bincount(minlength=64).double()
        chi2 = ((counts - N / 64) ** 2 / (N / 64)).sum().item()
        assert 63 - 5 * 126**0.5 < chi2 < 63 + 5 * 126**0.5  # mean 63 and variance 126 for 63 degrees of freedom
    centred = bits.double() / 2**31 - 0.5
    assert abs((centred[1:] * centred[:-1]).mean().item()) * 12 < 5 / N**0.5


@pytest.mark.parametrize("bits", [0, 2**30, 2**31 - 1])
def test_normal_numbers_are_finite_at_the_ends(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    """An infinite draw every 2^24 would end a member of a long study."""
    monkeypatch.setattr(Normal, "bits", lambda _, shape: torch.full(shape, bits, dtype=torch.int32))
    assert Normal()((2,)).isfinite().all()


def test_normal_numbers_have_the_moments_of_the_normal_distribution() -> None:
    drawn = Normal()((N,)).double()
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((drawn**power).mean().item() - expected) < 5 * (variance / N) ** 0.5


def test_shape_only_arranges_the_stream() -> None:
    assert torch.equal(uniform_bits((6, 5, 2), key(3)).flatten(), uniform_bits((60,), key(3)))


def test_mix_is_stable() -> None:
    """Pinned: another value would silently change every seed of every published study."""
    assert (mix("weights", 0), mix("layer", "model.head.dropout"), mix(1, 2, 3)) == (921303426, 1631591138, 1311293172)


def test_mix_depends_on_every_part_and_its_place() -> None:
    made = [mix("weights", 1), mix("weights", 2), mix("layer", 1), mix(1, "weights"), mix("weights")]
    assert len(set(made)) == len(made) and all(0 <= m < 2**31 for m in made)


def test_every_layer_gets_its_own_stream() -> None:
    model = nn.Sequential(Dropout(0.5), nn.Linear(4, 4), nn.Sequential(Dropout(0.5)))
    assert salt_layers(model) == ["0.key", "2.0.key"]
    x = torch.ones(64, 32)
    assert not torch.equal(model[0](x), model[2](x))


def test_shapes_are_checked_in_tests() -> None:
    keys = torch.arange(3, dtype=torch.int32)
    assert vmap(lambda k: uniform_bits((5,), k))(keys).shape == (3, 5)
    with pytest.raises(TypeCheckError, match="key"):
        uniform_bits((5,), keys)
    with pytest.raises(TypeCheckError, match="key"):
        vmap(lambda k: uniform_bits((5,), k[None]))(keys)
