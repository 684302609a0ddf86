import gzip
import hashlib
import hmac
import logging
import time
from pathlib import Path

import pytest

from cxrignite.data import (
    ClassFolders,
    Film,
    Manifest,
    ManifestColumns,
    ManifestLabels,
    ManifestPatients,
)
from cxrignite.data.splits import read_split, write_split
from cxrignite.errors import DataError, RecipeError

SECRET = "a secret of some length"


@pytest.fixture
def write_manifest(tmp_path):
    """Writes a table, and an empty file for each name that is a path in its first column."""

    def write(text: str, name: str = "films.csv", *, encoding: str = "utf-8") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        for line in text.splitlines()[1:]:
            first = line.replace(";", ",").replace("\t", ",").partition(",")[0].strip('" ')
            if first.endswith(".png") and not first.startswith(("/", "..")) and "\0" not in first:
                film = tmp_path / first.replace("\\", "/")
                film.parent.mkdir(parents=True, exist_ok=True)
                film.touch()
        return path

    return write


@pytest.fixture
def films_of(write_manifest):
    """The films of a table that is written for the purpose."""

    def films(text: str, **settings) -> list[Film]:
        return Manifest(write_manifest(text), **settings).films()

    return films


def labels_of(films):
    return {film.name: film.label for film in films}


PLAIN = "path,label,patient\na.png,NORMAL,1\nb.png,PNEUMONIA,2\n"


def test_films_are_listed_in_the_order_of_the_rows(tmp_path, write_manifest):
    table = write_manifest(
        "path,label,patient,split,view,sex\n"
        "sub/b.png,PNEUMONIA,7,train,PA,\n"
        "a.png,NORMAL,8,test,AP, F\n"
    )
    columns = ManifestColumns(attributes=["view", "sex"])
    assert Manifest(table, columns=columns).films() == [
        Film(f"{tmp_path}/sub/b.png", "sub/b.png", 1, "7", "train", {"view": "PA"}),
        Film(f"{tmp_path}/a.png", "a.png", 0, "8", "test", {"view": "AP", "sex": "F"}),
    ]


def test_the_constructor_reads_nothing():
    source = Manifest("no/such/films.csv", patients=ManifestPatients(salt_file="no/such/salt"))
    assert source.root == Path("no/such")
    assert Manifest("no/such/films.csv", root="films").root == Path("films")


def test_a_relative_manifest_gives_paths_as_they_are_written(write_manifest, monkeypatch):
    table = write_manifest(PLAIN)
    monkeypatch.chdir(table.parent)
    film = Manifest("films.csv").films()[0]
    assert (film.file, film.path) == ("a.png", Path("a.png"))


def test_the_last_class_is_positive_and_names_go_without_case_or_blanks(films_of):
    text = "path,label\na.png, normal \nb.png,Pneumonia\nc.png,0\nd.png,1.0\n"
    assert labels_of(films_of(text)) == {"a.png": 0, "b.png": 1, "c.png": 0, "d.png": 1}
    turned = films_of(text, classes=["PNEUMONIA", "NORMAL"], labels=ManifestLabels(on_other="skip"))
    assert labels_of(turned)["a.png"] == 1


def test_numbers_compare_by_value_and_long_ones_to_the_last_digit(films_of):
    values = {"NORMAL": [0, "12345678901234567891"], "PNEUMONIA": [1.5, "12345678901234567892"]}
    text = (
        "path,label\na.png,0.00\nb.png,1.50\nc.png,12345678901234567891\n"
        "d.png,12345678901234567892\ne.png,-0\nf.png,15e-1\n"
    )
    found = labels_of(films_of(text, labels=ManifestLabels(values)))
    assert list(found.values()) == [0, 1, 0, 1, 0, 1]


def test_words_that_yaml_reads_as_booleans_are_found_as_they_stand(films_of):
    labels = ManifestLabels({"NORMAL": [False], "PNEUMONIA": [True]})
    text = "path,label\na.png,No\nb.png,Yes\nc.png,False\nd.png,TRUE\n"
    assert list(labels_of(films_of(text, labels=labels)).values()) == [0, 1, 0, 1]


