"""Results of a run with several findings, read for a report and for a comparison."""

import csv
import io
from dataclasses import replace

import pytest
import yaml
from messages import refused
from results import evaluation_of, rule_of

from cxrignite.data import ImageRecord
from cxrignite.data.splits import write_split
from cxrignite.errors import DamagedRunError
from cxrignite.handlers import SafeSaver
from cxrignite.runs.environment import describe_start
from cxrignite.runs.evaluation import Averages, Estimate, Evaluations
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.run_results import RunResults
from cxrignite.runs.scored_run import read_scored_run

FINDINGS = ("Effusion", "Nodule")
HEADER = ["path", "patient", "finding", "label", "score", "probability", "decision"]
LABELS = {"a.png": (1, 0), "b.png": (0, -1), "c.png": (-1, 1), "d.png": (0, 0)}
SCORES = {"a.png": (0.9, 0.2), "b.png": (0.3, 0.6), "c.png": (0.5, 0.7), "d.png": (0.1, 0.4)}


def predictions(change=lambda rows: rows):
    rows = []
    for name, labels in LABELS.items():
        for finding, label, score in zip(FINDINGS, labels, SCORES[name], strict=True):
            cells = [name, "p1", finding, "" if label < 0 else str(label), str(score), "", ""]
            rows.append(dict(zip(HEADER, cells, strict=True)))
    return change(rows)


@pytest.fixture
def make(tmp_path):
    """Leave the files of a run with two findings; gives its folder."""

    def make(rows=None, *, is_finished=True, source=None):
        folder = RunFolder(tmp_path / "run")
        source = source or {"class_path": "Phantom", "init_args": {"findings": list(FINDINGS)}}
        recipe = {"seed": 1, "data": {"source": source}}
        start = describe_start(["fit"], device="cpu", precision="fp32", num_processes=1)
        folder.begin(yaml.safe_dump(recipe), start)
        masks = {f"mask:{name}": f"{name}.png" for name in FINDINGS}
        records = [
            ImageRecord(name, name, labels, "p1", "test", masks) for name, labels in LABELS.items()
        ]
        write_split(records, folder.split_path, folder.files.write, FINDINGS)
        folder.files.write(folder.history_path, b"epoch\n1\n")
        if not is_finished:
            return folder
        SafeSaver(folder.checkpoints_dir)({"model": {}}, "best.pt", {"epoch": 1})
        rules = [
            replace(rule_of(weights_sha256=folder.weights_sha256()), finding=name)
            for name in FINDINGS
        ]
        averages = Averages(2, *[Estimate(0.75)] * 4)
        evaluations = tuple(evaluation_of(rule, num_images=3) for rule in rules)
        folder.write_evaluations("test", Evaluations(evaluations, averages))
        text = io.StringIO()
        writer = csv.DictWriter(text, HEADER)
        writer.writeheader()
        writer.writerows(predictions() if rows is None else rows)
        folder.files.write(folder.predictions_path("test"), text.getvalue().encode())
        folder.write_rules(rules)
        return folder

    return make


def test_each_finding_has_its_own_results(make):
    effusion, nodule = RunResults.read(make())
    for index, each in enumerate((effusion, nodule)):
        assert each.classes == (f"no {FINDINGS[index]}", FINDINGS[index])
        assert each.results_name("test") == f"test_{FINDINGS[index]}"
        assert each.rule.finding == each.evaluations["test"].rule.finding == FINDINGS[index]
        assert each.averages["test"].roc_auc.value == 0.75
        assert not each.has_one_finding
        assert [record.label for record in each.records] == [
            labels[index] for labels in LABELS.values()
        ]
        assert each.records[0].attributes == {"mask": f"{FINDINGS[index]}.png"}
        known = {name: labels[index] for name, labels in LABELS.items() if labels[index] >= 0}
        scored = each.scored_records("test")
        assert {row.name: row.label for row in scored} == known
        assert [row.score for row in scored] == [SCORES[name][index] for name in known]
        assert each.scored_records("val") == []


def test_the_names_of_the_classes_are_the_recipes(make):
    source = {"class_path": "Manifest", "init_args": {"classes": ["Normal", *FINDINGS]}}
    assert RunResults.read(make(source=source))[0].all_classes == ("Normal", *FINDINGS)


def test_a_run_that_is_not_finished_has_its_findings(make):
    results = RunResults.read(make(is_finished=False))
    assert [each.classes[1] for each in results] == list(FINDINGS)
    assert [each.rule for each in results] == [None, None]
    assert [record.label for record in results[1].records] == [0, -1, 1, 0]


def test_the_scores_of_a_finding_are_those_of_known_labels_in_the_order_of_paths(make):
    folder = make(predictions(lambda rows: rows[::-1]))
    effusion, nodule = read_scored_run(folder.root, "test")
    assert (effusion.finding, nodule.finding) == FINDINGS
    assert effusion.paths == ["a.png", "b.png", "d.png"]
    assert effusion.y_true.tolist() == [1, 0, 0]
    assert effusion.y_score.tolist() == [0.9, 0.3, 0.1]
    assert nodule.paths == ["a.png", "c.png", "d.png"]
    assert nodule.y_true.tolist() == [0, 1, 0]
    assert nodule.y_score.tolist() == [0.2, 0.7, 0.4]


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda rows: [*rows, rows[3]], "b.png"),
        (lambda rows: [{**rows[0], "label": "2"}, *rows[1:]], "'2'"),
        (lambda rows: [{**rows[0], "score": "1.5"}, *rows[1:]], "1.5"),
    ],
)
def test_damaged_predictions_are_refused(make, change, fact):
    folder = make(predictions(change))
    with refused(DamagedRunError, "test.csv", fact):
        read_scored_run(folder.root, "test")
