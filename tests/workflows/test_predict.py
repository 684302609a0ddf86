"""The command `predict`, on a tiny model and real files, killed and stopped in earnest."""

import csv
import gzip
import json
import os
import re
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from messages import error_line, line_with, missing, unwrapped
from PIL import Image
from results import point as stored_point
from results import rewrite_rule

from cxrignite.cli import run
from cxrignite.handlers import SafeSaver, load_checkpoint
from cxrignite.runs.checked_files import CheckedFiles
from cxrignite.runs.run_folder import RunFolder
from cxrignite.workflows.predict.output import COLUMNS

pytestmark = pytest.mark.integration

BATCHES_OF_8 = ("--data.batch_size", 4)  # twice as many where nothing is learnt


@pytest.fixture(scope="module")
def trained(trained, tmp_path_factory):
    """The shared run with class folders for a source, which tell whose image a file is."""
    run_dir = Path(shutil.copytree(trained, tmp_path_factory.mktemp("trained") / "run"))
    recipe = yaml.safe_load((run_dir / "recipe.yaml").read_text())
    folders = {"root": str(trained.parent / "images"), "patient_pattern": "^(p[0-9]+)_"}
    recipe["data"]["source"] = {"class_path": "ClassFolders", "init_args": folders}
    CheckedFiles(run_dir).write(run_dir / "recipe.yaml", yaml.safe_dump(recipe).encode())
    return run_dir


@pytest.fixture(scope="module")
def test_split(trained):
    """The images that `test` has scored."""
    recipe = yaml.safe_load((trained / "recipe.yaml").read_text())
    return Path(recipe["data"]["source"]["init_args"]["root"]) / "test"


@pytest.fixture(scope="module")
def records(test_split, tmp_path_factory):
    """26 of them, in folders of their own."""
    root = tmp_path_factory.mktemp("images") / "test"
    for folder in test_split.iterdir():
        (root / folder.name).mkdir(parents=True)
        for record in sorted(folder.iterdir())[:13]:
            (root / folder.name / record.name).hardlink_to(record)
    return root


@pytest.fixture
def predict(trained, tmp_path):
    """Run the command in this process."""

    def call(*argv, output="scores.csv", run_dir=trained):
        options = ["--run", str(run_dir), "--output", str(tmp_path / output)]
        return run(["predict", *options, *map(str, argv)])

    return call


@pytest.fixture
def started(start, trained, tmp_path):
    """Run the command in a process of its own."""

    def begin(*argv):
        options = ["--run", trained, "--output", tmp_path / "scores.csv"]
        return start(["-m", "cxrignite", "predict", *options, *argv], cwd=tmp_path)

    return begin


@pytest.fixture
def blocked(tmp_path, records):
    """New images, one of which keeps its reader waiting until it is written."""
    folder = tmp_path / "blocked"
    folder.mkdir()
    for number, record in enumerate(sorted(records.rglob("*.png"))):
        shutil.copy(record, folder / f"p{number:02d}_1.png")
    pipe = folder / "p20_1.png"
    content = pipe.read_bytes()
    pipe.unlink()
    os.mkfifo(pipe)

    def let_go():
        with suppress(OSError):  # nobody waits any more
            descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            os.write(descriptor, content)
            os.close(descriptor)

    def mend():
        pipe.rename(tmp_path / "pipe")
        pipe.write_bytes(content)

    yield folder / "*.png", let_go, mend
    # A worker process may be left that waits still.
    for each in (pipe, tmp_path / "pipe"):
        if each.is_fifo():
            with suppress(OSError):
                os.close(os.open(each, os.O_WRONLY | os.O_NONBLOCK))


def rows_of(path):
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def wait_for_rows(path, number, process):
    for _ in range(1200):
        if path.exists() and path.read_bytes().count(b"\n") > number:
            return
        assert process.poll() is None, process.errors
        time.sleep(0.05)
    raise AssertionError(f"{path} has not got {number} rows")


