"""Labels of several findings through records, tables, batches, split files and data modules."""

import csv

import numpy as np
import pytest
import torch
from messages import refused
from torch.utils.data import WeightedRandomSampler

from cxrignite.data.label_groups import known_counts, rarest_positive
from cxrignite.data.loading import LoaderSettings, RecordTable
from cxrignite.data.module import XrayData
from cxrignite.data.sampling import BalancedSampler, balanced_sampler
from cxrignite.data.sources import UNKNOWN, ImageRecord, checked_classes
from cxrignite.data.splits import read_split, write_split
from cxrignite.errors import DataError, RecipeError

CLASSES = ("No Finding", "Effusion", "Mass, or nodule", "=Other")
FINDINGS = CLASSES[1:]
LABELS = [(0, 0, 0), (1, 0, UNKNOWN), (1, 1, 0), (UNKNOWN, 0, 1), (UNKNOWN,) * 3, (1, 0, 0)]


def record(number: int, label, split: str = "train", **fields) -> ImageRecord:
    name = f"{number}.png"
    return ImageRecord(f"root/{name}", name, label, f"p{number}", split, **fields)


@pytest.fixture
def records() -> list[ImageRecord]:
    return [record(number, label) for number, label in enumerate(LABELS)]


def test_a_record_gives_its_labels_for_one_finding_or_several():
    assert record(0, 1).labels == (1,)
    assert record(0, (1, UNKNOWN)).labels == (1, UNKNOWN)
    moved = record(0, (1, 0)).moved("val").hashed("ab")
    assert (moved.label, moved.split, moved.sha256) == ((1, 0), "val", "ab")


def test_classes_are_a_name_for_no_finding_and_those_of_the_findings():
    assert checked_classes(["A", "B"]) == ("A", "B")
    assert checked_classes(list(CLASSES)) == CLASSES
    for wrong in (["A"], [], ["A", "B", "A"], ["A", "B", ""]):
        with refused(RecipeError, "classes", wrong):
            checked_classes(wrong)


def test_the_group_of_an_image_is_its_rarest_positive_finding():
    # Positives: 3, 1 and 1. Of the equally rare ones the first counts.
    assert rarest_positive(LABELS).tolist() == [0, 1, 2, 3, 0, 1]
    assert rarest_positive([(0, 1, 1), (0, 0, 0)]).tolist() == [2, 0]
    exclusive = [(0, 0), (1, 0), (0, 1), (0, 1)]
    assert rarest_positive(exclusive).tolist() == [0, 1, 2, 2]


def test_known_labels_are_counted():
    assert known_counts(np.array(LABELS)).tolist() == [[1, 3], [4, 1], [3, 1]]


def test_a_table_has_a_column_for_each_finding_and_nan_for_unknown(records):
    labels = RecordTable(records).labels
    assert labels.dtype == torch.float32
    expected = np.array(LABELS, dtype=np.float32)
    expected[expected == UNKNOWN] = np.nan
    np.testing.assert_array_equal(labels.numpy(), expected)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_batch_has_the_labels_of_its_images(tmp_path, write_image, num_workers):
    records = []
    for number, label in enumerate(LABELS):
        path = write_image(tmp_path / f"{number}.png", seed=number)
        records.append(record(number, label)._replace(file=str(path)))
    loader = LoaderSettings(batch_size=2, eval_batch_size=4, num_workers=num_workers)
    data = XrayData(records, CLASSES, loader=loader, sampler=balanced_sampler, seed=1)
    table = RecordTable(records).labels
    for loaded in (data.eval_loader("train"), data.train_loader()):
        for batch in loaded:
            assert batch.label.dtype == torch.float32
            assert batch.label.shape == (len(batch.image), 3)
            np.testing.assert_array_equal(batch.label.numpy(), table[batch.index].numpy())
    data.close()


def test_data_count_the_known_labels_of_each_finding(records):
    data = XrayData(records, CLASSES, exclusive=False)
    assert data.findings == FINDINGS
    assert not data.exclusive
    assert data.labels("train") == LABELS
    assert [tuple(data.class_counts("train", k)) for k in range(3)] == [(1, 3), (4, 1), (3, 1)]
    assert data.class_counts("train") == (1, 3)
    assert data.class_counts("val", 2) == (0, 0)


def test_exclusive_classes_stay_exclusive_in_the_data():
    data = XrayData([record(0, (0, 0))], ("A", "B", "C"), exclusive=True)
    assert data.exclusive
    assert data.findings == ("B", "C")


def test_the_drawn_prevalence_counts_known_labels(records):
    shuffled = XrayData(records, CLASSES)
    assert [shuffled.drawn_prevalence(k) for k in range(3)] == pytest.approx([3 / 4, 1 / 5, 1 / 4])
    balanced = XrayData(records, CLASSES, sampler=balanced_sampler)
    # Four groups of weight 1: images 0 and 4, 1 and 5, 2, 3.
    assert balanced.drawn_prevalence() == pytest.approx(2 / 2.5)
    assert balanced.drawn_prevalence(1) == pytest.approx(1 / 3.5)
    assert balanced.drawn_prevalence(2) == pytest.approx(1 / 3)

    def fixed(labels, *, seed):
        return [1, 4, 0, 0]

    assert XrayData(records, CLASSES, sampler=fixed).drawn_prevalence() == pytest.approx(1 / 3)


