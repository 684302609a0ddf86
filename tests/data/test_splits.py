import csv
import os
from errno import ENOENT
from pathlib import Path

import pytest
from messages import refused

from cxrignite.data.sources import SPLITS, ImageRecord
from cxrignite.data.split_assignment import split_off
from cxrignite.data.splits import check_same_records, read_findings, read_split, write_split
from cxrignite.errors import DataError

ROOT = Path("root")


def record(name: str, label: int, patient: str, split: str = "train", **fields) -> ImageRecord:
    return ImageRecord(str(ROOT / name), name, label, patient, split, **fields)


@pytest.fixture
def records(varied_images) -> list[ImageRecord]:
    return varied_images


def test_what_is_written_is_read_back_equal(tmp_path, records):
    records = split_off(records, "val", 0.15, seed=1)
    records[0] = records[0]._replace(
        attributes={"subgroup": "virus", "age": "3, or 4"}, sha256="ab" * 32
    )
    records[1] = records[1]._replace(attributes={"subgroup": "bacteria"}, patient='odd "name"')
    records.append(record("train/0/caf\udce9 ü.png", 0, "line\nbreak"))
    records.append(record("=cmd.png", 0, "@SUM(A1)"))
    records.append(record("'-1.png", 1, "-1"))
    write_split(records, tmp_path / "split.csv")
    assert read_split(tmp_path / "split.csv", ROOT) == records
    with (tmp_path / "split.csv").open(encoding="utf-8", errors="surrogateescape") as file:
        header = next(csv.reader(file))
    assert header == ["path", "label", "patient", "split", "sha256", "attr_age", "attr_subgroup"]
    assert os.listdir(tmp_path) == ["split.csv"]


def test_the_split_follows_the_root_that_it_is_read_for(tmp_path, records):
    write_split(records, tmp_path / "split.csv")
    elsewhere = read_split(tmp_path / "split.csv", tmp_path / "elsewhere")
    assert elsewhere[0].path == tmp_path / "elsewhere" / records[0].name


def test_a_write_that_fails_leaves_the_old_split_and_no_litter(tmp_path, records):
    write_split(records, tmp_path / "split.csv")
    before = (tmp_path / "split.csv").read_bytes()
    with pytest.raises(AttributeError):
        write_split([*records, None], tmp_path / "split.csv")
    assert (tmp_path / "split.csv").read_bytes() == before
    assert os.listdir(tmp_path) == ["split.csv"]


HEADER = "path,label,patient,split,sha256\n"


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        ("", ["['path', 'label', 'patient', 'split', 'sha256']"]),
        ("path,label\n", ["['patient', 'split', 'sha256']"]),
        (HEADER + "a.png,2,p,train,\n", ["line 2", "label", "'2'"]),
        (HEADER + "a.png,1,p,train,\nb.png,1,p,dev,\n", ["line 3", "split", *SPLITS, "'dev'"]),
        (HEADER + "../a.png,1,p,train,\n", ["line 2", "path", "'../a.png'"]),
        (HEADER + "/etc/passwd,1,p,train,\n", ["line 2", "path", "'/etc/passwd'"]),
        (HEADER + ",1,p,train,\n", ["line 2", "path", "''"]),
        (HEADER + "a.png,1,p\n", ["line 2", "cells"]),
        (HEADER + "a.png,1,p,train,,more\n", ["line 2", "cells"]),
        (HEADER + "a.png,1,p,train,\na.png,1,p,val,\n", ["1"]),
        (HEADER + 'a.png,1,"p,train,\n', ["CSV"]),
    ],
)
def test_a_damaged_split_is_refused_by_its_line(tmp_path, content, facts):
    (tmp_path / "split.csv").write_text(content)
    with refused(DataError, tmp_path / "split.csv", *facts):
        read_split(tmp_path / "split.csv", ROOT)


def test_a_missing_split_is_named(tmp_path):
    with refused(DataError, tmp_path / "absent.csv", os.strerror(ENOENT)):
        read_split(tmp_path / "absent.csv", ROOT)


def test_the_same_files_pass_whatever_their_split_and_order(records):
    hashed = [f._replace(sha256=f"{index:064}") for index, f in enumerate(records)]
    check_same_records(split_off(hashed, "val", 0.15, seed=1), hashed[::-1])


def test_files_that_went_came_or_changed_are_counted(records):
    hashed = [f._replace(sha256=f"{index:064}") for index, f in enumerate(records)]
    changed = hashed[-1]._replace(sha256="f" * 64)
    now = [*hashed[3:-1], changed, *(record(name, 0, "new") for name in ("n.png", "new.png"))]
    with refused(DataError, len(records), 3, 2, 1, records[0].name):
        check_same_records(hashed, now)
    with refused(DataError, len(records), 0, 1, records[-1].name):
        check_same_records(hashed, [*hashed[:-1], changed])


def test_a_calibration_split_survives_the_file(records, tmp_path):
    assigned = split_off(records, "calibration", 0.2, 0)
    write_split(assigned, tmp_path / "split.csv")
    assert read_split(tmp_path / "split.csv", ROOT) == assigned


def test_the_names_of_several_findings_can_be_read_back(tmp_path):
    names = ("Effusion", "Pleural, other")
    records = [ImageRecord("a.png", "a.png", (1, -1), "p", "train")]
    write_split(records, tmp_path / "several.csv", findings=names)
    assert read_findings(tmp_path / "several.csv") == names
    write_split([records[0]._replace(label=1)], tmp_path / "one.csv", findings=["Effusion"])
    assert read_findings(tmp_path / "one.csv") == ()
    (tmp_path / "other.csv").write_text("path,score\n")
    for name, fact in (("gone.csv", "gone.csv"), ("other.csv", "label")):
        with refused(DataError, fact):
            read_findings(tmp_path / name)
