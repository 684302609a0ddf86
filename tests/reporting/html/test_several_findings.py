"""The page of a run with several findings."""

import base64
import hashlib
import re
from dataclasses import replace

import numpy as np
import pytest
from messages import line_with, missing
from report_pages import (
    INVALID,
    OpenPage,
    Page,
    SeveralRun,
    figures,
    of_class,
    rows_of,
    words,
)
from results import PRIOR_SHIFT, USELESS, rule_of

from cxrignite.functional import Interval
from cxrignite.reporting.html import MAX_PAGE_BYTES, write_report
from cxrignite.reporting.html.finding_part import Limits
from cxrignite.reporting.run_facts import prior_shift_sentences
from cxrignite.reporting.wording import NOT_USABLE
from cxrignite.runs.evaluation import Estimate


@pytest.fixture
def run(tmp_path):
    """Two exclusive findings."""
    return SeveralRun(tmp_path)


@pytest.fixture
def side_by_side(tmp_path):
    """Three findings that may occur together."""
    return SeveralRun(tmp_path, ("Effusion", "Nodule", "Mass"), exclusive=False)


def table_of(page):
    """The first table: the cells of each finding, by its name."""
    table = page.section("findings").find("table")
    return {words(row[0]): list(row[1:]) for row in table.findall("tbody/tr")}


def part_of(page, number):
    return page.section(f"finding-{number}")


def status_of(page, name):
    return words(table_of(page)[name][-1])


def test_the_page_opens_with_a_row_for_each_finding_that_links_to_its_section(run):
    run.rules[1] = rule_of(exclusive=True, finding="VIRAL", threshold=0.7, min_tnr=0.9, min_tpr=0.8)
    run.write_rules()
    area = Estimate(0.71, Interval(0.6, 0.8))
    run.evaluate_all(VIRAL={"num_positive": 23, "roc_auc": area})
    page = run.page()
    assert page.root.find("body/main")[0].get("id") == "findings"
    table = table_of(page)
    assert list(table) == ["BACTERIAL", "VIRAL"]
    size, roc_auc, threshold, tnr, tpr, status = table["VIRAL"]
    assert words(size) == "23 of 110"
    assert figures(roc_auc) == ["0.710", "0.600 to 0.800"]
    assert words(threshold) == "0.7000"
    assert figures(tnr) == ["96.0 %", "86.0 to 99.5 %"]
    assert figures(tpr) == ["90.0 %", "81.0 to 96.0 %"]
    assert missing(words(tnr), ["at least 90 %"]) == missing(words(tpr), ["at least 80 %"]) == []
    assert not re.search(r"\d", words(of_class(table["BACTERIAL"][4], "terms")[0]))
    assert status.get("class") is None
    links = page.section("findings").findall("table/tbody/tr/th/a")
    for number, link in enumerate(links, start=1):
        section = page.section(link.get("href")[1:])
        assert section is part_of(page, number)
        assert words(section.find("h2")) == list(table)[number - 1]
    in_navigation = [words(link) for link in page.root.findall("body/header/nav/a")]
    assert in_navigation[1:3] == ["BACTERIAL", "VIRAL"]


def test_the_table_names_thresholds_that_are_not_usable_and_certificates_that_are_not_valid(run):
    run.evaluate_all(BACTERIAL={"certificate": INVALID}, VIRAL={"informativeness": USELESS})
    page = run.page()
    line_with(status_of(page, "BACTERIAL"), "test", "guarantee")
    line_with(status_of(page, "VIRAL"), NOT_USABLE.capitalize())
    cells = [row[-1] for row in table_of(page).values()]
    assert [cell.get("class") for cell in cells] == ["alarming"] * 2
    # The section of a finding has its own warning, and only its own.
    first, second = part_of(page, 1), part_of(page, 2)
    assert [len(of_class(part, "warning")) for part in (first, second)] == [1, 0]
    assert [len(of_class(part, "unusable")) for part in (first, second)] == [0, 2]
    line_with(words(second.find(".//p[@class='unusable']")), "test", "AUC", "0.430")
    line_with(page.limits[0], NOT_USABLE, "VIRAL")
    line_with(page.limits[-1], "certificate", "BACTERIAL")
    assert "BACTERIAL" not in page.limits[0]
    assert "VIRAL" not in page.limits[-1]


def test_the_table_names_results_of_another_threshold(run):
    run.rules[0] = rule_of(exclusive=True, finding="BACTERIAL", threshold=0.97)
    run.result_of_rules()
    page = run.page()
    line_with(status_of(page, "BACTERIAL"), "test", "out of date")
    assert "test" not in status_of(page, "VIRAL")


