"""Manifests of several findings: their own columns, names in one column, several rows an image."""

import logging

import pytest
from messages import line_with, refused

from cxrignite.data import Manifest, ManifestColumns, ManifestLabels
from cxrignite.errors import DataError, RecipeError
from cxrignite.output_marker import OUTPUT_MARKER

CLASSES = ["No Finding", "Effusion", "Mass"]
OWN = ManifestColumns(label=None)


@pytest.fixture
def source_of(tmp_path):
    """A manifest of a table that is written for the purpose; the images of `files` exist."""

    def source(text: str, files=("a.png", "b.png"), classes=CLASSES, **settings) -> Manifest:
        for name in files:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "images.csv").write_text(text)
        return Manifest(tmp_path / "images.csv", classes=classes, **settings)

    return source


@pytest.fixture
def labels_of(source_of):
    """The labels by image of such a manifest."""

    def labels(text: str, **settings):
        records = source_of(text, **settings).records()
        return {record.name.removesuffix(".png"): record.label for record in records}

    return labels


# One column of names.

NAMES = (
    "path,label\na.png,No Finding\nb.png,Effusion\nc.png,Mass|effusion\nd.png,Mass\ne.png,Hernia\n"
)


def test_names_joined_by_a_separator_are_findings_and_all_others_are_absent(labels_of):
    labels = ManifestLabels(separator="|", on_other="negative")
    assert labels_of(NAMES, labels=labels) == {
        "a": (0, 0),
        "b": (1, 0),
        "c": (1, 1),
        "d": (0, 1),
        "e": (0, 0),
    }


def test_a_list_as_python_prints_it_is_read(labels_of):
    text = (
        "path;label\na.png;['normal', 'unchanged']\nb.png;['mass', 'pleural effusion']\n"
        "c.png;['exclude']\nd.png;['mass', 'exclude']\ne.png;[]\nf.png;['Normal']\n"
    )
    labels = ManifestLabels(
        {"No Finding": ["normal"], "Effusion": ["effusion", "pleural effusion"]},
        separator=",",
        uncertain=["exclude"],
        on_uncertain="unknown",
        on_missing="skip",
        on_other="skip",
    )
    assert labels_of(text, labels=labels) == {
        "a": (0, 0),
        "b": (1, 1),
        "d": (-1, 1),
        "f": (0, 0),
    }


def test_equal_labels_of_several_findings_are_one_object(source_of):
    text = "path,label\na.png,Mass|X\nb.png,Mass\nc.png,Effusion\nd.png,X|Mass\n"
    labels = ManifestLabels(separator="|")
    records = source_of(text, labels=labels).records()
    assert len({id(record.label) for record in records if record.label == (0, 1)}) == 1
    assert records[0].labels == (0, 1)


def test_a_name_that_no_class_has_is_refused_with_the_one_that_was_meant(source_of):
    classes = ["No Finding", "Efusion", "Mass"]
    labels = ManifestLabels(separator="|")
    with refused(
        DataError, "images.csv", "line 3", "'Efusion'", "'Effusion'", 2, "labels.on_other"
    ):
        source_of(NAMES, classes=classes, labels=labels).records()
    labels = ManifestLabels(separator="|", on_other="negative")
    with refused(DataError, "images.csv", 0, "'Efusion'", "'Effusion'", 1):
        source_of(NAMES, classes=classes, labels=labels).records()
    with refused(DataError, "images.csv", "line 6", 1, "classes", "labels.on_other"):
        source_of(NAMES, labels=ManifestLabels(separator="|")).records()


def test_an_unlisted_label_is_not_shown_if_it_may_be_a_name(source_of):
    text = "path,label\na.png,DOE JANE\nb.png,DOE JOHN\nc.png,Mass\n"
    for policy in ("raise", "negative", "skip"):
        with refused(DataError, "images.csv") as caught:
            source_of(text, labels=ManifestLabels(on_other=policy)).records()
        assert "DOE" not in str(caught.value)


# One column for each finding.

