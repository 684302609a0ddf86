import hashlib
import json
import os
from errno import ENOSPC

import numpy as np
import pytest
from messages import line_with, refused
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from cxrignite.data.class_folders import ClassFolders
from cxrignite.data.phantom import Phantom
from cxrignite.data.phantom_rendering import render_phantom
from cxrignite.errors import CxrIgniteError, DataError

SMALL = {"num_train": 10, "num_test": 6, "size": 48}


@pytest.fixture(scope="module")
def renderings():
    """Pairs of one chest without and with disease."""
    return [
        (
            render_phantom(seed, size=64, positive=False),
            render_phantom(seed, size=64, positive=True),
        )
        for seed in range(60)
    ]


def digests(root):
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def pixels(path):
    return np.asarray(Image.open(path))


def test_a_seed_gives_the_same_image_and_another_seed_another():
    first, again = (render_phantom(3, size=64, positive=True) for _ in range(2))
    other = render_phantom(4, size=64, positive=True)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.lesion.tobytes() == again.lesion.tobytes()
    assert first.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize("size", [32, 33, 97, 224])
def test_any_size_from_32_gives_a_grey_square_with_a_lesion(size):
    image, lesion, lungs = render_phantom(0, size=size, positive=True)
    assert image.shape == lesion.shape == lungs.shape == (size, size)
    assert image.dtype == np.uint8
    assert lesion.any()


def test_a_image_below_32_pixels_is_refused():
    with refused(ValueError, "size", "32", "31"):
        render_phantom(0, size=31, positive=True)


def test_a_chest_looks_alike_at_every_size():
    small, large = (render_phantom(1, size=size, positive=False).image for size in (64, 192))
    shrunk = large.reshape(64, 3, 64, 3).mean(axis=(1, 3))
    assert np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > 0.95


def test_opacities_lie_inside_the_lungs_and_only_on_positive_images(renderings):
    for normal, diseased in renderings:
        assert not normal.lesion.any()
        assert diseased.lesion.any()
        assert not (diseased.lesion & ~diseased.lungs).any()


def test_opacities_brighten_the_image_under_their_mask(renderings):
    for normal, diseased in renderings:
        change = diseased.image.astype(float) - normal.image
        assert change[diseased.lesion].mean() > 2


def test_some_opacities_are_much_subtler_than_others(renderings):
    change = [
        (diseased.image.astype(float) - normal.image)[diseased.lesion].mean()
        for normal, diseased in renderings
    ]
    assert max(change) > 3 * min(change)


def test_the_label_changes_nothing_away_from_the_mask(renderings):
    for normal, diseased in renderings:
        near = ndimage.binary_dilation(diseased.lesion, iterations=4)
        np.testing.assert_array_equal(normal.image[~near], diseased.image[~near])


def test_lungs_are_darker_than_what_lies_between_and_below_them(renderings):
    for normal, _ in renderings:
        image, lungs = normal.image.astype(float), normal.lungs
        middle = image.shape[1] // 2
        between = image[20:44, middle - 3 : middle + 3].mean()
        below = image[-10:-4, 16:48].mean()
        for half in (np.s_[:, :middle], np.s_[:, middle:]):
            assert image[half][lungs[half]].mean() < between - 20
            assert image[half][lungs[half]].mean() < below - 20


def test_the_heart_takes_its_room_from_the_lung_on_the_images_right(renderings):
    areas = np.array(
        [[half.sum() for half in np.hsplit(normal.lungs, 2)] for normal, _ in renderings]
    )
    # Shifts and rotations move single images across the middle; the patients' mean they do not.
    assert areas[:, 1].mean() < 0.95 * areas[:, 0].mean()
    low = np.array(
        [
            [half.mean() for half in np.hsplit(normal.image[30:42, 16:48].astype(float), 2)]
            for normal, _ in renderings
        ]
    )
    assert low[:, 1].mean() > low[:, 0].mean() + 5


def test_two_images_of_a_patient_show_one_anatomy_in_two_exposures():
    records = [render_phantom(s, size=64, positive=False, patient_seed=7).image for s in range(8)]
    others = [render_phantom(s, size=64, positive=False).image for s in range(8)]
    assert len({record.tobytes() for record in records}) == 8

    def likeness(images):
        return np.corrcoef([image.ravel() for image in images])[np.triu_indices(8, 1)].mean()

    assert likeness(records) > likeness(others) + 0.02


