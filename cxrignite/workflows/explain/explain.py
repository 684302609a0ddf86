"""Class activation maps of a run's images or of any images: drawing and measurement."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cxrignite.data import ImageRecord, Source
from cxrignite.data.image_files import image_files
from cxrignite.data.masks import read_mask
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.sources import class_pair
from cxrignite.durable_write import write_durably
from cxrignite.engines import BatchScorer
from cxrignite.errors import DataError
from cxrignite.functional import (
    UNKNOWN_LABEL,
    CamMaps,
    CamTarget,
    ImageChoice,
    finding_logit,
    grad_cam,
)
from cxrignite.handlers import GradCAMExporter, TensorBoardWriter
from cxrignite.output_marker import mark_output
from cxrignite.recipe import DataRecipe, ExplainRecipe, Recipe
from cxrignite.reporting.map_table import map_table
from cxrignite.reporting.plots import map_figures as figures
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.runs.json_codec import to_json
from cxrignite.runs.map_evaluation import MapChecks, MapEvaluation
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.scores import SplitScores, results_name
from cxrignite.terminal import print_output
from cxrignite.workflows.explain.checks import MapProbe, check_maps
from cxrignite.workflows.finished_run import (
    FinishedRun,
    load_run,
    map_threshold,
    open_folder,
)
from cxrignite.workflows.parts import (
    build_data,
    build_pipeline,
    check_image_size,
    explained_layer,
)
from cxrignite.workflows.plots import save_figure
from cxrignite.workflows.score import EvaluationOptions, records_to_score, score_split

_logger = logging.getLogger(__name__)

_BATCH_SIZE = 16


def explain(
    recipe: Recipe,
    run_dir: Path,
    options: EvaluationOptions,
    findings: Sequence[int] | None = None,
) -> None:
    """Draw and measure maps of one split of a run, or of another source.

    The recipe is that of the run; its source may be another one. `findings` are positions, from 0;
    None is all.

    Raises:
        RunFolderError: The folder is in use, or has no such operating point.
        RecipeError: The model has no such layer, or maps are impossible there.
        DataError: There is no image to explain, or an image has changed since the run.
        CheckpointError: The best weights are missing or damaged.
        NonFiniteError: A score or a map is NaN or infinite.
    """
    folder, settings = RunFolder(run_dir), recipe.explain
    with open_folder(folder, recipe.trainer) as (session, stack):
        run = load_run(folder, session, recipe, options.operating_point)
        records = records_to_score(recipe.data, folder, options)
        data = build_data(recipe.data, records, recipe.seed, device=session.device)
        stack.callback(data.close)
        source, drawn = recipe.data.source, []
        for index, rule in _chosen(run, findings):
            choice = ImageChoice(
                *(map_threshold(rule), settings.select, settings.max_images),
                seed=recipe.seed,
                lower=rule.lower_threshold,
            )
            maps = _Maps(
                *(run, index, settings, source, options.name, records, choice, data.image_size)
            )
            stack.callback(maps.close)
            drawn.append(maps)
        scores = score_split(
            *(run.model, data, options.split, run.computing),
            shows=session.is_main_process,
            handlers=[maps.exporter for maps in drawn],
        )
        if session.is_main_process:
            for maps in drawn:
                each = scores.of(maps.index)
                maps.publish(maps.measure(each, data.pipeline, source.root, recipe.seed))


def explain_files(
    recipe: Recipe,
    run_dir: Path,
    paths: Sequence[Path],
    name: str,
    site: str | None = None,
    findings: Sequence[int] | None = None,
) -> None:
    """Draw maps of any images without labels.

    `paths` are images, folders of images, and patterns of either. `site` names the operating point;
    None is that of the run. `findings` are positions, from 0; None is all.

    Raises:
        RunFolderError: The folder is in use, or has no such operating point.
        RecipeError: The model has no such layer, or maps are impossible there.
        DataError: An image is missing, cannot be read, or has another size than the run's images.
        CheckpointError: The best weights are missing or damaged.
        NonFiniteError: A map is NaN or infinite.
    """
    files, folder = image_files(paths), RunFolder(run_dir)
    with open_folder(folder, recipe.trainer) as (session, stack):
        if not session.is_main_process:
            return
        images = _read(recipe.data, folder, files)
        run = load_run(folder, session, recipe, site)
        records = [ImageRecord(str(path), str(path), UNKNOWN_LABEL, "", "test") for path in files]
        height, width = images.shape[-2:]
        source = recipe.data.source
        scorer = BatchScorer(
            run.model,
            **run.computing._asdict(),
            exclusive=source.exclusive,
            views=recipe.data.views,
        )
        y_score = torch.cat([scorer(part)[0].cpu() for part in torch.split(images, _BATCH_SIZE)])
        scores = y_score.double().numpy().reshape(len(records), len(run.rules))
        labels = np.full(len(records), UNKNOWN_LABEL)
        for index, rule in _chosen(run, findings):
            everything = ImageChoice(
                map_threshold(rule),
                (),
                indices=range(len(records)),
                lower=rule.lower_threshold,
            )
            maps = _Maps(
                *(run, index, recipe.explain, source, name, records, everything, (height, width))
            )
            stack.callback(maps.close)
            maps.exporter.export(images, scores[:, index], labels, np.arange(len(records)))
            maps.publish(None)


def _chosen(run: FinishedRun, findings: Sequence[int] | None) -> Iterator[tuple[int, DecisionRule]]:
    """Return the positions and the decision rules of the findings to explain."""
    for index, rule in enumerate(run.rules):
        if findings is None or index in findings:
            yield index, rule


class _Maps:
    """Maps of one finding, drawn in a temporary folder that is renamed when all are complete."""

    def __init__(
        self,
        run: FinishedRun,
        index: int,
        settings: ExplainRecipe,
        source: Source,
        name: str,
        records: Sequence[ImageRecord],
        choice: ImageChoice,
        image_size: tuple[int, int],
    ) -> None:
        self.run, self.index, self.settings, self.rule = run, index, settings, run.rules[index]
        self.classes = class_pair(source.classes, index)
        self.exclusive = source.exclusive
        self.name = name = results_name(name, source.classes, index)
        check_image_size(run.model, image_size, is_restored=True)
        self.layer = explained_layer(settings.target_layer, run.model, image_size)
        self.directory = run.folder.explain_dir(name)
        # The folder's own name is the final one, because TensorBoard shows it.
        self.unfinished_dir = run.folder.explain_dir(".unfinished") / name
        self.board = TensorBoardWriter(run.folder.tensorboard_dir)
        if run.session.is_main_process:
            self._clear()
            mark_output(self.unfinished_dir)
        self.exporter = GradCAMExporter(
            run.model,
            self.unfinished_dir,
            self.layer,
            settings.method,
            choice,
            [{"path": record.name, "patient": record.patient} for record in records],
            self.classes,
            self.board,
            finding=index,
            exclusive=source.exclusive,
        )
        self.exporter.step = run.epoch

    def _clear(self) -> None:
        """Remove files of an interrupted command."""
        shutil.rmtree(self.unfinished_dir, ignore_errors=True)
        with suppress(OSError):  # another finding's folder is in it
            self.unfinished_dir.parent.rmdir()

    def close(self) -> None:
        """Close the TensorBoard writer, and remove unfinished files."""
        self.board.close()
        if self.run.session.is_main_process:
            self._clear()

    def measure(
        self, scores: SplitScores, pipeline: Pipeline, root: Path, seed: int
    ) -> MapChecks | None:
        """Measure the maps and draw the figure; None if not requested, or without a label."""
        run, name, num_images = self.run, f"faithfulness_{self.name}", self.settings.num_measured
        if not num_images or not scores.num_images:
            (run.folder.figures_dir / f"{name}.png").unlink(missing_ok=True)
            return None
        _logger.info("measuring the maps of up to %d images", num_images)
        score = partial(_score, self.index, self.exclusive)
        probe = MapProbe(
            *(run.model, self._draw, score, pipeline.read),
            partial(read_mask, pipeline=pipeline),
            run.session.device,
        )
        thresholds = map_threshold(self.rule), self.rule.lower_threshold
        found, curves = check_maps(probe, scores, thresholds, num_images, root, seed)
        figure = figures.perturbation_curves(curves, self.classes)
        save_figure(run.folder, self.board, name, figure, run.epoch)
        return found

    def publish(self, checks: MapChecks | None) -> None:
        """Write the files, draw the figure of outcomes, and print a summary."""
        explained, folder = self.exporter.explanations, self.run.folder
        name = f"grad_cam_{self.name}"
        if any(each.y_true != UNKNOWN_LABEL for each in explained):
            figure = figures.outcome_maps(explained, self.classes)
            save_figure(folder, self.board, name, figure, self.run.epoch)
        else:
            (folder.figures_dir / f"{name}.png").unlink(missing_ok=True)
        evaluation = MapEvaluation(
            weights_sha256=self.rule.weights_sha256,
            method=self.settings.method,
            target_layer=self.layer,
            target_class=self.classes[1],
            other_class=self.classes[0],
            threshold=map_threshold(self.rule),
            lower_threshold=self.rule.lower_threshold,
            checks=checks,
        )
        about = to_json(evaluation)
        write_durably(self.unfinished_dir / "explain.json", about)
        table = (self.unfinished_dir / "explain.csv").read_bytes()
        folder.files.expect(
            {self.directory / "explain.json": about, self.directory / "explain.csv": table}
        )
        # Replaced as a whole: old pictures could be mistaken for results of this command.
        shutil.rmtree(self.directory, ignore_errors=True)
        self.unfinished_dir.rename(self.directory)
        print_output(f"{map_table(self.name, explained, evaluation)}\n")
        _logger.info("written to %s", self.directory)

    def _draw(self, model: torch.nn.Module, images: Tensor, target: CamTarget) -> CamMaps:
        return grad_cam(
            *(model, images, self.layer),
            method=self.settings.method,
            target=target,
            output=self.index,
            exclusive=self.exclusive,
        )


def _score(index: int, exclusive: bool, target: CamTarget, logits: Tensor) -> Tensor:
    """Return probabilities of a finding, or of its absence, from the logits of a batch."""
    sign = 1 if target == "positive" else -1
    return torch.sigmoid(sign * finding_logit(logits, index, exclusive))


def _read(data: DataRecipe, folder: RunFolder, files: Sequence[Path]) -> Tensor:
    """Read images through the run's pipeline; they must have the size of the run's images."""
    pipeline = build_pipeline(data)
    images = [pipeline.read(path) for path in files]
    known = folder.read_split(data.source.root)[0].path
    # Without the run's images, the images can only be compared with each other.
    expected = (pipeline.read(known) if known.is_file() else images[0]).shape[-2:]
    for path, image in zip(files, images, strict=True):
        if image.shape[-2:] != expected:
            height, width = image.shape[-2:]
            raise DataError(
                f"{path} must be {expected[0]} x {expected[1]} pixels after preprocessing, "
                f"like the run's images, got {height} x {width}"
            )
    return torch.stack(images)