def test_a_finding_without_a_certificate_is_named_in_the_limits_of_use(run):
    run.rules[0] = rule_of(exclusive=True, finding="BACTERIAL", status="empirical")
    run.write_rules()
    page = run.page()
    line_with(page.limits[-1], "specificity", "BACTERIAL")
    assert "VIRAL" not in page.limits[-1]
    line_with(status_of(page, "BACTERIAL"), "specificity")
    assert "Certified" not in status_of(page, "BACTERIAL")


def test_averages_have_their_intervals(run):
    tables = page_tables(run.page())
    averages = tables["Averages"]
    assert [figures(cell) for cell in averages[0][1:]] == [
        ["0.910", "0.860 to 0.950"],
        ["0.930", "0.880 to 0.970"],
    ]
    assert [figures(row[2])[0] for row in averages] == ["0.930", "0.840", "0.760"]
    run.evaluate_all(averages=replace(run.averages, f1=None, f1_micro=None))
    assert len(page_tables(run.page())["Averages"]) == 2


def page_tables(page):
    """The tables at the top, by the first word of the caption: a list of rows each."""
    found = {}
    for table in page.section("findings").iter("table"):
        caption = table.find("caption")
        name = "matrix" if caption is None else caption.text.split()[0]
        found[name] = table.findall("tbody/tr")
    return found


def test_exclusive_classes_have_a_confusion_matrix_and_its_measures(run):
    page = run.page()
    tables = page_tables(page)
    cells = [[(words(cell[0]), cell.get("class")) for cell in row[1:]] for row in tables["matrix"]]
    assert cells == [
        [("37", None), ("7", "wrong"), ("7", "wrong")],
        [("7", "wrong"), ("38", None), ("7", "wrong")],
        [("7", "wrong"), ("7", "wrong"), ("39", None)],
    ]
    assert figures(tables["matrix"][0][1])[0] == "72.5 %"  # 37 of 51
    assert [figures(row[1])[0] for row in tables["Agreement"]] == ["70.0 %", "60.0 %", "0.500"]
    text = words(page.section("findings"))
    assert missing(text, ["NORMAL, BACTERIAL or VIRAL"]) == []


def test_findings_that_may_occur_together_have_no_classes_but_unknown_labels(side_by_side):
    page = side_by_side.page()
    assert set(page_tables(page)) == {"Thresholds", "Averages"}
    assert page.source.count('id="classes"') == 0
    split = {row[0]: row[1:] for row in rows_of(page.section("split").find("table"))}
    assert split["Images"] == split["Patients"] == ["16", "16"]
    assert split["Mass"] == ["4 11 negative, 1 unknown"] * 2
    assert split["Effusion"] == ["6 10 negative"] * 2
    (nothing,) = (row for name, row in split.items() if "without" in name)
    assert nothing == ["3", "3"]  # one of four has an unknown label
    hints = [words(part_of(page, number).find("p")) for number in (1, 2, 3)]
    assert missing(hints[2], ["no Mass", "2 images"]) == []
    assert not any(re.search(r"\d", hint) for hint in hints[:2])
    for text in (words(page.section("use")), words(page.section("card"))):
        assert missing(text, ["Effusion, Nodule and Mass"]) == []
        assert "NORMAL" not in text


def test_images_with_an_unknown_label_are_counted_in_the_table(side_by_side):
    side_by_side.evaluate_all(Mass={"num_images": 15, "num_positive": 4})
    size = table_of(side_by_side.page())["Mass"][0]
    assert words(size) == "4 of 15 known in 15 of 16 images"


def test_the_training_share_of_a_finding_is_that_of_the_known_labels(side_by_side):
    first = words(part_of(side_by_side.page(), 1).find(".//section[@id='finding-1-prior']/p"))
    last = words(side_by_side.page().section("finding-3-prior").find("p"))
    assert "known" in line_with(last, "74.2 %")
    assert "known" not in line_with(first, "74.2 %")


def test_a_score_of_an_exclusive_class_has_no_probability_of_its_own(run):
    """It depends on the scores of the other classes too."""
    alone = replace(run.rules[1], exclusive=False)
    probability = f"{alone.threshold_probability:.4f}"
    seen = f"{100 * PRIOR_SHIFT.seen_prevalence:.1f} %"
    text = words(run.page().section("finding-2-prior"))
    line_with(text, "74.2 %", "50.0 %", seen, "VIRAL", "each class")
    assert probability not in text
    assert run.rules[1].threshold_probability is None
    line_with(prior_shift_sentences(alone)[1], probability)


