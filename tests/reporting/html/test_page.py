import base64
import hashlib
import io
import json
import math
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import line_with, missing, refused, sentence_with
from PIL import Image
from report_pages import (
    CHECK,
    CLASSES,
    INVALID,
    START,
    SUREST,
    OpenPage,
    Page,
    Run,
    expected_cells,
    figures,
    of_class,
    picture_of,
    rows_of,
    scored_at_random,
    scores_of,
    words,
)
from results import PRIOR_SHIFT, RULE, USELESS, rule_of
from scipy.stats import binomtest

from cxrignite import cli
from cxrignite.data import ImageRecord
from cxrignite.errors import CxrIgniteError, DamagedRunError, RunFolderError
from cxrignite.functional import (
    Interval,
    ShiftCheck,
    confusion_at,
    select_operating_point,
)
from cxrignite.nn import LightCNN
from cxrignite.reporting.html import (
    MAX_PAGE_BYTES,
    explorer,
    write_report,
    wrong_decisions,
)
from cxrignite.reporting.html.map_checks import checks_summary, map_checks
from cxrignite.reporting.html.wrong_decisions import MAX_WRONG_DECISIONS
from cxrignite.reporting.numbers import percent
from cxrignite.reporting.run_facts import BLANKS
from cxrignite.reporting.wording import NOT_USABLE, check_rule, state_rule
from cxrignite.runs.evaluation import (
    Estimate,
    PredictiveValues,
)
from cxrignite.runs.informativeness import measure_informativeness
from cxrignite.runs.map_evaluation import (
    MapChecks,
    MaskCheck,
    PerturbationCheck,
    PerturbationChecks,
)
from cxrignite.runs.scores import SplitScores

SHIFTED = replace(CHECK, is_shifted=True)
SHIFT = ShiftCheck(0.887, Interval(0.85, 0.918), 80, 50, 70, 45, is_detected=True)


def perturbation(by_map, by_chance, low, high):
    difference = Estimate(by_map - by_chance, by_patient=Interval(low, high))
    return PerturbationCheck(by_map, by_chance, difference, blank=0.1)


MAP_CHECKS = MapChecks(
    PerturbationChecks(
        32, perturbation(0.41, 0.62, -0.25, -0.17), perturbation(0.8, 0.7, 0.05, 0.15)
    ),
    negative=None,
    rank_correlation=0.05,
    num_random_models=5,
    masks=MaskCheck(120, 0.9, Interval(0.83, 0.94), 0.5, 0.05, 10.2, 0.06, 1.1),
)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_each_state_of_the_threshold_has_a_title_of_its_own(run):
    pages = [run.page()]
    run.evaluate(certificate=INVALID)
    pages.append(run.page())
    for status in ("empirical", "infeasible"):
        run.decide(status=status)
        pages.append(run.page())
    run.decide(point=None)
    pages.append(run.page())
    states, titles = zip(*(page.state for page in pages), strict=True)
    assert states == (
        {"certified"},
        {"certified", "invalid"},
        {"empirical"},
        {"infeasible"},
        {"none"},
    )
    assert len(set(titles)) == len(titles)
    for title in titles:
        line_with(title)


def test_a_certified_threshold_says_what_is_certified_for_whom_and_how_surely(run):
    page = run.page()
    line_with(page.sentence, "95 %", "93 %", "NORMAL", "patients")
    line_with(page.remarks, "94.0 %", "patient")
    assert [figure for figure, _ in page.tiles] == ["0.9000", "at least 93 %", "96.0 %", "90.0 %"]
    _, (_, guaranteed), _, (_, of_sensitivity) = page.tiles
    line_with(guaranteed, "95 %")
    assert of_sensitivity
    assert not re.search(r"\d", line_with(of_sensitivity))
    line_with(page.tiles[0][1], f"{RULE.threshold_probability:.4f}")
    assert page.warnings == page.problems == page.notes == []


def test_a_certificate_by_image_does_not_mention_patients(run):
    run.decide(num_negative_patients=80)
    page = run.page()
    assert "patient" not in line_with(page.sentence, "95 %", "93 %", "NORMAL")
    assert "patient" not in line_with(page.remarks, "94.0 %")


def test_an_empirical_threshold_guarantees_nothing_and_gives_the_reason(run):
    limits = run.page().limits
    run.decide(status="empirical", note="no CALIBRATION split")
    page = run.page()
    line_with(page.sentence, "97.5 %", "80", "NORMAL", "70", "patients", "calibration", "93 %")
    line_with(page.remarks, "no CALIBRATION split")
    guaranteed, terms = page.tiles[1]
    assert not re.search(r"\d", line_with(guaranteed))
    line_with(terms, "93 %")
    assert page.limits[:-1] == limits
    line_with(page.limits[-1], "specificity")


def test_an_infeasible_threshold_says_how_many_negatives_are_missing(run):
    run.decide(status="infeasible", num_negative_patients=30, num_negatives_needed=42)
    page = run.page()
    line_with(page.sentence, "0.9000", "93 %", "NORMAL", "80", "30")
    line_with(page.remarks, "42", "NORMAL", "patients", "30")
    assert not re.search(r"\d", page.tiles[1][0])
    assert "Certified" not in page.text


def test_without_a_threshold_only_decisions_at_one_half_are_shown(run):
    run.decide(point=None)
    page = run.page()
    assert page.state[0] == {"none"}
    assert page.tiles == []
    assert page.observations == {}
    assert "Certified" not in page.text
    (matrix,) = page.matrices
    count, (share, *_), _ = matrix[0][0]
    assert (count, share) == ("35", "70.0 %")
    line_with(words(page.section("errors").find("p")), "0.5000")


def warning_of(name, evaluation):
    """The words of the page on an evaluation that contradicts the threshold."""
    statement = check_rule(name, evaluation)
    return [statement.title, *statement.text.split(". "), *statement.reasons]


