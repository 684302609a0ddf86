"""Manifests joined with further tables."""

import pytest
from messages import line_with, refused

from cxrignite.data import Manifest, ManifestColumns, ManifestJoin, ManifestLabels
from cxrignite.errors import DataError, RecipeError

META = "dicom_id,subject_id,study_id,ViewPosition\na,10,s1,PA\nb,10,s1,LL\nc,11,s2,AP\nd,12,s3,PA\n"
SPLITS = "dicom_id,study_id,split\nd,x,test\na,x,train\nb,x,validate\nc,x,train\n"
LABELS = "subject_id,study_id,Edema,Mass\n10,s1,1.0,\n11,s2,-1.0,1.0\n12,s3,,0.0\n"
LABELS_JOIN = ["subject_id", "study_id"]


@pytest.fixture
def source_of(tmp_path):
    """A manifest of three tables like those of MIMIC-CXR."""

    def source(meta=META, splits=SPLITS, findings=LABELS, by=LABELS_JOIN, **settings):
        (tmp_path / "a.jpg").touch()
        for name, text in (("meta", meta), ("splits", splits), ("labels", findings)):
            (tmp_path / f"{name}.csv").write_text(text)
        columns = ManifestColumns("{dicom_id}.jpg", label=None, patient="subject_id")
        return Manifest(
            tmp_path / "meta.csv",
            **{
                "classes": ["No Finding", "Edema", "Mass"],
                "columns": columns,
                "labels": ManifestLabels(on_uncertain="unknown", on_missing="negative"),
                "join": [
                    ManifestJoin(tmp_path / "splits.csv", ["dicom_id"]),
                    ManifestJoin(tmp_path / "labels.csv", by),
                ],
            }
            | settings,
        )

    return source


def test_columns_of_three_tables_are_one_table(source_of, caplog):
    records = source_of().records()
    assert [(each.name, each.label, each.patient, each.split) for each in records] == [
        ("a.jpg", (1, 0), "10", "train"),
        ("b.jpg", (1, 0), "10", "train"),  # of val, which is too small
        ("c.jpg", (-1, 1), "11", "train"),
        ("d.jpg", (0, 0), "12", "test"),
    ]
    assert caplog.text == ""


def test_the_order_of_rows_and_columns_is_that_of_the_first_table(source_of):
    columns = ManifestColumns(
        "{dicom_id}.jpg", label=None, patient="subject_id", attributes=["split", "ViewPosition"]
    )
    records = source_of(
        columns=columns,
        where={"ViewPosition": ["PA"]},
        labels=ManifestLabels(on_missing="negative"),
        classes=["No Finding", "Edema"],
    ).records()
    assert [(each.name, each.attributes) for each in records] == [
        ("a.jpg", {"split": "train", "ViewPosition": "PA"}),
        ("d.jpg", {"split": "test", "ViewPosition": "PA"}),
    ]


def test_a_row_without_a_partner_has_empty_cells_and_is_counted(source_of, caplog):
    text = META + "e,14,s4,PA\n"
    splits = SPLITS + "e,x,train\n"
    records = source_of(meta=text, splits=splits).records()
    assert records[-1].label == (0, 0)
    line_with(caplog.messages[0], "meta.csv", "labels.csv", 1, 5, "'subject_id'", "'study_id'")


def test_tables_without_a_row_in_common_are_refused(source_of):
    with refused(DataError, "labels.csv", "meta.csv", "join.by", "'study_id'", 4):
        source_of(
            findings=LABELS.replace(",s1", ",t1").replace(",s2", ",t2").replace(",s3", ",t3")
        ).records()


def test_rows_with_the_same_key_must_not_differ(source_of):
    assert len(source_of(findings=f"{LABELS}11,s2,-1.0,1.0\n").records()) == 4
    with refused(DataError, "labels.csv", "line 5", "'subject_id'", "'study_id'", "join.by"):
        source_of(findings=f"{LABELS}11,s2,1.0,1.0\n").records()


def test_a_column_that_one_of_the_tables_lacks_is_named(source_of):
    with refused(DataError, "meta.csv", "'studyid'", "source.join.by", "'study_id'"):
        source_of(by=["studyid"]).records()
    with refused(DataError, "labels.csv", "'ViewPosition'", "source.join.by"):
        source_of(by=["ViewPosition"]).records()
    with refused(RecipeError, "join.by", "labels.csv"):
        ManifestJoin("labels.csv", [])
