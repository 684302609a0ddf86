"""Scoring of images, batch by batch, into rows of the table; a row may have a map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine
from numpy.typing import NDArray
from torch import Tensor

from cxrignite.data import ImageRecord
from cxrignite.data.image_stream import ImageStream
from cxrignite.data.read_batches import ReadBatch
from cxrignite.durable_write import writing
from cxrignite.engines import BatchScorer
from cxrignite.engines.batches import fill_up
from cxrignite.functional import UNKNOWN_LABEL, CamMethod, grad_cam
from cxrignite.handlers import Explanation, GracefulStop
from cxrignite.handlers.map_picture import as_png, explanation_pictures, picture_name
from cxrignite.nn import BinaryClassifier
from cxrignite.output_marker import mark_output
from cxrignite.reporting.wording import status
from cxrignite.runs.decision_rule import DecisionRule, probabilities
from cxrignite.workflows.predict.output import PredictionFile
from cxrignite.workflows.predict.rows import (
    BatchWriter,
    FindingCells,
    check_finite,
    table_rows,
)

_MAP_BATCH_SIZE = 16  # small, to save memory


def score_images(
    records: Sequence[ImageRecord],
    stream: ImageStream,
    rows: RowMaker,
    output: PredictionFile,
    grey_scaling: str,
) -> None:
    """Score images in order, and write each batch before the next is scored.

    A signal ends it after the current batch.

    Args:
        records: At least one image.
        stream: Reads them.
        rows: Makes the rows of the table.
        output: The open table.
        grey_scaling: The setting of the grey scaling, for a warning.

    Raises:
        NonFiniteError: A score or a map is NaN or infinite.
        CxrIgniteError: The table cannot be written, or a worker process was killed.
        StopRequested: A signal has arrived.
    """
    with BatchWriter(records, output, grey_scaling) as writer:

        def step(engine: Engine, batch: ReadBatch[Tensor]) -> None:
            read = [records[each] for each in batch.positions]
            writer.write(batch, rows.of(read, batch.images, output.num_rows) if read else [])

        engine = Engine(step)
        GracefulStop().attach(engine)
        try:
            engine.run(stream, max_epochs=1)
        finally:
            stream.close()


@dataclass(frozen=True)
class RowMaker:
    """Maker of the rows of the table.

    Attributes:
        scorer: The run's model, with a fixed batch size.
        rules: The decision rule of each finding.
        patient_of: Returns the patient of an image.
        classes: Names of exclusive classes, the first one without a score; empty for others.
        drawers: Draw the maps of each finding; empty if none are requested.
        prevalence: Share of positives for the probabilities, in (0, 1); None is that of the
            training images.
    """

    scorer: BatchScorer
    rules: Sequence[DecisionRule]
    patient_of: Callable[[ImageRecord], str]
    classes: Sequence[str] = ()
    drawers: Sequence[MapDrawer] = ()
    prevalence: float | None = None

    def of(self, records: Sequence[ImageRecord], images: Tensor, first: int) -> list[Sequence[Any]]:
        """Return the rows of some images, by image; `first` numbers their maps, drawn before."""
        rules, patients = self.rules, [self.patient_of(record) for record in records]
        scores = self.scorer(images)[0].cpu().double().numpy().reshape(len(records), len(rules))
        check_finite(records, scores)
        maps = [
            drawer.draw(records, patients, images, np.ascontiguousarray(y_score), first)
            for drawer, y_score in zip(self.drawers, scores.T, strict=False)
        ]
        return table_rows(
            records,
            patients,
            [
                FindingCells(rule.finding, rule.threshold, rule.lower_threshold, status(rule))
                for rule in rules
            ],
            scores,
            probabilities(rules, scores, self.prevalence),
            [
                [rule.decide(score) or "" for score in y_score.tolist()]
                for rule, y_score in zip(rules, scores.T, strict=True)
            ],
            self.classes,
            maps,
        )


class MapDrawer:
    """Drawer of the maps of all scored images.

    A map's pixels do not depend on the other images of its batch, and its strength is not compared
    with other maps. So a resumed command gives the same pictures as an uninterrupted one.

    Args:
        method: The method, such as `grad_cam`.
        classes: The negative and the positive class.
        model: The classifier.
        layer: The layer of the maps.
        directory: The folder of all pictures; created if missing.
        threshold: The threshold of the decisions in the captions.
        lower: A score below it is negative, if the images between both are referred.
        finding: Position of the finding among the model's outputs.
        subfolder: Folder of this finding's pictures inside of `directory`; empty for none.
        exclusive: True if the findings are exclusive classes.
    """

    def __init__(
        self,
        method: CamMethod,
        classes: tuple[str, str],
        model: BinaryClassifier,
        layer: str,
        directory: Path,
        threshold: float,
        lower: float | None = None,
        finding: int = 0,
        subfolder: str = "",
        exclusive: bool = False,
    ) -> None:
        self._exclusive = exclusive
        self._finding, self._below = finding, f"{subfolder}/" if subfolder else ""
        self._method, self._classes = method, classes
        self._model, self._layer = model, layer
        self._directory, self._threshold, self._lower = directory, threshold, lower
        self._device = next(model.parameters()).device
        mark_output(directory)
        (directory / subfolder).mkdir(exist_ok=True)

    def draw(
        self,
        records: Sequence[ImageRecord],
        patients: Sequence[str],
        images: Tensor,
        y_score: NDArray[np.float64],
        first: int,
    ) -> list[tuple[str, str]]:
        """Draw the maps of a batch.

        Args:
            records: Its `n` images.
            patients: Their patients.
            images: Shape `(n, 1, H, W)`, uint8.
            y_score: Their scores, shape `(n,)`.
            first: Number of the first image; the others follow.

        Returns:
            The cells of `MAP_COLUMNS` for each image: the highest value of the map, 0 if no region
            contributes to the class; and the file of image, map and caption. The file with only
            the map over the image has the suffix `.overlay.png`.

        Raises:
            NonFiniteError: A map is NaN or infinite.
            CxrIgniteError: A picture cannot be written.
        """
        drawn = []
        for start in range(0, len(records), _MAP_BATCH_SIZE):
            part = images[start : start + _MAP_BATCH_SIZE]
            # Filled to one shape, as for the scores, so that the last bits are always the same.
            filled = fill_up(part, _MAP_BATCH_SIZE).to(self._device)
            found = grad_cam(
                *(self._model, filled, self._layer),
                method=self._method,
                output=self._finding,
                exclusive=self._exclusive,
            )
            for row in range(len(part)):
                number = start + row
                record = records[number]
                explanation = Explanation(
                    about={"path": record.name, "patient": patients[number]},
                    selection=("fixed",),
                    y_score=float(y_score[number]),
                    y_true=UNKNOWN_LABEL,
                    threshold=self._threshold,
                    image=part[row],
                    importance=found.maps[row].cpu(),
                    raw_max=float(found.raw_max[row]),
                    strength=None,
                    name=picture_name(first + number, record.name),
                    lower=self._lower,
                )
                drawn.append(self._write(explanation))
        return drawn

    def _write(self, explanation: Explanation) -> tuple[str, str]:
        where = f"{self._method} at {self._layer}"
        pictures = explanation_pictures(explanation, self._classes, where)
        names = (self._below + explanation.picture, self._below + explanation.overlay)
        for name, pixels in zip(names, pictures, strict=True):
            # Not durably: a picture counts only if its image has a row, and else is drawn again.
            path = self._directory / name
            with writing(path):
                path.write_bytes(as_png(pixels))
        return repr(explanation.raw_max), names[0]