def test_a_threshold_of_0_is_not_taken_for_none(run):
    run.decide(threshold=0.0)
    page = run.page()
    assert "0.0000" in words(page.section("errors").find("p"))
    assert len(page.gallery) == 6  # every negative


def test_a_contradicted_certificate_is_reported_before_any_figure(run):
    limits = run.page().limits
    evaluation = run.evaluate(certificate=INVALID)
    page = run.page()
    assert page.state[0] == {"certified", "invalid"}
    (warning,) = page.warnings
    line_with(warning, "certificate", "test", "0.710 (0.560 to 0.830)", "0.940", "0.93", "95 %")
    sentences = [each.replace("`", "") for each in warning_of("test", evaluation)]
    assert missing(warning, sentences) == []
    boxes = [element.get("class") for element in page.root.find("body/main")]
    assert boxes.index("warning") < boxes.index("tiles")
    line_with(page.observations["test"][-1], "certificate")
    assert page.limits[:-1] == limits
    line_with(page.limits[-1], "certificate")


def test_a_certificate_is_invalid_for_images_of_another_kind_without_being_contradicted(run):
    run.evaluate(certificate=SHIFTED, shift=SHIFT)
    page = run.page()
    assert page.state[0] == {"certified", "invalid"}
    (warning,) = page.warnings
    line_with(warning, "certificate", "test", "0.93", "AUC", "0.887", "0.850 to 0.918")
    line_with(page.observations["test"][-1])


def test_a_command_in_a_sentence_is_marked_as_code_and_its_backticks_are_not_shown(run):
    run.evaluate(certificate=SHIFTED, shift=SHIFT)
    page = run.page()
    (warning,) = of_class(page.root, "warning")
    commands = [words(each) for each in warning.iter("code")]
    assert commands == ["cxrignite recalibrate"]
    assert "`" not in page.text


def test_where_nothing_was_certified_no_certificate_is_called_invalid(run):
    run.decide(status="empirical", confidence=None)
    judged = replace(CHECK, is_below_min_tnr=True, is_shifted=True, is_certified=False)
    tnr = Estimate(0.7, Interval(0.55, 0.82))
    run.evaluate(tnr=tnr, certificate=judged, shift=SHIFT)
    page = run.page()
    assert page.state[0] == {"empirical"}
    (warning,) = page.warnings
    line_with(warning, "test", "0.700 (0.550 to 0.820)", "0.93", "AUC", "0.887")
    for printed in (warning, page.observations["test"][-1]):
        assert "certifi" not in printed.lower()


def test_a_sites_invalid_certificate_leaves_the_runs_own_as_it_is(run):
    run.evaluate("test@site-a", rule_of(threshold=0.95, chosen_on="site-a"), certificate=INVALID)
    page = run.page()
    (warning,) = page.warnings
    line_with(warning, "certificate", "test@site-a", "site-a")
    line_with(page.observations["test@site-a"][-1], "site-a", "certificate")
    assert page.state[0] == {"certified"}
    line_with(page.sentence, "95 %")


def test_a_threshold_of_other_weights_is_reported(run):
    assert run.page().warnings == []
    run.decide(weights_sha256="ef" * 32)
    (warning,) = run.page().warnings
    line_with(warning, "threshold", "weights")


def test_a_shift_alone_is_a_warning_of_its_own(run):
    run.decide(status="empirical", confidence=None)
    judged = replace(SHIFTED, is_certified=False)
    run.evaluate(certificate=judged, shift=SHIFT)
    page = run.page()
    assert page.state[0] == {"empirical"}
    (warning,) = page.warnings
    line_with(warning, "AUC", "0.887", "0.850 to 0.918")
    run.evaluate(certificate=replace(judged, is_shifted=False), shift=SHIFT)
    assert run.page().warnings == []


def test_less_than_was_requested_is_read_by_its_interval(run):
    run.decide(status="empirical", confidence=None)
    readings = []
    for tnr, *ends in ((0.85, 0.70, 0.9299), (0.85, 0.70, 0.93), (0.93, 0.70, 0.96)):
        run.evaluate(tnr=Estimate(tnr, Interval(*ends)))
        readings.append(line_with(run.page().observations["test"][-1], "93 %"))
    assert len(set(readings)) == 3


def test_figures_of_another_threshold_are_called_stale_but_a_sites_own_threshold_is_not(run):
    run.evaluate("site-a", rule_of(threshold=0.95, chosen_on="site-a"))
    assert run.page().warnings == []
    run.evaluate("test", rule_of(threshold=0.97))
    (warning,) = run.page().warnings
    line_with(warning, "test", "0.9700", "0.9000")


def test_an_untested_run_shows_validation_and_says_so(run):
    (run.root / "metrics" / "test.json").unlink()
    run.write_predictions("val", run.scored[:2])
    page = run.page()
    (note,) = page.notes
    line_with(note, "test", "validation")
    size, *rates, reading = page.observations["test"]
    assert (size, rates) == ("6 NORMAL, 6 PNEUMONIA, 6 patients", ["\N{EN DASH}"] * 3)
    line_with(reading)
    for name in ("decisions", "errors"):
        line_with(words(page.section(name).find("h2")), "validation")
    assert list(page.gallery) == [run.scored[1][0]]


def test_a_run_without_test_images_says_that_there_is_no_test_split(run):
    (run.root / "metrics" / "test.json").unlink()
    (untested,) = run.page().notes
    run.records = [record for record in run.records if record[3] != "test"]
    run.write_split()
    page = run.page()
    (note,) = page.notes
    assert line_with(note, "test", "validation") != untested
    assert "test" not in page.observations


