"""A step recorded once and replayed: the kernels that autograd and ``vmap`` would call, without either.

Both only decide which kernels to call, and with the same shapes they decide the same at every step. A replay calls the
same kernels in the same order on the same memory layouts, so its numbers are equal bit for bit. It leaves out what
cannot change from step to step: views of the weights, and what is computed from constants alone.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

LONGEST = 10_000
"""Kernels of a step that is worth recording: recording takes 0.1 ms each, and a replay saves some 3 us each."""

Replay = Callable[..., tuple[Tensor, ...]]


class Shown(NamedTuple):
    """What a tensor shows of which memory. Two tensors that show the same are one here."""

    memory: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


class Call(NamedTuple):
    """A kernel's call as it was made, with :class:`Shown` for tensors."""

    function: Any
    args: Any
    kwargs: Any
    result: Any

    def given(self) -> list[Shown]:
        return _shown((self.args, self.kwargs))

    def found(self) -> list[Shown]:
        return _shown(self.result)

    def written(self) -> set[int]:
        """Return the memory that the call writes to."""
        arguments = self.function._schema.arguments
        values = {a.name: v for a, v in zip(arguments, self.args, strict=False)} | self.kwargs
        changed = [values.get(a.name) for a in arguments if a.alias_info is not None and a.alias_info.is_write]
        return {s.memory for s in _shown(changed)}


def record(
    step: Callable[..., tuple[Tensor, ...]], changing: Sequence[Tensor], stored: Sequence[Tensor]
) -> tuple[tuple[Tensor, ...], Replay | None]:
    """Run ``step(*changing)``; return its results, and a function that does the same for other tensors of equal shapes
    and strides, or None where there is too much to record.

    ``stored`` are the tensors whose memory stays and whose values change between calls, as weights and buffers do. All
    other tensors that the step meets are taken for constants. What the step decides from Python's own state or from
    tensors' values is decided for good; ``vmap`` forbids the latter.
    """
    recorder = _Recorder(changing)
    with recorder:
        results = step(*changing)
    if not recorder.able:
        return results, None
    return results, _Program(recorder, changing, stored).finish(results)


class _Recorder(TorchDispatchMode):
    """Notes every kernel that is called, and keeps the tensors that come from outside, but none that a call gave."""

    def __init__(self, changing: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.able = True
        self.calls: list[Call] = []
        self.outside: dict[Shown, Tensor] = {}
        self.known = {show(t) for t in changing}
        # the memory of what changes; such a reference keeps the address taken, not the memory
        self.own = {show(t).memory: StorageWeakRef(t.untyped_storage()) for t in changing}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler for this class, which takes a second

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        pure = _pure(function)
        self.able &= len(self.calls) < LONGEST and pure is not None
        if not self.able:
            self.calls.clear()
            return function(*args, **(kwargs or {}))
        own_args, own_kwargs = pytree.tree_map_only(Tensor, self._given, (args, kwargs or {}))
        before = {s.memory for s in _shown((own_args, own_kwargs))}
        result = function(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(result):
            if isinstance(tensor, Tensor):
                shown = show(tensor)
                self.known.add(shown)
                if shown.memory not in before:
                    self.own[shown.memory] = StorageWeakRef(tensor.untyped_storage())
        self.calls.append(Call(pure, own_args, own_kwargs, pytree.tree_map_only(Tensor, show, result)))
        return result

    def _given(self, tensor: Tensor) -> Shown:
        shown = show(tensor)
        if shown not in self.known:
            self.able &= shown.memory not in self.own  # else it came by a way that is not seen here
            self.known.add(shown)
            self.outside[shown] = tensor.detach()
        return shown


class _Program:
    """Turns calls into a graph."""

    def __init__(self, recorder: _Recorder, changing: Sequence[Tensor], stored: Sequence[Tensor]) -> None:
        self.graph = fx.Graph()
        self.nodes: dict[Shown, fx.Node] = {}
        self.constants: dict[fx.Node, Tensor] = {}
        self.moving = {show(t).memory for t in stored}.union(*(c.written() for c in recorder.calls))
        for tensor in changing:
            self._input(show(tensor))
        for shown, tensor in recorder.outside.items():
            if shown not in self.nodes:
                self.constants[self._input(shown)] = tensor
        for call in recorder.calls:
            self._add(call)

    def finish(self, results: Sequence[Tensor]) -> Replay:
        """Return the function that gives ``results``."""
        self.graph.output(tuple(self.nodes[show(t)] for t in results))
        self.graph.eliminate_dead_code()
        used = {n: t for n, t in self.constants.items() if n.users}
        for node in self.constants.keys() - used.keys():
            self.graph.erase_node(node)
        forward, constants = fx.GraphModule({}, self.graph).forward, tuple(used.values())
        return lambda *changing: forward(*changing, *constants)

    def _add(self, call: Call) -> None:
        mutable = call.function._schema.is_mutable
        if not mutable and all(s in self.nodes for s in call.found()):
            return  # a view that there is already
        args, kwargs = pytree.tree_map_only(Shown, self.nodes.__getitem__, (call.args, call.kwargs), _is_shown)
        if not mutable and self._is_constant(call):
            args, kwargs = pytree.tree_map_only(fx.Node, self.constants.__getitem__, (args, kwargs))
            result = call.function(*args, **kwargs)
            for shown, tensor in zip(call.found(), pytree.tree_leaves(result), strict=True):
                if shown not in self.nodes:
                    self.constants[self._input(shown)] = tensor
            return
        node = self.graph.call_function(call.function, args, kwargs)
        several = not isinstance(call.result, Shown)
        for i, shown in enumerate(call.result if several else [call.result]):
            if isinstance(shown, Shown) and shown not in self.nodes:
                self.nodes[shown] = self.graph.call_function(operator.getitem, (node, i)) if several else node

    def _is_constant(self, call: Call) -> bool:
        """Tell whether a call gives the same in every replay: views of what stays, and values of constants."""
        if any(self.nodes[s] not in self.constants for s in call.given()):
            return False
        before, after = ({s.memory for s in part} for part in (call.given(), call.found()))
        return after <= before or not (before | after) & self.moving

    def _input(self, shown: Shown) -> fx.Node:
        self.nodes[shown] = self.graph.placeholder(f"given_{len(self.nodes)}")
        return self.nodes[shown]


def show(tensor: Tensor) -> Shown:
    """Return what a tensor shows of which memory."""
    memory, offset = tensor.untyped_storage()._cdata, int(tensor.storage_offset())
    return Shown(memory, tensor.dtype, tuple(tensor.shape), tensor.stride(), offset)


def _shown(tree: Any) -> list[Shown]:
    return [s for s in pytree.tree_leaves(tree, _is_shown) if isinstance(s, Shown)]


def _is_shown(part: Any) -> bool:
    return isinstance(part, Shown)


def _pure(function: Any) -> Any:
    """Return the form of a kernel that gives a view instead of changing what its argument shows; None without one."""
    if torch.Tag.inplace_view not in function.tags:
        return function
    aten = torch.ops.aten
    pure = {
        aten.squeeze_.default: aten.squeeze.default,
        aten.squeeze_.dim: aten.squeeze.dim,
        aten.squeeze_.dims: aten.squeeze.dims,
        aten.unsqueeze_.default: aten.unsqueeze.default,
        aten.transpose_.default: aten.transpose.int,
        aten.t_.default: aten.t.default,
    }
    return pure.get(function)
