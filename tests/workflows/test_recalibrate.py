"""A site's own operating point, by the command line, on a tiny model and real files."""

import csv
import hashlib
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from messages import error_line, line_with, missing, refused, unwrapped
from PIL import Image
from results import finding
from results import point as stored_point
from torch import nn

from cxrignite.cli import run
from cxrignite.data import Phantom
from cxrignite.errors import RecipeError
from cxrignite.functional import PriorShift
from cxrignite.handlers import SafeSaver, load_checkpoint
from cxrignite.workflows import recalibrate as recalibration

pytestmark = pytest.mark.integration

DOUBTS = ("is_below_certificate", "is_below_min_tnr", "is_shifted")
SITE = {"num_train": 20, "num_test": 100, "size": 64, "positive_fraction": 0.5, "seed": 5}


@pytest.fixture(scope="module")
def site_root(tmp_path_factory):
    """Another hospital's images."""
    root = tmp_path_factory.mktemp("site") / "images"
    Phantom(root=root, **SITE).records()
    return root


@pytest.fixture
def site(site_root):
    """Options that name them."""
    options = {"root": site_root, **SITE}
    return [part for key, value in options.items() for part in (f"--data.source.{key}", str(value))]


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def remarks(printed: str) -> list[str]:
    """What stands below the table."""
    return [line for line in printed.rpartition("\n\n")[2].splitlines() if line.startswith("  ")]


def test_a_calibration_split_gives_a_certificate(trained):
    point = stored_point(trained / "operating_point.json")
    assert (point["status"], point["chosen_on"]) == ("certified", "calibration")
    assert point["tnr_lower_bound"] >= 0.7
    rows = [row for row in rows_of(trained / "split.csv") if row["split"] == "calibration"]
    assert point["num_negative"] == sum(row["label"] == "0" for row in rows)
    owners = {row["patient"] for row in rows if row["label"] == "0"}
    assert point["num_negative_patients"] == len(owners)
    assert finding(trained / "metrics" / "calibration.json")["num_images"] == len(rows)


def test_every_prediction_file_tells_both_scales(trained):
    prior_shift = finding(trained / "operating_point.json")["prior_shift"]
    for name in ("val", "calibration", "test"):
        rows = rows_of(trained / "predictions" / f"{name}.csv")
        score = np.array([float(row["score"]) for row in rows])
        probability = np.array([float(row["probability"]) for row in rows])
        logit = np.log(score / (1 - score)) - PriorShift(**prior_shift).logit_shift
        np.testing.assert_allclose(probability, 1 / (1 + np.exp(-logit)), rtol=1e-9)


def test_a_site_gets_its_own_threshold_once_beside_the_first(run_dir, site, capsys):
    before = (run_dir / "operating_point.json").read_bytes()
    argv = ["recalibrate", "--run", str(run_dir), "--name", "site-a", *site, "--share", "0.5"]
    assert run(argv) == 0
    point = stored_point(run_dir / "operating_points" / "site-a.json")
    output = capsys.readouterr().out
    printed = output.splitlines()[0]
    assert missing(printed, ["site-a", f"{point['threshold']:.4f}", "certified"]) == []
    assert (point["status"], point["chosen_on"]) == ("certified", "site-a")
    assert (point["min_tnr"], point["confidence"]) == (0.7, 0.9)
    assert (run_dir / "operating_point.json").read_bytes() == before
    # The plan has the minimum and the present number of negative patients.
    rows = [line.split() for line in output.splitlines() if re.match(r"  +\d", line)]
    assert rows[0][:2] == ["7", "0"]  # allow no false positive
    [now] = [row for row in rows if row[1] == "(now)"]
    assert int(now[0]) == point["num_negative_patients"]
    assert int(rows[-1][0]) >= 4 * point["num_negative_patients"]
    assert [row[0] for row in rows] == sorted({row[0] for row in rows}, key=int)
    line_with(unwrapped(output), point["num_negative_patients"], "TPR 0", "0.7", "90 %")
    assert (run_dir / "figures" / "plan_site-a.png").is_file()

    # It is not written over.
    first = (run_dir / "operating_points" / "site-a.json").read_bytes()
    assert run([*argv, "--min_tnr", "0.5"]) == 2
    error_line(capsys.readouterr().err, "operating_points/site-a.json", "--name")
    assert (run_dir / "operating_points" / "site-a.json").read_bytes() == first
    assert run(["test", "--run", str(run_dir), "--operating_point", "mars"]) == 2
    error_line(capsys.readouterr().err, "'mars'", "site-a")

    # The results stand beside others of the same images.
    scored = ["test", "--run", str(run_dir), "--name", "site", *site]
    assert run([*scored, "--operating_point", "site-a"]) == 0
    used = rows_of(run_dir / "operating_points" / "site-a.csv")
    line_with(capsys.readouterr().err, len(used), "site-a")
    judged = finding(run_dir / "metrics" / "site@site-a.json")
    assert judged["at_threshold"]["threshold"] == point["threshold"]
    assert len(used) == point["num_negative"] + point["num_positive"]
    assert judged["num_images"] == 100 - len(used)
    scored_now = rows_of(run_dir / "predictions" / "site@site-a.csv")
    assert len(scored_now) == judged["num_images"]
    assert {row["path"] for row in used}.isdisjoint(row["path"] for row in scored_now)