def test_each_section_has_the_results_of_its_finding(run):
    run.rules[1] = rule_of(
        exclusive=True,
        finding="VIRAL",
        threshold=0.7,
        prior_shift=replace(PRIOR_SHIFT, pos_weight=None),
    )
    run.write_rules()
    page = run.page()
    kinds = ("decisions", "explorer", "scores", "errors", "subgroups", "prior")
    for number, name, threshold in ((1, "BACTERIAL", "0.9000"), (2, "VIRAL", "0.7000")):
        sections = [page.section(f"finding-{number}-{kind}") for kind in kinds]
        assert all(section in list(part_of(page, number)) for section in sections)
        others = {"BACTERIAL": "VIRAL", "VIRAL": "BACTERIAL"}[name]
        assert f"no {name}" in words(sections[0])
        assert others not in words(sections[0])
        assert threshold in words(sections[1].find(".//tr[@class='stored']"))
        assert len(sections[2].findall(".//img")) == 3
    pictures = [
        [image.get("src") for image in page.section(f"finding-{number}-scores").iter("img")]
        for number in (1, 2)
    ]
    assert not set(pictures[0]) & set(pictures[1])


def test_wrong_decisions_are_those_of_the_finding_with_all_labels_of_the_image(run):
    page = run.page()
    for number, negative, positive, label in (
        (1, "image 4", "image 9", "VIRAL"),
        (2, "image 8", "image 5", "BACTERIAL"),
    ):
        wrong = [words(each) for each in page.section(f"finding-{number}-errors").iter("li")]
        assert len(wrong) == 2
        line_with(wrong[0], f"test/{negative}.png", "0.3000")
        assert label not in wrong[0]
        line_with(wrong[1], f"test/{positive}.png", "0.9700", label)
    assert page.num_jpegs == 4


def test_an_image_without_a_known_finding_is_named_so(side_by_side):
    rows = [("test/image 0.png", "p", "Nodule", 0, 0.99, "", "")]
    rows.append(("test/image 1.png", "p", "Nodule", 0, 0.98, "", ""))
    side_by_side.write_scored("test", rows)
    wrong = [words(each) for each in side_by_side.page().section("finding-2-errors").iter("li")]
    assert ["known" in each for each in wrong] == [True, False]


