from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from messages import line_with, refused
from pair import run_pair
from sklearn.metrics import balanced_accuracy_score, recall_score

from cxrignite.errors import NonFiniteError
from cxrignite.functional.operating_point import select_operating_point
from cxrignite.handlers import ThresholdSearch


def scripted(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y_true = rng.integers(0, 2, size)
    y_score = 1 / (1 + np.exp(-(rng.normal(size=size) + 3 * y_true - 0.5)))
    return y_score.astype(np.float32), y_true


def run(search: ThresholdSearch, y_score, y_true, batch_size: int = 7) -> dict[str, float]:
    engine = Engine(lambda engine, batch: batch)
    search.attach(engine)
    scores = torch.as_tensor(np.asarray(y_score)).split(batch_size)
    labels = torch.as_tensor(np.asarray(y_true)).float().split(batch_size)
    return engine.run(list(zip(scores, labels, strict=True))).metrics


def test_it_publishes_the_operating_point_of_the_whole_epoch():
    y_score, y_true = scripted(0, 101)
    search = ThresholdSearch(min_tnr=0.9, min_threshold=0.6, fp_cost=2.0)
    metrics = run(search, y_score, y_true)
    point = select_operating_point(y_score, y_true, min_tnr=0.9, min_threshold=0.6, fp_cost=2.0)
    assert search.operating_point == point
    decided = y_score.astype(np.float64) >= metrics["threshold"]
    assert metrics["tnr"] == recall_score(y_true, decided, pos_label=0) >= 0.9
    assert metrics["tpr"] == recall_score(y_true, decided)
    assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y_true, decided))


def test_the_share_of_referred_images_is_published_if_two_thresholds_are_allowed():
    y_score, y_true = scripted(0, 101)
    limits = {"min_tnr": 0.99, "min_tpr": 0.99, "min_threshold": 0.0}
    metrics = run(ThresholdSearch(**limits, refer=True), y_score, y_true)
    point = select_operating_point(y_score, y_true, **limits, refer=True)
    between = (y_score >= point.lower_threshold) & (y_score < point.threshold)
    assert metrics["referred"] == point.referred == np.mean(between) > 0
    assert "referred" not in run(ThresholdSearch(**limits), y_score, y_true)


def test_the_threshold_is_found_again_every_epoch():
    engine = Engine(lambda engine, batch: (batch[0] / engine.state.epoch, batch[1]))
    search = ThresholdSearch(min_tnr=0.5, min_threshold=0.1)
    search.attach(engine)
    engine.run([(torch.tensor([0.2, 0.8]), torch.tensor([0.0, 1.0]))], max_epochs=2)
    assert search.operating_point.threshold == float(np.float32(0.8) / np.float32(2))


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_gives_nan_and_a_warning_and_no_crash(label, caplog):
    search = ThresholdSearch(min_tpr=0.9, refer=True)
    run(search, *scripted(0, 50))
    metrics = run(search, [0.2, 0.95], [label, label])
    assert all(math.isnan(value) for value in metrics.values())
    assert sorted(metrics) == sorted(search.publishes)
    assert search.operating_point is None
    assert search.state_dict() == {"operating_point": None}
    line_with("\n".join(caplog.messages), "threshold", 2, 1)


def test_a_constraint_that_cannot_be_met_is_infeasible_and_goes_on():
    search = ThresholdSearch(min_tnr=1.0, min_threshold=0.9)
    metrics = run(search, [0.99, 0.99, 0.1], [0, 1, 0])
    assert search.operating_point.status == "infeasible"
    assert metrics["tnr"] == 0.5


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"min_tnr": 1.5}, ["min_tnr", "[0, 1]", "1.5"]),
        ({"min_threshold": -0.1}, ["min_threshold"]),
        ({"fp_cost": 0.0}, ["fp_cost"]),
        ({"fn_cost": -1.0}, ["fn_cost"]),
        ({"confidence": 1.2}, ["confidence"]),
        ({"confidence": 0.95, "min_tnr": 1.0}, ["min_tnr", "[0, 1)", "1.0"]),
    ],
)
def test_a_wrong_setting_is_refused_before_there_is_data(settings, facts):
    with refused(ValueError, *facts):
        ThresholdSearch(**settings)


