"""Openings of the test split: frozen before the split is read, counted once, and finished where they were interrupted.

What is evaluated (``confirm/opening.json``) is settled before anything is seen of the test split. A run that was killed
in between goes on with that record, so that what was seen is what is reported, and one opening counts as one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from mmsa_core.atomic import replacing, write_text
from mmsa_core.config import MemberConfig, fingerprint
from mmsa_core.data.split import Split, videos
from mmsa_core.metrics import evaluate
from mmsa_core.predict import predict
from search.confirm import check_roles
from search.judgement import between, estimates
from search.members import Candidate, load
from search.race import Race
from search.records import Needs, check_needs, read_json
from search.statistics import resolve

OPENINGS = "test_openings"
FILE = "opening.json"
AGAIN = "delete it and confirm the run again, which opens the test split anew"
NEEDS: Needs = {"inputs": str, "asked": dict, "record": dict}
RECORD: Needs = {"metric": str, "convention": str, "seeds": list, "baseline": int, "winner": int, "candidates": list}


@dataclass(frozen=True)
class Opening:
    """An opening as it is before the test split is read: the fingerprint of what is evaluated, the settings that asked
    for it, and what was judged on the valid split (``confirm.json`` without its test part)."""

    inputs: str
    asked: Mapping[str, Any]
    record: Mapping[str, Any]

    def is_finished(self, known: Mapping[str, Any] | None) -> bool:
        """Tell whether ``confirm.json`` is of this opening."""
        return known is not None and known.get("inputs") == self.inputs

    def is_counted(self, study: optuna.Study) -> bool:
        """Tell whether the study counts this opening already."""
        return any(o.get("inputs") == self.inputs for o in study.user_attrs.get(OPENINGS, []))


def asked_for(race: Race, rule: str, data: str) -> dict[str, Any]:
    """Return what the settings ask a confirmation for, as JSON has it; ``data`` is the data's fingerprint."""
    return {
        "data": data,
        "metric": race.metric,
        "convention": race.convention,
        "rule": rule,
        "seeds": list(race.seeds),
        "baseline": race.baseline,
        "candidates": {str(n): candidate.mark for n, candidate in race.candidates.items()},
    }


def inputs_of(record: Mapping[str, Any], data: str) -> str:
    """Return the fingerprint of what an opening evaluates: the data, the roles and seeds, and every candidate's
    configuration with its estimates on the valid split, which differ where members are not the same."""
    own = [[c.get(key) for key in ("trial", "config", "valid")] for c in record["candidates"]]
    roles = [record.get(key) for key in ("metric", "convention", "seeds", "baseline", "winner")]
    return fingerprint([data, roles, own])


def freeze(folder: Path, asked: Mapping[str, Any], record: Mapping[str, Any]) -> Opening:
    """Write ``opening.json`` and return it."""
    made = Opening(inputs_of(record, asked["data"]), asked, record)
    write_text(folder / FILE, json.dumps(asdict(made), indent=2) + "\n")
    return made


def read_opening(folder: Path) -> Opening | None:
    """Return ``opening.json``, or None before the first opening and in runs of older versions.

    Raises:
        UserError: it is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    found = read_json(path, NEEDS, AGAIN)
    check_needs(found["record"], RECORD, f"{path}: record", AGAIN)
    check_roles(found["record"], path, AGAIN)
    return Opening(found["inputs"], found["asked"], found["record"])


def open_test(
    opening: Opening, candidates: Mapping[int, Candidate], study: optuna.Study, folder: Path, valid: Split, test: Split
) -> dict[str, Any]:
    """Count an opening in the study, evaluate its winner and baseline on the test split, and return its whole record.

    The winner's members are also evaluated as what is exported: the mean of their predictions. An opening that was
    interrupted is counted already.
    """
    record = dict(opening.record)
    openings = record_opening(study, "confirm", opening.inputs)
    metric, convention, clusters = record["metric"], record["convention"], videos(test.ids)
    found = {}
    for role in ("winner", "baseline"):
        members = load(folder, candidates[record[role]], record["seeds"])
        states = {n: torch.from_numpy(s) for n, s in members.states.items()}
        predictions = predict(MemberConfig.from_dict(members.config), states, test)
        found[role] = replace(members, predictions=predictions, states={})
        with replacing(folder / f"test_{role}.npz") as temporary, temporary.open("wb") as file:
            own = {"predictions": predictions, "seeds": np.array(members.seeds), "inputs": np.array(opening.inputs)}
            np.savez_compressed(file, **own)  # type: ignore[arg-type]  # numpy's stub knows only allow_pickle
        if role == "winner":
            record["ensemble"] = {
                "valid": evaluate(members.predictions.mean(0), valid.labels, convention),
                "test": evaluate(predictions.mean(0), test.labels, convention),
            }
    record["test"] = {
        role: estimates(own.predictions, test.labels, convention, clusters) for role, own in found.items()
    }
    difference = between(found["winner"], found["baseline"], metric, convention, test.labels, clusters)
    record["test"]["difference"] = resolve([difference])[0]
    return {**record, "test_openings": openings, "inputs": opening.inputs}


def record_opening(study: optuna.Study, by: str, inputs: str | None = None) -> int:
    """Write an opening of the test split into the study, before it happens; return how many there were.

    One with the ``inputs`` of an opening that is there already is the same one, taken up again.
    """
    openings = list(study.user_attrs.get(OPENINGS, []))
    if inputs is None or all(o.get("inputs") != inputs for o in openings):
        now = datetime.now(UTC).isoformat(timespec="seconds")
        openings.append({"time": now, "by": by, **({} if inputs is None else {"inputs": inputs})})
        study.set_user_attr(OPENINGS, openings)
    return len(openings)
