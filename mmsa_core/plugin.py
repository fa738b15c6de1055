"""The abstract plug-in kinds. A plug-in is one file with one class, written for ONE member.

Float constructor arguments become 0-dim buffers (``self.rate = hyper(rate)``), so that members of one population may
differ in them; every other argument is structure. Random draws come only from :class:`mmsa_core.noise.Dropout`.
No BatchNorm, no data-dependent shapes, no ``.item()``: a plug-in must run under ``torch.func.vmap``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from mmsa_core.tensors import Batch, Features, Outputs, Pair, Rows


def hyper(value: float) -> nn.Buffer:
    """Return a float hyper-parameter as a 0-dim buffer, which the population stacks over its members."""
    return nn.Buffer(torch.tensor(float(value)))


class Encoder(nn.Module, ABC):
    """Turns one modality's sequence into one vector. Constructor: ``(inputs, *, ...)`` with the feature width."""

    dim: int

    @staticmethod
    @abstractmethod
    def prepare(features: Features) -> Features:
        """Do the part without parameters once per data set (e.g. pooling); the identity where there is none."""

    @abstractmethod
    def forward(self, features: Features) -> Float[Tensor, "batch {self.dim}"]:
        """Encode prepared features; padded rows never change the result, an empty sequence gives a finite one."""


class PretrainedEncoder(Encoder, ABC):
    """Fine-tunes a pre-trained model: reads tokens instead of features, and has its own learning rate and decay.

    Its members are not stacked but trained one by one (:mod:`mmsa_core.solo`): a transformer fills a device by itself,
    does not run under ``vmap``, and may draw dropout from torch's generator, which is seeded for it.

    Attributes:
        body: The pre-trained part; parameters that do not require a gradient stay as they are and are not exported.
        lr, weight_decay: Of ``body``; biases and normalisations do not decay.
        warmup: Epochs over which ``lr`` rises linearly from 0.
    """

    body: nn.Module
    lr: nn.Buffer
    weight_decay: nn.Buffer
    warmup: nn.Buffer

    @staticmethod
    @abstractmethod
    def tokens(raw_text: Sequence[str], text_bert: NDArray[np.int64] | None, settings: Mapping[str, Any]) -> Features:
        """Return a split's tokens: ids and token types as values [N, T, 2] (numbers below 2^24, exact in float32).

        The split has ``raw_text`` [N] (empty where it has none) or MMSA's ``text_bert`` [N, 3, T]; ``settings`` are the
        plug-in's hyper-parameters. A sample without text has no token.

        Raises:
            UserError: the split has neither raw_text nor text_bert, or the model is not at hand.
        """


class Alignment(nn.Module, ABC):
    """What is asked of a pair of modalities. Constructor: ``(dim_x, dim_y, *, ...)``.

    ``role`` is "shared" (features should match) or "private" (features should share nothing; bounded below by 0).
    """

    role: ClassVar[Literal["shared", "private"]]
    equal_dims: ClassVar[bool]

    @abstractmethod
    def forward(self, pair: Pair) -> Float[Tensor, ""]:
        """Return the raw loss; 0 where fewer than two rows are valid."""

    @abstractmethod
    def chance(self, pair: Pair) -> Float[Tensor, ""]:
        """Return the raw loss when its aim is not met at all, without gradient and above 0.

        That is the value for unrelated features (shared) or for identical ones (private). The model divides by it, so
        that one range of weights means the same for every alignment.
        """


class Fusion(nn.Module, ABC):
    """Merges the projected modalities. Constructor: ``(modalities, width, *, ...)``; ``modalities`` is how many there
    are and ``dim`` the width it returns."""

    dim: int

    @abstractmethod
    def forward(
        self, parts: Float[Tensor, "batch modality width"], available: Bool[Tensor, "batch modality"]
    ) -> Float[Tensor, "batch {self.dim}"]:
        """Fuse; a modality that is not available contributes nothing, whatever its part holds."""


class RegularizedFusion(Fusion, ABC):
    """A fusion with a loss of its own, e.g. what keeps its shared and private parts apart.

    ``weights`` are the names of the float arguments that weigh the loss's terms.
    """

    weights: ClassVar[tuple[str, ...]]

    @abstractmethod
    def penalty(
        self, parts: Float[Tensor, "batch modality width"], available: Bool[Tensor, "batch modality"]
    ) -> Float[Tensor, ""]:
        """Return the loss, each term divided by its chance value and times its weight (a float argument).

        It is 0 where there is nothing to compare, and a weight of 0 makes its term exactly 0.
        """


