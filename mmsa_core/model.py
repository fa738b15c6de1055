"""The model: encoders, projections, fusion and heads; and the member, which adds what training needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmsa_core import registry
from mmsa_core.aligned import AlignedPair, TaughtModality
from mmsa_core.config import NONE, TEACHER, HeadsConfig, MemberConfig, PlugIn
from mmsa_core.errors import UserError
from mmsa_core.loader import take
from mmsa_core.noise import Dropout
from mmsa_core.plugin import (
    Encoder,
    Fusion,
    GradientWeighting,
    LabelGenerator,
    PretrainedEncoder,
    ProjectingStrategy,
    RegularizedFusion,
    Strategy,
    Weighting,
)
from mmsa_core.tensors import Batch, Features, LabelTable, Outputs, Rows

Project = Callable[[Tensor], Tensor]


class Head(nn.Module):
    """Dropout, two hidden layers with ReLU and a linear output; Self-MM needs the first hidden layer too."""

    def __init__(self, inputs: int, config: HeadsConfig) -> None:
        super().__init__()
        self.dropout = Dropout(config.dropout)
        self.first = nn.Linear(inputs, config.dim)
        self.second = nn.Linear(config.dim, config.dim)
        self.out = nn.Linear(config.dim, 1)

    def forward(
        self, x: Float[Tensor, "batch inputs"], project: Project | None = None
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch post"]]:
        """Return predictions and the first hidden layer, whose weight learns from ``project(x)`` where it is given."""
        x = self.dropout(x)
        first: Tensor = self.first(x) if project is None else _taught(self.first, x, project(x).detach())
        hidden = torch.relu(first)
        return self.out(torch.relu(self.second(hidden)))[:, 0], hidden


def _taught(layer: nn.Linear, x: Tensor, seen: Tensor) -> Tensor:
    """Return ``layer(x)``, with the weight's gradient that of the input ``seen``; the bias's and that of ``x`` are
    their own."""
    fixed = layer.weight.detach()
    # the difference is exactly 0: as one sum from left to right, rounding would change the value
    return F.linear(x, fixed, layer.bias) + (F.linear(seen, layer.weight) - F.linear(seen, fixed))


class SentimentModel(nn.Module):
    """Encoders -> projections to one width -> fusion -> heads; what is exported and used for prediction."""

    def __init__(self, config: MemberConfig, inputs: Mapping[str, int]) -> None:
        """``inputs`` holds the feature width of each modality, after its encoder's ``prepare``."""
        super().__init__()
        encoders = [
            cast(Encoder, registry.build("encoders", p.name, inputs[m], **p.params)) for m, p in config.encoders.items()
        ]
        self.encoders = nn.ModuleList(encoders)
        self.projections = nn.ModuleList(nn.Linear(e.dim, config.width) for e in encoders)
        self.fusion: Fusion = registry.build(
            "fusion", config.fusion.name, len(encoders), config.width, **config.fusion.params
        )
        self.head = Head(self.fusion.dim, config.heads)
        unimodal = len(encoders) if config.labels.name != NONE else 0
        self.unimodal_heads = nn.ModuleList(Head(config.width, config.heads) for _ in range(unimodal))
        self.strategy: Strategy | None = None
        if config.strategy.name != NONE:
            name = config.strategy.name
            projects = issubclass(registry.load("strategies", name), ProjectingStrategy)
            context = (config.modalities, self.fusion.dim) if projects else (config.modalities,)
            self.strategy = registry.build("strategies", name, *context, **config.strategy.params)

    def forward(self, batch: Batch) -> Outputs:
        """Return the outputs for a batch; outside training the predictions are the strategy's."""
        outputs = self.outputs(batch)
        if self.training or self.strategy is None:
            return outputs
        return outputs._replace(prediction=self.strategy.predict(self.outputs, batch))

    def outputs(self, batch: Batch) -> Outputs:
        """Return what the modules make of a batch, whatever the strategy."""
        present = batch.available.unbind(1)
        seen = [Features(f.values, f.mask & a[:, None]) for f, a in zip(batch.features, present, strict=True)]
        embeddings = [_only(a, e(f)) for e, f, a in zip(self.encoders, seen, present, strict=True)]
        parts = [_only(a, torch.relu(p(e))) for p, e, a in zip(self.projections, embeddings, present, strict=True)]
        fusion = self.fusion(torch.stack(parts, 1), batch.available)
        projects = self.training and isinstance(self.strategy, ProjectingStrategy)
        prediction, fused = self.head(fusion, cast(ProjectingStrategy, self.strategy).project if projects else None)
        heads = [head(part) for head, part in zip(self.unimodal_heads, parts, strict=False)]
        unimodal = torch.stack([h[0] for h in heads], 1) if heads else prediction.new_zeros(len(prediction), 0)
        representations = tuple(h[1] for h in heads)
        return Outputs(prediction, unimodal, fused, representations, tuple(embeddings), tuple(parts), fusion)


