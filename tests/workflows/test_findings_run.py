"""Commands on runs with several findings, on tiny models and real files."""

import csv
import json
import shutil
from collections import Counter
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import error_line, line_with, missing, refused, unwrapped
from PIL import Image
from same_run import assert_same_run, history
from sklearn.metrics import average_precision_score, roc_auc_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cxrignite.cli import run
from cxrignite.data import ClassFolders, Manifest, ManifestColumns, Phantom
from cxrignite.errors import DataError
from cxrignite.functional import grad_cam, scores_from_logits
from cxrignite.runs.run_folder import RunFolder
from cxrignite.workflows.explain.explain import _score
from cxrignite.workflows.finished_run import _check_findings

pytestmark = pytest.mark.integration

FINDINGS = ["Opacity", "Effusion", "Nodule"]
KINDS = ("confusion", "roc", "precision_recall", "reliability")
SITE = {"num_train": 20, "num_test": 120, "size": 48, "seed": 5}


@pytest.fixture
def run_dir(trained_findings, tmp_path):
    """A copy of the run with three findings, to be changed."""
    return Path(shutil.copytree(trained_findings, tmp_path / "run"))


@pytest.fixture
def classes_dir(trained_classes, tmp_path):
    """A copy of the run with exclusive classes, to be changed."""
    return Path(shutil.copytree(trained_classes, tmp_path / "classes"))


@pytest.fixture
def fit(trained_findings):
    """Run `fit` in this process with the recipe of the run."""
    home = trained_findings.parent
    config = ["--config", str(home / "recipe.yaml"), "--data.cache", str(home / "cache")]
    return lambda run_dir, *argv: run(["fit", *config, "--run_dir", str(run_dir), *argv])


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def entries(path):
    """The entries of `operating_point.json` or `metrics/*.json`, by finding."""
    found = json.loads(path.read_text())["findings"]
    return {each.get("rule", each)["finding"]: each for each in found}


def points(run_dir):
    return {name: each["point"] for name, each in entries(run_dir / "operating_point.json").items()}


def known(rows, finding):
    """Labels and scores of the images whose label of a finding is known."""
    kept = [row for row in rows if row["finding"] == finding and row["label"]]
    return [int(row["label"]) for row in kept], [float(row["score"]) for row in kept]


def shows(text, *facts):
    """True if a line has all facts; the others of its numbers depend on the weights."""
    return any(not missing(line, facts) for line in text.splitlines())


def labels_of_split(run_dir, split, findings=FINDINGS):
    return {
        row["path"]: [row[f"label:{name}"] for name in findings]
        for row in rows_of(run_dir / "split.csv")
        if row["split"] == split
    }


@pytest.mark.parametrize("name", ["val", "calibration", "test"])
def test_the_predictions_have_a_row_for_each_image_and_finding(trained_findings, name):
    rows = rows_of(trained_findings / "predictions" / f"{name}.csv")
    labels = labels_of_split(trained_findings, name)
    assert [row["path"] for row in rows] == [path for path in labels for _ in FINDINGS]
    for path, of_image in groupby(rows, key=lambda row: row["path"]):
        of_image = list(of_image)
        assert [row["finding"] for row in of_image] == FINDINGS
        assert [row["label"] for row in of_image] == labels[path]
    assert ("" in {row["label"] for row in rows}) == (name != "test")
    thresholds = {finding: each["threshold"] for finding, each in points(trained_findings).items()}
    for row in rows:
        is_positive = float(row["score"]) >= thresholds[row["finding"]]
        assert row["decision"] == ("positive" if is_positive else "negative")
        assert 0 < float(row["probability"]) < 1