def test_a_site_may_have_two_thresholds_and_the_images_between_them_are_referred(
    run_dir, site, site_root, tmp_path, capsys
):
    limits = ["--min_tnr", "0.85", "--min_tpr", "0.85", "--refer", "true", "--min_threshold", "0"]
    name = ["--run", str(run_dir), "--name"]
    assert run(["recalibrate", *name, "ward", *site, "--share", "0.5", *limits]) == 0
    point = stored_point(run_dir / "operating_points" / "ward.json")
    lower, upper = point["lower_threshold"], point["threshold"]
    assert (point["status"], lower < upper) == ("certified", True)
    output = capsys.readouterr().out
    line_with(unwrapped(output), f"{lower:.4f}", f"{upper:.4f}", "referred")
    # The plan varies the patients of one class, then of the other.
    rows = [line.replace("(now)", "").split() for line in output.splitlines() if "(now)" in line]
    present = [f"{point[f'num_{kind}_patients']}" for kind in ("negative", "positive")]
    assert [row[:2] for row in rows] == [present]
    planned = [
        line.split() for line in output.splitlines() if re.match(r"  +\d+ +\d+ +[01]\.", line)
    ]
    assert {present[1], present[0]} <= {size for row in planned for size in row[:2]}
    assert all(present[0] == row[0] or present[1] == row[1] for row in planned)
    assert (run_dir / "figures" / "plan_ward.png").is_file()

    assert run(["test", *name, "other", "--operating_point", "ward", *site]) == 0
    rows = rows_of(run_dir / "predictions" / "other@ward.csv")
    decided = {"negative": 0, "refer": 0, "positive": 0}
    for row in rows:
        score = float(row["score"])
        decision = "positive" if score >= upper else "negative" if score < lower else "refer"
        assert row["decision"] == decision
        decided[decision] += 1
    found = finding(run_dir / "metrics" / "other@ward.json")
    cells = found["at_threshold"]
    assert decided["refer"] == sum(cells["num_referred"]) > 0
    assert cells["tp"] + cells["fp"] == decided["positive"]
    assert cells["referred"]["value"] == pytest.approx(decided["refer"] / len(rows))
    low, high = cells["referred"]["by_patient"]
    assert low <= cells["referred"]["value"] <= high
    negatives = found["num_negative"]
    assert cells["tnr"]["value"] == pytest.approx(1 - cells["fp"] / negatives)
    at = {each["prevalence"]: each["referred"]["value"] for each in found["at_prevalences"]}
    shares = [cells[f"{kind}_referred"]["value"] for kind in ("negatives", "positives")]
    assert at[0.2] == pytest.approx(0.8 * shares[0] + 0.2 * shares[1])
    line_with(capsys.readouterr().out, "referred, PNEUMONIA", f"{shares[1]:.3f}")

    output = str(tmp_path / "scores.csv")
    files = ["--files", str(site_root / "test"), "--output", output, "--operating_point", "ward"]
    assert run(["predict", "--run", str(run_dir), *files]) == 0
    kinds = {row["decision"] for row in rows_of(Path(output))}
    assert kinds == {"negative", "refer", "positive"}
    thresholds = {(row["lower_threshold"], row["threshold"]) for row in rows_of(Path(output))}
    assert thresholds == {(repr(lower), repr(upper))}
    num_referred = sum(row["decision"] == "refer" for row in rows_of(Path(output)))
    line_with(unwrapped(capsys.readouterr().out), f"{num_referred} referred to a reader")
    assert run(["report", "--run", str(run_dir)]) == 0
    page = (run_dir / "report.html").read_text()
    assert f"{lower:.4f} to {upper:.4f}" in page


