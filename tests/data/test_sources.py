import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from messages import line_with, refused

from cxrignite.data import Phantom
from cxrignite.data.class_folders import ClassFolders
from cxrignite.data.image_files import image_files
from cxrignite.data.inspection import inspect_images
from cxrignite.errors import DataError, RecipeError


def test_images_are_listed_by_split_class_and_name(tmp_path, make_images):
    records = make_images(num_normal=2, num_pneumonia=2, num_test=1)
    assert [(record.name, record.label, record.split) for record in records] == [
        ("train/NORMAL/IM-0000-0001.png", 0, "train"),
        ("train/NORMAL/IM-0001-0001.png", 0, "train"),
        ("train/PNEUMONIA/person0_virus_0.png", 1, "train"),
        ("train/PNEUMONIA/person1_virus_1.png", 1, "train"),
        ("test/NORMAL/IM-9000-0001.png", 0, "test"),
        ("test/PNEUMONIA/person9000_bacteria_1.png", 1, "test"),
    ]
    assert all(record.path == tmp_path / record.name and record.sha256 == "" for record in records)
    assert records[-1].attributes == {"subgroup": "bacteria"}
    assert records == ClassFolders(tmp_path).records()


def test_the_last_class_is_positive(tmp_path, make_images):
    make_images()
    records = ClassFolders(tmp_path, classes=["PNEUMONIA", "NORMAL"]).records()
    assert {record.path.parent.name for record in records if record.label == 1} == {"NORMAL"}


def test_a_validation_split_of_its_own_stays(tmp_path, make_images, write_image):
    make_images()
    for number in range(25):
        write_image(tmp_path / f"val/NORMAL/NORMAL2-IM-{number}-0001.png")
        write_image(tmp_path / f"val/PNEUMONIA/person{number}_virus_1.png")
    records = ClassFolders(tmp_path).records()
    assert sum(record.split == "val" for record in records) == 50


def test_images_to_be_scored_alone_need_no_train_folder(tmp_path, write_image):
    write_image(tmp_path / "test/NORMAL/NORMAL2-IM-1-0001.png")
    write_image(tmp_path / "test/PNEUMONIA/person1_virus_1.png")
    assert {record.split for record in ClassFolders(tmp_path).records()} == {"test"}


def test_a_val_folder_joins_train(tmp_path, make_images, write_image):
    make_images()
    write_image(tmp_path / "val/NORMAL/NORMAL2-IM-1-0001.png")
    write_image(tmp_path / "val/PNEUMONIA/person77_virus_1.png")
    records = ClassFolders(tmp_path).records()
    assert {record.split for record in records} == {"train"}
    assert sum(record.name.startswith("val/") for record in records) == 2


def test_suffixes_count_in_any_case_and_other_files_do_not(tmp_path, make_images, write_image):
    make_images(num_normal=1, num_pneumonia=1)
    folder = tmp_path / "train/NORMAL"
    shutil.copy(folder / "IM-0000-0001.png", folder / "IM-0001-0001.PNG")
    write_image(folder / "IM-0002-0001.JPG")
    write_image(folder / "IM-0003-0001.JPEG")
    for name in (".DS_Store", "._IM-0000-0001.png", "notes.txt"):
        (folder / name).write_bytes(b"no image")
    (folder / "folder.png").mkdir()
    (tmp_path / "__MACOSX/train/NORMAL").mkdir(parents=True)
    names = [record.path.name for record in ClassFolders(tmp_path).records() if record.label == 0]
    assert names == [
        "IM-0000-0001.png",
        "IM-0001-0001.PNG",
        "IM-0002-0001.JPG",
        "IM-0003-0001.JPEG",
    ]


def test_the_constructor_reads_nothing():
    assert ClassFolders("no/such/folder").root == Path("no/such/folder")


def test_a_missing_root_is_named(tmp_path):
    with refused(DataError, tmp_path / "absent"):
        ClassFolders(tmp_path / "absent").records()


def test_a_root_without_train_tells_what_it_holds(tmp_path):
    (tmp_path / "NORMAL").mkdir()
    with refused(DataError, tmp_path, "'train'", "'test'", "'NORMAL'"):
        ClassFolders(tmp_path).records()


def test_a_missing_class_folder_is_named_beside_those_that_exist(tmp_path, make_images):
    make_images()
    with refused(DataError, tmp_path / "train", "'COVID'", "'NORMAL'", "'PNEUMONIA'"):
        ClassFolders(tmp_path, classes=["NORMAL", "COVID"]).records()