def test_a_class_without_values_has_its_own_name(films_of):
    labels = ManifestLabels({"PNEUMONIA": ["p"]})
    assert list(labels_of(films_of("path,label\na.png,normal\nb.png,P\n", labels=labels))) == [
        "a.png",
        "b.png",
    ]
    with pytest.raises(DataError, match=r"line 3: label '0' is of neither class"):
        films_of("path,label\na.png,p\nb.png,0\nc.png,p\nd.png,0\n", labels=labels)


def test_among_several_labels_positive_goes_first_then_uncertain_then_negative(films_of):
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
    assert labels_of(films_of(text, labels=labels)) == {"a.png": 1, "c.png": 0, "f.png": 1}


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
def test_labels_that_are_not_clear_go_by_policy(films_of, policies, expected):
    films = films_of(UNCLEAR, labels=ManifestLabels(uncertain=[-1], **policies))
    assert "".join(str(film.label) for film in films) == expected


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        (
            {"on_missing": "skip", "on_other": "skip"},
            r"films\.csv, line 4: label '-1' is uncertain \(2 rows like it\); "
            r"labels\.on_uncertain may be skip, negative or positive$",
        ),
        (
            {"on_uncertain": "skip", "on_other": "skip"},
            r"line 5: the row has no label \(1 row like it\); labels\.on_missing may be",
        ),
        (
            {"on_uncertain": "skip", "on_missing": "skip"},
            r"line 6: label 'TB' is of neither class, NORMAL or PNEUMONIA \(2 rows like it: 'TB' 2",
        ),
        ({}, r"line 4: label '-1' is uncertain"),
    ],
)
def test_a_policy_that_refuses_counts_the_rows_and_names_the_first(films_of, policies, message):
    with pytest.raises(DataError, match=message):
        films_of(
            f"{UNCLEAR}h.png,0\ni.png,1\nj.png,1\nk.png,0\n",
            labels=ManifestLabels(uncertain=[-1], **policies),
        )


def test_only_rows_with_one_of_the_wanted_values_count(films_of, caplog):
    text = "path,label,view,age\na.png,0,PA,40\nb.png,1,pa ,40.0\nc.png,TB,LL,40\nd.png,1,AP,39\n"
    with caplog.at_level(logging.INFO):
        films = films_of(text, where={"view": ["PA", "AP"], "Age": [40]})
    assert labels_of(films) == {"a.png": 0, "b.png": 1}
    assert "2 of 4 rows left out: 2 by where" in caplog.text


def test_rows_that_differ_in_attributes_alone_cost_no_more_than_others(tmp_path):
    names = [f"{each}.png,{each % 2}" for each in range(15_000)]
    (tmp_path / "0.png").touch()
    table = tmp_path / "films.csv"

    def seconds(second_view: str) -> float:
        rows = [*(f"{name},PA" for name in names), *(f"{name},{second_view}" for name in names)]
        table.write_text("\n".join(["path,label,view", *rows]))
        start = time.process_time()
        films = Manifest(table, columns=ManifestColumns(attributes=["view"])).films()
        assert {film.attributes["view"] for film in films} == {"PA"}
        return time.process_time() - start

    same = seconds("PA")
    assert seconds("AP") < 5 * same + 0.2


def test_all_that_was_decided_is_told_with_counts(films_of, caplog):
    policies = {"on_uncertain": "positive", "on_missing": "skip", "on_other": "skip"}
    labels = ManifestLabels(uncertain=[-1], **policies)
    with caplog.at_level(logging.INFO):
        films_of(UNCLEAR + "a.png,0\n", labels=labels)
    told = [record.getMessage().partition(": ")[2] for record in caplog.records]
    assert told[:3] == [
        "3 of 8 rows left out: 1 without a label, 2 labels of neither class",
        "2 uncertain labels counted as PNEUMONIA",
        "a film is named again in 1 of the rows",
    ]


def test_where_that_fits_no_row_shows_what_the_column_holds(films_of):
    with pytest.raises(DataError, match=r"4 by where\); column 'view' holds 'AP', 'PA'$"):
        films_of("path,label,view\na,0,AP\nb,1,PA\nc,0,AP\nd,1,PA\n", where={"view": ["LL"]})


