import numpy as np
import pytest
import torch

from cxrignite.handlers.image_count import num_images


@pytest.mark.parametrize(
    ("batch", "number"),
    [
        ((torch.zeros(3, 1, 2, 2), torch.zeros(3)), 3),
        ([torch.zeros(0, 1, 2, 2)], 0),
        (torch.zeros(5, 1), 5),
        (torch.tensor(1.0), 0),
        ((), 0),
        ({"image": torch.zeros(3, 1), "label": torch.zeros(3)}, 3),
        ([{"image": torch.zeros(1, 2)}, {"image": torch.zeros(1, 2)}], 2),
        ({}, 0),
        ({"name": "a"}, 0),
        ({"name": ["a", "b"], "image": torch.zeros(2, 1)}, 2),
        ((np.zeros((3, 1, 2)), np.zeros(3)), 3),
        (7, 0),
    ],
)
def test_images_are_counted_where_a_batch_begins_with_them(batch, number):
    assert num_images(batch) == number


def test_labels_of_several_findings_are_no_images():
    images, labels = torch.zeros(5, 1, 2, 2), torch.zeros(5, 14)
    assert num_images((images, labels)) == 5
    assert num_images({"image": images, "label": labels}) == 5