@pytest.mark.parametrize("name", ["val", "calibration", "test"])
def test_the_metrics_are_those_of_scikit_learn_on_the_known_labels(trained_findings, name):
    rows = rows_of(trained_findings / "predictions" / f"{name}.csv")
    metrics = entries(trained_findings / "metrics" / f"{name}.json")
    averages = json.loads((trained_findings / "metrics" / f"{name}.json").read_text())["averages"]
    assert list(metrics) == FINDINGS
    of_each = {finding: known(rows, finding) for finding in FINDINGS}
    pooled = [np.concatenate(parts) for parts in zip(*of_each.values(), strict=True)]
    for key, metric in (
        ("roc_auc", roc_auc_score),
        ("average_precision", average_precision_score),
    ):
        values = [metric(*pair) for pair in of_each.values()]
        stored = [each[key]["value"] for each in metrics.values()]
        assert stored == pytest.approx(values, abs=1e-12)
        assert averages[key]["value"] == pytest.approx(np.mean(values), abs=1e-12)
        assert averages[f"{key}_micro"]["value"] == pytest.approx(metric(*pooled), abs=1e-12)
    assert averages["num_findings"] == 3
    assert averages["decisions"] is None
    for finding, (labels, _) in of_each.items():
        counts = [metrics[finding][f"num_{key}"] for key in ("images", "negative", "positive")]
        assert counts == [len(labels), labels.count(0), labels.count(1)]


def test_the_history_has_the_metrics_of_each_finding(trained_findings):
    best = max(history(trained_findings), key=lambda row: float(row["val_roc_auc"]))
    metrics = entries(trained_findings / "metrics" / "val.json")
    values = [float(best[f"val_roc_auc/{finding}"]) for finding in FINDINGS]
    stored = [metrics[finding]["roc_auc"]["value"] for finding in FINDINGS]
    assert values == pytest.approx(stored, abs=1e-12)
    assert float(best["val_roc_auc"]) == pytest.approx(np.mean(values))
    assert {f"val_threshold/{finding}" for finding in FINDINGS} <= best.keys()


def test_only_images_with_a_known_label_have_chosen_the_threshold_of_a_finding(trained_findings):
    rows = rows_of(trained_findings / "split.csv")
    for finding, point in points(trained_findings).items():
        cells = [
            (row[f"label:{finding}"], row["patient"])
            for row in rows
            if row["split"] == "calibration"
        ]
        counts = Counter(label for label, _ in cells)
        assert counts[""] > 0
        assert (point["num_negative"], point["num_positive"]) == (counts["0"], counts["1"])
        negatives = {patient for label, patient in cells if label == "0"}
        assert point["num_negative_patients"] == len(negatives)
        assert point["status"] == "certified"
        assert point["min_tnr"] == (0.5 if finding == "Nodule" else 0.7)  # its own setting
        assert point["tnr_lower_bound"] >= point["min_tnr"]


def test_each_finding_has_its_figures_and_its_curves(trained_findings):
    figures = {path.stem for path in (trained_findings / "figures").glob("*.png")}
    splits = ("val", "calibration", "test")
    assert figures >= {
        f"{kind}_{split}_{name}" for kind in KINDS for split in splits for name in FINDINGS
    }
    assert figures >= {"class_distribution", "samples_train", "learning_curves"}
    tags = EventAccumulator(str(trained_findings / "tensorboard")).Reload().Tags()
    scalars = {"val/roc_auc", *(f"val/roc_auc/{name}" for name in FINDINGS)}
    scalars |= {f"with_best_weights/test_{name}_tnr" for name in FINDINGS}
    assert scalars <= set(tags["scalars"])
    assert {f"val/precision_recall/{name}" for name in FINDINGS} <= set(tags["tensors"])
    assert {f"figures/roc_test_{name}" for name in FINDINGS} <= set(tags["images"])


def test_a_run_in_two_parts_equals_one_without_a_break(fit, trained_findings, tmp_path):
    folder = tmp_path / "run"
    assert fit(folder, "--trainer.max_epochs", "1") == 0
    assert fit(folder, "--resume", "auto") == 0
    assert_same_run(trained_findings, folder)
    names = [each / "reference.npz" for each in (folder, trained_findings)]
    with np.load(names[0]) as ours, np.load(names[1]) as theirs:
        assert set(ours) == set(theirs) == {"features", "patients", "is_negative"}
        assert all((ours[key] == theirs[key]).all() for key in theirs)