@pytest.fixture(scope="module")
def labelled_images():
    """240 labels, every other one positive, and an image of each."""
    labels = np.arange(240) % 2
    return labels, [
        render_phantom(1000 + i, size=64, positive=bool(k)) for i, k in enumerate(labels)
    ]


def test_no_shortcut_outside_the_lungs_gives_the_label_away(labelled_images):
    labels, records = labelled_images
    for statistic in (np.mean, np.std, np.max, np.min):
        values = [statistic(record.image[~record.lungs]) for record in records]
        # Three standard errors of an AUC of 0.5 at 120 against 120.
        assert abs(roc_auc_score(labels, values) - 0.5) < 0.12


def test_the_brightness_of_the_whole_image_does_not_solve_the_task(labelled_images):
    labels, records = labelled_images
    for statistic in (np.mean, np.std):
        assert roc_auc_score(labels, [statistic(record.image) for record in records]) < 0.75


def test_images_are_made_where_the_table_says(tmp_path):
    phantom = Phantom(tmp_path / "phantom", **SMALL)
    records = phantom.records()
    counts = {
        split: [sum(f.label == k for f in records if f.split == split) for k in (0, 1)]
        for split in ("train", "test")
    }
    assert counts == {"train": [4, 6], "test": [2, 4]}
    for record in records:
        assert record.path == phantom.root / record.name
        assert record.name.startswith(
            f"{record.split}/{phantom.classes[record.label]}/{record.patient}_"
        )
        assert pixels(record.path).shape == (48, 48)
        assert pixels(record.path).dtype == np.uint8
        assert ("mask" in record.attributes) == (record.label == 1)
        if record.label:
            mask = pixels(phantom.root / record.attributes["mask"])
            assert set(np.unique(mask)) == {0, 255}
    split_summary = json.loads((phantom.root / "phantom.json").read_text())
    assert split_summary["settings"]["seed"] == 0
    assert split_summary["renderer"] >= 1


def test_some_patients_have_several_images_and_each_lies_in_one_split(tmp_path):
    records = Phantom(tmp_path / "phantom", 20, 10, size=32).records()
    groups = {}
    for record in records:
        groups.setdefault(record.patient, []).append((record.split, record.label))
    assert {len(group) for group in groups.values()} == {1, 2}
    assert all(len(set(group)) == 1 for group in groups.values())


def test_class_folders_reads_a_phantom_too(tmp_path):
    phantom = Phantom(tmp_path / "phantom", **SMALL)
    made = phantom.records()
    read = ClassFolders(phantom.root, patient_pattern=r"(p\d+)_").records()

    def keys(records):
        return [(f.name, f.label, f.patient, f.split) for f in records]

    assert keys(read) == keys(made)


def test_the_same_settings_make_the_same_bytes_and_another_seed_does_not(tmp_path):
    for name, seed in (("first", 0), ("second", 0), ("third", 1)):
        Phantom(tmp_path / name, **SMALL, seed=seed).records()
    first, second, third = (digests(tmp_path / name) for name in ("first", "second", "third"))
    assert first == second
    shared = [name for name in first.keys() & third.keys() if name != "phantom.json"]
    images = [name for name in shared if not name.startswith("masks")]
    assert images
    assert all(first[name] != third[name] for name in images)


def test_a_finished_folder_is_used_again(tmp_path):
    root = tmp_path / "phantom"
    records = Phantom(root, **SMALL).records()
    before = {record.path: record.path.stat().st_mtime_ns for record in records}
    assert Phantom(root, **SMALL).records() == records
    assert {record.path: record.path.stat().st_mtime_ns for record in records} == before


@pytest.mark.parametrize("damage", ["missing", "cut", "renderer"])
def test_a_damaged_folder_is_made_anew(tmp_path, damage):
    root = tmp_path / "phantom"
    record = Phantom(root, **SMALL).records()[-1]
    whole = digests(root)
    if damage == "missing":
        record.path.unlink()
    elif damage == "cut":
        record.path.write_bytes(record.path.read_bytes()[:100])
    else:
        split_summary = json.loads((root / "phantom.json").read_text())
        (root / "phantom.json").write_text(json.dumps({**split_summary, "renderer": 0}))
    Phantom(root, **SMALL).records()
    assert digests(root) == whole
    assert os.listdir(tmp_path) == ["phantom"]


