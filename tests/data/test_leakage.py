import csv
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from messages import line_with

from cxrignite.data.leakage import COLUMNS, describe_leaks, leaked_pairs, write_leaks
from cxrignite.data.sources import SPLITS, Film


def film(name: str, split: str, patient: str, sha256: str = "") -> Film:
    return Film(Path("root") / name, name, 0, patient, split, {}, sha256)


def named(pairs) -> list[tuple[str, str, str]]:
    return [(pair.reason, pair.first.name, pair.second.name) for pair in pairs]


def test_a_patient_and_a_file_on_two_sides_are_each_a_pair():
    films = [
        film("a", "test", "p1", "x"),
        film("b", "train", "p1", "y"),
        film("c", "train", "p2", "x"),
    ]
    assert named(leaked_pairs(films)) == [("patient", "b", "a"), ("content", "c", "a")]


def test_films_of_one_split_and_files_without_a_digest_are_no_leak():
    twins = [film("a", "test", "p1", "x"), film("b", "test", "p1", "x")]
    unhashed = [film("c", "train", "p2"), film("d", "val", "p3")]
    assert leaked_pairs([*twins, *unhashed]) == []
    assert leaked_pairs([]) == []


def test_the_earlier_split_comes_first_whatever_the_order_of_the_films():
    films = [film(split, split, "p") for split in reversed(SPLITS)]
    pairs = leaked_pairs(films)
    assert named(pairs) == [("patient", "train", later) for later in SPLITS[1:]]
    assert leaked_pairs(films[::-1]) == pairs


def test_two_splits_leak_without_a_training_film():
    films = [film("a", "val", "p"), film("b", "calibration", "p"), film("c", "test", "q")]
    assert named(leaked_pairs(films)) == [("patient", "a", "b")]


def test_a_patient_with_very_many_films_gives_no_product():
    films = [film(str(n), SPLITS[n % 4], "one", f"{n % 7}") for n in range(20_000)]
    started = time.process_time()
    pairs = leaked_pairs(films)
    assert time.process_time() - started < 10  # a product would be 10**8 pairs
    assert Counter(pair.reason for pair in pairs) == {"patient": 15_000, "content": 15_000}


def clean_films(num_patients: int) -> list[Film]:
    """Two films a patient, each with a content of its own, in all four splits."""
    return [
        film(f"{patient}-{view}", SPLITS[patient % 4], f"p{patient}", f"{patient}-{view}")
        for patient in range(num_patients)
        for view in "ab"
    ]


@pytest.mark.parametrize("seed", range(5))
def test_200_planted_leaks_are_all_found_and_nothing_else(seed):
    random = np.random.default_rng(seed)
    films = clean_films(1200)
    assert leaked_pairs(films) == []
    planted = set()
    # Each pair takes two patients that no other pair takes, of two splits.
    order = random.permutation(300)
    for number, row in enumerate(order[:200]):
        donor, taker = (4 * int(row) + int(k) for k in random.choice(4, 2, replace=False))
        at = 2 * taker + int(random.integers(2))
        source = films[2 * donor + int(random.integers(2))]
        reason = ("patient", "content")[number % 2]
        changed = {"patient": source.patient} if number % 2 == 0 else {"sha256": source.sha256}
        films[at] = films[at]._replace(**changed)
        planted.add((reason, frozenset({source.patient, f"p{taker}"})))
    shuffled = [films[index] for index in random.permutation(len(films))]
    pairs = leaked_pairs(shuffled)
    owner = {film.name: f"p{film.name.split('-')[0]}" for film in films}
    found = {(p.reason, frozenset({owner[p.first.name], owner[p.second.name]})) for p in pairs}
    assert found == planted
    assert Counter(pair.reason for pair in pairs)["content"] == 100


def test_the_list_can_be_read_and_replaces_the_one_before(tmp_path):
    films = [
        film("caf\udce9, ü.png", "train", 'odd "name"', "ab"),
        film("b.png", "test", 'odd "name"', "ab"),
    ]
    path = tmp_path / "run" / "leakage.csv"
    for _ in range(2):
        write_leaks(leaked_pairs(films), path)
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    cells = [films[0].name, "train", "b.png", "test", 'odd "name"', "ab"]
    shared = dict(zip(COLUMNS[1:], cells, strict=True))
    assert rows == [{"reason": reason, **shared} for reason in ("patient", "content")]
    assert os.listdir(path.parent) == ["leakage.csv"]


def test_leaks_are_described_by_their_kinds():
    films = [film("a", "train", "p", "x"), film("b", "val", "p"), film("c", "test", "p", "x")]
    pairs = leaked_pairs(films)
    line_with(describe_leaks(pairs), 3, 2, 1)
    line_with(describe_leaks(pairs[:1]), 1, 0)