COLUMNS = (
    "path,No Finding,Mass,Effusion\n"
    "a.png,1.0,,\nb.png,,1.0,0.0\nc.png,,-1.0,1.0\nd.png,,0,-1\ne.png,,1,1\nf.png,,,-1\n"
)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (
            {"on_uncertain": "unknown", "on_missing": "negative"},
            {"a": (0, 0), "b": (0, 1), "c": (1, -1), "d": (-1, 0), "e": (1, 1), "f": (-1, 0)},
        ),
        (
            {"on_uncertain": "positive", "on_missing": "unknown"},
            {"b": (0, 1), "c": (1, 1), "d": (1, 0), "e": (1, 1), "f": (1, -1)},
        ),
        (
            {"on_uncertain": "skip", "on_missing": "negative"},
            {"a": (0, 0), "b": (0, 1), "e": (1, 1)},
        ),
        (
            {
                "on_uncertain": "negative",
                "on_missing": "unknown",
                "per_finding": {
                    "Effusion": {"on_uncertain": "positive"},
                    "Mass": {"on_missing": "negative"},
                },
            },
            {"a": (-1, 0), "b": (0, 1), "c": (1, 0), "d": (1, 0), "e": (1, 1), "f": (1, 0)},
        ),
    ],
)
def test_each_finding_may_have_its_own_column_and_policies(labels_of, labels, expected):
    assert labels_of(COLUMNS, columns=OWN, labels=ManifestLabels(**labels)) == expected


def test_counts_of_unclear_labels_are_one_line_for_each_kind(source_of, caplog):
    labels = ManifestLabels(
        on_uncertain="unknown",
        on_missing="unknown",
        per_finding={"Effusion": {"on_uncertain": "positive"}},
    )
    with caplog.at_level(logging.INFO, "cxrignite.data.manifest_selection"):
        source_of(COLUMNS, columns=OWN, labels=labels).records()
    found = [each.getMessage() for each in caplog.records if "selection" in each.name]
    assert len(found) == 3
    line_with(found[0], "images.csv", 1, 6)
    line_with(found[1], 3, "Effusion 2 as positive", "Mass 1 as unknown")
    line_with(found[2], 1, "Mass 1 as unknown")


def test_columns_of_other_names_and_cells_of_other_words_are_named_in_the_recipe(labels_of):
    text = "path,eff,mass\na.png,Y,N\nb.png,n,y\nc.png,?,y\n"
    labels = ManifestLabels(
        {"positive": ["y"], "negative": ["n"]}, uncertain=["?"], on_uncertain="unknown"
    )
    columns = ManifestColumns(findings={"Effusion": "eff"})
    expected = {"a": (1, 0), "b": (0, 1), "c": (-1, 1)}
    assert labels_of(text, columns=columns, labels=labels) == expected
    text = "path,effusion,mass\na.png,True,no\nb.png,False,yes\n"
    assert labels_of(text, columns=OWN) == {"a": (1, 0), "b": (0, 1)}


def test_one_finding_in_its_own_column_stays_a_number(labels_of):
    settings = {"classes": ["NO_MASS", "Mass"], "columns": OWN}
    labels = ManifestLabels(on_uncertain="unknown", on_missing="negative")
    found = labels_of(COLUMNS, labels=labels, **settings)
    assert found == {"a": 0, "b": 1, "d": 0, "e": 1, "f": 0}


@pytest.mark.parametrize(
    ("labels", "facts"),
    [
        ({}, ["line 2", "'Effusion'", 1, "labels.on_missing", "unknown"]),
        (
            {"on_missing": "negative"},
            ["line 4", "'-1.0'", "'Mass'", 1, "labels.on_uncertain", "unknown", "positive"],
        ),
        (
            {"on_missing": "negative", "uncertain": ["?"]},
            ["line 4", "'Mass'", 1, "labels.values", "labels.uncertain", "labels.on_other"],
        ),
        (
            {"on_missing": "negative", "per_finding": {"Mass": {"on_uncertain": "skip"}}},
            ["line 5", "'-1'", "'Effusion'", 2, "labels.on_uncertain"],
        ),
    ],
)
def test_an_unclear_label_is_refused_with_its_finding_and_number(source_of, labels, facts):
    with refused(DataError, "images.csv", *facts):
        source_of(COLUMNS, columns=OWN, labels=ManifestLabels(**labels)).records()