class Member(nn.Module):
    """One member in training: the model, its alignments, its label generator and its weighting."""

    def __init__(self, config: MemberConfig, inputs: Mapping[str, int], table: LabelTable, rows: Rows) -> None:
        super().__init__()
        self.rows = rows
        self.model = SentimentModel(config, inputs)
        order = config.modalities
        dims = {m: cast(Encoder, e).dim for m, e in zip(order, self.model.encoders, strict=True)}
        pairs = (_aligned(config, name, dims, inputs) for name in config.alignment)
        self.pairs = nn.ModuleList(pairs)
        self.labels: LabelGenerator | None = None
        self.weighting: Weighting | GradientWeighting | None = None
        if config.labels.name != NONE:
            post = config.heads.dim
            self.labels = registry.build("labels", config.labels.name, table, post, post, **config.labels.params)
            tasks = ("fusion", *order)
            self.weighting = registry.build("weighting", config.weighting.name, tasks, **config.weighting.params)

    def forward(
        self, data: Batch, rows: Int[Tensor, "batch"], labels: Float[Tensor, "all"], epoch: Int[Tensor, ""]
    ) -> Float[Tensor, "loss"]:
        """Return the training loss of the rows ``rows`` of a whole split, and let label generator and strategy learn.

        It is one loss, or one per task where the weighting balances gradients. The generator reads the outputs before
        the optimiser's step, as Self-MM's does after its backward pass.
        """
        strategy, shown = self.model.strategy, rows
        if strategy is not None:
            shown = strategy.select(rows, self.rows)
        batch, labels = take(data, shown), labels[shown]
        if strategy is not None:
            batch = strategy.view(batch, shown)
        outputs: Outputs = self.model(batch)
        tasks = self._tasks(rows, batch, outputs, labels, epoch)
        balanced = isinstance(self.weighting, GradientWeighting)
        losses = self.weighting(tasks)[None] if self.weighting is not None and not balanced else tasks
        rest = losses.new_zeros(())
        for pair in self.pairs:
            rest = rest + pair(outputs, batch, labels)
        if isinstance(self.model.fusion, RegularizedFusion):
            rest = rest + self.model.fusion.penalty(torch.stack(outputs.projections, 1), batch.available)
        if strategy is not None:
            rest = rest + strategy.loss(self.model.outputs, batch, outputs, labels, shown)
        return torch.cat([losses[:1] + rest, losses[1:]])

    def _tasks(
        self,
        rows: Int[Tensor, "batch"],
        batch: Batch,
        outputs: Outputs,
        labels: Float[Tensor, "shown"],
        epoch: Int[Tensor, ""],
    ) -> Float[Tensor, "task"]:
        """Return the losses of the fusion task and of each unimodal one, on the batch's own rows."""
        n = len(rows)
        loss = (outputs.prediction[:n] - labels[:n]).abs().mean()[None]
        if self.labels is None:
            return loss
        own = outputs if n == len(labels) else outputs.first(n)
        targets, weights = self.labels.targets(rows)
        errors = weights * (own.unimodal - targets).abs() * batch.available[:n]
        with torch.no_grad():
            self.labels.update(rows, own, epoch)
        return torch.cat([loss, errors.mean(0)])


def _aligned(
    config: MemberConfig, name: str, dims: Mapping[str, int], inputs: Mapping[str, int]
) -> AlignedPair | TaughtModality:
    """Make the alignment ``name`` of a configuration, e.g. ``text-audio`` or ``audio-teacher``."""
    pair, order = config.alignment[name], config.modalities
    first, second = name.split("-")
    at = dims if pair.place == "encoder" else dict.fromkeys(order, config.width)
    if second != TEACHER:
        positions = order.index(first), order.index(second)
        return AlignedPair(pair, positions, (at[first], at[second]), f"alignment.{name}")
    text = config.encoders["text"].name
    if issubclass(registry.load("encoders", text), PretrainedEncoder):
        raise UserError(
            f"alignment.{name}: the teacher is the frozen features of text, and {text} reads the text itself; "
            "take an encoder of features for text"
        )
    return TaughtModality(pair, order.index(first), at[first], inputs["text"])


def complete(config: MemberConfig) -> MemberConfig:
    """Return the configuration with every plug-in's defaults written out and every value checked and cast.

    Raises:
        UserError: a plug-in or parameter that does not exist, or a value of the wrong type.
    """

    def full(kind: str, plugin: PlugIn, place: str) -> PlugIn:
        if plugin.name == NONE:
            return PlugIn(NONE)
        return PlugIn(plugin.name, MappingProxyType(registry.arguments(kind, plugin.name, dict(plugin.params), place)))

    pairs = {
        k: replace(p, alignment=full("alignment", p.alignment, f"alignment.{k}")) for k, p in config.alignment.items()
    }
    labels = full("labels", config.labels, "labels")
    _check_needs(config)
    return replace(
        config,
        encoders={m: full("encoders", p, f"encoders.{m}") for m, p in config.encoders.items()},
        alignment=pairs,
        fusion=full("fusion", config.fusion, "fusion"),
        labels=labels,
        strategy=full("strategies", config.strategy, "strategy"),
        weighting=full("weighting", config.weighting, "weighting") if labels.name != NONE else PlugIn(NONE),
    )


def _check_needs(config: MemberConfig) -> None:
    """Refuse what a strategy cannot work with."""
    if config.strategy.name == NONE:
        return
    pairs = [p.alignment.name for p in config.alignment.values()]
    there = {"fusion": config.fusion.name, "alignment": pairs[0] if pairs else NONE}
    for place, need in registry.load("strategies", config.strategy.name).forces.items():
        if there[place] != need.arm:
            raise UserError(
                f"strategy: {config.strategy.name} needs {place}: {need.arm}, because {need.reason}, got "
                f"{there[place]!r}; change one of them"
            )


def _only(available: Tensor, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
    """Return ``x`` where its modality is available, 0 elsewhere."""
    return torch.where(available[:, None], x, torch.zeros((), dtype=x.dtype, device=x.device))
