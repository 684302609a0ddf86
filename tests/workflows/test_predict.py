"""The verb `predict`, on a tiny model and real files, killed and stopped in earnest."""

import csv
import gzip
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from PIL import Image

from cxrignite.cli import run
from cxrignite.data import Manifest, ManifestPatients, Phantom
from cxrignite.errors import CxrIgniteError, RecipeError
from cxrignite.handlers import SafeSaver, load_checkpoint
from cxrignite.parsing import with_maps
from cxrignite.workflows.predict.listing import list_manifest
from cxrignite.workflows.predict.output import COLUMNS, open_output
from cxrignite.workflows.predict.output_settings import OutputPaths

RECIPE = """\
seed: 3
data:
  source:
    class_path: ClassFolders
    init_args: {root: FILMS, patient_pattern: "^(p[0-9]+)_"}
  val_fraction: 0.25
  batch_size: 4
  num_workers: 0
model: {class_path: LightCNN, init_args: {width: 4, stride: 16}}
optimizer: {class_path: AdamW, init_args: {lr: 3.0e-3}}
trainer: {max_epochs: 1, precision: fp32}
validator:
  handlers:
    - {class_path: ThresholdSearch, init_args: {min_tnr: 0.5, min_threshold: 0.1}}
"""

# Imports once, and then forks a process for each command line: libgomp bears no fork after work.
SERVER = """
import json, os, signal, sys
import cxrignite.recipe, cxrignite.parsing, jsonargparse, cxrignite.workflows.predict
from cxrignite.cli import run
print("ready", flush=True)
for line in sys.stdin:
    argv, log = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1), os.dup2(file, 2)
        code = run(argv)
        sys.stdout.flush()
        os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    Phantom(folder / "films", num_train=40, num_test=26, size=48).films()
    (folder / "recipe.yaml").write_text(RECIPE.replace("FILMS", str(folder / "films")))
    argv = ["fit", "--config", str(folder / "recipe.yaml"), "--run_dir", str(folder / "run")]
    assert run(argv) == 0
    assert run(["test", "--run", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def films(trained):
    """The test films, which `test` has scored."""
    return trained.parent / "films" / "test"


@pytest.fixture
def run_dir(trained, tmp_path):
    """A copy, for what changes the run."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def predict(trained, tmp_path):
    """Run the verb in this process."""

    def call(*argv, output="scores.csv", run_dir=trained):
        options = ["--run", str(run_dir), "--output", str(tmp_path / output)]
        return run(["predict", *options, *map(str, argv)])

    return call


