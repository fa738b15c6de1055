"""What all contract tests share: plug-ins with other float settings, and runs of many members at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from mmsa_core import registry
from mmsa_core.noise import Noise, salt_layers
from mmsa_core.plugin import PretrainedEncoder


def stackable_encoders() -> tuple[str, ...]:
    """Return the encoders whose members can be stacked: all but those of pre-trained models."""
    return tuple(
        n for n in registry.names("encoders") if not issubclass(registry.load("encoders", n), PretrainedEncoder)
    )


def float_settings(kind: str, name: str, variant: int) -> dict[str, float]:
    """Return values for all float arguments of a plug-in: the defaults for variant 0, other valid ones after it."""
    floats = [p for p in registry.card(kind, name).parameters if p.kind == "float"]
    return {p.name: p.default * (1 + 0.2 * variant) + 0.03 * variant for p in floats}


def members(kind: str, name: str, *context: Any, count: int = 3) -> list[nn.Module]:
    """Return modules of one structure with different float settings, initial weights and dropout keys."""
    made = []
    for i in range(count):
        torch.manual_seed(100 + i)
        module = registry.build(kind, name, *context, **float_settings(kind, name, i))
        salt_layers(module)
        for layer in module.modules():
            if isinstance(layer, Noise):
                layer.key.fill_(1234567 * (i + 1))
        made.append(module)
    return made


def gradients(loss: Tensor, wanted: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradient of ``loss`` with respect to every tensor, zeros where it does not depend on it."""
    if not loss.requires_grad:
        return [torch.zeros_like(w) for w in wanted]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(found, wanted, strict=True)]


def assert_same_alone_and_together(modules: list[nn.Module], inputs: list[Tensor], call: Callable[..., Tensor]) -> None:
    """Assert that members stacked by vmap give the values and gradients that each gives alone.

    ``call(run, *inputs)`` runs the plug-in as ``run(...)``; every tensor of ``inputs`` has the member axis first, and
    the float ones are differentiated as well as the parameters.
    """
    parameters, buffers = stack_module_state(modules)
    differentiable = [i.detach().requires_grad_() for i in inputs if i.is_floating_point()]
    parts = iter(differentiable)
    together_inputs = [next(parts) if i.is_floating_point() else i for i in inputs]

    def one(own: dict[str, Tensor], floats: dict[str, Tensor], *given: Tensor) -> Tensor:
        return call(lambda *args: functional_call(modules[0], (own, floats), args), *given)

    together = vmap(one)(parameters, buffers, *together_inputs)
    # weights that differ between entries, so that no gradient hides in a symmetric sum
    weights = torch.linspace(0.5, 1.5, together[0].numel()).view_as(together[0])
    wanted = [*parameters.values(), *differentiable]
    together_gradients = gradients((together * weights).sum(), wanted)
    for k, module in enumerate(modules):
        own_floats = [d[k].detach().clone().requires_grad_() for d in differentiable]
        rest = iter(own_floats)
        own_inputs = [next(rest) if i.is_floating_point() else i[k] for i in inputs]
        alone = call(module, *own_inputs)
        assert_near(together[k], alone)
        own = dict(module.named_parameters())
        alone_gradients = gradients((alone * weights).sum(), [*(own[n] for n in parameters), *own_floats])
        for a, b in zip(together_gradients, alone_gradients, strict=True):
            assert_near(a[k], b)


def assert_near(a: Tensor, b: Tensor, rtol: float = 1e-4) -> None:
    """Assert equality relative to the largest entry: rounding in a sum follows its largest terms."""
    assert a.shape == b.shape
    assert torch.isfinite(a).all() and torch.isfinite(b).all()
    scale = max(float(b.detach().abs().max()) if b.numel() else 0.0, 1e-6)
    torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * scale)


def assert_floats_are_buffers(kind: str, name: str, *context: Any) -> None:
    """Assert that another value of a float argument changes one 0-dim buffer and nothing else."""
    for argument, value in float_settings(kind, name, 1).items():
        torch.manual_seed(0)
        one = registry.build(kind, name, *context)
        torch.manual_seed(0)
        other = registry.build(kind, name, *context, **{argument: value})
        for (n, a), (m, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
            assert n == m and torch.equal(a, b), f"{argument} must not change the parameters"
        mine, theirs = dict(one.named_buffers()), dict(other.named_buffers())
        changed = [n for n in mine if not torch.equal(mine[n], theirs[n])]
        assert len(changed) == 1 and mine[changed[0]].shape == (), f"{argument} must end in one 0-dim buffer"