def test_validate_and_test_repeat_what_was_found(run_dir, capsys):
    names = ["predictions/val.csv", "metrics/val.json", "predictions/test.csv"]
    before = [(run_dir / name).read_bytes() for name in names]
    metrics = entries(run_dir / "metrics" / "test.json")
    assert run(["validate", "--run", str(run_dir)]) == 0
    assert run(["test", "--run", str(run_dir)]) == 0
    assert [(run_dir / name).read_bytes() for name in names] == before
    again = entries(run_dir / "metrics" / "test.json")
    printed = capsys.readouterr().out
    for name in FINDINGS:
        assert (metrics[name]["num_evaluations"], again[name]["num_evaluations"]) == (1, 2)
        assert metrics[name]["shift"] == again[name]["shift"]
        assert metrics[name]["certificate"]["tnr"] == again[name]["certificate"]["tnr"]
        at = again[name]["at_threshold"]
        assert shows(printed, name, f"{at['threshold']:.4f}", f"{at['tpr']['value']:.3f}")


def test_predict_gives_the_scores_and_decisions_of_test(trained_findings, tmp_path, capsys):
    images = trained_findings.parent / "images"
    output = tmp_path / "scores.csv"
    argv = ["predict", "--run", str(trained_findings), "--output", str(output)]
    assert run([*argv, "--files", str(images / "test")]) == 0
    rows = rows_of(output)
    of_test = rows_of(trained_findings / "predictions" / "test.csv")
    assert list(rows[0])[:4] == ["path", "patient", "finding", "score"]
    assert len(rows) == len(of_test) == 60 * 3
    tested = {(row["path"], row["finding"]): row for row in of_test}
    rules = points(trained_findings)
    for row in rows:
        name = Path(row["path"]).relative_to(images).as_posix()
        for key in ("score", "probability", "decision"):
            assert row[key] == tested[name, row["finding"]][key]
        assert float(row["threshold"]) == rules[row["finding"]]["threshold"]
        assert "certified" in row["status"]
    settings = json.loads(output.with_suffix(".json").read_text())
    assert settings["threshold"] == [rules[name]["threshold"] for name in FINDINGS]
    printed = unwrapped(capsys.readouterr().out)
    line_with(printed, output, 60)
    for name in FINDINGS:
        called = sum(row["finding"] == name and row["decision"] == "positive" for row in rows)
        assert shows(printed, f"{name}:", called)


def test_an_interrupted_predict_is_resumed_after_the_last_complete_image(
    trained_findings, tmp_path, capsys
):
    images = sorted((trained_findings.parent / "images" / "test").iterdir())[:5]
    output = tmp_path / "scores.csv"
    argv = ["predict", "--run", str(trained_findings), "--files", *map(str, images)]
    assert run([*argv, "--output", str(output)]) == 0
    whole = output.read_bytes()
    lines = whole.splitlines(keepends=True)
    # Two images, one row of the third and a part of its second.
    output.write_bytes(b"".join(lines[:8]) + lines[8][:20])
    capsys.readouterr()
    assert run([*argv, "--output", str(output)]) == 0
    assert output.read_bytes() == whole
    line_with(capsys.readouterr().err, 2, 3, output)
    # With other settings it is refused.
    assert run([*argv, "--output", str(output), "--prevalence", "0.1"]) == 2
    error_line(capsys.readouterr().err, "prevalence")


def test_predict_draws_a_map_for_each_finding(trained_findings, tmp_path):
    images = sorted((trained_findings.parent / "images" / "test").iterdir())[:2]
    output = tmp_path / "scores.csv"
    argv = ["predict", "--run", str(trained_findings), "--files", *map(str, images), "--explain"]
    assert run([*argv, "--output", str(output)]) == 0
    rows = rows_of(output)
    assert [row["picture"].partition("/")[0] for row in rows] == FINDINGS * 2
    pictures = {tmp_path / "scores_maps" / row["picture"] for row in rows}
    assert len(pictures) == 6
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.size[0] > 600
    # The findings have maps of their own.
    overlays = [picture.with_suffix(".overlay.png").read_bytes() for picture in pictures]
    assert len(set(overlays)) == 6


