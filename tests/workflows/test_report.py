import base64
import csv
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.stats import binomtest

from cxrignite.errors import CxrIgniteError, RunFolderError
from cxrignite.workflows.report import MAX_PAGE_BYTES, misses, write_report
from cxrignite.workflows.report.misses import MAX_MISSES

CLASSES = ["NORMAL", "PNEUMONIA"]
SUREST = "test/PNEUMONIA/film 4.png"
"""The miss that lies farthest from the threshold."""

VOID_TAGS = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """What a browser makes of a page: its text, its tags, and whether they are nested rightly."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.words, self.tags, self.attributes, self.open, self.cells = [], [], [], [], []
        self.feed(self.source)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).replace("\xa0", " ").split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID_TAGS:
            self.open.append(tag)
        if tag in {"td", "th"}:
            self.cells.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.cells[-1].append(data)

    @property
    def cell_texts(self):
        return [" ".join(" ".join(cell).replace("\xa0", " ").split()) for cell in self.cells]


def point_of(**changes):
    return {
        "threshold": 0.9,
        "verdict": "certified",
        "tnr": 0.975,
        "tpr": 0.9,
        "num_negative": 80,
        "num_positive": 60,
        "num_false_positive": 2,
        "num_false_negative": 6,
        "tnr_lower_bound": 0.94,
        "min_tnr": 0.93,
        "min_threshold": 0.9,
        "fp_cost": 2.0,
        "fn_cost": 1.0,
        "confidence": 0.95,
        "num_negatives_needed": 90,
        "num_negative_patients": 70,
        "note": "",
        "chosen_on": "calibration",
        "threshold_natural": 0.978,
        "imbalance": {
            "num_negative": 1349,
            "num_positive": 3883,
            "prevalence": 0.742,
            "sampled_prevalence": 0.5,
            "pos_weight": 0.589,
            "seen_prevalence": 0.371,
            "logit_shift": -1.586,
        },
        "scaling": {"platt": None, "temperature": None},
        "weights_sha256": "ab" * 32,
        **changes,
    }


def decisions_of(threshold, tn, fp, fn, tp):
    rates = {"tnr": tn / (tn + fp), "tpr": tp / (tp + fn), "ppv": tp / (tp + fp), "npv": 0.8}
    return {
        "threshold": threshold,
        **{"tn": tn, "fp": fp, "fn": fn, "tp": tp},
        **rates,
        "balanced_accuracy": 0.85,
        "accuracy": 0.84,
        "intervals": {"tnr": [0.71, 0.91], "tpr": [0.81, 0.96]},
        "patient_intervals": {"tnr": [0.7, 0.92], "balanced_accuracy": [0.8, 0.9]},
    }


def metrics_of(point, **changes):
    scale = {"brier": 0.1, "log_loss": 0.3, "ece": 0.05}
    scale |= {"calibration_slope": 0.8, "calibration_intercept": -0.2, "bins": []}
    scale["patient_intervals"] = {"brier": [0.08, 0.12]}
    return {
        "num_images": 110,
        "num_negative": 50,
        "num_positive": 60,
        "num_patients": 90,
        "roc_auc": 0.96,
        "average_precision": 0.97,
        "intervals": {"roc_auc": [0.93, 0.98]},
        "patient_intervals": {"roc_auc": [0.92, 0.985]},
        "at_half": decisions_of(0.5, 35, 15, 2, 58),
        "at_threshold": decisions_of(0.9, 48, 2, 6, 54) | {"intervals": {"tnr": [0.86, 0.995]}},
        "operating_point": point,
        "calibration": {"raw": scale, "natural": None},
        "subgroups": [
            {
                "attribute": "subgroup",
                "value": "virus",
                "num_images": 30,
                "num_negative": 0,
                "num_positive": 30,
                "num_patients": 25,
                "tnr": None,
                "tpr": 0.9,
                "roc_auc": None,
                "intervals": {"tpr": [0.73, 0.98]},
            }
        ],
        "shift": None,
        "certificate": None,
        "num_looks": 1,
        **changes,
    }


VOID = {
    "verdict": "certified",
    "min_tnr": 0.93,
    "confidence": 0.95,
    "observed_tnr": 0.7,
    "interval": [0.55, 0.82],
    "is_contradicted": True,
    "is_void": True,
    "reasons": ["the observed TNR lies below what was certified"],
}
SHIFT = {
    "roc_auc": 0.887,
    "interval": [0.85, 0.918],
    "num_reference": 80,
    "num_films": 50,
    "is_detected": True,
}


class Run:
    """A run folder of a few films, written by the schema of the run folder."""

    def __init__(self, root):
        self.root = root / "run"
        self.films_root = root / "films"
        self.point = point_of()
        rows = [self._film("train", label, number) for label in (0, 1) for number in range(4)]
        self.scored = []
        for label, number in itertools.product((0, 1), range(6)):
            row = self._film("test", label, number)
            rows.append(row)
            score = (0.3, 0.95, 0.9, 0.899, 0.2, 0.991)[number]
            self.scored.append((row[0], row[1], label, score, "", ""))
        self.csv("split.csv", ["path", "label", "patient", "split", "sha256", "attr_subgroup"], [])
        self.films = rows
        self.write_split()
        self.write_predictions("test", self.scored)
        self.json("operating_point.json", self.point)
        for name in ("val", "calibration", "test"):
            self.json(f"metrics/{name}.json", metrics_of(self.point))
        start = {"cxrignite": "0.1.0", "python": "3.11.7", "packages": {"torch": "2.14.1"}}
        start |= {"command": ["cxrignite", "--run_dir", str(self.root)], "device": "cpu"}
        self.json("environment.json", {"starts": [start]})
        best = {"epoch": 2, "metric": "val_roc_auc", "score": 0.97, "size": 1, "sha256": "ab" * 32}
        self.json("checkpoints/best.json", best)
        self.csv("history.csv", ["epoch", "loss", "epoch_seconds"], [(1, 0.5, 15), (2, 0.3, 17)])
        self.recipe = {
            "data": {
                "source": {
                    "class_path": "cxrignite.data.ClassFolders",
                    "init_args": {"root": str(self.films_root), "classes": CLASSES},
                },
                "val_fraction": 0.15,
            },
            "model": {
                "class_path": "cxrignite.nn.LightCNN",
                "init_args": {"width": 32, "weights": str(root / "secret" / "weights.pt")},
            },
            "trainer": {"max_epochs": 3},
            "seed": 42,
            "run_dir": str(self.root),
        }
        self.write_recipe()
        for name in ("roc_test", "precision_recall_test", "reliability_test", "samples_train"):
            self.picture(self.root / "figures" / f"{name}.png", np.full((20, 30), 200, np.uint8))
        for path, *_ in self.scored:
            self.picture(self.films_root / path, np.full((40, 50), 90, np.uint8))

    def _film(self, split, label, number):
        patient = f"{split}-{CLASSES[label]}-{number // 2}"
        name = f"{split}/{CLASSES[label]}/film {number}.png"
        digest = hashlib.sha256(name.encode()).hexdigest()
        # Films carry the columns of predictions first: path, patient.
        return (name, patient, label, split, digest, "virus" if label else "")

    def write_split(self):
        columns = ["path", "label", "patient", "split", "sha256", "attr_subgroup"]
        rows = [(path, label, patient, *rest) for path, patient, label, *rest in self.films]
        self.csv("split.csv", columns, rows)

    def write_predictions(self, name, rows):
        columns = ["path", "patient", "label", "score", "natural_score", "decision"]
        self.csv(f"predictions/{name}.csv", columns, rows)

    def write_recipe(self):
        (self.root / "recipe.yaml").write_text(yaml.safe_dump(self.recipe), encoding="utf-8")

    def csv(self, name, columns, rows):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *rows])

    def json(self, name, content):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")

    def picture(self, path, pixels):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, "PNG")

    def decide(self, **changes):
        """Another operating point, in its own file and in the figures of every set of films."""
        self.point = point_of(**changes)
        self.json("operating_point.json", self.point)
        for path in (self.root / "metrics").glob("*.json"):
            self.json(f"metrics/{path.name}", metrics_of(self.point))

    def explain(self, rows=None, *, name="test", **changes):
        """What `explain` leaves: a map of every film that was scored, all of them red."""
        for number, _ in enumerate(self.scored):
            self.overlay(f"{number}.png", (250, 20, 20), name)
        self.write_maps(rows or self.map_rows(), name)
        about = {"weights_sha256": "ab" * 32, "method": "grad_cam", "target_layer": "backbone.4"}
        about |= {"target_class": "PNEUMONIA", "threshold": 0.9, "faithfulness": None}
        self.json(f"explain/{name}/explain.json", about | changes)

    def overlay(self, file, colour, name="test"):
        self.picture(self.root / "explain" / name / file, np.full((32, 32, 3), colour, np.uint8))

    def map_rows(self, **changes):
        """The rows of `explain.csv`; `changes` are of the first miss, the surest one."""
        rows = []
        for number, (path, patient, label, score, *_) in enumerate(self.scored):
            row = {"path": path, "patient": patient, "label": label, "score": score}
            row |= {"threshold": 0.9, "decision": int(score >= 0.9), "selection": "wrong"}
            row |= {"raw_max": 1.5, "picture": f"{number}c.png", "overlay": f"{number}.png"}
            rows.append(row | (changes if path == SUREST else {}))
        return rows

    def write_maps(self, rows, name="test"):
        self.csv(f"explain/{name}/explain.csv", list(rows[0]), [list(row.values()) for row in rows])

    def page(self, **options):
        return Page(write_report(self.root, **options))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_a_certified_threshold_says_what_is_certified_for_whom_and_how_surely(run):
    text = run.page().text
    assert (
        "Certified With 95 % confidence, at least 93 % of NORMAL patients have every film below "
        "the threshold, if their films are like the ones it was chosen on." in text
    )
    assert (
        "raw score; natural score 0.9780 , a probability where as many are positive as in training"
        in text
    )
    assert "nothing is promised of it" in text.partition("Sensitivity seen on the")[2][:80]
    assert "Warning" not in text


def test_a_certificate_by_film_does_not_speak_of_patients(run):
    run.decide(num_negative_patients=80)
    assert (
        "With 95 % confidence, at least 93 % of NORMAL films like the ones it was chosen on stay "
        "below the threshold." in run.page().text
    )


def test_an_empirical_threshold_promises_nothing_and_says_why(run):
    run.decide(verdict="empirical", note="the validation split chose the weights too")
    text = run.page().text
    assert "Not certified: met on the sample only 97.5 % of the 80 NORMAL films (70 pati" in text
    assert "no promise for others" in text
    assert "Why it is not certified: the validation split chose the weights too" in text
    assert "Specificity promised nothing asked for: 93 %" in text
    assert "Not where a specificity has to be guaranteed" in text


def test_an_infeasible_threshold_says_how_many_negatives_are_missing(run):
    run.decide(verdict="infeasible", num_negative_patients=30, num_negatives_needed=42)
    text = run.page().text
    assert "Not met No threshold of at least 0.9000 could be shown to keep 93 %" in text
    assert (
        "needs at least 42 NORMAL patients with no more false alarms than here; there were 30"
        in text
    )
    assert "Certified" not in text


@pytest.mark.parametrize("point", [None, point_of(threshold=None), {"verdict": "certified"}, {}])
def test_without_a_threshold_only_decisions_at_one_half_are_shown(run, point):
    run.json("operating_point.json", point)
    figures = metrics_of(None)
    del figures["at_threshold"], figures["operating_point"]
    for name in ("val", "calibration", "test"):
        run.json(f"metrics/{name}.json", figures)
    page = run.page()
    assert "No operating point" in page.text
    assert "Chosen threshold" not in page.text
    assert "Certified" not in page.text
    assert "35 true negatives 70.0 %" in page.text
    assert "At the threshold 0.5000" in page.text


def test_a_contradicted_certificate_is_told_before_any_figure(run):
    run.json("metrics/test.json", metrics_of(run.point, certificate=VOID, shift=SHIFT))
    text = run.page().text
    assert "Certified for the films it was chosen on, and not for films scored since" in text
    warning = text.index("Warning. The certificate is void for the test films: they contradict it.")
    assert warning < text.index("Specificity promised")
    assert "the observed TNR lies below what was certified" in text
    assert "Not on films like those for which the certificate is void" in text
    assert text.count("Warning.") == 1


def test_where_nothing_was_certified_no_certificate_is_called_void(run):
    run.decide(verdict="empirical", confidence=None)
    judged = VOID | {"verdict": "empirical", "is_void": False}
    figures = metrics_of(run.point, certificate=judged, shift=SHIFT)
    figures["at_threshold"] |= {"tnr": 0.7, "intervals": {"tnr": [0.55, 0.82]}}
    run.json("metrics/test.json", figures)
    text = run.page().text
    assert "Warning. The test films get less specificity than was asked for." in text
    assert "an AUC of 0.89 (95 % interval 0.85 to 0.92)" in text
    assert "void" not in text
    assert "contradict" not in text


def test_a_sites_void_certificate_leaves_the_runs_own_as_it_is(run):
    figures = metrics_of(point_of(threshold=0.95, chosen_on="site-a"), certificate=VOID)
    run.json("metrics/test-site-a.json", figures)
    text = run.page().text
    assert "Warning. The certificate is void for the test-site-a films" in text
    assert "threshold of site-a; contradicts the certificate" in text
    assert "Certified With 95 % confidence" in text


def test_a_threshold_of_other_weights_is_told(run):
    assert "other weights" not in run.page().text
    run.decide(weights_sha256="ef" * 32)
    assert "The threshold belongs to other weights than this run has." in run.page().text


def test_a_shift_alone_is_a_warning_of_its_own(run):
    run.json("metrics/test.json", metrics_of(run.point, shift=SHIFT))
    assert "Warning. The test films look different to the model." in run.page().text
    run.json("metrics/test.json", metrics_of(run.point, shift={**SHIFT, "is_detected": False}))
    assert "Warning" not in run.page().text


@pytest.mark.parametrize(
    ("ends", "reading", "num_warnings"),
    [
        ([0.70, 0.9299], "below the 93 % asked for, with its whole interval", 1),
        ([0.70, 0.93], "below the 93 % asked for, which its interval reaches", 0),
    ],
)
def test_less_than_was_asked_for_warns_once_chance_is_no_excuse(run, ends, reading, num_warnings):
    run.decide(verdict="empirical", confidence=None)
    figures = metrics_of(run.point)
    figures["at_threshold"] |= {"tnr": 0.85, "intervals": {"tnr": ends}}
    run.json("metrics/test.json", figures)
    text = run.page().text
    assert reading in text
    assert text.count("Warning.") == num_warnings


def test_figures_of_another_threshold_are_called_stale_but_a_sites_own_threshold_is_not(run):
    run.json("metrics/site-a.json", metrics_of(point_of(threshold=0.95, chosen_on="site-a")))
    assert "another threshold" not in run.page().text
    run.json("metrics/test.json", metrics_of(point_of(threshold=0.97)))
    assert "figures of the test films belong to another threshold" in run.page().text


def test_an_untested_run_shows_validation_and_says_so(run):
    (run.root / "metrics" / "test.json").unlink()
    run.write_predictions("val", run.scored[:2])
    text = run.page().text
    assert "The test split has not been looked at." in text
    assert "not looked at" in text
    assert "Decisions on the validation films" in text
    assert "What the model got wrong on the validation films" in text


def test_a_run_without_test_films_says_that_there_is_no_test_split(run):
    (run.root / "metrics" / "test.json").unlink()
    run.films = [film for film in run.films if film[3] != "test"]
    run.write_split()
    assert "There is no test split." in run.page().text


def test_sites_show_their_own_operating_point(run):
    site = point_of(threshold=0.953, chosen_on="site-a", verdict="infeasible")
    run.json("operating_points/site-a.json", site)
    text = run.page().text
    assert "Operating point of site-a: Not met" in text
    assert "Threshold 0.9530" in text
    assert "on the 80 NORMAL films (70 patients) of site-a" in text


def test_every_decision_has_its_interval_also_in_runs_that_kept_none(run):
    figures = metrics_of(run.point)
    for key in ("at_half", "at_threshold"):
        del figures[key]["intervals"], figures[key]["patient_intervals"]
    run.json("metrics/test.json", figures)
    page = run.page()
    for right, wrong, kind in ((35, 15, "true negatives"), (2, 58, "missed"), (54, 6, "true pos")):
        ends = binomtest(right, right + wrong).proportion_ci(0.95, "exact")
        expected = f"{right / (right + wrong):.1%} {ends.low:.1%} to {ends.high:.1%}"
        told = [cell for cell in page.cell_texts if cell.startswith(f"{right} {kind}")]
        assert told[0].replace(" %", "%").endswith(expected.replace("% to", " to"))
    for right, wrong in ((35, 15), (58, 2), (58, 15)):  # at 0.5: TNR, TPR, PPV
        ends = binomtest(right, right + wrong).proportion_ci(0.95, "exact")
        share = right / (right + wrong)
        interval = f"{ends.low * 100:.1f} to {ends.high * 100:.1f} % by film"
        assert f"{share * 100:.1f} % {interval}" in page.cell_texts


def test_intervals_that_were_kept_are_shown_by_film_and_by_patient(run):
    text = run.page().text
    assert "70.0 % 71.0 to 91.0 % by film 70.0 to 92.0 % by patient" in text
    assert "0.960 0.930 to 0.980 by film 0.920 to 0.985 by patient" in text
    assert "0.100 0.080 to 0.120" in text


def test_the_misses_are_those_of_a_count_by_hand_and_the_farthest_comes_first(run):
    page = run.page()
    wrong = [
        (abs(score - 0.9), name)
        for name, _, label, score, *_ in run.scored
        if (score >= 0.9) != bool(label)
    ]
    assert len(wrong) == 6
    assert "(false negatives): 3" in page.text
    assert "(false positives): 3" in page.text
    shown = re.findall(r'alt="Film ([^"]+)"', page.source)
    by_kind = [sorted((d, n) for d, n in wrong if kind in n)[::-1] for kind in CLASSES[::-1]]
    assert shown == [name for kind in by_kind for _, name in kind]
    assert (
        "0.2000 (\N{MINUS SIGN}0.7000) is PNEUMONIA patient test-PNEUMONIA-2 subgroup: v"
        in page.text
    )
    assert page.source.count("data:image/jpeg;base64,") == 6


def test_a_score_at_the_threshold_is_called_positive(run):
    # Film 2 scores exactly 0.9: a hit among the positives, a false alarm among the negatives.
    shown = re.findall(r'alt="Film ([^"]+)"', run.page().source)
    assert "test/NORMAL/film 2.png" in shown
    assert "test/PNEUMONIA/film 2.png" not in shown


def test_where_no_film_is_found_the_misses_are_listed_all_the_same(run):
    shutil.rmtree(run.films_root)
    page = run.page()
    assert "listed without pictures" in page.text
    assert "test/NORMAL/film 5.png 0.9910 +0.0910 NORMAL test-NORMAL-2" in page.text
    assert "image/jpeg" not in page.source


def test_one_missing_film_leaves_a_gap_and_the_others_their_pictures(run):
    (run.films_root / "test" / "NORMAL" / "film 5.png").unlink()
    (run.films_root / "test" / "NORMAL" / "film 1.png").write_bytes(b"no picture")
    page = run.page()
    assert page.text.count("film not found") == 2
    assert page.source.count("data:image/jpeg;base64,") == 4


def test_films_that_moved_are_found_where_the_caller_says(run, tmp_path):
    shutil.move(run.films_root, tmp_path / "elsewhere")
    assert "image/jpeg" not in run.page().source
    assert "image/jpeg" in run.page(source_root=tmp_path / "elsewhere").source


@pytest.mark.parametrize("name", ["../secret.png", "/{root}/secret.png", "a/../../secret.png"])
def test_no_picture_from_outside_the_data_set_is_shown(run, tmp_path, name):
    run.picture(tmp_path / "secret.png", np.full((9, 9), 7, np.uint8))
    name = name.replace("/{root}", str(tmp_path))
    run.write_predictions("test", [(name, "p", 0, 0.99, "", "")])
    assert "image/jpeg" not in run.page().source


def test_the_passport_counts_patients_and_finds_those_on_two_sides(run):
    text = run.page().text
    digest = hashlib.sha256((run.root / "split.csv").read_bytes()).hexdigest()
    assert "training 4 4 4 test 6 6 6" in text
    assert (
        "Patients with films on two sides: 0 . Files with the same content on two sides: 0" in text
    )
    assert digest in text
    name, _, label, split, *_ = run.films[-1]
    run.films[-1] = (name, run.films[0][1], label, split, run.films[0][4], "")
    run.write_split()
    assert "on two sides: 1 . Files with the same content on two sides: 1" in run.page().text


def test_the_imbalance_ledger_is_two_plain_sentences(run):
    assert (
        "Of the training films 74.2 % are PNEUMONIA; sampling showed the model 50.0 %, and the "
        "loss counted each PNEUMONIA film 0.589 times, so that the raw score behaves as if 37.1 % "
        "were PNEUMONIA. The natural score takes that back (a shift of "
        "\N{MINUS SIGN}1.586 on the logit scale): a raw score of 0.9000 becomes 0.9780."
    ) in run.page().text


def test_a_loss_that_is_not_known_gives_no_natural_probability(run):
    ledger = point_of()["imbalance"] | {"pos_weight": None, "logit_shift": None}
    run.decide(imbalance=ledger | {"seen_prevalence": None}, threshold_natural=None)
    text = run.page().text
    assert "What the loss did on top of that is not known" in text
    assert "raw score; natural score" not in text
    assert "raw score Specificity promised" in text


def test_subgroups_show_what_is_defined_for_them(run):
    assert "subgroup: virus 30 PNEUMONIA, 25 patients" in run.page().text
    assert "\N{EN DASH} 90.0 % 73.0 to 98.0 % \N{EN DASH}" in run.page().text


def test_the_card_names_what_is_known_and_what_only_people_know(run):
    text = run.page().text
    assert "LightCNN (weights weights.pt, width 32)" in text
    assert "Epochs 2 of 3" in text
    assert "2 epochs on cpu, 16 seconds each (median)" in text
    assert "To be filled in: who is responsible for clinical review" in text
    assert "For research only. Not a medical device." in text


def test_a_hostile_class_or_file_name_is_text_and_nothing_else(run):
    classes = ["<script>alert(1)</script>", '"><img src=x onerror=alert(2)>']
    run.recipe["data"]["source"]["init_args"]["classes"] = classes
    run.write_recipe()
    name = "test/NORMAL/\"quoted\" & 'quoted' <b>.png"
    run.write_predictions("test", [(name, "<i>p</i>", 0, 0.99, "", "")])
    run.picture(run.films_root / name, np.zeros((9, 9), np.uint8))
    run.decide(verdict="empirical", note="<script>alert(3)</script>", chosen_on="<u>")
    page = run.page()
    assert "script" not in page.tags
    assert {"i", "u"}.isdisjoint(page.tags)
    assert not any(key.startswith("on") for key, _ in page.attributes)
    assert ("alt", f"Film {name}") in page.attributes
    assert classes[0] in page.text
    assert f"Why it is not certified: {classes[0].replace('1', '3')}" in page.text


def test_a_file_name_that_is_not_utf_8_does_not_stop_the_report(run):
    raw = b"path,patient,label,score\ntest/NORMAL/\xff.png,p,0,0.99\n"
    (run.root / "predictions" / "test.csv").write_bytes(raw)
    assert "test/NORMAL/?.png" in run.page().text


def test_no_folder_of_this_machine_stands_in_the_page(run, tmp_path):
    (run.root / "split.csv").write_text("nonsense")
    (run.root / "metrics" / "val.json").write_text("{")
    page = run.page()
    assert "split.csv is missing or cannot be read." in page.text
    assert str(tmp_path) not in page.source
    assert "secret" not in page.source


def test_the_page_asks_for_nothing_and_runs_nothing(run):
    page = run.page()
    places = [value for key, value in page.attributes if key in {"src", "href", "srcset", "action"}]
    assert len(places) > 10
    assert all(place.startswith(("data:", "#")) for place in places)
    assert {"script", "iframe", "object", "form"}.isdisjoint(page.tags)
    assert "default-src 'none'" in page.source
    assert "url(" not in page.source
    targets = {value for key, value in page.attributes if key == "id"}
    assert {place[1:] for place in places if place.startswith("#")} <= targets


DAMAGE = (
    b"",
    b"\x00\xff\xfe",
    b"{",
    b"[1, 2]",
    b'"text"',
    b"null",
    b"{" * 5000,
    b'{"at_threshold": 3, "at_half": {"tn": "x", "tnr": NaN, "fp": -1, "fn": 1e999, "tp": 1.5},'
    b' "subgroups": [1, {"tnr": "a"}], "operating_point": [], "certificate": "c",'
    b' "roc_auc": true, "intervals": {"roc_auc": [1, "b"]}, "num_images": 1%s,'
    b' "imbalance": 2, "verdict": 5, "threshold": {}, "starts": {"a": 1}, "data": 4,'
    b' "model": [[{}]], "trainer": "t"}' % (b"0" * 400),
)
FILES = (
    "recipe.yaml",
    "environment.json",
    "checkpoints/best.json",
    "operating_point.json",
    "metrics/test.json",
    "metrics/val.json",
    "history.csv",
    "split.csv",
    "predictions/test.csv",
    "figures/roc_test.png",
)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_or_missing_file_costs_its_own_part_of_the_page_and_no_more(run, name):
    for damage in DAMAGE:
        (run.root / name).write_bytes(damage)
        assert "Model card" in run.page().text
    if name != "history.csv":
        (run.root / name).unlink()
        assert "Model card" in run.page().text


def test_damaged_figures_are_named_and_not_taken_for_a_run_that_was_not_tested(run):
    (run.root / "metrics" / "test.json").write_text('{"num_images": 3')
    text = run.page().text
    assert "metrics/test.json cannot be read; what it says is left out." in text
    assert "has not been looked at" not in text


def test_any_key_may_be_absent(run):
    """Every key of every JSON file is dropped once, and its value once replaced by a string."""

    def leaves(tree, path=()):
        for key, value in tree.items():
            yield (*path, key)
            if isinstance(value, dict):
                yield from leaves(value, (*path, key))

    figures = metrics_of(run.point, certificate=VOID, shift=SHIFT)
    num_pages = 0
    for name, content in (("metrics/test.json", figures), ("operating_point.json", run.point)):
        for path in leaves(content):
            for value in (None, "strange"):
                copy = json.loads(json.dumps(content))
                parent = copy
                for key in path[:-1]:
                    parent = parent[key]
                del parent[path[-1]]
                if value is not None:
                    parent[path[-1]] = value
                run.json(name, copy)
                write_report(run.root, run.root / "out.html", source_root=Path("/nowhere"))
                num_pages += 1
        run.json(name, content)
    assert num_pages > 150


def test_the_page_stays_under_its_size_whatever_the_number_of_misses(run):
    rng = np.random.default_rng(0)
    columns = ["path", "patient", "label", "score"]
    names = [f"test/{CLASSES[k % 2]}/noise{k}.png" for k in range(2 * MAX_MISSES + 30)]
    rows = [(name, "p", k % 2, 0.99 - 0.98 * (k % 2)) for k, name in enumerate(names)]
    run.csv("predictions/test.csv", columns, rows)
    noise = rng.integers(0, 256, (400, 400), np.uint8)  # the worst that JPEG can meet
    for k, name in enumerate(names):
        run.picture(run.films_root / name, np.roll(noise, k, axis=1))
    for kind in ("roc_test", "precision_recall_test", "reliability_test", "samples_train"):
        big = rng.integers(0, 256, (800, 600), np.uint8)
        run.picture(run.root / "figures" / f"{kind}.png", big)
    path = write_report(run.root)
    page = Page(path)
    assert 0.5 * MAX_PAGE_BYTES < path.stat().st_size <= MAX_PAGE_BYTES
    assert page.source.count("data:image/jpeg;base64,") == 2 * MAX_MISSES
    assert page.text.count("15 more are left out here") == 2
    assert f"(false negatives): {MAX_MISSES + 15}" in page.text


def pictures_of(page):
    """Every picture of the gallery, by its alternative text."""
    found = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" alt="([^"]+)"', page.source)
    return {alt: Image.open(io.BytesIO(base64.b64decode(data))) for data, alt in found}


def map_of(film):
    return f"Map of PNEUMONIA over the film {film}"


def test_each_miss_has_its_map_right_beside_its_film(run):
    run.explain()
    run.overlay("10.png", (20, 20, 250))  # that of the surest miss
    page = run.page()
    pictures = pictures_of(page)
    films = [alt.removeprefix("Film ") for alt in pictures if alt.startswith("Film ")]
    assert len(films) == 6
    assert list(pictures) == [alt for film in films for alt in (f"Film {film}", map_of(film))]
    assert films[0] == SUREST
    for film in films:
        red, _, blue = pictures[map_of(film)].getpixel((9, 9))
        assert (red < 60 and blue > 200) if film == SUREST else (red > 200 and blue < 60)
    assert (
        "Beside a film lies its map, over the film as the model gets it: warm colours mark the "
        "places that raised the score of PNEUMONIA, by Grad-CAM at the layer backbone.4. A map "
        "shows where a score comes from, and not whether the finding is right. 6 of the 6 films "
        "below have one." in page.text
    )
    assert "Part of this report is missing" not in page.text


def test_a_film_and_its_map_are_as_wide_as_the_same_height_asks_for(run):
    run.explain()
    shapes = [value for key, value in run.page().attributes if key == "style"]
    assert shapes == ["flex: 1.250", "flex: 1.000"] * 6


def test_without_maps_the_page_says_nothing_of_them(run):
    page = run.page()
    assert len(pictures_of(page)) == 6
    assert not re.search(r"\bmaps?\b", page.text)
    assert not {"maps", "mapped"} & {
        word for key, value in page.attributes if key == "class" for word in value.split()
    }


def test_a_miss_without_a_map_shows_its_film_alone(run):
    run.explain([row for row in run.map_rows() if row["path"] != SUREST])
    page = run.page()
    assert f"Film {SUREST}" in pictures_of(page)
    assert map_of(SUREST) not in pictures_of(page)
    assert "5 of the 6 films below have one." in page.text
    assert page.source.count('<li class="mapped">') == 5


def test_maps_of_other_films_than_the_misses_are_not_shown(run):
    run.explain([row for row in run.map_rows() if row["path"] == "test/NORMAL/film 0.png"])
    page = run.page()
    assert len(pictures_of(page)) == 6
    assert "None of the films below has a map in explain/test ." in page.text


def test_a_map_that_is_empty_is_called_empty_and_not_shown_in_colours(run):
    run.explain(run.map_rows(raw_max=0.0))
    page = run.page()
    assert page.text.count("empty map: no place spoke for PNEUMONIA") == 1
    assert map_of(SUREST) not in pictures_of(page)
    assert len(pictures_of(page)) == 11


def test_maps_against_the_positive_class_are_not_said_to_raise_its_score(run):
    run.explain(target_class="NORMAL", method="layer_cam")
    text = run.page().text
    assert "the places that spoke for NORMAL, by LayerCAM" in text
    assert "raised the score" not in text


def test_where_no_film_is_found_the_maps_are_shown_all_the_same(run):
    run.explain()
    shutil.rmtree(run.films_root)
    del run.recipe["data"]["source"]["init_args"]["root"]
    run.write_recipe()
    page = run.page()
    assert len(pictures_of(page)) == 6
    assert page.text.count("film not found") == 6


def test_the_maps_are_those_of_the_films_that_the_page_shows(run):
    (run.root / "metrics" / "test.json").unlink()
    run.write_predictions("val", run.scored)
    run.explain(name="test")
    assert len(pictures_of(run.page())) == 6
    run.explain(name="val")
    assert len(pictures_of(run.page())) == 12


@pytest.mark.parametrize(
    ("digest", "told"), [("ef" * 32, "names other weights"), (None, "names no weights")]
)
def test_maps_of_other_weights_are_left_out_until_they_are_made_again(run, digest, told):
    run.explain(weights_sha256=digest, faithfulness={"num_images": 3})
    page = run.page()
    assert len(pictures_of(page)) == 6
    assert "Do the maps mean anything?" not in page.text
    assert f"explain/test/explain.json {told}" in page.text
    assert "its maps are left out until `explain` is run again." in page.text


def test_maps_are_left_out_where_no_threshold_says_of_which_weights_the_run_is(run):
    run.explain()
    (run.root / "operating_point.json").unlink()
    assert len(pictures_of(run.page())) == 6


OUTSIDE = (
    *("../secret.png", "{root}/secret.png", "deep/../../secret.png", "deep/map.png", ".."),
    *("link.png", "pipe.png", "", "a\0b", "x" * 5000),
)


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_overlay_from_outside_its_folder_is_shown(run, name):
    run.explain(run.map_rows(overlay=name.replace("{root}", str(run.root / "explain"))))
    folder = run.root / "explain" / "test"
    for secret in (folder / "deep" / "map.png", folder.parent / "secret.png"):
        run.picture(secret, np.full((32, 32, 3), 7, np.uint8))
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    os.mkfifo(folder / "pipe.png")  # whoever opens it waits for ever
    page = run.page()
    assert map_of(SUREST) not in pictures_of(page)
    assert len(pictures_of(page)) == 11
    assert (
        "explain/test/explain.csv names 1 overlays that cannot be read or lie elsewhere; they are "
        "left out." in page.text
    )


def damaged_png(kind):
    data = io.BytesIO()
    Image.new("RGB", (5000, 8) if kind == "too large" else (64, 64)).save(data, "PNG")
    png = data.getvalue()
    if kind == "another format":
        Image.new("RGB", (64, 64)).save(data := io.BytesIO(), "JPEG")
        return data.getvalue()
    return {"empty": b"", "cut short": png[:60], "text": b"{}", "too large": png}[kind]


@pytest.mark.parametrize("kind", ["empty", "cut short", "text", "another format", "too large"])
def test_a_damaged_overlay_costs_itself_and_is_complained_of(run, kind):
    run.explain()
    (run.root / "explain" / "test" / "10.png").write_bytes(damaged_png(kind))
    page = run.page()
    assert map_of(SUREST) not in pictures_of(page)
    assert len(pictures_of(page)) == 11
    assert "names 1 overlays that cannot be read" in page.text


@pytest.mark.parametrize("raw_max", ["", "warm", "nan", "inf", -1])
def test_a_row_that_does_not_say_whether_its_map_is_empty_is_left_out(run, raw_max):
    run.explain(run.map_rows(raw_max=raw_max))
    page = run.page()
    assert map_of(SUREST) not in pictures_of(page)
    assert "explain/test/explain.csv has 1 rows that cannot be read" in page.text


@pytest.mark.parametrize("name", ["explain.csv", "explain.json"])
def test_a_damaged_or_missing_list_of_maps_costs_the_maps_and_is_complained_of(run, name):
    run.explain()
    path = run.root / "explain" / "test" / name
    for damage in (*DAMAGE, None):
        path.unlink() if damage is None else path.write_bytes(damage)
        page = run.page()
        assert len(pictures_of(page)) == 6
        assert f"explain/test/{name}" in page.text[page.text.index("Part of this report") :]


def test_what_explain_wrote_is_text_and_nothing_else(run):
    run.explain(method="<script>", target_layer="<i>", target_class='"><u>')
    page = run.page()
    assert {"script", "i", "u"}.isdisjoint(page.tags)
    assert 'spoke for "><u> , by <script> at the layer <i>' in page.text.replace("<u>,", "<u> ,")


FAITHFULNESS = {
    "num_images": 32,
    "deletion": {"map": 0.41, "random": 0.62, "difference": -0.21, "interval": [-0.25, -0.17]},
    "insertion": {"map": 0.8, "random": 0.7, "difference": 0.1, "interval": [0.05, 0.15]},
    "randomization": {"rank_correlation": 0.05, "num_models": 5},
    "masks": {
        "num_images": 120,
        "pointing_game": 0.9,
        "pointing_game_interval": [0.83, 0.94],
        "energy": 0.5,
        "area": 0.05,
        "energy_ratio": 10.2,
        "randomized": {"pointing_game": 0.06, "energy_ratio": 1.1},
    },
}


def test_whether_the_maps_mean_anything_is_told_before_the_first_of_them(run):
    run.explain(faithfulness=FAITHFULNESS)
    page = run.page()
    assert (
        "Do the maps mean anything? The maps passed every check: on the whole they show what "
        "moved the score. That does not make a score, or a finding, right. Measured on 32 films "
        "and, for the last two, on 120 films whose finding is marked." in page.text
    )
    assert page.text.index("Do the maps mean") < page.text.index("empty film; higher is better")
    assert page.text.index("Do the maps mean") < page.text.index("Missed: PNEUMONIA films")
    assert "0.620 with random maps" in page.cell_texts


def test_maps_that_nobody_measured_are_said_to_be_so(run):
    run.explain(faithfulness=None)
    text = run.page().text
    assert "Whether these maps mean anything was not measured." in text
    assert "Do the maps mean" not in text


def test_any_figure_of_the_maps_may_be_absent_or_strange(run):
    for block, strange in itertools.product(FAITHFULNESS, (None, "text", [], {}, 10**400, True)):
        run.explain(faithfulness={**FAITHFULNESS, block: strange})
        assert "Do the maps mean anything?" in run.page(source_root=Path("/nowhere")).text


def test_the_page_stays_under_its_size_with_a_map_beside_each_miss(run):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (320, 320, 3), np.uint8)  # the worst that JPEG can meet
    names = [f"test/{CLASSES[k % 2]}/noise{k}.png" for k in range(2 * MAX_MISSES)]
    scored = [(name, "p", k % 2, 0.99 - 0.98 * (k % 2), "", "") for k, name in enumerate(names)]
    run.scored = scored
    run.write_predictions("test", scored)
    run.explain()
    for k, name in enumerate(names):
        run.picture(run.films_root / name, noise[..., 0])
        run.picture(run.root / "explain" / "test" / f"{k}.png", noise)
    path = write_report(run.root)
    pictures = pictures_of(Page(path))
    assert path.stat().st_size <= MAX_PAGE_BYTES
    assert len(pictures) == 4 * MAX_MISSES
    assert len({picture.size for picture in pictures.values()}) == 1


def test_where_there_is_no_room_for_both_the_films_stay_and_the_maps_go(run, monkeypatch):
    pictures = re.findall(r"data:image/jpeg[^\"]+", run.page().source)
    room = sum(map(len, pictures))
    real = misses.picture_misses
    monkeypatch.setattr(misses, "picture_misses", lambda *given: real(*given[:-1], room))
    run.explain()
    page = run.page()
    assert list(pictures_of(page)) == [alt for alt in pictures_of(page) if alt.startswith("Film ")]
    assert len(pictures_of(page)) == 6
    assert "no room in this page; they lie in explain/test ." in page.text


def test_the_same_run_gives_the_same_page(run):
    assert run.page().source == run.page().source


def test_the_output_may_lie_elsewhere_and_the_run_folder_stays_as_it_was(run, tmp_path):
    before = sorted(run.root.rglob("*"))
    path = write_report(run.root, tmp_path / "deep" / "page.html")
    assert path == tmp_path / "deep" / "page.html"
    assert path.is_file()
    assert sorted(run.root.rglob("*")) == before


def test_a_folder_without_a_run_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(RunFolderError, match=r"holds no run: it has no history\.csv"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_is_one_clear_error(run):
    (run.root / "file").write_text("")
    with pytest.raises(CxrIgniteError, match="cannot write"):
        write_report(run.root, run.root / "file" / "report.html")


def test_a_run_that_is_still_training_says_so(run):
    (run.root / "operating_point.json").unlink()
    text = run.page().text
    assert "This run is not finished." in text
    assert "No operating point" in text


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=quiet)
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_opens_it_within_a_second_without_a_complaint_or_a_request(run, browser, width):
    run.explain(run.map_rows(raw_max=0), faithfulness=FAITHFULNESS)
    path = write_report(run.root)
    seconds = []
    for _ in range(3):
        page = browser.new_page(viewport={"width": width, "height": 900})
        complaints, requests = [], []
        page.on("console", lambda message, to=complaints: to.append(message.text))
        page.on("pageerror", lambda error, to=complaints: to.append(str(error)))
        page.on("request", lambda request, to=requests: to.append(request.url))
        start = time.perf_counter()
        page.goto(path.as_uri(), wait_until="load")
        seconds.append(time.perf_counter() - start)
        assert complaints == []
        assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        page.close()
    assert min(seconds) < 1