NAMES = {
    "many": [f"DOE^JANE {year}" for year in range(1970, 1983)] * 2,
    "each once": ["DOE^JANE", "DOE^JOHN"],
    "each once beside gaps": ["DOE^JANE", "DOE^JOHN", *[""] * 9],
    "long": ["DOE^JANE 1970-01-01, seen for a cough of weeks"] * 4,
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_a_column_that_may_hold_names_is_never_shown(films_of, names):
    rows = [f"{each}.png,{each % 2},{name}" for each, name in enumerate(names)]
    text = "\n".join(["path;finding;who", *rows]).replace(", ", "_").replace(",", ";")
    skip = ManifestLabels(on_missing="skip", on_other="skip")
    listed = ManifestLabels(uncertain=["unsure"], separator="^", on_missing="skip")
    for settings, message in [
        ({"label": "who"}, r"line 2: the label is of neither class, NORMAL or PNEUMONIA \(\d+ row"),
        ({"label": "who", "labels": skip}, r"the labels are \d+ values in \d+ rows, not shown"),
        ({"label": "who", "labels": listed}, r"line 2: the label is of neither class"),
        ({"where": {"who": ["PA"]}}, r"column 'who' holds \d+ values in \d+ rows, not shown"),
    ]:
        columns = ManifestColumns(label=settings.pop("label", "finding"))
        with pytest.raises(DataError, match=message) as refused:
            films_of(
                text, columns=columns, **{"labels": ManifestLabels(on_missing="skip")} | settings
            )
        assert "DOE" not in str(refused.value)


def test_an_uncertain_label_among_others_is_not_shown_where_they_may_be_names(films_of):
    labels = ManifestLabels(uncertain=["unsure"], separator=",")
    with pytest.raises(DataError, match="line 2: the label is uncertain") as refused:
        films_of("path;label\na.png;unsure,DOE\nb.png;1\nc.png;0\n", labels=labels)
    assert "DOE" not in str(refused.value)


def test_films_of_one_class_are_refused_with_what_was_found(films_of):
    message = r"films\.csv must have films of both classes, got 0 NORMAL and 2 PNEUMONIA; the lab"
    with pytest.raises(DataError, match=message):
        films_of("path,label\na.png,1\nb.png,PNEUMONIA\n")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("images/{id}.png", "id,label\na,0\nb,1\n"),
        ("{folder}/{id}", "folder,id,label\nimages,a.png,0\nimages, b.png,1\n"),
        ("images/{a {id}.png", None),
        ("images/{}.png", None),
    ],
)
def test_a_path_may_be_made_of_columns(tmp_path, films_of, path, text):
    if text is None:
        with pytest.raises(RecipeError, match=r"columns\.path must be a column or a template"):
            Manifest("films.csv", columns=ManifestColumns(path=path))
        return
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").touch()
    films = films_of(text, columns=ManifestColumns(path=path))
    assert labels_of(films) == {"images/a.png": 0, "images/b.png": 1}


def test_paths_come_out_plain(tmp_path, films_of):
    text = (
        f"path,label\n./a.png,0\nsub\\b.png,1\n{tmp_path}/c.png,0\nsub/../d.png,1\nsub//e.png,0\n"
    )
    names = [film.name for film in films_of(text)]
    assert names == ["a.png", "sub/b.png", "c.png", "d.png", "sub/e.png"]


def test_an_absolute_path_may_go_through_a_link(tmp_path, write_manifest):
    link = tmp_path.with_name(f"{tmp_path.name}-link")
    link.symlink_to(tmp_path)
    table = write_manifest(f"path,label\na.png,0\n{tmp_path}/b.png,1\n{link}/c.png,1\n")
    films = Manifest(link / table.name).films()
    assert [film.name for film in films] == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("../b.png", r"line 3: path must stay inside .*, got '\.\./b\.png'; source\.root names"),
        ("sub/../../b.png", r"line 3: path must stay inside"),
        ("/elsewhere/b.png", r"line 3: path must be inside .*, got '/elsewhere/b\.png'; source"),
        ("C:\\films\\b.png", r"line 3: path must be inside .*, got 'C:"),
        ("C:/films/b.png", r"line 3: path must be inside .*, got 'C:"),
        ("", r"line 3: 'path' is empty, it tells the path"),
        (".", r"line 3: path must be a file's, got '\.'"),
        ("sub/", r"line 3: path must be a file's, got 'sub/'"),
        ("b\0.png", r"line 3: path must be a file's, got 'b"),
    ],
)
def test_a_path_that_is_no_file_of_the_root_is_refused(films_of, cell, message):
    with pytest.raises(DataError, match=message):
        films_of(f"path,label\na.png,0\n{cell},1\n")


