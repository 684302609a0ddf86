"""Checkpoints are held against their manifest before anything of them is used.

`safe_saver.py` writes both, and says how.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cxrignite.errors import CheckpointError, is_resource_error

_log = logging.getLogger(__name__)


def latest_valid(directory: Path | str, name: str) -> Path:
    """Find the newest valid checkpoint of a name.

    Args:
        directory: The folder of a `SafeSaver`.
        name: The file name, for example `last.pt`.

    Returns:
        The path of that file or, where it is damaged or was never finished, of the one before it;
        the log then says so.

    Raises:
        CheckpointError: If neither is valid.
    """
    newest = Path(directory) / name
    try:
        verify_checkpoint(newest)
    except CheckpointError as error:
        if not is_valid(previous_path(newest)):
            raise
        _log.warning("%s; going back to %s", error, previous_path(newest).name)
        return previous_path(newest)
    return newest


def verify_checkpoint(path: Path | str) -> dict[str, Any]:
    """Hold a checkpoint against its manifest, without loading it.

    Args:
        path: The checkpoint.

    Returns:
        The manifest: size in bytes, sha256 and what else the saver was told.

    Raises:
        CheckpointError: If one of the two files is missing, or they do not match.
    """
    path = Path(path)
    manifest = read_manifest(path)
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            _compare(path, manifest, file.tell(), sha256)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    return manifest


def load_checkpoint(path: Path | str, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Load a checkpoint, if every byte of it is the one that was saved.

    Only tensors and plain values are loaded: a pickle that would run code is refused.

    Args:
        path: The checkpoint.
        map_location: The device of its tensors.

    Returns:
        What was saved.

    Raises:
        CheckpointError: If it is missing, damaged, or holds anything else.
    """
    path = Path(path)
    manifest = read_manifest(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    _compare(path, manifest, len(data), hashlib.sha256(data).hexdigest())
    try:
        checkpoint = torch.load(io.BytesIO(data), map_location, weights_only=True, mmap=False)
    except Exception as error:
        if is_resource_error(error):
            raise
        # Not in torch's own words: they explain how to load a hostile file all the same.
        raise CheckpointError(
            f"{path} is refused: not a file of tensors and plain values"
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path} must hold a dict, got {type(checkpoint).__name__}")
    return checkpoint


def is_valid(path: Path) -> bool:
    """Whether a checkpoint is there and matches its manifest."""
    try:
        verify_checkpoint(path)
    except CheckpointError:
        return False
    return True


def previous_path(path: Path) -> Path:
    """Name the checkpoint that `path` superseded: `last.previous.pt` for `last.pt`."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def manifest_path(path: Path) -> Path:
    """Name the manifest of a checkpoint: `last.json` for `last.pt`."""
    return path.with_suffix(".json")


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with a digest of what else it says.

    Args:
        manifest: Plain JSON values by their names.
    """
    content = json.dumps(manifest, sort_keys=True).encode()
    return {**manifest, "manifest_sha256": hashlib.sha256(content).hexdigest()}


def read_manifest(path: Path) -> dict[str, Any]:
    """Read what the saver wrote beside a checkpoint.

    Args:
        path: The checkpoint.

    Returns:
        The manifest: size in bytes, sha256 and what else the saver was told.

    Raises:
        CheckpointError: If it is missing, damaged or was changed.
    """
    where = manifest_path(path)
    try:
        manifest = json.loads(where.read_bytes())
    except FileNotFoundError as error:
        state = "was never finished" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {state}: {where.name} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its manifest {where.name} is damaged") from error
    if not isinstance(manifest, dict) or not {"size", "sha256"} <= manifest.keys():
        raise CheckpointError(f"{path}: its manifest {where.name} has no size and sha256")
    seal = manifest.pop("manifest_sha256", None)
    if seal is not None and seal != sealed(manifest)["manifest_sha256"]:
        raise CheckpointError(f"{path}: its manifest {where.name} was changed")
    return manifest


def _compare(path: Path, manifest: Mapping[str, Any], size: int, sha256: str) -> None:
    for name, got in (("size", size), ("sha256", sha256)):
        if manifest[name] != got:
            raise CheckpointError(
                f"{path} is damaged: its {name} must be {manifest[name]}, got {got}"
            )
