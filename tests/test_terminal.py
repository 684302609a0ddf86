"""What `fit` looks like: on real terminals of 80 and 140 columns, and in a log file."""

import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cxrignite import terminal
from cxrignite.data import Phantom
from cxrignite.reporting.text_table import table_lines
from cxrignite.terminal import (
    IN_FILE_ONLY,
    MAX_WIDTH,
    EscapingFormatter,
    TerminalHandler,
    print_error,
    print_output,
    printable,
    text_width,
    wrapped,
)

RECIPE = """\
seed: 3
data:
  source: {class_path: Phantom, init_args: {root: images, num_train: 96, num_test: 24, size: 64}}
  val_fraction: 0.2
  calibration_fraction: 0.3
  batch_size: 4
  num_workers: 0
  sampler: BalancedSampler
model: {class_path: LightCNN, init_args: {width: 4}}
optimizer: {class_path: AdamW, init_args: {lr: 1.0e-3}}
trainer: {max_epochs: 2, device: cpu, handlers: [EpochTimer]}
validator:
  handlers:
    - {class_path: ThresholdSearch, init_args: {min_tnr: 0.7, min_threshold: 0.1}}
"""
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")  # all but the end of a line
# A tenth of a second is long for the steps of so small a model.
SETTINGS = {
    "TQDM_MININTERVAL": "0",
    "OMP_NUM_THREADS": "1",  # three processes at once
    "PYTHONUNBUFFERED": "",  # where it is set, results and log lines are in order anyway
    "PYTHONPATH": str(Path(__file__).resolve().parent.parent),
}


