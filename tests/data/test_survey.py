import hashlib

import numpy as np
import pytest
from PIL import Image

from cxrignite.data.sources import ImageRecord
from cxrignite.data.survey import THUMBNAIL_SIDE, survey_images


def record_of(path):
    return ImageRecord(str(path), path.name, 0, path.stem, "train")


@pytest.fixture
def scene():
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    return Image.fromarray(coarse).resize((140, 100), Image.Resampling.BICUBIC)


def facts_of(path, grey_scaling="file"):
    survey = survey_images([record_of(path)], grey_scaling=grey_scaling)
    assert survey.unreadable == []
    return survey.facts[0]


@pytest.mark.parametrize(
    ("name", "mode", "format"),
    [
        ("a.png", "L", "PNG"),
        ("a.png", "RGB", "PNG"),
        ("a.jpeg", "L", "JPEG"),
        ("a.jpeg", "RGB", "JPEG"),
        ("a.jpeg", "CMYK", "JPEG"),
        ("a.png", "P", "PNG"),
    ],
)
def test_a_grey_image_of_any_mode_is_grey(tmp_path, scene, name, mode, format):
    scene.convert(mode).save(tmp_path / name)
    facts = facts_of(tmp_path / name)
    assert (facts.format, facts.mode, facts.height, facts.width) == (format, mode, 100, 140)
    assert facts.colour < 1.5
    assert facts.num_bytes == (tmp_path / name).stat().st_size


@pytest.mark.parametrize("name", ["a.png", "a.jpeg"])
def test_a_image_in_colour_is_reported_by_its_channels(tmp_path, scene, name):
    Image.merge("RGB", [scene, scene.transpose(Image.Transpose.ROTATE_180), scene]).save(
        tmp_path / name
    )
    assert facts_of(tmp_path / name).colour > 20


def test_sixteen_bits_are_no_colour_and_scaled_as_the_recipe_says(tmp_path, scene):
    deep = (np.asarray(scene).astype(np.uint16) * 257).astype("<u2")
    Image.fromarray(deep // 16).save(tmp_path / "a.png")
    assert facts_of(tmp_path / "a.png").quantiles[-1] > 200
    assert facts_of(tmp_path / "a.png", "stored").quantiles[-1] < 20
    Image.fromarray(deep).save(tmp_path / "a.png")
    facts = facts_of(tmp_path / "a.png", "stored")
    assert facts.colour == 0
    assert facts.mean == pytest.approx(np.asarray(scene).mean(), abs=1)


def test_a_dicom_gives_the_same_greys_as_the_png_of_its_pixels(
    tmp_path, scene, make_dicom, dicom_bytes
):
    scene.save(tmp_path / "a.png")
    (tmp_path / "IM0001").write_bytes(dicom_bytes(make_dicom(np.asarray(scene), bits=8)))
    survey = survey_images([record_of(tmp_path / name) for name in ("a.png", "IM0001")])
    png, dicom = survey.facts
    assert (dicom.format, dicom.mode, dicom.colour) == ("DICOM", "L", 0)
    assert dicom[1:3] == png[1:3]
    assert dicom[4:-1] == png[4:-1]
    np.testing.assert_array_equal(*survey.thumbnails)


def test_greys_are_those_of_the_image(tmp_path, scene):
    scene.save(tmp_path / "a.png")
    facts, pixels = facts_of(tmp_path / "a.png"), np.asarray(scene)
    assert facts.mean == pytest.approx(pixels.mean(), abs=1)
    assert facts.deviation == pytest.approx(pixels.std(), rel=0.05)
    assert facts.quantiles == pytest.approx(
        np.quantile(pixels, [0.01, 0.25, 0.5, 0.75, 0.99]), abs=6
    )


def test_thumbnails_are_the_images_made_small(tmp_path, scene):
    scene.save(tmp_path / "a.png")
    thumbnail = survey_images([record_of(tmp_path / "a.png")]).thumbnails[0]
    assert (thumbnail.shape, thumbnail.dtype) == ((THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)
    small = np.asarray(scene.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BILINEAR))
    assert np.abs(thumbnail.astype(int) - small).mean() < 2


def test_damaged_colour_images_are_read_or_refused_and_never_end_the_survey(tmp_path, scene):
    rng = np.random.default_rng(5)
    wholes = {}
    for suffix in ("jpeg", "png"):
        Image.merge("RGB", [scene, scene, scene.rotate(90)]).save(tmp_path / f"whole.{suffix}")
        wholes[suffix] = (tmp_path / f"whole.{suffix}").read_bytes()
    records = []
    for number in range(300):
        suffix = ("jpeg", "png")[number % 2]
        data = bytearray(wholes[suffix])
        for at in rng.integers(20, len(data), rng.integers(1, 4)):
            data[at] = rng.integers(0, 256)
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(data)
        records.append(record_of(path))
    survey = survey_images(records)
    assert len(survey.records) + len(survey.unreadable) == 300
    assert min(len(survey.records), len(survey.unreadable)) > 20


def test_images_keep_their_order_and_get_their_digests(tmp_path, scene):
    paths = [tmp_path / f"{number}.png" for number in range(9)]
    for number, path in enumerate(paths):
        scene.rotate(number).save(path)
    (tmp_path / "3.png").write_text("<html>")
    (tmp_path / "7.png").unlink()
    survey = survey_images([record_of(path) for path in paths])
    assert [record.name for record in survey.records] == [f"{n}.png" for n in (0, 1, 2, 4, 5, 6, 8)]
    assert all(
        record.sha256 == hashlib.sha256(record.path.read_bytes()).hexdigest()
        for record in survey.records
    )
    assert len(survey.facts) == len(survey.thumbnails) == 7
    assert [(record.name, error.path.name) for record, error in survey.unreadable] == [
        ("3.png", "3.png"),
        ("7.png", "7.png"),
    ]


def test_a_file_that_two_images_name_is_reported_of_each(tmp_path, scene):
    scene.save(tmp_path / "a.png")
    record = record_of(tmp_path / "a.png")
    survey = survey_images([record, record._replace(name="again.png", label=1)])
    assert [each.label for each in survey.records] == [0, 1]
    assert survey.records[0].sha256 == survey.records[1].sha256


def test_no_images_are_no_failure():
    survey = survey_images([])
    assert (survey.records, survey.facts, survey.unreadable) == ([], [], [])
    assert survey.thumbnails.shape == (0, THUMBNAIL_SIDE, THUMBNAIL_SIDE)