class Weighting(nn.Module, ABC):
    """Balances the task losses. Constructor: ``(tasks, *, ...)``; ``tasks[0]`` is the fusion task."""

    @abstractmethod
    def forward(self, losses: Float[Tensor, "task"]) -> Float[Tensor, ""]:
        """Return the weighted sum of the losses; a task whose loss is 0 costs nothing."""


@dataclass(frozen=True)
class Need:
    """A plug-in that another one needs at a place, and why."""

    arm: str
    reason: str


class GradientWeighting(nn.Module, ABC):
    """Balances the tasks by their gradients. Constructor: ``(tasks, *, ...)``; ``tasks[0]`` is the fusion task, and all
    losses that are no task's (alignments, penalties) count as its.

    State from step to step is buffers, changed in place.
    """

    @abstractmethod
    def forward(
        self, losses: Float[Tensor, "task"], gradients: Float[Tensor, "task all"], owners: Int[Tensor, "all"]
    ) -> Float[Tensor, "all"]:
        """Return the gradient to step by, from each task's own.

        ``owners`` says of every parameter whose it is: the position of a modality (its encoder and projection), or -1.
        """


class Strategy(nn.Module, ABC):
    """How a training step sees its data, and how predictions are made. Constructor: ``(modalities, *, ...)`` with the
    names of those in use.

    State is buffers, changed in place in training alone and exported with the model. Random draws come from
    :mod:`mmsa_core.noise`.
    """

    forces: ClassVar[Mapping[str, Need]]
    """What the strategy needs at other places, ``fusion`` or ``alignment`` (every pair)."""
    streams: ClassVar[bool]
    """Whether an epoch goes through the domains (e.g. videos) one after the other instead of mixing them."""

    @abstractmethod
    def select(self, rows: Int[Tensor, "batch"], split: Rows) -> Int[Tensor, "shown"]:
        """Return the training rows of a step: those of the batch first, which the tasks learn, then any others of
        ``split``, which only alignments, penalties and :meth:`loss` see."""

    @abstractmethod
    def view(self, batch: Batch, rows: Int[Tensor, "shown"]) -> Batch:
        """Return what training is shown of a batch."""

    @abstractmethod
    def loss(
        self,
        model: Callable[[Batch], Outputs],
        batch: Batch,
        outputs: Outputs,
        labels: Float[Tensor, "shown"],
        rows: Int[Tensor, "shown"],
    ) -> Float[Tensor, ""]:
        """Return a loss of the strategy's own, 0 where it has none, and learn from the step in place.

        ``outputs`` are the model's of ``batch`` (the view); ``model`` gives those of any other. ``labels`` of rows
        without one are 0.
        """

    @abstractmethod
    def predict(self, model: Callable[[Batch], Outputs], batch: Batch) -> Float[Tensor, "batch"]:
        """Return predictions outside training."""


class ProjectingStrategy(Strategy, ABC):
    """A strategy that edits the gradient of the head's first layer: the layer learns as if its input were another.

    Constructor: ``(modalities, dim, *, ...)`` with the width of that input.
    """

    @abstractmethod
    def project(self, x: Float[Tensor, "shown dim"]) -> Float[Tensor, "shown dim"]:
        """Return what the head's weight gradient is made of in place of the head's input ``x``."""


class LabelGenerator(nn.Module, ABC):
    """Where the unimodal labels come from. Constructor: ``(table, fused, post, *, ...)``.

    ``table`` holds the labels of the whole training split, because some generators keep state per row (as buffers);
    ``fused`` and ``post`` are the widths of the fused and of each unimodal representation.
    """

    @abstractmethod
    def targets(
        self, rows: Int[Tensor, "batch"]
    ) -> tuple[Float[Tensor, "batch modality"], Float[Tensor, "batch modality"]]:
        """Return the unimodal labels of training rows ``rows`` and how much each counts in the loss."""

    @abstractmethod
    def update(self, rows: Int[Tensor, "batch"], outputs: Outputs, epoch: Int[Tensor, ""]) -> None:
        """Learn from what the model just returned for ``rows`` (detached; epochs count from 1), in place."""