def test_a_full_disk_is_reported_with_the_folder(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(ENOSPC, os.strerror(ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    with refused(CxrIgniteError, tmp_path / "phantom", os.strerror(ENOSPC)):
        Phantom(tmp_path / "phantom", **SMALL).records()
    assert os.listdir(tmp_path) == []


def test_other_settings_replace_the_folder_and_say_so(tmp_path, caplog):
    root = tmp_path / "phantom"
    Phantom(root, **SMALL).records()
    with caplog.at_level("WARNING"):
        records = Phantom(root, **{**SMALL, "size": 32, "num_train": 5}).records()
    line_with(
        "\n".join(caplog.messages), root, "num_images", SMALL["num_train"], 5, "data.source.root"
    )
    assert {pixels(record.path).shape for record in records} == {(32, 32)}
    names = {path.name for path in root.glob("t*/*/*.png")}
    assert names == {record.path.name for record in records}
    assert os.listdir(tmp_path) == ["phantom"]


@pytest.mark.parametrize("own", [False, True])
def test_files_that_no_phantom_made_are_refused_and_kept(tmp_path, own):
    root = tmp_path / "phantom"
    if own:
        Phantom(root, **SMALL).records()
    notes = root / "train" / "notes.txt"
    notes.parent.mkdir(parents=True, exist_ok=True)
    notes.write_text("precious")
    with refused(DataError, root, 1, "train/notes.txt"):
        Phantom(root, **SMALL, seed=1).records()
    assert notes.read_text() == "precious"


def test_a_file_in_the_place_of_the_root_is_refused(tmp_path):
    (tmp_path / "phantom").write_text("")
    with refused(DataError, tmp_path / "phantom", "folder"):
        Phantom(tmp_path / "phantom", **SMALL).records()


def test_an_empty_root_and_a_linked_root_are_filled(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "phantom").symlink_to("elsewhere")
    records = Phantom(tmp_path / "phantom", **SMALL).records()
    assert (tmp_path / "phantom").is_symlink()
    assert (tmp_path / "elsewhere" / records[0].name).is_file()


@pytest.mark.integration
def test_two_processes_at_once_leave_one_whole_folder(tmp_path, start):
    root = tmp_path / "phantom"
    Phantom(root, **SMALL, seed=1).records()  # both have to replace it
    code = (
        "from cxrignite.data.phantom import Phantom\n"
        f"images = Phantom({str(root)!r}, num_train=30, num_test=10, size=48).records()\n"
        "assert all(image.path.is_file() for image in images)\n"
    )
    both = [start(["-c", code], cwd=tmp_path) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0], both[0].errors + both[1].errors
    Phantom(tmp_path / "alone", num_train=30, num_test=10, size=48).records()
    assert digests(root) == digests(tmp_path / "alone")
    assert sorted(os.listdir(tmp_path)) == ["alone", "phantom"]


def test_what_a_killed_process_left_is_swept(tmp_path):
    left = tmp_path / ".phantom.tmp" / "train" / "image.png"
    left.parent.mkdir(parents=True)
    left.touch()
    (tmp_path / ".phantom.lock").touch()
    records = Phantom(tmp_path / "phantom", **SMALL).records()
    names = {path.name for path in (tmp_path / "phantom").glob("t*/*/*.png")}
    assert names == {record.path.name for record in records}
    assert os.listdir(tmp_path) == ["phantom"]


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"size": 16}, ["size", "32", "16"]),
        ({"positive_fraction": 1.0}, ["positive_fraction", "(0, 1)", "1.0"]),
        ({"images_per_patient": 0}, ["images_per_patient", "1", "0"]),
        ({"seed": -1}, ["seed", "0", "-1"]),
        ({"num_train": 1}, ["num_train", "1"]),
        ({"num_test": 0}, ["num_test", "0"]),
    ],
)
def test_a_setting_out_of_range_is_refused_before_any_file_is_made(tmp_path, settings, facts):
    with refused(ValueError, *facts):
        Phantom(tmp_path / "phantom", **settings)
    assert not (tmp_path / "phantom").exists()
