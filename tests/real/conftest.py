import os
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def chest_xray() -> Path:
    """The 224 px images of ChestXRay2017, which are no part of the project."""
    root = Path(os.environ.get("CXRIGNITE_CHEST_XRAY", SHARED / "chest_xray_224"))
    if not root.is_dir():
        pytest.skip(f"no real X-rays: set CXRIGNITE_CHEST_XRAY or provide {root.name}")
    return root.resolve()
