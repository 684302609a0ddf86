"""What a run was made with: enough to make it again."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata

from cxrignite import __version__

_PACKAGES = ("torch", "torchvision", "pytorch-ignite", "monai", "scikit-learn", "numpy", "timm")


def environment(command: list[str]) -> dict[str, object]:
    """Versions, machine, threads and revision, as plain values.

    Args:
        command: The arguments that started this process.
    """
    import torch

    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "command": ["cxrignite", *command],
        "cxrignite": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version for name, version in versions.items() if version},
        "num_threads": torch.get_num_threads(),
        "git_revision": _git_revision(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Revision of the working folder's repository, marked where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