def test_each_finding_is_explained_and_measured_with_its_own_masks(trained_findings):
    rules, labels = points(trained_findings), labels_of_split(trained_findings, "test")
    figures = trained_findings / "figures"
    for position, name in enumerate(FINDINGS):
        folder = trained_findings / "explain" / f"test_{name}"
        found = json.loads((folder / "explain.json").read_text())
        assert (found["target_class"], found["other_class"]) == (name, f"no {name}")
        assert found["threshold"] == rules[name]["threshold"]
        num_masks = sum(cells[position] == "1" for cells in labels.values())
        assert found["checks"]["masks"]["num_images"] == num_masks
        rows = rows_of(folder / "explain.csv")
        assert rows
        for row in rows:
            assert row["label"] == labels[row["path"]][position]
            assert (folder / row["overlay"]).is_file()
        for kind in ("grad_cam", "faithfulness"):
            assert (figures / f"{kind}_test_{name}.png").is_file()
    areas = [
        json.loads((trained_findings / "explain" / f"test_{name}" / "explain.json").read_text())[
            "checks"
        ]["masks"]["area"]
        for name in FINDINGS
    ]
    assert areas[2] < areas[1] < areas[0]  # a nodule is smaller than fluid


def test_any_images_can_be_explained(run_dir):
    given = run_dir.parent / "given"
    given.mkdir()
    for number in range(2):
        pixels = np.full((48, 48), 60 * number, np.uint8)
        pixels[:20, :30] = 255
        Image.fromarray(pixels).save(given / f"{number}.png")
    assert run(["explain", "--run", str(run_dir), "--files", str(given)]) == 0
    for name in FINDINGS:
        rows = rows_of(run_dir / "explain" / f"files_{name}" / "explain.csv")
        assert [Path(row["path"]).name for row in rows] == ["0.png", "1.png"]


def test_a_site_gets_a_threshold_for_each_finding(run_dir, tmp_path, capsys):
    site = [
        *("--data.source.root", str(tmp_path / "site")),
        *(word for key, value in SITE.items() for word in (f"--data.source.{key}", str(value))),
    ]
    argv = ["recalibrate", "--run", str(run_dir), "--name", "ward", *site]
    assert run([*argv, "--min_tnr", "0.999"]) == 4
    error_line(capsys.readouterr().err, "0.999", "Opacity")
    assert not (run_dir / "operating_points").exists()
    assert run([*argv, "--share", "0.5"]) == 0
    stored = entries(run_dir / "operating_points" / "ward.json")
    assert list(stored) == FINDINGS
    rows = rows_of(run_dir / "operating_points" / "ward.csv")
    printed = capsys.readouterr().out
    for name, rule in stored.items():
        point = rule["point"]
        labels = [row[f"label:{name}"] for row in rows]
        assert (point["num_negative"], point["num_positive"]) == (
            labels.count("0"),
            labels.count("1"),
        )
        assert (rule["chosen_on"], point["status"]) == ("ward", "certified")
        assert point["min_tnr"] == (0.5 if name == "Nodule" else 0.7)
        assert shows(unwrapped(printed), "ward", f"{point['threshold']:.4f}", name)
        assert (run_dir / "figures" / f"plan_ward_{name}.png").is_file()

    scored = ["test", "--run", str(run_dir), "--name", "there", "--operating_point", "ward", *site]
    assert run(scored) == 0
    metrics = entries(run_dir / "metrics" / "there@ward.json")
    for name, rule in stored.items():
        assert metrics[name]["at_threshold"]["threshold"] == rule["point"]["threshold"]
        assert metrics[name]["num_images"] == 120 - len(rows)
        assert metrics[name]["num_evaluations"] == 1


def test_two_runs_are_compared_by_finding(run_dir, trained_findings, tmp_path, capsys):
    table = tmp_path / "comparison.csv"
    assert run(["compare", str(run_dir), str(trained_findings), "--output", str(table)]) == 0
    assert missing(capsys.readouterr().out, FINDINGS) == []
    rows = rows_of(table)
    assert list(dict.fromkeys(row["finding"] for row in rows)) == FINDINGS
    metrics = entries(run_dir / "metrics" / "test.json")
    for row in rows:
        assert float(row["difference"]) == 0
        assert int(row["num_images"]) == metrics[row["finding"]]["num_images"]
        assert int(row["num_patients"]) == metrics[row["finding"]]["num_patients"]
        if row["metric"] == "roc_auc":
            area = metrics[row["finding"]]["roc_auc"]["value"]
            assert float(row["value"]) == pytest.approx(area)


def test_runs_with_different_findings_are_not_compared(run_dir, trained, trained_classes, capsys):
    for other, name in ((trained, "PNEUMONIA"), (trained_classes, "VIRAL")):
        assert run(["compare", str(run_dir), str(other)]) == 3
        error_line(capsys.readouterr().err, "Nodule", name)