@pytest.mark.parametrize(
    ("argv", "code", "facts"),
    [
        (["--name", "val"], 2, ["--name", "train", "val", "calibration", "test"]),
        (["--min_tnr", "0.99"], 4, ["230", "35"]),  # so many patients are needed, and are there
        (["--min_tnr", "1.0"], 2, ["min_tnr", "[0, 1)"]),
        (["--min_tpr", "0.99"], 4, ["TPR", "230", "positive"]),
        (["--min_tpr", "1.5"], 2, ["min_tpr", "1.5"]),
        (["--refer", "true"], 2, ["refer", "min_tpr"]),
        (["--confidence", "1.5"], 2, ["confidence", "(0, 1)", "1.5"]),
        (["--min_threshold", "2"], 2, ["min_threshold", "[0, 1]", "2.0"]),
        (["--share", "0.7"], 2, ["--share", "(0, 0.5]", "0.7"]),
        (["--share", "0"], 2, ["--share", "(0, 0.5]"]),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(argv, code, facts, run_dir, site, capsys):
    assert run(["recalibrate", "--run", str(run_dir), "--name", "a", *site, *argv]) == code
    error_line(capsys.readouterr().err, *facts)
    assert not (run_dir / "operating_points").exists()


def test_one_class_alone_is_a_data_problem(run_dir, tmp_path, capsys):
    for number in range(3):
        path = tmp_path / "one" / "test" / "NORMAL" / f"p{number}_1.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((64, 64), 10 * number, np.uint8)).save(path)
    (tmp_path / "one" / "test" / "PNEUMONIA").mkdir()
    source = ["--data.source", "ClassFolders", "--data.source.root", str(tmp_path / "one")]
    assert run(["recalibrate", "--run", str(run_dir), "--name", "a", *source]) == 3
    error_line(capsys.readouterr().err, "one/test/PNEUMONIA")


def test_images_of_the_training_cannot_recalibrate(run_dir, trained, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "train").symlink_to(trained.parent / "images" / "train")
    source = ["--data.source", "ClassFolders", "--data.source.root", str(tmp_path / "images")]
    assert run(["recalibrate", "--run", str(run_dir), "--name", "own", *source]) == 3
    error_line(capsys.readouterr().err, "240 of 240", "train/NORMAL/p00001_1.png")
    assert not (run_dir / "operating_points").exists()


def test_images_that_have_chosen_a_sites_threshold_cannot_judge_it(run_dir, trained, capsys):
    source = ["--data.source.root", str(trained.parent / "images")]
    argv = ["recalibrate", "--run", str(run_dir), "--name", "own", *source]
    assert run(argv) == 0  # its test images are nobody's yet
    capsys.readouterr()
    assert run(["test", "--run", str(run_dir), "--operating_point", "own"]) == 3
    error_line(capsys.readouterr().err, "80", "own")


@pytest.mark.parametrize("name", ["../evil", "a@b"])
@pytest.mark.parametrize("option", ["--name", "--operating_point"])
def test_a_site_name_stays_in_the_run_folder(option, name, run_dir, site, capsys):
    command = "recalibrate" if option == "--name" else "test"
    assert run([command, "--run", str(run_dir), option, name, *site]) == 2
    error_line(capsys.readouterr().err, option, f"'{name}'")


def test_the_threshold_of_another_run_is_refused(run_dir, capsys):
    best = load_checkpoint(run_dir / "checkpoints" / "best.pt")
    SafeSaver(run_dir / "checkpoints")({**best, "epoch": 7}, "best.pt", {"epoch": 7})
    assert run(["test", "--run", str(run_dir)]) == 3
    error_line(capsys.readouterr().err, "operating_point.json", "weights")


def test_testing_again_is_counted_and_subgroups_come_from_file_names(trained, run_dir, capsys):
    once = finding(trained / "metrics" / "test.json")
    printed_once = remarks(unwrapped((trained.parent / "test.txt").read_text()))
    assert (once["num_evaluations"], once["subgroups"]) == (1, [])
    refusals = {
        "(?P<n>zzz)": ["80", "test/NORMAL/"],
        "(": ["--subgroups"],
        "abc": ["--subgroups", "(?P<view>AP|PA)"],
    }
    for pattern, facts in refusals.items():
        assert run(["test", "--run", str(run_dir), "--subgroups", pattern]) == 2
        error_line(capsys.readouterr().err, *facts)
    # Not looked at by what was refused.
    assert run(["test", "--run", str(run_dir), "--subgroups", r"_(?P<view>\d)\.png$"]) == 0
    again = finding(run_dir / "metrics" / "test.json")
    assert again["num_evaluations"] == max(read(run_dir / "evaluations.json").values()) == 2
    assert [(group["attribute"], group["value"]) for group in again["subgroups"]] == [
        ("view", "1"),
        ("view", "2"),
    ]
    printed = capsys.readouterr().out
    one = again["subgroups"][0]
    rates = printed[printed.index(f"view 1 ({one['num_images']})") :].splitlines()[1]
    assert missing(rates, [f"{one[key]['value']:.3f}" for key in ("tnr", "tpr", "roc_auc")]) == []
    printed_again = remarks(unwrapped(printed))
    line_with(printed_again[-1], "2")
    assert printed_again[:-1] == printed_once


def test_predictive_values_are_at_the_prevalences_of_the_command_line(run_dir, capsys):
    of_fit = finding(run_dir / "metrics" / "calibration.json")["at_prevalences"]
    assert [each["prevalence"] for each in of_fit] == [0.01, 0.05, 0.2]
    for values in (["5"], ["0.1", "0"], ["0.1", "rare"]):
        assert run(["test", "--run", str(run_dir), "--prevalences", *values]) == 2
        error_line(capsys.readouterr().err, "prevalences", values[-1])
    assert run(["validate", "--run", str(run_dir), "--prevalences", "0.5", "0.025", "0.5"]) == 0
    line_with(capsys.readouterr().out, "prevalence", "2.5 %")
    again = finding(run_dir / "metrics" / "val.json")["at_prevalences"]
    assert [each["prevalence"] for each in again] == [0.025, 0.5]


def test_images_that_differ_invalid_the_certificate_whichever_command_scores_them(
    run_dir, tmp_path, site_root, capsys
):
    """Images with the grey scale reversed: no model needs to be good to see that."""
    root = shutil.copytree(site_root, tmp_path / "inverted")
    for path in root.glob("t*/*/*.png"):
        with Image.open(path) as image:
            inverted = Image.fromarray(255 - np.asarray(image))
        inverted.save(path)
    source = ["--data.source", "ClassFolders", "--data.source.root", str(root)]
    source += ["--data.source.patient_pattern", r"(p\d+)"]
    for command, name in (("validate", "a"), ("test", "b")):
        assert run([command, "--run", str(run_dir), "--name", name, *source]) == 0
        metrics = finding(run_dir / "metrics" / f"{name}.json")
        assert any(metrics["certificate"][key] for key in DOUBTS)
        printed = unwrapped(capsys.readouterr().out)
        line_with(printed, "!!", "CERTIFICATE")
        line_with(printed, "TNR", "0.7", "90 %")
        line_with(printed, "AUC", f"{metrics['shift']['roc_auc']:.3f}")
    # 120 images at first, then the 100 of `test` once more, under another name.
    assert finding(run_dir / "metrics" / "a.json")["num_images"] == 120
    assert (metrics["num_images"], metrics["num_evaluations"]) == (100, 2)


def test_images_alike_leave_the_certificate_alone(trained):
    metrics = finding(trained / "metrics" / "test.json")
    assert metrics["shift"]["is_detected"] is False
    assert not any(metrics["certificate"][key] for key in DOUBTS)
    printed = (trained.parent / "test.txt").read_text()
    assert missing(unwrapped(printed), ["AUC", f"{metrics['shift']['roc_auc']:.3f}"]) == []
    assert "!!" not in printed


def test_a_certificate_that_the_split_cannot_give_is_refused_before_training(
    trained, tmp_path, capsys
):
    argv = ["fit", "--config", str(trained / "recipe.yaml"), "--run_dir", str(tmp_path / "run")]
    assert run([*argv, "--data.calibration_fraction", "0.05"]) == 4
    error_line(capsys.readouterr().err, "0.7", "7", "calibration", "5")
    assert not (tmp_path / "run" / "history.csv").exists()


def test_two_runs_are_compared_and_one_is_reported_by_the_command_line(
    trained, run_dir, tmp_path, capsys
):
    table = tmp_path / "comparison.csv"
    assert run(["compare", str(run_dir), str(trained), "--output", str(table)]) == 0
    assert "roc_auc" in capsys.readouterr().out
    assert {float(row["difference"]) for row in rows_of(table)} == {0.0}

    page = tmp_path / "page.html"
    assert run(["report", "--run", str(run_dir), "--output", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    assert "certified" in page.read_text().lower()
    assert run(["report", "--run", str(tmp_path)]) == 2
    error_line(capsys.readouterr().err, tmp_path)


@pytest.mark.parametrize(
    ("argv", "facts"),
    [
        (["compare"], ["compare"]),
        (["report"], ["--run"]),
        (["compare", "a", "--name", "../b"], ["--name", "'../b'"]),
        (["compare", "a", "b", "--name", "x@../a"], ["--name", "'../a'"]),
    ],
)
def test_a_command_that_lacks_something_says_so_and_exits_with_2(argv, facts, capsys):
    assert run(argv) == 2
    error_line(capsys.readouterr().err, *facts)


def test_a_site_may_have_its_own_batch_statistics(
    run_dir, site, site_root, tmp_path, monkeypatch, capsys
):
    kept = {
        name: (run_dir / name).read_bytes() for name in ("operating_point.json", "split.csv")
    } | {path.name: path.read_bytes() for path in (run_dir / "checkpoints").iterdir()}
    estimate, composition = recalibration.adapt_batch_norm, []

    def watched(model, loader, **settings):
        batches = list(loader)
        composition.extend(set(batch.label.tolist()) for batch in batches)
        return estimate(model, batches, **settings)

    monkeypatch.setattr(recalibration, "adapt_batch_norm", watched)
    fixed = ["--run", str(run_dir), "--name"]
    assert run(["recalibrate", *fixed, "ward", *site, "--adapt_batch_norm", "true"]) == 0
    # Sorted by class, the batches would hide what tells the classes apart.
    assert composition == [{0.0, 1.0}] * 4
    printed = unwrapped(capsys.readouterr().out)
    assert missing(printed.splitlines()[0], ["ward", "empirical", "not certified", "test"]) == []
    line_with(printed, "100 images", "AUC", "before")
    rule = finding(run_dir / "operating_points" / "ward.json")
    assert (rule["point"]["status"], rule["calibrators"]) == ("empirical", None)
    assert rule["batch_norm"]["num_images"] == 100
    file = run_dir / "operating_points" / "ward.pt"
    assert rule["batch_norm"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    digests = json.loads((run_dir / "digests.json").read_text())
    assert digests["operating_points/ward.pt"] == [rule["batch_norm"]["sha256"]]
    for name, content in kept.items():
        folder = run_dir if "." in name and (run_dir / name).exists() else run_dir / "checkpoints"
        assert (folder / name).read_bytes() == content

    # Exactly these statistics score later images.
    of_run = finding(run_dir / "metrics" / "test.json")
    assert run(["test", "--run", str(run_dir), "--operating_point", "ward"]) == 0
    printed = unwrapped(capsys.readouterr().out)
    assert missing(printed, ["batch statistics", "100 images of ward"]) == []
    scored = rows_of(run_dir / "predictions" / "test@ward.csv")
    plain = rows_of(run_dir / "predictions" / "test.csv")
    assert sum(a["score"] != b["score"] for a, b in zip(scored, plain, strict=True)) > 40
    assert finding(run_dir / "metrics" / "test.json") == of_run
    argv = ["predict", "--run", str(run_dir), "--operating_point", "ward"]
    output = tmp_path / "new.csv"
    assert run([*argv, "--files", str(site_root / "test"), "--output", str(output)]) == 0
    at_site = {Path(row["path"]).name: row["score"] for row in rows_of(output)}
    assert str(rule["point"]["threshold"]) in at_site.values()
    settings = json.loads(output.with_suffix(".json").read_text())
    assert settings["batch_norm_sha256"] == rule["batch_norm"]["sha256"]
    shown = ["explain", "--run", str(run_dir), "--explain.num_measured", "0"]
    assert run([*shown, "--operating_point", "ward"]) == 0
    drawn = {
        row["path"]: row["score"]
        for row in rows_of(run_dir / "explain" / "test@ward" / "explain.csv")
    }
    assert drawn.items() <= {row["path"]: row["score"] for row in scored}.items()
    assert run(["report", "--run", str(run_dir)]) == 0

    # A file that was changed, or taken from another site, is refused.
    capsys.readouterr()
    file.write_bytes(file.read_bytes()[::-1])
    assert run(["test", "--run", str(run_dir), "--operating_point", "ward"]) == 3
    error_line(capsys.readouterr().err, "operating_points/ward.pt", "sha256")
    (run_dir / "digests.json").unlink()
    for content in (file.read_bytes(), b""):
        file.write_bytes(content)
        assert run(["test", "--run", str(run_dir), "--operating_point", "ward"]) == 3
        error_line(capsys.readouterr().err, "operating_points/ward.pt", "sha256")


def test_batch_statistics_of_several_findings_are_adapted_once(trained_findings, tmp_path, capsys):
    run_dir = Path(shutil.copytree(trained_findings, tmp_path / "run"))
    argv = ["recalibrate", "--run", str(run_dir), "--name", "ward", "--adapt_batch_norm", "true"]
    argv += ["--data.source.root", str(tmp_path / "site"), "--data.source.seed", "5"]
    assert run([*argv, "--data.source.num_test", "100"]) == 0
    content = json.loads((run_dir / "operating_points" / "ward.json").read_text())
    assert [each["point"]["status"] for each in content["findings"]] == ["empirical"] * 3
    assert len({each["batch_norm"]["sha256"] for each in content["findings"]}) == 1


@pytest.mark.parametrize(
    ("options", "code", "facts"),
    [
        (["--share", "0.5"], 4, ["--adapt_batch_norm", 64]),
        (["--min_tnr", "0.99"], 4, ["TNR", "negative"]),
    ],
)
def test_too_few_images_adapt_nothing(options, code, facts, run_dir, site, capsys):
    argv = ["recalibrate", "--run", str(run_dir), "--name", "ward", *site, *options]
    assert run([*argv, "--adapt_batch_norm", "true"]) == code
    error_line(capsys.readouterr().err, *facts)
    assert not list((run_dir / "operating_points").glob("ward.*"))


@pytest.mark.parametrize(
    ("model", "num_processes", "facts"),
    [
        (nn.Sequential(nn.Linear(1, 1)), 1, ["--adapt_batch_norm", "Sequential"]),
        (nn.BatchNorm2d(1), 2, ["--adapt_batch_norm", 2, "torchrun"]),
    ],
)
def test_what_has_no_statistics_or_several_processes_is_refused(model, num_processes, facts):
    run = SimpleNamespace(model=model, session=SimpleNamespace(world_size=num_processes))
    with refused(RecipeError, *facts):
        recalibration._check_adaptable(run)


@pytest.mark.parametrize("largest", [16, 64])
def test_no_batch_that_statistics_are_estimated_on_is_much_smaller_than_the_others(largest):
    for number in range(64, 1200):
        size = recalibration._even_batch(number, largest)
        assert largest / 2 <= size <= largest
        assert (number - 1) % size + 1 >= size / 3, number