def test_a_column_that_is_missing_is_named_with_the_nearest(source_of):
    with refused(DataError, "images.csv", "'Efusion'", "source.classes", "'Effusion'"):
        source_of(COLUMNS, classes=["No Finding", "Efusion", "Mass"], columns=OWN).records()
    columns = ManifestColumns(findings={"Effusion": "Efusion"})
    with refused(DataError, "'Efusion'", "source.columns.findings.Effusion", "'Effusion'"):
        source_of(COLUMNS, columns=columns).records()


LABELS = ManifestLabels(on_uncertain="unknown", on_missing="unknown")


@pytest.mark.parametrize(
    ("rows", "facts"),
    [
        (["0,1", "0,0", "-1,1"], [0, "3", "'Effusion'"]),
        (["1,1", "1,0", ",1"], [0, "3", "'Effusion'"]),
        (["-1,", ",", ",-1"], ["3 of 3"]),
    ],
)
def test_a_finding_needs_images_with_and_without_it(source_of, rows, facts):
    rows = [f"{name}.png,{row}" for name, row in zip("abc", rows, strict=True)]
    text = "\n".join(["path,Effusion,Mass", *rows])
    with refused(DataError, "images.csv", *facts):
        source_of(text, columns=OWN, labels=LABELS).records()


@pytest.mark.parametrize(
    ("text", "settings", "expected", "absent"),
    [
        (
            "path,Mass,Hernia\na.png,1,1\nb.png,0,1\n",
            {"columns": OWN},
            [(-1, 1), (-1, 0)],
            "Effusion",
        ),
        (
            "path,Mass,Effusion\na.png,1,\nb.png,0,-1\n",
            {"columns": OWN, "labels": LABELS},
            [(-1, 1), (-1, 0)],
            "Effusion",
        ),
        (
            "path,label\na.png,Effusion\nb.png,No Finding\n",
            {"labels": ManifestLabels(separator="|")},
            [(1, -1), (0, -1)],
            "Mass",
        ),
        # Known to be in no image.
        ("path,Mass,Effusion\na.png,1,0\nb.png,1,0\n", {"columns": OWN}, [(0, 1), (0, 1)], None),
    ],
)
def test_a_site_may_lack_a_finding_which_is_unknown_then(
    source_of, caplog, text, settings, expected, absent
):
    source = source_of(text, **settings)
    with caplog.at_level(logging.INFO, "cxrignite.data.manifest_selection"):
        records = source.site_records()
    assert [record.label for record in records] == expected
    found = [message for message in caplog.messages if "no labels" in message]
    assert len(found) == (absent is not None)
    if absent:
        line_with(found[0], "images.csv", absent)
    with pytest.raises(DataError):
        source.records()


@pytest.mark.parametrize(
    ("text", "settings", "facts"),
    [
        ("path,Mass,Efusion\na.png,1,1\n", {"columns": OWN}, ["'Effusion'", "'Efusion'"]),
        ("path,x\na.png,1\n", {"columns": OWN}, ["'Effusion'", "source.classes"]),
        ("path,label\na.png,No Finding\n", {}, [0, 1, "'Effusion'"]),
        (
            "path,label\na.png,Mass\nb.png,Efusion\n",
            {"labels": ManifestLabels(on_other="negative")},
            [0, 2, "'Effusion'", "'Efusion'"],
        ),
        (
            "path,label\na.png,Mass\nb.png,Hernia\nc.png,Hernia\nd.png,Mass\n",
            {},
            ["line 3", "'Hernia'", "run", "labels.values", "labels.on_other"],
        ),
    ],
)
def test_a_table_that_does_not_fit_the_run_is_refused_at_a_site(source_of, text, settings, facts):
    with refused(DataError, "images.csv", *facts):
        source_of(text, **settings).site_records()


# Several rows an image.