def test_sites_show_their_own_operating_point(run):
    site = rule_of(threshold=0.953, chosen_on="site-a", status="infeasible")
    run.write_rule(site)
    page = run.page()
    main = list(page.root.find("body/main"))
    (heading,) = (element for element in main if element.tag == "h3")
    line_with(words(heading), "site-a", state_rule(site, CLASSES, {}).title)
    sentence, *_, threshold = [words(p) for p in main[main.index(heading) :] if p.tag == "p"]
    line_with(sentence, "80", "NORMAL", "70", "patients", "site-a")
    line_with(threshold, "0.9530")
    assert page.state[0] == {"certified"}


def test_every_decision_has_its_interval(run):
    page = run.page()

    def share_of(count, rest):
        ends = [100 * end for end in binomtest(count, count + rest).proportion_ci(0.95, "exact")]
        return f"{100 * count / (count + rest):.1f} %", "{:.1f} to {:.1f} %".format(*ends)

    assert [
        [(count, tuple(share), mark) for row in matrix for count, share, mark in row]
        for matrix in page.matrices
    ] == [
        [
            (f"{count}", share_of(count, rest), mark)
            for count, rest, mark in (
                *((tn, fp, None), (fp, tn, "wrong")),
                *((fn, tp, "wrong"), (tp, fn, None)),
            )
        ]
        for tn, fp, fn, tp in ((35, 15, 2, 58), (48, 2, 6, 54))
    ]


def test_intervals_that_were_kept_are_shown_by_image_and_by_patient(run):
    page = run.page()
    at_half = page.section("decisions").find("table/tbody/tr/td")
    ranking, calibration = page.section("scores").findall("table/tbody")
    for cell, figure, by_image, by_patient in (
        (at_half, "70.0 %", "71.0 to 91.0 %", "70.0 to 92.0 %"),
        (ranking[0][-1], "0.960", "0.930 to 0.980", "0.920 to 0.985"),
    ):
        printed, first, second = figures(cell)
        assert printed == figure
        assert "patient" not in first
        assert missing(first, [by_image]) == missing(second, [by_patient, "patient"]) == []
    assert figures(calibration[0][1]) == ["0.100", "0.080 to 0.120"]


def test_the_wrong_decisions_are_those_of_a_count_by_hand_and_the_farthest_comes_first(run):
    page = run.page()
    # Image 2 scores exactly 0.9: it is called positive.
    wrong = [
        (abs(score - 0.9), name)
        for name, _, label, score, *_ in run.scored
        if (score >= 0.9) != bool(label)
    ]
    assert len(wrong) == page.num_jpegs == 6
    by_kind = [sorted((d, n) for d, n in wrong if kind in n)[::-1] for kind in CLASSES[::-1]]
    assert list(page.gallery) == [name for kind in by_kind for _, name in kind]
    negatives, positives = [words(heading) for heading in page.section("errors").iter("h3")]
    line_with(negatives, "PNEUMONIA", "NORMAL", "false negatives", 3)
    line_with(positives, "PNEUMONIA", "NORMAL", "false positives", 3)
    surest = words(page.section("errors").find("ul/li"))
    distance = "\N{MINUS SIGN}0.7000"
    facts = ["0.2000", distance, "PNEUMONIA", "test-PNEUMONIA-2", "subgroup: virus", SUREST]
    line_with(surest, *facts)


def test_where_no_image_is_found_the_wrong_decisions_are_listed_all_the_same(run):
    shutil.rmtree(run.images_root)
    page = run.page()
    tables = page.section("errors").findall("table")
    rows = [row for table in tables for row in rows_of(table)]
    name = "test/NORMAL/image 5.png"
    assert [name, "0.9910", "+0.0910", "NORMAL", "test-NORMAL-2", ""] in rows
    assert len(rows) == 2 + 6
    assert page.num_jpegs == len(page.gallery) == 0


def test_one_missing_image_leaves_a_gap_and_the_others_their_pictures(run):
    (run.images_root / "test" / "NORMAL" / "image 5.png").unlink()
    (run.images_root / "test" / "NORMAL" / "image 1.png").write_bytes(b"no picture")
    page = run.page()
    assert [name for name, (image,) in page.gallery.items() if image is None] == [
        "test/NORMAL/image 5.png",
        "test/NORMAL/image 1.png",
    ]
    assert page.num_jpegs == 4


def test_images_that_moved_are_found_where_the_caller_says(run, tmp_path):
    shutil.move(run.images_root, tmp_path / "elsewhere")
    assert run.page().num_jpegs == 0
    assert run.page(source_root=tmp_path / "elsewhere").num_jpegs == 6


@pytest.mark.parametrize("name", ["../secret.png", "/{root}/secret.png", "a/../../secret.png"])
def test_no_picture_from_outside_the_data_set_is_shown(run, tmp_path, name):
    run.picture(tmp_path / "secret.png", np.full((9, 9), 7, np.uint8))
    name = name.replace("/{root}", str(tmp_path))
    run.write_predictions("test", [(name, "p", 0, 0.99, "", "")])
    assert run.page().num_jpegs == 0


def test_the_split_summary_counts_patients_and_those_in_two_splits(run):
    page = run.page()
    table = page.section("split").find("table")
    assert rows_of(table)[1:] == [["training", "4", "4", "4"], ["test", "6", "6", "6"]]
    assert [words(number) for number in page.section("split").findall("p/b")] == ["0", "0"]
    digest = hashlib.sha256((run.root / "split.csv").read_bytes()).hexdigest()
    assert digest in page.text
    name, _, label, split, *_ = run.records[-1]
    run.records[-1] = (name, run.records[0][1], label, split, run.records[0][4], "")
    run.write_split()
    page = run.page()
    assert [words(number) for number in page.section("split").findall("p/b")] == ["1", "1"]
    (warning,) = page.warnings
    line_with(warning, "leakage.csv", "test and training")


