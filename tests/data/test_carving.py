import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from messages import missing, refused

from cxrignite.data import carving
from cxrignite.data.carving import carve_fold, carve_split
from cxrignite.data.leakage import leaked_pairs
from cxrignite.data.phantom import Phantom
from cxrignite.data.sources import Film
from cxrignite.errors import DataError, RecipeError

ROOT = Path("root")


def film(name: str, label: int, patient: str, split: str = "train", **fields) -> Film:
    return Film(str(ROOT / name), name, label, patient, split, **fields)


@pytest.fixture
def films(varied_films) -> list[Film]:
    return varied_films


def shares(films: list[Film]) -> dict[str, float]:
    train = [film for film in films if film.split in ("train", "val")]
    val = [film for film in train if film.split == "val"]
    return {
        "films": len(val) / len(train),
        "positive": sum(film.label for film in val) / sum(film.label for film in train),
    }


@pytest.mark.parametrize("fraction", [0.1, 0.15, 0.2, 0.3, 0.4, 0.5])
def test_the_share_is_met_in_both_classes(films, fraction):
    carved = carve_split(films, "val", fraction, seed=1)
    assert shares(carved)["films"] == pytest.approx(fraction, rel=0.1)
    assert shares(carved)["positive"] == pytest.approx(fraction, rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_a_patient_is_on_one_side(films, seed):
    carved = carve_split(films, "val", 0.15, seed)
    assert not leaked_pairs([film for film in carved if film.split != "test"])
    patients = {
        split: {f.patient for f in carved if f.split == split} for split in ("train", "val")
    }
    assert patients["train"].isdisjoint(patients["val"])
    assert all(patients.values())


def test_only_the_split_of_training_films_changes(films):
    carved = carve_split(films, "val", 0.15, seed=1)
    assert [film._replace(split="") for film in carved] == [f._replace(split="") for f in films]
    assert [f.name for f in carved if f.split == "test"] == [
        f.name for f in films if f.split == "test"
    ]


def test_the_same_seed_gives_the_same_split_and_another_seed_another(films):
    first, again, other = (carve_split(films, "val", 0.15, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_split_leaves_global_random_state_alone(films):
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    carve_split(films, "val", 0.15, seed=1)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("fraction", [0.0, -0.1, 0.51, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused(films, fraction):
    with refused(RecipeError, "val", "(0, 0.5]", fraction):
        carve_split(films, "val", fraction, seed=1)


def test_a_negative_seed_is_refused(films):
    with refused(RecipeError, "seed", "0", "-1"):
        carve_split(films, "val", 0.15, seed=-1)


def test_too_few_patients_of_a_class_are_counted(films):
    few = [f for f in films if f.label == 1 or f.patient in ("0-1", "0-2", "0-3")]
    with refused(DataError, "val", 7, 3, "negative"):
        carve_split(few, "val", 0.15, seed=1)


def test_one_class_only_is_refused(films):
    with refused(DataError, "val", 7, 0, "negative"):
        carve_split([f for f in films if f.label == 1], "val", 0.15, seed=1)


def test_a_second_validation_split_is_refused(films):
    with refused(DataError, "'val'"):
        carve_split(carve_split(films, "val", 0.15, seed=1), "val", 0.15, seed=1)


def test_a_patient_that_outweighs_the_rest_is_refused():
    films = [film(f"{label}-{n}", label, f"{label}-{n}") for label in (0, 1) for n in range(10)]
    films += [film(f"big-{n}", n % 2, "big") for n in range(200)]
    refusals = []
    for seed in range(10):
        try:
            carved = carve_split(films, "val", 0.2, seed)
        except DataError as error:
            refusals.append(str(error))
        else:
            assert shares(carved)["films"] == pytest.approx(0.2, rel=0.5)
    assert refusals
    for text in refusals:  # the share is not met, or a class is in one of the two alone
        assert missing(text, ["val", 0.2]) == [] or missing(text, ["train", "val"]) == []


def test_folds_are_as_even_as_their_number_says(films):
    counts = Counter(f.split for f in carve_split(films, "val", 0.15, seed=3))
    assert counts["val"] == pytest.approx((counts["val"] + counts["train"]) / 7, rel=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_a_calibration_split_is_carved_beside_the_validation_split(films, seed):
    carved = carve_split(carve_split(films, "val", 0.1, seed), "calibration", 0.2, seed)
    assert not leaked_pairs([film for film in carved if film.split != "test"])
    counts = Counter(film.split for film in carved)
    pool = counts["train"] + counts["val"] + counts["calibration"]
    assert counts["val"] / pool == pytest.approx(0.1, rel=0.1)
    assert counts["calibration"] / (pool - counts["val"]) == pytest.approx(0.2, rel=0.1)
    assert carve_split(carve_split(films, "val", 0.1, seed), "calibration", 0.2, seed) == carved


def many_patients(num_films: int) -> list[Film]:
    return [
        Film("a.png", f"{number}.png", int(number % 4 > 0), f"p{number // 3}", "train")
        for number in range(num_films)
    ]


def test_more_patients_than_can_be_dealt_are_drawn_as_evenly(monkeypatch):
    monkeypatch.setattr(carving, "MAX_DEALT_PATIENTS", 500)
    films = many_patients(6000)
    carved = carve_split(films, "val", 0.2, seed=3)
    assert [film.name for film in carved] == [film.name for film in films]
    assert not leaked_pairs(carved)
    for label in (0, 1):
        labelled = [film for film in carved if film.label == label]
        share = sum(film.split == "val" for film in labelled) / len(labelled)
        assert share == pytest.approx(0.2, abs=0.01)
    assert carve_split(films, "val", 0.2, seed=3) == carved
    assert carve_split(films, "val", 0.2, seed=4) != carved


def test_up_to_the_limit_patients_are_dealt(monkeypatch):
    films = many_patients(1500)
    dealt = carve_split(films, "val", 0.2, seed=3)
    monkeypatch.setattr(carving, "MAX_DEALT_PATIENTS", 499)
    assert carve_split(films, "val", 0.2, seed=3) != dealt
    monkeypatch.setattr(carving, "MAX_DEALT_PATIENTS", 500)
    assert carve_split(films, "val", 0.2, seed=3) == dealt


def with_digests(films: list[Film]) -> list[Film]:
    return [film.hashed(f"{number:064x}") for number, film in enumerate(films)]


def digest_of(films: list[Film]) -> str:
    text = "\n".join(f"{film.name} {film.split}" for film in films)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def carved_twice(films: list[Film], seed: int) -> list[Film]:
    return carve_split(carve_split(films, "val", 0.15, seed), "calibration", 0.2 / 0.85, seed)


@pytest.mark.parametrize(("seed", "digest"), [(0, "0d4cddba5568cb1a"), (42, "23bfcdd74339375a")])
def test_without_shared_files_a_dealt_split_is_what_it_always_was(tmp_path, seed, digest):
    # The digests were taken before patients with files in common were joined.
    films = Phantom(tmp_path, num_train=800, num_test=100)._plan()
    assert digest_of(carved_twice(films, seed)) == digest
    assert digest_of(carved_twice(with_digests(films), seed)) == digest


@pytest.mark.parametrize(("seed", "digest"), [(0, "cd809f2ba043b6f1"), (42, "95a6831272b2d569")])
def test_without_shared_files_a_drawn_split_is_what_it_always_was(seed, digest):
    films = many_patients(75_000)
    assert digest_of(carved_twice(with_digests(films), seed)) == digest


@pytest.fixture
def twins(films) -> list[Film]:
    """Films with 60 pairs of identical files of two patients of one class, some in chains."""
    films, random = with_digests(films), np.random.default_rng(7)
    train = [number for number, film in enumerate(films) if film.split == "train"]
    for label in (0, 1):
        members = [number for number in train if films[number].label == label]
        for first, second in random.choice(members, (30, 2), replace=False).tolist():
            films[second] = films[second].hashed(films[first].sha256)
    assert sum(count > 1 for count in Counter(film.sha256 for film in films).values()) == 60
    return films


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("most_dealt", [20_000, 100])
def test_identical_files_of_two_patients_stay_together(twins, seed, most_dealt, monkeypatch):
    unjoined = [film.hashed("") for film in twins]
    monkeypatch.setattr(carving, "MAX_DEALT_PATIENTS", most_dealt)
    contents = [film.sha256 for film in twins]
    apart = zip(carve_split(unjoined, "val", 0.2, seed), contents, strict=True)
    assert leaked_pairs([film.hashed(content) for film, content in apart])
    assert not leaked_pairs(carve_split(twins, "val", 0.2, seed))
    for index in range(4):
        assert not leaked_pairs(carve_fold(twins, index, 4, seed))


def test_patients_joined_through_a_chain_stay_together():
    others = [
        film(f"{label}-{n}", label, f"{label}-{n}", sha256=f"o{label}{n}")
        for label in (0, 1)
        for n in range(20)
    ]
    # p0 and p1 share a file, p1 and p2 another, ...: one group of 6, whatever the order.
    chain = [
        film(f"c{n}-{side}", 0, f"p{n}", sha256=f"c{n + side}") for n in range(6) for side in (0, 1)
    ]
    for seed in range(12):
        order = np.random.default_rng(seed).permutation(52)
        shuffled = [(others + chain)[index] for index in order]
        carved = carve_split(shuffled, "val", 0.3, seed)
        assert len({film.split for film in carved if film.name.startswith("c")}) == 1


def folds_of(films: list[Film], num_folds: int, seed: int) -> list[set[str]]:
    return [
        {f.name for f in carve_fold(films, index, num_folds, seed) if f.split == "val"}
        for index in range(num_folds)
    ]


@pytest.mark.parametrize("most_dealt", [20_000, 100])
@pytest.mark.parametrize("num_folds", [2, 5, 10])
def test_over_all_folds_each_training_film_is_validated_once(
    films, num_folds, most_dealt, monkeypatch
):
    monkeypatch.setattr(carving, "MAX_DEALT_PATIENTS", most_dealt)
    folds = folds_of(films, num_folds, seed=3)
    train = [film.name for film in films if film.split == "train"]
    assert sorted(name for fold in folds for name in fold) == sorted(train)
    patients = [{film.patient for film in films if film.name in fold} for fold in folds]
    assert sum(map(len, patients)) == len(set().union(*patients)) == 300
    assert folds == folds_of(films, num_folds, seed=3)
    assert folds != folds_of(films, num_folds, seed=4)


@pytest.mark.parametrize("most_dealt", [20_000, 100])
def test_folds_have_the_share_of_each_class(films, most_dealt, monkeypatch):
    monkeypatch.setattr(carving, "MAX_DEALT_PATIENTS", most_dealt)
    for label in (0, 1):
        names = {f.name for f in films if f.split == "train" and f.label == label}
        for fold in folds_of(films, 5, seed=1):
            # Drawn ones differ by about a patient.
            assert len(fold & names) == pytest.approx(
                len(names) / 5, abs=2 if most_dealt > 100 else 9
            )


def test_a_fold_moves_training_films_alone(films):
    carved = carve_fold(films, 1, 5, seed=1)
    assert [film._replace(split="") for film in carved] == [f._replace(split="") for f in films]
    tested = {film.name for film in films if film.split == "test"}
    assert {film.name for film in carved if film.split == "test"} == tested


@pytest.mark.parametrize(
    ("index", "num_folds", "facts"),
    [
        (0, 1, ["2", "1"]),
        (5, 5, ["index", "[0, 5)", "5"]),
        (-1, 5, ["index", "[0, 5)", "-1"]),
    ],
)
def test_a_fold_that_is_none_is_refused(films, index, num_folds, facts):
    with refused(RecipeError, *facts):
        carve_fold(films, index, num_folds, seed=1)


def test_more_folds_than_patients_of_a_class_are_refused(films):
    with refused(DataError, 0, 101, 100, "negative"):
        carve_fold(films, 0, 101, seed=1)


def test_joined_patients_count_as_one():
    films = [
        film(f"{label}-{n}", label, f"{label}-{n}", sha256=str(label or n))
        for label in (0, 1)
        for n in range(10, 20)
    ]
    with refused(DataError, 0, 2, 1, "positive"):
        carve_fold(films, 0, 2, seed=1)


def test_a_fold_that_a_patient_of_most_films_would_fill_is_refused():
    films = [film(f"{n}.png", n % 2, f"p{n // 2}") for n in range(40)]
    films += [film(f"big{n}.png", n % 2, "big") for n in range(160)]
    with refused(DataError, 0, 5, 0.2):
        carve_fold(films, 0, 5, 0)
