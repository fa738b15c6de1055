"""Members trained on fresh seeds and filed by their configuration: one file per population, whose predictions never
change and whose weights go when nothing needs them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mmsa_core.atomic import replacing
from mmsa_core.config import fingerprint
from mmsa_core.errors import UserError
from search.populations import Result, Task
from search.records import Needs, check_needs

MEMBERS: Needs = {
    "config": dict, "seeds": list, "best_epochs": list, "seconds": (int, float), "parameters": int, "attempted": list,
    "failures": list,
}  # fmt: skip
AGAIN = "delete it and confirm the run again, which trains these members anew"


@dataclass(frozen=True)
class Candidate:
    """A configuration to train on fresh seeds; ``name`` says what it is, e.g. "trial 42"."""

    name: str
    config: Mapping[str, Any]

    @property
    def mark(self) -> str:
        """What its results are filed under: equal configurations are trained once."""
        return fingerprint(dict(self.config))


@dataclass(frozen=True)
class Confirmed:
    """A candidate's members: seeds, predictions on the valid split [seed, row], model states [seed, ...] and cost;
    ``weights`` tells whether there are states on the disk."""

    config: dict[str, Any]
    seeds: list[int]
    best_epochs: list[int]
    predictions: NDArray[np.float32]
    states: dict[str, NDArray[Any]]
    seconds: float
    parameters: int
    attempted: list[int]
    failures: list[str]
    weights: bool

    def of(self, seeds: Sequence[int]) -> NDArray[np.float32]:
        """Return the predictions [seed, row] of ``seeds`` in their order; all of them must be there."""
        return self.predictions[[self.seeds.index(s) for s in seeds]]


def load(folder: Path, candidate: Candidate, seeds: Sequence[int], states: bool = True) -> Confirmed:
    """Read a candidate's filed members, of ``seeds`` only and in their order; without ``states`` the weights stay on
    the disk, and with them only members that still have weights are read.

    Raises:
        UserError: none of them finished, or none has weights.
    """
    parts = sorted(_parts(folder, candidate, states), key=lambda p: p.weights)  # of equal seeds the last one counts
    usable = [p for p in parts if p.weights or not states]
    rows = {seed: (part, k) for part in usable for k, seed in enumerate(part.seeds)}
    chosen = [rows[s] for s in seeds if s in rows]
    if not chosen and any(s in part.seeds for part in parts for s in seeds):
        raise UserError(
            f"confirm: the weights of {candidate.name} were dropped to save space; "
            "`mmsa-search confirm` trains its members again"
        )
    if not chosen:
        reason = next((f for p in parts for f in p.failures), "its workers died")
        raise UserError(f"confirm: no member of {candidate.name} finished; the first reason: {reason}")
    return Confirmed(
        config=chosen[0][0].config,
        seeds=[s for s in seeds if s in rows],
        best_epochs=[part.best_epochs[k] for part, k in chosen],
        predictions=np.stack([part.predictions[k] for part, k in chosen]),
        states={n: np.stack([part.states[n][k] for part, k in chosen]) for n in chosen[0][0].states},
        seconds=sum(p.seconds for p in parts) / max(1, sum(len(p.seeds) for p in parts)),
        parameters=chosen[0][0].parameters,
        attempted=list(seeds),
        failures=list(dict.fromkeys(f for p in parts for f in p.failures)),
        weights=all(part.weights for part, _ in chosen),
    )


def has_members(folder: Path, candidate: Candidate, seeds: Sequence[int]) -> bool:
    """Tell whether a candidate finished with at least one of ``seeds``."""
    return any(seed in seeds for part in _parts(folder, candidate, states=False) for seed in part.seeds)


def attempted(folder: Path, candidate: Candidate, weights: bool = False) -> set[int]:
    """Return the seeds that a candidate was trained with, those that failed included; with ``weights`` a member whose
    weights are gone counts as not trained."""
    parts = _parts(folder, candidate, states=False)
    whole = {seed for p in parts if p.weights for seed in p.attempted}
    rest = {seed for p in parts for seed in p.attempted if not (weights and seed in p.seeds)}
    return whole | rest


def drop_weights(folder: Path, kept: Collection[Candidate]) -> None:
    """Remove the weights of all filed members but those of ``kept`` from the disk; their predictions stay."""
    marks = {candidate.mark for candidate in kept}
    for path in sorted(folder.glob("*/*.safetensors")):
        if path.parent.name not in marks:
            with safe_open(path, "np") as file:
                names, metadata = list(file.keys()), file.metadata()
                tensors = {n: file.get_tensor(n) for n in names if n == "predictions"}
            if len(names) > len(tensors):
                with replacing(path) as temporary:
                    save_file(tensors, temporary, metadata)


def place(folder: Path, candidate: Candidate, seeds: Sequence[int]) -> Path:
    """Return the file for a candidate's members with these seeds."""
    return folder / candidate.mark / f"{fingerprint(list(seeds))}.safetensors"


def file(path: Path, task: Task, result: Result) -> None:
    """Write a population's members, with their weights where the task keeps them; those that failed leave their
    reason."""
    whole = [(s, o) for s, o in zip(task.slots, result.outcomes, strict=True) if o.failure is None]
    failures = [f"seed {s.seed}: {o.failure}" for s, o in zip(task.slots, result.outcomes, strict=True) if o.failure]
    meta = {
        "config": whole[0][1].config if whole else dict(task.slots[0].config),
        "seeds": [s.seed for s, _ in whole],
        "best_epochs": [o.best_epoch for _, o in whole],
        "seconds": result.seconds,
        "parameters": result.parameters,
        "attempted": [s.seed for s in task.slots],
        "failures": failures,
    }
    tensors: dict[str, NDArray[Any]] = {}
    if whole:
        tensors["predictions"] = np.stack([o.predictions for _, o in whole if o.predictions is not None])
        states = [o.state for _, o in whole if o.state is not None]
        tensors |= {f"state.{n}": np.stack([s[n] for s in states]) for n in (states[0] if states else ())}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"members": json.dumps(meta)})


def _parts(folder: Path, candidate: Candidate, states: bool) -> list[Confirmed]:
    return [_read(p, states) for p in sorted((folder / candidate.mark).glob("*.safetensors"))]


def _read(path: Path, states: bool) -> Confirmed:
    try:
        with safe_open(path, "np") as file:
            meta = json.loads(file.metadata()["members"])
            names = list(file.keys())
            tensors = {n: file.get_tensor(n) for n in names if states or n == "predictions"}
        check_needs(meta, MEMBERS, str(path), AGAIN)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: is no whole file of members ({error}); {AGAIN}") from None
    kept = {n.removeprefix("state."): t for n, t in tensors.items() if n.startswith("state.")}
    predictions = tensors.get("predictions", np.zeros((0, 0), np.float32))
    weights = any(n.startswith("state.") for n in names)
    return Confirmed(predictions=predictions, states=kept, weights=weights, **meta)
