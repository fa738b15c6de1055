"""Random numbers that depend on a member's own seed and step alone: stateless, equal on every device and in any
company."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmsa_core.errors import UserError
from mmsa_core.plugin import hyper


def mix(*parts: int | str) -> int:
    """Return a 31-bit seed that depends on all ``parts``: the only way seeds are derived in this project."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") & 0x7FFFFFFF


def uniform_bits(shape: tuple[int, ...], key: Int[Tensor, ""]) -> Int[Tensor, "..."]:
    """Return uniform integers in [0, 2**31) of ``shape``: a counter hashed with ``key``.

    A generator would need one draw per member and its state in every checkpoint; a hash needs neither.
    """
    count = torch.Size(shape).numel()
    return hashed(torch.arange(count, dtype=torch.int32, device=key.device).view(shape), key)


def hashed(numbers: Int[Tensor, "*shape"], key: Int[Tensor, ""]) -> Int[Tensor, "*shape"]:
    """Return an integer in [0, 2**31) for each int32 number, a function of it and ``key`` (murmur3's finaliser)."""
    h = numbers * -1640531527 + key
    h = (h ^ ((h >> 16) & 0xFFFF)) * -2048144789
    h = (h ^ ((h >> 13) & 0x7FFFF)) * -1028477387
    return h ^ (h >> 16)  # the arithmetic shift clears the sign: 31 uniform bits


class Noise(nn.Module):
    """Random numbers of one layer: a function of the member's seed, the step (both in ``key``, which training sets) and
    the layer's name. The base of all that draws."""

    def __init__(self) -> None:
        super().__init__()
        self.key = nn.Buffer(torch.zeros((), dtype=torch.int32), persistent=False)
        self.salt = 0

    def bits(self, shape: tuple[int, ...]) -> Int[Tensor, "..."]:
        """Return uniform integers in [0, 2**31), equal at every call of a step."""
        return uniform_bits(shape, self.key + self.salt)


class Dropout(Noise):
    """Dropout whose mask is a function of the member's seed, the step and the layer."""

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise UserError(f"dropout: must be 0 or more and below 1, got {p}")
        self.p = hyper(p)
        self.idle = False

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if not self.training or self.idle:
            return x
        keep = self.bits(tuple(x.shape)) >= (self.p * 2147483648.0).to(torch.int32)
        return torch.where(keep, x / (1 - self.p), torch.zeros((), dtype=x.dtype, device=x.device))


class Uniform(Noise):
    """Uniform numbers in [0, 1)."""

    def forward(self, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
        return (self.bits(shape) >> 7).float() / 2**24  # the 24 bits that a float32 can hold


class Normal(Noise):
    """Standard normal numbers."""

    def forward(self, shape: tuple[int, ...]) -> Float[Tensor, "..."]:
        # symmetric in (-1, 1) and never an end, which would be infinite: 24 bits and the half would round up to 1
        centred = ((self.bits(shape) >> 8).float() + 0.5) / 2**22 - 1
        return torch.erfinv(centred) * 2**0.5


def salt_layers(model: nn.Module) -> list[str]:
    """Give every layer of ``model`` that draws its own stream by its name; return the names of their ``key``
    buffers."""
    keys = []
    for name, module in model.named_modules():
        if isinstance(module, Noise):
            module.salt = mix("layer", name)
            keys.append(f"{name}.key")
    return keys


def rest(model: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Let the dropout that drops nothing of any member, by ``buffers`` [member], return what it is given: the same
    numbers without a mask."""
    for name, module in model.named_modules():
        if isinstance(module, Dropout):
            module.idle = not buffers[f"{name}.p"].any()