def test_what_the_class_balance_did_is_two_plain_sentences(run):
    first, second = map(words, run.page().section("prior").findall("p"))
    line_with(first, "74.2 %", "PNEUMONIA", "50.0 %", "0.589", "37.1 %")
    line_with(second, "\N{MINUS SIGN}1.587", "0.9000", f"{RULE.threshold_probability:.4f}")


def test_a_loss_that_is_not_known_gives_no_training_probability(run):
    run.decide(prior_shift=replace(PRIOR_SHIFT, pos_weight=None))
    page = run.page()
    first, second = map(words, page.section("prior").findall("p"))
    line_with(first, "74.2 %", "50.0 %")
    assert not re.search(r"\d", line_with(second, "PNEUMONIA"))
    figure, terms = page.tiles[0]
    assert figure == "0.9000"
    assert not re.search(r"\d", terms)


def test_subgroups_show_what_is_defined_for_them(run):
    (_, (name, *rates)) = rows_of(run.page().section("subgroups").find("table"))
    assert missing(name, ["subgroup: virus", "30 PNEUMONIA", "25 patients"]) == []
    assert rates == ["\N{EN DASH}", "90.0 % 73.0 to 98.0 %", "\N{EN DASH}"]


def test_predictive_values_at_other_prevalences_have_a_table(run):
    tables = run.page().section("decisions").findall("table")
    ppv = Estimate(0.558, Interval(0.4, 0.7), Interval(0.35, 0.75))
    run.evaluate(at_prevalences=(PredictiveValues(0.05, ppv, Estimate(None)),))
    page = run.page()
    *others, added = page.section("decisions").findall("table")
    assert len(others) == len(tables)
    _, (name, *values) = rows_of(added)
    line_with(name, "5 %", "PNEUMONIA")
    intervals = "40.0 to 70.0 % by image 35.0 to 75.0 % by patient"
    assert values == [f"55.8 % {intervals}", "\N{EN DASH}"]


def test_the_card_names_what_is_known_and_what_only_people_know(run):
    page = run.page()
    known = [words(line) for line in page.section("card").iter("dd")]
    assert "2 of 3" in known
    line_with("\n".join(known), "LightCNN", "weights.pt", "width 32")
    line_with(words(page.section("training").find("p")), 2, "cpu", 16)
    (blanks,) = of_class(page.root, "blanks")
    assert len(blanks) == len(BLANKS) > 4
    for blank in blanks:
        line_with(words(blank))
    (limit,) = of_class(page.root, "limit")
    line_with(words(limit), "research", "medical device")


@pytest.mark.parametrize(
    ("source", "facts"),
    [
        ({"class_path": "ClassFolders"}, ["file names"]),
        ({"class_path": "x.Manifest"}, ["'patient'", "manifest"]),
        ({"class_path": "Manifest", "init_args": {"columns": {"patient": "PID"}}}, ["'PID'"]),
        ({"class_path": "Manifest", "init_args": {"patients": {"from_header": True}}}, ["DICOM"]),
        ({"class_path": "Manifest", "init_args": {"patients": {"pattern": "p"}}}, ["paths"]),
        ({"class_path": "my.Hospital"}, ["Hospital"]),
    ],
)
def test_the_page_says_where_patients_were_read(run, source, facts):
    run.recipe["data"]["source"] = source
    run.write_recipe()
    sentence_with(words(run.page().section("split")), *facts)


def test_images_that_name_no_patient_are_reported(run):
    run.records[0] = (run.records[0][0], run.records[0][0], *run.records[0][2:])
    run.write_split()
    sentence_with(words(run.page().section("split")), "1 image")
    run.records = [(name, name, *rest) for name, _, *rest in run.records]
    run.write_split()
    sentence_with(words(run.page().section("split")), "No image", "patient")


def test_the_card_says_what_ran_and_not_what_a_key_alone_says(run):
    blur = {"class_path": "cxrignite.data.RandomBlur", "init_args": {"prob": 0.25}}
    run.recipe["data"] |= {"batch_size": 16, "augment": [], "batch_augment": [blur]}
    run.recipe["data"]["image_size"] = [64, 48]
    run.recipe["trainer"]["accumulation_steps"] = 2
    run.write_recipe()
    start = replace(START, num_processes=3)
    run.write_starts(replace(start, device="cuda"), start)
    page = run.page()
    card = {
        words(name).partition(",")[0]: words(text)
        for group in page.section("card").iter("dl")
        for name, text in zip(group.iter("dt"), group.iter("dd"), strict=True)
    }
    line_with(card["Batch size"], 16, 2, 3, 96)
    assert card["Augmentation"] == "none"
    line_with(card["Batch augmentation"], "RandomBlur", "0.25")
    assert card["Images"] == "8 training, 12 test"
    assert card["Device"] == "cuda, then cpu"
    assert card["Read at"] == "64 x 48"
    assert "Validation" not in card
    line_with(words(page.section("training").find("p")), "cuda, then cpu")


def test_a_hostile_class_or_file_name_is_text_and_nothing_else(run):
    classes = ["<script>alert(1)</script>", '"><img src=x onerror=alert(2)>']
    run.recipe["data"]["source"]["init_args"]["classes"] = classes
    run.write_recipe()
    name = "test/NORMAL/\"quoted\" & 'quoted' <b>.png"
    run.write_predictions("test", [(name, "<i>p</i>", 0, 0.99, "", "")])
    run.picture(run.images_root / name, np.zeros((9, 9), np.uint8))
    run.decide(status="empirical", note="<script>alert(3)</script>")
    page = run.page()
    assert {"i", "u"}.isdisjoint(page.tags)
    assert page.source.count("<script") == 2  # those of the threshold explorer
    assert not any(key.startswith("on") for key, _ in page.attributes)
    assert list(page.gallery) == [name]  # and in the alternative text of its picture
    assert classes[0] in page.text
    assert classes[0].replace("1", "3") in page.remarks


