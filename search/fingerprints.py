"""Fingerprints of what makes trials comparable: the study keeps those of the run that began it, every run is checked.

They stand in the Optuna study itself, as run folders that share a storage know nothing of each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna

from mmsa_core.config import fingerprint
from mmsa_core.errors import UserError
from search.run_folder import RunFolder
from search.same_study import FREE
from search.study import StudyConfig

FINGERPRINTS = "fingerprints"
"""User attribute of the study: the fingerprint of every part, with the data's path and the run folder they are of."""
APART = {"study", "data", "seeds", "space", "warm_start"}
"""Parts of a study file that are not compared as they are written; what ``warm_start`` names lies on one machine, and
decides which trials come first, not what they are worth."""


def of_run(config: StudyConfig, facts: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the fingerprints of a run by its settings and its ``lock.json``, and where it is."""
    tree = config.resolved()
    parts = {key: fingerprint(value) for key, value in tree.items() if key not in FREE | APART}
    parts["space"] = config.search_space().fingerprint()
    parts |= {f"seeds.{key}": fingerprint(tree["seeds"][key]) for key in ("search", "base")}
    parts |= {f"data.{key}": fingerprint(tree["data"][key]) for key in ("modalities", "nonfinite")}
    if "data_fingerprint" in facts:
        parts["data"] = facts["data_fingerprint"]
    if "text_model" in facts:
        parts["text model"] = _text(facts["text_model"])
    return {"parts": parts, "data": config.data.path, "folder": str(folder.absolute())}


def of_folder(config: StudyConfig, folder: RunFolder) -> dict[str, Any]:
    """Return the fingerprints of a run folder, from its own files; ``config`` gives its storage's password alone.

    Raises:
        UserError: it is no run folder.
    """
    facts = folder.facts() if (folder.path / "lock.json").exists() else {}
    return of_run(folder.config(storage=config.storage), facts, folder.path)


def of_study(study: optuna.Study) -> dict[str, Any] | None:
    """Return the fingerprints that a study keeps; None where nobody has begun it, or an older version has."""
    found: dict[str, Any] | None = study.user_attrs.get(FINGERPRINTS)
    return found


def check_folder(study: optuna.Study, config: StudyConfig, folder: RunFolder) -> None:
    """Refuse a run folder that is not of its study.

    Raises:
        UserError: data, space or settings of the folder and of the study's trials differ.
    """
    check(study, of_folder(config, folder))


def check(study: optuna.Study, own: Mapping[str, Any]) -> None:
    """Refuse a run whose trials could not be compared with those of the study.

    Raises:
        UserError: with the first part that differs, both fingerprints and both places.
    """
    found = of_study(study)
    if found is None:
        return
    for part in ("data", *own["parts"]):
        was, now = found["parts"].get(part), own["parts"].get(part)
        if was is not None and now is not None and was != now:
            raise UserError(
                f"storage: study {study.study_name!r} was begun with another {part}: fingerprint {was} (data "
                f"{found['data']}, run folder {found['folder']}), and {now} here (data {own['data']}, run folder "
                f"{own['folder']}); give this run another study: name or another storage"
            )


def _text(made_by: Mapping[str, Any] | None) -> str:
    """Return the fingerprint of what made text features: by its content where that is known, wherever it lies."""
    if made_by is None:
        return "none"
    return fingerprint({k: v for k, v in made_by.items() if k != "name" or not made_by.get("content")})
