"""Rows of the table from the scores of a batch, and the loop's progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cxrignite.data.grey_scaling import warn_of_nearly_blank
from cxrignite.data.read_batches import ReadBatch
from cxrignite.data.sources import ImageRecord
from cxrignite.errors import NonFiniteError
from cxrignite.functional import highest_class
from cxrignite.workflows.predict.output import PredictionFile


@dataclass(frozen=True)
class FindingCells:
    """Cells of a finding that are the same in all rows.

    Attributes:
        name: The finding; it is a cell if there are several.
        threshold: A score at or above it is positive; None if there is none.
        lower_threshold: A score below it is negative; None if there is one threshold.
        status: Status of the decision rule; empty without a threshold.
    """

    name: str
    threshold: float | None
    lower_threshold: float | None
    status: str


def check_finite(records: Sequence[ImageRecord], scores: NDArray[np.float64]) -> None:
    """Check the scores of a batch, shape `(n, K)`.

    Raises:
        NonFiniteError: A score is NaN or infinite.
    """
    not_finite = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(not_finite):
        name = records[not_finite[0]].name
        raise NonFiniteError(f"scores must be finite, got NaN or infinity for {name}")


def table_rows(
    records: Sequence[ImageRecord],
    patients: Sequence[str],
    findings: Sequence[FindingCells],
    scores: NDArray[np.float64],
    probability: Sequence[NDArray[np.float64] | None],
    decisions: Sequence[Sequence[str]],
    classes: Sequence[str] = (),
    map_cells: Sequence[Sequence[tuple[str, ...]]] = (),
) -> list[Sequence[Any]]:
    """Return the rows of some images, by image.

    Args:
        records: The `n` images.
        patients: Their patients.
        findings: The K findings.
        scores: Shape `(n, K)`.
        probability: Those of each finding, shape `(n,)`; None if unknown.
        decisions: Those of each finding, by image; empty texts without a threshold.
        classes: Names of exclusive classes, the first one without a score; empty for others.
        map_cells: The cells of the maps of each finding, by image; empty without maps.
    """
    highest = [[classes[each]] for each in highest_class(scores)] if classes else [[]] * len(scores)
    columns = []
    for index, finding in enumerate(findings):
        upper, lower = finding.threshold, finding.lower_threshold
        likely = probability[index]
        rest = (
            "" if upper is None else repr(upper),
            "" if lower is None else repr(lower),
            finding.status,
        )
        columns.append(
            [
                (
                    *([finding.name] if len(findings) > 1 else []),
                    repr(score),
                    "" if likely is None else repr(float(likely[number])),
                    # Decided on the score, as in all other results.
                    decisions[index][number],
                    *highest[number],
                    *rest,
                    *(map_cells[index][number] if map_cells else ()),
                )
                for number, score in enumerate(scores[:, index].tolist())
            ]
        )
    by_image = zip(records, patients, zip(*columns, strict=True), strict=True)
    return [
        (record.name, patient, *cells)
        for record, patient, of_image in by_image
        for cells in of_image
    ]


class BatchWriter:
    """Writer of batches into the open table, with a progress bar; a context manager.

    At its end it warns of nearly blank images.

    Args:
        records: The images to score.
        output: The open table.
        grey_scaling: The setting of the grey scaling, for the warning.
    """

    def __init__(
        self, records: Sequence[ImageRecord], output: PredictionFile, grey_scaling: str
    ) -> None:
        self._records, self._output, self._grey_scaling = records, output, grey_scaling
        self._num_before = output.num_rows
        self._nearly_blank: list[str] = []
        # `disable=None` hides the bar if stderr is not a terminal.
        self._bar = tqdm(
            total=self._num_before + len(records),
            initial=self._num_before,
            desc="predict",
            unit="image",
            disable=None,
        )

    def write(self, batch: ReadBatch[Any], rows: Sequence[Sequence[Any]]) -> None:
        """Write the rows of the images of a batch, and the errors of the others.

        Raises:
            CxrIgniteError: The table cannot be written.
        """
        records = self._records
        failures = {records[each].name: text for each, text in batch.failures.items()}
        self._output.append(rows, failures)
        self._nearly_blank.extend(records[each].name for each in batch.nearly_blank)
        self._bar.update(len(batch.positions) + len(failures))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        num_scored = self._output.num_rows - self._num_before
        warn_of_nearly_blank(self._grey_scaling, self._nearly_blank, num_scored)
