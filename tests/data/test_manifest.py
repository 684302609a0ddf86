import gzip
import hashlib
import hmac
import logging
import os
import time
from errno import EISDIR, ENOENT
from pathlib import Path

import pytest
from messages import line_with, missing, refused

from cxrignite.data import (
    ClassFolders,
    ImageRecord,
    Manifest,
    ManifestColumns,
    ManifestLabels,
    ManifestPatients,
)
from cxrignite.data.sources import SPLITS
from cxrignite.data.splits import read_split, write_split
from cxrignite.errors import DataError, RecipeError

SECRET = "a secret of some length"
CLASSES = ("NORMAL", "PNEUMONIA")


@pytest.fixture
def write_manifest(tmp_path):
    """Writes a table, and an empty file for each name that is a path in its first column."""

    def write(text: str, name: str = "images.csv", *, encoding: str = "utf-8") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        for line in text.splitlines()[1:]:
            first = line.replace(";", ",").replace("\t", ",").partition(",")[0].strip('" ')
            if first.endswith(".png") and not first.startswith(("/", "..")) and "\0" not in first:
                record = tmp_path / first.replace("\\", "/")
                record.parent.mkdir(parents=True, exist_ok=True)
                record.touch()
        return path

    return write


@pytest.fixture
def records_of(write_manifest):
    """The images of a table that is written for the purpose."""

    def records(text: str, **settings) -> list[ImageRecord]:
        return Manifest(write_manifest(text), **settings).records()

    return records


def labels_of(records):
    return {record.name: record.label for record in records}


PLAIN = "path,label,patient\na.png,NORMAL,1\nb.png,PNEUMONIA,2\n"


def test_images_are_listed_in_the_order_of_the_rows(tmp_path, write_manifest):
    table = write_manifest(
        "path,label,patient,split,view,sex\n"
        "sub/b.png,PNEUMONIA,7,train,PA,\n"
        "a.png,NORMAL,8,test,AP, F\n"
    )
    columns = ManifestColumns(attributes=["view", "sex"])
    assert Manifest(table, columns=columns).records() == [
        ImageRecord(f"{tmp_path}/sub/b.png", "sub/b.png", 1, "7", "train", {"view": "PA"}),
        ImageRecord(f"{tmp_path}/a.png", "a.png", 0, "8", "test", {"view": "AP", "sex": "F"}),
    ]


def test_the_constructor_reads_nothing():
    source = Manifest("no/such/images.csv", patients=ManifestPatients(salt_file="no/such/salt"))
    assert source.root == Path("no/such")
    assert Manifest("no/such/images.csv", root="images").root == Path("images")


def test_a_relative_manifest_gives_paths_as_they_are_written(write_manifest, monkeypatch):
    table = write_manifest(PLAIN)
    monkeypatch.chdir(table.parent)
    record = Manifest("images.csv").records()[0]
    assert (record.file, record.path) == ("a.png", Path("a.png"))


def test_the_last_class_is_positive_and_names_go_without_case_or_blanks(records_of):
    text = "path,label\na.png, normal \nb.png,Pneumonia\nc.png,0\nd.png,1.0\n"
    assert labels_of(records_of(text)) == {"a.png": 0, "b.png": 1, "c.png": 0, "d.png": 1}
    turned = records_of(
        text, classes=["PNEUMONIA", "NORMAL"], labels=ManifestLabels(on_other="skip")
    )
    assert labels_of(turned)["a.png"] == 1


def test_numbers_compare_by_value_and_long_ones_to_the_last_digit(records_of):
    values = {"NORMAL": [0, "12345678901234567891"], "PNEUMONIA": [1.5, "12345678901234567892"]}
    text = (
        "path,label\na.png,0.00\nb.png,1.50\nc.png,12345678901234567891\n"
        "d.png,12345678901234567892\ne.png,-0\nf.png,15e-1\n"
    )
    found = labels_of(records_of(text, labels=ManifestLabels(values)))
    assert list(found.values()) == [0, 1, 0, 1, 0, 1]


def test_words_that_yaml_reads_as_booleans_are_found_as_they_stand(records_of):
    labels = ManifestLabels({"NORMAL": [False], "PNEUMONIA": [True]})
    text = "path,label\na.png,No\nb.png,Yes\nc.png,False\nd.png,TRUE\n"
    assert list(labels_of(records_of(text, labels=labels)).values()) == [0, 1, 0, 1]