def test_the_factory_of_a_sampler_gets_all_labels(records):
    seen = []

    def sampler(labels, *, seed):
        seen.append((labels, seed))
        return WeightedRandomSampler([1.0] * len(labels), len(labels))

    XrayData(records, CLASSES, sampler=sampler, seed=7).train_loader()
    assert seen == [(LABELS, 7)]


def test_all_groups_that_have_images_are_drawn_equally_often():
    labels = [(0, 0, 0)] * 60 + [(1, 0, UNKNOWN)] * 25 + [(1, 1, 0)] * 10 + [(0, 1, 0)] * 5
    sampler = BalancedSampler(labels, seed=3, num_samples=30_000)
    groups = rarest_positive(labels)[list(sampler)]
    counts = np.bincount(groups, minlength=4)
    assert counts[3] == 0
    assert counts[:3] / 30_000 == pytest.approx(1 / 3, abs=0.015)
    assert sampler.weights.sum().item() == pytest.approx(len(labels))
    assert list(BalancedSampler(np.array(labels), seed=3, num_samples=30_000)) == list(sampler)


def test_groups_of_one_finding_have_the_weights_of_two_classes():
    labels = [0, 1, 1, 0, 1, 1, 1]
    column = [(label,) for label in labels]
    np.testing.assert_array_equal(
        BalancedSampler(column, seed=2).weights, BalancedSampler(labels, seed=2).weights
    )


@pytest.mark.parametrize(
    ("labels", "facts"),
    [([(0, 0), (0, UNKNOWN)], [2, "without"]), ([(0, 1)] * 3, [3, "finding 2"])],
)
def test_a_sampler_needs_two_groups(labels, facts):
    with refused(DataError, *facts):
        balanced_sampler(labels)


def test_a_split_file_has_a_column_for_each_finding(tmp_path, records):
    records[0] = records[0]._replace(attributes={"mask:Effusion": "m.png"}, sha256="ab")
    write_split(records, tmp_path / "split.csv", findings=FINDINGS)
    with (tmp_path / "split.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == [
        *["path", "label:Effusion", "label:Mass, or nodule", "label:=Other", "patient", "split"],
        *["sha256", "attr_mask:Effusion"],
    ]
    assert rows[2] == ["1.png", "1", "0", "", "p1", "train", "", ""]
    read = read_split(tmp_path / "split.csv", "root")
    assert read == records
    again = read_split(tmp_path / "split.csv", "root")
    write_split([*again, record(9, LABELS[5])], tmp_path / "split.csv", findings=FINDINGS)
    read = read_split(tmp_path / "split.csv", "root")
    assert read[5].label is read[6].label


def test_a_split_file_of_one_finding_has_the_column_label(tmp_path):
    write_split([record(0, 1)], tmp_path / "named.csv", findings=["Effusion"])
    write_split([record(0, 1)], tmp_path / "split.csv")
    assert (tmp_path / "named.csv").read_bytes() == (tmp_path / "split.csv").read_bytes()
    assert (tmp_path / "split.csv").read_text().startswith("path,label,patient,")


def test_labels_that_do_not_fit_the_findings_are_not_written(tmp_path, records):
    for findings in ((), FINDINGS[:2]):
        with pytest.raises(ValueError, match="zip"):
            write_split(records, tmp_path / "split.csv", findings=findings)
    assert not (tmp_path / "split.csv").exists()


AFTER = "patient,split,sha256\n"


@pytest.mark.parametrize(
    ("content", "facts"),
    [
        ("path,label:A,label:B," + AFTER + "a.png,1,-1,p,train,\n", ["line 2", "label:B", "'-1'"]),
        ("path,label:A,label:B," + AFTER + "a.png,2,,p,train,\n", ["line 2", "label:A", "'2'"]),
        ("path,label:A,label:B," + AFTER + "a.png,1,p,train,\n", ["line 2", "cells"]),
        ("path,label:A," + AFTER + "a.png,1,p,train,\n", ["label:NAME", "['label:A']"]),
        ("path,label:A,label:A," + AFTER, ["label:NAME", "['label:A', 'label:A']"]),
        ("path,label,label:A,label:B," + AFTER, ["label:NAME", "['label', 'label:A', 'label:B']"]),
        ("path,label:A,label:B,patient,split\n", ["['sha256']"]),
    ],
)
def test_a_damaged_split_file_of_several_findings_is_refused(tmp_path, content, facts):
    (tmp_path / "split.csv").write_text(content)
    with refused(DataError, tmp_path / "split.csv", *facts):
        read_split(tmp_path / "split.csv", "root")
