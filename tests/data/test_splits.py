import csv
import os
from pathlib import Path

import pytest

from cxrignite.data.carving import carve_split
from cxrignite.data.sources import Film
from cxrignite.data.splits import check_same_films, read_split, write_split
from cxrignite.errors import DataError

ROOT = Path("root")


def film(name: str, label: int, patient: str, split: str = "train", **fields) -> Film:
    return Film(str(ROOT / name), name, label, patient, split, **fields)


@pytest.fixture
def films(varied_films) -> list[Film]:
    return varied_films


def test_what_is_written_is_read_back_equal(tmp_path, films):
    films = carve_split(films, "val", 0.15, seed=1)
    films[0] = films[0]._replace(
        attributes={"subgroup": "virus", "age": "3, or 4"}, sha256="ab" * 32
    )
    films[1] = films[1]._replace(attributes={"subgroup": "bacteria"}, patient='odd "name"')
    films.append(film("train/0/caf\udce9 ü.png", 0, "line\nbreak"))
    write_split(films, tmp_path / "split.csv")
    assert read_split(tmp_path / "split.csv", ROOT) == films
    with (tmp_path / "split.csv").open(encoding="utf-8", errors="surrogateescape") as file:
        header = next(csv.reader(file))
    assert header == ["path", "label", "patient", "split", "sha256", "attr_age", "attr_subgroup"]
    assert os.listdir(tmp_path) == ["split.csv"]


def test_the_split_follows_the_root_that_it_is_read_for(tmp_path, films):
    write_split(films, tmp_path / "split.csv")
    elsewhere = read_split(tmp_path / "split.csv", tmp_path / "elsewhere")
    assert elsewhere[0].path == tmp_path / "elsewhere" / films[0].name


def test_a_write_that_fails_leaves_the_old_split_and_no_litter(tmp_path, films):
    write_split(films, tmp_path / "split.csv")
    before = (tmp_path / "split.csv").read_bytes()
    with pytest.raises(AttributeError):
        write_split([*films, None], tmp_path / "split.csv")
    assert (tmp_path / "split.csv").read_bytes() == before
    assert os.listdir(tmp_path) == ["split.csv"]


HEADER = "path,label,patient,split,sha256\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must have columns"),
        ("path,label\n", "lacks"),
        (HEADER + "a.png,2,p,train,\n", "line 2: label must be 0 or 1, got '2'"),
        (HEADER + "a.png,1,p,train,\nb.png,1,p,dev,\n", "line 3: split must be one of"),
        (HEADER + "../a.png,1,p,train,\n", "line 2: path must stay inside"),
        (HEADER + "/etc/passwd,1,p,train,\n", "path must stay inside"),
        (HEADER + ",1,p,train,\n", "path must stay inside"),
        (HEADER + "a.png,1,p\n", "as many cells as the header"),
        (HEADER + "a.png,1,p,train,,more\n", "as many cells as the header"),
        (HEADER + "a.png,1,p,train,\na.png,1,p,val,\n", "name each film once, got 1 repeats"),
        (HEADER + 'a.png,1,"p,train,\n', "must be a CSV file"),
    ],
)
def test_a_damaged_split_is_refused_by_its_line(tmp_path, content, message):
    (tmp_path / "split.csv").write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_split(tmp_path / "split.csv", ROOT)
    assert "split.csv" in str(caught.value)


def test_a_missing_split_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the split .*absent.csv: No such file"):
        read_split(tmp_path / "absent.csv", ROOT)


def test_the_same_files_pass_whatever_their_split_and_order(films):
    hashed = [f._replace(sha256=f"{index:064}") for index, f in enumerate(films)]
    check_same_films(carve_split(hashed, "val", 0.15, seed=1), hashed[::-1])


def test_files_that_went_came_or_changed_are_counted(films):
    hashed = [f._replace(sha256=f"{index:064}") for index, f in enumerate(films)]
    now = [*hashed[2:-1], hashed[-1]._replace(sha256="f" * 64), film("new.png", 0, "new")]
    with pytest.raises(
        DataError, match=r"got 2 missing, 1 new, 1 changed; first missing: train/0/0"
    ):
        check_same_films(hashed, now)
    with pytest.raises(DataError, match=r"0 missing, 0 new, 1 changed; first changed: test/1/b"):
        check_same_films(hashed, [*hashed[:-1], now[-2]])


def test_a_calibration_split_survives_the_file(films, tmp_path):
    carved = carve_split(films, "calibration", 0.2, 0)
    write_split(carved, tmp_path / "split.csv")
    assert read_split(tmp_path / "split.csv", ROOT) == carved