def test_a_class_without_values_has_its_own_name(records_of):
    labels = ManifestLabels({"PNEUMONIA": ["p"]})
    assert list(labels_of(records_of("path,label\na.png,normal\nb.png,P\n", labels=labels))) == [
        "a.png",
        "b.png",
    ]
    with refused(DataError, "images.csv", "line 3", "'0'", 2, *CLASSES):
        records_of("path,label\na.png,p\nb.png,0\nc.png,p\nd.png,0\n", labels=labels)


def test_among_several_labels_positive_goes_first_then_uncertain_then_negative(records_of):
    labels = ManifestLabels(
        {"NORMAL": ["normal"], "PNEUMONIA": ["pneumonia"]},
        separator=",",
        uncertain=["unsure"],
        on_uncertain="skip",
        on_other="skip",
        on_missing="skip",
    )
    text = (
        "path;label\n"
        "a.png;\"['normal', 'pneumonia', 'unsure']\"\n"
        "b.png;\"['normal', 'unsure']\"\n"
        "c.png;\"['scar', 'normal']\"\n"
        "d.png;['scar']\n"
        "e.png;[]\n"
        'f.png;"Pneumonia"\n'
    )
    assert labels_of(records_of(text, labels=labels)) == {"a.png": 1, "c.png": 0, "f.png": 1}


UNCLEAR = "path,label\na.png,0\nb.png,1\nc.png,-1\nd.png,\ne.png,TB\nf.png,TB\ng.png,-1.0\n"


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ({"on_uncertain": "skip", "on_missing": "skip", "on_other": "skip"}, "01"),
        ({"on_uncertain": "negative", "on_missing": "skip", "on_other": "skip"}, "0100"),
        ({"on_uncertain": "positive", "on_missing": "skip", "on_other": "skip"}, "0111"),
        ({"on_uncertain": "skip", "on_missing": "negative", "on_other": "skip"}, "010"),
        ({"on_uncertain": "skip", "on_missing": "skip", "on_other": "negative"}, "0100"),
    ],
)
def test_labels_that_are_not_clear_go_by_policy(records_of, policies, expected):
    records = records_of(UNCLEAR, labels=ManifestLabels(uncertain=[-1], **policies))
    assert "".join(str(record.label) for record in records) == expected


@pytest.mark.parametrize(
    ("policies", "facts"),
    [
        (
            {"on_missing": "skip", "on_other": "skip"},
            ["line 4", "'-1'", 2, "labels.on_uncertain", "skip", "negative", "positive"],
        ),
        (
            {"on_uncertain": "skip", "on_other": "skip"},
            ["line 5", 1, "labels.on_missing", "skip", "negative"],
        ),
        (
            {"on_uncertain": "skip", "on_missing": "skip"},
            ["line 6", "'TB'", 2, *CLASSES, "labels.on_other", "skip", "negative"],
        ),
        ({}, ["line 4", "'-1'", 2, "labels.on_uncertain"]),
    ],
)
def test_a_policy_that_refuses_counts_the_rows_and_names_the_first(records_of, policies, facts):
    with refused(DataError, "images.csv", *facts):
        records_of(
            f"{UNCLEAR}h.png,0\ni.png,1\nj.png,1\nk.png,0\n",
            labels=ManifestLabels(uncertain=[-1], **policies),
        )


def test_only_rows_with_one_of_the_wanted_values_count(records_of, caplog):
    text = "path,label,view,age\na.png,0,PA,40\nb.png,1,pa ,40.0\nc.png,TB,LL,40\nd.png,1,AP,39\n"
    with caplog.at_level(logging.INFO):
        records = records_of(text, where={"view": ["PA", "AP"], "Age": [40]})
    assert labels_of(records) == {"a.png": 0, "b.png": 1}
    line_with(caplog.messages[0], "images.csv", 2, 4)


def test_rows_that_differ_in_attributes_alone_cost_no_more_than_others(tmp_path):
    names = [f"{each}.png,{each % 2}" for each in range(15_000)]
    (tmp_path / "0.png").touch()
    table = tmp_path / "images.csv"

    def seconds(second_view: str) -> float:
        rows = [*(f"{name},PA" for name in names), *(f"{name},{second_view}" for name in names)]
        table.write_text("\n".join(["path,label,view", *rows]))
        start = time.process_time()
        records = Manifest(table, columns=ManifestColumns(attributes=["view"])).records()
        assert {record.attributes["view"] for record in records} == {"PA"}
        return time.process_time() - start

    same = seconds("PA")
    assert seconds("AP") < 5 * same + 0.2