BOXES = (
    "image_id,class_name,x\na,Mass,1\na,Effusion,2\nb,No Finding,\nb,No Finding,\nc,Nodule,4\n"
    "c,Effusion,3\nd,Nodule,7\n"
)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (CLASSES, {"a": (1, 1), "b": (0, 0), "c": (1, 0), "d": (0, 0)}),
        (["OTHER", "Mass"], {"a": 1, "b": 0, "c": 0, "d": 0}),
        (["OTHER", "Effusion"], {"a": 1, "b": 0, "c": 1, "d": 0}),
    ],
)
def test_a_row_may_name_one_of_the_findings_of_its_image(labels_of, classes, expected):
    columns = ManifestColumns(path="{image_id}.png", label="class_name")
    labels = ManifestLabels(on_other="negative", rows="any_positive")
    assert labels_of(BOXES, classes=classes, columns=columns, labels=labels) == expected
    with refused(DataError, "images.csv", "label", "'a.png'", "labels.rows", "any_positive"):
        labels_of(
            BOXES, classes=classes, columns=columns, labels=ManifestLabels(on_other="negative")
        )


def test_of_several_readers_of_one_image_a_positive_one_decides(labels_of):
    text = "path,reader,Effusion,Mass\na.png,1,0,-1\na.png,2,1,-1\nb.png,1,-1,1\nb.png,2,0,0\n"
    labels = ManifestLabels(on_uncertain="unknown", rows="any_positive")
    text += "c.png,1,0,0\n"
    found = labels_of(text, columns=OWN, labels=labels)
    assert found == {"a": (1, -1), "b": (0, 1), "c": (0, 0)}


def test_rows_of_an_image_still_need_one_patient_and_one_split(source_of):
    text = "path,label,patient\na.png,Mass,1\nb.png,Effusion,2\na.png,Mass,3\n"
    with refused(DataError, "line 4", "patient", "'a.png'", "line 2"):
        source_of(text, labels=ManifestLabels(rows="any_positive")).records()


# Exclusive classes.

KINDS = ["NORMAL", "BACTERIAL", "VIRAL"]


def test_exclusive_classes_are_names_in_one_column(source_of):
    text = "path,label\na.png,normal\nb.png,B\nc.png,VIRAL\nd.png,\ne.png,B\n"
    labels = ManifestLabels({"BACTERIAL": ["B"]}, on_missing="unknown")
    source = source_of(text, classes=KINDS, labels=labels, exclusive=True)
    assert source.exclusive
    assert source.classes == tuple(KINDS)
    labels = [record.label for record in source.records()]
    assert labels == [(0, 0), (1, 0), (0, 1), (1, 0)]


def test_each_exclusive_class_needs_an_image(source_of):
    for absent, rows in (("NORMAL", "BV"), ("VIRAL", "NB"), ("BACTERIAL", "NV")):
        names = {"N": "NORMAL", "B": "BACTERIAL", "V": "VIRAL"}
        rows = [f"{row}.png,{names[row]}" for row in rows]
        with refused(DataError, "images.csv", 0, 2, f"'{absent}'"):
            source_of("\n".join(["path,label", *rows]), classes=KINDS, exclusive=True).records()


def test_numbers_of_three_classes_must_be_listed(source_of):
    text = "path,label\na.png,0\nb.png,1\nc.png,2\nd.png,0\ne.png,1\nf.png,2\n"
    with refused(DataError, "line 2", "'0'", 6):
        source_of(text, classes=KINDS, exclusive=True).records()
    labels = ManifestLabels({name: [number] for number, name in enumerate(KINDS)})
    records = source_of(text, classes=KINDS, exclusive=True, labels=labels).records()
    assert [record.label for record in records[:3]] == [(0, 0), (1, 0), (0, 1)]


# Abnormal against normal.


def test_all_that_is_not_normal_may_be_positive_without_a_list(labels_of, caplog):
    text = "path,label\na.png,No Finding\nb.png,Hernia|Mass\nc.png,Edema\nd.png,No Finding|Scar\n"
    labels = ManifestLabels({"NORMAL": ["No Finding"]}, separator="|", on_other="positive")
    with caplog.at_level(logging.INFO):
        found = labels_of(text, classes=["NORMAL", "ABNORMAL"], labels=labels)
    assert found == {"a": 0, "b": 1, "c": 1, "d": 1}
    line_with(caplog.messages[0], 3, "ABNORMAL")


