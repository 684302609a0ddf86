import os
from errno import ENOENT

import numpy as np
import pytest
import torch
from messages import line_with
from PIL import Image

from cxrignite.data import ImageRecord, Pipeline
from cxrignite.data.image_stream import ImageStream
from cxrignite.data.transforms import Transform


@pytest.fixture
def records(tmp_path):
    """Ten images, of which 2 is empty, 5 is missing, 6 is larger, and 8 and 9 are no images."""
    found = []
    for number in range(10):
        path = tmp_path / f"{number}.png"
        side = 12 if number == 6 else 8
        Image.fromarray(np.full((side, side), 20 * number, np.uint8)).save(path)
        found.append(ImageRecord(str(path), str(number), -1, "", "test"))
    found[2].path.write_bytes(b"")
    found[5].path.unlink()
    for number in (8, 9):
        found[number].path.write_bytes(b"<!doctype html>")
    return found


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_image_has_its_outcome_in_its_place(records, num_workers):
    stream = ImageStream(records, Pipeline(), (8, 8), batch_size=4, num_workers=num_workers)
    assert len(stream) == 3
    batches = list(stream)
    stream.close()
    assert [batch.positions for batch in batches] == [[0, 1, 3], [4, 7], []]
    assert [list(batch.failures) for batch in batches] == [[2], [5, 6], [8, 9]]
    assert [batch.nearly_blank for batch in batches] == [[0, 1, 3], [4, 7], []]  # of one level
    assert [tuple(batch.images.shape) for batch in batches] == [
        (3, 1, 8, 8),
        (2, 1, 8, 8),
        (0, 1, 8, 8),
    ]
    for batch in batches:
        assert batch.images.dtype == torch.uint8
        assert batch.images.flatten(1).amax(1).tolist() == [20 * each for each in batch.positions]
        assert torch.equal(batch.images.flatten(1).amin(1), batch.images.flatten(1).amax(1))
    line_with(batches[0].failures[2], "empty")
    assert batches[1].failures[5] == os.strerror(ENOENT)
    line_with(batches[1].failures[6], 8, 12)


class Refusing(Transform):
    def __call__(self, image):
        if image.max() > 0.2:
            raise ValueError("too bright")
        return image


def test_a_transform_that_fails_costs_its_image_alone(records):
    stream = ImageStream(records[:5], Pipeline([Refusing()]), (8, 8), batch_size=5)
    (batch,) = stream
    assert batch.positions == [0, 1]
    assert list(batch.failures) == [2, 3, 4]
    line_with(batch.failures[3], "Refusing", records[3].path, "too bright")


def test_closed_it_leaves_no_process(records):
    stream = ImageStream(records, Pipeline(), (8, 8), batch_size=2, num_workers=2)
    next(iter(stream))
    workers = stream._loader._iterator._workers
    assert all(worker.is_alive() for worker in workers)
    stream.close()
    assert not any(worker.is_alive() for worker in workers)