def test_all_that_was_decided_is_reported_with_counts(records_of, caplog):
    policies = {"on_uncertain": "positive", "on_missing": "skip", "on_other": "skip"}
    labels = ManifestLabels(uncertain=[-1], **policies)
    with caplog.at_level(logging.INFO):
        records_of(UNCLEAR + "a.png,0\n", labels=labels)
    facts = ([3, 8, 1, 2], [2, "PNEUMONIA"], [1])
    for message, each in zip(caplog.messages[:3], facts, strict=True):
        line_with(message, "images.csv", *each)


def test_where_that_fits_no_row_shows_what_the_column_holds(records_of):
    with refused(DataError, "images.csv", 0, *CLASSES, 4, "'view'", "'AP'", "'PA'"):
        records_of("path,label,view\na,0,AP\nb,1,PA\nc,0,AP\nd,1,PA\n", where={"view": ["LL"]})


NAMES = {
    "many": [f"DOE^JANE {year}" for year in range(1970, 1983)] * 2,
    "each once": ["DOE^JANE", "DOE^JOHN"],
    "each once beside gaps": ["DOE^JANE", "DOE^JOHN", *[""] * 9],
    "long": ["DOE^JANE 1970-01-01, seen for a cough of weeks"] * 4,
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_a_column_that_may_hold_names_is_never_shown(records_of, names):
    rows = [f"{each}.png,{each % 2},{name}" for each, name in enumerate(names)]
    text = "\n".join(["path;finding;who", *rows]).replace(", ", "_").replace(",", ";")
    skip = ManifestLabels(on_missing="skip", on_other="skip")
    listed = ManifestLabels(uncertain=["unsure"], separator="^", on_missing="skip")
    num_labels, counts = len(names) - names.count(""), [len(set(names)), len(names)]
    for settings, facts in [
        ({"label": "who"}, ["line 2", *CLASSES, num_labels]),
        ({"label": "who", "labels": skip}, counts),
        ({"label": "who", "labels": listed}, ["line 2", *CLASSES, num_labels]),
        ({"where": {"who": ["PA"]}}, ["'who'", *counts]),
    ]:
        columns = ManifestColumns(label=settings.pop("label", "finding"))
        with refused(DataError, "images.csv", *facts) as caught:
            records_of(
                text, columns=columns, **{"labels": ManifestLabels(on_missing="skip")} | settings
            )
        assert "DOE" not in str(caught.value)


def test_an_uncertain_label_among_others_is_not_shown_where_they_may_be_names(records_of):
    labels = ManifestLabels(uncertain=["unsure"], separator=",")
    with refused(DataError, "line 2", 1, "labels.on_uncertain") as caught:
        records_of("path;label\na.png;unsure,DOE\nb.png;1\nc.png;0\n", labels=labels)
    assert "DOE" not in str(caught.value)


def test_images_of_one_class_are_refused_with_what_was_found(records_of):
    with refused(DataError, "images.csv", 0, "NORMAL", 2, "PNEUMONIA"):
        records_of("path,label\na.png,1\nb.png,PNEUMONIA\n")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("images/{id}.png", "id,label\na,0\nb,1\n"),
        ("{folder}/{id}", "folder,id,label\nimages,a.png,0\nimages, b.png,1\n"),
        ("images/{a {id}.png", None),
        ("images/{}.png", None),
    ],
)
def test_a_path_may_be_made_of_columns(tmp_path, records_of, path, text):
    if text is None:
        with refused(RecipeError, "columns.path", f"'{path}'"):
            Manifest("images.csv", columns=ManifestColumns(path=path))
        return
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").touch()
    records = records_of(text, columns=ManifestColumns(path=path))
    assert labels_of(records) == {"images/a.png": 0, "images/b.png": 1}


def test_paths_come_out_plain(tmp_path, records_of):
    text = (
        f"path,label\n./a.png,0\nsub\\b.png,1\n{tmp_path}/c.png,0\nsub/../d.png,1\nsub//e.png,0\n"
    )
    names = [record.name for record in records_of(text)]
    assert names == ["a.png", "sub/b.png", "c.png", "d.png", "sub/e.png"]