def test_scores_and_decisions_are_those_of_test_to_the_last_bit(
    predict, test_split, trained, tmp_path
):
    assert predict("--files", test_split) == 0
    rows = rows_of(tmp_path / "scores.csv")
    assert tuple(rows[0]) == COLUMNS
    known = {row["path"]: row for row in rows_of(trained / "predictions" / "test.csv")}
    point = stored_point(trained / "operating_point.json")
    assert len(rows) == len(known) == 80
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    for row in rows:
        of_test = known[f"test/{Path(row['path']).relative_to(test_split).as_posix()}"]
        for key in ("patient", "score", "probability", "decision"):
            assert row[key] == of_test[key] != ""
        assert (float(row["threshold"]), row["status"]) == (point["threshold"], point["status"])
        assert row["lower_threshold"] == ""
    # A batch of other neighbours, and another place in it.
    few = [row["path"] for row in rows[5:16:2]]
    assert predict("--files", *few, "--data.num_workers", 1, output="few.csv") == 0
    assert rows_of(tmp_path / "few.csv") == rows[5:16:2]


def test_the_summary_counts_and_says_what_the_threshold_is_worth(
    predict, records, tmp_path, capsys
):
    assert predict("--files", records) == 0
    shown = capsys.readouterr()
    rows = rows_of(tmp_path / "scores.csv")
    num_positive = sum(row["decision"] == "positive" for row in rows)
    first, decision, *remarks = unwrapped(shown.out).splitlines()
    assert missing(first, [tmp_path / "scores.csv", 26, num_positive]) == []
    threshold = f"{float(rows[0]['threshold']):.4f}"
    assert missing(decision, ["calibration", threshold, "certified"]) == []
    line_with("\n".join(remarks), "`test`", "`recalibrate`")
    line_with("\n".join(remarks), tmp_path / "scores.json")
    assert "\r" not in shown.err  # no bar where nobody looks
    content = json.loads((tmp_path / "scores.json").read_text())
    assert content["image_size"] == [64, 64]
    assert content["batch_size"] == 32
    # Once more: nothing is left to do, and nothing changes.
    before = (tmp_path / "scores.csv").read_bytes()
    assert predict("--files", records) == 0
    assert len(re.findall(r"\b26\b", capsys.readouterr().out.splitlines()[0])) == 2
    assert (tmp_path / "scores.csv").read_bytes() == before


