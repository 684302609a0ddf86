"""What several tests of the workflows share."""

import io

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def assert_nothing_is_cut():
    """Check that a figure's border is white, so that nothing drawn reaches over it."""

    def check(figure):
        file = io.BytesIO()
        figure.savefig(file, format="png")
        image = np.asarray(Image.open(file).convert("RGB"))
        border = np.concatenate([image[:2], image[-2:]]).reshape(-1, 3)
        sides = np.concatenate([image[:, :2], image[:, -2:]]).reshape(-1, 3)
        assert (border == 255).all()
        assert (sides == 255).all()

    return check