def test_reports_are_written(run_dir, classes_dir):
    for folder in (run_dir, classes_dir):
        assert run(["report", "--run", str(folder)]) == 0
        assert (folder / "report.html").is_file()


def test_a_finding_without_a_known_label_does_not_keep_the_others_from_being_tested(
    run_dir, trained_findings, tmp_path, capsys
):
    images = trained_findings.parent / "images"
    lines = ["path,patient,split,Opacity,Effusion,Nodule"]
    for split in ("train", "test"):
        for path, cells in labels_of_split(trained_findings, split).items():
            nodule = cells[2] if split == "train" else ""
            patient = path.rpartition("_")[0]
            lines.append(f"{path},{patient},{split},{','.join(cells[:2])},{nodule}")
    table = tmp_path / "site.csv"
    table.write_text("\n".join(lines))
    settings = {
        "path": str(table),
        "root": str(images),
        "classes": ["none", *FINDINGS],
        "columns": {"path": "path", "label": None, "patient": "patient", "split": "split"},
        "labels": {"on_missing": "unknown"},
    }
    source = {"class_path": "Manifest", "init_args": settings}
    argv = ["--run", str(run_dir), "--data.source", json.dumps(source), "--name", "site"]
    assert run(["test", *argv]) == 0
    metrics = entries(run_dir / "metrics" / "site.json")
    of_test = entries(run_dir / "metrics" / "test.json")
    for name in FINDINGS[:2]:
        assert metrics[name]["roc_auc"]["value"] == of_test[name]["roc_auc"]["value"]
    assert metrics["Nodule"]["num_images"] == 0
    assert metrics["Nodule"]["roc_auc"]["value"] is None
    content = json.loads((run_dir / "metrics" / "site.json").read_text())
    assert content["averages"]["num_findings"] == 2
    assert shows(capsys.readouterr().out, "Nodule", "undefined")
    quick = ["--explain.num_measured", "1", "--explain.max_images", "1"]
    assert run(["explain", *argv, *quick]) == 0
    assert rows_of(run_dir / "explain" / "site_Effusion" / "explain.csv")
    found = json.loads((run_dir / "explain" / "site_Nodule" / "explain.json").read_text())
    assert found["checks"] is None
    assert run(["compare", str(run_dir), str(trained_findings)]) == 0
    assert run(["report", "--run", str(run_dir)]) == 0


@pytest.mark.parametrize("command", ["test", "explain", "recalibrate"])
@pytest.mark.parametrize(
    ("findings", "shown"),
    [
        ("[Nodule, Effusion, Opacity]", "Nodule, Effusion, Opacity"),
        ("[Nodule, Effusion]", "Nodule, Effusion"),
    ],
)
def test_a_source_with_other_findings_is_refused(
    command, findings, shown, run_dir, tmp_path, capsys
):
    """In another order, the scores of one finding would be compared with the labels of another."""
    root = tmp_path / "site"
    source = ["--data.source.root", str(root), "--data.source.findings", findings]
    source += ["--data.source.unknown_fraction", "0"]
    assert run([command, "--run", str(run_dir), "--name", "site", *source]) == 3
    error_line(capsys.readouterr().err, root, ", ".join(FINDINGS), shown, "data.source.classes")
    assert not root.exists()  # before any image is read


def test_of_exclusive_classes_the_scores_share_one(trained_classes):
    rows = rows_of(trained_classes / "predictions" / "test.csv")
    names = ["BACTERIAL", "VIRAL"]
    y_score = np.array([float(row["score"]) for row in rows]).reshape(-1, 2)
    y_true = np.array([int(row["label"]) for row in rows]).reshape(-1, 2)
    assert (y_score.sum(axis=1) < 1).all()
    assert y_true.sum(axis=0).tolist() == [10, 10]
    labels = list(labels_of_split(trained_classes, "test", names).values())
    assert y_true.tolist() == [[int(cell) for cell in cells] for cells in labels]
    content = json.loads((trained_classes / "metrics" / "test.json").read_text())
    decided = np.hstack([1 - y_score.sum(axis=1, keepdims=True), y_score]).argmax(axis=1)
    true = y_true @ [1, 2]
    counts = np.zeros((3, 3), int)
    np.add.at(counts, (true, decided), 1)
    found = content["averages"]["decisions"]
    assert found["counts"] == counts.tolist()
    assert found["accuracy"]["value"] == pytest.approx((true == decided).mean())
    assert shows((trained_classes.parent / "test.txt").read_text(), "VIRAL", *counts[2])
    assert list(entries(trained_classes / "operating_point.json")) == names
    for name in names:
        folder = trained_classes / "explain" / f"test_{name}"
        assert json.loads((folder / "explain.json").read_text())["checks"]["masks"] is None