# Files below the root, and paths of parts of columns.


def test_a_file_is_searched_below_the_root(source_of, caplog):
    files = ["images_001/images/a.png", "images_002/images/b.png", "images_002/a/c.png"]
    text = "name,label\na.png,No Finding\nb.png,Mass\nc.png,Effusion\nd.png,Mass\n"
    columns = ManifestColumns(path="**/{name}")
    records = source_of(text, files, columns=columns).records()
    assert [record.name for record in records] == [*files, "d.png"]
    assert records[1].path.is_file()
    line_with(caplog.messages[0], "images.csv", 1, 4)


def test_a_name_of_two_files_is_refused_if_the_table_uses_it(source_of):
    files = ["x/1/a.png", "y/1/a.png", "x/b.png", "y/b.png", "c.png"]
    text = "name,label\nc.png,No Finding\nb.png,Mass\nc.png,No Finding\nd.png,Effusion\n"
    with refused(DataError, "line 3", "'b.png'", 2, "'x/b.png'", "'y/b.png'", "columns.path"):
        source_of(text, files, columns=ManifestColumns(path="**/{name}")).records()
    columns = ManifestColumns(path="**/x/{name}")
    names = [record.name for record in source_of(text, files, columns=columns).records()]
    assert names == ["x/c.png", "x/b.png", "x/d.png"]


def test_the_first_characters_of_a_column_may_be_a_folder(source_of):
    text = "subject_id,dicom_id,label\n10000032,ab,Mass\n11,c,Effusion\n12,d,No Finding\n"
    path = "files/p{subject_id:.2}/p{subject_id}/{dicom_id}.jpg"
    files = ["files/p10/p10000032/ab.jpg"]
    records = source_of(text, files, columns=ManifestColumns(path=path)).records()
    assert [record.name for record in records][:2] == [*files, "files/p11/p11/c.jpg"]


def test_a_search_skips_output_folders_and_hidden_ones_and_follows_links(tmp_path, source_of):
    files = ["x/a.png", ".trash/a.png", "run/pictures/a.png", "c.png"]
    labels = ManifestLabels(separator="|", on_other="negative")
    columns = ManifestColumns(path="**/{path}")
    source = source_of(NAMES, files, columns=columns, labels=labels)
    (tmp_path / "run" / OUTPUT_MARKER).touch()
    (tmp_path / "x" / "loop").symlink_to(tmp_path)
    elsewhere = tmp_path.with_name(f"{tmp_path.name}-elsewhere")
    elsewhere.mkdir()
    (elsewhere / "b.png").touch()
    (tmp_path / "linked").symlink_to(elsewhere)
    names = [record.name for record in source.records()]
    assert names[:3] == ["x/a.png", "linked/b.png", "c.png"]


# Split lists.


def test_lists_of_names_give_the_split(tmp_path, source_of):
    (tmp_path / "test.txt").write_text("\ufeffc.png\nsub\\d.png \n\n", encoding="utf-8")
    (tmp_path / "train.txt").write_text("a.png\nb.png\nz.png\n")
    text = (
        "path,split,label\na.png,x,Mass\nsub/b.png,x,Effusion\nc.png,,Mass\nsub/d.png,,No Finding\n"
    )
    lists = {"test": tmp_path / "test.txt"}
    splits = [record.split for record in source_of(text, split_lists=lists).records()]
    assert splits == ["train", "train", "test", "test"]
    lists["train"] = tmp_path / "train.txt"
    splits = [record.split for record in source_of(text, split_lists=lists).records()]
    assert splits == ["train", "train", "test", "test"]