def test_an_absolute_path_may_go_through_a_link(tmp_path, write_manifest):
    link = tmp_path.with_name(f"{tmp_path.name}-link")
    link.symlink_to(tmp_path)
    table = write_manifest(f"path,label\na.png,0\n{tmp_path}/b.png,1\n{link}/c.png,1\n")
    records = Manifest(link / table.name).records()
    assert [record.name for record in records] == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize(
    ("cell", "facts"),
    [
        ("../b.png", ["'../b.png'", "source.root"]),
        ("sub/../../b.png", ["'sub/../../b.png'", "source.root"]),
        ("/elsewhere/b.png", ["'/elsewhere/b.png'", "source.root"]),
        ("C:\\images\\b.png", ["'C:\\images\\b.png'", "source.root"]),
        ("C:/images/b.png", ["'C:/images/b.png'", "source.root"]),
        ("", ["'path'"]),
        (".", ["'.'"]),
        ("sub/", ["'sub/'"]),
        ("b\0.png", [r"'b\x00.png'"]),
    ],
)
def test_a_path_that_is_no_file_of_the_root_is_refused(records_of, cell, facts):
    with refused(DataError, "images.csv", "line 3", "path", *facts):
        records_of(f"path,label\na.png,0\n{cell},1\n")


def test_images_of_which_none_exists_point_to_the_root(tmp_path, write_manifest):
    rows = "".join(f"absent{number}.png,{number % 2}\n" for number in range(100))
    table = write_manifest("path,label\n")
    table.write_text(f"path,label\n{rows}")
    with refused(DataError, 25, tmp_path / "absent0.png", "source.root"):
        Manifest(table).records()
    (tmp_path / "absent40.png").touch()
    assert len(Manifest(table).records()) == 100
    with refused(DataError, "source.root", tmp_path / "nowhere"):
        Manifest(table, root=tmp_path / "nowhere").records()


def test_a_image_in_several_rows_counts_once(records_of, caplog):
    text = "path,label,patient,box\na.png,1,7,3\na.png,1,7,4\nb.png,0,8,\n./a.png,1,7,5\n"
    with caplog.at_level(logging.INFO):
        records = records_of(text, columns=ManifestColumns(attributes=["box"]))
    assert [(record.name, record.attributes) for record in records] == [
        ("a.png", {"box": "3"}),
        ("b.png", {}),
    ]
    line_with(caplog.messages[0], "images.csv", 2)


@pytest.mark.parametrize(
    ("again", "what"),
    [("0,7,train", "label"), ("1,8,train", "patient"), ("1,7,test", "split")],
)
def test_a_image_in_two_rows_that_contradict_is_refused(records_of, again, what):
    text = f"path,label,patient,split\nb.png,0,1,train\na.png,1,7,train\n\na.png,{again}\n"
    with refused(DataError, "images.csv", "line 5", "'a.png'", what, "line 3"):
        records_of(text)


def test_splits_have_the_names_that_people_give_them(records_of):
    names = ["train", "Training", "test", "testing", "calibration"]
    rows = "".join(f"{n}.png,{n % 2},{name}\n" for n, name in enumerate(names))
    records = records_of(f"path,label,split\n{rows}")
    assert [record.split for record in records] == ["train", "train", "test", "test", "calibration"]


@pytest.mark.parametrize(("num_val", "split"), [(49, "train"), (50, "val")])
@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev"])
def test_a_validation_split_that_is_too_small_joins_train(records_of, name, num_val, split):
    rows = "".join(f"{n}.png,{n % 2},{name}\n" for n in range(num_val))
    records = records_of(f"path,label,split\n{rows}")
    assert {record.split for record in records} == {split}


@pytest.mark.parametrize("cell", ["holdout", ""])
def test_a_split_of_another_name_is_refused(records_of, cell):
    with refused(DataError, "line 3", "split", *SPLITS, f"'{cell}'"):
        records_of(f"path,label,split\na.png,0,train\nb.png,1,{cell}\n")


def test_usual_columns_are_found_in_any_case_and_named_ones_must_be_there(records_of):
    text = "Path,Label,Patient,SPLIT\na.png,0,7,test\nb.png,1,8,test\n"
    assert [(record.patient, record.split) for record in records_of(text)] == [
        ("7", "test"),
        ("8", "test"),
    ]
    for settings, facts in (
        ({"patient": "patiant"}, ["'patiant'", "source.columns.patient", "'Patient'"]),
        (
            {"split": "zzz"},
            ["'zzz'", "source.columns.split", "Path", "Label", "Patient", "SPLIT"],
        ),
        ({"label": "lable"}, ["'lable'", "source.columns.label", "'Label'"]),
        ({"path": "{pth}.png"}, ["'pth'", "source.columns.path", "'Path'"]),
        ({"attributes": ["view"]}, ["'view'", "source.columns.attributes"]),
    ):
        with refused(DataError, "images.csv", *facts):
            records_of(text, columns=ManifestColumns(**settings))
    with refused(DataError, "images.csv", "'view'", "source.where"):
        records_of(text, where={"view": ["PA"]})


