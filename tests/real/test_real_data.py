"""The data room on the real ChestXRay2017 images, which are not part of the project."""

import hashlib
import os
from collections import Counter
from pathlib import Path

import pytest
from monai.transforms import RandAffine, Resize
from PIL import Image

from cxrignite.data.carving import carve_fold, carve_split
from cxrignite.data.inspection import inspect_films
from cxrignite.data.leakage import leaked_pairs
from cxrignite.data.loading import LoaderSettings
from cxrignite.data.module import XrayData
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.reading import read_image
from cxrignite.data.sources import ClassFolders, Film
from cxrignite.data.splits import check_same_films, read_split, write_split

pytestmark = pytest.mark.slow

SHARED = Path(__file__).parents[3] / "shared" / "data"
SMALL = Path(os.environ.get("CXRIGNITE_CHEST_XRAY", SHARED / "chest_xray_224"))
FULL = SHARED / "chest_xray_full_sample"

needs_small = pytest.mark.skipif(
    not SMALL.is_dir(), reason=f"no real X-rays: set CXRIGNITE_CHEST_XRAY or provide {SMALL.name}"
)
needs_full = pytest.mark.skipif(not FULL.is_dir(), reason=f"no real X-rays at {FULL.name}")


@pytest.fixture(scope="module")
def films() -> list[Film]:
    return ClassFolders(SMALL).films()


@needs_small
def test_the_counts_are_those_of_the_data_set(films):
    counts = Counter((film.split, film.label) for film in films)
    # The Kaggle variant's train folder, with or without the 8 + 8 of its val folder.
    assert (counts["train", 0], counts["train", 1]) in {(1341, 3875), (1349, 3883)}
    assert counts["test", 0] > 0
    assert counts["test", 1] > 0
    assert {film.attributes["subgroup"] for film in films if film.label == 0} == {"IM", "NORMAL2"}
    subgroups = {film.attributes["subgroup"] for film in films if film.label == 1}
    assert subgroups == {"bacteria", "virus"}


@needs_small
def test_no_patient_is_on_both_sides_of_train_and_test(films):
    assert not leaked_pairs(films)
    # By number alone most test persons would seem to leak.
    persons = {
        split: {film.patient.split("_")[0] for film in films if film.label and film.split == split}
        for split in ("train", "test")
    }
    assert len(persons["train"] & persons["test"]) > len(persons["test"]) / 2


@needs_small
def test_no_patient_has_both_classes(films):
    patients = {label: {f.patient for f in films if f.label == label} for label in (0, 1)}
    assert patients[0].isdisjoint(patients[1])


@needs_small
@pytest.mark.parametrize("seed", [0, 42])
def test_a_validation_split_has_its_share_of_both_classes(films, seed, tmp_path):
    carved = carve_split(films, "val", 0.15, seed)
    assert not leaked_pairs(carved)
    counts = Counter((film.split, film.label) for film in carved)
    for label in (0, 1):
        share = counts["val", label] / (counts["val", label] + counts["train", label])
        assert share == pytest.approx(1 / 7, abs=0.01)
    write_split(carved, tmp_path / "split.csv")
    assert read_split(tmp_path / "split.csv", SMALL) == carved
    check_same_films(carved, films)


@pytest.fixture(scope="module")
def hashed_films(films) -> list[Film]:
    return inspect_films(films, decode=False).films


@needs_small
def test_no_picture_is_on_both_sides_whatever_is_carved(hashed_films):
    assert not leaked_pairs(hashed_films)
    twins = {film.patient: film.sha256 for film in hashed_films}
    assert twins["NORMAL2-IM-0095"] == twins["NORMAL2-IM-0096"]
    validated = Counter()
    for index in range(5):
        fold = carve_fold(hashed_films, index, 5, 42)
        assert not leaked_pairs(fold)
        validated.update(film.name for film in fold if film.split == "val")
    assert set(validated.values()) == {1}
    assert set(validated) == {film.name for film in hashed_films if film.split == "train"}
    for seed in range(10):
        assert not leaked_pairs(carve_split(hashed_films, "val", 0.15, seed))


@needs_small
@pytest.mark.parametrize(("seed", "digest"), [(0, "e727e5a22f1832d4"), (42, "55cb4ecc0c5c0a33")])
def test_without_shared_files_the_split_is_what_it_always_was(films, seed, digest):
    # Taken before patients with files in common were joined; these films have no digests.
    carved = carve_split(films, "val", 0.15, seed)
    carved = carve_split(carved, "calibration", 0.2 / 0.85, seed)
    text = "\n".join(f"{film.name} {film.split}" for film in carved)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


@needs_small
def test_every_test_film_is_readable_at_224_pixels(films):
    test = [film for film in films if film.split == "test"]
    inspection = inspect_films(test)
    assert [film.name for film in inspection.films] == [film.name for film in test]
    assert all(len(film.sha256) == 64 for film in inspection.films)
    assert read_image(test[0].path).shape == (224, 224)


@pytest.fixture(scope="module")
def full_films() -> list[Film]:
    return ClassFolders(FULL).films()


@needs_full
def test_every_full_size_film_is_readable_as_a_header_says(full_films):
    modes = Counter()
    for film in full_films:
        image = read_image(film.path)
        with Image.open(film.path) as header:
            assert image.shape == (header.height, header.width)
            modes[header.mode, film.label] += 1
    # RGB files stand among PNEUMONIA only: colour mode must not reach a classifier.
    assert set(modes) == {("L", 0), ("L", 1), ("RGB", 1)}
    assert inspect_films(full_films).unreadable == []


@needs_full
def test_odd_sizes_load_as_one_batch(full_films):
    data = XrayData(
        full_films[30:46],
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
