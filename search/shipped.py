"""Spaces and configurations that come with the package, by their names; or a person's own, by path."""

from __future__ import annotations

import importlib.resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

from mmsa_core.errors import UserError, nearest
from search.yaml_io import read_yaml

Kind = Literal["space", "configuration"]
FOLDERS: dict[Kind, str] = {"space": "spaces", "configuration": "spaces/configs"}
"""Where the files of a kind lie; messages name them by this path."""


def shipped(kind: Kind) -> tuple[str, ...]:
    """Return the names of the shipped files of a kind."""
    return tuple(sorted(f.name.removesuffix(".yaml") for f in _folder(kind).iterdir() if f.name.endswith(".yaml")))


def read_named(kind: Kind, name_or_path: str | Path) -> tuple[dict[Any, Any], str]:
    """Return what a shipped file (``quick``) or a YAML file (by its path) holds, and the source that messages name.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    name = str(name_or_path)
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return read_yaml(name), name
    known = shipped(kind)
    if name not in known:
        raise UserError(f"{kind}: there is no shipped {kind} {name!r}{nearest(name, known)}; or give a .yaml path")
    with importlib.resources.as_file(_folder(kind) / f"{name}.yaml") as path:
        return read_yaml(path), f"{FOLDERS[kind]}/{name}.yaml"


def _folder(kind: Kind) -> Traversable:
    package, *rest = FOLDERS[kind].split("/")
    return importlib.resources.files(package).joinpath(*rest)