@pytest.mark.parametrize("num_workers", [0, 2])
def test_killed_in_the_middle_it_goes_on(num_workers, predict, started, blocked, tmp_path):
    pattern, _, mend = blocked
    argv = ("--files", pattern, "--data.num_workers", num_workers, *BATCHES_OF_8)
    process = started(*argv)
    wait_for_rows(tmp_path / "scores.csv", 16, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    written = (tmp_path / "scores.csv").read_bytes()
    assert written.count(b"\n") == 17
    # As if the last line had been on its way.
    (tmp_path / "scores.csv").write_bytes(written + b"halfway,p1,0.25")
    # Whatever processes it has left behind do not keep the file.
    mend()
    assert predict(*argv) == 0
    assert predict(*argv, output="whole.csv") == 0
    assert (tmp_path / "scores.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert (tmp_path / "scores.csv").read_bytes().startswith(written)
    assert len(rows_of(tmp_path / "scores.csv")) == 26


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_after_the_batch(number, code, predict, started, blocked, tmp_path):
    pattern, let_go, mend = blocked
    process = started("--files", pattern, "--data.num_workers", 1, *BATCHES_OF_8)
    wait_for_rows(tmp_path / "scores.csv", 16, process)
    # As a terminal and a scheduler do it: to the worker processes, too.
    process.send_signal_to_group(number)
    time.sleep(0.5)
    let_go()
    assert process.wait() == code
    assert "Traceback" not in process.errors
    line_with(process.errors.splitlines()[-1], "predict", number.value)
    written = (tmp_path / "scores.csv").read_bytes()
    assert written.count(b"\n") in (17, 25)  # the second batch may have been in work still
    mend()
    assert predict("--files", pattern, *BATCHES_OF_8) == 0
    assert predict("--files", pattern, *BATCHES_OF_8, output="whole.csv") == 0
    assert (tmp_path / "scores.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_worker_that_is_killed_is_one_line(started, blocked, tmp_path):
    process = started("--files", blocked[0], "--data.num_workers", 1, *BATCHES_OF_8)
    wait_for_rows(tmp_path / "scores.csv", 16, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    (worker,) = children.read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    assert process.wait() == 1
    error_line(process.errors, worker, "data.num_workers")


def test_a_second_process_is_refused(predict, started, blocked, tmp_path, capsys):
    pattern, let_go, _ = blocked
    first = started("--files", pattern, *BATCHES_OF_8)
    wait_for_rows(tmp_path / "scores.csv", 16, first)
    before = (tmp_path / "scores.csv").read_bytes()
    assert predict("--files", pattern, "--overwrite", "true") == 2
    error_line(capsys.readouterr().err, "scores.csv", first.pid)
    assert (tmp_path / "scores.csv").read_bytes() == before
    let_go()
    assert first.wait() == 0


def test_unreadable_files_are_listed_and_the_rest_is_done(predict, records, tmp_path, capsys):
    folder = tmp_path / "mixed"
    shutil.copytree(records / "NORMAL", folder)
    whole = next(iter(sorted(folder.iterdir())))
    bad = {
        "cut.png": (whole.read_bytes()[:300], []),
        "empty.png": (b"", ["empty"]),
        "page.jpeg": (b"<!doctype html><title>Sign in</title>", ["JPEG"]),
    }
    for name, (content, _) in bad.items():
        (folder / name).write_bytes(content)
    Image.new("L", (60, 48)).save(folder / "wide.png")
    facts = {name: said for name, (_, said) in bad.items()}
    facts["wide.png"] = ["64 x 64", "48 x 60"]
    argv = ("--files", folder, tmp_path / "missing.png", "--data.num_workers", 2)
    facts["missing.png"] = ["No such file"]
    assert predict(*argv) == 3
    listed = rows_of(tmp_path / "scores.unreadable.csv")
    assert [Path(row["path"]).name for row in listed] == list(facts)
    for row, said in zip(listed, facts.values(), strict=True):
        assert row["reason"]
        line_with(row["reason"], *said)
    shown = capsys.readouterr()
    few = ["cut.png", "empty.png", "page.jpeg"]
    printed = error_line(shown.err, 5, 18, tmp_path / "scores.unreadable.csv", *few, 2)
    assert missing(printed, facts) == ["wide.png", "missing.png"]
    line_with(shown.out, 5, tmp_path / "scores.unreadable.csv")
    scored = [Path(row["path"]).name for row in rows_of(tmp_path / "scores.csv")]
    assert scored == sorted(path.name for path in (records / "NORMAL").iterdir())
    # Mended, they are scored by the same command, and the list goes.
    for row in listed:
        shutil.copy(whole, row["path"])
    assert predict(*argv) == 0
    names = [Path(row["path"]).name for row in rows_of(tmp_path / "scores.csv")]
    assert names == [*scored, *facts]
    assert not (tmp_path / "scores.unreadable.csv").exists()


def test_images_are_scaled_as_the_runs_and_nearly_blank_ones_are_reported_once(
    predict, run_dir, tmp_path, capsys
):
    for number in range(4):
        values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) // 2 + number
        Image.fromarray(values).save(tmp_path / f"p{number}.png")
    scores = {}
    recipe = (run_dir / "recipe.yaml").read_text()
    for scaling, num_blank in (("file", 0), ("stored", 4)):
        changed = re.sub(r"grey_scaling: \w+", f"grey_scaling: {scaling}", recipe)
        CheckedFiles(run_dir).write(run_dir / "recipe.yaml", changed.encode())
        output = f"{scaling}.csv"
        assert predict("--files", tmp_path / "p*.png", output=output, run_dir=run_dir) == 0
        scores[scaling] = [row["score"] for row in rows_of(tmp_path / output)]
        lines = [each for each in capsys.readouterr().err.splitlines() if "nearly blank" in each]
        assert len(lines) == bool(num_blank)
        for line in lines:
            line_with(line, "4 of 4", "p0.png", "p1.png", "p2.png", "data.grey_scaling", "stored")
    assert not set(scores["file"]) & set(scores["stored"])


def test_where_nothing_can_be_read_that_is_all_there_is_to_say(predict, run_dir, tmp_path, capsys):
    text = (run_dir / "split.csv").read_text()
    CheckedFiles(run_dir).write(run_dir / "split.csv", text.replace("/p0", "/gone").encode())
    assert predict("--files", tmp_path / "a.png", "--explain", "true", run_dir=run_dir) == 3
    error_line(capsys.readouterr().err, 1, tmp_path / "scores.unreadable.csv", tmp_path / "a.png")
    assert rows_of(tmp_path / "scores.csv") == []
    # Of these the size is taken where the run's own images are gone.
    Image.new("L", (32, 32)).save(tmp_path / "a.png")
    Image.new("L", (48, 48)).save(tmp_path / "b.png")
    both = ("--files", tmp_path / "a.png", tmp_path / "b.png")
    assert predict(*both, "--explain", "true", run_dir=run_dir) == 3
    error_line(capsys.readouterr().err, tmp_path / "b.png", "32 x 32", "48 x 48")


def test_folders_files_and_patterns_name_images(predict, records, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(records.parent)
    first = sorted((records / "NORMAL").iterdir())[0].name
    (tmp_path / "bare").mkdir()
    named = (f"test/NORMAL/{first}", "test/NORMAL", "t[e]st/**/p*_1.png")
    assert predict("--files", *named) == 0
    names = [row["path"] for row in rows_of(tmp_path / "scores.csv")]
    normal = sorted(f"test/NORMAL/{path.name}" for path in (records / "NORMAL").iterdir())
    others = sorted(f"test/PNEUMONIA/{p.name}" for p in (records / "PNEUMONIA").glob("p*_1.png"))
    assert names == [*normal, *others]
    assert predict("--files", "test/*", output="all.csv") == 0
    assert len(rows_of(tmp_path / "all.csv")) == 26
    capsys.readouterr()
    for nothing in (tmp_path / "bare", tmp_path / "b*", "*.dcm"):
        assert predict("--files", nothing, output="none.csv") == 3
        error_line(capsys.readouterr().err, nothing)
    assert not (tmp_path / "none.csv").exists()


def test_pictures_that_commands_wrote_are_never_scored(predict, records, run_dir, tmp_path, capsys):
    folder = tmp_path / "in"
    shutil.copytree(records / "NORMAL", folder)
    num_images = len(list(folder.iterdir()))
    shutil.copytree(run_dir, folder / "run")
    argv = ("--files", folder, folder / "**" / "*.png", "--explain", "true")
    for _ in range(2):
        assert predict(*argv, output="in/scores.csv") == 0
        assert len(rows_of(folder / "scores.csv")) == num_images
    printed = line_with(unwrapped(capsys.readouterr().err), "written by cxrignite")
    assert not missing(printed, [folder / "run/figures"])
    assert run(["explain", "--run", str(run_dir), "--files", str(folder)]) == 0
    assert len(list((run_dir / "explain/files").glob("*.overlay.png"))) == num_images


def test_a_name_may_hold_anything(predict, records, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    record = next(iter(sorted((records / "NORMAL").iterdir())))
    names = [b"a,b.png", b'a"b.png', b"a\nb.png", b"[c].png", b"\xff.png", "später.png".encode()]
    for name in names:
        shutil.copy(record, os.path.join(os.fsencode(folder), name))
    assert predict("--files", folder, "--explain", "true") == 0
    before = (tmp_path / "scores.csv").read_bytes()
    rows = rows_of(tmp_path / "scores.csv")
    assert {os.path.basename(os.fsencode(row["path"])) for row in rows} == set(names)
    assert predict("--files", folder / "[c].png", "--explain", "true") == 0
    assert predict("--files", folder, "--explain", "true") == 0
    assert (tmp_path / "scores.csv").read_bytes() == before


def test_a_manifest_names_images_and_patients(predict, records, tmp_path):
    source = sorted((records / "NORMAL").iterdir())
    (tmp_path / "table" / "a").mkdir(parents=True)
    shutil.copy(source[0], tmp_path / "table" / "a" / "p1_1.png")
    manifest = tmp_path / "table" / "images.csv"
    listed = f"patient,note,path\nx7,,a/p1_1.png\n\nx8,,{source[1]}\nx9,again,a/p1_1.png\n"
    manifest.write_text(listed, encoding="utf-8-sig")
    assert predict("--manifest", manifest) == 0
    rows = rows_of(tmp_path / "scores.csv")
    assert [(row["path"], row["patient"]) for row in rows] == [
        ("a/p1_1.png", "x7"),
        (str(source[1]), "x8"),
    ]
    # Without such a column the run's source says whose image it is.
    manifest.write_text("patient_id,file\nx7,a/p1_1.png\n")
    assert predict("--manifest", manifest, "--path_column", "file", output="b.csv") == 0
    assert [row["patient"] for row in rows_of(tmp_path / "b.csv")] == ["p1"]
    columns = ("--path_column", "file", "--patient_column", "patient_id")
    assert predict("--manifest", manifest, *columns, output="c.csv") == 0
    assert [row["patient"] for row in rows_of(tmp_path / "c.csv")] == ["x7"]


def test_a_manifest_may_be_any_table_that_fit_reads(predict, records, tmp_path):
    first, second = sorted((records / "NORMAL").iterdir())[:2]
    rows = [("Path", "patient"), (str(first), "x7"), (str(second), "x8")]
    text = "".join(";".join(row) + "\n" for row in rows)
    (tmp_path / "a.csv").write_text(text, encoding="utf-8-sig")
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress(text.replace(";", "\t").encode()))
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    columns = {name: list(cells) for name, *cells in zip(*rows, strict=True)}
    parquet.write_table(pyarrow.table(columns), tmp_path / "c.parquet")
    for number, name in enumerate(("a.csv", "b.tsv.gz", "c.parquet")):
        assert predict("--manifest", tmp_path / name, output=f"{number}.csv") == 0
        found = rows_of(tmp_path / f"{number}.csv")
        assert [(row["path"], row["patient"]) for row in found] == rows[1:]


def test_a_nul_in_a_name_costs_no_other_image_its_score(predict, records, tmp_path, capsys):
    record = next((records / "NORMAL").iterdir())
    (tmp_path / "images.csv").write_text(f"path,patient\na\0b.png,1\n{record},2\n")
    for workers, output in ((0, "here.csv"), (1, "there.csv")):
        options = ("--data.num_workers", workers)
        code = predict("--manifest", tmp_path / "images.csv", *options, output=output)
        assert code == 3
        (printed,) = capsys.readouterr().err.splitlines()
        listed = tmp_path / output.replace(".csv", ".unreadable.csv")
        assert missing(printed, ["error", 1, 2, listed, "NUL"]) == []
        assert [row["path"] for row in rows_of(tmp_path / output)] == [str(record)]


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("file,patient\na.png,1\n", ["'path'", "file", "patient"]),
        ("path,path\na.png,1\n", ["'path'"]),
        ("path,patient\nDOE JANE\n", ["line 2", "1"]),
        ("path,patient\na.png,1,DOE JANE\n", ["line 2", "2", "3"]),
        ("path,patient\n,DOE JANE\n", ["line 2", "'path'"]),
        ("path\n", []),
        ("", []),
        ('path\n"a.png', ["CSV"]),
        ("path;name\na.png;J\udce4\n", ["line 2", "UTF-8"]),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(text, facts, predict, tmp_path, capsys):
    (tmp_path / "images.csv").write_text(text, encoding="utf-8", errors="surrogateescape")
    assert predict("--manifest", tmp_path / "images.csv") == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "JANE" not in error  # rows are of patients
    error_line(error, "images.csv", *facts)
    assert not (tmp_path / "scores.csv").exists()


def test_every_image_gets_its_map(predict, records, tmp_path, capsys):
    argv = ("--files", records, "--explain", "true")
    assert predict(*argv) == 0
    folder, rows = tmp_path / "scores_maps", rows_of(tmp_path / "scores.csv")
    line_with(capsys.readouterr().out, folder)
    pictures = {row["picture"] for row in rows}
    overlays = {name.replace(".png", ".overlay.png") for name in pictures}
    assert len(pictures) == 26
    assert {path.name for path in folder.glob("[!.]*")} == pictures | overlays
    assert all(float(row["raw_max"]) >= 0 for row in rows)
    with Image.open(folder / next(iter(overlays))) as image:
        assert image.size == (64, 64)
    # Stopped after any image it goes on to the same pictures, to the last bit.
    table = (tmp_path / "scores.csv").read_bytes()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    lines = table.splitlines(keepends=True)
    (tmp_path / "scores.csv").write_bytes(b"".join(lines[:6]) + lines[6][:9])
    for row in rows[4:]:
        (folder / row["picture"]).unlink()
    assert predict(*argv[:2], "--explain") == 0
    assert (tmp_path / "scores.csv").read_bytes() == table
    # The fifth image has its row: nothing is done to it again.
    del before[rows[4]["picture"]]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_site_decides_by_its_own_point(predict, run_dir, records, tmp_path):
    point = replace(RunFolder(run_dir).find_rules()[0].point, threshold=0.0, status="infeasible")
    rewrite_rule(run_dir, site="ward", point=point, chosen_on="ward")
    assert predict("--files", records, "--operating_point", "ward", run_dir=run_dir) == 0
    rows = rows_of(tmp_path / "scores.csv")
    assert {(row["decision"], row["threshold"], row["status"]) for row in rows} == {
        ("positive", "0.0", "infeasible")
    }


def test_probabilities_are_at_the_prevalence_that_is_named(
    predict, run_dir, records, tmp_path, capsys
):
    normal = ("--files", records / "NORMAL")
    assert predict(*normal, "--prevalence", 0.05) == 0
    line_with(capsys.readouterr().out, "probability", "prevalence", 0.05)
    assert json.loads((tmp_path / "scores.json").read_text())["prevalence"] == 0.05
    assert predict(*normal, output="usual.csv") == 0
    rule = RunFolder(run_dir).find_rules()[0]
    training = rule.prior_shift.prevalence
    rows = zip(rows_of(tmp_path / "scores.csv"), rows_of(tmp_path / "usual.csv"), strict=True)
    for row, usual in rows:
        odds = [
            float(each["probability"]) / (1 - float(each["probability"])) for each in (row, usual)
        ]
        assert odds[0] / odds[1] == pytest.approx((0.05 / 0.95) / (training / (1 - training)))
        assert {**row, "probability": ""} == {**usual, "probability": ""}
    capsys.readouterr()
    for argv in (("--prevalence", 0.1), ()):
        assert predict("--files", records, *argv) == 2
        error_line(capsys.readouterr().err, "prevalence", 0.05, "--overwrite true")
    assert predict("--files", records, "--prevalence", 0.05) == 0
    rewrite_rule(run_dir, prior_shift=replace(rule.prior_shift, pos_weight=None))
    capsys.readouterr()
    argv = (*normal, "--prevalence", 0.05)
    assert predict(*argv, output="unknown.csv", run_dir=run_dir) == 2
    error_line(capsys.readouterr().err, "--prevalence", 0.05, "loss")
    assert not (tmp_path / "unknown.csv").exists()


def test_a_run_without_a_threshold_leaves_decisions_empty(predict, run_dir, records, tmp_path):
    rewrite_rule(run_dir, point=None, informativeness=None)
    assert predict("--files", records, "--explain", "true", run_dir=run_dir) == 0
    rows = rows_of(tmp_path / "scores.csv")
    of_rule = ("decision", "threshold", "lower_threshold", "status")
    assert {row[key] for row in rows for key in of_rule} == {""}


def test_scores_of_another_kind_are_not_mixed(predict, run_dir, records, tmp_path, capsys):
    assert predict("--files", records / "NORMAL") == 0
    before = (tmp_path / "scores.csv").read_bytes()
    point = RunFolder(run_dir).find_rules()[0].point
    rewrite_rule(run_dir, point=replace(point, threshold=0.75))
    capsys.readouterr()
    assert predict("--files", records, run_dir=run_dir) == 2
    error_line(capsys.readouterr().err, "threshold", point.threshold, 0.75, "--overwrite true")
    assert predict("--files", records, "--data.batch_size", 2) == 2
    error_line(capsys.readouterr().err, "batch_size", 32, 4)
    assert predict("--files", records, "--explain", "true") == 2
    error_line(capsys.readouterr().err, "maps", "null", "grad_cam")
    assert (tmp_path / "scores.csv").read_bytes() == before
    (tmp_path / "scores_maps").mkdir()
    for name in ("old.png", "old.overlay.png", "mine.png"):
        (tmp_path / "scores_maps" / name).touch()
    assert predict("--files", records, "--overwrite", "true", run_dir=run_dir) == 0
    rows = rows_of(tmp_path / "scores.csv")
    assert (len(rows), rows[0]["threshold"]) == (26, "0.75")
    assert [path.name for path in (tmp_path / "scores_maps").iterdir()] == ["mine.png"]


def test_a_file_of_somebody_else_stays(predict, records, tmp_path, capsys):
    (tmp_path / "scores.csv").write_text("my,own\n1,2\n")
    assert predict("--files", records) == 2
    error_line(capsys.readouterr().err, tmp_path / "scores.csv", "scores.json", "--output")
    (tmp_path / "scores.json").write_text("[]")
    assert predict("--files", records) == 2
    error_line(capsys.readouterr().err, tmp_path / "scores.json", "--output")
    assert (tmp_path / "scores.csv").read_text() == "my,own\n1,2\n"
    assert (tmp_path / "scores.json").read_text() == "[]"


def test_a_manifest_is_not_overwritten_through_a_link(predict, tmp_path, capsys):
    manifest = tmp_path / "images.csv"
    manifest.write_text("path\na.png\n")
    (tmp_path / "scores.csv").symlink_to(manifest)
    assert predict("--manifest", manifest, "--overwrite", "true") == 2
    error_line(capsys.readouterr().err, "--output", "--manifest", tmp_path / "scores.csv")
    assert manifest.read_text() == "path\na.png\n"


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        ([], ["--files", "--manifest"]),
        (["--files", "a.png", "--manifest", "b.csv"], ["--files", "--manifest"]),
        (["--files", "a.png", "--path_column", "file"], ["--path_column", "--manifest"]),
        (["--files", "a.png", "--output", "scores.txt"], ["--output", ".csv", "scores.txt"]),
        (["--files", "a.png", "--output", "RUN/predictions/new.csv"], ["predictions/new.csv"]),
        (["--files", "a.png", "--output", "RUN/split.csv"], ["--output", "run/split.csv"]),
        (["--manifest", "a.csv", "--output", "a.csv"], ["--output", "--manifest", "a.csv"]),
        (["--files", "a.png", "--operating_point", "ward"], ["'ward'"]),
        (["--files", "a.png", "--data.source.root", "x"], ["--data.source.root", "--explain"]),
        (["--files", "a.png", "--explain", "perhaps"], ["maps", "perhaps"]),
        (["--files", "a.png", "--prevalence", "5"], ["--prevalence", "(0, 1)", "5"]),
        (["--files", "a.png", "--prevalence", "0"], ["--prevalence", "(0, 1)", "0"]),
        (["--files", "a.png", "--prevalence", "rare"], ["prevalence", "rare"]),
    ],
)
def test_mistakes_get_one_line(options, facts, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = [option.replace("RUN", str(trained)) for option in options]
    assert run(["predict", "--run", str(trained), *argv]) == 2
    error_line(capsys.readouterr().err, *facts)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_score_nothing(predict, run_dir, records, tmp_path, capsys):
    best = load_checkpoint(run_dir / "checkpoints" / "best.pt")
    best["model"]["head.1.bias"] = torch.full_like(best["model"]["head.1.bias"], float("nan"))
    SafeSaver(run_dir / "checkpoints")(best, "best.pt", {"epoch": best["epoch"]})
    rewrite_rule(run_dir, weights_sha256=RunFolder(run_dir).weights_sha256())
    assert predict("--files", records, run_dir=run_dir) == 1
    error_line(capsys.readouterr().err, min((records / "NORMAL").iterdir()), "NaN")
    assert rows_of(tmp_path / "scores.csv") == []
