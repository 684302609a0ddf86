"""Ctrl-C and SIGTERM at every stage of each command, to the process and to its whole group."""

import itertools
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from same_run import assert_same_run

from cxrignite.cli import run
from cxrignite.data import Phantom

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(3600)]

WAYS = [*itertools.product((signal.SIGTERM, signal.SIGINT), (False, True))]
SITE = {"num_train": 20, "num_test": 100, "size": 64, "positive_fraction": 0.5, "seed": 5}


def group_of(number: int) -> list[int]:
    """The processes of a group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has ended meanwhile
            continue
        if int(group) == number and state != "Z":
            found.append(int(path.parent.name))
    return found


def crowd() -> float:
    """Processes that want each core."""
    return max(1, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


def stopped(process, number, to_group, seconds) -> bool:
    """Send a signal after some time, and check how the process ends.

    Before the first and after the last line of a command it ends as any process does: false then,
    as for one that was done by then.

    Args:
        process: One that was just started.
        number: The signal.
        to_group: Whether its workers get it too, as a terminal and SLURM send it.
        seconds: From its start to the signal.
    """
    time.sleep(seconds)
    if process.poll() is not None:
        assert process.returncode == 0, process.errors
        return False
    (process.send_signal_to_group if to_group else process.send_signal)(number)
    sent = time.perf_counter()
    process.wait(timeout=60)
    took = time.perf_counter() - sent
    said = process.errors
    assert "Traceback" not in said, said
    if process.returncode not in (0, -number):
        assert process.returncode == 128 + number, said
        assert f"signal {int(number)}" in said
        assert took < 5 * crowd(), said
    else:  # it was leaving already: a signal that is lost would let it go on for longer
        assert took < crowd(), said
    end = time.monotonic() + 10
    while group_of(process.pid):
        assert time.monotonic() < end, "an orphan after ten seconds"
        time.sleep(0.05)
    return process.returncode > 0


@pytest.mark.parametrize(("number", "to_group"), WAYS)
def test_a_fit_stops_at_each_of_twelve_stages_and_is_resumed_exactly(
    number, to_group, trained, start, tmp_path
):
    """Twelve moments from its start to its end, the images read and the cache built in each."""
    recipe = str(trained.parent / "recipe.yaml")

    def argv(folder):
        workers = ("--data.num_workers", "2", "--data.cache", str(folder / "cache"))
        return ["fit", "--config", recipe, *workers, "--run_dir", str(folder / "run")]

    (tmp_path / "whole").mkdir()
    begun = time.perf_counter()
    whole = start(["-m", "cxrignite", *argv(tmp_path / "whole")], cwd=tmp_path)
    assert whole.wait() == 0, whole.errors
    duration = time.perf_counter() - begun
    stages, num_stopped = set(), 0
    for stage in range(12):
        folder = tmp_path / str(stage)
        folder.mkdir()
        process = start(["-m", "cxrignite", *argv(folder)], cwd=tmp_path)
        was_stopped = stopped(process, number, to_group, duration * (stage + 0.5) / 12)
        num_stopped += was_stopped
        log = folder / "run" / "run.log"
        if log.exists():
            text = log.read_text()
            assert "Traceback" not in text
            if was_stopped:
                assert signal.Signals(number).name in text
            stages.add(text.splitlines()[-2].partition(" ")[2] if was_stopped else "")
        if was_stopped:
            assert run([*argv(folder), "--resume", "auto"]) == 0
            assert_same_run(trained, folder / "run")
        shutil.rmtree(folder)
    assert len(stages) > 3, stages  # by what the log said last
    assert num_stopped >= 8


COMMANDS = {
    "test": "test --run {run} --data.num_workers 2",
    "validate": "validate --run {run}",
    "explain": "explain --run {run}",
    "report": "report --run {run}",
    "recalibrate": "recalibrate --run {run} --name site --data.source.root {site} --share 0.5"
    + "".join(f" --data.source.{key} {value}" for key, value in SITE.items()),
    "predict": "predict --run {run} --files {images} --output {out}/scores.csv",
    "audit": "audit --config {recipe} --run_dir {out}/audit",
    "compare": "compare {run} {run}/../other",
    "benchmark": "benchmark --config {recipe} --trainer.epoch_length 2",
    "find_lr": "find_lr --config {recipe} --output {out}/lr --num_steps 40",
}


@pytest.mark.parametrize(("number", "to_group"), WAYS)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_stops_at_each_of_six_stages(command, number, to_group, trained, start, tmp_path):
    home = trained.parent
    if command == "recalibrate":
        Phantom(root=tmp_path / "site", **SITE).records()

    def begin(folder):
        for name in ("run", "other"):
            shutil.copytree(trained, folder / name)
        places = {"recipe": home / "recipe.yaml", "images": home / "images" / "test"}
        places |= {"run": folder / "run", "out": folder, "site": tmp_path / "site"}
        line = COMMANDS[command].format_map(places)
        return start(["-m", "cxrignite", *line.split()], cwd=folder)

    # The first one may take longer, and the stages of a short command would come after its end.
    durations, num_stopped = [], 0
    for name in ("whole", "again"):
        begun = time.perf_counter()
        whole = begin(tmp_path / name)
        assert whole.wait() == 0, whole.errors
        durations.append(time.perf_counter() - begun)
    for stage in range(6):
        folder = tmp_path / str(stage)
        process = begin(folder)
        if stopped(process, number, to_group, min(durations) * (stage + 0.5) / 6):
            num_stopped += 1
            assert "Traceback" not in (folder / "run" / "run.log").read_text()
        assert run(["report", "--run", str(folder / "run")]) == 0
    # `compare` takes half a second, most of it before its first line.
    assert num_stopped >= (1 if command == "compare" else 2)