def test_a_class_missing_from_test_only_is_refused_too(tmp_path, make_images):
    make_images(num_test=1)
    shutil.rmtree(tmp_path / "test/PNEUMONIA")
    with refused(DataError, tmp_path / "test", "'PNEUMONIA'"):
        ClassFolders(tmp_path).records()


def test_an_empty_class_folder_is_named(tmp_path, make_images):
    make_images()
    shutil.rmtree(tmp_path / "train/NORMAL")
    (tmp_path / "train/NORMAL").mkdir()
    with refused(DataError, tmp_path / "train/NORMAL", "JPEG", "PNG", "DICOM"):
        ClassFolders(tmp_path).records()


@pytest.mark.parametrize("classes", [["NORMAL"], ["A", "A"], ["A", "B", "A"], ["", "B"], []])
def test_classes_have_to_be_two_or_more_different_names(classes):
    with refused(RecipeError, "classes", classes):
        ClassFolders("root", classes=classes)


def test_a_pattern_that_is_no_expression_is_refused():
    with refused(RecipeError, "patient_pattern", "'chest-xray-2017'", "'(id'"):
        ClassFolders("root", patient_pattern="(id")


def test_names_that_hide_the_patient_are_counted(tmp_path, make_images, write_image, caplog):
    make_images(num_normal=1, num_pneumonia=1)
    write_image(tmp_path / "train/NORMAL/scan1.png")
    write_image(tmp_path / "train/NORMAL/scan2.png")
    with caplog.at_level(logging.WARNING):
        records = ClassFolders(tmp_path).records()
    (message,) = caplog.messages
    line_with(message, 2, 4, "patient_pattern")
    assert len({record.patient for record in records}) == 4


def test_no_warning_where_every_name_matches(make_images, caplog):
    with caplog.at_level(logging.WARNING):
        make_images()
    assert caplog.text == ""


def test_a_image_moves_and_is_hashed_as_a_new_one(make_images):
    record = make_images()[0]
    moved = record.moved("val").hashed("ab")
    assert moved == record._replace(split="val", sha256="ab")
    assert (record.split, record.sha256) == ("train", "")


def test_dicom_is_found_by_name_and_by_content(tmp_path, make_images, make_dicom, dicom_bytes):
    make_images(num_normal=1, num_pneumonia=1)
    folder = tmp_path / "train/NORMAL"
    data = dicom_bytes(make_dicom(np.arange(12).reshape(3, 4)))
    for name in ("IM000001", "1.2.840.10008.5", "scan.dcm", "scan.DICOM", "._scan.dcm", "DICOMDIR"):
        (folder / name).write_bytes(data)
    (folder / "IM000002").write_bytes(data[132:])  # only its name could tell
    (folder / "README").write_text("DICM")
    (folder / "empty").touch()
    (folder / "subfolder").mkdir()
    found = ["1.2.840.10008.5", "IM-0000-0001.png", "IM000001", "scan.DICOM", "scan.dcm"]
    records = ClassFolders(tmp_path).records()
    assert [record.path.name for record in records if record.label == 0] == found
    assert [path.name for path in image_files([folder])] == found
    inspected = inspect_images(records, size=(8, 8))
    assert len(inspected.records) == len(records)


def test_the_patient_of_a_new_image_is_reported_by_the_pattern_or_not_at_all(tmp_path):
    source = ClassFolders(tmp_path)
    assert source.patient_of(Path("new/person12_virus_46.jpeg")) == "person12_virus"
    assert source.patient_of(Path("new/scan-7.png")) == ""
    scans = ClassFolders(tmp_path, patient_pattern=r"scan-(\d+)")
    assert scans.patient_of(Path("new/scan-7.png")) == "7"
    assert Phantom(tmp_path).patient_of(Path("p00001_1.png")) == ""


def test_a_link_to_a_file_that_is_not_there_is_an_unreadable_image(tmp_path, make_images):
    make_images(num_normal=1, num_pneumonia=1)
    folder = tmp_path / "train/NORMAL"
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "notes.txt").symlink_to(tmp_path / "nowhere.txt")
    unreadable = inspect_images(ClassFolders(tmp_path).records()).unreadable
    assert sorted(error.path.name for error in unreadable) == ["gone.png", "loop.png"]
