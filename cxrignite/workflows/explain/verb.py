"""Maps of a run's films, or of any images, drawn and measured."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor

from cxrignite.data import Film, XrayData
from cxrignite.data.image_files import image_files
from cxrignite.durable_write import write_durably
from cxrignite.engines import BatchScorer
from cxrignite.engines.session import Session, open_session
from cxrignite.errors import DataError
from cxrignite.functional import UNKNOWN_LABEL, CamMaps, CamTarget, ImageChoice, grad_cam
from cxrignite.handlers import BoardWriter, GradCAMExporter
from cxrignite.output_marker import mark_output
from cxrignite.recipe import DataRecipe, Recipe
from cxrignite.reporting.map_table import map_table
from cxrignite.reporting.plots import map_figures as figures
from cxrignite.runs.checkpoints import load_best
from cxrignite.runs.json_codec import to_json
from cxrignite.runs.map_evaluation import MapChecks, MapEvaluation
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.scores import SplitScores
from cxrignite.workflows.explain.checks import MapProbe, check_maps
from cxrignite.workflows.illustrations import keep_figure
from cxrignite.workflows.parts import (
    build_data,
    build_model,
    build_pipeline,
    check_image_size,
    choose_computing,
    explained_layer,
)
from cxrignite.workflows.score import Scoring, films_to_score, score_split

_logger = logging.getLogger(__name__)

# Where the run has chosen no threshold.
_NO_THRESHOLD = 0.5
_BATCH_SIZE = 16


def explain(recipe: Recipe, run_dir: Path, scoring: Scoring) -> None:
    """Draw maps of films of one split of a run, or of another source, and measure them.

    Args:
        recipe: The run's own; its source may be another one.
        run_dir: The run folder.
        scoring: Which films, under which name, by which operating point.

    Raises:
        RunFolderError: The folder is in use, or has no such operating point.
        RecipeError: The model has no such layer, or none that maps can be taken at.
        DataError: There is no film to explain, or a film changed since the run.
        CheckpointError: The best weights are missing or damaged.
        NonFiniteError: A score or a map is NaN or infinite.
    """
    settings, split = recipe.explain, scoring.split
    with _opened(recipe, RunFolder(run_dir)) as (folder, session, stack):
        run = _ExplainedRun(recipe, folder, session, scoring.name, scoring.operating_point)
        films = films_to_score(recipe.data, folder, scoring)
        data = build_data(recipe.data, films, recipe.seed, device=session.device)
        stack.callback(data.close)
        kinds, most = settings.select, settings.max_images
        choice = ImageChoice(run.threshold, kinds, most, seed=recipe.seed)
        exporter = run.exporter(films, choice, data.image_size)
        stack.callback(run.close)
        scores = score_split(
            run.model, data, split, run.computing, shows=session.leads, handlers=[exporter]
        )
        if session.leads:
            run.publish(exporter, run.measure(data, scores))


def explain_files(
    recipe: Recipe, run_dir: Path, paths: Sequence[Path], name: str, site: str | None = None
) -> None:
    """Draw maps of any images, whose labels are unknown.

    Args:
        recipe: The run's own.
        run_dir: The run folder.
        paths: Images, folders of images, and patterns of either.
        name: Of the results.
        site: Whose operating point decides; null is the run's own.

    Raises:
        RunFolderError: The folder is in use, or has no such operating point.
        RecipeError: The model has no such layer, or none that maps can be taken at.
        DataError: An image is missing, cannot be read, or has another size than the run's films.
        CheckpointError: The best weights are missing or damaged.
        NonFiniteError: A map is NaN or infinite.
    """
    files = image_files(paths)
    with _opened(recipe, RunFolder(run_dir)) as (folder, session, stack):
        if not session.leads:
            return
        images = _read(recipe.data, folder, files)
        run = _ExplainedRun(recipe, folder, session, name, site)
        films = [Film(str(path), str(path), UNKNOWN_LABEL, "", "test") for path in files]
        everything = ImageChoice(run.threshold, (), indices=range(len(films)))
        height, width = images.shape[-2:]
        exporter = run.exporter(films, everything, (height, width))
        stack.callback(run.close)
        y_score = torch.cat([run.score(part) for part in torch.split(images, _BATCH_SIZE)])
        labels = torch.full((len(films),), UNKNOWN_LABEL)
        exporter.export(
            images, y_score.double().numpy(), labels.numpy(), torch.arange(len(films)).numpy()
        )
        run.publish(exporter, None)


class _ExplainedRun:
    """A run's model with its threshold, and the place of its maps in folder and TensorBoard."""

    def __init__(
        self, recipe: Recipe, folder: RunFolder, session: Session, name: str, site: str | None
    ) -> None:
        self.recipe, self.folder, self.session, self.name = recipe, folder, session, name
        self.rule = folder.read_rule(site)
        best = load_best(folder.best_path)
        self.epoch = best.epoch
        self.computing = choose_computing(recipe.trainer, session)
        self.model = build_model(recipe.model, self.computing, best.weights)
        threshold = self.rule.threshold
        self.threshold = _NO_THRESHOLD if threshold is None else threshold
        self.layer = ""
        self.directory = folder.explain_dir(name)
        # Of the same name, which TensorBoard shows, until everything is there.
        self.unfinished_dir = folder.explain_dir(".unfinished") / name
        self.board = BoardWriter(folder.tensorboard_dir)

    def exporter(
        self, films: Sequence[Film], choice: ImageChoice, image_size: tuple[int, int]
    ) -> GradCAMExporter:
        """What draws maps of these films, in an empty folder."""
        check_image_size(self.model, image_size, is_restored=True)
        self.layer = explained_layer(self.recipe.explain.target_layer, self.model, image_size)
        if self.session.leads:
            self.clear()
            mark_output(self.unfinished_dir)
        exporter = GradCAMExporter(
            self.model,
            self.unfinished_dir,
            self.layer,
            self.recipe.explain.method,
            choice,
            [{"path": film.name, "patient": film.patient} for film in films],
            self.recipe.data.source.classes,
            self.board,
        )
        exporter.step = self.epoch
        return exporter

    def clear(self) -> None:
        """Remove what an explanation that came to no end has left."""
        shutil.rmtree(self.unfinished_dir.parent, ignore_errors=True)

    def score(self, images: Tensor) -> Tensor:
        """Probabilities of a batch as the other verbs compute them, `(N,)`, on the CPU."""
        return BatchScorer(self.model, **self.computing._asdict())(images)[0].cpu()

    def close(self) -> None:
        """Close what was open, and leave nothing unfinished behind."""
        self.board.close()
        if self.session.leads:
            self.clear()

    def measure(self, data: XrayData, scores: SplitScores) -> MapChecks | None:
        """Check the maps and draw the figure of it; None if not requested."""
        settings, name = self.recipe.explain, f"faithfulness_{self.name}"
        if not settings.num_measured:
            (self.folder.figures_dir / f"{name}.png").unlink(missing_ok=True)
            return None
        _logger.info("measuring the maps of %d films at most", settings.num_measured)
        probe = MapProbe(self.model, self._maps, data.pipeline.read, self.session.device)
        found, curves = check_maps(
            probe,
            scores,
            self.threshold,
            settings.num_measured,
            self.recipe.data.source.root,
            self.recipe.seed,
        )
        figure = figures.perturbation_curves(curves, self.recipe.data.source.classes)
        keep_figure(self.folder, self.board, name, figure, self.epoch)
        return found

    def publish(self, exporter: GradCAMExporter, checks: MapChecks | None) -> None:
        """Write what holds for all pictures, draw the figure of outcomes, and print a summary."""
        explained, classes = exporter.explanations, self.recipe.data.source.classes
        name = f"grad_cam_{self.name}"
        if any(each.y_true != UNKNOWN_LABEL for each in explained):
            figure = figures.outcome_maps(explained, classes)
            keep_figure(self.folder, self.board, name, figure, self.epoch)
        else:
            (self.folder.figures_dir / f"{name}.png").unlink(missing_ok=True)
        evaluation = MapEvaluation(
            weights_sha256=self.rule.weights_sha256,
            method=self.recipe.explain.method,
            target_layer=self.layer,
            target_class=classes[1],
            other_class=classes[0],
            threshold=self.threshold,
            checks=checks,
        )
        about = to_json(evaluation)
        write_durably(self.unfinished_dir / "explain.json", about)
        table = (self.unfinished_dir / "explain.csv").read_bytes()
        self.folder.files.expect(
            {self.directory / "explain.json": about, self.directory / "explain.csv": table}
        )
        # All at once: pictures of an earlier explanation would be taken for some of this one.
        shutil.rmtree(self.directory, ignore_errors=True)
        self.unfinished_dir.rename(self.directory)
        sys.stdout.write(f"{map_table(self.name, explained, evaluation)}\n")
        _logger.info("written to %s", self.directory)

    def _maps(self, model: torch.nn.Module, images: Tensor, target: CamTarget) -> CamMaps:
        method = self.recipe.explain.method
        return grad_cam(model, images, self.layer, method=method, target=target)


@contextmanager
def _opened(recipe: Recipe, folder: RunFolder) -> Iterator[tuple[RunFolder, Session, ExitStack]]:
    """A session that may write into the run folder, and what is to be closed after it."""
    settings = recipe.trainer
    with open_session(settings.device, settings.profile) as session, ExitStack() as stack:
        if session.leads:
            stack.enter_context(folder.lock())
            stack.enter_context(folder.logging())
        yield folder, session, stack


def _read(data: DataRecipe, folder: RunFolder, files: Sequence[Path]) -> Tensor:
    """Read images through the run's pipeline; they must come out in the size of the run's films."""
    pipeline = build_pipeline(data)
    images = [pipeline.read(path) for path in files]
    known = folder.read_split(data.source.root)[0].path
    # Where the run's films are not at hand the images can only be held against each other.
    wanted = (pipeline.read(known) if known.is_file() else images[0]).shape[-2:]
    for path, image in zip(files, images, strict=True):
        if image.shape[-2:] != wanted:
            height, width = image.shape[-2:]
            raise DataError(
                f"{path} must be {wanted[0]} x {wanted[1]} pixels after preprocessing, "
                f"as the run's films, got {height} x {width}"
            )
    return torch.stack(images)
