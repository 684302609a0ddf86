"""Lines that `fit` and `find_lr` print: before the first step, for each epoch, and at the end."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from cxrignite.data import ImageRecord, Source, XrayData
from cxrignite.engines import Precision
from cxrignite.engines.session import Session
from cxrignite.nn import BinaryClassifier
from cxrignite.nn.weights import TakenWeights
from cxrignite.recipe import DataRecipe, MonitorRecipe, TrainerRecipe
from cxrignite.reporting.text_table import alarm, indented, table_lines
from cxrignite.reporting.wording import alarm_of_rule, describe_rule, status, thresholds_text
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.runs.run_folder import RunFolder
from cxrignite.terminal import print_output

_logger = logging.getLogger(__name__)

# A metric, its title and its format; a column is as wide as its title, at least six characters.
_COLUMNS = (
    ("loss", "loss", ".4f"),
    ("val_loss", "val loss", ".4f"),
    ("val_roc_auc", "AUC", ".4f"),
    ("val_tnr", "TNR", ".3f"),
    ("val_tpr", "TPR", ".3f"),
    ("epoch_seconds", "seconds", ".1f"),
    ("images_per_second", "images/s", ",.0f"),
)
_NUM_TIMES = 2  # the last columns
_TITLES = {"val_average_precision": "AP"}
_MAX_TITLE = 14


def print_data(source: Source, run_dir: Path, seed: int) -> None:
    """Print the source of the images before it is read, which may take minutes."""
    negative, *findings = source.classes
    _log_line("run", f"{run_dir}, seed {seed}")
    named = f"{negative} (negative), {findings[0]} (positive)"
    if len(findings) > 1:
        kind = "exclusive findings" if source.exclusive else "findings"
        named = f"{len(findings)} {kind}: {', '.join(findings)}"
    _log_line("data", f"{type(source).__name__} in {source.root}: {named}")


def print_split(
    settings: DataRecipe, seed: int, listed: Sequence[ImageRecord], data: XrayData, *, frozen: bool
) -> None:
    """Print the splits and their origin.

    Args:
        settings: Shares of the splits, and the fold.
        seed: Seed of the draw.
        listed: The images with the splits of their source.
        data: The images in the run's splits.
        frozen: True if a resumed run took the splits from its `split.csv`.
    """
    own = {record.split for record in listed} - {"train"}
    assigned = {
        "test": f"{settings.test_fraction:g}",
        "val": f"{settings.val_fraction:g}",
        "calibration": f"{settings.calibration_fraction:g}",
    }
    if settings.fold is not None:
        assigned["val"] = f"fold {settings.fold.index} of {settings.fold.count}"
        own.discard("val")
    shares = [
        f"{name} {share}" for name, share in assigned.items() if name in set(data.splits) - own
    ]
    owned = [name for name in data.splits if name in own]
    parts = [f"by patient, seed {seed}: {', '.join(shares)}"] if shares else []
    if owned:
        parts.append(f"from the source: {', '.join(owned)}")
    _log_line("splits", "from this run's split.csv" if frozen else "; ".join(parts))
    for line in split_lines(data):
        _logger.info("%s", line)


def split_lines(data: XrayData) -> list[str]:
    """Count images and patients of each split in a table; empty splits are left out."""
    if len(data.findings) > 1:
        return _split_lines_of_findings(data)
    rows = [["split", *data.classes, "images", "patients"]]
    for split in data.splits:
        records = data.records(split)
        patients = len({record.patient for record in records})
        numbers = (*data.class_counts(split), len(records), patients)
        rows.append([split, *(f"{number:,}" for number in numbers)])
    return table_lines(rows, "<>")


def _split_lines_of_findings(data: XrayData) -> list[str]:
    """Count the positive and the unknown labels of each finding in each split."""
    rows = [["", *data.splits]]
    all_records = [data.records(split) for split in data.splits]
    rows.append(["images", *(f"{len(records):,}" for records in all_records)])
    patients = (len({record.patient for record in records}) for records in all_records)
    rows.append(["patients", *(f"{number:,}" for number in patients)])
    for index, finding in enumerate(data.findings):
        cells = [finding]
        for split, records in zip(data.splits, all_records, strict=True):
            counts = data.class_counts(split, index)
            unknown = len(records) - sum(counts)
            without = f" ({unknown:,} unknown)" if unknown else ""
            cells.append(f"{counts.num_positive:,}{without}")
        rows.append(cells)
    return table_lines(rows, "<>")


def print_training(
    recipe: TrainerRecipe,
    monitor: MonitorRecipe,
    session: Session,
    precision: Precision,
    model: BinaryClassifier,
    arch: object,
    batches: tuple[int, int],
    trained: tuple[int, int | None],
) -> None:
    """Print model, device and training settings, with the reason for each choice.

    Args:
        recipe: Settings of the trainer.
        monitor: Rule that selects the best epoch.
        session: The device and why it was chosen.
        precision: The arithmetic and why it was chosen.
        model: The classifier.
        arch: The recipe's name of its backbone, if it has one.
        batches: Number of batches in an epoch, and of images in a batch.
        trained: Number of parameters trained at first, and the epoch from which all are.
    """
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    named = f" {arch}" if isinstance(arch, str) else ""
    some = ""
    if trained[0] < num_parameters:
        until = f" until epoch {trained[1]}" if trained[1] else ""
        some = f", {trained[0]:,} of them trained{until}"
    _log_line("model", f"{type(model).__name__}{named}, {num_parameters:,} parameters{some}")
    processes = f"{session.world_size} processes, " if session.world_size > 1 else ""
    device, reason = session.device, session.reason
    _log_line("device", f"{processes}{device}: {reason}; {precision.name}: {precision.reason}")
    patience = f"; stops after {monitor.patience} epochs without a better one"
    patience = patience if monitor.patience else ""
    mean = f", mean of {monitor.mean_of} epochs" if monitor.mean_of > 1 else ""
    averaged = f", with averaged weights ({recipe.averaging})" if recipe.averaging else ""
    epochs = "1 epoch" if recipe.max_epochs == 1 else f"{recipe.max_epochs} epochs"
    _log_line(
        "training",
        f"{epochs} of {batches[0]} batches of {batches[1]} images; "
        f"best epoch: {'highest' if monitor.mode == 'max' else 'lowest'} "
        f"{monitor.metric} of val{mean}{averaged}{patience}",
    )


def print_start_from(file: Path, taken: TakenWeights, model: BinaryClassifier) -> None:
    """Print which weights training starts from, and which were left out.

    Args:
        file: File of the weights.
        taken: Names of the weights, by their use.
        model: The classifier.
    """
    total = len(model.state_dict())
    _log_line("start", f"from {file}: {len(taken.taken)} of {total} weights taken")
    for names, text in (
        (taken.reshaped, "left out, of another shape than in the model"),
        (taken.missing, "not in the file, start as without it"),
        (taken.unknown, "left out, not in the model"),
    ):
        if names:
            more = f" and {len(names) - 1} more" if names[1:] else ""
            _logger.info("%-10s%s: %s%s", "", text, names[0], more)


class EpochLines:
    """Log of one line per epoch, with the column titles above the first.

    Args:
        max_epochs: Total number of epochs.
        metric: Key of the metric that selects the best epoch; it has a column, too.
    """

    def __init__(self, max_epochs: int, metric: str) -> None:
        self._max_epochs = max_epochs
        self._metric = metric
        self._columns: list[tuple[str, str, str]] = []

    def log(self, epoch: int, metrics: Mapping[str, float], *, is_best: bool) -> None:
        """Log the line of an epoch."""
        counted = f"{epoch}/{self._max_epochs}"
        is_first = not self._columns
        if is_first:
            self._columns = self._choose(metrics)
        # As wide as the last epoch's number.
        head = ["epoch".rjust(2 * len(str(self._max_epochs)) + 1)]
        head += [title.rjust(6) for _, title, _ in self._columns]
        cells = [
            f"{metrics[name]:{form}}" if name in metrics else "" for name, _, form in self._columns
        ]
        titles, row = table_lines([head, [counted, *cells, *(["best"] if is_best else [])]], ">")
        for line in ([titles] if is_first else []) + [row]:
            _logger.info("%s", line)

    def _choose(self, metrics: Mapping[str, float]) -> list[tuple[str, str, str]]:
        columns = list(_COLUMNS)
        if self._metric not in {name for name, _, _ in columns}:
            title = _TITLES.get(self._metric, self._metric.removeprefix("val_")[:_MAX_TITLE])
            columns.insert(-_NUM_TIMES, (self._metric, title, ".4f"))
        return [column for column in columns if column[0] in metrics]


def print_end(
    folder: RunFolder, rules: Sequence[DecisionRule], best: tuple[int, str, float], data: XrayData
) -> None:
    """Print the thresholds, their guarantees, and the files of the run.

    Args:
        folder: The finished run.
        rules: Its operating points, one for each finding.
        best: The best epoch, its metric and that metric's value.
        data: Images of the run; `test` is suggested next if there is a test split.
    """
    print_rules(rules)
    epoch, metric, value = best
    root, run = str(folder.root), shlex.quote(str(folder.root))
    _logger.info("best epoch %d, %s %.4f", epoch, metric, value)
    _logger.info("written to %s:", root)
    files = [
        ["checkpoints", "best.pt: the best weights; last.pt: the state to resume from"],
        ["operating_point.json", "the threshold, its status and the images it was chosen on"],
        ["metrics, predictions", "metrics with intervals; the score of every image"],
        ["figures, tensorboard", f"plots; open with `tensorboard --logdir {run}`"],
        ["recipe.yaml, split.csv", "everything needed to repeat the run"],
        ["history.csv, run.log", "metrics of each epoch; this log"],
    ]
    for line in table_lines(files, indent="  "):
        _logger.info("%s", line)
    suggest_next(folder, data)


def suggest_next(folder: RunFolder, data: XrayData) -> None:
    """Log the commands that may follow a finished run.

    Args:
        folder: The finished run.
        data: Its images; `test` is suggested if there is a test split.
    """
    for command in (*(["test"] if "test" in data.splits else []), "report"):
        _logger.info("next: cxrignite %s --run %s", command, shlex.quote(str(folder.root)))


def print_rules(rules: Sequence[DecisionRule]) -> None:
    """Print the thresholds and their guarantees.

    Args:
        rules: The operating points, one for each finding.
    """
    lines = ["operating point: none, since no ThresholdSearch is among validator.handlers"]
    if rules[0].point is not None:
        lines = []
    for rule in rules:
        if rule.point is not None:
            finding = rule.finding if len(rules) > 1 else ""
            of_one = f" of {finding}" if finding else ""
            lines += alarm(alarm_of_rule(rule), finding)
            lines.append(f"operating point{of_one}: {status(rule)}, {thresholds_text(rule.point)}")
            lines.append(indented(describe_rule(rule)))
    print_output("\n".join(["", *lines, "", ""]))


def print_learning_rate(suggestion: float, own: float, output: Path) -> None:
    """Print the learning rate that `find_lr` suggests, beside that of the recipe."""
    lines = [
        f"suggested learning rate: {suggestion:.2g} (of the recipe: {own:.2g})",
        indented(
            "the loss falls fastest there, or is lowest at ten times this rate; use it with "
            f"`--optimizer.lr {suggestion:.2g}`"
        ),
        f"  the curve is in {output / 'find_lr.png'}, every loss in {output / 'find_lr.csv'}",
    ]
    print_output("\n".join([*lines, ""]))


def _log_line(label: str, text: str) -> None:
    _logger.info("%-10s%s", label, text)
