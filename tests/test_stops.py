"""Ctrl-C and SIGTERM, whatever the process is doing."""

import os
import signal
import time

import pytest
from messages import line_with

from cxrignite.cli import run
from cxrignite.stops import StopRequested, held_signals, is_stopping, stoppable

BOTH = pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


@BOTH
def test_a_signal_raises_where_the_process_is_and_the_handlers_come_back(number, code):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(StopRequested) as stopped, stoppable():
        signal.raise_signal(number)
    assert (stopped.value.signal_number, is_stopping()) == (number, False)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


class Signalled:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


def signalled_where_python_ignores_errors():
    Signalled()
    time.sleep(10)


def test_a_signal_that_comes_while_python_ignores_errors_is_not_lost():
    with pytest.raises(StopRequested), stoppable():
        signalled_where_python_ignores_errors()


def signalled_while_it_forks(seen):
    with held_signals():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        seen.append("forked")
    seen.append("not reached")


def test_a_signal_that_comes_during_a_fork_waits_for_its_end():
    seen = []
    with pytest.raises(StopRequested), stoppable():
        signalled_while_it_forks(seen)
    assert seen == ["forked"]


PHASES = [
    ("fit", "cxrignite.workflows.records.inspect_images"),
    ("fit", "cxrignite.workflows.records.open_cache"),
    ("fit", "cxrignite.workflows.fit.build_model"),
    ("fit", "cxrignite.workflows.fit.score_split"),
    ("test", "cxrignite.workflows.score.score_split"),
    ("explain", "cxrignite.workflows.explain.explain.load_run"),
    ("report", "cxrignite.reporting.html.write_report"),
]


@BOTH
@pytest.mark.parametrize(("command", "phase"), PHASES)
def test_a_signal_ends_every_phase_with_its_code_and_one_line(
    command, phase, number, code, run_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(phase, lambda *_, **__: signal.raise_signal(number))
    argv = [command, "--run", str(run_dir)]
    if command == "fit":  # of a run that has to be finished once more
        (run_dir / "operating_point.json").unlink()
        argv = [command, "--config", str(run_dir / "recipe.yaml"), "--resume", "auto"]
        argv += ["--run_dir", str(run_dir)]
    assert run(argv) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    line_with(error.splitlines()[-1], command, number.value)
    if command == "fit":
        line_with((run_dir / "run.log").read_text().splitlines()[-1][24:], number.name)
