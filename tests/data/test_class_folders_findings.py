import logging
from collections import Counter

import pytest
from messages import line_with, refused

from cxrignite.data.class_folders import ClassFolders
from cxrignite.errors import DataError, RecipeError

THREE = ["NORMAL", "BACTERIAL", "VIRAL"]
PATTERNS = {"NORMAL": "/NORMAL/", "BACTERIAL": "_bacteria_", "VIRAL": "_virus_"}


@pytest.fixture
def write(tmp_path, write_image):
    """Writes images under the root; returns the root."""

    def write(*names):
        for name in names:
            write_image(tmp_path / "root" / name)
        return tmp_path / "root"

    return write


@pytest.fixture
def kermany(write):
    """A root in the manner of ChestXRay2017: the file name has the kind of pneumonia."""
    return write(
        "train/NORMAL/IM-0115-0001.jpeg",
        "train/NORMAL/NORMAL2-IM-0383-0001.jpeg",
        "train/PNEUMONIA/person1_bacteria_1.jpeg",
        "train/PNEUMONIA/person2_virus_3.jpeg",
        "test/NORMAL/IM-0001-0001.jpeg",
        "test/PNEUMONIA/person80_bacteria_389.jpeg",
        "test/PNEUMONIA/person1_virus_6.jpeg",
    )


def labels_of(source):
    return {record.name: record.label for record in source.records()}


def test_three_folders_are_classes_that_exclude_each_other(write):
    root = write("train/A/1.png", "train/B/2.png", "train/C/3.png", "train/B/4.png")
    source = ClassFolders(root, ["A", "B", "C"], r"\d")
    assert source.exclusive
    assert (source.classes, source.findings) == (("A", "B", "C"), ("B", "C"))
    assert labels_of(source) == {
        "train/A/1.png": (0, 0),
        "train/B/2.png": (1, 0),
        "train/B/4.png": (1, 0),
        "train/C/3.png": (0, 1),
    }
    _, second, fourth, _ = source.records()
    assert second.label is fourth.label  # a million images must not have a million tuples


def test_two_folders_are_one_finding():
    source = ClassFolders("root", ["A", "B"])
    assert not source.exclusive
    assert source.findings == ("B",)


def test_the_classes_are_found_in_file_names(kermany):
    source = ClassFolders(kermany, THREE, class_pattern=PATTERNS)
    assert labels_of(source) == {
        "train/NORMAL/IM-0115-0001.jpeg": (0, 0),
        "train/NORMAL/NORMAL2-IM-0383-0001.jpeg": (0, 0),
        "train/PNEUMONIA/person1_bacteria_1.jpeg": (1, 0),
        "train/PNEUMONIA/person2_virus_3.jpeg": (0, 1),
        "test/NORMAL/IM-0001-0001.jpeg": (0, 0),
        "test/PNEUMONIA/person1_virus_6.jpeg": (0, 1),
        "test/PNEUMONIA/person80_bacteria_389.jpeg": (1, 0),
    }
    by_folder = {record.name: record for record in ClassFolders(kermany).records()}
    for record in source.records():
        assert record._replace(label=0) == by_folder[record.name]._replace(label=0)


def test_two_classes_may_also_be_found_by_pattern(kermany, caplog):
    patterns = {"B": "_bacteria_", "V": "_virus_"}
    labels = labels_of(ClassFolders(kermany, ["B", "V"], class_pattern=patterns))
    assert Counter(labels.values()) == {0: 2, 1: 2}
    line_with(
        "\n".join(caplog.messages), "3", "class_pattern", "IM-0115-0001.jpeg"
    )  # the images left out


def test_an_image_of_two_classes_is_refused(kermany):
    patterns = PATTERNS | {"NORMAL": "IM|person2_"}
    with refused(DataError, "class_pattern", "NORMAL", "VIRAL", "train/PNEUMONIA/person2_virus_3"):
        ClassFolders(kermany, THREE, class_pattern=patterns).records()


