"""The examples run as a stranger runs them: each from its own folder, in a process of its own."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = sorted(path for path in (ROOT / "docs" / "examples").iterdir() if path.is_dir())
COMMANDS = re.compile(r"^(?:python|cxrignite) .*$", re.M)
NUMBER = r"\d+(?:\.\d+)?"


def fenced(folder, language):
    text = (folder / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def run(line, folder):
    """Run one command line; what it prints on both streams."""
    words = line.split()
    words = [sys.executable if word == "python" else word for word in words]
    if words[0] == "cxrignite":
        words[0] = str(Path(sys.executable).with_name("cxrignite"))
    # Two threads that wait for each other on a busy machine take many times as long as one.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=240, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """By the name of an example: its folder after all commands of its README, and what they said.

    Each example runs once, for all tests that look at it.
    """
    finished = {}

    def of(name):
        if name not in finished:
            folder = tmp_path_factory.mktemp(name) / name
            junk = shutil.ignore_patterns("runs", "data", "maps", "*.csv", "__pycache__")
            shutil.copytree(ROOT / "docs" / "examples" / name, folder, ignore=junk)
            lines = COMMANDS.findall("".join(fenced(folder, "")))
            assert lines, f"the README of {name} has no command"
            said = [run(line, folder) for line in lines]
            finished[name] = folder, "".join(out for out, _ in said), "".join(e for _, e in said)
        return finished[name]

    return of


def numbers_after(text, pattern):
    """The numbers in place of each `#` of a pattern, from the last place where it fits."""
    found = re.findall(re.escape(pattern).replace(r"\#", f"({NUMBER})"), text)
    assert found, f"{pattern!r} is not in what was printed:\n{text}"
    last = found[-1]
    return [float(each) for each in ([last] if isinstance(last, str) else last)]


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def without_numbers(line):
    plain = re.sub(r"(positive|negative)s\b", r"\1", line)
    return re.sub(r"\s+", " ", re.sub(NUMBER, "#", plain)).strip()


def test_there_are_four_examples_and_each_is_small():
    names = ["monai_engines", "own_model", "plain_ignite", "sklearn_scores"]
    assert [folder.name for folder in FOLDERS] == names
    for folder in FOLDERS:
        assert (folder / "README.md").is_file()
        assert 1 <= len(programs := list(folder.glob("*.py"))) <= 2
        assert all(30 <= len(path.read_text().splitlines()) <= 95 for path in programs)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_it_says_what_its_readme_says_but_for_the_numbers(folder, ran):
    _, out, err = ran(folder.name)
    said = {without_numbers(line) for line in (out + err).splitlines()}
    promised = [line for block in fenced(folder, "text") for line in block.splitlines() if line]
    assert len(promised) >= 4
    assert [line for line in promised if without_numbers(line) not in said] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_nothing_that_it_says_looks_like_a_mistake(folder, ran):
    _, out, err = ran(folder.name)
    assert not re.search(r"warning|deprecat|error(?! \(ECE\))|traceback", out + err, re.I), err
    if folder.name != "own_model":  # whose log is on stderr
        assert err == ""


def test_the_plain_loop_evens_out_the_classes_and_keeps_the_tnr(ran):
    _, out, _ = ran("plain_ignite")
    assert len(re.findall(r"^epoch \d: ", out, re.M)) == 4
    positives, images, drawn, draws = numbers_after(out, "positives: # of #, drawn # of #")
    assert (positives, images, draws) == (100, 1000, 1000)
    assert 430 <= drawn <= 570
    threshold, tnr, floor = numbers_after(out, "threshold # (empirical): TNR # >= #")
    assert 0.5 <= threshold <= 1
    assert floor == 0.9 <= tnr
    (tpr,) = numbers_after(out, "TPR # (")
    assert tpr > 0.6
    (seconds,) = numbers_after(out, "an epoch: # s after the first")
    assert 0 < seconds < 60


def test_the_handlers_work_on_the_engines_of_monai(ran):
    folder, out, _ = ran("monai_engines")
    assert numbers_after(out, "trained on # images an epoch") == [320]
    auc, threshold, tnr, _ = numbers_after(
        out, "validation: roc_auc #, threshold # (empirical): TNR # >= #"
    )
    assert auc > 0.8
    assert threshold >= 0.3
    assert tnr >= 0.9
    history = rows_of(folder / "history.csv")
    assert [row["epoch"] for row in history] == ["1", "2", "3"]
    assert float(history[-1]["roc_auc"]) == pytest.approx(auc, abs=5e-4)
    assert float(history[-1]["threshold"]) == pytest.approx(threshold, abs=5e-5)
    predictions = rows_of(folder / "predictions.csv")
    assert [row["path"] for row in predictions] == [f"test/{number}.png" for number in range(80)]
    assert [row["label"] for row in predictions] == ["0"] * 60 + ["1"] * 20
    cut = float(history[-1]["threshold"])
    assert all(row["decision"] == str(int(float(row["score"]) >= cut)) for row in predictions)
    maps = rows_of(folder / "maps" / "explain.csv")
    assert [len(maps)] == numbers_after(out, "# maps in maps")
    by_path = {row["path"]: row["score"] for row in predictions}
    for row in maps:
        assert by_path[row["path"]] == row["score"]
        assert (folder / "maps" / row["picture"]).stat().st_size > 1000
        assert (folder / "maps" / row["overlay"]).stat().st_size > 500


def test_a_recipe_names_a_model_and_a_loss_from_the_current_folder(ran):
    folder, out, err = ran("own_model")
    assert "model     TwoScaleNet" in err
    resolved = (folder / "runs" / "own_model" / "recipe.yaml").read_text()
    assert "my_parts.TwoScaleNet" in resolved
    assert "my_parts.FocalLoss" in resolved
    point = json.loads((folder / "runs" / "own_model" / "operating_point.json").read_text())
    assert point["verdict"] == "empirical"
    assert point["tnr"] >= point["min_tnr"] == 0.8
    (shown,) = numbers_after(out, "at the threshold #")
    assert shown == pytest.approx(point["threshold"], abs=5e-5)
    tests = rows_of(folder / "runs" / "own_model" / "predictions" / "test.csv")
    assert len(tests) == 80
    (auc,) = numbers_after(out, "AUC # (# to #)")[:1]
    assert auc > 0.7


def test_the_console_script_finds_the_module_in_the_current_folder_too(ran):
    folder, _, _ = ran("own_model")
    out, _ = run("cxrignite validate --run runs/own_model", folder)
    assert "val: 69 films" in out


def test_the_scores_of_a_classifier_of_scikit_learn_get_a_certificate(ran):
    _, out, _ = ran("sklearn_scores")
    needed, have = numbers_after(out, "from # negatives on, without a false positive; there are #")
    assert needed == 59 <= have == 134
    threshold, tnr, floor = numbers_after(out, "threshold # (certified): TNR # >= #")
    assert 0.1 <= threshold <= 1
    assert floor == 0.95 <= tnr
    (certified,) = numbers_after(out, "the true TNR by patient is at least #")
    assert 0.95 <= certified <= tnr
    observed, _, low, high, tpr = numbers_after(out, "observed: TNR # (# % interval # to #), TPR #")
    assert low <= observed <= high
    assert observed > 0.9
    assert tpr > 0.8