def test_exclusive_classes_have_probabilities_that_undo_the_weights(trained_classes):
    """Directly: softmax over the weight of each class; all images are drawn as they are."""
    split = rows_of(trained_classes / "split.csv")
    train = [row for row in split if row["split"] == "train"]
    found = [sum(row[f"label:{name}"] == "1" for row in train) for name in ("BACTERIAL", "VIRAL")]
    counts = np.array([len(train) - sum(found), *found])
    assert len(set(counts)) > 1
    weights = (len(train) / (3 * counts)) ** 0.5
    for name in ("val", "test"):
        rows = rows_of(trained_classes / "predictions" / f"{name}.csv")
        score, probability = (
            np.array([float(row[column]) for row in rows]).reshape(-1, 2)
            for column in ("score", "probability")
        )
        of_all = np.hstack([1 - score.sum(axis=1, keepdims=True), score]) / weights
        direct = of_all / of_all.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(probability, direct[:, 1:], atol=1e-6)
        for index, (finding, each) in enumerate(
            entries(trained_classes / "metrics" / f"{name}.json").items()
        ):
            y_true = [int(row["label"]) for row in rows if row["finding"] == finding]
            brier = np.mean((direct[:, 1 + index] - y_true) ** 2)
            measured = each["calibration"]["probability"]["brier"]["value"]
            assert measured == pytest.approx(brier, abs=1e-6)


def test_the_class_of_the_highest_score_is_in_every_row(trained_classes):
    rows = rows_of(trained_classes / "predictions" / "test.csv")
    assert list(rows[0])[-2:] == ["decision", "highest_class"]
    names, called = ["NORMAL", "BACTERIAL", "VIRAL"], []
    for _, of_image in groupby(rows, lambda row: row["path"]):
        pair = list(of_image)
        score = [float(row["score"]) for row in pair]
        highest = names[np.argmax([1 - sum(score), *score])]
        assert [row["highest_class"] for row in pair] == [highest] * 2
        called.append(highest)
    content = json.loads((trained_classes / "metrics" / "test.json").read_text())
    counts = np.array(content["averages"]["decisions"]["counts"]).sum(axis=0)
    assert counts.tolist() == [called.count(name) for name in names]


def test_maps_and_their_checks_explain_the_same_logit(
    classes_dir, trained_classes, monkeypatch, tmp_path
):
    """That of the score, in the pictures of `explain` and `predict` and in the measurement."""
    asked = []

    def noting(*args, **settings):
        asked.append(settings)
        return grad_cam(*args, **settings)

    for module in ("handlers.grad_cam_exporter", "workflows.explain.explain"):
        monkeypatch.setattr(f"cxrignite.{module}.grad_cam", noting)
    monkeypatch.setattr("cxrignite.workflows.predict.scoring.grad_cam", noting)
    home = ["--run", str(classes_dir)]
    assert run(["explain", *home, "--findings", "[VIRAL]"]) == 0
    assert {each.get("target", "positive") for each in asked} == {"positive", "negative"}
    assert {(each["output"], each["exclusive"]) for each in asked} == {(1, True)}
    asked.clear()
    files = rows_of(classes_dir / "explain" / "test_VIRAL" / "explain.csv")
    names = [row["path"] for row in files]
    root = trained_classes.parent / "images"
    output = tmp_path / "out" / "scores.csv"
    paths = [str(root / name) for name in names]
    argv = ["predict", *home, "--output", str(output), "--maps", "true", "--files", *paths]
    assert run(argv) == 0
    assert {(each["output"], each["exclusive"]) for each in asked} == {(0, True), (1, True)}
    drawn = {Path(row["path"]).name: row for row in rows_of(output) if row["finding"] == "VIRAL"}
    for row in files:
        strength = float(drawn[Path(row["path"]).name]["raw_max"])
        assert strength == pytest.approx(float(row["raw_max"]), rel=1e-3)
    for target in ("positive", "negative"):
        logits = torch.randn(5, 2)
        score = scores_from_logits(logits, exclusive=True)[:, 1]
        expected = score if target == "positive" else 1 - score
        torch.testing.assert_close(_score(1, True, target, logits), expected)


