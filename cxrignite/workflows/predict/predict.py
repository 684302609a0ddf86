"""Score new images with a finished run into a CSV table."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from cxrignite import __version__
from cxrignite.data import ImageRecord
from cxrignite.data.image_stream import ImageStream
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.reading import Size
from cxrignite.data.sources import class_pair
from cxrignite.engines import BatchScorer
from cxrignite.engines.session import Session
from cxrignite.errors import DataError, RecipeError
from cxrignite.recipe import DataRecipe, Recipe
from cxrignite.reporting.wording import alarm_of_rule, describe_rule, status
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.scores import file_name
from cxrignite.terminal import print_output
from cxrignite.workflows.allocator_tuning import allocator_tuning
from cxrignite.workflows.finished_run import load_run, map_threshold, open_folder
from cxrignite.workflows.parts import build_pipeline, check_image_size, explained_layer
from cxrignite.workflows.predict.listing import list_images
from cxrignite.workflows.predict.output import (
    OutputPaths,
    OutputSettings,
    one_or_all,
    open_output,
    table_columns,
)
from cxrignite.workflows.predict.request import Request
from cxrignite.workflows.predict.scoring import MapDrawer, RowMaker, score_images
from cxrignite.workflows.predict.summary import DescribedFinding, describe_unreadable, summary

_logger = logging.getLogger(__name__)


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
        listing = list_images(source, request)
        run = load_run(folder, session, recipe, request.operating_point)
        rules, model = run.rules, run.model
        request.check_prevalence(classes, source.exclusive, [each.prior_shift for each in rules])
        frozen = folder.read_split(source.root)
        pipeline = build_pipeline(recipe.data)
        image_size = input_size(recipe.data, pipeline, frozen, listing.records)
        if image_size is not None:
            check_image_size(model, image_size, is_restored=True)
        scorer = BatchScorer(
            model,
            **run.computing._asdict(),
            batch_size=usual_batch_size(recipe.data, frozen),
            exclusive=source.exclusive,
            views=recipe.data.views,
        )
        layer = None
        if request.draws_maps:
            layer = explained_layer(recipe.explain.target_layer, model, image_size or (1, 1))
        output_settings = _settings(
            recipe.explain.method, folder, request, rules, scorer, session, image_size, layer
        )
        columns = table_columns(len(rules), source.exclusive, draws_maps=layer is not None)
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
        records = listing.without(output.names)
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
        described = [
            DescribedFinding(
                rule.finding,
                rule.point is not None,
                rule.lower_threshold is not None,
                alarm_of_rule(rule),
                describe_rule(rule),
            )
            for rule in rules
        ]
        print_output(summary(output, described, request, paths, num_before))
        if output.num_unreadable:
            raise DataError(describe_unreadable(output, len(listing.records), paths))


def usual_batch_size(data: DataRecipe, frozen: Sequence[ImageRecord]) -> int:
    """Return the batch size of `test`, so that scores have the same last bits."""
    usual = data.eval_batch_size or 2 * data.batch_size
    return min(usual, sum(record.split == "test" for record in frozen) or usual)


def input_size(
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
        threshold=one_or_all([rule.threshold for rule in rules]),
        lower_threshold=one_or_all([rule.lower_threshold for rule in rules]),
        status=one_or_all([status(rule) or None for rule in rules]),
        image_size=image_size,
        batch_size=scorer.batch_size,
        precision=scorer.precision.name,
        device=session.device.type,
        views=[asdict(view) for view in rules[0].views],
        batch_norm_sha256=rules[0].batch_norm.sha256 if rules[0].batch_norm else None,
        maps={"method": method, "target_layer": layer} if layer else None,
    )