def test_with_a_confidence_and_patients_it_certifies():
    y_score = np.r_[np.full(100, 0.125), np.full(10, 0.9375)]
    y_true = np.r_[np.zeros(100), np.ones(10)]
    index = torch.arange(110).flip(0)
    batch = (torch.tensor(y_score)[index], torch.tensor(y_true)[index], index)
    for images_a_patient, status in ((1, "certified"), (3, "infeasible")):
        patients = [str(number // images_a_patient) for number in range(110)]
        search = ThresholdSearch(confidence=0.95, patients=patients)
        engine = Engine(lambda engine, batch: batch[:2])
        search.attach(engine)
        engine.run([batch])
        assert search.operating_point.status == status
        assert search.operating_point == select_operating_point(
            y_score, y_true, confidence=0.95, patients=patients
        )


@pytest.mark.parametrize("index", [[0, 5], [-1, -1]])
def test_patients_need_the_index_of_each_image(index):
    search = ThresholdSearch(patients=["a", "b"])
    engine = Engine(lambda engine, batch: batch[:2])
    search.attach(engine)
    with refused(ValueError, "patients", 2, *index, "state.batch[2]"):
        engine.run([(torch.tensor([0.1, 0.9]), torch.tensor([0.0, 1.0]), torch.tensor(index))])


def test_scores_at_hand_can_be_searched_without_an_engine():
    y_score, y_true = scripted(1, 60)
    search = ThresholdSearch(min_tnr=0.5, min_threshold=0.1)
    point = search.select(y_score, y_true)
    assert point == select_operating_point(y_score, y_true, min_tnr=0.5, min_threshold=0.1)
    assert search.operating_point is None


def test_a_nan_score_stops_with_a_count():
    with refused(NonFiniteError, "1", "3"):
        run(ThresholdSearch(), [0.1, float("nan"), 0.9], [0, 0, 1])


def search_in_process(rank: int, world: int = 2) -> list[dict]:
    scores, labels = (torch.tensor(each) for each in scripted(3, 101))
    # As torch's DistributedSampler: padded with the first image, so that all ranks have as many.
    order = (torch.arange(101 + 101 % world) % 101)[rank::world]
    batches = [(scores[i], labels[i], i) for i in (order[:20], order[20:])]
    engine = Engine(lambda engine, batch: batch[:2])
    patients = [str(number // 2) for number in range(101)]
    search = ThresholdSearch(min_tnr=0.5, min_threshold=0.5, confidence=0.9, patients=patients)
    search.attach(engine)
    return [dict(engine.run(batches).metrics), search.state_dict()]


@pytest.mark.integration
@pytest.mark.usefixtures("_server")
def test_two_processes_find_exactly_what_one_finds(tmp_path):
    alone = search_in_process(0, 1)
    assert run_pair(search_in_process, tmp_path) == [alone, alone]
    y_score, y_true = scripted(3, 101)
    point = select_operating_point(
        y_score,
        y_true,
        min_tnr=0.5,
        min_threshold=0.5,
        confidence=0.9,
        patients=[number // 2 for number in range(101)],
    )
    assert alone[1]["operating_point"] == point.to_dict()
    assert point.status == "certified"


NAMES = ("Effusion", "Nodule", "Mass")


def of_findings(seed=0, size=300):
    """Scores and labels of three findings, of which a third is unknown."""
    rng = np.random.default_rng(seed)
    y_true = (rng.random((size, 3)) < [0.5, 0.3, 0.1]).astype(float)
    y_score = 1 / (1 + np.exp(-rng.normal(3 * y_true - 1.5)))
    y_true[rng.random(y_true.shape) < 1 / 3] = np.nan
    return y_score.astype(np.float32), y_true


def test_each_finding_has_its_own_threshold_from_its_known_labels():
    y_score, y_true = of_findings()
    search = ThresholdSearch(
        min_tnr=0.8,
        min_threshold=0.3,
        per_finding={"Nodule": {"min_tnr": 0.95, "min_threshold": 0.1}},
        findings=NAMES,
        patients=[str(number // 2) for number in range(150)] * 2,
    )
    engine = Engine(lambda engine, batch: batch[:2])
    search.attach(engine)
    parts = (torch.tensor(y_score), torch.tensor(y_true), torch.arange(len(y_true)))
    metrics = engine.run(list(zip(*(part.split(64) for part in parts), strict=True))).metrics
    assert len(search.operating_points) == 3
    assert search.operating_point is search.operating_points[0]
    assert set(metrics) == {f"{name}/{of}" for name in search.publishes for of in NAMES}
    for number, (name, point) in enumerate(zip(NAMES, search.operating_points, strict=True)):
        known = ~np.isnan(y_true[:, number])
        own = {"min_tnr": 0.95, "min_threshold": 0.1} if name == "Nodule" else {}
        expected = select_operating_point(
            y_score[known, number],
            y_true[known, number],
            patients=np.array(search.patients)[known],
            **{"min_tnr": 0.8, "min_threshold": 0.3, **own},
        )
        assert point == expected
        assert metrics[f"threshold/{name}"] == point.threshold
    state = search.state_dict()
    other = ThresholdSearch()
    other.load_state_dict(state)
    assert other.operating_points == search.operating_points


def test_a_finding_of_one_class_has_no_threshold_and_the_others_do(caplog):
    y_score, y_true = of_findings()
    y_true[:, 1] = np.nan
    search = ThresholdSearch(min_tnr=0.8, min_threshold=0.3, findings=NAMES)
    metrics = run(search, y_score, y_true, 64)
    assert [point is None for point in search.operating_points] == [False, True, False]
    assert math.isnan(metrics["tnr/Nodule"])
    assert metrics["tnr/Mass"] >= 0.8
    assert line_with("\n".join(caplog.messages), "Nodule")
    assert search.state_dict()["operating_points"][1] is None


def test_findings_without_names_are_numbered_and_wrong_names_are_refused():
    search = ThresholdSearch(min_tnr=0.8, min_threshold=0.3)
    assert "threshold/2" in run(search, *of_findings(), 64)
    with refused(ValueError, "3", "2"):
        run(ThresholdSearch(findings=NAMES[:2]), *of_findings(), 64)
    late = ThresholdSearch(per_finding={"Efusion": {"min_tnr": 0.5}})
    with refused(ValueError, "per_finding", "Effusion", "Efusion"):
        late.findings = NAMES


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"per_finding": {"Mass": {"min_tnr": 2}}}, ["Mass", "min_tnr", "2"]),
        ({"per_finding": {"Mass": {"min_tpr": 0.9, "tnr": 1}}}, ["Mass", "min_tnr", "tnr"]),
        ({"per_finding": {"Mass": {"confidense": 0.9}}}, ["Mass", "did you mean 'confidence'"]),
        ({"familywise": True}, ["familywise", "confidence"]),
    ],
)
def test_settings_of_findings_are_checked_at_once(settings, facts):
    with refused(ValueError, *facts):
        ThresholdSearch(**settings)


def test_familywise_certificates_are_made_at_a_higher_confidence():
    search = ThresholdSearch(0.8, 0.0, confidence=0.9, familywise=True, findings=NAMES)
    assert search.level == pytest.approx(1 - 0.1 / 3)
    run(search, *of_findings(), 64)
    assert [point.confidence for point in search.operating_points] == [search.level] * 3
    # A finding that requests no certificate takes no part, and joint limits divide its own share.
    search = ThresholdSearch(
        **{"min_tnr": 0.8, "min_tpr": 0.5, "confidence": 0.9, "familywise": True, "joint": True},
        per_finding={"Mass": {"confidence": None, "joint": False}},
        findings=NAMES,
    )
    assert search.level_of("Mass") is None
    assert search.level_of("Nodule") == pytest.approx(1 - 0.1 / 4)
    assert search.family_confidence_of("Mass") is None
    assert search.family_confidence_of("Nodule") == 0.9
    alone = ThresholdSearch(0.8, 0.0, confidence=0.9, familywise=True)
    assert alone.level == 0.9
    assert ThresholdSearch(0.8, 0.0, confidence=0.9).family_confidence_of(None) is None


def share_of_broken_families(num_runs: int, familywise: bool, num_findings: int = 14) -> float:
    """The share of simulated choices in which the true TNR of any finding is below its limit.

    The score of a negative is the distribution function of itself, so a threshold is its own true
    TNR. The scores of the findings of an image are correlated by pairs, and labels are missing.
    """
    rng = np.random.default_rng(7)
    names = [f"finding {number}" for number in range(num_findings)]
    # Sensitivity counts a hundred times as much: the lowest certified threshold is chosen.
    search = ThresholdSearch(
        0.9, 0.0, fn_cost=100, confidence=0.95, familywise=familywise, findings=names
    )
    broken = 0
    for _ in range(num_runs):
        y_score = rng.random((250, num_findings))
        y_score[:, 1::4] = y_score[:, ::4][:, : y_score[:, 1::4].shape[1]]
        y_true = (rng.random(y_score.shape) < 0.1).astype(float)
        y_score = np.where(y_true == 1, y_score**0.2, y_score)
        y_true[rng.random(y_true.shape) < 0.15] = np.nan
        engine = Engine(lambda engine, batch: batch)
        search.attach(engine)
        engine.run([(torch.tensor(y_score), torch.tensor(y_true))])
        assert all(point.status == "certified" for point in search.operating_points)
        broken += any(point.threshold < 0.9 for point in search.operating_points)
    return broken / num_runs


def test_a_few_simulated_families_of_certificates_hold():
    assert share_of_broken_families(40, familywise=True) <= 0.05
    assert share_of_broken_families(20, familywise=False) > 0.15


@pytest.mark.slow
def test_at_most_a_twentieth_of_a_thousand_simulated_families_is_broken():
    assert share_of_broken_families(1000, familywise=True) <= 0.05


@pytest.mark.parametrize("joint", [False, True])
def test_a_family_counts_both_certificates_of_a_finding(joint):
    search = ThresholdSearch(
        *(0.5, 0.3),
        confidence=0.95,
        min_tpr=0.5,
        joint=joint,
        familywise=True,
        findings=["a", "b", "c", "d"],
    )
    # Eight certificates, of which each may be broken.
    assert 8 * (1 - search.level_of("a")) == pytest.approx(0.05)
