"""An environment without this package: links to the installed packages that it needs, no others."""

import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement


def linked_environment(folder: Path, *names: str) -> Path:
    """Make an environment of some packages, and of those that they require.

    Returns:
        Its interpreter.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    ours, theirs = Path(sysconfig.get_path("purelib")), folder / "lib" / version / "site-packages"
    for distribution in _with_required(names):
        tops = {file.parts[0] for file in metadata.distribution(distribution).files or ()}
        for top in tops - {"..", "__pycache__"}:
            if (ours / top).exists() and not (theirs / top).exists():
                (theirs / top).symlink_to(ours / top)
    return folder / "bin" / "python"


def _with_required(names) -> set[str]:
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # of another platform
            continue
        if name.lower() in found:
            continue
        found.add(name.lower())
        for text in required:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found