def test_films_of_which_none_exists_point_to_the_root(tmp_path, write_manifest):
    rows = "".join(f"absent{number}.png,{number % 2}\n" for number in range(100))
    table = write_manifest("path,label\n")
    table.write_text(f"path,label\n{rows}")
    message = r"none of 25 films tried exists, the first is .*absent0\.png; .* source\.root names"
    with pytest.raises(DataError, match=message):
        Manifest(table).films()
    (tmp_path / "absent40.png").touch()
    assert len(Manifest(table).films()) == 100
    with pytest.raises(DataError, match=r"source\.root must be an existing folder, got .*nowhere"):
        Manifest(table, root=tmp_path / "nowhere").films()


def test_a_film_in_several_rows_counts_once(films_of, caplog):
    text = "path,label,patient,box\na.png,1,7,3\na.png,1,7,4\nb.png,0,8,\n./a.png,1,7,5\n"
    with caplog.at_level(logging.INFO):
        films = films_of(text, columns=ManifestColumns(attributes=["box"]))
    assert [(film.name, film.attributes) for film in films] == [
        ("a.png", {"box": "3"}),
        ("b.png", {}),
    ]
    assert "again in 2 of the rows" in caplog.text


@pytest.mark.parametrize(
    ("again", "what"),
    [("0,7,train", "label"), ("1,8,train", "patient"), ("1,7,test", "split")],
)
def test_a_film_in_two_rows_that_contradict_is_refused(films_of, again, what):
    text = f"path,label,patient,split\nb.png,0,1,train\na.png,1,7,train\n\na.png,{again}\n"
    message = rf"films\.csv, line 5: 'a\.png' has another {what} than in line 3$"
    with pytest.raises(DataError, match=message):
        films_of(text)


def test_splits_have_the_names_that_people_give_them(films_of):
    names = ["train", "Training", "test", "testing", "calibration"]
    rows = "".join(f"{n}.png,{n % 2},{name}\n" for n, name in enumerate(names))
    films = films_of(f"path,label,split\n{rows}")
    assert [film.split for film in films] == ["train", "train", "test", "test", "calibration"]


@pytest.mark.parametrize(("num_val", "split"), [(49, "train"), (50, "val")])
@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev"])
def test_a_validation_split_that_is_too_small_joins_train(films_of, name, num_val, split):
    rows = "".join(f"{n}.png,{n % 2},{name}\n" for n in range(num_val))
    films = films_of(f"path,label,split\n{rows}")
    assert {film.split for film in films} == {split}


@pytest.mark.parametrize("cell", ["holdout", ""])
def test_a_split_of_another_name_is_refused(films_of, cell):
    message = rf"line 3: split must be one of train, val, calibration, test, got '{cell}'"
    with pytest.raises(DataError, match=message):
        films_of(f"path,label,split\na.png,0,train\nb.png,1,{cell}\n")


def test_usual_columns_are_found_in_any_case_and_named_ones_must_be_there(films_of):
    text = "Path,Label,Patient,SPLIT\na.png,0,7,test\nb.png,1,8,test\n"
    assert [(film.patient, film.split) for film in films_of(text)] == [("7", "test"), ("8", "test")]
    for settings, message in (
        (
            {"patient": "patiant"},
            r"no column 'patiant' \(source\.columns\.patient\); did you mean 'P",
        ),
        (
            {"split": "zzz"},
            r"no column 'zzz' \(source\.columns\.split\); there are Path, Label, Pat",
        ),
        ({"label": "lable"}, r"no column 'lable' .* did you mean 'Label'"),
        ({"path": "{pth}.png"}, r"no column 'pth' .* did you mean 'Path'"),
        ({"attributes": ["view"]}, r"no column 'view' \(source\.columns\.attributes\)"),
    ):
        with pytest.raises(DataError, match=message):
            films_of(text, columns=ManifestColumns(**settings))
    with pytest.raises(DataError, match=r"no column 'view' \(source\.where\)"):
        films_of(text, where={"view": ["PA"]})


