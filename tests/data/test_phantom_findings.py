from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from messages import line_with, refused
from PIL import Image
from scipy import ndimage

from cxrignite.data.phantom import Phantom
from cxrignite.data.phantom_rendering import FINDINGS, render_findings, render_phantom
from cxrignite.data.sources import UNKNOWN
from cxrignite.errors import DataError

NAMES = ["Opacity", "Effusion", "Nodule"]
SMALL = {"num_train": 24, "num_test": 12, "size": 32, "findings": NAMES}


@pytest.fixture(scope="module")
def renderings():
    """Of each seed, one chest without findings and one with each of them alone."""
    return [
        {
            name: render_findings(seed, size=64, present=[name] if name else [])
            for name in ("", *FINDINGS)
        }
        for seed in range(30)
    ]


def plan(**settings):
    return Phantom("root", **{"num_train": 800, "num_test": 200, "findings": NAMES, **settings})


def test_the_binary_image_is_that_of_an_opacity():
    for positive, present in ((False, []), (True, ["Opacity"])):
        binary = render_phantom(5, size=48, positive=positive, patient_seed=2)
        same = render_findings(5, size=48, present=present, patient_seed=2)
        np.testing.assert_array_equal(binary.image, same.image)
        np.testing.assert_array_equal(binary.lungs, same.lungs)
        np.testing.assert_array_equal(
            binary.lesion, same.masks.get("Opacity", np.zeros_like(binary.lungs))
        )


@pytest.mark.parametrize("size", [32, 33, 128])
@pytest.mark.parametrize("name", FINDINGS)
def test_each_finding_has_a_mask_at_any_size(size, name):
    for seed in range(12):
        image, masks, lungs = render_findings(seed, size=size, present=[name])
        assert image.shape == lungs.shape == masks[name].shape == (size, size)
        assert masks.keys() == {name}
        assert masks[name].any()
        assert not (masks[name] & ~lungs).any()


def test_a_size_below_32_is_refused():
    with refused(ValueError, "size", "32", "31"):
        render_findings(0, size=31, present=[])


@pytest.mark.parametrize("name", FINDINGS)
def test_a_finding_brightens_its_mask_and_changes_nothing_far_from_it(renderings, name):
    for each in renderings:
        change = each[name].image.astype(float) - each[""].image
        mask = each[name].masks[name]
        assert change[mask].mean() > 2
        near = ndimage.binary_dilation(mask, iterations=4)
        assert not change[~near].any()


def test_fluid_lies_at_the_base_and_a_nodule_does_not_reach_it(renderings):
    def height(each, name):  # 0 at the top of the lungs, 1 at their base
        rows = np.flatnonzero(each[name].lungs.any(axis=1))
        places = np.flatnonzero(each[name].masks[name].any(axis=1))
        return (places - rows[0]) / (rows[-1] - rows[0])

    for each in renderings:
        assert height(each, "Effusion").max() > 0.8
        assert height(each, "Effusion").min() > 0.1
        assert height(each, "Nodule").max() < 0.9


def test_the_border_of_fluid_rises_towards_the_chest_wall(renderings):
    rises = []
    for each in renderings:
        for mask in np.hsplit(each["Effusion"].masks["Effusion"], 2):
            tops = [column.argmax() for column in mask.T if column.any()]
            if len(tops) > 4:
                outward = tops[::-1] if mask[:, :16].sum() > mask[:, 16:].sum() else tops
                rises += [before - after for before, after in pairwise(outward)]
    assert np.mean(rises) > 0.05
    assert np.mean(np.array(rises) >= 0) > 0.8


def test_nodules_are_one_to_three_small_round_spots(renderings):
    counts = Counter()
    for each in renderings:
        mask = each["Nodule"].masks["Nodule"]
        spots, count = ndimage.label(mask)
        counts[count] += 1
        assert mask.mean() < 0.1
        for found in ndimage.find_objects(spots):
            assert max(part.stop - part.start for part in found) <= 26
    assert set(counts) <= {1, 2, 3}
    assert len(counts) > 1


def test_findings_together_have_the_masks_that_they_have_alone(renderings):
    for seed, each in enumerate(renderings[:8]):
        together = render_findings(seed, size=64, present=FINDINGS)
        for name in FINDINGS:
            np.testing.assert_array_equal(together.masks[name], each[name].masks[name])
        assert (together.image >= each[""].image).mean() > 0.99


