"""The data room on the real ChestXRay2017 images, which are not part of the project."""

import hashlib
import os
from collections import Counter
from pathlib import Path

import pytest
from monai.transforms import RandAffine, Resize
from PIL import Image

from cxrignite.data.class_folders import ClassFolders
from cxrignite.data.inspection import inspect_images
from cxrignite.data.leakage import leaked_pairs
from cxrignite.data.loading import LoaderSettings
from cxrignite.data.module import XrayData
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.reading import read_image
from cxrignite.data.sources import ImageRecord
from cxrignite.data.split_assignment import split_off, split_off_fold
from cxrignite.data.splits import check_same_records, read_split, write_split

pytestmark = pytest.mark.slow

SHARED = Path(__file__).parents[3] / "shared" / "data"
SMALL = Path(os.environ.get("CXRIGNITE_CHEST_XRAY", SHARED / "chest_xray_224"))
FULL = SHARED / "chest_xray_full_sample"

needs_small = pytest.mark.skipif(
    not SMALL.is_dir(), reason=f"no real X-rays: set CXRIGNITE_CHEST_XRAY or provide {SMALL.name}"
)
needs_full = pytest.mark.skipif(not FULL.is_dir(), reason=f"no real X-rays at {FULL.name}")


@pytest.fixture(scope="module")
def records() -> list[ImageRecord]:
    return ClassFolders(SMALL).records()


@needs_small
def test_the_counts_are_those_of_the_data_set(records):
    counts = Counter((record.split, record.label) for record in records)
    # The Kaggle variant's train folder, with or without the 8 + 8 of its val folder.
    assert (counts["train", 0], counts["train", 1]) in {(1341, 3875), (1349, 3883)}
    assert counts["test", 0] > 0
    assert counts["test", 1] > 0
    assert {record.attributes["subgroup"] for record in records if record.label == 0} == {
        "IM",
        "NORMAL2",
    }
    subgroups = {record.attributes["subgroup"] for record in records if record.label == 1}
    assert subgroups == {"bacteria", "virus"}


@needs_small
def test_no_patient_is_on_both_sides_of_train_and_test(records):
    assert not leaked_pairs(records)
    # By number alone most test persons would seem to leak.
    persons = {
        split: {
            record.patient.split("_")[0]
            for record in records
            if record.label and record.split == split
        }
        for split in ("train", "test")
    }
    assert len(persons["train"] & persons["test"]) > len(persons["test"]) / 2


@needs_small
def test_no_patient_has_both_classes(records):
    patients = {label: {f.patient for f in records if f.label == label} for label in (0, 1)}
    assert patients[0].isdisjoint(patients[1])


@needs_small
@pytest.mark.parametrize("seed", [0, 42])
def test_a_validation_split_has_its_share_of_both_classes(records, seed, tmp_path):
    assigned = split_off(records, "val", 0.15, seed)
    assert not leaked_pairs(assigned)
    counts = Counter((record.split, record.label) for record in assigned)
    for label in (0, 1):
        share = counts["val", label] / (counts["val", label] + counts["train", label])
        assert share == pytest.approx(1 / 7, abs=0.01)
    write_split(assigned, tmp_path / "split.csv")
    assert read_split(tmp_path / "split.csv", SMALL) == assigned
    check_same_records(assigned, records)


@pytest.fixture(scope="module")
def hashed_records(records) -> list[ImageRecord]:
    return inspect_images(records, decode=False).records


@needs_small
def test_no_picture_is_on_both_sides_whatever_is_split(hashed_records):
    assert not leaked_pairs(hashed_records)
    twins = {record.patient: record.sha256 for record in hashed_records}
    assert twins["NORMAL2-IM-0095"] == twins["NORMAL2-IM-0096"]
    validated = Counter()
    for index in range(5):
        fold = split_off_fold(hashed_records, index, 5, 42)
        assert not leaked_pairs(fold)
        validated.update(record.name for record in fold if record.split == "val")
    assert set(validated.values()) == {1}
    assert set(validated) == {record.name for record in hashed_records if record.split == "train"}
    for seed in range(10):
        assert not leaked_pairs(split_off(hashed_records, "val", 0.15, seed))


@needs_small
@pytest.mark.parametrize(("seed", "digest"), [(0, "e727e5a22f1832d4"), (42, "55cb4ecc0c5c0a33")])
def test_without_shared_files_the_split_is_what_it_always_was(records, seed, digest):
    # Taken before patients with files in common were joined; these images have no digests.
    assigned = split_off(records, "val", 0.15, seed)
    assigned = split_off(assigned, "calibration", 0.2 / 0.85, seed)
    text = "\n".join(f"{record.name} {record.split}" for record in assigned)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


@needs_small
def test_every_test_image_is_readable_at_224_pixels(records):
    test = [record for record in records if record.split == "test"]
    inspection = inspect_images(test)
    assert [record.name for record in inspection.records] == [record.name for record in test]
    assert all(len(record.sha256) == 64 for record in inspection.records)
    assert read_image(test[0].path).shape == (224, 224)


@pytest.fixture(scope="module")
def full_images() -> list[ImageRecord]:
    return ClassFolders(FULL).records()


@needs_full
def test_every_full_size_image_is_readable_as_a_header_says(full_images):
    modes = Counter()
    for record in full_images:
        image = read_image(record.path)
        with Image.open(record.path) as header:
            assert image.shape == (header.height, header.width)
            modes[header.mode, record.label] += 1
    # RGB files stand among PNEUMONIA only: colour mode must not reach a classifier.
    assert set(modes) == {("L", 0), ("L", 1), ("RGB", 1)}
    assert inspect_images(full_images).unreadable == []


@needs_full
def test_odd_sizes_load_as_one_batch(full_images):
    data = XrayData(
        full_images[30:46],
        ("NORMAL", "PNEUMONIA"),
        pipeline=Pipeline(
            [Resize([224, 224])],
            [RandAffine(prob=0.5, rotate_range=0.12, scale_range=0.1, translate_range=10)],
        ),
        loader=LoaderSettings(batch_size=16, num_workers=0),
    )
    (batch,) = data.train_loader()
    assert batch.image.shape == (16, 1, 224, 224)
    assert sorted(batch.index.tolist()) == list(range(16))
    (batch,) = data.eval_loader("train")
    assert 20 < batch.image.float().mean() < 200
