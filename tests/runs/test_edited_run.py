"""A file of a run folder that was edited is refused by every command that uses it."""

import csv
import io
import json
import random
import shutil
from pathlib import Path

import pytest
from messages import error_line

from cxrignite.cli import run

pytestmark = pytest.mark.integration


def rows(data, change):
    """A CSV file with its rows changed."""
    header, *lines = csv.reader(io.StringIO(data.decode()))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *change(header, lines)])
    return text.getvalue().encode()


def cell(column, values):
    """Every second row with other values of a column."""

    def change(header, lines):
        at = header.index(column)
        return [
            [*line[:at], values.get(line[at], line[at]), *line[at + 1 :]] if number % 2 else line
            for number, line in enumerate(lines)
        ]

    return change


def two_thirds(data):
    return data[: 2 * len(data) // 3]


EDITS = {
    "cut": two_thirds,
    "last row lost": lambda data: rows(data, lambda _, lines: lines[:-1]),
    "labels flipped": lambda data: rows(data, cell("label", {"0": "1", "1": "0"})),
    "splits swapped": lambda data: rows(
        data, cell("split", {"val": "calibration", "calibration": "val"})
    ),
    "lost": lambda data: None,
    "digit": lambda data: data[:-9].replace(b"1", b"2") + data[-9:],
}
READ_BY = {
    "split.csv": ("fit", "test", "predict", "report"),
    "recipe.yaml": ("fit", "test", "predict", "report"),
    "history.csv": ("fit", "test", "report"),
    "environment.json": ("fit", "report"),
    "operating_point.json": ("fit", "test", "predict", "report"),
    "reference.npz": ("fit", "test"),
    "evaluations.json": ("test",),
    "metrics/val.json": ("report",),
    "predictions/test.csv": ("compare", "report"),
    "checkpoints/best.json": ("test", "predict", "report"),
    "digests.json": ("fit", "test", "predict", "report"),
}


@pytest.fixture
def argv(trained, tmp_path):
    """The command line of each command on a run folder."""

    home = trained.parent
    fit = f"fit --config {home}/recipe.yaml --data.cache {home}/caches --trainer.max_epochs 5"
    image = next((home / "images" / "test").rglob("*.png"))
    lines = {
        "fit": fit + " --resume auto --run_dir {run}",
        "test": "test --run {run}",
        "predict": f"predict --files {image} --output {tmp_path}/scores.csv --run {{run}}",
        "report": "report --run {run}",
        "compare": f"compare {trained} {{run}}",
    }

    def of(command, folder):
        return lines[command].format(run=folder).split()

    return of


def content_of(folder):
    """Every file by its path, without the log and the lock, which each start writes."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("run.log", "run.lock")
    }


@pytest.mark.parametrize(
    ("edit", "name"),
    [
        *((edit, "split.csv") for edit in EDITS),
        *(("cut", name) for name in READ_BY if name != "split.csv"),
        *(("digit", name) for name in ("recipe.yaml", "metrics/val.json", "evaluations.json")),
        *(("lost", name) for name in ("reference.npz", "history.csv", "predictions/test.csv")),
        ("last row lost", "history.csv"),
    ],
)
def test_an_edited_file_is_refused_in_one_line_and_nothing_is_changed(
    edit, name, run_dir, argv, tmp_path, capsys
):
    path = run_dir / name
    data = EDITS[edit](path.read_bytes())
    path.write_bytes(data) if data is not None else path.unlink()
    before = content_of(run_dir)
    for command in READ_BY[name]:
        code = run(argv(command, run_dir))
        printed = capsys.readouterr().err
        if (edit, name, command) == ("lost", "history.csv", "test"):
            assert code in (2, 3)
        else:
            assert code == 3, (command, printed)
        error_line(printed, path.name)
        assert content_of(run_dir) == before, command
    assert not (tmp_path / "scores.csv").exists()


@pytest.mark.parametrize("name", ["operating_point.json", "metrics/val.json", "reference.npz"])
def test_a_folder_in_the_place_of_a_result_is_refused_before_training(name, run_dir, argv, capsys):
    """Not after the epochs that are left, when the result is to be written."""
    (run_dir / name).unlink()
    (run_dir / name).mkdir()
    before = content_of(run_dir)
    assert run(argv("fit", run_dir)) == 3
    error_line(capsys.readouterr().err, name)
    assert content_of(run_dir) == before


def test_an_added_file_is_not_believed(run_dir, argv, capsys):
    added = shutil.copy(run_dir / "metrics" / "val.json", run_dir / "metrics" / "site.json")
    assert run(argv("report", run_dir)) == 3
    error_line(capsys.readouterr().err, added)


def test_a_run_without_digests_is_believed_with_a_warning_until_it_gets_some(run_dir, argv, capsys):
    (run_dir / "digests.json").unlink()
    assert run(argv("report", run_dir)) == 0
    assert "digests.json" in capsys.readouterr().err
    assert run(argv("test", run_dir)) == 0
    assert "digests.json" in capsys.readouterr().err
    assert "split.csv" in json.loads((run_dir / "digests.json").read_text())
    assert run(argv("report", run_dir)) == 0
    assert "digests.json" not in capsys.readouterr().err


def changed_number(data, moments):
    """One digit that is another."""
    at = moments.choice([at for at, byte in enumerate(data) if chr(byte) in "0123456789"])
    digits = [digit for digit in b"0123456789" if digit != data[at]]
    return data[:at] + bytes([moments.choice(digits)]) + data[at + 1 :]


def without_a_part(data, moments):
    first, last = sorted(moments.sample(range(len(data)), 2))
    return data[:first] + data[last:]


def with_lines_exchanged(data, moments):
    lines = data.split(b"\n")
    one, other = moments.sample(range(len(lines)), 2)
    lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


def with_a_line_twice(data, moments):
    lines = data.splitlines(keepends=True)
    at = moments.randrange(len(lines))
    return b"".join([*lines[: at + 1], *lines[at:]])


def with_a_word_of(word):
    def change(data, moments):
        at = moments.randrange(len(data))
        return data[:at] + word + data[at:]

    return change


RANDOM_EDITS = {
    "cut": lambda data, moments: data[: moments.randrange(len(data))],
    "without a part": without_a_part,
    "another digit": changed_number,
    "another bit": lambda data, moments: bytes(
        byte ^ (moments.choice([1, 4, 32, 128]) if at == len(data) // 2 else 0)
        for at, byte in enumerate(data)
    ),
    "zeroed": lambda data, _: bytes(len(data)),
    "empty": lambda data, _: b"",
    "lines exchanged": with_lines_exchanged,
    "a line twice": with_a_line_twice,
    "not a number": with_a_word_of(b"NaN"),
    "brackets": with_a_word_of(b"[" * 5000),
    "null": with_a_word_of(b"\0"),
    "not UTF-8": with_a_word_of(b"\xff\xfe"),
    "lost": lambda data, _: None,
    "a folder": lambda data, _: ...,
}


def is_same(before, after):
    """True if an edit has not changed the content: a key that is there twice, say."""
    try:
        return json.loads(before) == json.loads(after)
    except (TypeError, ValueError, RecursionError):
        return before == after


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(8))
def test_of_two_hundred_edits_none_is_missed_and_none_ends_in_a_traceback(
    trained, argv, tmp_path, capsys, part
):
    """File, edit and place are drawn, 25 in each part; every command is asked."""
    moments = random.Random(part)
    readers = {
        **READ_BY,
        "metrics/test.json": ("report",),
        "metrics/calibration.json": ("report",),
        "predictions/val.csv": ("report",),
        "predictions/calibration.csv": ("report",),
        "explain/test/explain.csv": ("report",),
        "explain/test/explain.json": ("report",),
        "checkpoints/best.pt": ("test", "predict"),
        "checkpoints/last.json": ("fit",),
        "checkpoints/last.pt": ("fit",),
        # A digest is compared by those that read its file: all of them by `report`.
        "digests.json": ("report",),
    }
    edited = 0
    while edited < 25:
        name, edit = moments.choice([*readers]), moments.choice([*RANDOM_EDITS])
        before = (trained / name).read_bytes()
        after = RANDOM_EDITS[edit](before, moments)
        if is_same(before, after):
            continue
        edited += 1
        for command in ("fit", "test", "predict", "report", "compare"):
            folder = Path(shutil.copytree(trained, tmp_path / f"{edited}_{command}"))
            path = folder / name
            path.unlink()
            if after is ...:
                path.mkdir()
            elif after is not None:
                path.write_bytes(after)
            code = run(argv(command, folder))
            printed = capsys.readouterr().err
            assert "Traceback" not in printed, (name, edit, command, printed)
            if command in readers[name]:
                # Of two checkpoints one may be lost, which is said.
                noticed = code in (2, 3) or (code == 0 and path.name in printed)
                assert noticed, (name, edit, command, code, printed)
            shutil.rmtree(folder)