def test_a_column_that_stands_twice_is_refused(films_of):
    with pytest.raises(DataError, match="must have one column 'label', got several"):
        films_of("path,label,label\na.png,0,1\nb.png,1,1\n")


def test_films_without_a_patient_are_told(films_of, caplog):
    films = films_of("path,label\na.png,0\nb.png,1\n")
    assert [film.patient for film in films] == ["a.png", "b.png"]
    assert "2 of 2 films name no patient: each counts as a patient of its own" in caplog.text
    caplog.clear()
    films = films_of("path,label,patient\na.png,0, 7\nb.png,1,\n")
    assert [film.patient for film in films] == ["7", "b.png"]
    assert "1 of 2 films name no patient" in caplog.text
    caplog.clear()
    films_of(PLAIN)
    assert caplog.text == ""


def test_whole_numbers_are_one_patient_however_they_are_written(films_of):
    cells = ["12", "12.0", "12.00 ", "012", "12.5", "0.0", "0", "012.0"]
    rows = [f"{each}.png,{each % 2},{cell}" for each, cell in enumerate(cells)]
    films = films_of("\n".join(["path,label,patient", *rows]))
    assert [film.patient for film in films] == [
        *("12", "12", "12", "012", "12.5", "0", "0", "012.0")
    ]


@pytest.mark.parametrize("salted", [False, True])
def test_words_for_a_gap_are_no_patient(tmp_path, films_of, caplog, salted):
    (tmp_path / "salt").write_text(SECRET)
    cells = ["NaN", "nan", "N/A", "null", "none", " - ", "<NA>", "Nancy"]
    rows = [f"{each}.png,{each % 2},{cell}" for each, cell in enumerate(cells)]
    patients = ManifestPatients(salt_file=tmp_path / "salt" if salted else None)
    *gaps, named = films_of("\n".join(["path,label,patient", *rows]), patients=patients)
    assert [film.patient for film in gaps] == [film.name for film in gaps]
    assert (named.patient == "Nancy") is not salted
    assert "7 of 8 films name no patient" in caplog.text


def test_a_pattern_reads_the_patient_from_the_whole_path(films_of, caplog):
    text = "path,label,patient\np12/1.png,0,x\np12/2.png,1,x\nq/3.png,1,x\n"
    films = films_of(text, patients=ManifestPatients(pattern=r"p(\d+)/"))
    assert [film.patient for film in films] == ["12", "12", "q/3.png"]
    assert "1 of 3 films name no patient" in caplog.text


def test_a_named_pattern_reads_the_file_name(films_of):
    text = "path,label\ntrain/person12_virus_4.png,1\ntrain/IM-0001-0001.png,0\n"
    films = films_of(text, patients=ManifestPatients(pattern="chest-xray-2017"))
    assert [film.patient for film in films] == ["person12_virus", "IM-0001"]


def test_a_salt_replaces_every_number_of_a_patient(tmp_path, write_manifest, caplog):
    salt = tmp_path / "salt.txt"
    salt.write_text(f"{SECRET}\n")
    table = write_manifest(
        "path,label,patient\na.png,0,MRN-70013388\nb.png,1,MRN-70019425\n./a.png,0,MRN-70013388 \n"
    )
    source = Manifest(table, patients=ManifestPatients(salt_file=salt))
    with caplog.at_level(logging.DEBUG):
        films = source.films()
    expected = hmac.new(SECRET.encode(), b"MRN-70013388", hashlib.sha256).hexdigest()[:16]
    assert films[0].patient == expected
    assert len({film.patient for film in films}) == 2
    write_split(films, tmp_path / "split.csv")
    assert "700" not in (tmp_path / "split.csv").read_text() + caplog.text
    table.write_text("path,label,patient\na.png,0,MRN-70013388\na.png,0,MRN-70019425\n")
    with pytest.raises(DataError, match="another patient") as refused:
        source.films()
    assert "700" not in str(refused.value)


def test_the_patient_of_another_table_gets_the_key_that_films_have(tmp_path, write_manifest):
    salt = tmp_path / "salt.txt"
    salt.write_text(SECRET)
    for patients in (ManifestPatients(salt_file=salt), ManifestPatients()):
        source = Manifest(write_manifest(PLAIN), patients=patients)
        keys = [film.patient for film in source.films()]
        assert [source.patient_key(" 1"), source.patient_key("2")] == keys
        assert source.patient_key(" ") == ""
    assert keys == ["1", "2"]
    assert ClassFolders(tmp_path).patient_key("1") == "1"


