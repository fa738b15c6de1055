"""Many members as one batched model: the only place that knows the member axis.

Modules are written for one member; ``torch.func.vmap`` adds the axis. All parameters are one matrix with a row per
member, so that a step of every member's AdamW is a handful of calls. A member's numbers depend on its configuration and
seed alone: its weights, batch order and dropout come from its own seed, and no operation mixes rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap

from mmsa_core import registry
from mmsa_core.config import MODALITIES, NONE, MemberConfig
from mmsa_core.loader import SplitTensors, take, widths
from mmsa_core.model import Member
from mmsa_core.noise import mix, rest, salt_layers
from mmsa_core.plugin import GradientWeighting, PretrainedEncoder
from mmsa_core.replay import Replay, record
from mmsa_core.tensors import Batch

EVALUATION_FLOATS = 2**20
"""Input values per member that are evaluated at once: bounds memory, whatever the sequences' length."""
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
MET = 8
"""A batch size is recorded when it comes for this time: recording takes about as long as it saves in 20 to 40 steps."""
WIDE = 2**14
"""Weights of a layer whose gradient is not to be copied."""


@dataclass(frozen=True)
class MemberSpec:
    """A member: a completed configuration and a seed."""

    config: MemberConfig
    seed: int

    def signature(self) -> str:
        """Return what must be equal inside a population; of a member that cannot be stacked it is its own alone."""
        return self.config.signature() + ("" if stackable(self.config) else f" alone: {self.seed}")


def stackable(config: MemberConfig) -> bool:
    """Tell whether members of a configuration can be trained as one batched model."""
    return not any(issubclass(registry.load("encoders", p.name), PretrainedEncoder) for p in config.encoders.values())


