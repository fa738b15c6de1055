"""Members that cannot be stacked: each a model of its own, trained one after the other behind the population's face."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmsa_core.loader import SplitTensors, take
from mmsa_core.model import Member
from mmsa_core.noise import Noise, mix, salt_layers
from mmsa_core.plugin import GradientWeighting, PretrainedEncoder
from mmsa_core.population import BETA1, BETA2, EPSILON, MemberSpec, draw_epoch, initialised, owners
from mmsa_core.tensors import Batch

EVALUATION_ROWS = 256


class SoloMembers:
    """K members of one structure in training, as :class:`mmsa_core.population.Population` has them, one by one.

    A stackable configuration gives the same losses here as there: order, weights and dropout come from the same seeds.
    """

    def __init__(self, specs: Sequence[MemberSpec], train: SplitTensors) -> None:
        self.train = train
        self.config = specs[0].config
        self.data = train.batch(self.config)
        self.members = [_Solo(s, m, train) for s, m in zip(specs, initialised(specs, self.data, train), strict=True)]

    def __len__(self) -> int:
        return len(self.members)

    @property
    def parameters(self) -> int:
        """How many numbers of one member are trained."""
        return sum(p.numel() for p in self.members[0].member.parameters() if p.requires_grad)

    def train_epoch(self, epoch: int) -> Float[Tensor, "member"]:
        """Train every member for one epoch (counted from 1); return its mean training loss."""
        return torch.stack([m.train_epoch(self.data, epoch) for m in self.members])

    def predict(self, data: Batch) -> Float[Tensor, "member row"]:
        """Return every member's predictions for a whole split."""
        chunks = torch.arange(len(data.available), device=self.train.device).split(EVALUATION_ROWS)
        with torch.no_grad():
            models = [m.member.model.eval() for m in self.members]
            return torch.stack([torch.cat([model(take(data, c)).prediction for c in chunks]) for model in models])

    def model_states(self, rows: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Return the inference part of the members ``rows`` (of all), stacked; frozen parameters are the pre-trained
        model's."""
        states = [trained_state(self.members[k].member.model) for k in (range(len(self)) if rows is None else rows)]
        return {n: torch.stack([s[n] for s in states]) for n in states[0]}

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all members but ``rows``."""
        self.members = [self.members[r] for r in rows]

    def state(self) -> dict[str, Tensor]:
        """Return everything that training changes, for a checkpoint between epochs."""
        return {f"{k}.{n}": t for k, m in enumerate(self.members) for n, t in m.state().items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up a state of the same members."""
        for k, m in enumerate(self.members):
            m.restore({n.removeprefix(f"{k}."): t for n, t in state.items() if n.startswith(f"{k}.")})


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a module's state without its frozen parameters."""
    frozen = {n for n, p in module.named_parameters() if not p.requires_grad}
    return {n: t.detach().clone() for n, t in module.state_dict().items() if n not in frozen}


class _Solo:
    """One member and its optimiser."""

    def __init__(self, spec: MemberSpec, member: Member, train: SplitTensors) -> None:
        self.spec = spec
        self.member = member
        self.train = train
        salt_layers(member)
        self.noise = [m for m in member.modules() if isinstance(m, Noise)]
        self.optimizer = torch.optim.AdamW(_groups(spec, member), betas=(BETA1, BETA2), eps=EPSILON)
        self.trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.steps = 0

    def train_epoch(self, data: Batch, epoch: int) -> Float[Tensor, ""]:
        config, device = self.spec.config, self.train.device
        order, keys = draw_epoch(self.spec.seed, epoch, config, self.train)
        batches = torch.from_numpy(order).to(device).split(config.batch_size)
        number = torch.tensor(epoch, device=device)
        self.member.train()
        losses = []
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(mix("noise", self.spec.seed, epoch))  # of modules that are not ours
            for step, rows in enumerate(batches):
                for layer in self.noise:
                    layer.key.fill_(int(keys[step]))
                own = self.member(data, rows, self.train.labels, number)
                self._backward(own)
                losses.append(own.detach().sum())
                if (step + 1) % config.optimizer.accumulate == 0 or step + 1 == len(batches):
                    self._step(step % config.optimizer.accumulate + 1, len(batches))
        return torch.stack(losses).mean()

    def _backward(self, losses: Float[Tensor, "loss"]) -> None:
        """Add a batch's gradient to what is accumulated."""
        weighting = self.member.weighting
        if not isinstance(weighting, GradientWeighting):
            losses.sum().backward()
            return
        named = {n: p for n, p in self.member.named_parameters() if p.requires_grad}
        rows = []
        for k, loss in enumerate(losses):
            found = torch.autograd.grad(loss, list(named.values()), retain_graph=k + 1 < len(losses), allow_unused=True)
            parts = [torch.zeros_like(p) if g is None else g for g, p in zip(found, named.values(), strict=True)]
            rows.append(torch.cat([g.flatten() for g in parts]))
        whose = owners(list(named), [p.shape for p in named.values()]).to(self.train.device)
        gradient = weighting(losses.detach(), torch.stack(rows), whose)
        for p, g in zip(named.values(), gradient.split([p.numel() for p in named.values()]), strict=True):
            p.grad = g.view_as(p) if p.grad is None else p.grad + g.view_as(p)

    def _step(self, batches: int, batches_per_epoch: int) -> None:
        """Take one step by the mean gradient of the last ``batches`` batches."""
        every = self.spec.config.optimizer.accumulate
        per_epoch = -(-batches_per_epoch // every)
        self.steps += 1
        for group in self.optimizer.param_groups:
            rise = self.steps / max(1.0, group["warmup"] * per_epoch)
            group["lr"] = group["peak"] * min(1.0, rise)
        for p in self.trained:
            if p.grad is not None and batches > 1:
                p.grad /= batches
        nn.utils.clip_grad_norm_(self.trained, self.spec.config.optimizer.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self) -> dict[str, Tensor]:
        own = {f"member.{n}": t for n, t in trained_state(self.member).items()}
        for i, p in enumerate(self.trained):
            own |= {f"optimizer.{i}.{n}": t for n, t in self.optimizer.state[p].items()}
        return own | {"steps": torch.tensor(self.steps)}

    def restore(self, state: dict[str, Tensor]) -> None:
        own = {n.removeprefix("member."): t for n, t in state.items() if n.startswith("member.")}
        self.member.load_state_dict(own, strict=False)
        self.steps = int(state["steps"])
        for i, p in enumerate(self.trained):
            prefix = f"optimizer.{i}."
            found = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
            if found:
                self.optimizer.state[p] = {n: t if n == "step" else t.to(p.device, copy=True) for n, t in found.items()}


def _groups(spec: MemberSpec, member: Member) -> list[dict[str, object]]:
    """Return the optimiser's groups: pre-trained parts with and without decay, then every modality, then the rest."""
    settings, order = spec.config.optimizer, spec.config.modalities
    groups: list[dict[str, object]] = []
    taken: set[nn.Parameter] = set()

    def add(parameters: Sequence[nn.Parameter], lr: float, decay: float, warmup: float = 0.0) -> None:
        own = [p for p in parameters if p.requires_grad and p not in taken]
        taken.update(own)
        if own:
            groups.append({"params": own, "lr": lr, "peak": lr, "weight_decay": decay, "warmup": warmup})

    for encoder in member.model.encoders:
        if isinstance(encoder, PretrainedEncoder):
            lr, decay, warmup = (float(t) for t in (encoder.lr, encoder.weight_decay, encoder.warmup))
            matrices = [p for p in encoder.body.parameters() if p.ndim > 1]
            add(matrices, lr, decay, warmup)
            add([p for p in encoder.body.parameters() if p.ndim <= 1], lr, 0.0, warmup)
    for modality, encoder in zip(order, member.model.encoders, strict=True):
        add(list(encoder.parameters()), settings.lr * getattr(settings, modality), settings.weight_decay)
    add(list(member.parameters()), settings.lr, settings.weight_decay)
    return groups