def on_terminal(argv: list[str], columns: int, cwd: Path) -> str:
    """Run a command on a terminal of its own; gives all that was drawn."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    unset = {"COLUMNS", "LINES"}
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    process = subprocess.Popen(
        [sys.executable, *argv],
        cwd=cwd,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**environment, **SETTINGS, "PYTHONIOENCODING": "utf-8"},
    )
    os.close(theirs)
    parts = []
    try:
        while part := os.read(ours, 65536):
            parts.append(part)
    except OSError:  # on Linux, the other side is closed
        pass
    finally:
        os.close(ours)
        process.wait(timeout=60)
    text = b"".join(parts).decode()
    assert process.returncode == 0, text
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("terminal")
    (folder / "recipe.yaml").write_text(RECIPE)
    Phantom(root=folder / "images", num_train=96, num_test=24, size=64).records()
    return folder


@pytest.fixture(scope="module")
def seen(folder):
    """The same small run on two terminals and with both streams in one file, all at once."""
    fit = ["-m", "cxrignite", "fit", "--config", "recipe.yaml", "--run_dir"]

    def into_file() -> str:
        path = folder / "log.txt"
        with path.open("w") as file:
            subprocess.run(
                [sys.executable, *fit, "runs/log"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **SETTINGS},
                check=True,
            )
        return path.read_bytes().decode()

    with ThreadPoolExecutor(3) as pool:
        runs = {
            columns: pool.submit(on_terminal, [*fit, f"runs/{columns}"], columns, folder)
            for columns in (80, 140)
        }
        runs["log"] = pool.submit(into_file)
        return {where: each.result() for where, each in runs.items()}


@pytest.fixture(scope="module")
def drawn(seen):
    return {columns: seen[columns] for columns in (80, 140)}


@pytest.fixture(scope="module")
def logged(seen):
    return seen["log"]


def screen(text: str) -> list[str]:
    """The lines that stay: each as the last thing drawn after the last return to its beginning."""
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    return [re.sub(r"\x1b\[.", "", line) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 140])
def test_every_line_drawn_fits_the_terminal(drawn, columns):
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[.", "", drawn[columns]))
    assert len(lines) > 60
    longest = max(lines, key=len)
    assert len(longest) <= columns, longest


@pytest.mark.slow
def test_the_bar_takes_the_width_that_there_is(drawn):
    for columns in (80, 140):
        bars = re.findall(r"train [12]/2 .*? left", drawn[columns])
        assert {len(bar) for bar in bars} == {columns - 1}  # in the last column some terminals wrap


@pytest.mark.slow
@pytest.mark.parametrize("argv", [["--help"], ["recipes", "list"]])
def test_the_first_things_asked_for_fit_80_columns(tmp_path, argv):
    lines = screen(on_terminal(["-m", "cxrignite", *argv], 80, tmp_path))
    assert len(lines) > 10
    assert len(max(lines, key=len)) <= 80


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 140])
def test_the_bar_shows_how_far_it_is_the_loss_and_images_a_second(drawn, columns):
    bar = r"train ([12])/2 +\d+%\|[^|]*\| \d+/\d+, loss \d\.\d{4}, [\d,]+ images/s, \d\d:\d\d left"
    assert set(re.findall(bar, drawn[columns])) == {"1", "2"}


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 140])
def test_of_the_bars_nothing_stays(drawn, columns):
    left = "\n".join(screen(drawn[columns]))
    assert "%|" not in left
    assert not CONTROL.search(left)


def one_line_each(lines: list[str]) -> None:
    titles = [number for number, line in enumerate(lines) if line.startswith("epoch ")]
    assert len(titles) == 1
    head, *rows = lines[titles[0] : titles[0] + 3]
    assert head.split() == [
        "epoch",
        "loss",
        "val",
        "loss",
        "AUC",
        "TNR",
        "TPR",
        "seconds",
        "images/s",
    ]
    assert [row.split()[0] for row in rows] == ["1/2", "2/2"]
    # Each figure ends below the end of its title.
    for row in rows:
        ends = [found.end() for found in re.finditer(r"\S+", row.removesuffix("  best"))]
        titled = [found.end() for found in re.finditer(r"(?:val )?\S+", head)]
        assert ends == titled


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 140])
def test_an_epoch_has_one_line_on_a_terminal(drawn, columns):
    one_line_each(screen(drawn[columns]))


@pytest.mark.slow
def test_an_epoch_has_one_line_in_a_log_file(logged):
    one_line_each(logged.splitlines())


@pytest.mark.slow
def test_a_log_file_has_no_control_characters(folder, logged):
    assert not CONTROL.search(logged)
    assert "%|" not in logged
    assert not CONTROL.search((folder / "runs/log/run.log").read_bytes().decode())


@pytest.mark.slow
@pytest.mark.parametrize("where", [80, 140, "log"])
def test_it_prints_data_split_model_device_operating_point_and_files(drawn, logged, where):
    # Wrapped lines count as one.
    text = logged if where == "log" else "\n".join(screen(drawn[where]))
    text = re.sub(r"\s+", " ", text)
    facts = [
        *("Phantom", "images", "NORMAL", "PNEUMONIA"),
        *("seed 3", "val 0.2", "calibration 0.3", "test"),
        *("NORMAL PNEUMONIA", "train", "calibration", "LightCNN", "parameters", "cpu"),
        *("2 epochs", "roc_auc", "epoch loss", "AUC", "val", "threshold 0."),
        *("calibration", "runs/", "best.pt", "tensorboard --logdir runs/"),
        *("cxrignite test --run runs/", "cxrignite report --run runs/"),
    ]
    # In this order, in the log file too, where results and log lines are two streams.
    at = 0
    for fact in facts:
        assert fact in text[at:]
        at = text.index(fact, at)


def test_where_no_stream_is_a_terminal_text_is_a_hundred_columns_wide(python):
    done = python("-c", "from cxrignite.terminal import text_width; print(text_width())")
    assert int(done.stdout) == MAX_WIDTH


@pytest.mark.slow
@pytest.mark.parametrize(
    ("columns", "width"), [(20, 40), (80, 80), (300, MAX_WIDTH), (0, MAX_WIDTH)]
)
def test_text_is_as_wide_as_the_terminal_and_no_wider_than_is_read_with_ease(
    tmp_path, columns, width
):
    code = "from cxrignite.terminal import text_width; print(text_width())"
    assert int(on_terminal(["-c", code], columns, tmp_path)) == width


def test_a_path_stays_whole_and_a_remark_goes_on_below_its_beginning(monkeypatch):
    monkeypatch.setattr(terminal, "text_width", lambda: 40)
    path = "/a/very/long/path/that-is-longer/than-a-line/of-forty"
    lines = wrapped(f"{'word ' * 6}{path} and more", "  - ").splitlines()
    assert lines == [f"  - {' '.join(['word'] * 6)}", f"    {path}", "    and more"]


class Screen:
    """A stream that says it is a terminal, or a file."""

    def __init__(self, is_terminal: bool) -> None:
        self.text, self.isatty = "", lambda: is_terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_log_line_is_wrapped_on_a_terminal_alone(monkeypatch, is_terminal):
    monkeypatch.setattr(terminal, "text_width", lambda: 40)
    handler = TerminalHandler()
    stream = Screen(is_terminal)
    handler.setStream(stream)
    line = "device    cpu: there is no CUDA device; fp32: it is slow otherwise"
    handler.emit(logging.makeLogRecord({"msg": line}))
    shown = (
        # It wipes away what stands in the line first, a progress bar for instance.
        "\r\x1b[Kdevice    cpu: there is no CUDA device;\n          fp32: it is slow otherwise\n"
    )
    assert stream.text == (shown if is_terminal else f"{line}\n")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_complaint_takes_the_place_of_a_bar_that_was_left(monkeypatch, is_terminal):
    monkeypatch.setattr(terminal, "text_width", lambda: 40)
    stream = Screen(is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    print_error("cxrignite fit: error: loss must be finite, got nan")
    shown = "\r\x1b[Kcxrignite fit: error: loss must be\n  finite, got nan\n"
    whole = "cxrignite fit: error: loss must be finite, got nan\n"
    assert stream.text == (shown if is_terminal else whole)


def test_a_width_is_reported_even_without_streams(monkeypatch):
    for name in ("__stdin__", "__stdout__", "__stderr__"):
        monkeypatch.setattr(sys, name, None)
    assert text_width() == MAX_WIDTH


def test_control_characters_of_a_name_are_shown_and_do_nothing(capsys):
    name = "a\0\x1b[2J\r\u202eb\n\udcff ä肺.png"
    shown = r"a\x00\x1b[2J\r\u202eb\n\xff ä肺.png"
    print_error(f"cannot read {name}")
    assert capsys.readouterr().err == f"cannot read {shown}\n"
    record = logging.makeLogRecord({"msg": name})
    assert TerminalHandler().format(record) == shown.replace(r"b\n", "b\n")
    assert printable("\x07", keep="\x07") == "\x07"


def test_a_name_on_stdout_cannot_act_on_the_terminal(capsys):
    print_output("a\x1b[2J.png\n\tb\n")
    assert capsys.readouterr().out == "a\\x1b[2J.png\n\tb\n"


def test_a_name_cannot_begin_a_line_of_a_log_or_of_a_table():
    name = "a\nERROR forged.png"
    record = logging.makeLogRecord({"msg": "%s, %s, %d", "args": (name, Path(name), 3)})
    for shown in (EscapingFormatter().format(record), TerminalHandler().format(record)):
        assert shown == r"a\nERROR forged.png, a\nERROR forged.png, 3"
    assert record.args == (name, Path(name), 3)
    assert table_lines([["name", "count"], [name, "3"]])[1].split("  ")[0] == r"a\nERROR forged.png"


def test_a_line_for_the_log_file_alone_is_not_shown():
    assert TerminalHandler().filter(logging.makeLogRecord({"msg": "a"}))
    assert not TerminalHandler().filter(logging.makeLogRecord({"msg": "a", **IN_FILE_ONLY}))
