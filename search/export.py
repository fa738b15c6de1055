"""The model folder: configuration, weights, metrics, provenance and card; and working with one that was exported."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from torch import Tensor

from mmsa_core.config import MemberConfig
from mmsa_core.data.dataset import Dataset, open_dataset
from mmsa_core.data.scaler import Scaler
from mmsa_core.data.split import Split, videos
from mmsa_core.errors import UserError
from mmsa_core.loader import SplitTensors, widths
from mmsa_core.metrics import objective_rows
from mmsa_core.model import Member, SentimentModel, complete
from mmsa_core.population import MemberSpec, stackable
from mmsa_core.predict import predict
from mmsa_core.tensors import own_device
from mmsa_core.train import Objective, fit
from search.environment import environment
from search.inference import open_like_training
from search.judgement import estimates
from search.members import Candidate, load
from search.model_files import AGAIN, check_own, check_replaceable, read_files, write_files
from search.opening import record_opening
from search.provenance import parse_provenance
from search.run_folder import RunFolder
from search.statistics import PredictionInterval
from search.trials import open_study, read_study, recorded_trial
from search.yaml_io import parse_mapping

if TYPE_CHECKING:
    from search.pipeline import Opened


@dataclass(frozen=True)
class Model:
    """An exported model: one configuration, the states of its members (leading axis), and how its inputs are scaled."""

    config: MemberConfig
    states: dict[str, Tensor]
    scaler: Scaler
    provenance: dict[str, Any]

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.config.modalities

    @property
    def widths(self) -> dict[str, int]:
        """The feature width of each modality that the model was trained on."""
        return {m: len(self.scaler.mean[m]) for m in self.modalities}

    @property
    def interval(self) -> PredictionInterval:
        """What turns the members' spread into an interval for the label."""
        return PredictionInterval(**self.provenance["interval"])

    def predict(self, split: Split) -> NDArray[np.float32]:
        """Return predictions [member, row] for an unscaled split."""
        return predict(self.config, self.states, self.scaler.apply(split))


def made_by(data: Dataset) -> dict[str, Any] | None:
    """Return what made a data set's text features, for a provenance."""
    return None if data.text_model is None else data.text_model.to_dict()


def build_check(config: MemberConfig, train: SplitTensors) -> None:
    """Build a member without training it.

    Raises:
        UserError: the configuration cannot be built for this data.
    """
    batch = train.batch(config)
    Member(config, widths(batch, config), train.table(config), train.rows)


def write_model(opened: Opened, record: Mapping[str, Any]) -> Path:
    """Write ``best/``: the winner's confirmed members with everything needed to use and to re-train them."""
    folder = opened.folder.path / "best"
    winner = next(c for c in record["candidates"] if c["trial"] == record["winner"])
    base = next(c for c in record["candidates"] if c["trial"] == record["baseline"])
    trial = recorded_trial(read_study(opened.config, opened.folder), record["winner"])
    candidate = Candidate("winner", opened.sampled(trial))
    members = load(opened.folder.path / "confirm", candidate, record["seeds"])
    provenance = {
        **opened.folder.facts(),
        "study": opened.config.study,
        "trial": record["winner"],
        "seeds": members.seeds,
        "best_epochs": members.best_epochs,
        "metric": record["metric"],
        "convention": record["convention"],
        "nonfinite": opened.config.data.nonfinite,
        "interval": PredictionInterval.fit(members.predictions, opened.valid.labels).to_dict(),
    }
    metrics = {
        "valid": brief(winner["valid"]),
        "test": brief(record["test"]["winner"]),
        "ensemble": record["ensemble"],
        "baseline": {"valid": brief(base["valid"]), "test": brief(record["test"]["baseline"])},
        "difference": {"valid": winner["difference"], "test": record["test"]["difference"]},
        "test_openings": record["test_openings"],
    }
    _write(folder, members.config, members.states, opened.scaler, metrics, provenance)
    return folder


