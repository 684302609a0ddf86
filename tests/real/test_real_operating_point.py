"""What the operating point is worth on real X-rays: a trained baseline, from end to end."""

import csv
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from results import finding, point

from cxrignite.cli import run
from cxrignite.functional import select_operating_point

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def baseline(chest_xray, recipes_dir, tmp_path_factory) -> Path:
    """`recipes/baseline_cnn.yaml` trained and tested: three minutes on two cores with AMX."""
    folder = tmp_path_factory.mktemp("baseline") / "run"
    recipe = ["--config", str(recipes_dir / "baseline_cnn.yaml"), "--run_dir", str(folder)]
    assert run(["fit", *recipe, "--data.source.root", str(chest_xray)]) == 0
    assert run(["test", "--run", str(folder)]) == 0
    return folder


@pytest.fixture
def say(capsys):
    """Show a figure that was measured, whatever pytest captures."""

    def show(*figures) -> None:
        with capsys.disabled():
            sys.stdout.write("\n" + "\n".join(map(str, figures)))

    return show


@dataclass
class Predictions:
    """The test images' scores."""

    patient: np.ndarray
    label: np.ndarray
    score: np.ndarray

    def __init__(self, path: Path) -> None:
        with path.open() as file:
            rows = list(csv.DictReader(file))
        self.patient = np.array([row["patient"] for row in rows])
        self.label = np.array([int(row["label"]) for row in rows])
        self.score = np.array([float(row["score"]) for row in rows])


def test_the_calibration_split_gives_a_certificate_or_an_honest_infeasible(baseline, say):
    chosen = point(baseline / "operating_point.json")
    names = ("threshold", "status", "tnr", "tpr", "tnr_lower_bound", "num_negative_patients")
    say({name: chosen[name] for name in names})
    assert chosen["status"] in ("certified", "infeasible")
    if chosen["status"] == "certified":
        assert chosen["tnr_lower_bound"] >= 0.93


def test_the_shift_check_fires_on_the_test_images_and_invalidates_the_certificate(baseline, say):
    metrics = finding(baseline / "metrics" / "test.json")
    certificate = metrics["certificate"]
    say(metrics["shift"], certificate)
    assert metrics["shift"]["is_detected"]
    assert certificate["is_shifted"]
    low, high = certificate["tnr"]["interval"]
    assert low <= certificate["tnr"]["value"] <= high


def test_recalibrated_on_half_of_the_patients_the_other_half_keeps_the_tnr(baseline, say):
    """100 random halvings by patient, as `recalibrate --share 0.5` makes them."""
    records = Predictions(baseline / "predictions" / "test.csv")
    patients = np.unique(records.patient)
    kept, rates, statuses = 0, [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        chosen = np.isin(records.patient, rng.choice(patients, len(patients) // 2, replace=False))
        selected = select_operating_point(
            records.score[chosen],
            records.label[chosen],
            confidence=0.95,
            min_threshold=0.9,
            patients=records.patient[chosen],
        )
        statuses.append(selected.status)
        others = records.score[~chosen & (records.label == 0)]
        rates.append(float(np.mean(others < selected.threshold)))
        kept += rates[-1] >= 0.93
    say(f"kept in {kept} of 100", f"median TNR {np.median(rates):.3f}", Counter(statuses))
    assert kept >= 90