def test_the_loss_and_the_maps_fit_exclusive_classes(trained_classes, tmp_path, capsys):
    """A BCE is refused, and `predict` has the cells of `test`."""
    rows = rows_of(trained_classes / "predictions" / "test.csv")
    home = trained_classes.parent
    argv = ["fit", "--config", str(home / "recipe.yaml"), "--run_dir", str(tmp_path / "run")]
    assert run([*argv, "--loss", "BCEWithLogitsLoss"]) == 2
    error_line(capsys.readouterr().err, "loss")
    output = tmp_path / "scores.csv"
    files = ["--files", str(home / "images" / "test" / "PNEUMONIA"), "--output", str(output)]
    assert run(["predict", "--run", str(trained_classes), *files]) == 0
    columns = ["score", "probability", "decision", "highest_class"]
    known_cells = {
        (Path(row["path"]).name, row["finding"]): [row[name] for name in columns] for row in rows
    }
    predicted = rows_of(output)
    assert [name for name in predicted[0] if name in columns] == columns
    for row in predicted:
        cells = known_cells[Path(row["path"]).name, row["finding"]]
        assert [row[name] for name in columns] == cells
    other = ["--output", str(tmp_path / "other.csv"), "--prevalence", "0.1"]
    assert run(["predict", "--run", str(trained_classes), *files[:2], *other]) == 2
    error_line(capsys.readouterr().err, "--prevalence", "0.1", "exclusive", 3)


def test_exclusive_scores_are_not_read_as_scores_side_by_side(trained_classes, tmp_path):
    """The names are the same, but a softmax is not a row of sigmoids."""
    folder = RunFolder(trained_classes)
    rules = folder.read_rules()
    names = ["NORMAL", *(rule.finding for rule in rules)]
    site = Manifest(tmp_path / "site.csv", names, columns=ManifestColumns(label=None))
    with refused(DataError, tmp_path, trained_classes, "exclusive", "side by side"):
        _check_findings(site, folder, rules)
    _check_findings(ClassFolders(tmp_path, names), folder, rules)


@pytest.fixture
def site_table(tmp_path):
    """Options of a site's table of given findings, with images of a Phantom that has all three."""
    root = tmp_path / "site"
    source = Phantom(root=root, findings=FINDINGS, **SITE)
    records = [record for record in source.records() if record.split == "test"]

    def options(findings, *own):
        rows = [[record.name, *record.labels] for record in records]
        places = [0, *(1 + FINDINGS.index(name) for name in findings)]
        with (root / "site.csv").open("w", newline="") as file:
            csv.writer(file).writerows(
                [["path", *findings], *([row[at] for at in places] for row in rows)]
            )
        names = ", ".join(["No Finding", *FINDINGS])
        parts = [f"path: {root / 'site.csv'}", f"classes: [{names}]", "columns: {label: null}"]
        source = "{class_path: Manifest, init_args: {" + ", ".join([*parts, *own]) + "}}"
        return ["--data.source", source]

    return options


