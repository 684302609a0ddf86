"""The files of `predict`, below the command: whose they are, and cut or full at any byte."""

import os
import resource
import signal

import pytest
from messages import refused

from cxrignite.cli.parsing import with_maps
from cxrignite.data import Manifest, ManifestPatients
from cxrignite.errors import CxrIgniteError, RecipeError
from cxrignite.workflows.predict.listing import list_manifest
from cxrignite.workflows.predict.output import (
    COLUMNS,
    OutputPaths,
    OutputSettings,
    open_output,
)

SETTINGS = OutputSettings(
    run="runs/a",
    version="1",
    weights_sha256="0" * 64,
    operating_point=None,
    chosen_on="val",
    threshold=0.5,
    lower_threshold=None,
    status="empirical",
    image_size=(8, 8),
    batch_size=4,
    precision="float32",
    device="cpu",
)
ROWS = [
    (name, "@p", "0.5", "0.5", "positive", "0.5", "empirical")
    for name in ("=a", 'b",\n"', "'-c\r", "d")
]


def opened(path, *, overwrite=False):
    return open_output(OutputPaths(path), SETTINGS, COLUMNS, overwrite=overwrite)


def written(path):
    with opened(path) as output:
        left = [row for row in ROWS if row[0] not in output.names]
        for row in left:
            output.append([row], {})
        assert output.num_positive == output.num_rows == len(ROWS)
    return len(left)


def test_the_rows_of_a_batch_are_on_the_disk_before_the_next(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def watch(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    with opened(tmp_path / "scores.csv") as output:
        for row in ROWS:
            synced.clear()
            output.append([row], {})
            assert str(tmp_path / "scores.csv") in synced


def test_a_patient_of_a_manifest_is_hashed_as_the_runs_own(tmp_path):
    (tmp_path / "salt.txt").write_text("a secret of some length")
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").touch()
    table = tmp_path / "images.csv"
    table.write_text("path,label,patient\na.png,0,MRN-7001\nb.png,1,MRN-7002\n")
    source = Manifest(table, patients=ManifestPatients(salt_file=tmp_path / "salt.txt"))
    keys = [record.patient for record in source.records()]
    listing = list_manifest(table, source)
    assert [listing.patient_of(record) for record in listing.records] == keys
    assert "MRN" not in str(listing)


def test_explain_with_and_without_a_value_draws_maps():
    assert with_maps(["--explain", "true", "--run", "x"]) == ["--maps", "true", "--run", "x"]
    assert with_maps(["--explain=false"]) == ["--maps=false"]
    assert with_maps(["--explain", "--run", "x"]) == ["--maps", "true", "--run", "x"]
    assert with_maps(["--run", "x", "--explain"]) == ["--run", "x", "--maps", "true"]
    assert with_maps(["--explain.method", "x"]) == ["--explain.method", "x"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "name", ["scores.csv", "scores.json", "scores.unreadable.csv", "scores_maps/a.overlay.png"]
)
def test_what_is_not_of_predict_is_never_overwritten(name, overwrite, tmp_path):
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text('{"weights_sha256": "of a run", "threshold": 0.5}')
    named = tmp_path / name.partition("/")[0]
    with (
        refused(RecipeError, named, "--output") as caught,
        opened(tmp_path / "scores.csv", overwrite=overwrite),
    ):
        pass
    assert "--overwrite" not in str(caught.value)
    assert mine.read_text().startswith('{"weights')


@pytest.mark.parametrize("name", ["split.csv", "new.csv", "metrics/new.csv", "predictions/a/b.csv"])
def test_the_files_of_a_run_are_no_place_for_an_output(name, tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for each in ("recipe.yaml", "split.csv", "history.csv"):
        (run_dir / each).touch()
    (tmp_path / "recipe.yaml").touch()
    (tmp_path / "link").symlink_to(run_dir)
    for root in (run_dir, tmp_path / "link"):
        with refused(RecipeError, "--output", root / name):
            OutputPaths(root / name)
    OutputPaths(run_dir / "site" / "scores.csv")
    OutputPaths(tmp_path / "scores.csv")  # beside the recipe that somebody wrote


def test_cut_after_any_byte_the_table_is_completed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # takes all the time there is
    assert written(tmp_path / "scores.csv") == len(ROWS)
    whole = (tmp_path / "scores.csv").read_bytes()
    num_left = []
    for length in range(len(whole) + 1):
        (tmp_path / "scores.csv").write_bytes(whole[:length])
        num_left.append(written(tmp_path / "scores.csv"))
        assert (tmp_path / "scores.csv").read_bytes() == whole
    assert num_left == sorted(num_left, reverse=True)
    assert set(num_left) == set(range(len(ROWS) + 1))


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("path,score\na,0.5\n", [*COLUMNS, "path, score"]),
        (f"{','.join(COLUMNS)}\na,b\n", ["row 1", len(COLUMNS), 2]),
    ],
)
def test_a_table_of_other_columns_is_refused(text, facts, tmp_path):
    written(tmp_path / "scores.csv")
    (tmp_path / "scores.csv").write_text(text)
    with refused(RecipeError, tmp_path / "scores.csv", "--overwrite true", *facts):
        written(tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text() == text


def append_many(output):
    for number in range(100):
        output.append([(number, *ROWS[0][1:])], {})


def test_on_a_full_disk_the_rows_before_stay_whole(tmp_path):
    # Files may not grow over a limit: as near as a test comes to a full disk.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "scores.csv"
    with opened(path) as output:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
        former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            with pytest.raises(CxrIgniteError) as caught:
                append_many(output)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, former)
    with refused(CxrIgniteError, path, "File too large"):
        raise caught.value
    text = path.read_text()
    assert text.endswith("empirical\n")
    assert 5 < text.count("\n") < 30
