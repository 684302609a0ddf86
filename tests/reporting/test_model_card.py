"""The model card: what Hugging Face reads of it, and that it states what the report states."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from messages import missing
from report_pages import CHECK, INVALID, Run
from results import USELESS, evaluation_of, rule_of

from cxrignite.functional import Interval
from cxrignite.functional.shift import ShiftCheck
from cxrignite.reporting import wording
from cxrignite.reporting.model_card import model_card
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.run_results import RunResults

SHIFT = ShiftCheck(0.887, Interval(0.85, 0.918), 80, 50, 70, 45, is_detected=True)
SHIFTED = replace(CHECK, is_shifted=True)


@pytest.fixture
def made_up(tmp_path):
    return Run(tmp_path)


def card_of(root, site=None, **settings):
    return model_card(RunResults.read(RunFolder(Path(root)), site), **settings)


def plain(card):
    """The text of a card without its markup."""
    body = card.split("---\n", 2)[2]
    body = re.sub(r"\\([^\w\s])", r"\1", body)
    return body.replace("**", "")


def assert_line(text, *facts):
    """Check that one line has all facts; a card's lines are tables and sentences of the wording."""
    lines = text.splitlines()
    assert any(not missing(line, facts) for line in lines), (facts, lines)


def section(card, title):
    parts = re.split(r"^#+ (.*)$", card, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[title]


def test_hugging_face_reads_every_metric_with_its_split(trained):
    data = ModelCard(card_of(trained)).data
    assert data.pipeline_tag == "image-classification"
    assert data.library_name == "cxrignite"
    assert {"chest-x-ray", "research-only"} <= set(data.tags)
    assert data.license is None
    found = {(each.dataset_split, each.metric_type): each for each in data.eval_results}
    for split in ("val", "calibration", "test"):
        content = json.loads((trained / "metrics" / f"{split}.json").read_text())["findings"][0]
        assert found[split, "roc_auc"].metric_value == pytest.approx(
            content["roc_auc"]["value"], abs=1e-6
        )
        rates = content["at_threshold"]
        for kind, key in (("specificity", "tnr"), ("recall", "tpr")):
            assert found[split, kind].metric_value == pytest.approx(rates[key]["value"], abs=1e-6)
            assert "95 %" in found[split, kind].metric_name
    assert len(found) == 12


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Apache License\nVersion 2.0, January 2004", "apache-2.0"),
        ("MIT License\n\nPermission is hereby granted, ...", "mit"),
        ("Only for the ward of Dr. Who", "other"),
    ],
)
def test_a_licence_is_named_as_hugging_face_names_it(made_up, text, name):
    card = card_of(made_up.root, licence=text)
    assert ModelCard(card).data.license == name
    assert ("license_link: LICENSE" in card) == (name == "other")
    assert "licence of the weights" not in card
    assert "licence of the weights" in card_of(made_up.root)


def test_the_card_states_what_the_report_states(made_up):
    made_up.evaluate(certificate=INVALID, shift=SHIFT)
    (results,) = RunResults.read(RunFolder(made_up.root))
    card, page = plain(card_of(made_up.root)), made_up.page()
    evaluations = results.evaluations
    rule = wording.state_rule(results.rule, results.classes, evaluations)
    warning = wording.check_rule("test", evaluations["test"])
    assert missing(card, [rule.title, rule.text, *rule.remarks]) == []
    assert missing(card, [warning.title, warning.text, *warning.reasons]) == []
    assert missing(card, page.limits) == []
    assert missing(card, [row[-1] for row in page.observations.values()]) == []
    assert wording.describe_shift(SHIFT) in card


def test_a_certificate_that_was_found_not_valid_comes_first(made_up):
    made_up.evaluate(certificate=SHIFTED, shift=SHIFT)
    body = card_of(made_up.root).split("---\n", 2)[2]
    sections = re.findall(r"^## (.*)$", body, flags=re.MULTILINE)
    assert [each.split()[0] for each in sections[:3]] == ["Decision", "Intended", "Results"]
    rule = section(body, "Decision rule")
    assert_line(rule, "not valid", "test")
    assert_line(rule, "AUC", "0.887", "0.850 to 0.918", "separates the negative")
    assert_line(section(body, "Intended use and limits of use"), "certificate", "not valid")


def test_a_useless_threshold_is_an_alarm(made_up):
    made_up.decide(informativeness=USELESS)
    card = plain(card_of(made_up.root))
    assert_line(card, "THE THRESHOLD IS NOT USABLE", "calibration")
    assert_line(card, "Not for any decision", "not usable")