def test_a_site_may_lack_the_labels_of_a_finding(run_dir, site_table, tmp_path, capsys):
    """The others are evaluated and get their thresholds; the third keeps that of the run."""
    run_path, site = ["--run", str(run_dir)], site_table(["Effusion", "Opacity"])
    assert run(["test", *run_path, "--name", "there", *site]) == 0
    shown = capsys.readouterr()
    line_with(shown.err, "site.csv", "Nodule")
    line_with(shown.out, "no labels", "Nodule")
    found = entries(run_dir / "metrics" / "there.json")
    assert {name: each["num_images"] for name, each in found.items()} == {
        "Opacity": 120,
        "Effusion": 120,
        "Nodule": 0,
    }
    assert found["Nodule"]["roc_auc"]["value"] is None
    rows = rows_of(run_dir / "predictions" / "there.csv")
    assert {row["label"] for row in rows if row["finding"] == "Nodule"} == {""}

    own = points(run_dir)
    assert run(["recalibrate", *run_path, "--name", "ward", *site, "--share", "0.5"]) == 0
    line_with(capsys.readouterr().out, "no labels", "Nodule")
    stored = entries(run_dir / "operating_points" / "ward.json")
    assert {name: rule["chosen_on"] for name, rule in stored.items()} == {
        "Opacity": "ward",
        "Effusion": "ward",
        "Nodule": "calibration",
    }
    assert stored["Nodule"]["point"] == own["Nodule"]
    scored = ["test", *run_path, "--name", "there", "--operating_point", "ward"]
    assert run([*scored, *site]) == 0
    # The kept threshold is compared with the run's own reference.
    assert run([*scored, *site_table(FINDINGS)]) == 0
    shift = {
        name: each["shift"]["num_reference"]
        for name, each in entries(run_dir / "metrics" / "there@ward.json").items()
    }
    assert shift["Nodule"] == own["Nodule"]["num_negative"]
    assert shift["Opacity"] == stored["Opacity"]["point"]["num_negative"]

    assert run(["report", *run_path]) == 0
    assert "no labels for Nodule" in (run_dir / "report.html").read_text()
    other = shutil.copytree(run_dir, tmp_path / "other")
    table = ["--output", str(tmp_path / "comparison.csv")]
    assert run(["compare", str(run_dir), str(other), "--name", "there", *table]) == 0
    line_with(capsys.readouterr().out, "no labels", "Nodule")
    sizes = {row["finding"]: row["num_images"] for row in rows_of(tmp_path / "comparison.csv")}
    assert sizes == {"Opacity": "120", "Effusion": "120"}
    output = ["--output", str(tmp_path / "scores.csv"), "--files", str(tmp_path / "site" / "test")]
    assert run(["predict", *run_path, "--operating_point", "ward", *output]) == 0


def test_a_site_needs_both_labels_of_a_finding_that_it_labels(
    run_dir, site_table, tmp_path, capsys
):
    argv = ["recalibrate", "--run", str(run_dir), "--name", "ward"]
    site, table = site_table(["Opacity", "Nodule"]), tmp_path / "site" / "site.csv"
    table.write_text(table.read_text().replace("Nodule", "Nodulle"))
    assert run([*argv, *site]) == 3
    error_line(capsys.readouterr().err, "'Nodule'", "'Nodulle'")
    assert run([*argv, *site_table([])]) == 3
    error_line(capsys.readouterr().err, "'Opacity'", "source.classes")
    site = site_table(FINDINGS, "labels: {values: {negative: [0, 1], positive: [2]}}")
    assert run([*argv, *site]) == 3
    error_line(capsys.readouterr().err, "Opacity", "no positives", "keeps the run's threshold")


def test_the_certificates_of_a_site_hold_together_if_those_of_the_run_do(
    fit, tmp_path, site_table, capsys
):
    folder = tmp_path / "family"
    search = "[{class_path: ThresholdSearch, init_args: {min_tnr: 0.6, min_threshold: 0.1, "
    search += "confidence: 0.8, familywise: true}}]"
    epochs = ["--trainer.max_epochs", "1", "--validator.handlers", search]
    assert fit(folder, *epochs) == 0
    for name, options, of_family in (
        ("ward", ["--confidence", "0.7"], 0.7),
        ("own", [], 0.8),
        ("both", ["--confidence", "0.7", "--min_tpr", "0.01", "--refer", "true"], 0.7),
    ):
        capsys.readouterr()
        argv = ["recalibrate", "--run", str(folder), "--name", name, *site_table(FINDINGS)]
        assert run([*argv, *options]) == 0
        number = 6 if name == "both" else 3
        for rule in entries(folder / "operating_points" / f"{name}.json").values():
            assert rule["point"]["confidence"] == pytest.approx(1 - (1 - of_family) / number)
        line_with(unwrapped(capsys.readouterr().out), "together", f"{100 * of_family:g} %")
    limits = ["--confidence", "0.95", "--min_tnr", "0.99"]
    assert run([*argv[:3], "--name", "x", *site_table(FINDINGS), *limits]) == 4
    error_line(capsys.readouterr().err, "95 %", "all 3 findings", "Opacity")
