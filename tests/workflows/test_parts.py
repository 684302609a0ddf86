import numpy as np
import pytest
from PIL import Image

from cxrignite.data import Film, XrayData
from cxrignite.errors import RecipeError
from cxrignite.nn import LightCNN
from cxrignite.workflows.parts import check_image_size


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "film.png"
    Image.fromarray(np.zeros((48, 64), dtype=np.uint8)).save(path)
    return XrayData([Film(path, "film.png", 0, "p1", "train")], ("NORMAL", "PNEUMONIA"))


@pytest.mark.parametrize("size", [None, (48, 64)])
def test_images_of_a_fitting_size_pass(size, data):
    model = LightCNN(width=2)
    model.image_size = size
    check_image_size(model, data)


def test_images_of_another_size_are_refused_before_training(data):
    model = LightCNN(width=2)
    model.image_size = (64, 64)
    with pytest.raises(RecipeError, match=r"must give images of \(64, 64\).*got \(48, 64\)"):
        check_image_size(model, data)
