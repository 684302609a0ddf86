"""Score new images with an exported model into a CSV table, without torch."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxrignite import __version__
from cxrignite.data.grey_scaling import is_nearly_blank
from cxrignite.data.read_batches import read_batches
from cxrignite.data.reading import read_image
from cxrignite.data.sources import ImageRecord
from cxrignite.errors import DataError
from cxrignite.functional import PriorShift
from cxrignite.functional.class_balance import finding_probabilities
from cxrignite.runs.exported_model import ExportedFinding, ExportedModel, Reading
from cxrignite.stops import held_signals
from cxrignite.terminal import print_output
from cxrignite.workflows.predict.listing import Listing, list_images
from cxrignite.workflows.predict.onnx_model import OnnxModel
from cxrignite.workflows.predict.output import (
    OutputPaths,
    OutputSettings,
    PredictionFile,
    one_or_all,
    open_output,
    table_columns,
)
from cxrignite.workflows.predict.request import Request
from cxrignite.workflows.predict.rows import BatchWriter, FindingCells, check_finite, table_rows
from cxrignite.workflows.predict.summary import DescribedFinding, describe_unreadable, summary
from cxrignite.write_guard import parts_limited

BATCH_SIZE = 8
"""Small, so that the first score comes soon; larger ones are no faster on a CPU."""

_logger = logging.getLogger(__name__)

_Read = Callable[[str], tuple[NDArray[np.uint8], bool]]


def predict_exported(folder: Path, request: Request) -> None:
    """Score new images with an exported ONNX model; resume an interrupted command.

    The table, messages and errors are those of `predict`. torch is only imported if the run has
    transforms in `data.preprocess`.

    Args:
        folder: The folder that `export` wrote.
        request: Images and output, without maps and without a site.

    Raises:
        CheckpointError: A file of the folder is missing, damaged or was changed.
        RecipeError: onnxruntime is missing; the folder has another format; the output is in use or
            has other settings; or there are no probabilities to convert to a prevalence.
        NonFiniteError: A score is NaN or infinite.
        DataError: There is no image; or, after all others are scored, some cannot be read.
    """
    paths = OutputPaths(request.output)
    model = ExportedModel.load(folder)
    listing = list_images(model.reading.patients, request)
    if listing.source is None and model.reading.patients.cells == "hidden":
        _logger.warning(
            "the column patient is empty: the run replaces the names of patients by hashes with a "
            "secret, which an exported model does not hold"
        )
    shifts = [_prior_shift(each) for each in model.findings]
    request.check_prevalence(model.classes, model.exclusive, shifts)
    num_threads = _num_cores()
    scorer = OnnxModel(folder, model, batch_size=BATCH_SIZE, num_threads=num_threads)
    columns = table_columns(len(model.findings), model.exclusive)
    with ExitStack() as stack:
        if model.reading.preprocess:
            # A received file names these transforms, and some of MONAI's can write files.
            stack.enter_context(parts_limited(paths.table.parent))
        read = _reader(model.reading)
        output = stack.enter_context(
            open_output(
                *(paths, _settings(folder, model, request), columns),
                num_findings=len(model.findings),
                overwrite=request.overwrite,
            )
        )
        records = listing.without(output.names)
        if output.num_rows:
            _logger.info(
                "%s has %d images already: %d more to score",
                paths.table,
                output.num_rows,
                len(records),
            )
        num_before = output.num_rows
        rows = _RowMaker(model, scorer, shifts, listing, request.prevalence)
        # MONAI's transforms share a state of their module.
        num_readers = 1 if model.reading.preprocess else num_threads
        _score(records, read, rows, output, model.reading, num_readers)
        described = [
            DescribedFinding(
                each.name,
                each.point is not None,
                each.point is not None and each.point.lower_threshold is not None,
                each.alarm,
                each.description,
            )
            for each in model.findings
        ]
        print_output(summary(output, described, request, paths, num_before))
        if output.num_unreadable:
            raise DataError(describe_unreadable(output, len(listing.records), paths))


class _RowMaker:
    """Maker of the rows of a batch."""

    def __init__(
        self,
        model: ExportedModel,
        scorer: OnnxModel,
        shifts: Sequence[PriorShift],
        listing: Listing,
        prevalence: float | None,
    ) -> None:
        self._model, self._scorer, self._shifts = model, scorer, shifts
        self._listing, self._prevalence = listing, prevalence
        self._findings = [
            FindingCells(
                each.name,
                each.point.threshold if each.point else None,
                each.point.lower_threshold if each.point else None,
                each.status,
            )
            for each in model.findings
        ]

    def of(
        self, records: Sequence[ImageRecord], images: NDArray[np.uint8]
    ) -> list[Sequence[object]]:
        """Return the rows of some images, at least one, shape `(n, 1, H, W)`."""
        score, decision = self._scorer(images)
        check_finite(records, score)
        exclusive = self._model.exclusive
        return table_rows(
            records,
            [self._listing.patient_of(record) for record in records],
            self._findings,
            score,
            # In float64 as in `predict`, also at the training prevalence.
            finding_probabilities(
                score, self._shifts, exclusive=exclusive, prevalence=self._prevalence
            ),
            [
                [finding.decisions[each] if each >= 0 else "" for each in of_finding.tolist()]
                for finding, of_finding in zip(self._model.findings, decision.T, strict=True)
            ],
            self._model.classes if exclusive else (),
        )


def _score(
    records: Sequence[ImageRecord],
    read: _Read,
    rows: _RowMaker,
    output: PredictionFile,
    reading: Reading,
    num_threads: int,
) -> None:
    """Score images in order, and write each batch before the next is scored.

    A signal ends it after the current batch, or at once while it waits for images.
    """
    if not records:
        return
    batches = read_batches(
        records, read, reading.run_size, batch_size=BATCH_SIZE, num_threads=num_threads
    )
    with BatchWriter(records, output, reading.grey_scaling) as writer:
        for batch in batches:
            with held_signals():
                read_records = [records[each] for each in batch.positions]
                writer.write(batch, rows.of(read_records, batch.images) if read_records else [])


def _reader(reading: Reading) -> _Read:
    """Return the function that reads and preprocesses an image, shape `(1, H, W)`."""
    if reading.preprocess:
        from cxrignite.data.pipeline import Pipeline
        from cxrignite.data.transforms import named_transform

        pipeline = Pipeline(
            [named_transform(each.class_path, each.init_args) for each in reading.preprocess],
            image_size=reading.image_size,
            grey_scaling=reading.grey_scaling,
        )

        def read_and_transform(path: str) -> tuple[NDArray[np.uint8], bool]:
            image, is_blank = pipeline.read_and_judge(path)
            return image.numpy(), is_blank

        return read_and_transform

    def read(path: str) -> tuple[NDArray[np.uint8], bool]:
        grey = read_image(path, reading.image_size, reading.grey_scaling)
        return grey[np.newaxis], is_nearly_blank(grey)

    return read


def _prior_shift(finding: ExportedFinding) -> PriorShift:
    stored = finding.prior_shift
    return PriorShift(
        stored.num_negative, stored.num_positive, stored.sampled_prevalence, stored.pos_weight
    )


def _settings(folder: Path, model: ExportedModel, request: Request) -> OutputSettings:
    points = [each.point for each in model.findings]
    chosen_on = next((each.chosen_on for each in points if each), "val")
    return OutputSettings(
        run=str(folder),
        version=__version__,
        weights_sha256=model.weights_sha256,
        operating_point=model.operating_point,
        prevalence=request.prevalence,
        chosen_on=model.operating_point or chosen_on,
        threshold=one_or_all([each.threshold if each else None for each in points]),
        lower_threshold=one_or_all([each.lower_threshold if each else None for each in points]),
        status=one_or_all([each.status or None for each in model.findings]),
        image_size=model.reading.run_size,
        batch_size=BATCH_SIZE,
        precision=model.weights_dtype,
        device="cpu",
        views=model.views,
        batch_norm_sha256=model.batch_norm_sha256,
        exported_sha256=model.sha256,
    )


def _num_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