def test_a_salt_has_to_be_a_secret_of_some_length(tmp_path, write_manifest):
    table, salt = write_manifest(PLAIN), tmp_path / "salt.txt"
    patients = ManifestPatients(salt_file=salt)
    with pytest.raises(RecipeError, match=r"cannot read patients\.salt_file .*No such file"):
        Manifest(table, patients=patients).films()
    salt.write_text("  fifteen letters\n\n")
    with pytest.raises(RecipeError, match=r"hold at least 16 characters, got 15 in .*salt\.txt"):
        Manifest(table, patients=patients).films()


@pytest.fixture
def write_dicom():
    """Writes a header with a PatientID and nothing of an image."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    def write(path: Path, patient: str) -> None:
        film = Dataset()
        film.SOPClassUID, film.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
        film.PatientID = patient
        film.file_meta = FileMetaDataset()
        film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        film.save_as(path, enforce_file_format=True)

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
    first, second, third, *others = (film.patient for film in source.films())
    assert first == second != third
    assert first == hmac.new(SECRET.encode(), b"70013388", hashlib.sha256).hexdigest()[:16]
    assert others == ["d.dcm", "e.dcm", "f.dcm"]
    assert "3 of 6 films name no patient" in caplog.text
    assert source.patient_of(tmp_path / "c.dcm") == third
    assert source.patient_of(tmp_path / "e.dcm") == source.patient_of(tmp_path / "d.dcm") == ""


def test_a_source_tells_the_patient_of_a_film_that_is_not_its_own(tmp_path):
    name = tmp_path / "new" / "person7_virus_1.png"
    assert ClassFolders(tmp_path).patient_of(name) == "person7_virus"
    assert ClassFolders(tmp_path).patient_of(tmp_path / "scan.png") == ""
    assert Manifest(tmp_path / "films.csv").patient_of(name) == ""
    by_folder = ManifestPatients(pattern=r"(?:^|/)patients/(\w+)/")
    inside = Manifest(tmp_path / "films.csv", patients=by_folder)
    assert inside.patient_of(tmp_path / "patients/p1/1.png") == "p1"
    assert inside.patient_of(Path("elsewhere/patients/p2/1.png")) == "p2"
    assert inside.patient_of(tmp_path / "p1/1.png") == ""
    anchored = ManifestPatients(pattern=r"^p\d+")  # the root is not part of the path
    assert Manifest(tmp_path / "films.csv", patients=anchored).patient_of(tmp_path / "p1/1") == "p1"


def test_the_patient_of_a_new_film_is_the_same_however_its_path_is_written(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "sub")
    monkeypatch.chdir(tmp_path)
    film = "p1/x.png"
    written = [f"sub/{film}", f"./sub/../sub/{film}", tmp_path / "sub" / film]
    for root in ("sub", tmp_path / "sub", "link", "./sub/../sub"):
        source = Manifest("films.csv", root=root, patients=ManifestPatients(pattern=r"^p\d+"))
        assert {source.patient_of(Path(path)) for path in written} == {"p1"}


@pytest.mark.parametrize(("pattern", "key"), [(r"site\d+", ""), (r"^p\d+", ""), (r"p\d+", "p7")])
def test_a_folder_above_the_root_is_not_the_patient_of_a_new_film(tmp_path, pattern, key):
    table = tmp_path / "site1/train/films.csv"
    source = Manifest(table, patients=ManifestPatients(pattern=pattern))
    assert source.patient_of(tmp_path / "site1/p7/x.png") == key


def test_the_salt_is_read_once_and_its_absence_told_at_the_first_new_film(tmp_path):
    salt = tmp_path / "salt"
    patients = ManifestPatients(pattern=r"p\d+", salt_file=salt)
    source = Manifest(tmp_path / "films.csv", patients=patients)
    with pytest.raises(RecipeError, match=r"cannot read patients\.salt_file"):
        source.patient_of(tmp_path / "scan.png")
    salt.write_text(SECRET)
    first = source.patient_of(tmp_path / "p1/x.png")
    salt.unlink()
    assert source.patient_of(tmp_path / "p1/y.png") == first != ""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ManifestPatients(from_header=True), "from_header must have a salt_file"),
        (
            lambda: ManifestPatients(pattern="a", from_header=True, salt_file="s"),
            "pattern and from_header both tell the patient",
        ),
        (lambda: ManifestPatients(pattern="(a"), r"pattern must be one of .* got '\(a'"),
        (
            lambda: Manifest(
                "f.csv",
                columns=ManifestColumns(patient="p"),
                patients=ManifestPatients(pattern="a"),
            ),
            r"columns\.patient and patients both tell the patient",
        ),
        (lambda: Manifest("f.csv", classes=["A"]), "classes must be two different names"),
        (
            lambda: Manifest("f.csv", labels=ManifestLabels({"PNEUMONA": ["p"]})),
            r"labels\.values: no class 'PNEUMONA'; did you mean 'PNEUMONIA'\?",
        ),
        (
            lambda: Manifest("f.csv", labels=ManifestLabels({"NORMAL": [1], "PNEUMONIA": ["1.0"]})),
            r"labels\.values\.PNEUMONIA must be labels of their own, got '1\.0' twice",
        ),
        (
            lambda: Manifest("f.csv", labels=ManifestLabels(uncertain=[1])),
            r"labels\.uncertain must be labels of their own, got 1 twice",
        ),
        (
            lambda: Manifest("f.csv", labels=ManifestLabels(separator="")),
            r"labels\.separator must be",
        ),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused_before_anything_is_read(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tables_are_read_as_spreadsheets_write_them(
    films_of, tmp_path, delimiter, newline, encoding
):
    lines = ["path,label,patient", 'ä.png,NORMAL,"7"', "b.png,PNEUMONIA,8", "", ",,"]
    text = newline.join(lines).replace(",", delimiter)
    path = tmp_path / "films.csv"
    path.write_bytes(text.encode(encoding))
    (tmp_path / "ä.png").touch()
    films = Manifest(path).films()
    assert [(film.name, film.patient) for film in films] == [("ä.png", "7"), ("b.png", "8")]


def test_quotes_keep_commas_and_line_breaks_and_lines_are_counted_right(films_of, tmp_path):
    text = 'path,label,note\n"a,1.png",0,"two\nlines, with ""quotes"""\nb.png,1,\nc.png,TB,\n'
    with pytest.raises(DataError, match=r"films\.csv, line 5: the label"):
        films_of(text)
    (tmp_path / "a,1.png").touch()
    films = films_of(text, labels=ManifestLabels(on_other="skip"))
    assert [film.name for film in films] == ["a,1.png", "b.png"]


