"""What several rooms' tests share: a command line run for real, and where the real X-rays lie."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def recipes_dir():
    return REPOSITORY / "recipes"


@pytest.fixture
def command(tmp_path) -> Callable[..., subprocess.CompletedProcess]:
    """Run `python -m cxrignite ...` in an empty folder, as a user would."""

    def run(*argv: str | Path, timeout: float = 240, **environment: str):
        return subprocess.run(
            [sys.executable, "-m", "cxrignite", *map(str, argv)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        )

    return run


@pytest.fixture(scope="session")
def smoke_arguments(tmp_path_factory, recipes_dir):
    """Options that turn any recipe into two steps on a few synthetic films, made once."""
    root = tmp_path_factory.mktemp("smoke") / "phantom"
    overlay = recipes_dir / "overlays" / "smoke.yaml"
    return ["--config", str(overlay), "--data.source.root", str(root)]