def test_records_and_files_of_several_findings_match(tmp_path):
    phantom = Phantom(tmp_path / "phantom", **SMALL)
    records = phantom.records()
    assert phantom.classes == ("No Finding", *NAMES)
    assert phantom.findings == tuple(NAMES)
    assert not phantom.exclusive
    assert Counter(record.split for record in records) == {"train": 24, "test": 12}
    for record in records:
        assert record.name.startswith(f"{record.split}/{record.patient}_")
        present = [name for name, label in zip(NAMES, record.labels, strict=True) if label]
        assert record.attributes.keys() == {f"mask:{name}" for name in present}
        for name in present:
            mask = record.attributes[f"mask:{name}"]
            assert mask == f"masks/{name}/{record.name}"
            assert set(np.unique(Image.open(phantom.root / mask))) == {0, 255}
        assert np.asarray(Image.open(record.path)).shape == (32, 32)
    made = {path.relative_to(phantom.root).as_posix() for path in phantom.root.rglob("*.png")}
    masks = {mask for record in records for mask in record.attributes.values()}
    assert made == {record.name for record in records} | masks
    assert Phantom(tmp_path / "again", **SMALL).records() == [
        record._replace(file=f"{tmp_path}/again/{record.name}") for record in records
    ]
    for name in made:
        assert (tmp_path / "again" / name).read_bytes() == (phantom.root / name).read_bytes()


def test_findings_occur_together_and_alone():
    records = plan()._plan()
    groups = Counter(record.label for record in records)
    assert len(groups) == 8
    assert min(groups.values()) > 5
    assert max(Counter(map(id, (record.label for record in records))).values()) > 5  # shared
    for split in ("train", "test"):
        labels = np.array([record.label for record in records if record.split == split])
        assert labels.mean(axis=0) == pytest.approx(1 - 0.4 ** (1 / 3), abs=0.05)
        assert labels.any(axis=1).mean() == pytest.approx(0.6, abs=0.07)
    by_patient = {}
    for record in records:
        by_patient.setdefault(record.patient, set()).add((record.split, record.label))
    assert all(len(each) == 1 for each in by_patient.values())
    assert len(by_patient) < len(records)


def test_unknown_labels_are_in_train_alone_and_change_no_file(tmp_path):
    full, partial = plan()._plan(), plan(unknown_fraction=0.2)._plan()
    for before, now in zip(full, partial, strict=True):
        assert now._replace(label=0) == before._replace(label=0)
        for truth, label in zip(before.labels, now.labels, strict=True):
            assert label in (truth, UNKNOWN)
    train = np.array([record.label for record in partial if record.split == "train"])
    assert (train == UNKNOWN).mean(axis=0) == pytest.approx(0.2, abs=0.05)
    assert ((train == UNKNOWN).any(axis=1) & (train != UNKNOWN).any(axis=1)).any()
    assert all(UNKNOWN not in record.labels for record in partial if record.split == "test")
    records = Phantom(tmp_path / "phantom", **SMALL).records()
    before = {record.path: record.path.stat().st_mtime_ns for record in records}
    Phantom(tmp_path / "phantom", **SMALL, unknown_fraction=0.5).records()
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_folder_of_other_findings_is_rendered_again_with_a_warning(tmp_path, caplog):
    settings = {**SMALL, "num_train": 12, "num_test": 12}
    Phantom(tmp_path / "phantom", **settings).records()
    binary = Phantom(tmp_path / "phantom", **{**settings, "findings": None}).records()
    line_with("\n".join(caplog.messages), tmp_path / "phantom", "findings", NAMES)
    assert all(record.path.is_file() for record in binary)
    assert not list((tmp_path / "phantom/masks").glob("Nodule*"))
    (tmp_path / "phantom/own.txt").touch()
    with refused(DataError, "own.txt"):
        Phantom(tmp_path / "phantom", **settings).records()


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"findings": []}, ["findings", *NAMES, "[]"]),
        ({"findings": ["Nodule"]}, ["findings", *NAMES, "['Nodule']"]),
        ({"findings": ["Nodule", "Nodule"]}, ["findings", "['Nodule', 'Nodule']"]),
        ({"findings": ["Nodule", "Mass"]}, ["findings", *NAMES, "'Mass'"]),
        ({"findings": NAMES, "unknown_fraction": 1.0}, ["unknown_fraction", "[0, 1)", "1.0"]),
        ({"findings": NAMES, "unknown_fraction": -0.1}, ["unknown_fraction", "[0, 1)", "-0.1"]),
        ({"unknown_fraction": 0.2}, ["unknown_fraction", "findings", "0.2"]),
        ({"findings": NAMES, "num_test": 2}, ["num_test", "2"]),
    ],
)
def test_settings_that_cannot_be_rendered_are_refused(settings, facts):
    with refused(ValueError, *facts):
        Phantom("root", **settings)