def test_a_file_name_that_is_not_utf_8_does_not_stop_the_report(run):
    header = b"path,patient,label,score,probability,decision"
    raw = header + b"\ntest/NORMAL/\xff.png,p,0,0.99,,\n"
    (run.root / "predictions" / "test.csv").write_bytes(raw)
    assert "test/NORMAL/?.png" in run.page().text


def test_no_folder_of_this_machine_stands_in_the_page(run, tmp_path):
    page = run.page()
    assert str(tmp_path) not in page.source
    assert "secret" not in page.source


def test_the_page_requests_nothing_and_runs_only_the_threshold_explorer(run):
    page = run.page()
    places = [value for key, value in page.attributes if key in {"src", "href", "srcset", "action"}]
    assert len(places) > 10
    assert all(place.startswith(("data:", "#")) for place in places)
    assert {"iframe", "object", "form"}.isdisjoint(page.tags)
    _, script = re.findall(r"<script[^>]*>(.*?)</script>", page.source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in page.source
    assert f"script-src 'sha256-{digest}'" in page.source
    assert "url(" not in page.source
    targets = {value for key, value in page.attributes if key == "id"}
    assert {place[1:] for place in places if place.startswith("#")} <= targets


DAMAGE = (b"", b"\x00\xff\xfe", b"{", b"[1, 2]", b'"text"', b"[" * 100_000, b'{"format": 9}')
FILES = (
    "recipe.yaml",
    "environment.json",
    "checkpoints/best.json",
    "operating_point.json",
    "metrics/test.json",
    "history.csv",
    "split.csv",
    "predictions/test.csv",
    "explain/test/explain.json",
    "explain/test/explain.csv",
)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused_by_its_name(run, name):
    run.explain()
    for damage in DAMAGE:
        if name == "recipe.yaml" and damage == DAMAGE[-1]:
            continue  # a recipe has no format
        run.damage(name, damage)
        with refused(DamagedRunError, Path(name).name):
            run.page()


def noise(*shape):
    """The worst that JPEG can meet."""
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.fixture
def _equal_pictures_are_made_once(monkeypatch):
    made, make = {}, wrong_decisions._to_picture

    def to_picture(image, side, quality):
        key = (image.mode, image.tobytes(), side, quality)
        if key not in made:
            made[key] = make(image, side, quality)
        return made[key]

    monkeypatch.setattr(wrong_decisions, "_to_picture", to_picture)


@pytest.mark.usefixtures("_equal_pictures_are_made_once")
def test_the_page_stays_under_its_size_whatever_the_number_of_wrong_decisions(run):
    names = [f"test/{CLASSES[k % 2]}/noise{k}.png" for k in range(2 * MAX_WRONG_DECISIONS + 30)]
    rows = [(name, "p", k % 2, 0.99 - 0.98 * (k % 2), "", "") for k, name in enumerate(names)]
    run.write_predictions("test", rows)
    run.picture(run.images_root / names[0], noise(320, 320))
    for name in names[1:]:
        shutil.copy(run.images_root / names[0], run.images_root / name)
    for kind in ("roc_test", "precision_recall_test", "reliability_test", "samples_train"):
        run.picture(run.root / "figures" / f"{kind}.png", noise(800, 600))
    path = write_report(run.root)
    page = Page(path)
    assert 0.5 * MAX_PAGE_BYTES < path.stat().st_size <= MAX_PAGE_BYTES
    assert page.num_jpegs == 2 * MAX_WRONG_DECISIONS
    printed = [words(paragraph) for paragraph in page.section("errors").findall("p")]
    assert sum(not missing(each, [15, "predictions/test.csv"]) for each in printed) == 2
    heading = next(page.section("errors").iter("h3"))
    line_with(words(heading), "false negatives", MAX_WRONG_DECISIONS + 15)


def map_of(page, name):
    """The picture of an image's map; None where there is none, or where it is empty."""
    _, *maps = page.gallery[name]
    return maps[0] if maps else None


def maps_hint(page):
    """What is said of the maps, below what is said of the threshold."""
    hints = page.section("errors").findall("p")
    return words(hints[1])


def checks_of(page):
    """The table of what was measured of the maps."""
    return page.section("errors").find("table")


def test_each_wrong_decision_has_its_map_right_beside_its_image(run):
    run.explain()
    run.overlay("10.png", (20, 20, 250))  # that of `SUREST`
    page = run.page()
    names = list(page.gallery)
    assert names[0] == SUREST
    assert page.num_jpegs == 2 * len(names) == 12
    for name in names:
        assert "PNEUMONIA" in map_of(page, name).get("alt").replace(name, "")
        red, _, blue = picture_of(map_of(page, name)).getpixel((9, 9))
        assert (red < 60 and blue > 200) if name == SUREST else (red > 200 and blue < 60)
        assert picture_of(page.gallery[name][0]).getpixel((9, 9)) == pytest.approx(90, abs=5)
    said = sentence_with(maps_hint(page), "PNEUMONIA", "Grad-CAM", "backbone.4")
    assert "NORMAL" not in said
    sentence_with(maps_hint(page), "6 of the 6")
    assert page.problems == []


def test_an_image_and_its_map_are_as_wide_as_the_same_height_asks_for(run):
    run.explain()
    shapes = [value for key, value in run.page().attributes if key == "style"]
    assert shapes == ["flex: 1.250", "flex: 1.000"] * 6


def test_without_maps_the_page_says_nothing_of_them(run):
    page = run.page()
    assert [len(places) for places in page.gallery.values()] == [1] * 6
    assert len(page.section("errors").findall("p")) == 1
    assert not re.search(r"\bmaps?\b", page.text)
    assert not of_class(page.root, "maps") + of_class(page.root, "mapped")
    run.explain()
    page = run.page()
    assert re.search(r"\bmaps?\b", page.text)
    assert len(of_class(page.root, "maps")) == 2
    assert len(of_class(page.root, "mapped")) == 6


def test_a_wrong_decision_without_a_map_shows_its_image_alone(run):
    run.explain([row for row in run.map_rows() if row["path"] != SUREST])
    page = run.page()
    (image,) = page.gallery[SUREST]
    assert image is not None
    sentence_with(maps_hint(page), "5 of the 6")
    assert page.num_jpegs == 11
    assert len(of_class(page.root, "mapped")) == 5


def test_maps_of_other_images_than_the_wrong_decisions_are_not_shown(run):
    run.explain([row for row in run.map_rows() if row["path"] == "test/NORMAL/image 0.png"])
    page = run.page()
    assert page.num_jpegs == 6
    line_with(maps_hint(page), "explain/test")
    assert not of_class(page.root, "mapped")


def test_a_map_that_is_empty_is_called_empty_and_not_shown_in_colours(run):
    run.explain(run.map_rows(raw_max=0.0))
    page = run.page()
    assert [name for name, places in page.gallery.items() if None in places] == [SUREST]
    assert map_of(page, SUREST) is None
    surest = page.section("errors").find("ul/li/div")
    assert "mapped" in page.section("errors").find("ul/li").get("class")
    line_with(words(surest[1]), "PNEUMONIA")
    assert page.num_jpegs == 11


def test_maps_against_the_positive_class_are_not_said_to_raise_its_score(run):
    run.explain(target_class="NORMAL", method="layer_cam")
    said = sentence_with(maps_hint(run.page()), "NORMAL", "LayerCAM")
    assert "PNEUMONIA" not in said


def test_where_no_image_is_found_the_maps_are_shown_all_the_same(run):
    run.explain()
    shutil.rmtree(run.images_root)
    del run.recipe["data"]["source"]["init_args"]["root"]
    run.write_recipe()
    page = run.page()
    assert page.num_jpegs == 6
    for name, (picture, overlay) in page.gallery.items():
        assert picture is None
        assert overlay is not None, name


def test_the_maps_are_those_of_the_images_that_the_page_shows(run):
    (run.root / "metrics" / "test.json").unlink()
    run.write_predictions("val", run.scored)
    run.explain(name="test")
    assert run.page().num_jpegs == 6
    run.explain(name="val")
    assert run.page().num_jpegs == 12


def test_maps_of_other_weights_are_left_out_until_they_are_made_again(run):
    run.explain(weights_sha256="ef" * 32, checks=MAP_CHECKS)
    page = run.page()
    assert page.num_jpegs == 6
    assert checks_of(page) is None
    ((_, problem),) = page.problems
    line_with(problem, "explain/test", "Run explain", "operating_point.json")
    run.explain()
    (run.root / "operating_point.json").unlink()  # nothing says of which weights the run is
    assert run.page().num_jpegs == 6


def assert_that_the_surest_wrong_decision_lost_its_map(page):
    """And that this is said, and no other did."""
    assert len(page.gallery[SUREST]) == 1
    assert page.num_jpegs == 11
    ((_, problem),) = page.problems
    line_with(problem, "explain/test", 1)


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
    os.mkfifo(folder / "pipe.png")  # opening it would block for ever
    assert_that_the_surest_wrong_decision_lost_its_map(run.page())


def damaged_png(kind):
    data = io.BytesIO()
    Image.new("RGB", (5000, 8) if kind == "too large" else (64, 64)).save(data, "PNG")
    png = data.getvalue()
    if kind == "another format":
        Image.new("RGB", (64, 64)).save(data := io.BytesIO(), "JPEG")
        return data.getvalue()
    return {"empty": b"", "cut short": png[:60], "text": b"{}", "too large": png}[kind]


@pytest.mark.parametrize("kind", ["empty", "cut short", "text", "another format", "too large"])
def test_a_damaged_overlay_is_left_out_and_reported(run, kind):
    run.explain()
    (run.root / "explain" / "test" / "10.png").write_bytes(damaged_png(kind))
    assert_that_the_surest_wrong_decision_lost_its_map(run.page())


@pytest.mark.parametrize("raw_max", ["", "warm"])
def test_a_row_that_does_not_say_whether_its_map_is_empty_is_damage(run, raw_max):
    run.explain(run.map_rows(raw_max=raw_max))
    with refused(DamagedRunError, "explain.csv"):
        run.page()


def test_what_explain_wrote_is_text_and_nothing_else(run):
    run.explain(method="<script>", target_layer="<i>", target_class='"><u>')
    page = run.page()
    assert {"i", "u"}.isdisjoint(page.tags)
    assert page.source.count("<script") == 2
    assert missing(maps_hint(page), ['"><u>', "<script>", "<i>"]) == []


def test_whether_the_maps_mean_anything_is_reported_before_the_first_of_them(run):
    run.explain(checks=MAP_CHECKS)
    page = run.page()
    section = list(page.section("errors"))
    table = section.index(checks_of(page))
    assert table < [element.tag for element in section].index("ul")
    printed = words(section[table - 1])
    line_with(printed, "maps", "32", "120")
    assert printed.startswith(checks_summary(map_checks(MAP_CHECKS)))
    _, *checks = rows_of(checks_of(page))
    assert len(checks) == 5
    assert missing(checks[0][2], ["0.620"]) == []


def test_maps_that_were_not_checked_are_reported(run):
    run.explain(checks=None)
    page = run.page()
    assert checks_of(page) is None
    _, _, printed = page.section("errors").findall("p")
    line_with(words(printed), "maps")


@pytest.mark.usefixtures("_equal_pictures_are_made_once")
def test_the_page_stays_under_its_size_with_a_map_beside_each_wrong_decision(run):
    names = [f"test/{CLASSES[k % 2]}/noise{k}.png" for k in range(2 * MAX_WRONG_DECISIONS)]
    run.scored = [(n, "p", k % 2, 0.99 - 0.98 * (k % 2), "", "") for k, n in enumerate(names)]
    run.write_predictions("test", run.scored)
    run.write_maps(run.map_rows())
    run.write_about()
    overlays = run.root / "explain" / "test"
    run.picture(overlays / "0.png", noise(320, 320, 3))
    run.picture(run.images_root / names[0], noise(320, 320))
    for k, name in enumerate(names[1:], start=1):
        shutil.copy(overlays / "0.png", overlays / f"{k}.png")
        shutil.copy(run.images_root / names[0], run.images_root / name)
    path = write_report(run.root)
    page = Page(path)
    assert path.stat().st_size <= MAX_PAGE_BYTES
    assert page.num_jpegs == 4 * MAX_WRONG_DECISIONS
    assert len({picture_of(each).size for pair in page.gallery.values() for each in pair}) == 1


def test_where_there_is_no_room_for_both_the_images_stay_and_the_maps_go(run, monkeypatch):
    pictures = re.findall(r"data:image/jpeg[^\"]+", run.page().source)
    room = sum(map(len, pictures))
    real = wrong_decisions.draw_wrong_decisions
    monkeypatch.setattr(
        wrong_decisions, "draw_wrong_decisions", lambda *given: real(*given[:-1], room)
    )
    run.explain()
    page = run.page()
    assert [len(places) for places in page.gallery.values()] == [1] * 6
    assert page.num_jpegs == 6
    line_with(maps_hint(page), "explain/test")


def test_the_same_run_gives_the_same_page(run):
    assert run.page().source == run.page().source


def test_the_output_may_lie_elsewhere_and_the_run_folder_stays_as_it_was(run, tmp_path):
    before = sorted(run.root.rglob("*"))
    path = write_report(run.root, tmp_path / "deep" / "page.html")
    assert path == tmp_path / "deep" / "page.html"
    assert path.is_file()
    assert sorted(run.root.rglob("*")) == before


def test_a_folder_without_a_run_is_refused_and_nothing_is_written(tmp_path):
    with refused(RunFolderError, "history.csv"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_is_one_clear_error(run):
    (run.root / "file").write_text("")
    path = run.root / "file" / "report.html"
    with refused(CxrIgniteError, path, "bytes", "File exists"):
        write_report(run.root, path)


def test_a_run_that_is_still_training_is_marked_so(run):
    (run.root / "operating_point.json").unlink()
    page = run.page()
    ((problem,),) = page.problems
    line_with(problem, "threshold")
    assert page.state[0] == {"none"}


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_opens_it_within_a_second_without_an_error_or_a_request(run, browser, width):
    run.explain(run.map_rows(raw_max=0), checks=MAP_CHECKS)
    path = write_report(run.root)
    seconds = []
    for _ in range(3):
        page = browser.new_page(viewport={"width": width, "height": 900})
        problems, requests = [], []
        page.on("console", lambda message, to=problems: to.append(message.text))
        page.on("pageerror", lambda error, to=problems: to.append(str(error)))
        page.on("request", lambda request, to=requests: to.append(request.url))
        start = time.perf_counter()
        page.goto(path.as_uri(), wait_until="load")
        seconds.append(time.perf_counter() - start)
        assert problems == []
        assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        page.close()
    assert min(seconds) < 1


def test_the_explorer_has_every_set_of_scored_images_that_has_a_threshold(run):
    def captions():
        section = run.page().section("explorer")
        return [] if section is None else [words(each) for each in section.iter("caption")]

    (of_test,) = captions()
    assert "test" in of_test
    run.write_predictions("calibration", run.scored)
    run.write_predictions("val", run.scored)
    assert ["test" in captions()[0], "calibration" in captions()[1]] == [True] * 2
    assert len(captions()) == 2  # validation images did not choose the threshold
    for name in ("metrics/calibration.json", "metrics/test.json"):
        run.damage(name, None)
    (of_validation,) = captions()
    assert "validation" in of_validation
    run.write_predictions("val", [])
    page = run.page()
    assert page.section("explorer") is None
    assert "script" not in page.tags
    assert "script-src" not in page.source


def test_the_explorer_marks_the_stored_threshold_and_counts_a_tie_as_positive(run):
    table = run.page().section("explorer").find(".//table[@class='thresholds']")
    (stored,) = of_class(table, "stored")
    # Of each class: 0.9, 0.95 and 0.991 are at or above 0.9.
    assert [words(cell) for cell in stored[:5]] == ["0.9000 stored", "3", "3", "3", "3"]
    assert figures(stored[5]) == figures(stored[6]) == ["50.0 %", "11.8 to 88.2 %"]


def test_the_certificate_of_the_explorer_is_mentioned_only_if_there_is_one(run):
    hint = words(run.page().section("explorer").find("p"))
    assert "certificate" in line_with(hint, "stored threshold", "other images")
    run.decide(status="empirical")
    assert "certificate" not in line_with(words(run.page().section("explorer").find("p")), "other")


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 420])
def test_the_keyboard_moves_the_threshold_of_the_explorer(run, browser, width):
    tests, calibration = scored_at_random(), scored_at_random(4, (50, 40))
    run.write_predictions("test", tests)
    run.write_predictions("calibration", calibration)
    shown = OpenPage(browser, write_report(run.root), viewport={"width": width, "height": 900})
    assert shown.thresholds == ["0.9000 (stored)"]
    assert shown.cells == expected_cells(tests, 0.9)
    for keys in (["ArrowRight"], ["PageDown"] * 3, ["ArrowLeft"] * 7, ["Home"], ["End"]):
        shown.press(0, *keys)
        (threshold,) = shown.thresholds
        assert shown.cells == expected_cells(tests, float(threshold))
        (_, tnr, _), _, _, (_, tpr, _) = shown.cells
        assert missing(shown.text("output"), [threshold, tnr, tpr]) == []
        confusion = confusion_at(*scores_of(tests), float(threshold))
        for name, value in (("ppv", confusion.ppv), ("npv", confusion.npv)):
            text = percent(None if math.isnan(value) else value)
            assert shown.text(f"[data-value={name}]") == text
    assert threshold == "1.0000"
    shown.page.keyboard.press("Tab")
    shown.page.keyboard.press("Enter")
    assert shown.thresholds == ["0.9000 (stored)"]
    assert shown.visible("table.thresholds") == [True, False]
    shown.page.select_option("#explorer-images", "calibration")
    assert shown.cells == expected_cells(calibration, 0.9)
    assert shown.visible("table.thresholds") == [False, True]
    assert shown.visible("figure") == [False, True]
    assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
    shown.close()