def test_a_class_without_a_match_in_a_split_is_refused(kermany):
    (kermany / "test/PNEUMONIA/person1_virus_6.jpeg").unlink()
    with refused(DataError, "class_pattern", "'VIRAL'", "test", kermany):
        ClassFolders(kermany, THREE, class_pattern=PATTERNS).records()
    nothing = dict.fromkeys(THREE, "nothing like this")
    with refused(DataError, "class_pattern", "'NORMAL'", "train", kermany):
        ClassFolders(kermany, THREE, class_pattern=nothing).records()


def test_a_small_val_folder_need_not_have_each_class(kermany, write):
    write("val/NORMAL/IM-1-1.jpeg", "val/PNEUMONIA/person9_bacteria_9.jpeg")
    records = ClassFolders(kermany, THREE, class_pattern=PATTERNS).records()
    assert Counter(record.split for record in records) == {"train": 6, "test": 3}


@pytest.mark.parametrize(
    ("patterns", "facts"),
    [
        ({"NORMAL": "a", "BACTERIAL": "b"}, [THREE, ["NORMAL", "BACTERIAL"]]),
        ({**PATTERNS, "OTHER": "x"}, [THREE, "OTHER"]),
        ({}, [THREE, []]),
        ({**PATTERNS, "VIRAL": "(_virus"}, ["'VIRAL'", "(_virus"]),
    ],
)
def test_patterns_that_do_not_fit_the_classes_are_refused(patterns, facts):
    with refused(RecipeError, "class_pattern", *facts):
        ClassFolders("root", THREE, class_pattern=patterns)


def test_class_folders_without_splits_are_all_train(write, caplog):
    root = write("A/1.png", "A/deeper/still/2.png", "B/3.png", "other/4.png")
    with caplog.at_level(logging.INFO):
        records = ClassFolders(root, ["A", "B"], r"\d").records()
    assert [(record.name, record.label, record.split, record.patient) for record in records] == [
        ("A/1.png", 0, "train", "1"),
        ("A/deeper/still/2.png", 0, "train", "2"),
        ("B/3.png", 1, "train", "3"),
    ]
    assert all(record.path == root / record.name for record in records)
    line_with("\n".join(caplog.messages), root, "'train'", "'test'")
    line_with(
        "\n".join(caplog.messages), "1", "other"
    )  # left out, as outside of the folders of the classes


def test_class_folders_in_the_current_folder_keep_their_names(write, monkeypatch):
    monkeypatch.chdir(write("A/1.png", "B/2.png"))
    patterns = {"A": "^A/", "B": "^B/"}
    for settings in ({}, {"class_pattern": patterns}):
        assert labels_of(ClassFolders(".", ["A", "B"], r"\d", **settings)) == {
            "A/1.png": 0,
            "B/2.png": 1,
        }


def test_folders_of_patients_around_those_of_classes_are_read_by_pattern(write):
    root = write("p1/A/1.png", "p1/B/2.png", "p2/B/3.png")
    source = ClassFolders(root, ["A", "B"], r"\d", {"A": "/A/", "B": "/B/"})
    assert labels_of(source) == {"p1/A/1.png": 0, "p1/B/2.png": 1, "p2/B/3.png": 1}


@pytest.mark.parametrize("settings", [{}, {"class_pattern": {"A": "/?A/", "B": "/?B/"}}])
def test_the_folder_of_a_split_or_one_above_the_root_is_not_a_root(write, settings):
    root = write("train/A/1.png", "train/B/2.png", "test/A/3.png", "test/B/4.png")
    for wrong in (root / "train", root.parent):
        with refused(DataError, wrong, "'train'", "'test'", root):
            ClassFolders(wrong, ["A", "B"], **settings).records()


@pytest.mark.parametrize("settings", [{}, {"class_pattern": {"A": "A", "B": "B"}}])
def test_splits_in_the_folders_of_the_classes_are_refused(write, settings):
    root = write("A/train/1.png", "A/test/2.png", "B/train/3.png", "B/test/4.png")
    with refused(DataError, root, "'train'", "'test'", "'A'", "'B'"):
        ClassFolders(root, ["A", "B"], **settings).records()