def read_model(folder: Path) -> Model:
    """Read a model folder.

    Raises:
        UserError: a file is missing or damaged, or they do not fit together.
    """
    files = read_files(folder)
    provenance = parse_provenance(files["provenance.json"], folder / "provenance.json")
    try:
        tensors = load_tensors(files["model.safetensors"])
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:  # of a dtype that numpy lacks
        raise UserError(f"{folder}: the model is damaged ({error}); {AGAIN}") from None
    place = str(folder / "config.yaml")
    config = complete(MemberConfig.from_dict(parse_mapping(files["config.yaml"], place), place))
    states = {n.removeprefix("model."): torch.from_numpy(t) for n, t in tensors.items() if n.startswith("model.")}
    scaler = Scaler.from_dict({n.removeprefix("scaler."): t for n, t in tensors.items() if n.startswith("scaler.")})
    model = Model(config, states, scaler, provenance)
    _check_fits(model, folder)
    return model


def _check_fits(model: Model, folder: Path) -> None:
    """Check that weights and scaler are those of the configuration, without making a model of the sizes it says."""
    for modality in model.modalities:
        parts = [part.get(modality) for part in (model.scaler.mean, model.scaler.std)]
        if any(p is None or p.ndim != 1 for p in parts) or len({p.shape for p in parts if p is not None}) != 1:
            raise UserError(f"{folder}: model.safetensors has no scaler of {modality}; {AGAIN}")
    members = {len(t) for t in model.states.values() if t.ndim > 0}
    if len(members) != 1 or members != {len(model.provenance["seeds"])}:
        raise UserError(f"{folder}: model.safetensors does not hold the members of provenance.json; {AGAIN}")
    if not stackable(model.config):
        return  # it is built around a pre-trained model, which is not in the folder
    row = Split(
        ids=("",),
        features={m: np.zeros((1, 1, width), np.float32) for m, width in model.widths.items()},
        lengths={m: np.ones(1, np.int64) for m in model.modalities},
        labels=np.zeros(1, np.float32),
        unimodal={},
        raw_text=("",),
    )
    inputs = widths(SplitTensors(row, torch.device("cpu")).batch(model.config), model.config)
    try:
        with torch.device("meta"):
            own = SentimentModel(model.config, inputs).state_dict()
    except (RuntimeError, OverflowError, TypeError, ValueError) as error:
        raise UserError(f"{folder / 'config.yaml'}: cannot be built ({error}); {AGAIN}") from None
    for name in own.keys() | model.states.keys():
        has, needs = model.states.get(name), own.get(name)
        if has is None or needs is None or has.shape[1:] != needs.shape:
            raise UserError(f"{folder}: model.safetensors does not fit config.yaml in {name}; {AGAIN}")


def train_model(
    config: MemberConfig, data: str, seeds: Sequence[int], objective: Objective, nonfinite: str, out: Path
) -> dict[str, Any]:
    """Train a configuration with several seeds as one population, write its model folder and return its metrics.

    Raises:
        UserError: the folder is something else's, or the configuration cannot be trained.
    """
    check_replaceable(out)
    check_own(out)
    dataset = open_dataset(data, config.modalities, nonfinite)  # type: ignore[arg-type]  # checked by it
    train, valid = dataset.split("train"), dataset.split("valid")
    scaler = Scaler.fit(train)
    config = complete(config)
    device = own_device()
    tensors = SplitTensors(scaler.apply(train), device), SplitTensors(scaler.apply(valid), device)
    build_check(config, SplitTensors(scaler.apply(train), torch.device("cpu")))
    specs = [MemberSpec(config, s) for s in seeds]
    groups = [specs] if stackable(config) else [[s] for s in specs]
    runs = [run for group in groups for run in fit(group, *tensors, objective=objective).runs]
    whole = [(s, r) for s, r in zip(seeds, runs, strict=True) if r.failure is None]
    if not whole:
        raise UserError(f"training failed with every seed; the first: {runs[0].failure}; try a smaller optimizer.lr")
    predictions = np.stack([r.predictions for _, r in whole if r.predictions is not None])
    states = [r.state for _, r in whole if r.state is not None]
    metrics = {"valid": brief(estimates(predictions, valid.labels, objective.convention, videos(valid.ids)))}
    provenance = {
        **environment(),
        "data_path": data,
        "data_fingerprint": dataset.fingerprint(),
        "seeds": [s for s, _ in whole],
        "best_epochs": [r.best_epoch for _, r in whole],
        "metric": objective.metric,
        "convention": objective.convention,
        "nonfinite": nonfinite,
        "text_model": made_by(dataset),
        "interval": PredictionInterval.fit(predictions, valid.labels).to_dict(),
        "device": str(device),
    }
    stacked = {n: np.stack([s[n].numpy() for s in states]) for n in states[0]}
    _write(out, config.to_dict(), stacked, scaler, metrics, provenance)
    return metrics


