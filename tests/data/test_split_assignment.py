import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from messages import missing, refused

from cxrignite.data import split_assignment
from cxrignite.data.leakage import leaked_pairs
from cxrignite.data.phantom import Phantom
from cxrignite.data.sources import ImageRecord
from cxrignite.data.split_assignment import split_off, split_off_fold
from cxrignite.errors import DataError, RecipeError

ROOT = Path("root")


def record(name: str, label: int, patient: str, split: str = "train", **fields) -> ImageRecord:
    return ImageRecord(str(ROOT / name), name, label, patient, split, **fields)


@pytest.fixture
def records(varied_images) -> list[ImageRecord]:
    return varied_images


def shares(records: list[ImageRecord]) -> dict[str, float]:
    train = [record for record in records if record.split in ("train", "val")]
    val = [record for record in train if record.split == "val"]
    return {
        "images": len(val) / len(train),
        "positive": sum(record.label for record in val) / sum(record.label for record in train),
    }


@pytest.mark.parametrize("fraction", [0.1, 0.15, 0.2, 0.3, 0.4, 0.5])
def test_the_share_is_met_in_both_classes(records, fraction):
    assigned = split_off(records, "val", fraction, seed=1)
    assert shares(assigned)["images"] == pytest.approx(fraction, rel=0.1)
    assert shares(assigned)["positive"] == pytest.approx(fraction, rel=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_a_patient_is_on_one_side(records, seed):
    assigned = split_off(records, "val", 0.15, seed)
    assert not leaked_pairs([record for record in assigned if record.split != "test"])
    patients = {
        split: {f.patient for f in assigned if f.split == split} for split in ("train", "val")
    }
    assert patients["train"].isdisjoint(patients["val"])
    assert all(patients.values())


def test_only_the_split_of_training_images_changes(records):
    assigned = split_off(records, "val", 0.15, seed=1)
    assert [record._replace(split="") for record in assigned] == [
        f._replace(split="") for f in records
    ]
    assert [f.name for f in assigned if f.split == "test"] == [
        f.name for f in records if f.split == "test"
    ]


def test_the_same_seed_gives_the_same_split_and_another_seed_another(records):
    first, again, other = (split_off(records, "val", 0.15, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_split_leaves_global_random_state_alone(records):
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    split_off(records, "val", 0.15, seed=1)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("fraction", [0.0, -0.1, 0.51, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused(records, fraction):
    with refused(RecipeError, "val", "(0, 0.5]", fraction):
        split_off(records, "val", fraction, seed=1)


def test_a_negative_seed_is_refused(records):
    with refused(RecipeError, "seed", "0", "-1"):
        split_off(records, "val", 0.15, seed=-1)


def test_too_few_patients_of_a_class_are_counted(records):
    few = [f for f in records if f.label == 1 or f.patient in ("0-1", "0-2", "0-3")]
    with refused(DataError, "val", 7, 3, "negative"):
        split_off(few, "val", 0.15, seed=1)


def test_one_class_only_is_refused(records):
    with refused(DataError, "val", 7, 0, "negative"):
        split_off([f for f in records if f.label == 1], "val", 0.15, seed=1)


def test_a_second_validation_split_is_refused(records):
    with refused(DataError, "'val'"):
        split_off(split_off(records, "val", 0.15, seed=1), "val", 0.15, seed=1)


def test_a_patient_that_outweighs_the_rest_is_refused():
    records = [record(f"{label}-{n}", label, f"{label}-{n}") for label in (0, 1) for n in range(10)]
    records += [record(f"big-{n}", n % 2, "big") for n in range(200)]
    refusals = []
    for seed in range(10):
        try:
            assigned = split_off(records, "val", 0.2, seed)
        except DataError as error:
            refusals.append(str(error))
        else:
            assert shares(assigned)["images"] == pytest.approx(0.2, rel=0.5)
    assert refusals
    for text in refusals:  # the share is not met, or a class is in one of the two alone
        assert missing(text, ["val", 0.2]) == [] or missing(text, ["train", "val"]) == []


def test_folds_are_as_even_as_their_number_says(records):
    counts = Counter(f.split for f in split_off(records, "val", 0.15, seed=3))
    assert counts["val"] == pytest.approx((counts["val"] + counts["train"]) / 7, rel=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_a_calibration_split_is_split_beside_the_validation_split(records, seed):
    assigned = split_off(split_off(records, "val", 0.1, seed), "calibration", 0.2, seed)
    assert not leaked_pairs([record for record in assigned if record.split != "test"])
    counts = Counter(record.split for record in assigned)
    pool = counts["train"] + counts["val"] + counts["calibration"]
    assert counts["val"] / pool == pytest.approx(0.1, rel=0.1)
    assert counts["calibration"] / (pool - counts["val"]) == pytest.approx(0.2, rel=0.1)
    assert split_off(split_off(records, "val", 0.1, seed), "calibration", 0.2, seed) == assigned


def many_patients(num_images: int) -> list[ImageRecord]:
    return [
        ImageRecord("a.png", f"{number}.png", int(number % 4 > 0), f"p{number // 3}", "train")
        for number in range(num_images)
    ]


def test_more_patients_than_can_be_stratified_are_drawn_as_evenly(monkeypatch):
    monkeypatch.setattr(split_assignment, "MAX_STRATIFIED_PATIENTS", 500)
    records = many_patients(6000)
    assigned = split_off(records, "val", 0.2, seed=3)
    assert [record.name for record in assigned] == [record.name for record in records]
    assert not leaked_pairs(assigned)
    for label in (0, 1):
        labelled = [record for record in assigned if record.label == label]
        share = sum(record.split == "val" for record in labelled) / len(labelled)
        assert share == pytest.approx(0.2, abs=0.01)
    assert split_off(records, "val", 0.2, seed=3) == assigned
    assert split_off(records, "val", 0.2, seed=4) != assigned


def test_up_to_the_limit_patients_are_stratified(monkeypatch):
    records = many_patients(1500)
    stratified = split_off(records, "val", 0.2, seed=3)
    monkeypatch.setattr(split_assignment, "MAX_STRATIFIED_PATIENTS", 499)
    assert split_off(records, "val", 0.2, seed=3) != stratified
    monkeypatch.setattr(split_assignment, "MAX_STRATIFIED_PATIENTS", 500)
    assert split_off(records, "val", 0.2, seed=3) == stratified


def with_digests(records: list[ImageRecord]) -> list[ImageRecord]:
    return [record.hashed(f"{number:064x}") for number, record in enumerate(records)]


def digest_of(records: list[ImageRecord]) -> str:
    text = "\n".join(f"{record.name} {record.split}" for record in records)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def assigned_twice(records: list[ImageRecord], seed: int) -> list[ImageRecord]:
    return split_off(split_off(records, "val", 0.15, seed), "calibration", 0.2 / 0.85, seed)


@pytest.mark.parametrize(("seed", "digest"), [(0, "0d4cddba5568cb1a"), (42, "23bfcdd74339375a")])
def test_without_shared_files_a_stratified_split_is_what_it_always_was(tmp_path, seed, digest):
    # The digests were taken before patients with files in common were joined.
    records = Phantom(tmp_path, num_train=800, num_test=100)._plan()
    assert digest_of(assigned_twice(records, seed)) == digest
    assert digest_of(assigned_twice(with_digests(records), seed)) == digest


@pytest.mark.parametrize(("seed", "digest"), [(0, "cd809f2ba043b6f1"), (42, "95a6831272b2d569")])
def test_without_shared_files_a_drawn_split_is_what_it_always_was(seed, digest):
    records = many_patients(75_000)
    assert digest_of(assigned_twice(with_digests(records), seed)) == digest


@pytest.fixture
def twins(records) -> list[ImageRecord]:
    """Images with 60 pairs of identical files of two patients of one class, some in chains."""
    records, random = with_digests(records), np.random.default_rng(7)
    train = [number for number, record in enumerate(records) if record.split == "train"]
    for label in (0, 1):
        members = [number for number in train if records[number].label == label]
        for first, second in random.choice(members, (30, 2), replace=False).tolist():
            records[second] = records[second].hashed(records[first].sha256)
    assert sum(count > 1 for count in Counter(record.sha256 for record in records).values()) == 60
    return records


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("most_stratified", [20_000, 100])
def test_identical_files_of_two_patients_stay_together(twins, seed, most_stratified, monkeypatch):
    unjoined = [record.hashed("") for record in twins]
    monkeypatch.setattr(split_assignment, "MAX_STRATIFIED_PATIENTS", most_stratified)
    contents = [record.sha256 for record in twins]
    apart = zip(split_off(unjoined, "val", 0.2, seed), contents, strict=True)
    assert leaked_pairs([record.hashed(content) for record, content in apart])
    assert not leaked_pairs(split_off(twins, "val", 0.2, seed))
    for index in range(4):
        assert not leaked_pairs(split_off_fold(twins, index, 4, seed))


def test_patients_joined_through_a_chain_stay_together():
    others = [
        record(f"{label}-{n}", label, f"{label}-{n}", sha256=f"o{label}{n}")
        for label in (0, 1)
        for n in range(20)
    ]
    # p0 and p1 share a file, p1 and p2 another, ...: one group of 6, whatever the order.
    chain = [
        record(f"c{n}-{side}", 0, f"p{n}", sha256=f"c{n + side}")
        for n in range(6)
        for side in (0, 1)
    ]
    for seed in range(12):
        order = np.random.default_rng(seed).permutation(52)
        shuffled = [(others + chain)[index] for index in order]
        assigned = split_off(shuffled, "val", 0.3, seed)
        assert len({record.split for record in assigned if record.name.startswith("c")}) == 1


def folds_of(records: list[ImageRecord], num_folds: int, seed: int) -> list[set[str]]:
    return [
        {f.name for f in split_off_fold(records, index, num_folds, seed) if f.split == "val"}
        for index in range(num_folds)
    ]


@pytest.mark.parametrize("most_stratified", [20_000, 100])
@pytest.mark.parametrize("num_folds", [2, 5, 10])
def test_over_all_folds_each_training_image_is_validated_once(
    records, num_folds, most_stratified, monkeypatch
):
    monkeypatch.setattr(split_assignment, "MAX_STRATIFIED_PATIENTS", most_stratified)
    folds = folds_of(records, num_folds, seed=3)
    train = [record.name for record in records if record.split == "train"]
    assert sorted(name for fold in folds for name in fold) == sorted(train)
    patients = [{record.patient for record in records if record.name in fold} for fold in folds]
    assert sum(map(len, patients)) == len(set().union(*patients)) == 300
    assert folds == folds_of(records, num_folds, seed=3)
    assert folds != folds_of(records, num_folds, seed=4)


@pytest.mark.parametrize("most_stratified", [20_000, 100])
def test_folds_have_the_share_of_each_class(records, most_stratified, monkeypatch):
    monkeypatch.setattr(split_assignment, "MAX_STRATIFIED_PATIENTS", most_stratified)
    for label in (0, 1):
        names = {f.name for f in records if f.split == "train" and f.label == label}
        for fold in folds_of(records, 5, seed=1):
            # Drawn ones differ by about a patient.
            assert len(fold & names) == pytest.approx(
                len(names) / 5, abs=2 if most_stratified > 100 else 9
            )


def test_a_fold_moves_training_images_alone(records):
    assigned = split_off_fold(records, 1, 5, seed=1)
    assert [record._replace(split="") for record in assigned] == [
        f._replace(split="") for f in records
    ]
    tested = {record.name for record in records if record.split == "test"}
    assert {record.name for record in assigned if record.split == "test"} == tested


@pytest.mark.parametrize(
    ("index", "num_folds", "facts"),
    [
        (0, 1, ["2", "1"]),
        (5, 5, ["index", "[0, 5)", "5"]),
        (-1, 5, ["index", "[0, 5)", "-1"]),
    ],
)
def test_a_fold_that_is_none_is_refused(records, index, num_folds, facts):
    with refused(RecipeError, *facts):
        split_off_fold(records, index, num_folds, seed=1)


def test_more_folds_than_patients_of_a_class_are_refused(records):
    with refused(DataError, 0, 101, 100, "negative"):
        split_off_fold(records, 0, 101, seed=1)


def test_joined_patients_count_as_one():
    records = [
        record(f"{label}-{n}", label, f"{label}-{n}", sha256=str(label or n))
        for label in (0, 1)
        for n in range(10, 20)
    ]
    with refused(DataError, 0, 2, 1, "positive"):
        split_off_fold(records, 0, 2, seed=1)


def test_a_fold_that_a_patient_of_most_images_would_fill_is_refused():
    records = [record(f"{n}.png", n % 2, f"p{n // 2}") for n in range(40)]
    records += [record(f"big{n}.png", n % 2, "big") for n in range(160)]
    with refused(DataError, 0, 5, 0.2):
        split_off_fold(records, 0, 5, 0)


NAMES = ["Common", "Usual", "Seldom", "Rare"]


def several_findings(num_patients: int, seed: int = 0, unknown: float = 0.1) -> list[ImageRecord]:
    """Images with four findings, of 1 to 8 each; patients tend to have several at once."""
    random = np.random.default_rng(seed)
    result = []
    for patient in range(num_patients):
        is_ill = random.random() < 0.5
        for view in range(min(8, random.geometric(0.5))):
            truth = random.random(4) < np.array([0.3, 0.1, 0.04, 0.008]) * (1.8 if is_ill else 0.2)
            label = np.where(random.random(4) < unknown, -1, truth.astype(int))
            name = f"{patient}-{view}.png"
            result.append(record(name, tuple(label.tolist()), f"p{patient}"))
    return result


def known_in(records: list[ImageRecord], split: str) -> np.ndarray:
    """Negatives and positives of each finding in a split."""
    labels = np.array([record.label for record in records if record.split == split])
    return np.array([(labels == value).sum(axis=0) for value in (0, 1)])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("most_stratified", [20_000, 100])
def test_the_share_is_met_for_each_of_several_findings(seed, most_stratified, monkeypatch):
    monkeypatch.setattr(split_assignment, "MAX_STRATIFIED_PATIENTS", most_stratified)
    records = several_findings(2000, seed)
    assigned = split_off(records, "val", 0.2, seed, NAMES)
    assert not leaked_pairs(assigned)
    assert [f._replace(split="") for f in assigned] == [f._replace(split="") for f in records]
    share = known_in(assigned, "val") / known_in(records, "train")
    assert share[:, :3] == pytest.approx(0.2, abs=0.01)
    assert share[:, 3] == pytest.approx(0.2, abs=0.05)  # about 30 images
    assert shares_of_images(assigned) == pytest.approx(0.2, abs=0.005)
    assert split_off(records, "val", 0.2, seed, NAMES) == assigned
    assert split_off(records, "val", 0.2, seed + 1, NAMES) != assigned


def shares_of_images(records: list[ImageRecord]) -> float:
    return sum(record.split == "val" for record in records) / len(records)


def test_three_splits_have_every_finding():
    records = several_findings(2000)
    for split, fraction in (("test", 0.2), ("val", 0.15 / 0.8), ("calibration", 0.2 / 0.65)):
        records = split_off(records, split, fraction, 1, NAMES)
    for split in ("train", "val", "calibration", "test"):
        assert known_in(records, split).min() >= 3


@pytest.mark.parametrize("num_folds", [2, 5])
def test_over_all_folds_each_image_of_several_findings_is_validated_once(num_folds):
    records = several_findings(800)
    validated = []
    for index in range(num_folds):
        assigned = split_off_fold(records, index, num_folds, 3, NAMES)
        assert not leaked_pairs(assigned)
        validated += [f.name for f in assigned if f.split == "val"]
        share = known_in(assigned, "val") / known_in(records, "train")
        assert share[:, :3] == pytest.approx(1 / num_folds, abs=0.04)
    assert sorted(validated) == sorted(record.name for record in records)


def test_exclusive_classes_are_split_evenly():
    labels = [(0, 0)] * 300 + [(1, 0)] * 150 + [(0, 1)] * 40
    records = [record(f"{n}.png", label, f"p{n}") for n, label in enumerate(labels)]
    counts = Counter(
        f.label for f in split_off(records, "val", 0.2, 0, NAMES[:2]) if f.split == "val"
    )
    assert counts == {(0, 0): 60, (1, 0): 30, (0, 1): 8}


@pytest.mark.parametrize(("num_patients", "is_enough"), [(1, False), (2, False), (5, True)])
def test_a_rare_finding_is_in_both_splits_or_named(num_patients, is_enough):
    labels = [(n % 2, int(n < num_patients)) for n in range(200)]
    records = [record(f"{n}.png", label, f"p{n}") for n, label in enumerate(labels)]
    for seed in range(10):
        if is_enough:
            assigned = split_off(records, "val", 0.15, seed, ["Usual", "Rare"])
            assert min(known_in(assigned, split)[1, 1] for split in ("train", "val")) >= 1
        else:
            with refused(DataError, "'Rare'", "val", 0.15, num_patients, 200 - num_patients):
                split_off(records, "val", 0.15, seed, ["Usual", "Rare"])


@pytest.mark.parametrize(("num_patients", "num_refused"), [(1, 5), (2, 3), (5, 0)])
def test_a_fold_without_a_rare_finding_is_refused(num_patients, num_refused):
    labels = [(n % 2, int(n < num_patients)) for n in range(200)]
    records = [record(f"{n}.png", label, f"p{n}") for n, label in enumerate(labels)]
    refusals = []
    for index in range(5):
        try:
            split_off_fold(records, index, 5, 0, ["Usual", "Rare"])
        except DataError as error:
            refusals.append(str(error))
    assert len(refusals) == num_refused
    for text in refusals:
        assert missing(text, ["'Rare'", "fold", num_patients]) == []


def test_a_finding_without_known_negatives_in_a_split_is_named():
    labels = [(n % 2, 1 if n % 3 else -1) for n in range(90)] + [(0, 0)]
    records = [record(f"{n}.png", label, f"p{n}") for n, label in enumerate(labels)]
    with refused(DataError, "'Frequent'", 0, 60, "1"):
        split_off(records, "val", 0.2, 0, ["Usual", "Frequent"])


def test_a_finding_that_nobody_is_known_to_have_does_not_stop_a_split():
    records = [record(f"{n}.png", (n % 2, -(n % 3 == 0)), f"p{n}") for n in range(60)]
    assigned = split_off(records, "val", 0.2, 0, ["Usual", "Never"])
    assert known_in(assigned, "val")[:, 0].tolist() == [6, 6]


def test_identical_files_stay_together_with_several_findings():
    records = with_digests(several_findings(300))
    for number in range(0, 120, 4):
        records[number + 2] = records[number + 2].hashed(records[number].sha256)
    assigned = split_off(records, "val", 0.3, 1, NAMES)
    splits = {}
    for each in assigned:
        splits.setdefault(each.sha256, set()).add(each.split)
    assert all(len(each) == 1 for each in splits.values())
    assert not leaked_pairs(assigned)
