import os
import shutil

import pytest
from messages import line_with, refused
from PIL import Image

from cxrignite.data.class_folders import ClassFolders
from cxrignite.data.image_files import image_files
from cxrignite.data.image_formats import DICOM_SUFFIXES, IMAGE_SUFFIXES
from cxrignite.data.reading import read_image
from cxrignite.errors import DataError, UnreadableImageError
from cxrignite.output_marker import OUTPUT_MARKER, mark_output


def test_paths_are_files_as_they_are_and_folders_by_the_images_below_them(tmp_path, write_image):
    names = ("b.png", "a/2.JPG", "a/1.jpeg", "a/deep/3.png")
    for name in names:
        write_image(tmp_path / "images" / name)
    alone = write_image(tmp_path / "alone.png")
    for name in (".DS_Store", "._b.png", "notes.txt"):
        (tmp_path / "images" / name).write_bytes(b"no image")
    scan = tmp_path / "scan.dcm"
    scan.write_bytes(b"not for this function to judge")
    found = image_files([scan, tmp_path / "images", alone])
    expected = ("images/a/1.jpeg", "images/a/2.JPG", "images/a/deep/3.png", "images/b.png")
    assert found == [scan, *(tmp_path / name for name in expected), alone]


def test_a_file_named_twice_counts_once_where_it_is_named_first(tmp_path, write_image):
    first, last = (write_image(tmp_path / "images" / name) for name in ("a.png", "b.png"))
    assert image_files([last, tmp_path / "images", last]) == [last, first]
    assert image_files([]) == []


def test_paths_that_name_no_image_are_refused(tmp_path):
    (tmp_path / "empty/folder.png").mkdir(parents=True)
    with refused(DataError, tmp_path / "empty", "JPEG", "PNG", "DICOM"):
        image_files([tmp_path / "empty"])
    with refused(DataError, tmp_path / "empty/*"):
        image_files([tmp_path / "empty/*"])


def test_a_missing_file_is_listed_beside_others(tmp_path):
    assert image_files([tmp_path / "absent.png"]) == [tmp_path / "absent.png"]


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES - DICOM_SUFFIXES))
def test_a_format_that_is_listed_is_read(suffix, tmp_path, write_image):
    path = write_image(tmp_path / "images/a.png")
    image = tmp_path / f"images/b{suffix.upper()}"
    Image.open(path).save(image)
    assert image_files([tmp_path / "images"]) == [path, image]
    assert read_image(image).shape == (24, 32)


def test_a_file_of_several_images_is_refused(tmp_path, write_image):
    first = Image.open(write_image(tmp_path / "a.png"))
    first.save(tmp_path / "b.tif", save_all=True, append_images=[first.rotate(90)])
    with refused(UnreadableImageError, tmp_path / "b.tif", 2):
        read_image(tmp_path / "b.tif")


def test_what_looks_like_an_image_and_is_not_taken_is_counted_with_its_reason(
    tmp_path, write_image, caplog
):
    folder = tmp_path / "images"
    image = write_image(folder / "a.png")
    for name in ("b", "c.bak", ".hidden.png", "._a.png", "notes.txt", ".cache/d.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(image, folder / name)
    (folder / "notes.txt").write_text("no image")
    for name in ("scan.nii.gz", "e.heic", "f.svg"):
        (folder / name).touch()
    assert image_files([folder]) == [image]
    (message,) = caplog.messages
    line_with(message, "7 left out", "2 PNG by content", folder / "b")
    line_with(message, "2 hidden", folder / ".cache", folder / ".hidden.png")
    line_with(message, "3 of a format", folder / "scan.nii.gz")


def test_linked_folders_are_followed_each_once_and_cycles_end(tmp_path, write_image, caplog):
    archive = write_image(tmp_path / "archive/study/1.png").parent
    folder = tmp_path / "incoming"
    own = write_image(folder / "own/2.png")
    (folder / "a").symlink_to(archive)
    (folder / "again").symlink_to(archive)
    (folder / "0").symlink_to(folder / "own")
    (folder / "own/up").symlink_to(folder)
    (folder / "self.txt").symlink_to(folder / "self.txt")
    assert image_files([folder]) == [folder / "a/1.png", own]
    assert not caplog.messages


def test_what_cannot_be_read_is_listed_for_the_reader_to_report(tmp_path, write_image, monkeypatch):
    image = write_image(tmp_path / "images/a.png")
    (tmp_path / "images/study9").symlink_to(tmp_path / "nowhere")
    (tmp_path / "images/notes.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "images/shut").mkdir()
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = image_files([tmp_path / "images"])
    assert found == [image, tmp_path / "images/shut", tmp_path / "images/study9"]
    for path in found[1:]:
        with refused(UnreadableImageError, path):
            read_image(path)


def test_pictures_that_a_command_wrote_are_no_input(tmp_path, write_image, caplog):
    image = write_image(tmp_path / "images/a.png")
    maps = tmp_path / "images/scores_maps"
    mark_output(maps)
    written = write_image(maps / "a.png")
    assert (maps / OUTPUT_MARKER).is_file()
    assert image_files([tmp_path / "images"]) == [image]
    assert image_files([tmp_path / "images/**/*.png"]) == [image]
    assert image_files([image, written]) == [image]
    line_with("\n".join(caplog.messages), "1 written by cxrignite", maps)
    for named in (maps, written, maps / "*.png"):
        with refused(DataError, maps, "written by cxrignite"):
            image_files([named])


def test_class_folders_take_sub_folders_and_report_images_elsewhere(
    tmp_path, make_images, write_image, caplog
):
    make_images(num_normal=1, num_pneumonia=1)
    caplog.clear()
    write_image(tmp_path / "train/NORMAL/p1/IM-0005-0001.tif")
    for name in ("train/COVID/1.png", "train/2.png", "valid/NORMAL/3.png", "4.png"):
        write_image(tmp_path / name)
    names = [record.name for record in ClassFolders(tmp_path).records() if record.label == 0]
    assert names == ["train/NORMAL/IM-0000-0001.png", "train/NORMAL/p1/IM-0005-0001.tif"]
    (message,) = caplog.messages
    line_with(message, "4 left out", "'COVID'", "NORMAL, PNEUMONIA", tmp_path / "train/2.png")
    line_with(message, "'valid'", "train, val, test", tmp_path / "4.png")