def test_a_column_that_stands_twice_is_refused(records_of):
    with refused(DataError, "images.csv", "'label'"):
        records_of("path,label,label\na.png,0,1\nb.png,1,1\n")


def test_images_without_a_patient_are_reported(records_of, caplog):
    records = records_of("path,label\na.png,0\nb.png,1\n")
    assert [record.patient for record in records] == ["a.png", "b.png"]
    line_with(caplog.messages[0], "images.csv", 2)
    caplog.clear()
    records = records_of("path,label,patient\na.png,0, 7\nb.png,1,\n")
    assert [record.patient for record in records] == ["7", "b.png"]
    line_with(caplog.messages[0], "images.csv", 1, 2)
    caplog.clear()
    records_of(PLAIN)
    assert caplog.text == ""


def test_whole_numbers_are_one_patient_however_they_are_written(records_of):
    cells = ["12", "12.0", "12.00 ", "012", "12.5", "0.0", "0", "012.0"]
    rows = [f"{each}.png,{each % 2},{cell}" for each, cell in enumerate(cells)]
    records = records_of("\n".join(["path,label,patient", *rows]))
    assert [record.patient for record in records] == [
        *("12", "12", "12", "012", "12.5", "0", "0", "012.0")
    ]


@pytest.mark.parametrize("salted", [False, True])
def test_words_for_a_gap_are_no_patient(tmp_path, records_of, caplog, salted):
    (tmp_path / "salt").write_text(SECRET)
    cells = ["NaN", "nan", "N/A", "null", "none", " - ", "<NA>", "Nancy"]
    rows = [f"{each}.png,{each % 2},{cell}" for each, cell in enumerate(cells)]
    patients = ManifestPatients(salt_file=tmp_path / "salt" if salted else None)
    *gaps, named = records_of("\n".join(["path,label,patient", *rows]), patients=patients)
    assert [record.patient for record in gaps] == [record.name for record in gaps]
    assert (named.patient == "Nancy") is not salted
    line_with(caplog.messages[0], "images.csv", 7, 8)


def test_a_pattern_reads_the_patient_from_the_whole_path(records_of, caplog):
    text = "path,label,patient\np12/1.png,0,x\np12/2.png,1,x\nq/3.png,1,x\n"
    records = records_of(text, patients=ManifestPatients(pattern=r"p(\d+)/"))
    assert [record.patient for record in records] == ["12", "12", "q/3.png"]
    line_with(caplog.messages[0], "images.csv", 1, 3)


def test_a_named_pattern_reads_the_file_name(records_of):
    text = "path,label\ntrain/person12_virus_4.png,1\ntrain/IM-0001-0001.png,0\n"
    records = records_of(text, patients=ManifestPatients(pattern="chest-xray-2017"))
    assert [record.patient for record in records] == ["person12_virus", "IM-0001"]


def test_a_salt_replaces_every_number_of_a_patient(tmp_path, write_manifest, caplog):
    salt = tmp_path / "salt.txt"
    salt.write_text(f"{SECRET}\n")
    table = write_manifest(
        "path,label,patient\na.png,0,MRN-70013388\nb.png,1,MRN-70019425\n./a.png,0,MRN-70013388 \n"
    )
    source = Manifest(table, patients=ManifestPatients(salt_file=salt))
    with caplog.at_level(logging.DEBUG):
        records = source.records()
    expected = hmac.new(SECRET.encode(), b"MRN-70013388", hashlib.sha256).hexdigest()[:16]
    assert records[0].patient == expected
    assert len({record.patient for record in records}) == 2
    write_split(records, tmp_path / "split.csv")
    assert "700" not in (tmp_path / "split.csv").read_text() + caplog.text
    table.write_text("path,label,patient\na.png,0,MRN-70013388\na.png,0,MRN-70019425\n")
    with refused(DataError, "line 3", "'a.png'", "patient", "line 2") as caught:
        source.records()
    assert "700" not in str(caught.value)


