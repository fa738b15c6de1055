"""What stops a study without being a mistake in it: a disk that is full or not writable, a storage that is away."""

from __future__ import annotations

import errno
import shutil
import sys
from pathlib import Path

import optuna
import sqlalchemy
from safetensors import SafetensorError

from mmsa_core.errors import UserError
from search.storage import without_password

LEAST_ROOM = 200 * 2**20
"""Free bytes below which no more work is handed out: journal, curves and predictions of what runs must still fit."""
GO_ON = "mend that and run the same command again: it goes on, and nothing is lost"


def check_room(folder: Path) -> None:
    """Refuse to begin more work where the disk is nearly full.

    A checkpoint is written beside the one that it replaces: there must be room for the largest twice.

    Raises:
        UserError: with what is free and what is needed.
    """
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    largest = max((p.stat().st_size for p in folder.glob("populations/*.safetensors")), default=0)
    needed, free = LEAST_ROOM + 2 * largest, shutil.disk_usage(there).free
    if free < needed:
        raise UserError(
            f"{folder}: {free / 2**20:.0f} MiB of this disk are free, and {needed / 2**20:.0f} MiB are needed to go on "
            "safely"
        )


def outage(error: Exception) -> str | None:
    """Return what gave out, for an exception that tells of the disk or the storage; None for others."""
    reason = without_password(" ".join(str(error.__cause__ or error).split()))[:300]
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        place = f"{error.filename}: " if error.filename is not None else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return f"{place}the disk is full ({error.strerror})"
        return f"{place}cannot be read or written: {error.strerror}"
    if isinstance(error, SafetensorError):
        return f"a file of weights cannot be read or written: {reason}"
    if isinstance(error, sqlalchemy.exc.SQLAlchemyError | optuna.exceptions.StorageInternalError):
        return f"storage: the database does not answer ({reason})"
    if _is_of_proxy(error):
        return f"storage: the gRPC proxy does not answer ({reason})"
    return None


def _is_of_proxy(error: Exception) -> bool:
    """Tell whether a call to Optuna's gRPC proxy failed. grpc is an extra, and imported where a proxy is used."""
    grpc = sys.modules.get("grpc")
    return grpc is not None and isinstance(error, grpc.RpcError)