def test_a_compressed_table_is_unpacked(write_manifest):
    plain = write_manifest(PLAIN)
    packed = plain.with_suffix(".csv.gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert Manifest(packed).films() == Manifest(plain).films()
    packed.write_bytes(packed.read_bytes()[:-12])
    with pytest.raises(DataError, match=r"cannot read the manifest .*films\.csv\.gz: "):
        Manifest(packed).films()
    packed.write_bytes(b"not packed")
    with pytest.raises(DataError, match=r"cannot read the manifest .*films\.csv\.gz: "):
        Manifest(packed).films()


def test_cells_beyond_the_header_may_be_blank(films_of):
    assert len(films_of("path,label\na.png,0,\nb.png,1, \n")) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"films\.csv must have a header line and a row a film, it is empty"),
        ("\n\n", r"films\.csv must have a header line and a row a film, it is empty"),
        ("path,label\n", r"films\.csv must have a row a film, it has only a header"),
        ("path,label\n\n,\n", r"films\.csv must have a row a film, it has only a header"),
        ("path,label,x\na.png,0,1\nb.png,1\n", r"line 3: the row must have 3 cells .* got 2"),
        ("path,label\na.png,0\nb.png,1,more\n", r"line 3: the row must have 2 cells .* got 3"),
        ('path,label\na.png,0\n"b.png,1\n', r"films\.csv, line 3: a manifest must be CSV, got"),
        ('path,label\na.png,0\n"b".png,1\n', r"films\.csv, line 3: a manifest must be CSV, got"),
    ],
)
def test_a_table_that_cannot_be_read_names_the_line(films_of, text, message):
    with pytest.raises(DataError, match=message) as refused:
        films_of(text)
    assert "\n" not in str(refused.value)


