from pathlib import Path

import pytest
from messages import refused

from cxrignite.data.class_folders import check_class_dir, check_root, folder_names
from cxrignite.errors import DataError


@pytest.fixture
def root(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "images" / split / "ill").mkdir(parents=True)
    (tmp_path / "images" / "readme.txt").touch()
    return tmp_path / "images"


def test_a_root_with_either_split_is_taken(root):
    check_root(root)
    (root / "train").rename(root / "other")
    check_root(root)


@pytest.mark.parametrize("below", ["train", "..", "train/ill"])
def test_the_folder_above_or_below_is_named_where_it_was_meant(root, below):
    wrong = (root / below).resolve()
    with refused(DataError, wrong, "'train'", "'test'") as error:
        check_root(wrong)
    words = [word.strip(".,:;?'") for word in str(error.value).split()]
    assert (str(root) in words) == (below != "train/ill")


def test_a_relative_root_that_is_missing_says_where_it_was_looked_for(root, monkeypatch):
    monkeypatch.chdir(root)
    with refused(DataError, "images", root):
        check_root(Path("images"))
    with refused(DataError, root / "nowhere"):
        check_root(root / "nowhere")


def test_a_class_without_a_folder_is_reported_with_those_that_have_one(root):
    assert check_class_dir(root / "train", "ill") == root / "train" / "ill"
    with refused(DataError, root / "train", "'healthy'", "'ill'"):
        check_class_dir(root / "train", "healthy")


def test_files_are_no_folders(root):
    assert folder_names(root) == "'test', 'train'"
    assert folder_names(root / "train" / "ill") == "no folder"