def verify(folder: Path, data: str | None, limit: int | None) -> dict[str, Any]:
    """Train an exported model again, with its own seeds, and compare the valid metric seed by seed with the recorded
    one.

    Raises:
        UserError: the data is not what the model was trained on.
    """
    model = read_model(folder)
    facts = model.provenance
    modalities = tuple(model.scaler.mean)  # those of the study's data: the model may use fewer
    dataset = open_like_training(model, data, modalities)
    if dataset.fingerprint() != facts["data_fingerprint"]:
        raise UserError(f"{dataset.path}: is not the data this model was trained on; give that file with --data")
    train, valid = (model.scaler.apply(dataset.split(name)) for name in ("train", "valid"))
    device = own_device()
    seeds = facts["seeds"][:limit]
    objective = Objective(facts["metric"], facts["convention"])
    members = [MemberSpec(model.config, s) for s in seeds]
    again = fit(members, SplitTensors(train, device), SplitTensors(valid, device), objective=objective)
    states = {n: s[: len(seeds)] for n, s in model.states.items()}
    before = predict(model.config, states, valid)
    recorded = objective_rows(facts["metric"], before, valid.labels, facts["convention"]).tolist()
    now = [run.value for run in again.runs]
    gap = float(np.abs(np.subtract(recorded, now)).max())  # NaN where a member fails now
    return {
        "metric": facts["metric"],
        "seeds": seeds,
        "recorded": recorded,
        "again": now,
        "largest_difference": gap,
        "reproduced": gap < 1e-3,
    }


def _write(
    folder: Path,
    config: Mapping[str, Any],
    states: Mapping[str, NDArray[Any]],
    scaler: Scaler,
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> None:
    tensors = {f"model.{n}": t for n, t in states.items()}
    tensors |= {f"scaler.{n}": t for n, t in scaler.to_dict().items()}
    write_files(folder, config, tensors, metrics, provenance, _card(metrics, provenance))


def _card(metrics: Mapping[str, Any], provenance: Mapping[str, Any]) -> str:
    """Return the model card: what it is, how good, how made, how to use."""
    splits = [s for s in ("valid", "test") if s in metrics]
    names = list(metrics["valid"])
    rows = [f"| {n} | " + " | ".join(_cell(metrics[s][n]) for s in splits) + " |" for n in names]
    table = "\n".join([f"| metric | {' | '.join(splits)} |", "|---|" + "---|" * len(splits), *rows])
    text = (importlib.resources.files("search") / "report" / "card.md").read_text(encoding="utf-8")
    return text.format(
        table=table,
        members=len(provenance["seeds"]),
        study=provenance.get("study", "a single training run"),
        openings=metrics.get("test_openings", 0),
        fingerprint=provenance["data_fingerprint"],
        commit=provenance.get("commit") or "unknown",
        device=provenance["device"],
    )


def brief(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return estimates as ``metrics.json`` has them, whose keys other programs rely on."""
    return {metric: {key: e[key] for key in ("mean", "std", "n", "low", "high")} for metric, e in found.items()}


def _cell(estimate: Mapping[str, float]) -> str:
    return f"{estimate['mean']:.4f} ± {estimate['std']:.4f}"


@contextmanager
def counted_opening(model: Path, by: str) -> Iterator[None]:
    """Hold the run folder that a model folder lies in, if it lies in one, and count an opening of the test split.

    Raises:
        UserError: another process is at work in the run folder, or it cannot be written.
    """
    folder = RunFolder(model.resolve().parent)
    if not (folder.path / "resolved.yaml").exists():
        yield
        return
    with folder.held():
        record_opening(open_study(folder.config(), folder), by)
        yield
