"""Score new images with a finished run into a CSV table."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

from cxrignite import __version__
from cxrignite.data import ImageRecord, Source
from cxrignite.data.image_stream import ImageStream
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.reading import Size
from cxrignite.data.sources import class_pair
from cxrignite.engines import BatchScorer
from cxrignite.engines.session import Session
from cxrignite.errors import DataError, RecipeError
from cxrignite.functional.confusion import HIGHEST_CLASS
from cxrignite.recipe import DataRecipe, Recipe
from cxrignite.reporting.tables import alarm, indented
from cxrignite.reporting.wording import alarm_of_rule, describe_rule, status
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.scores import file_name
from cxrignite.terminal import counted, print_output
from cxrignite.workflows.allocator_tuning import allocator_tuning
from cxrignite.workflows.finished_run import load_run, map_threshold, open_folder
from cxrignite.workflows.parts import build_pipeline, check_image_size, explained_layer
from cxrignite.workflows.predict.listing import Listing, list_manifest, list_records
from cxrignite.workflows.predict.output import (
    COLUMNS,
    FINDING,
    MAP_COLUMNS,
    OutputPaths,
    OutputSettings,
    PredictionFile,
    open_output,
)
from cxrignite.workflows.predict.scoring import MapDrawer, RowMaker, score_images

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass(frozen=True)
class Request:
    """Images to score, and the output.

    Attributes:
        output: The table; the other files are named after it.
        files: Images, folders of images, and patterns of either.
        patient_column: The manifest's column of the patients; null takes `patient` if there is one.
        operating_point: The site whose operating point is used; null is the run's own.
        prevalence: Share of positives for the probabilities, in (0, 1); null is that of the
            training images.
        overwrite: Start again, replacing earlier results.
    """

    output: Path
    files: Sequence[Path]
    manifest: Path | None
    path_column: str
    patient_column: str | None
    operating_point: str | None
    prevalence: float | None
    draws_maps: bool
    overwrite: bool


def predict(recipe: Recipe, run_dir: Path, request: Request) -> None:
    """Score new images with a run's best weights; resume an interrupted command.

    The recipe is that of the run, whose folder is only read.

    Raises:
        RunFolderError: The run has no such operating point.
        RecipeError: Several processes were started; the output is in use or has other settings;
            maps are impossible at the requested layer; or the run has no probabilities to convert
            to a prevalence.
        CheckpointError: The best weights are missing or damaged.
        NonFiniteError: A score or a map is NaN or infinite.
        DataError: There is no image; or, after all others are scored, some cannot be read.
    """
    paths = OutputPaths(request.output)
    folder, settings = RunFolder(run_dir), recipe.trainer
    with open_folder(folder, settings, writes=False) as (session, stack):
        if session.world_size > 1:
            raise RecipeError(
                f"predict needs one process, got {session.world_size}; start one command per part "
                "of the images, each with its own --output"
            )
        source = recipe.data.source
        classes = source.classes
        listing = _list(source, request)
        run = load_run(folder, session, recipe, request.operating_point)
        rules, model = run.rules, run.model
        if request.prevalence is not None and source.exclusive:
            raise RecipeError(
                f"--prevalence needs findings that may occur together, got {request.prevalence:g}: "
                f"each of the {len(classes)} exclusive classes has its own share; omit --prevalence"
            )
        if request.prevalence is not None and any(
            rule.prior_shift.pos_weight is None for rule in rules
        ):
            raise RecipeError(
                f"--prevalence needs a run with probabilities, got {request.prevalence:g}: the "
                "effect of this run's loss on the scores is unknown; omit --prevalence"
            )
        frozen = folder.read_split(source.root)
        pipeline = build_pipeline(recipe.data)
        image_size = _image_size(recipe.data, pipeline, frozen, listing.records)
        if image_size is not None:
            check_image_size(model, image_size, is_restored=True)
        scorer = BatchScorer(
            model,
            **run.computing._asdict(),
            batch_size=_batch_size(recipe.data, frozen),
            exclusive=source.exclusive,
            views=recipe.data.views,
        )
        layer = None
        if request.draws_maps:
            layer = explained_layer(recipe.explain.target_layer, model, image_size or (1, 1))
        output_settings = _settings(
            recipe.explain.method, folder, request, rules, scorer, session, image_size, layer
        )
        columns = [*COLUMNS, *(MAP_COLUMNS if layer else ())]
        if len(rules) > 1:
            columns.insert(columns.index("patient") + 1, FINDING)
        if source.exclusive:
            columns.insert(columns.index("decision") + 1, HIGHEST_CLASS)
        output = stack.enter_context(
            open_output(
                *(paths, output_settings, columns),
                num_findings=len(rules),
                overwrite=request.overwrite,
            )
        )
        drawers = [
            MapDrawer(
                recipe.explain.method,
                class_pair(classes, index),
                model,
                layer,
                paths.maps_dir,
                map_threshold(rule),
                rule.lower_threshold,
                index,
                file_name(classes, index) if len(rules) > 1 else "",
                source.exclusive,
            )
            for index, rule in enumerate(rules)
            if layer
        ]
        records = [record for record in listing.records if record.name not in output.names]
        if output.num_rows:
            _logger.info(
                "%s has %d images already: %d more to score",
                paths.table,
                output.num_rows,
                len(records),
            )
        num_before = output.num_rows
        if records:
            data = recipe.data
            stream = ImageStream(
                records,
                pipeline,
                image_size or (1, 1),
                batch_size=scorer.batch_size,
                num_workers=data.num_workers,
                prefetch_factor=data.prefetch_factor,
                worker_timeout=data.worker_timeout,
            )
            of_classes = classes if source.exclusive else ()
            rows = RowMaker(
                *(scorer, rules, listing.patient_of, of_classes, drawers, request.prevalence)
            )
            is_tuned = settings.profile == "fast"  # as in `fit`
            with allocator_tuning(session.device) if is_tuned else nullcontext():
                score_images(records, stream, rows, output, data.grey_scaling)
        print_output(_summary(output, rules, request, paths, num_before))
        if output.num_unreadable:
            raise DataError(_describe_unreadable(output, len(listing.records), paths))


def _list(source: Source, request: Request) -> Listing:
    if request.manifest is None:
        return list_records(request.files, source)
    if _is_same(request.manifest, request.output):
        raise RecipeError(f"--output must be another file than --manifest, got {request.output}")
    return list_manifest(request.manifest, source, request.path_column, request.patient_column)


def _is_same(first: Path, second: Path) -> bool:
    """True if two names are of one file, also through links."""
    if first.exists() and second.exists():
        return first.samefile(second)
    return first.resolve() == second.resolve()


def _batch_size(data: DataRecipe, frozen: Sequence[ImageRecord]) -> int:
    """Return the batch size of `test`, so that scores have the same last bits."""
    usual = data.eval_batch_size or 2 * data.batch_size
    return min(usual, sum(record.split == "test" for record in frozen) or usual)


def _image_size(
    data: DataRecipe,
    pipeline: Pipeline,
    frozen: Sequence[ImageRecord],
    records: Sequence[ImageRecord],
) -> Size | None:
    """Return the size of the run's images after preprocessing; None if no image can be read.

    If the run's images are not available, it is that of the first new image.
    """
    if data.image_size is not None and not data.preprocess:
        return data.image_size
    for record in chain(frozen[:1], records):
        try:
            rows, columns = pipeline.read(record.path).shape[-2:]
        except DataError:
            continue
        return rows, columns
    return None


def _settings(
    method: str,
    folder: RunFolder,
    request: Request,
    rules: Sequence[DecisionRule],
    scorer: BatchScorer,
    session: Session,
    image_size: Size | None,
    layer: str | None,
) -> OutputSettings:
    return OutputSettings(
        run=str(folder.root),
        version=__version__,
        weights_sha256=rules[0].weights_sha256,
        operating_point=request.operating_point,
        prevalence=request.prevalence,
        chosen_on=request.operating_point or rules[0].chosen_on,
        threshold=_one_or_all([rule.threshold for rule in rules]),
        lower_threshold=_one_or_all([rule.lower_threshold for rule in rules]),
        status=_one_or_all([status(rule) or None for rule in rules]),
        image_size=image_size,
        batch_size=scorer.batch_size,
        precision=scorer.precision.name,
        device=session.device.type,
        views=[asdict(view) for view in rules[0].views],
        batch_norm_sha256=rules[0].batch_norm.sha256 if rules[0].batch_norm else None,
        maps={"method": method, "target_layer": layer} if layer else None,
    )


def _one_or_all(values: list[_T]) -> _T | list[_T]:
    return values[0] if len(values) == 1 else values


def _summary(
    output: PredictionFile,
    rules: Sequence[DecisionRule],
    request: Request,
    paths: OutputPaths,
    num_before: int,
) -> str:
    """Describe the results: the counts, the decision rule, and the files."""
    before = f" ({num_before} of them by an earlier command)" if num_before else ""
    scored = f"{counted(output.num_rows, 'image')} scored{before}"
    alarms, described = [], []
    for rule in rules:
        finding = rule.finding if len(rules) > 1 else ""
        called = f"{output.decisions[finding, 'positive']} called positive" if rule.point else ""
        if rule.lower_threshold is not None:
            called += f", {output.decisions[finding, 'refer']} referred to a reader"
        alarms += alarm(alarm_of_rule(rule), finding)
        if finding:
            described.append(f"{finding}: {called}" if called else finding)
        elif called:
            scored += f", {called}"
        described.append(indented(describe_rule(rule)))
    lines = [*alarms, f"{paths.table}: {scored}", *described]
    if any(rule.point for rule in rules):
        lines.append(
            indented(
                "this is valid for images like those that chose the threshold; check it with "
                "`test` on labelled images of this site, or choose a new threshold with "
                "`recalibrate`"
            )
        )
    if request.prevalence is not None:
        lines.append(f"  the column probability is at a prevalence of {request.prevalence:g}")
    if request.draws_maps:
        lines.append(f"  maps in {paths.maps_dir}")
    if output.num_unreadable:
        missing = counted(output.num_unreadable, "image")
        lines.append(f"  {missing} without a score in {paths.unreadable}")
    return "\n".join([*lines, f"  settings in {paths.settings}", ""])


def _describe_unreadable(output: PredictionFile, num_images: int, paths: OutputPaths) -> str:
    few = "; ".join(f"{name}: {reason}" for name, reason in output.first_unreadable.items())
    more = output.num_unreadable - len(output.first_unreadable)
    others = f"; and {more} more" if more else ""
    return (
        f"{output.num_unreadable} of {counted(num_images, 'image')} cannot be read, all listed in "
        f"{paths.unreadable}: {few}{others}; fix these files, then run the same command again"
    )