def test_a_run_without_a_threshold_or_a_test_has_a_card(made_up):
    made_up.damage("metrics/test.json", None)
    made_up.rule = rule_of(point=None)
    made_up.write_rule(made_up.rule)
    for name in ("val", "calibration"):
        made_up.evaluate(name)
    card = card_of(made_up.root)
    assert_line(card, "No operating point")
    assert_line(plain(card), "test split has not been evaluated", "Expect lower")
    assert "Specificity guaranteed" not in card


def test_figures_have_both_intervals_and_subgroups_are_shown(made_up):
    card = section(card_of(made_up.root), "Results")
    assert_line(card, "AUC (", "0.960 (0.930 to 0.980; 0.920 to 0.985)")
    assert_line(card, "Balanced accuracy", "85.0 % (by patient 80.0 to 90.0 %)")
    assert_line(card, "Brier score", "0.100 (0.080 to 0.120)")
    assert_line(card, "subgroup: virus", "30 PNEUMONIA", "90.0 % (73.0 to 98.0 %)")
    for text in (evaluation_of().subgroups, ()):
        made_up.evaluate(subgroups=text)
        assert ("No subgroups" in card_of(made_up.root)) == (not text)


def test_recipe_split_and_versions_are_in_the_card_and_folders_are_not(made_up):
    card = card_of(made_up.root)
    assert_line(section(card, "Model"), "LightCNN", "width 32", "weights.pt")
    assert_line(section(card, "Training"), "Epochs", "2 of 3")
    assert_line(section(card, "Software"), "torch", "2.14.1")
    assert_line(section(card, "Weights and threshold"), "ab" * 32)
    assert_line(section(card, "Data and splits"), "training", "4", "4", "4")
    assert str(made_up.root.parent) not in card
    assert "secret" not in card
    for path, patient, *_ in made_up.records:
        assert path not in card
        assert patient not in card


def test_names_are_no_markup(made_up):
    odd = "a|b <img src=x> *c* [d](e) _f_"
    made_up.recipe["data"]["source"]["init_args"]["classes"] = ["NORMAL", odd]
    made_up.write_recipe()
    made_up.decide(finding=odd)
    card = card_of(made_up.root)
    body = card.split("---\n", 2)[2]
    escaped = r"a\|b \<img src=x> \*c\* \[d\](e) \_f\_"
    assert body.count(escaped) > 5
    for form in ("<img", "[d](e)", "*c*", "a|b", " _f_"):
        assert re.search(rf"(?<!\\){re.escape(form)}", body) is None, form
    assert yaml.safe_load(card.split("---\n")[1])["model-index"][0]["results"]
    for line in body.splitlines():
        if line.startswith("|"):
            head = re.findall(r"(?<!\\)\|", line)
            assert len(head) > 1


def test_each_of_several_findings_has_its_rule_and_results(trained_findings):
    card = card_of(trained_findings)
    results = RunResults.read(RunFolder(trained_findings))
    names = [each.classes[1] for each in results]
    for each in results:
        assert_line(card, f"### {each.classes[1]}")
        assert wording.state_rule(each.rule, each.classes, each.evaluations).text in plain(card)
    assert_line(card, "Macro average", "Micro average")
    assert_line(plain(card), wording.describe_findings(results[0].all_classes, is_exclusive=False))
    tasks = {each.task_name for each in ModelCard(card).data.eval_results}
    assert tasks == {f"{name} on chest X-rays" for name in names}


def test_exclusive_classes_have_a_table_of_decisions(trained_classes):
    card = card_of(trained_classes)
    assert_line(card, "called NORMAL", "called BACTERIAL", "called VIRAL")
    assert_line(card, "Kappa")
    assert_line(plain(card), wording.describe_class_decisions("NORMAL"))


def test_the_card_of_a_site_states_the_rule_of_the_site(made_up):
    site = rule_of(threshold=0.95, chosen_on="ward")
    made_up.write_rule(site)
    own = section(card_of(made_up.root), "Decision rule")
    assert_line(own, "Operating point of ward", "0.9500")
    assert_line(own, "| Threshold", "0.9000")
    of_site = section(card_of(made_up.root, "ward"), "Decision rule")
    assert_line(of_site, "| Threshold", "0.9500")
    assert "0.9000 " not in of_site.split("| Images")[0]