def test_every_id_is_unique_and_every_link_has_a_target(side_by_side):
    page = side_by_side.page()
    ids = [value for key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    links = [value for key, value in page.attributes if key == "href" and value[0] == "#"]
    referred = [value for key, value in page.attributes if key in ("for", "aria-describedby")]
    assert len(links) > 20
    assert {*(link[1:] for link in links), *referred} <= set(ids)


def test_the_explorers_share_one_script_whose_digest_the_policy_allows(side_by_side):
    page = side_by_side.page()
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page.source, re.DOTALL)
    assert [kind for kind, _ in scripts] == [' type="application/json"'] * 3 + [""]
    digest = base64.b64encode(hashlib.sha256(scripts[-1][1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.source


def test_maps_are_those_of_the_finding(run):
    rows = [
        {"path": "test/image 8.png", "raw_max": 1.5, "overlay": "8.png"},
        {"path": "test/image 5.png", "raw_max": 1.5, "overlay": "5.png"},
    ]
    for row in rows:
        run.overlay(row["overlay"], (250, 20, 20), "test_VIRAL")
    run.write_maps(rows, "test_VIRAL")
    run.write_about("test_VIRAL", target_class="VIRAL", other_class="no VIRAL")
    page = run.page()
    mapped = [len(of_class(part_of(page, number), "mapped")) for number in (1, 2)]
    assert mapped == [0, 2]
    assert page.num_jpegs == 6


def test_what_concerns_the_run_is_stated_once(run):
    run.rules = [replace(rule, weights_sha256="ef" * 32) for rule in run.rules]
    run.write_rules()
    page = run.page()
    (warning,) = page.warnings
    line_with(warning, "threshold", "weights")
    for name in ("training", "data", "split", "use", "card"):
        assert page.source.count(f'<section id="{name}">') == 1
    (run.root / "operating_point.json").unlink()
    page = run.page()
    assert len(page.problems) == 1
    assert list(table_of(page)) == ["BACTERIAL", "VIRAL"]


def test_a_run_that_was_not_tested_states_it_once_and_shows_validation(run):
    (run.root / "metrics" / "test.json").unlink()
    page = run.page()
    notes = [words(each) for each in page.root.iter("p") if each.find("b") is not None]
    (note,) = [each for each in notes if "validation" in each and "Expect" in each]
    line_with(note, "test", "validation")
    assert "validation" in words(page.section("findings").find("h2"))


def test_findings_of_a_synthetic_source_are_known_before_a_threshold_is_chosen(side_by_side):
    arguments = {"findings": list(side_by_side.findings)}
    side_by_side.recipe["data"]["source"] = {"class_path": "Phantom", "init_args": arguments}
    side_by_side.write_recipe()
    (side_by_side.root / "operating_point.json").unlink()
    page = side_by_side.page()
    assert list(table_of(page)) == ["Effusion", "Nodule", "Mass"]
    line_with(page.limits[0], "synthetic")


def test_the_card_lists_each_threshold_and_the_number_of_findings_of_the_model(run):
    run.recipe["model"]["init_args"]["num_findings"] = 1
    run.write_recipe()
    run.rules[1] = rule_of(
        exclusive=True, finding="VIRAL", threshold=0.123456789, status="empirical"
    )
    run.write_rules()
    card = [words(line) for line in run.page().section("card").iter("dd")]
    line_with("\n".join(card), "empirical", "0.123456789")
    line_with("\n".join(card), "LightCNN", "num_findings 2")


def test_an_unknown_finding_name_is_text_and_nothing_else(tmp_path):
    run = SeveralRun(tmp_path, ("<b>Mass</b>", '"><i>', "Nodule"), exclusive=False)
    page = run.page()
    assert {"i", "u"}.isdisjoint(page.tags)
    assert list(table_of(page)) == list(run.findings)


def test_fourteen_findings_stay_under_the_size_of_a_page_and_are_all_in_the_navigation(tmp_path):
    names = [f"Finding {number}" for number in range(1, 15)]
    run = SeveralRun(tmp_path, names, exclusive=False)
    random = np.random.default_rng(0)
    rows = []
    for name in names:
        scores = random.beta(2, 2, 3000)
        rows += [
            (f"test/{n}.png", f"{n}", name, int(random.random() < score), score, "", "")
            for n, score in enumerate(scores)
        ]
        for kind in ("roc", "precision_recall", "reliability"):
            figure = random.integers(0, 256, (120, 200), np.uint8)
            run.picture(run.root / "figures" / f"{kind}_test_{name.replace(' ', '-')}.png", figure)
    run.write_scored("test", rows)
    run.write_scored("calibration", rows)
    for number in range(3000):
        noise = random.integers(0, 256, (40, 40), np.uint8)
        run.picture(run.images_root / "test" / f"{number}.png", noise)
    path = write_report(run.root)
    page = Page(path)
    assert path.stat().st_size <= MAX_PAGE_BYTES
    assert list(table_of(page)) == names
    assert [words(each) for each in page.root.findall("body/header/nav/a")][1:15] == names
    assert "14" in words(page.root.find("body/header/h1"))
    num_wrong = 0
    for number in range(1, 15):
        misses, false_alarms = page.section(f"finding-{number}-errors").findall("ul")
        assert len(misses) == Limits.shared(14, 0).num_errors
        num_wrong += len(misses) + len(false_alarms)
        assert page.section(f"finding-{number}-explorer") is not None
        assert len(page.section(f"finding-{number}-scores").findall(".//img")) == 3
    assert page.num_jpegs == num_wrong


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_explorers_of_two_findings_move_apart_by_keyboard(run, browser, width):
    run.rules[1] = rule_of(exclusive=True, finding="VIRAL", threshold=0.7)
    run.write_rules()
    path = write_report(run.root)
    first, second = (
        OpenPage(browser, path, prefix, viewport={"width": width, "height": 900})
        for prefix in ("finding-1-", "finding-2-")
    )
    second.page.close()
    second.page = first.page
    assert first.thresholds == ["0.9000 (stored)"]
    assert second.thresholds == ["0.7000 (stored)"]
    before = first.cells
    second.press(0, "Home")
    assert second.thresholds == ["0.0000"]
    assert [cell[0] for cell in second.cells] == ["0", "8", "0", "4"]
    assert (first.thresholds, first.cells) == (["0.9000 (stored)"], before)
    first.press(0, "End")
    assert [cell[0] for cell in first.cells] == ["8", "0", "4", "0"]
    second.page.keyboard.press("Tab")
    second.page.keyboard.press("Enter")
    assert first.thresholds == ["0.9000 (stored)"]
    assert second.thresholds == ["0.0000"]
    assert first.page.evaluate("document.documentElement.scrollWidth") <= width
    first.close()
