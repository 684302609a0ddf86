import csv
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from messages import line_with

from cxrignite.data.leakage import COLUMNS, describe_leaks, leaked_pairs, write_leaks
from cxrignite.data.sources import SPLITS, ImageRecord


def record(name: str, split: str, patient: str, sha256: str = "") -> ImageRecord:
    return ImageRecord(Path("root") / name, name, 0, patient, split, {}, sha256)


def named(pairs) -> list[tuple[str, str, str]]:
    return [(pair.reason, pair.first.name, pair.second.name) for pair in pairs]


def test_a_patient_and_a_file_on_two_sides_are_each_a_pair():
    records = [
        record("a", "test", "p1", "x"),
        record("b", "train", "p1", "y"),
        record("c", "train", "p2", "x"),
    ]
    assert named(leaked_pairs(records)) == [("patient", "b", "a"), ("content", "c", "a")]


def test_images_of_one_split_and_files_without_a_digest_are_no_leak():
    twins = [record("a", "test", "p1", "x"), record("b", "test", "p1", "x")]
    unhashed = [record("c", "train", "p2"), record("d", "val", "p3")]
    assert leaked_pairs([*twins, *unhashed]) == []
    assert leaked_pairs([]) == []


def test_the_earlier_split_comes_first_whatever_the_order_of_the_images():
    records = [record(split, split, "p") for split in reversed(SPLITS)]
    pairs = leaked_pairs(records)
    assert named(pairs) == [("patient", "train", later) for later in SPLITS[1:]]
    assert leaked_pairs(records[::-1]) == pairs


def test_two_splits_leak_without_a_training_image():
    records = [record("a", "val", "p"), record("b", "calibration", "p"), record("c", "test", "q")]
    assert named(leaked_pairs(records)) == [("patient", "a", "b")]


def test_a_patient_with_very_many_images_gives_no_product():
    records = [record(str(n), SPLITS[n % 4], "one", f"{n % 7}") for n in range(20_000)]
    started = time.process_time()
    pairs = leaked_pairs(records)
    assert time.process_time() - started < 10  # a product would be 10**8 pairs
    assert Counter(pair.reason for pair in pairs) == {"patient": 15_000, "content": 15_000}


def clean_images(num_patients: int) -> list[ImageRecord]:
    """Two images a patient, each with a content of its own, in all four splits."""
    return [
        record(f"{patient}-{view}", SPLITS[patient % 4], f"p{patient}", f"{patient}-{view}")
        for patient in range(num_patients)
        for view in "ab"
    ]


@pytest.mark.parametrize("seed", range(5))
def test_200_planted_leaks_are_all_found_and_nothing_else(seed):
    random = np.random.default_rng(seed)
    records = clean_images(1200)
    assert leaked_pairs(records) == []
    planted = set()
    # Each pair takes two patients that no other pair takes, of two splits.
    order = random.permutation(300)
    for number, row in enumerate(order[:200]):
        donor, taker = (4 * int(row) + int(k) for k in random.choice(4, 2, replace=False))
        at = 2 * taker + int(random.integers(2))
        source = records[2 * donor + int(random.integers(2))]
        reason = ("patient", "content")[number % 2]
        changed = {"patient": source.patient} if number % 2 == 0 else {"sha256": source.sha256}
        records[at] = records[at]._replace(**changed)
        planted.add((reason, frozenset({source.patient, f"p{taker}"})))
    shuffled = [records[index] for index in random.permutation(len(records))]
    pairs = leaked_pairs(shuffled)
    owner = {record.name: f"p{record.name.split('-')[0]}" for record in records}
    found = {(p.reason, frozenset({owner[p.first.name], owner[p.second.name]})) for p in pairs}
    assert found == planted
    assert Counter(pair.reason for pair in pairs)["content"] == 100


def test_the_list_can_be_read_and_replaces_the_one_before(tmp_path):
    records = [
        record("caf\udce9, ü.png", "train", 'odd "name"', "ab"),
        record("b.png", "test", 'odd "name"', "ab"),
    ]
    path = tmp_path / "run" / "leakage.csv"
    for _ in range(2):
        write_leaks(leaked_pairs(records), path)
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    cells = [records[0].name, "train", "b.png", "test", 'odd "name"', "ab"]
    shared = dict(zip(COLUMNS[1:], cells, strict=True))
    assert rows == [{"reason": reason, **shared} for reason in ("patient", "content")]
    assert os.listdir(path.parent) == ["leakage.csv"]


def test_leaks_are_described_by_their_kinds():
    records = [
        record("a", "train", "p", "x"),
        record("b", "val", "p"),
        record("c", "test", "p", "x"),
    ]
    pairs = leaked_pairs(records)
    line_with(describe_leaks(pairs), 3, 2, 1)
    line_with(describe_leaks(pairs[:1]), 1, 0)
