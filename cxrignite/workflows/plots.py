"""Figures of a run, written to its folder and to TensorBoard.

`run_figures.py` and `score_figures.py` draw them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from ignite.engine import Engine, Events

from cxrignite.data import XrayData
from cxrignite.durable_write import write_durably
from cxrignite.functional import UNKNOWN_LABEL
from cxrignite.handlers import ScoreCollector, TensorBoardWriter
from cxrignite.handlers.map_picture import as_png
from cxrignite.output_marker import mark_output
from cxrignite.reporting.plots import run_figures as figures
from cxrignite.reporting.plots import score_figures
from cxrignite.reporting.plots.charting import draw
from cxrignite.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cxrignite.runs.evaluation import Evaluation
    from cxrignite.runs.scores import SplitScores

_SAMPLES_PER_CLASS = 6
_LAST_OF_DATA = "class_distribution"
# TensorBoard sorts groups by name: single points per run come after the curves.
_BEST = "with_best_weights"


def log_recipe(folder: RunFolder, board: TensorBoardWriter, step: int) -> None:
    """Log the recipe as it is from this step on; a resumed run may have more epochs."""
    recipe = folder.recipe_path.read_text(encoding="utf-8")
    board.add_text("recipe", f"```yaml\n{recipe}```", step)


def plot_data(folder: RunFolder, data: XrayData, board: TensorBoardWriter) -> Iterator[None]:
    """Plot the number of images per class and split, and sample images.

    Yields:
        None after each figure, which takes about a second, so that the caller can stop in between.
    """
    counts = {split: _class_counts(data, split) for split in data.splits}
    for split in ("train", "test"):
        if split not in data.splits:
            continue
        records = data.records(split)
        labels = np.array([record.labels for record in records])
        groups = [(labels == 0).all(axis=1), *(labels.T == 1)]
        most = max(2, 2 * _SAMPLES_PER_CLASS // len(groups))
        chosen = dict.fromkeys(
            int(index) for group in groups for index in _spread(np.flatnonzero(group), most)
        )
        images = [data.pipeline(records[index].path)[0].numpy() for index in chosen]
        titles = [
            f"{_named(labels[index].tolist(), data.classes)}\n{records[index].patient}"
            for index in chosen
        ]
        save_figure(folder, board, f"samples_{split}", figures.sample_grid(images, titles), 0)
        yield
    save_figure(folder, board, _LAST_OF_DATA, figures.class_distribution(counts), 0)
    yield


def _class_counts(data: XrayData, split: str) -> dict[str, int]:
    """Return the number of images of each finding, and of images without any."""
    labels = np.array([record.labels for record in data.records(split)])
    numbers = [(labels == 0).all(axis=1).sum(), *(labels == 1).sum(axis=0)]
    return {name: int(number) for name, number in zip(data.classes, numbers, strict=True)}


def _named(labels: Sequence[int], classes: Sequence[str]) -> str:
    """Return the names of the findings of an image."""
    found = [name for name, label in zip(classes[1:], labels, strict=True) if label == 1]
    return ", ".join(found) or classes[0]


def shows_data(folder: RunFolder) -> bool:
    """True if `plot_data` has written its last figure."""
    return (folder.figures_dir / f"{_LAST_OF_DATA}.png").is_file()


def plot_validations(
    validator: Engine, trainer: Engine, board: TensorBoardWriter, findings: Sequence[str]
) -> None:
    """Plot the precision-recall curves of every validation from now on."""
    collector = ScoreCollector.on(validator)

    def show() -> None:
        scores = collector.gather()
        for index, finding in enumerate(findings):
            y_score, y_true = (part.reshape(len(part), -1)[:, index] for part in scores[:2])
            curve = "val/precision_recall" + (f"/{finding}" if len(findings) > 1 else "")
            known = y_true != UNKNOWN_LABEL
            board.add_pr_curve(curve, y_score[known], y_true[known], trainer.state.epoch)

    validator.add_event_handler(Events.COMPLETED, show)


def plot_scores(
    folder: RunFolder,
    name: str,
    scores: SplitScores,
    evaluation: Evaluation,
    board: TensorBoardWriter,
    step: int,
) -> None:
    """Plot decisions at 0.5 and at the threshold, the curves, and the calibration."""
    tag = name.replace("@", "/")  # TensorBoard refuses `@` in a tag
    rule, arrays = evaluation.rule, (scores.y_score, scores.y_true)
    point, decisions = rule.point, evaluation.at_threshold
    board.add_pr_curve(f"{_BEST}/{tag}_precision_recall", *arrays, step)
    estimates = {
        "roc_auc": evaluation.roc_auc,
        "average_precision": evaluation.average_precision,
        "tnr": decisions.tnr if decisions else None,
        "tpr": decisions.tpr if decisions else None,
    }
    for key, estimate in estimates.items():
        if estimate is not None and estimate.value is not None:
            board.add_scalar(f"{_BEST}/{tag}_{key}", estimate.value, step)
    if point is not None:
        cells = scores.confusion(0.5), scores.confusion(point.threshold, point.lower_threshold)
        pair = score_figures.confusion_pair(*cells, point, scores.classes)
        save_figure(folder, board, f"confusion_{name}", pair, step)
    if not scores.has_both_classes:
        return
    area = evaluation.roc_auc.interval
    roc = score_figures.roc_curve(*arrays, point, split=name, interval=area)
    save_figure(folder, board, f"roc_{name}", roc, step)
    area = evaluation.average_precision.by_patient
    curve = score_figures.precision_recall_curve(*arrays, point, split=name, interval=area)
    save_figure(folder, board, f"precision_recall_{name}", curve, step)
    probability = rule.probability(scores)
    reliability = score_figures.reliability(*arrays, split=name, probability=probability)
    save_figure(folder, board, f"reliability_{name}", reliability, step)


def plot_training(folder: RunFolder, board: TensorBoardWriter) -> None:
    """Plot losses and AUC by epoch, and the times of the epochs."""
    rows = folder.read_history()
    save_figure(folder, board, "learning_curves", figures.learning_curves(rows), len(rows))
    if rows and "epoch_seconds" in rows[0]:
        save_figure(folder, board, "epoch_times", figures.epoch_times(rows), len(rows))


def _spread(indices: np.ndarray, count: int) -> np.ndarray:
    """Return up to `count` of the indices, evenly spread."""
    places = np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)
    return np.take(indices, places)


def save_figure(
    folder: RunFolder, board: TensorBoardWriter, name: str, figure: Figure, step: int
) -> None:
    """Write a figure to the run folder and to TensorBoard.

    `name` is that of the file, without its suffix.
    """
    png = write_figure(folder, name, figure)
    board.add_png(f"figures/{name.replace('@', '/')}", png, step)


def write_figure(folder: RunFolder, name: str, figure: Figure) -> memoryview:
    """Write a figure to the run folder.

    `name` is that of the file, without its suffix.
    """
    png = as_png(draw(figure))
    mark_output(folder.figures_dir)
    write_durably(folder.figures_dir / f"{name}.png", png)
    return png
