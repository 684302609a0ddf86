"""Checkpoint loading that compares every file with its manifest before use.

`safe_saver.py` writes both files and documents the steps.
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
        The path of that file. If it is damaged or was never finished: the path of the previous
        one, with a warning in the log.

    Raises:
        CheckpointError: If neither is valid.
    """
    newest = Path(directory) / name
    try:
        verify_checkpoint(newest)
    except CheckpointError as error:
        if not is_valid(previous_path(newest)):
            raise
        _log.warning("%s; using the previous checkpoint %s", error, previous_path(newest).name)
        return previous_path(newest)
    return newest


def verify_checkpoint(path: Path | str) -> dict[str, Any]:
    """Compare a checkpoint with its manifest, without loading it.

    Args:
        path: The checkpoint.

    Returns:
        The manifest: size in bytes, sha256 and the metadata given to the saver.

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
    """Load a checkpoint whose size and digest match its manifest.

    Only tensors and plain values are loaded: a pickle that would run code is refused.

    Args:
        path: The checkpoint.
        map_location: The device of its tensors.

    Returns:
        The saved dictionary.

    Raises:
        CheckpointError: If it is missing, damaged, or holds other objects.
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
        # Without torch's message, which explains how to load a hostile file anyway.
        raise CheckpointError(
            f"{path} is refused: it must hold only tensors and plain values"
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path} must hold a dict, got {type(checkpoint).__name__}")
    return checkpoint


def is_valid(path: Path) -> bool:
    """True if a checkpoint exists and matches its manifest."""
    try:
        verify_checkpoint(path)
    except CheckpointError:
        return False
    return True


def previous_path(path: Path) -> Path:
    """Return the path of the previous checkpoint: `last.previous.pt` for `last.pt`."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def manifest_path(path: Path) -> Path:
    """Return the path of a checkpoint's manifest: `last.json` for `last.pt`."""
    return path.with_suffix(".json")


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with a digest of its other entries.

    Args:
        manifest: Plain JSON values by name.
    """
    content = json.dumps(manifest, sort_keys=True).encode()
    return {**manifest, "manifest_sha256": hashlib.sha256(content).hexdigest()}


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest that the saver wrote beside a checkpoint.

    Args:
        path: The checkpoint.

    Returns:
        The manifest: size in bytes, sha256 and the metadata given to the saver.

    Raises:
        CheckpointError: If it is missing, damaged or was changed.
    """
    file = manifest_path(path)
    try:
        manifest = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        state = "was never finished" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {state}: {file.name} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its manifest {file.name} is damaged") from error
    keys = {"size", "sha256", "manifest_sha256"}
    if not isinstance(manifest, dict) or not keys <= manifest.keys():
        missing = ", ".join(sorted(keys - set(manifest if isinstance(manifest, dict) else ())))
        raise CheckpointError(f"{path}: its manifest {file.name} has no {missing}")
    if manifest.pop("manifest_sha256") != sealed(manifest)["manifest_sha256"]:
        raise CheckpointError(f"{path}: its manifest {file.name} was changed")
    return manifest


def _compare(path: Path, manifest: Mapping[str, Any], size: int, sha256: str) -> None:
    for name, got in (("size", size), ("sha256", sha256)):
        if manifest[name] != got:
            raise CheckpointError(
                f"{path} is damaged: its {name} must be {manifest[name]}, got {got}"
            )
