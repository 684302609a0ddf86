import threading

import numpy as np
import pytest
from PIL import Image

from cxrignite.data.grey_scaling import is_nearly_blank
from cxrignite.data.image_stream import ImageStream
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.read_batches import read_batch, read_batches
from cxrignite.data.reading import read_image
from cxrignite.data.sources import ImageRecord
from cxrignite.errors import CxrIgniteError, DataError, UnreadableImageError


def read(path):
    grey = read_image(path, (8, 8))
    return grey[None], is_nearly_blank(grey)


@pytest.fixture
def records(tmp_path):
    """Eleven files: the third is damaged, the sixth is missing, the eighth is blank."""
    rng = np.random.default_rng(0)
    for number in range(11):
        if number != 5:
            pixels = rng.integers(0, 256, (9, 12), np.uint8) * (number != 7)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number:02}.png")
    (tmp_path / "02.png").write_bytes(b"damaged")
    paths = [str(tmp_path / f"{number:02}.png") for number in range(11)]
    return [ImageRecord(path, path, -1, "", "test") for path in paths]


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 20])
def test_batches_are_those_of_the_stream_for_torch(records, batch_size, num_threads):
    pipeline = Pipeline(image_size=(8, 8))
    stream = ImageStream(records, pipeline, (8, 8), batch_size=batch_size)
    found = read_batches(records, read, (8, 8), batch_size=batch_size, num_threads=num_threads)
    for ours, others in zip(found, stream, strict=True):
        assert ours.images.dtype == np.uint8
        assert np.array_equal(ours.images, others.images.numpy())
        assert ours.images.shape == tuple(others.images.shape)
        assert ours[1:] == others[1:]


def test_another_size_and_a_failing_transform_cost_no_other_image_its_score():
    def read_special(path):
        if path == "1":
            raise DataError("the transform failed")
        if path == "2":
            raise UnreadableImageError(path, "damaged")
        return np.zeros((1, 8, 9 if path == "0" else 8), np.uint8), path == "3"

    batch = read_batch(range(4), str, read_special, np.stack, (8, 8))
    assert (batch.positions, batch.nearly_blank, batch.images.shape) == ([3], [3], (1, 1, 8, 8))
    assert "8 x 8" in batch.failures[0]
    assert "8 x 9" in batch.failures[0]
    assert {**batch.failures, 0: ""} == {0: "", 1: "the transform failed", 2: "damaged"}


def test_a_problem_of_the_process_ends_the_pass(records):
    def read_nothing(path):
        raise CxrIgniteError("out of memory")

    with pytest.raises(CxrIgniteError, match="memory"):
        next(read_batches(records, read_nothing, (8, 8), batch_size=4, num_threads=2))


def test_few_batches_are_read_ahead(records):
    many, seen, lock = records[:1] * 1000, [], threading.Lock()

    def count(path):
        with lock:
            seen.append(path)
        return read(path)

    batches = read_batches(many, count, (8, 8), batch_size=2, num_threads=2)
    next(batches)
    batches.close()
    assert len(seen) <= 2 * 5
