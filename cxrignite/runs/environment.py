"""Environment of each start of a run: enough to repeat it."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

from cxrignite import __version__

_PACKAGES = ("torch", "torchvision", "pytorch-ignite", "monai", "scikit-learn", "numpy", "timm")


@dataclass(frozen=True)
class RunStart:
    """Start of a run.

    Attributes:
        git_revision: Git revision of the working folder, with `-dirty` if files differ from it;
            None without a repository.
        start_from_sha256: Digest of the file with the weights that training started from.
        num_parameters: Parameters of the model.
        num_trained: Parameters that are trained in the first epoch.
    """

    command: tuple[str, ...]
    cxrignite: str
    python: str
    platform: str
    packages: dict[str, str]
    num_threads: int
    git_revision: str | None
    device: str
    precision: str
    num_processes: int
    start_from_sha256: str | None = None
    num_parameters: int | None = None
    num_trained: int | None = None


@dataclass(frozen=True)
class RunStarts:
    """Content of `environment.json`."""

    starts: tuple[RunStart, ...] = ()
    format: Literal[1] = 1


def describe_start(
    command: list[str], *, device: str, precision: str, num_processes: int, **known: Any
) -> RunStart:
    """Return a description of this process; `known` are further values of a `RunStart`."""
    import torch

    versions = {name: _version(name) for name in _PACKAGES}
    return RunStart(
        command=("cxrignite", *command),
        cxrignite=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        packages={name: version for name, version in versions.items() if version},
        num_threads=torch.get_num_threads(),
        git_revision=_git_revision(),
        device=device,
        precision=precision,
        num_processes=num_processes,
        **known,
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Return the revision of the working folder, with `-dirty` if files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
