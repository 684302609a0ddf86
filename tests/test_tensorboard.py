"""TensorBoard as users see it: the real server on a real run, asked over HTTP and in a browser."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image
from results import finding

from cxrignite import cli
from cxrignite.handlers import read_history

pytestmark = pytest.mark.slow

EPOCHS = 3
RUN = "smoke/tensorboard"
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="neither chromium, chromium-browser nor google-chrome is on the PATH"
)


class Board:
    """The interface of a TensorBoard server, as its own pages use it."""

    def __init__(self, address):
        self.address = address

    def bytes(self, path, **query):
        with urlopen(f"{self.address}/data/{path}?{urlencode(query)}", timeout=30) as answer:
            return answer.read()

    def json(self, path, **query):
        return json.loads(self.bytes(path, **query))

    def tags(self, plugin):
        return set(self.json(f"plugin/{plugin}/tags").get(RUN, {}))

    def scalars(self, tag):
        points = self.json("plugin/scalars/scalars", run=RUN, tag=tag)
        return {step: value for _, step, value in points}

    def curves(self, tag):
        return {
            curve["step"]: curve
            for curve in self.json("plugin/pr_curves/pr_curves", run=RUN, tag=tag)[RUN]
        }

    def image(self, tag):
        [found] = self.json("plugin/images/images", run=RUN, tag=tag, sample=0)
        content = self.bytes(f"plugin/images/individualImage?{found['query']}&")
        picture = Image.open(io.BytesIO(content), formats=("PNG",))
        return found["step"], np.asarray(picture.convert("RGB"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, smoke_arguments, recipes_dir):
    """A run that was trained, tested and explained."""
    root = tmp_path_factory.mktemp("board") / "runs" / "smoke"
    recipe = ["--config", str(recipes_dir / "baseline_cnn.yaml"), *smoke_arguments]
    changes = ["--run_dir", str(root), "--trainer.max_epochs", str(EPOCHS)]
    assert cli.run(["fit", *recipe, *changes, "--model.width", "4"]) == 0
    assert cli.run(["test", "--run", str(root)]) == 0
    few = ["--explain.max_images", "2", "--explain.num_measured", "4"]
    assert cli.run(["explain", "--run", str(root), *few]) == 0
    best = json.loads((root / "checkpoints" / "best.json").read_text())
    return SimpleNamespace(root=root, best_epoch=best["epoch"])


@pytest.fixture(scope="module")
def board(run, tmp_path_factory):
    """`tensorboard --logdir runs`, when it has read everything."""
    log = tmp_path_factory.mktemp("server") / "log"
    logdir = ["--logdir", str(run.root.parent)]
    argv = [sys.executable, "-m", "tensorboard.main", *logdir, "--host", "127.0.0.1", "--port", "0"]
    with log.open("w") as output:
        server = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        found = wait_for(
            lambda: re.search(r"at (http://\S+?)/? ", log.read_text()), server, log, "an address"
        )
        board = Board(found[1])
        last = "figures/grad_cam_test"
        wait_for(lambda: last in board.tags("images"), server, log, last)
        yield board
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def wait_for(look, server, log, what):
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if found := look():
            return found
        assert server.poll() is None, log.read_text()
        time.sleep(0.2)
    raise AssertionError(f"no {what} within 90 s:\n{log.read_text()}")


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_is_named_after_its_folder(board):
    assert board.json("runs") == [RUN]


def test_the_dashboards_that_are_there_are_those_of_the_guide(board):
    plugins = board.json("plugins_listing")
    active = {name for name, about in plugins.items() if about["enabled"]}
    assert active == {"timeseries", "scalars", "images", "text", "pr_curves"}


def test_every_column_of_the_history_is_a_curve_with_the_epoch_as_step(board, run):
    history = read_history(run.root / "history.csv")
    columns = {
        name: f"val/{name[4:]}" if name.startswith("val_") else f"train/{name}"
        for name in history[0]
        if name != "epoch"
    }
    by_epoch = {tag for tag in board.tags("scalars") if not tag.startswith("with_best_weights/")}
    assert by_epoch == set(columns.values())  # so nothing is there twice under two names
    assert {"train/loss", "train/lr", "train/images_per_second"} <= by_epoch
    assert {"val/loss", "val/roc_auc", "val/tnr", "val/tpr"} <= by_epoch
    for name, tag in columns.items():
        expected = {int(row["epoch"]): pytest.approx(row[name], rel=1e-6) for row in history}
        assert len(expected) == EPOCHS
        assert board.scalars(tag) == expected, tag


def test_figures_with_the_best_weights_stand_at_their_epoch(board, run):
    for split in ("val", "calibration", "test"):
        figures = finding(run.root / "metrics" / f"{split}.json")
        auc = board.scalars(f"with_best_weights/{split}_roc_auc")
        assert auc == {run.best_epoch: pytest.approx(figures["roc_auc"]["value"], rel=1e-6)}
        tnr = board.scalars(f"with_best_weights/{split}_tnr")
        assert tnr == {
            run.best_epoch: pytest.approx(figures["at_threshold"]["tnr"]["value"], rel=1e-6)
        }


def test_the_validation_images_have_a_precision_recall_curve_an_epoch(board):
    assert list(board.curves("val/precision_recall")) == [1, 2, 3]


def test_a_precision_recall_curve_is_that_of_the_predictions(board, run):
    records = rows(run.root / "predictions" / "test.csv")
    score = np.array([float(record["score"]) for record in records])
    label = np.array([int(record["label"]) for record in records])
    curve = board.curves("with_best_weights/test_precision_recall")[run.best_epoch]
    assert len(curve["thresholds"]) > 10
    for number, threshold in enumerate(curve["thresholds"]):
        called = score >= threshold - 1e-9
        counts = curve["true_positives"][number], curve["false_positives"][number]
        assert counts == ((called & (label == 1)).sum(), (called & (label == 0)).sum())
        assert curve["recall"][number] == pytest.approx(counts[0] / label.sum())


def test_every_figure_of_the_run_folder_is_an_image_of_the_same_size(board, run):
    files = list((run.root / "figures").glob("*.png"))
    shown = {tag for tag in board.tags("images") if tag.startswith("figures/")}
    assert shown == {f"figures/{file.stem}" for file in files}
    assert {"figures/confusion_test", "figures/learning_curves", "figures/samples_train"} <= shown
    for file in files:
        _, pixels = board.image(f"figures/{file.stem}")
        with Image.open(file) as kept:
            assert pixels.shape[1::-1] == kept.size, file.name
        assert pixels.std() > 5, f"{file.name} is blank"


def test_every_map_is_an_image_with_image_map_and_caption(board, run):
    folder = run.root / "explain" / "test"
    pictures = [row["picture"] for row in rows(folder / "explain.csv")]
    shown = {tag for tag in board.tags("images") if tag.startswith("grad_cam/")}
    assert shown == {f"grad_cam/test/{picture.removesuffix('.png')}" for picture in pictures}
    step, pixels = board.image(f"grad_cam/test/{pictures[0].removesuffix('.png')}")
    assert step == run.best_epoch
    with Image.open(folder / pictures[0]) as kept:
        assert np.array_equal(pixels, np.asarray(kept.convert("RGB")))
    assert pixels.shape[1] > 600  # readable: two panels of 320 pixels


def test_the_recipe_can_be_read(board, run):
    [text] = board.json("plugin/text/text", run=RUN, tag="recipe/text_summary")
    assert text["step"] == 0
    assert "class_path: cxrignite.nn.LightCNN" in text["text"]
    assert f"max_epochs: {EPOCHS}" in text["text"]


def browse(address, output, profile, budget):
    """What headless Chromium makes of a page: a file of pixels, or its document as text."""
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    seen = subprocess.run(
        [
            *(BROWSER, "--headless=new", *root, "--disable-gpu", "--disable-dev-shm-usage"),
            *("--no-first-run", f"--user-data-dir={profile}", "--window-size=1280,900"),
            *(f"--virtual-time-budget={budget}", output, address),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert seen.returncode == 0, seen.stderr
    return seen.stdout


def marked_share(path):
    """The share of the cards' width in which something has the colour of the run, a dark blue.

    However thin a line is drawn: a curve reaches over half a card, the dot beside the run's name
    over a hundredth.
    """
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)[120:, 260:1030]
    red, _, blue = np.moveaxis(pixels, -1, 0)
    columns = ((blue - red) > 20).any(axis=0)
    return float(columns.mean())


@needs_browser
def test_a_browser_names_the_curves_and_their_last_values(board, run, tmp_path):
    page = f"{board.address}/?tagFilter=%5Etrain%2F(loss%7Clr)%24&smoothing=0#timeseries"
    for budget in (20_000, 60_000):
        document = browse(page, "--dump-dom", tmp_path / "profile", budget)
        cards = set(re.findall(r'title="(\w+/\w+)"', document))
        if cards:
            break
    assert cards == {"train/loss", "train/lr"}
    text = re.sub(r"<[^>]+>", " ", document)
    assert RUN in text
    last = read_history(run.root / "history.csv")[-1]["loss"]
    assert re.search(rf"\b{last:.4f}".rstrip("0"), text)


@needs_browser
def test_a_screenshot_shows_curves(board, tmp_path):
    """Chromium draws curves beside its virtual clock: what is late gets another look."""
    page = f"{board.address}/?tagFilter=%5E(train%7Cval)%2F&smoothing=0#timeseries"
    picture = tmp_path / "time-series.png"
    for budget in (20_000, 60_000, 120_000):
        browse(page, f"--screenshot={picture}", tmp_path / "profile", budget)
        if marked_share(picture) > 0.1:
            break
    with Image.open(picture) as shown:
        pixels = np.asarray(shown.convert("RGB"))
    assert pixels.shape[1] == 1280
    _, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    assert 1 - counts.max() / counts.sum() > 0.1
    assert marked_share(picture) > 0.1