def test_lists_that_do_not_fit_the_table_are_refused(tmp_path, source_of):
    test, train = tmp_path / "test.txt", tmp_path / "train.txt"
    text = "path,label\na.png,Mass\nb.png,Effusion\nc.png,No Finding\n"
    with refused(DataError, test):
        source_of(text, split_lists={"test": test}).records()
    test.write_text("c.png\n")
    train.write_text("a.png\n")
    with refused(DataError, 1, 3, "'b.png'", "split_lists.train"):
        source_of(text, split_lists={"test": test, "train": train}).records()
    train.write_text("c.png\n")
    with refused(DataError, "'c.png'", "split_lists.test", "split_lists.train"):
        source_of(text, split_lists={"test": test, "train": train}).records()
    test.write_text("x.png\n")
    with refused(DataError, "split_lists.test", "'a.png'", test):
        source_of(text, split_lists={"test": test}).records()
    test.write_bytes("ä.png".encode("latin-1"))
    with refused(DataError, test, "UTF-8"):
        source_of(text, split_lists={"test": test}).records()


# Ages.


@pytest.mark.parametrize(
    ("column", "ages", "facts"),
    [
        ("Patient Age", ["57", "411", "058Y"], [1, "'Patient Age'", 411]),
        ("PatientAge", ["148Y", "155", "012M"], [2, "'PatientAge'", 155]),
        ("Age", ["0", "120", ""], []),
        ("Image Index", ["411", "412", "413"], []),
        ("Stage", ["411", "412", "413"], []),
    ],
)
def test_impossible_ages_are_reported(source_of, caplog, column, ages, facts):
    rows = [
        f"{name}.png,{label},{name},{age}"
        for name, label, age in zip("abc", CLASSES, ages, strict=True)
    ]
    source_of("\n".join([f"path,label,patient,{column}", *rows])).records()
    assert len(caplog.messages) == bool(facts)
    if facts:
        line_with(caplog.messages[0], "images.csv", *facts)


# Settings.


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        (
            {"labels": ManifestLabels(per_finding={"Mas": {}})},
            ["labels.per_finding", "'Mas'", "'Mass'"],
        ),
        (
            {"labels": ManifestLabels(per_finding={"Mass": {"on_other": "skip"}})},
            ["labels.per_finding.Mass", "'on_other'"],
        ),
        (
            {"labels": ManifestLabels(per_finding={"Mass": {"on_missing": "positive"}})},
            ["labels.per_finding.Mass.on_missing", "unknown", "'positive'"],
        ),
        ({"labels": ManifestLabels(on_other="positive")}, ["labels.on_other", "labels.values"]),
        (
            {"labels": ManifestLabels(on_uncertain="positive")},
            ["labels.on_uncertain", "labels.values"],
        ),
        (
            {"columns": OWN, "labels": ManifestLabels({"Mass": [1]})},
            ["labels.values", "'Mass'", "positive", "negative"],
        ),
        (
            {"columns": OWN, "labels": ManifestLabels(separator="|")},
            ["labels.separator"],
        ),
        (
            {"columns": ManifestColumns(findings={"Masss": "m"})},
            ["columns.findings", "'Masss'", "'Mass'"],
        ),
        ({"exclusive": True, "classes": ["A", "B"]}, ["exclusive", "['A', 'B']"]),
        ({"exclusive": True, "columns": OWN}, ["exclusive", "labels.separator", "labels.rows"]),
        ({"exclusive": True, "labels": ManifestLabels(separator="|")}, ["exclusive"]),
        ({"exclusive": True, "labels": ManifestLabels(rows="any_positive")}, ["exclusive"]),
        ({"split_lists": {"tset": "x.txt"}}, ["split_lists", "test", "'tset'"]),
        (
            {"split_lists": {"test": "x.txt"}, "columns": ManifestColumns(split="fold")},
            ["columns.split", "split_lists", "'fold'"],
        ),
        ({"classes": ["A", "B", "B"]}, ["classes", "['A', 'B', 'B']"]),
    ],
)
def test_settings_that_contradict_are_refused_before_anything_is_read(settings, facts):
    with refused(RecipeError, *facts):
        Manifest("images.csv", **({"classes": CLASSES} | settings))


def test_a_column_for_each_finding_in_place_of_one_label_column_is_recognised(source_of):
    source = source_of("path,Effusion,Mass\na.png,1,0\nb.png,0,1\n")
    with refused(DataError, "'label'", "columns.label", "null"):
        source.records()