def test_the_patient_of_another_table_gets_the_key_that_images_have(tmp_path, write_manifest):
    salt = tmp_path / "salt.txt"
    salt.write_text(SECRET)
    for patients in (ManifestPatients(salt_file=salt), ManifestPatients()):
        source = Manifest(write_manifest(PLAIN), patients=patients)
        keys = [record.patient for record in source.records()]
        assert [source.patient_key(" 1"), source.patient_key("2")] == keys
        assert source.patient_key(" ") == ""
    assert keys == ["1", "2"]
    assert ClassFolders(tmp_path).patient_key("1") == "1"


def test_a_salt_has_to_be_a_secret_of_some_length(tmp_path, write_manifest):
    table, salt = write_manifest(PLAIN), tmp_path / "salt.txt"
    patients = ManifestPatients(salt_file=salt)
    with refused(RecipeError, "patients.salt_file", salt, os.strerror(ENOENT)):
        Manifest(table, patients=patients).records()
    salt.write_text("  fifteen letters\n\n")
    with refused(RecipeError, "patients.salt_file", 16, 15, salt):
        Manifest(table, patients=patients).records()


@pytest.fixture
def write_dicom():
    """Writes a header with a PatientID and nothing of an image."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    def write(path: Path, patient: str) -> None:
        record = Dataset()
        record.SOPClassUID, record.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
        record.PatientID = patient
        record.file_meta = FileMetaDataset()
        record.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        record.save_as(path, enforce_file_format=True)

    return write


def test_a_header_tells_the_patient_and_only_its_hash_is_kept(
    tmp_path, write_manifest, write_dicom, caplog
):
    salt = tmp_path / "salt.txt"
    salt.write_text(SECRET)
    for name, patient in (("a", "70013388"), ("b", "70013388"), ("c", "70019425"), ("d", "")):
        write_dicom(tmp_path / f"{name}.dcm", patient)
    (tmp_path / "e.dcm").write_bytes(b"no DICOM at all")
    table = write_manifest("path,label\na.dcm,0\nb.dcm,1\nc.dcm,0\nd.dcm,0\ne.dcm,0\nf.dcm,1\n")
    source = Manifest(table, patients=ManifestPatients(from_header=True, salt_file=salt))
    first, second, third, *others = (record.patient for record in source.records())
    assert first == second != third
    assert first == hmac.new(SECRET.encode(), b"70013388", hashlib.sha256).hexdigest()[:16]
    assert others == ["d.dcm", "e.dcm", "f.dcm"]
    line_with(caplog.messages[0], "images.csv", 3, 6)
    assert source.patient_of(tmp_path / "c.dcm") == third
    assert source.patient_of(tmp_path / "e.dcm") == source.patient_of(tmp_path / "d.dcm") == ""


def test_a_source_tells_the_patient_of_a_image_that_is_not_its_own(tmp_path):
    name = tmp_path / "new" / "person7_virus_1.png"
    assert ClassFolders(tmp_path).patient_of(name) == "person7_virus"
    assert ClassFolders(tmp_path).patient_of(tmp_path / "scan.png") == ""
    assert Manifest(tmp_path / "images.csv").patient_of(name) == ""
    by_folder = ManifestPatients(pattern=r"(?:^|/)patients/(\w+)/")
    inside = Manifest(tmp_path / "images.csv", patients=by_folder)
    assert inside.patient_of(tmp_path / "patients/p1/1.png") == "p1"
    assert inside.patient_of(Path("elsewhere/patients/p2/1.png")) == "p2"
    assert inside.patient_of(tmp_path / "p1/1.png") == ""
    anchored = ManifestPatients(pattern=r"^p\d+")  # the root is not part of the path
    assert (
        Manifest(tmp_path / "images.csv", patients=anchored).patient_of(tmp_path / "p1/1") == "p1"
    )


def test_the_patient_of_a_new_image_is_the_same_however_its_path_is_written(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "sub")
    monkeypatch.chdir(tmp_path)
    record = "p1/x.png"
    written = [f"sub/{record}", f"./sub/../sub/{record}", tmp_path / "sub" / record]
    for root in ("sub", tmp_path / "sub", "link", "./sub/../sub"):
        source = Manifest("images.csv", root=root, patients=ManifestPatients(pattern=r"^p\d+"))
        assert {source.patient_of(Path(path)) for path in written} == {"p1"}


@pytest.mark.parametrize(("pattern", "key"), [(r"site\d+", ""), (r"^p\d+", ""), (r"p\d+", "p7")])
def test_a_folder_above_the_root_is_not_the_patient_of_a_new_image(tmp_path, pattern, key):
    table = tmp_path / "site1/train/images.csv"
    source = Manifest(table, patients=ManifestPatients(pattern=pattern))
    assert source.patient_of(tmp_path / "site1/p7/x.png") == key


def test_the_salt_is_read_once_and_its_absence_reported_at_the_first_new_image(tmp_path):
    salt = tmp_path / "salt"
    patients = ManifestPatients(pattern=r"p\d+", salt_file=salt)
    source = Manifest(tmp_path / "images.csv", patients=patients)
    with refused(RecipeError, "patients.salt_file", salt):
        source.patient_of(tmp_path / "scan.png")
    salt.write_text(SECRET)
    first = source.patient_of(tmp_path / "p1/x.png")
    salt.unlink()
    assert source.patient_of(tmp_path / "p1/y.png") == first != ""


@pytest.mark.parametrize(
    ("make", "facts"),
    [
        (lambda: ManifestPatients(from_header=True), ["patients.from_header", "salt_file"]),
        (
            lambda: ManifestPatients(pattern="a", from_header=True, salt_file="s"),
            ["patients", "pattern", "from_header"],
        ),
        (lambda: ManifestPatients(pattern="(a"), ["patients.pattern", "'(a'"]),
        (
            lambda: Manifest(
                "f.csv",
                columns=ManifestColumns(patient="p"),
                patients=ManifestPatients(pattern="a"),
            ),
            ["columns.patient", "patients", "'p'"],
        ),
        (lambda: Manifest("f.csv", classes=["A"]), ["classes", "['A']"]),
        (
            lambda: Manifest("f.csv", labels=ManifestLabels({"PNEUMONA": ["p"]})),
            ["labels.values", "'PNEUMONA'", "'PNEUMONIA'"],
        ),
        (
            lambda: Manifest("f.csv", labels=ManifestLabels({"NORMAL": [1], "PNEUMONIA": ["1.0"]})),
            ["labels.values.PNEUMONIA", "'1.0'"],
        ),
        (
            lambda: Manifest("f.csv", labels=ManifestLabels(uncertain=[1])),
            ["labels.uncertain", "1"],
        ),
        (
            lambda: Manifest("f.csv", labels=ManifestLabels(separator="")),
            ["labels.separator", "''"],
        ),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused_before_anything_is_read(make, facts):
    with refused(RecipeError, *facts):
        make()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tables_are_read_as_spreadsheets_write_them(
    records_of, tmp_path, delimiter, newline, encoding
):
    lines = ["path,label,patient", 'ä.png,NORMAL,"7"', "b.png,PNEUMONIA,8", "", ",,"]
    text = newline.join(lines).replace(",", delimiter)
    path = tmp_path / "images.csv"
    path.write_bytes(text.encode(encoding))
    (tmp_path / "ä.png").touch()
    records = Manifest(path).records()
    assert [(record.name, record.patient) for record in records] == [("ä.png", "7"), ("b.png", "8")]


def test_quotes_keep_commas_and_line_breaks_and_lines_are_counted_right(records_of, tmp_path):
    text = 'path,label,note\n"a,1.png",0,"two\nlines, with ""quotes"""\nb.png,1,\nc.png,TB,\n'
    with refused(DataError, "images.csv", "line 5"):
        records_of(text)
    (tmp_path / "a,1.png").touch()
    records = records_of(text, labels=ManifestLabels(on_other="skip"))
    assert [record.name for record in records] == ["a,1.png", "b.png"]