class Population:
    """K members of equal signature in training."""

    def __init__(self, specs: Sequence[MemberSpec], train: SplitTensors) -> None:
        signatures = {s.signature() for s in specs}
        assert len(signatures) == 1, "members of a population must have one signature"
        self.train = train
        self.config = specs[0].config
        self.data = train.batch(self.config)
        self.seeds = [s.seed for s in specs]
        self.alive = len(specs)
        self.steps = 0
        models = initialised(specs, self.data, train)
        self.template = models[0]
        self.noise_keys = salt_layers(self.template)
        lay_out(self.template)
        self._forget()
        self.names, shapes = zip(*((n, p.shape) for n, p in self.template.named_parameters()), strict=True)
        self.shapes: tuple[torch.Size, ...] = shapes
        rows = torch.stack([torch.nn.utils.parameters_to_vector(m.parameters()).detach() for m in models])
        self.moment1, self.moment2 = torch.zeros_like(rows), torch.zeros_like(rows)
        self.weights = rows.requires_grad_()
        columns = [dict(m.named_buffers()) for m in models]
        self.buffers = {n: torch.stack([c[n] for c in columns]) for n in columns[0] if n not in self.noise_keys}
        rest(self.template, self.buffers)
        self.rates, self.decay, self.clip = _optimizer_rows(specs, self.names, self.shapes, train.device)
        self.owners = owners(self.names, self.shapes).to(train.device)

    def __len__(self) -> int:
        return self.alive

    @property
    def parameters(self) -> int:
        """How many numbers of one member are trained."""
        return self.weights.shape[1]

    def train_epoch(self, epoch: int) -> Float[Tensor, "member"]:
        """Train every member for one epoch (counted from 1); return its mean training loss, without a device sync."""
        rows, keys = self._order(epoch)
        number = torch.tensor(epoch, device=self.train.device)
        self.template.train()
        losses, gradients = [], []
        batches = rows.split(self.config.batch_size, dim=-1)
        for step, index in enumerate(batches):
            loss, gradient = self._replayed(index, keys[:, step], number)
            losses.append(loss)
            gradients.append(gradient)
            if len(gradients) == self.config.optimizer.accumulate or step + 1 == len(batches):
                self._step(gradient if len(gradients) == 1 else torch.stack(gradients).mean(0))
                gradients.clear()
        return torch.stack(losses, 1).mean(1)[: self.alive]

    def predict(self, data: Batch) -> Float[Tensor, "member row"]:
        """Return every member's predictions for a whole split."""
        self.template.eval()

        def one(state: dict[str, Tensor], batch: Batch) -> Tensor:
            prediction: Tensor = functional_call(self.template.model, state, (batch,)).prediction
            return prediction

        size = max(1, EVALUATION_FLOATS // sum(f.values[0].numel() for f in data.features))
        chunks = torch.arange(len(data.available), device=self.train.device).split(size)
        states = self._inference()
        with torch.no_grad():
            members = [vmap(one)(states, take(data, c.expand(len(self.seeds), -1))) for c in chunks]
        return torch.cat(members, 1)[: self.alive]

    def model_states(self, rows: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Return the inference part of the members ``rows`` (of all), stacked: parameters and float settings of
        ``SentimentModel``."""
        index = torch.tensor(range(self.alive) if rows is None else rows, device=self.train.device)
        return {n: t[index] for n, t in self._inference().items()}

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all members but ``rows``; the survivors go on exactly as they would have.

        The last survivor is kept twice: a product over one member takes another kernel, which rounds differently.
        """
        self.alive = len(rows)
        kept = [*rows, *rows] if len(rows) == 1 and len(self.seeds) > 1 else list(rows)
        index = torch.tensor(kept, device=self.train.device)
        self.seeds = [self.seeds[r] for r in kept]
        self.weights = self.weights.detach()[index].requires_grad_()
        self.moment1, self.moment2 = self.moment1[index], self.moment2[index]
        self.buffers = {n: b[index] for n, b in self.buffers.items()}
        self.rates, self.decay, self.clip = self.rates[index], self.decay[index], self.clip[index]
        self._forget()

    def state(self) -> dict[str, Tensor]:
        """Return everything that training changes, for a checkpoint between epochs."""
        own = {"weights": self.weights.detach(), "moment1": self.moment1, "moment2": self.moment2}
        own["steps"] = torch.tensor(self.steps)
        return own | {f"buffers.{n}": b for n, b in self.buffers.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up a state of the same members."""
        self.weights = state["weights"].to(self.train.device, copy=True).requires_grad_()
        self.moment1 = state["moment1"].to(self.train.device, copy=True)
        self.moment2 = state["moment2"].to(self.train.device, copy=True)
        self.steps = int(state["steps"])
        self.buffers = {n: state[f"buffers.{n}"].to(self.train.device, copy=True) for n in self.buffers}
        self._forget()

    def _order(self, epoch: int) -> tuple[Int[Tensor, "member row"], Int[Tensor, "member step"]]:
        """Return each member's sample order and noise keys: functions of its seed and the epoch alone."""
        drawn = {s: draw_epoch(s, epoch, self.config, self.train) for s in set(self.seeds)}
        order, keys = (torch.from_numpy(np.stack([drawn[s][i] for s in self.seeds])) for i in (0, 1))
        return order.to(self.train.device), keys.to(self.train.device)

    def _forget(self) -> None:
        """Forget what is recorded: it holds on to the memory of the weights and buffers of then."""
        self.met: Counter[int] = Counter()
        self.replays: dict[int, Replay | None] = {}

    def _replayed(
        self, rows: Int[Tensor, "member batch"], keys: Int[Tensor, "member"], epoch: Tensor
    ) -> tuple[Float[Tensor, "member"], Float[Tensor, "member all"]]:
        """Return what :meth:`_gradient` does, replayed where a batch of this size is recorded.

        On a CPU this makes an epoch 1.5 times as fast with 16 members and vectors, twice with one member.
        """
        size = rows.shape[1]
        self.met[size] += 1
        if self.met[size] == MET:
            stored = [self.weights, *self.buffers.values()]
            found, self.replays[size] = record(self._gradient, (rows, keys, epoch), stored)
        else:
            replay = self.replays.get(size)
            found = (self._gradient if replay is None else replay)(rows, keys, epoch)
        loss, gradient = found
        return loss, gradient

    def _gradient(
        self, rows: Int[Tensor, "member batch"], keys: Int[Tensor, "member"], epoch: Tensor
    ) -> tuple[Float[Tensor, "member"], Float[Tensor, "member all"]]:
        """Return every member's loss and gradient. Every member gets its own copy of its samples, even where seeds
        agree: a batch shared by all would turn its products into one whose rounding depends on the number of members,
        for less than 10 % of time."""
        parameters = self._parameters(self.weights)
        buffers = {**self.buffers, **self._keys(keys)}
        call = vmap(self._loss, in_dims=(0, 0, None, 0, None, None))
        losses = call(parameters, buffers, self.data, rows, self.train.labels, epoch)
        count = losses.shape[1]
        gradients = [
            torch.autograd.grad(losses[:, k].sum(), self.weights, retain_graph=k + 1 < count)[0] for k in range(count)
        ]
        losses = losses.detach()
        if count == 1:
            return losses[:, 0], gradients[0]
        return losses.sum(1), self._balanced(buffers, losses, torch.stack(gradients, 1))

    def _balanced(
        self,
        buffers: dict[str, Tensor],
        losses: Float[Tensor, "member task"],
        gradients: Float[Tensor, "member task all"],
    ) -> Float[Tensor, "member all"]:
        """Return every member's gradient as its weighting makes it of those of the tasks."""
        weighting = self.template.weighting
        assert isinstance(weighting, GradientWeighting)
        own = {n.removeprefix("weighting."): t for n, t in buffers.items() if n.startswith("weighting.")}

        def one(state: dict[str, Tensor], loss: Tensor, gradient: Tensor) -> Tensor:
            balanced: Tensor = functional_call(weighting, state, (loss, gradient, self.owners))
            return balanced

        return vmap(one)(own, losses, gradients)

    def _step(self, gradient: Float[Tensor, "member all"]) -> None:
        self.steps += 1
        with torch.no_grad():
            norm = gradient.norm(dim=1)
            gradient *= (self.clip / (norm + 1e-6)).clamp(max=1.0)[:, None]
            adamw(self.weights.detach(), gradient, (self.moment1, self.moment2), self.steps, self.rates, self.decay)

    def _loss(
        self,
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        data: Batch,
        rows: Tensor,
        labels: Tensor,
        epoch: Tensor,
    ) -> Tensor:
        result: Tensor = functional_call(self.template, (parameters, buffers), (data, rows, labels, epoch))
        return result

    def _inference(self) -> dict[str, Tensor]:
        everything = {**self._parameters(self.weights.detach()), **self.buffers}
        return {n.removeprefix("model."): t for n, t in everything.items() if n.startswith("model.")}

    def _parameters(self, weights: Float[Tensor, "member all"]) -> dict[str, Tensor]:
        parts = weights.split([s.numel() for s in self.shapes], 1)
        return {n: p.view(-1, *s) for n, p, s in zip(self.names, parts, self.shapes, strict=True)}

    def _keys(self, keys: Int[Tensor, "member"]) -> dict[str, Tensor]:
        return dict.fromkeys(self.noise_keys, keys.to(self.train.device))


def adamw(
    weights: Float[Tensor, "member all"],
    gradient: Float[Tensor, "member all"],
    moments: tuple[Float[Tensor, "member all"], Float[Tensor, "member all"]],
    step: int,
    rates: Float[Tensor, "member segment"],
    decay: Float[Tensor, "member"],
) -> None:
    """Update every row in place by AdamW with its own learning rates and weight decay.

    On a CPU one fused kernel per row is 3 to 7 times faster than whole-matrix operations; on a GPU it would be a launch
    per row. ``rates`` has a column per parameter, or one column for all.

    Source: Loshchilov and Hutter, ICLR 2019, arXiv:1711.05101, algorithm 2.
    """
    first, second = moments
    if weights.device.type == "cpu" and rates.shape[1] == 1:
        count = [torch.tensor(float(step))]
        rows = zip(weights, gradient, first, second, rates[:, 0].tolist(), decay.tolist(), strict=True)
        for w, g, m, v, lr, wd in rows:
            torch._fused_adamw_(
                [w], [g], [m], [v], [], count, lr=lr, beta1=BETA1, beta2=BETA2, weight_decay=wd, eps=EPSILON,
                amsgrad=False, maximize=False,
            )  # fmt: skip
        return
    weights.mul_(1 - rates * decay[:, None])
    first.lerp_(gradient, 1 - BETA1)
    second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    scale = (second / (1 - BETA2**step)).sqrt_().add_(EPSILON)
    weights.sub_(first.div(scale).mul_(rates / (1 - BETA1**step)))


def draw_epoch(
    seed: int, epoch: int, config: MemberConfig, train: SplitTensors
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return a member's sample order [row] and noise keys [step] of an epoch: functions of its seed and the epoch.

    Where the strategy streams, the domains come one after the other, in an order that is the member's own.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(train))
    keys = rng.integers(0, 2**31, math.ceil(len(train) / config.batch_size), dtype=np.int32)
    if config.strategy.name != NONE and registry.load("strategies", config.strategy.name).streams:
        domains = train.rows.domains.cpu().numpy()
        rank = np.random.default_rng(seed).permutation(domains.max() + 1)
        order = order[np.argsort(rank[domains[order]], kind="stable")]
    return order, keys


def lay_out(template: nn.Module) -> None:
    """Have the gradients of wide layers come out in the layout of the weights: with 16 members and text of width 768
    the copy was a sixth of the time."""

    def forward(layer: nn.Linear, x: Tensor) -> Tensor:
        if x.ndim != 2:
            return F.linear(x, layer.weight, layer.bias)
        return (layer.weight @ x.mT).mT + layer.bias

    for layer in template.modules():
        if type(layer) is nn.Linear and layer.weight.numel() >= WIDE and layer.bias is not None:
            layer.forward = partial(forward, layer)  # type: ignore[method-assign]


def owners(names: Sequence[str], shapes: Sequence[torch.Size]) -> Int[Tensor, "all"]:
    """Return whose each parameter is: the position of the modality of its encoder or projection, or -1."""
    own = [int(n.split(".")[2]) if n.startswith(("model.encoders.", "model.projections.")) else -1 for n in names]
    return torch.tensor(own).repeat_interleave(torch.tensor([s.numel() for s in shapes]))


def initialised(specs: Sequence[MemberSpec], data: Batch, train: SplitTensors) -> list[Member]:
    """Make every member's modules with the weights its seed gives."""
    config = specs[0].config
    inputs, table = widths(data, config), train.table(config)
    members = []
    for spec in specs:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix("weights", spec.seed))
            members.append(Member(spec.config, inputs, table, train.rows).to(train.device))
    return members


def _optimizer_rows(
    specs: Sequence[MemberSpec], names: Sequence[str], shapes: Sequence[torch.Size], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return learning rates (one column, or one per parameter where encoders have their own), weight decay and clip."""
    settings = [s.config.optimizer for s in specs]
    order = specs[0].config.modalities
    factors = [{m: float(getattr(o, m)) for m in MODALITIES} for o in settings]
    if all(f[m] == 1.0 for f in factors for m in order):
        rates = torch.tensor([[o.lr] for o in settings])
    else:
        owners = [order[int(n.split(".")[2])] if n.startswith("model.encoders.") else None for n in names]
        sizes = torch.tensor([s.numel() for s in shapes])
        columns = [[o.lr * (f[m] if m else 1.0) for m in owners] for o, f in zip(settings, factors, strict=True)]
        rates = torch.tensor(columns).repeat_interleave(sizes, 1)
    decay = torch.tensor([o.weight_decay for o in settings])
    clip = torch.tensor([o.clip for o in settings])
    return rates.to(device), decay.to(device), clip.to(device)