def test_a_table_that_is_not_utf_8_says_so_and_where(write_manifest):
    table = write_manifest("path,label\na.png,0\nbä.png,1\n", encoding="latin-1")
    message = r"films\.csv, line 3: a manifest must be UTF-8 text; save it as 'CSV UTF-8'"
    with pytest.raises(DataError, match=message):
        Manifest(table).films()
    table = write_manifest(PLAIN, encoding="utf-16")
    with pytest.raises(DataError, match=r"films\.csv, line 1: a manifest must be UTF-8 text"):
        Manifest(table).films()


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the manifest .*films\.csv: No such file"):
        Manifest(tmp_path / "films.csv").films()
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"cannot read the manifest .*folder\.csv: Is a directory"):
        Manifest(tmp_path / "folder.csv").films()


def test_a_split_of_a_manifest_reads_back(tmp_path, films_of):
    text = "path,label,patient,split,view\na.png,0,7,train,PA\nsub/b.png,1,8,test,\n"
    films = films_of(text, columns=ManifestColumns(attributes=["view"]))
    write_split(films, tmp_path / "split.csv")
    assert read_split(tmp_path / "split.csv", tmp_path) == films


class TestParquet:
    @pytest.fixture
    def write_parquet(self, tmp_path):
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")

        def write(**columns) -> Path:
            for name in columns["path"]:
                if name:
                    (tmp_path / name).touch()
            parquet.write_table(pyarrow.table(columns), tmp_path / "films.parquet")
            return tmp_path / "films.parquet"

        return write

    def test_it_gives_the_films_that_csv_gives(self, write_parquet, write_manifest):
        settings = {
            "labels": ManifestLabels(uncertain=[-1], on_uncertain="skip", on_missing="skip"),
            "columns": ManifestColumns(attributes=["age"]),
        }
        text = "path,label,patient,age\na.png,0,7,40\nb.png,1,,41.5\nc.png,-1,8,\nd.png,,9,4\n"
        packed = write_parquet(
            path=["a.png", "b.png", "c.png", "d.png"],
            label=[0.0, 1.0, -1.0, None],
            patient=[7.0, float("nan"), 8.0, 9.0],
            age=[40, 41.5, None, 4],
        )
        expected = Manifest(write_manifest(text), **settings).films()
        assert Manifest(packed, **settings).films() == expected
        assert [film.patient for film in expected] == ["7", "b.png"]

    def test_booleans_and_lists_are_labels_too(self, write_parquet):
        table = write_parquet(path=["a.png", "b.png"], label=[False, True])
        labels = ManifestLabels({"NORMAL": [False], "PNEUMONIA": [True]})
        assert [film.label for film in Manifest(table, labels=labels).films()] == [0, 1]
        table = write_parquet(path=["a.png", "b.png"], label=[["normal"], ["scar", "pneumonia"]])
        films = Manifest(table, labels=ManifestLabels(separator=",")).films()
        assert [film.label for film in films] == [0, 1]

    def test_an_error_names_the_row(self, write_parquet):
        table = write_parquet(path=["a.png", "b.png", ""], label=[0, 1, 1])
        with pytest.raises(DataError, match=r"films\.parquet, row 3: 'path' is empty"):
            Manifest(table).films()

    def test_a_file_that_is_something_else_is_refused_in_one_line(self, tmp_path):
        pytest.importorskip("pyarrow")
        path = tmp_path / "films.pq"
        with pytest.raises(DataError, match=r"cannot read the manifest .*films\.pq: No such file"):
            Manifest(path).films()
        path.write_bytes(b"path,label\n" * 10)
        with pytest.raises(DataError, match=r"films\.pq must be a Parquet file, got") as refused:
            Manifest(path).films()
        assert "\n" not in str(refused.value)

    def test_without_pyarrow_the_extra_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
        message = (
            r"films\.parquet: Parquet needs pyarrow: in a checkout, pip install '\.\[parquet\]'"
        )
        with pytest.raises(RecipeError, match=message):
            Manifest(tmp_path / "films.parquet").films()