def test_a_compressed_table_is_unpacked(write_manifest):
    plain = write_manifest(PLAIN)
    cached = plain.with_suffix(".csv.gz")
    cached.write_bytes(gzip.compress(plain.read_bytes()))
    assert Manifest(cached).records() == Manifest(plain).records()
    for content in (cached.read_bytes()[:-12], b"not cached"):
        cached.write_bytes(content)
        with refused(DataError, cached):
            Manifest(cached).records()


def test_cells_beyond_the_header_may_be_blank(records_of):
    assert len(records_of("path,label\na.png,0,\nb.png,1, \n")) == 2


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("", ["empty"]),
        ("\n\n", ["empty"]),
        ("path,label\n", ["header"]),
        ("path,label\n\n,\n", ["header"]),
        ("path,label,x\na.png,0,1\n\nb.png,1\n", ["line 4", 3, 2]),
        ("path,label\na.png,0\n\nb.png,1,more\n", ["line 4", 2, 3]),
        ('path,label\na.png,0\n"b.png,1\n', ["line 3", "CSV"]),
        ('path,label\na.png,0\n"b".png,1\n', ["line 3", "CSV"]),
    ],
)
def test_a_table_that_cannot_be_read_names_the_line(records_of, text, facts):
    with refused(DataError, "images.csv", *facts):
        records_of(text)


