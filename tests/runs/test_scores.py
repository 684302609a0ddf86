"""Scores of several findings, and what is one finding's of them."""

import numpy as np
import pytest

from cxrignite.data import ImageRecord
from cxrignite.data.sources import UNKNOWN, class_pair
from cxrignite.runs.reference import Reference
from cxrignite.runs.scores import FindingScores, file_name, record_of, results_name

CLASSES = ("No Finding", "Effusion", "Pleural/Other")
LABELS = [(1, 0), (0, UNKNOWN), (UNKNOWN, 1), (0, 0)]
MASKS = {"mask:Effusion": "e.png", "mask:Pleural/Other": "p.png", "view": "AP"}


@pytest.fixture
def scores():
    records = [
        ImageRecord(f"{n}.png", f"{n}.png", label, f"p{n // 2}", "test", MASKS)
        for n, label in enumerate(LABELS)
    ]
    y_score = np.array([[0.9, 0.2], [0.3, 0.6], [0.5, 0.7], [0.1, 0.4]])
    features = np.arange(8, dtype=np.float32).reshape(4, 2)
    return FindingScores(records, CLASSES, False, y_score, np.array(LABELS), features)


def test_one_finding_has_the_images_with_a_known_label(scores):
    assert (len(scores), scores.num_images) == (2, 4)
    assert scores.patients == ["p0", "p0", "p1", "p1"]
    effusion, other = scores
    assert effusion.classes == ("no Effusion", "Effusion")
    assert effusion.y_true.tolist() == [1, 0, 0]
    assert effusion.y_score.tolist() == [0.9, 0.3, 0.1]
    assert effusion.features[:, 0].tolist() == [0, 2, 6]
    assert [record.name for record in effusion.records] == ["0.png", "1.png", "3.png"]
    assert (effusion.num_positive, effusion.has_both_classes) == (1, True)
    assert other.y_true.tolist() == [0, 1, 0]
    assert [record.label for record in other.records] == [0, 1, 0]
    assert other.patients == ["p0", "p1", "p1"]


def test_a_record_of_one_finding_has_its_label_and_its_mask_alone(scores):
    record = record_of(scores.records[0], CLASSES, 1)
    assert record.label == 0
    assert record.attributes == {"mask": "p.png", "view": "AP"}
    without = scores.records[0]._replace(attributes={"mask:Effusion": "e.png"})
    assert record_of(without, CLASSES, 1).attributes == {}
    binary = ImageRecord("a.png", "a.png", 1, "p", "test", {"mask": "m.png"})
    assert record_of(binary, ("NORMAL", "PNEUMONIA"), 0) is binary


def test_one_finding_keeps_its_classes_and_file_names():
    assert class_pair(("NORMAL", "PNEUMONIA"), 0) == ("NORMAL", "PNEUMONIA")
    assert results_name("test", ("NORMAL", "PNEUMONIA"), 0) == "test"
    assert [results_name("test", CLASSES, index) for index in (0, 1)] == [
        "test_Effusion",
        "test_Pleural-Other",
    ]
    assert file_name(("none", "../a b@c", "d"), 0) == "a-b-c"


def test_findings_of_similar_names_have_different_files():
    for findings in (["A/B", "A-B", "A-B-2"], ["mass", "Mass"], ["肺炎", "结节"], ["a", "!"]):
        classes = ["none", *findings]
        names = [file_name(classes, index).lower() for index in range(len(findings))]
        assert len(set(names)) == len(findings)
        assert all(name.strip("-") for name in names)


def test_the_reference_has_the_images_known_to_lack_a_finding(scores, tmp_path):
    reference = Reference.of(scores)
    for each in (reference, _read_back(reference, tmp_path / "reference.npz")):
        features, patients = each.negatives(0)
        assert features[:, 0].tolist() == [2, 6]
        assert patients == ["p0", "p1"]
        features, patients = each.negatives(1)
        assert features[:, 0].tolist() == [0, 6]
        assert patients == ["p0", "p1"]


def test_a_large_reference_is_thinned_out_evenly():
    number = 5000
    records = [ImageRecord("a.png", str(n), (0, 1), str(n), "val") for n in range(number)]
    y_true = np.tile([[0, 1]], (number, 1))
    rare = np.random.default_rng(0).random(number) < 0.2
    y_true[rare] = [1, 0]
    features = np.arange(number, dtype=np.float32)[:, None]
    scores = FindingScores(records, CLASSES, False, np.zeros((number, 2)), y_true, features)
    reference = Reference.of(scores)
    kept = [reference.negatives(index)[0][:, 0] for index in (0, 1)]
    # Both have as many as there may be: the images of a rare finding are not thinned out.
    assert (len(kept[0]), len(kept[1])) == (2000, rare.sum())
    assert rare[kept[1].astype(int)].all()
    assert not rare[kept[0].astype(int)].any()
    common = np.flatnonzero(~rare)
    assert (kept[0][0], kept[0][-1]) == (common[0], common[-1])
    assert max(np.diff(np.searchsorted(common, kept[0]))) <= 3


def _read_back(reference, path):
    reference.write(path)
    return Reference.read(path)


def test_a_mask_without_a_name_is_that_of_no_finding():
    masks = {"mask": "lungs.png", "mask:Effusion": "fluid.png", "view": "AP"}
    record = ImageRecord("a.png", "a.png", (1, 0), "p", "test", masks)
    found = [record_of(record, CLASSES, index).attributes for index in (0, 1)]
    assert found == [{"view": "AP", "mask": "fluid.png"}, {"view": "AP"}]


def test_boxes_of_one_finding_are_its_own():
    boxes = {"boxes": "1 1 1 1", "boxes:Effusion": "1 2 3 4", "view": "AP"}
    record = ImageRecord("a.png", "a.png", (1, 0), "p", "test", boxes)
    found = [record_of(record, ("none", "Effusion", "Mass"), n).attributes for n in (0, 1)]
    assert found == [{"view": "AP", "boxes": "1 2 3 4"}, {"view": "AP"}]