@pytest.fixture(scope="module")
def server():
    """What `started` asks for processes."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.stdin.close()
    process.wait(timeout=30)
    process.stdout.close()


@pytest.fixture
def started(server, trained, tmp_path):
    """Run the verb in a process of its own; gives its pid, and what waits for its exit code."""

    def start(*argv, output="scores.csv"):
        options = ["--run", str(trained), "--output", str(tmp_path / output), *map(str, argv)]
        server.stdin.write(json.dumps([["predict", *options], str(tmp_path / "log")]) + "\n")
        server.stdin.flush()
        return int(server.stdout.readline()), lambda: int(server.stdout.readline())

    return start


@pytest.fixture
def blocked(tmp_path, films):
    """New films, one of which keeps its reader waiting until it is written."""
    folder = tmp_path / "blocked"
    folder.mkdir()
    for number, film in enumerate(sorted(films.rglob("*.png"))):
        shutil.copy(film, folder / f"p{number:02d}_1.png")
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


def wait_for_rows(path, number):
    for _ in range(600):
        if path.exists() and path.read_bytes().count(b"\n") > number:
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} has not got {number} rows")


def test_scores_and_decisions_are_those_of_test_to_the_last_bit(predict, films, trained, tmp_path):
    assert predict("--files", films) == 0
    rows = rows_of(tmp_path / "scores.csv")
    assert tuple(rows[0]) == COLUMNS
    known = {row["path"]: row for row in rows_of(trained / "predictions" / "test.csv")}
    point = json.loads((trained / "operating_point.json").read_text())
    assert len(rows) == len(known) == 26
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    for row in rows:
        of_test = known[f"test/{Path(row['path']).relative_to(films).as_posix()}"]
        for key in ("patient", "score", "natural_score", "decision"):
            assert row[key] == of_test[key] != ""
        assert (float(row["threshold"]), row["verdict"]) == (point["threshold"], point["verdict"])
    # A batch of other neighbours, and another place in it.
    few = [row["path"] for row in rows[5:16:2]]
    assert predict("--files", *few, "--data.num_workers", 1, output="few.csv") == 0
    assert rows_of(tmp_path / "few.csv") == rows[5:16:2]


def test_the_summary_counts_and_says_what_the_verdict_is_worth(predict, films, tmp_path, capsys):
    assert predict("--files", films) == 0
    shown = capsys.readouterr()
    num_positive = sum(row["decision"] == "1" for row in rows_of(tmp_path / "scores.csv"))
    assert f"scores.csv: 26 films scored, {num_positive} called positive" in shown.out
    assert "threshold 0." in shown.out
    assert "films like those that chose the threshold" in shown.out
    assert "film/s" not in shown.err  # no bar where nobody looks
    content = json.loads((tmp_path / "scores.json").read_text())
    assert content["image_size"] == [48, 48]
    assert content["batch_size"] == 8
    # Once more: nothing is left to do, and nothing changes.
    before = (tmp_path / "scores.csv").read_bytes()
    assert predict("--files", films) == 0
    assert "26 films scored (26 of them before)" in capsys.readouterr().out
    assert (tmp_path / "scores.csv").read_bytes() == before


@pytest.mark.parametrize("num_workers", [0, 2])
def test_killed_in_the_middle_it_goes_on(num_workers, predict, started, blocked, tmp_path):
    pattern, _, mend = blocked
    argv = ("--files", pattern, "--data.num_workers", num_workers)
    pid, exit_code = started(*argv)
    wait_for_rows(tmp_path / "scores.csv", 16)
    os.kill(pid, signal.SIGKILL)
    assert exit_code() == -signal.SIGKILL
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
    pid, exit_code = started("--files", pattern, "--data.num_workers", 1)
    wait_for_rows(tmp_path / "scores.csv", 16)
    os.killpg(pid, number)  # as a terminal and a scheduler do it: to the worker processes, too
    time.sleep(0.5)
    let_go()
    assert exit_code() == code
    log = (tmp_path / "log").read_text()
    assert "the same command goes on" in log
    assert "Traceback" not in log
    written = (tmp_path / "scores.csv").read_bytes()
    assert written.count(b"\n") in (17, 25)  # the second batch may have been in work still
    mend()
    assert predict("--files", pattern) == 0
    assert predict("--files", pattern, output="whole.csv") == 0
    assert (tmp_path / "scores.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_worker_that_is_killed_is_one_line(started, blocked, tmp_path):
    pid, exit_code = started("--files", blocked[0], "--data.num_workers", 1)
    wait_for_rows(tmp_path / "scores.csv", 16)
    (worker,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    assert exit_code() == 1
    log = (tmp_path / "log").read_text()
    assert "error: DataLoader worker (pid" in log
    assert "the same command goes on" in log
    assert "Traceback" not in log


def test_a_second_process_is_refused(predict, started, blocked, tmp_path, capsys):
    pattern, let_go, _ = blocked
    pid, exit_code = started("--files", pattern)
    wait_for_rows(tmp_path / "scores.csv", 16)
    before = (tmp_path / "scores.csv").read_bytes()
    assert predict("--files", pattern, "--overwrite", "true") == 2
    assert f"scores.csv is in use by process {pid}" in capsys.readouterr().err
    assert (tmp_path / "scores.csv").read_bytes() == before
    let_go()
    assert exit_code() == 0


def test_unreadable_files_are_listed_and_the_rest_is_done(predict, films, tmp_path, capsys):
    folder = tmp_path / "mixed"
    shutil.copytree(films / "NORMAL", folder)
    whole = next(iter(sorted(folder.iterdir())))
    bad = {
        "cut.png": (whole.read_bytes()[:300], ""),
        "empty.png": (b"", "the file is empty"),
        "page.jpeg": (b"<!doctype html><title>Sign in</title>", "not a "),
    }
    for name, (content, _) in bad.items():
        (folder / name).write_bytes(content)
    Image.new("L", (60, 48)).save(folder / "wide.png")
    reasons = {name: reason for name, (_, reason) in bad.items()}
    reasons["wide.png"] = "must be 48 x 48 pixels after preprocessing, as the run's films, got 48 x"
    argv = ("--files", folder, tmp_path / "missing.png", "--data.num_workers", 2)
    reasons["missing.png"] = "No such file"
    assert predict(*argv) == 3
    listed = rows_of(tmp_path / "scores.unreadable.csv")
    assert [Path(row["path"]).name for row in listed] == list(reasons)
    for row, reason in zip(listed, reasons.values(), strict=True):
        assert row["reason"]
        assert reason in row["reason"]
    error = capsys.readouterr().err
    assert "5 of" in error
    assert "cut.png" in error
    assert "and 2 more" in error
    assert "Traceback" not in error
    scored = [Path(row["path"]).name for row in rows_of(tmp_path / "scores.csv")]
    assert scored == sorted(path.name for path in (films / "NORMAL").iterdir())
    # Mended, they are scored by the same command, and the list goes.
    for row in listed:
        shutil.copy(whole, row["path"])
    assert predict(*argv) == 0
    names = [Path(row["path"]).name for row in rows_of(tmp_path / "scores.csv")]
    assert names == [*scored, *reasons]
    assert not (tmp_path / "scores.unreadable.csv").exists()


def test_where_nothing_can_be_read_that_is_all_there_is_to_say(predict, run_dir, tmp_path, capsys):
    shutil.move(run_dir / "split.csv", tmp_path / "split.csv")
    text = (tmp_path / "split.csv").read_text()
    (run_dir / "split.csv").write_text(text.replace("/p0", "/gone"))
    assert predict("--files", tmp_path / "a.png", "--explain", "true", run_dir=run_dir) == 3
    assert "1 of 1 films cannot be read" in capsys.readouterr().err
    assert rows_of(tmp_path / "scores.csv") == []
    # Of these the size is taken where the run's own films are gone.
    Image.new("L", (32, 32)).save(tmp_path / "a.png")
    Image.new("L", (48, 48)).save(tmp_path / "b.png")
    both = ("--files", tmp_path / "a.png", tmp_path / "b.png")
    assert predict(*both, "--explain", "true", run_dir=run_dir) == 3
    assert "b.png: it must be 32 x 32" in capsys.readouterr().err


def test_folders_files_and_patterns_name_films(predict, films, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(films.parent)
    first = sorted((films / "NORMAL").iterdir())[0].name
    (tmp_path / "bare").mkdir()
    named = (f"test/NORMAL/{first}", "test/NORMAL", "t[e]st/**/p*_1.png")
    assert predict("--files", *named) == 0
    names = [row["path"] for row in rows_of(tmp_path / "scores.csv")]
    normal = sorted(f"test/NORMAL/{path.name}" for path in (films / "NORMAL").iterdir())
    others = sorted(f"test/PNEUMONIA/{p.name}" for p in (films / "PNEUMONIA").glob("p*_1.png"))
    assert names == [*normal, *others]
    assert predict("--files", "test/*", output="all.csv") == 0
    assert len(rows_of(tmp_path / "all.csv")) == 26
    capsys.readouterr()
    for nothing in (tmp_path / "bare", tmp_path / "b*", "*.dcm"):
        assert predict("--files", nothing, output="none.csv") == 3
        assert str(nothing) in capsys.readouterr().err
    assert not (tmp_path / "none.csv").exists()


def test_a_name_may_hold_anything(predict, films, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    film = next(iter(sorted((films / "NORMAL").iterdir())))
    names = [b"a,b.png", b'a"b.png', b"a\nb.png", b"[c].png", b"\xff.png", "später.png".encode()]
    for name in names:
        shutil.copy(film, os.path.join(os.fsencode(folder), name))
    assert predict("--files", folder, "--explain", "true") == 0
    before = (tmp_path / "scores.csv").read_bytes()
    rows = rows_of(tmp_path / "scores.csv")
    assert {os.path.basename(os.fsencode(row["path"])) for row in rows} == set(names)
    assert predict("--files", folder / "[c].png", "--explain", "true") == 0
    assert predict("--files", folder, "--explain", "true") == 0
    assert (tmp_path / "scores.csv").read_bytes() == before


def test_a_manifest_names_films_and_patients(predict, films, tmp_path):
    source = sorted((films / "NORMAL").iterdir())
    (tmp_path / "table" / "a").mkdir(parents=True)
    shutil.copy(source[0], tmp_path / "table" / "a" / "p1_1.png")
    manifest = tmp_path / "table" / "films.csv"
    listed = f"patient,note,path\nx7,,a/p1_1.png\n\nx8,,{source[1]}\nx9,again,a/p1_1.png\n"
    manifest.write_text(listed, encoding="utf-8-sig")
    assert predict("--manifest", manifest) == 0
    rows = rows_of(tmp_path / "scores.csv")
    assert [(row["path"], row["patient"]) for row in rows] == [
        ("a/p1_1.png", "x7"),
        (str(source[1]), "x8"),
    ]
    # Without such a column the run's source says whose film it is.
    manifest.write_text("patient_id,file\nx7,a/p1_1.png\n")
    assert predict("--manifest", manifest, "--path_column", "file", output="b.csv") == 0
    assert [row["patient"] for row in rows_of(tmp_path / "b.csv")] == ["p1"]
    columns = ("--path_column", "file", "--patient_column", "patient_id")
    assert predict("--manifest", manifest, *columns, output="c.csv") == 0
    assert [row["patient"] for row in rows_of(tmp_path / "c.csv")] == ["x7"]


def test_a_patient_of_a_manifest_is_hashed_as_the_runs_own(tmp_path):
    (tmp_path / "salt.txt").write_text("a secret of some length")
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").touch()
    table = tmp_path / "films.csv"
    table.write_text("path,label,patient\na.png,0,MRN-7001\nb.png,1,MRN-7002\n")
    source = Manifest(table, patients=ManifestPatients(salt_file=tmp_path / "salt.txt"))
    keys = [film.patient for film in source.films()]
    listing = list_manifest(table, source)
    assert [listing.patient_of(film) for film in listing.films] == keys
    assert "MRN" not in str(listing)


def test_a_manifest_may_be_any_table_that_fit_reads(predict, films, tmp_path):
    first, second = sorted((films / "NORMAL").iterdir())[:2]
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


def test_a_nul_in_a_name_costs_no_other_film_its_score(predict, films, tmp_path, capsys):
    film = next((films / "NORMAL").iterdir())
    (tmp_path / "films.csv").write_text(f"path,patient\na\0b.png,1\n{film},2\n")
    for workers, output in ((0, "here.csv"), (1, "there.csv")):
        options = ("--data.num_workers", workers)
        code = predict("--manifest", tmp_path / "films.csv", *options, output=output)
        assert code == 3
        assert "its name holds a NUL" in capsys.readouterr().err
        assert [row["path"] for row in rows_of(tmp_path / output)] == [str(film)]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("file,patient\na.png,1\n", "must have one column 'path', got file, patient"),
        ("path,path\na.png,1\n", "must have one column 'path'"),
        ("path,patient\nDOE JANE\n", "line 2: the row must have 2 cells as the header has, got 1"),
        ("path,patient\na.png,1,DOE JANE\n", "line 2: the row must have 2 cells"),
        ("path,patient\n,DOE JANE\n", "line 2: a row must have a name in 'path'"),
        ("path\n", "must name at least one film"),
        ("", "must have a header line"),
        ('path\n"a.png', "must be CSV, got"),
        ("path;name\na.png;J\udce4\n", "line 2: a manifest must be UTF-8"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(text, complaint, predict, tmp_path, capsys):
    (tmp_path / "films.csv").write_text(text, encoding="utf-8", errors="surrogateescape")
    assert predict("--manifest", tmp_path / "films.csv") == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "JANE" not in error  # rows are of patients
    assert complaint in error
    assert "films.csv" in error
    assert "Traceback" not in error
    assert not (tmp_path / "scores.csv").exists()


def test_every_film_gets_its_map(predict, films, tmp_path, capsys):
    argv = ("--files", films, "--explain", "true")
    assert predict(*argv) == 0
    assert "maps in" in capsys.readouterr().out
    folder, rows = tmp_path / "scores_maps", rows_of(tmp_path / "scores.csv")
    pictures = {row["picture"] for row in rows}
    overlays = {name.replace(".png", ".overlay.png") for name in pictures}
    assert len(pictures) == 26
    assert {path.name for path in folder.iterdir()} == pictures | overlays
    assert all(float(row["raw_max"]) >= 0 for row in rows)
    with Image.open(folder / next(iter(overlays))) as image:
        assert image.size == (48, 48)
    # Stopped after any film it goes on to the same pictures, to the last bit.
    table = (tmp_path / "scores.csv").read_bytes()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    lines = table.splitlines(keepends=True)
    (tmp_path / "scores.csv").write_bytes(b"".join(lines[:6]) + lines[6][:9])
    for row in rows[4:]:
        (folder / row["picture"]).unlink()
    assert predict(*argv[:2], "--explain") == 0
    assert (tmp_path / "scores.csv").read_bytes() == table
    # The fifth film has its row: nothing is done to it again.
    del before[rows[4]["picture"]]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_site_decides_by_its_own_point(predict, run_dir, films, tmp_path):
    point = json.loads((run_dir / "operating_point.json").read_text())
    point |= {"threshold": 0.0, "verdict": "infeasible", "chosen_on": "ward"}
    (run_dir / "operating_points").mkdir()
    (run_dir / "operating_points" / "ward.json").write_text(json.dumps(point))
    assert predict("--files", films, "--operating_point", "ward", run_dir=run_dir) == 0
    rows = rows_of(tmp_path / "scores.csv")
    assert {(row["decision"], row["threshold"], row["verdict"]) for row in rows} == {
        ("1", "0.0", "infeasible")
    }


def test_a_run_without_a_threshold_leaves_decisions_empty(predict, run_dir, films, tmp_path):
    point = json.loads((run_dir / "operating_point.json").read_text()) | {"threshold": None}
    (run_dir / "operating_point.json").write_text(json.dumps(point))
    assert predict("--files", films, "--explain", "true", run_dir=run_dir) == 0
    rows = rows_of(tmp_path / "scores.csv")
    assert {(row["decision"], row["threshold"], row["verdict"]) for row in rows} == {("", "", "")}


def test_scores_of_another_kind_are_not_mixed(predict, run_dir, films, tmp_path, capsys):
    assert predict("--files", films / "NORMAL") == 0
    before = (tmp_path / "scores.csv").read_bytes()
    point = json.loads((run_dir / "operating_point.json").read_text())
    moved = point | {"threshold": 0.75}
    (run_dir / "operating_point.json").write_text(json.dumps(moved))
    capsys.readouterr()
    assert predict("--files", films, run_dir=run_dir) == 2
    error = capsys.readouterr().err
    assert f"threshold {point['threshold']} there, 0.75 now" in error
    assert error.count("\n") == 1
    assert predict("--files", films, "--data.batch_size", 2) == 2
    assert "batch_size 8 there, 4 now" in capsys.readouterr().err
    assert predict("--files", films, "--explain", "true") == 2
    assert "maps null there" in capsys.readouterr().err
    assert (tmp_path / "scores.csv").read_bytes() == before
    (tmp_path / "scores_maps").mkdir()
    for name in ("old.png", "old.overlay.png", "mine.png"):
        (tmp_path / "scores_maps" / name).touch()
    assert predict("--files", films, "--overwrite", "true", run_dir=run_dir) == 0
    rows = rows_of(tmp_path / "scores.csv")
    assert (len(rows), rows[0]["threshold"]) == (26, "0.75")
    assert [path.name for path in (tmp_path / "scores_maps").iterdir()] == ["mine.png"]


def test_a_file_of_somebody_else_stays(predict, films, tmp_path, capsys):
    (tmp_path / "scores.csv").write_text("my,own\n1,2\n")
    assert predict("--files", films) == 2
    assert "is not of predict, it has no scores.json" in capsys.readouterr().err
    (tmp_path / "scores.json").write_text("[]")
    assert predict("--files", films) == 2
    assert "scores.json is not of predict" in capsys.readouterr().err
    assert (tmp_path / "scores.csv").read_text() == "my,own\n1,2\n"
    assert (tmp_path / "scores.json").read_text() == "[]"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "name", ["scores.csv", "scores.json", "scores.unreadable.csv", "scores_maps/a.overlay.png"]
)
def test_what_is_not_of_predict_is_never_overwritten(name, overwrite, tmp_path):
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text('{"weights_sha256": "of a run", "threshold": 0.5}')
    with (
        pytest.raises(RecipeError, match=r"is not of predict.*: choose another --output$"),
        open_output(OutputPaths(tmp_path / "scores.csv"), SETTINGS, COLUMNS, overwrite=overwrite),
    ):
        pass
    assert mine.read_text().startswith('{"weights')


def test_the_files_of_a_run_are_no_place_for_an_output(trained, tmp_path):
    (tmp_path / "link").symlink_to(trained)
    for name in ("split.csv", "new.csv", "metrics/new.csv", "predictions/deep/er.csv"):
        for root in (trained, tmp_path / "link"):
            with pytest.raises(RecipeError, match="must lie outside of a run's own files"):
                OutputPaths(root / name)
    OutputPaths(trained / "site" / "scores.csv")
    OutputPaths(trained.parent / "scores.csv")  # beside the recipe that somebody wrote


def test_a_manifest_is_not_overwritten_through_a_link(predict, tmp_path, capsys):
    manifest = tmp_path / "films.csv"
    manifest.write_text("path\na.png\n")
    (tmp_path / "scores.csv").symlink_to(manifest)
    assert predict("--manifest", manifest, "--overwrite", "true") == 2
    assert "another file than --manifest" in capsys.readouterr().err
    assert manifest.read_text() == "path\na.png\n"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "name the films"),
        (["--files", "a.png", "--manifest", "b.csv"], "name the films"),
        (["--files", "a.png", "--path_column", "file"], "go with --manifest"),
        (["--files", "a.png", "--output", "scores.txt"], "--output must end in .csv"),
        (["--files", "a.png", "--output", "RUN/predictions/new.csv"], "outside of a run's"),
        (["--files", "a.png", "--output", "RUN/split.csv"], "outside of a run's own files"),
        (["--manifest", "a.csv", "--output", "a.csv"], "another file than --manifest"),
        (["--files", "a.png", "--operating_point", "ward"], "no operating point 'ward'"),
        (["--files", "a.png", "--data.source.root", "x"], "is not one of"),
        (["--files", "a.png", "--explain", "perhaps"], "maps"),
    ],
)
def test_mistakes_get_one_line(options, complaint, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = [option.replace("RUN", str(trained)) for option in options]
    assert run(["predict", "--run", str(trained), *argv]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_score_nothing(predict, run_dir, films, tmp_path, capsys):
    best = load_checkpoint(run_dir / "checkpoints" / "best.pt")
    best["model"]["head.1.bias"] = torch.full_like(best["model"]["head.1.bias"], float("nan"))
    SafeSaver(run_dir / "checkpoints")(best, "best.pt", {"epoch": best["epoch"]})
    point = json.loads((run_dir / "operating_point.json").read_text())
    manifest = json.loads((run_dir / "checkpoints" / "best.json").read_text())
    point["weights_sha256"] = manifest["sha256"]
    (run_dir / "operating_point.json").write_text(json.dumps(point))
    assert predict("--files", films, run_dir=run_dir) == 1
    assert "is NaN or infinite" in capsys.readouterr().err
    assert rows_of(tmp_path / "scores.csv") == []


def test_explain_with_and_without_a_value_draws_maps():
    assert with_maps(["--explain", "true", "--run", "x"]) == ["--maps", "true", "--run", "x"]
    assert with_maps(["--explain=false"]) == ["--maps=false"]
    assert with_maps(["--explain", "--run", "x"]) == ["--maps", "true", "--run", "x"]
    assert with_maps(["--run", "x", "--explain"]) == ["--run", "x", "--maps", "true"]
    assert with_maps(["--explain.method", "x"]) == ["--explain.method", "x"]


SETTINGS = {"run": "runs/a", "weights_sha256": "0" * 64, "threshold": 0.5}
ROWS = [(name, "", "0.5", "0.5", 1, "0.5", "empirical") for name in ("a", 'b",\n"', "c", "d")]


def written(path):
    with open_output(OutputPaths(path), SETTINGS, COLUMNS, overwrite=False) as output:
        left = [row for row in ROWS if row[0] not in output.names]
        for row in left:
            output.append([row], {})
        assert output.num_positive == output.num_rows == len(ROWS)
    return len(left)


def test_cut_after_any_byte_the_table_is_completed(tmp_path):
    assert written(tmp_path / "scores.csv") == len(ROWS)
    whole = (tmp_path / "scores.csv").read_bytes()
    num_left = []
    for length in range(len(whole) + 1):
        (tmp_path / "scores.csv").write_bytes(whole[:length])
        num_left.append(written(tmp_path / "scores.csv"))
        assert (tmp_path / "scores.csv").read_bytes() == whole
    assert num_left == sorted(num_left, reverse=True)
    assert set(num_left) == set(range(len(ROWS) + 1))


@pytest.mark.parametrize("text", ["path,score\na,0.5\n", f"{','.join(COLUMNS)}\na,b\n"])
def test_a_table_of_other_columns_is_refused(text, tmp_path):
    written(tmp_path / "scores.csv")
    (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(RecipeError, match="--overwrite true"):
        written(tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text() == text


def append_many(output):
    for number in range(100):
        output.append([(number, *ROWS[0][1:])], {})


def test_on_a_full_disk_the_rows_before_stay_whole(tmp_path):
    # Files may not grow over a limit: as near as a test comes to a full disk.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "scores.csv"
    with open_output(OutputPaths(path), SETTINGS, COLUMNS, overwrite=False) as output:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
        former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            with pytest.raises(CxrIgniteError, match=r"cannot write .*scores\.csv: File too large"):
                append_many(output)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, former)
    text = path.read_text()
    assert text.endswith("empirical\n")
    assert 5 < text.count("\n") < 30