def test_a_table_that_is_not_utf_8_says_so_and_where(write_manifest):
    table = write_manifest("path,label\na.png,0\nbä.png,1\n", encoding="latin-1")
    with refused(DataError, "images.csv", "line 3", "UTF-8", "'CSV UTF-8'"):
        Manifest(table).records()


def test_a_table_that_is_not_there_is_named(tmp_path):
    with refused(DataError, tmp_path / "images.csv", os.strerror(ENOENT)):
        Manifest(tmp_path / "images.csv").records()
    (tmp_path / "folder.csv").mkdir()
    with refused(DataError, tmp_path / "folder.csv", os.strerror(EISDIR)):
        Manifest(tmp_path / "folder.csv").records()


def test_a_split_of_a_manifest_reads_back(tmp_path, records_of):
    text = "path,label,patient,split,view\na.png,0,7,train,PA\nsub/b.png,1,8,test,\n"
    records = records_of(text, columns=ManifestColumns(attributes=["view"]))
    write_split(records, tmp_path / "split.csv")
    assert read_split(tmp_path / "split.csv", tmp_path) == records


class TestParquet:
    @pytest.fixture
    def write_parquet(self, tmp_path):
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")

        def write(**columns) -> Path:
            for name in columns["path"]:
                if name:
                    (tmp_path / name).touch()
            parquet.write_table(pyarrow.table(columns), tmp_path / "images.parquet")
            return tmp_path / "images.parquet"

        return write

    def test_it_gives_the_images_that_csv_gives(self, write_parquet, write_manifest):
        settings = {
            "labels": ManifestLabels(uncertain=[-1], on_uncertain="skip", on_missing="skip"),
            "columns": ManifestColumns(attributes=["age"]),
        }
        text = "path,label,patient,age\na.png,0,7,40\nb.png,1,,41.5\nc.png,-1,8,\nd.png,,9,4\n"
        cached = write_parquet(
            path=["a.png", "b.png", "c.png", "d.png"],
            label=[0.0, 1.0, -1.0, None],
            patient=[7.0, float("nan"), 8.0, 9.0],
            age=[40, 41.5, None, 4],
        )
        expected = Manifest(write_manifest(text), **settings).records()
        assert Manifest(cached, **settings).records() == expected
        assert [record.patient for record in expected] == ["7", "b.png"]

    def test_booleans_and_lists_are_labels_too(self, write_parquet):
        table = write_parquet(path=["a.png", "b.png"], label=[False, True])
        labels = ManifestLabels({"NORMAL": [False], "PNEUMONIA": [True]})
        assert [record.label for record in Manifest(table, labels=labels).records()] == [0, 1]
        table = write_parquet(path=["a.png", "b.png"], label=[["normal"], ["scar", "pneumonia"]])
        records = Manifest(table, labels=ManifestLabels(separator=",")).records()
        assert [record.label for record in records] == [0, 1]

    def test_an_error_names_the_row(self, write_parquet):
        table = write_parquet(path=["a.png", "b.png", ""], label=[0, 1, 1])
        with refused(DataError, "images.parquet", "row 3", "'path'"):
            Manifest(table).records()

    def test_a_file_that_is_something_else_is_refused_in_one_line(self, tmp_path):
        pytest.importorskip("pyarrow")
        path = tmp_path / "images.pq"
        with refused(DataError, path, os.strerror(ENOENT)):
            Manifest(path).records()
        path.write_bytes(b"path,label\n" * 10)
        with pytest.raises(DataError) as caught:
            Manifest(path).records()
        # It ends in what pyarrow says.
        message = str(caught.value)
        assert missing(message, [path, "Parquet"]) == []
        assert "\n" not in message

    def test_without_pyarrow_the_extra_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
        with refused(RecipeError, "images.parquet", "pyarrow", "pip install '.[parquet]'"):
            Manifest(tmp_path / "images.parquet").records()