@pytest.mark.slow
def test_every_step_of_the_explorer_has_the_numbers_of_the_report(run, browser):
    rows = scored_at_random(5, (16, 1200))
    run.write_predictions("test", rows)
    shown = OpenPage(browser, write_report(run.root))
    shown.press(0, "Home")
    for _ in range(len(json.loads(shown.page.text_content("#explorer script"))[0]["steps"]) // 9):
        shown.press(0, *["ArrowRight"] * 9)
        assert shown.cells == expected_cells(rows, float(shown.thresholds[0].split()[0]))
    shown.close()


@pytest.mark.slow
def test_two_thresholds_of_the_explorer_refer_images_and_do_not_cross(run, browser, monkeypatch):
    rows = scored_at_random(6)
    two = explorer.make_explorer([explorer.explore("test", *scores_of(rows), [0.4, 0.9])])
    monkeypatch.setattr(explorer, "explore_run", lambda *_: two)
    shown = OpenPage(browser, write_report(run.root))
    assert shown.cells == expected_cells(rows, 0.4, 0.9)
    shown.press(0, *["PageUp"] * 3)
    assert shown.cells == expected_cells(rows, *map(float, (shown.thresholds[0], "0.9")))
    shown.press(0, *["PageUp"] * 3)
    assert len(set(shown.thresholds)) == 1  # the lower has moved the upper
    assert [cell[0] for cell in shown.cells[1::3]] == ["0", "0"]
    shown.press(1, "Home")
    assert shown.thresholds == ["0.0000"] * 2
    shown.close()


@pytest.mark.slow
def test_the_explorer_prints_the_stored_threshold_and_needs_no_script(run, browser):
    run.write_predictions("calibration", run.scored)
    path = write_report(run.root)
    printed = OpenPage(browser, path)
    printed.press(0, "PageDown")
    printed.page.emulate_media(media="print")
    without = OpenPage(browser, path, java_script_enabled=False)
    for shown in (printed, without):
        assert shown.visible("table.thresholds") == shown.visible("figure") == [True, True]
        assert not any(shown.visible(".controls") + shown.visible("input"))
        assert "0.9000" in shown.text("tr.stored")
    assert printed.visible("figure .chosen") == [False, False]
    assert without.text("noscript")
    for shown in (printed, without):
        shown.close()


@pytest.mark.parametrize("printed_by", ["images that chose it", "the test images"])
def test_a_threshold_that_is_not_usable_is_reported_first_and_everywhere(run, printed_by):
    by_test = printed_by == "the test images"
    run.decide(informativeness=None if by_test else USELESS)
    run.evaluate(informativeness=USELESS if by_test else None)
    page = run.page()
    assert "unusable" in page.state[0]
    assert page.state[1].startswith(NOT_USABLE.capitalize())
    first = words(page.root.find("body/main/section/p[@class='unusable']"))
    line_with(first, "test" if by_test else "calibration", "AUC", "0.430")
    line_with(page.limits[0], NOT_USABLE)
    assert by_test or f"{NOT_USABLE} (certified)" in words(page.section("card"))
    assert not by_test or NOT_USABLE in page.observations["test"][-1]
    line_with(page.sentence, "95 %", "93 %", "NORMAL")


def useless_scores(kind):
    """Scores and labels that tell nothing of the classes, or too little."""
    y_true = np.repeat([0, 1], [117, 3] if kind == "three positives" else [60, 60])
    if kind == "constant scores":
        return np.full(120, 0.7), y_true
    if kind == "reversed labels":
        return np.linspace(1, 0, 120), y_true
    if kind == "three positives":
        return np.r_[np.linspace(0, 0.9, 117), [0.2, 0.95, 0.5]], y_true
    # A network with random weights, on images that are noise in both classes.
    torch.manual_seed(0)
    with torch.no_grad():
        logits = LightCNN(width=4).eval()(torch.rand(120, 1, 32, 32))
    return torch.sigmoid(logits).double().numpy(), y_true


@pytest.mark.parametrize(
    "kind", ["constant scores", "reversed labels", "three positives", "frozen random features"]
)
def test_scores_without_information_are_headed_not_usable_and_the_exit_code_stays(run, kind):
    y_score, y_true = useless_scores(kind)
    point = select_operating_point(y_score, y_true, min_threshold=0.0)
    records = [
        ImageRecord(f"{n}.png", f"{n}.png", int(y), f"p{n}", "val") for n, y in enumerate(y_true)
    ]
    scores = SplitScores(records, tuple(CLASSES), y_score, y_true, np.zeros((120, 2), np.float32))
    measured = measure_informativeness(scores, point.threshold)
    assert not measured.is_informative
    run.decide(informativeness=measured)
    assert cli.run(["report", "--run", str(run.root)]) == 0
    assert Page(run.root / "report.html").state[1].startswith(NOT_USABLE.capitalize())
