"""Boxes of a manifest: several rows of an image have one each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cxrignite.data.manifest_table import Table
from cxrignite.data.masks import BOXES, Box, attribute_of, box_is_valid, format_boxes
from cxrignite.data.sources import ImageRecord, Label
from cxrignite.errors import DataError, RecipeError

_EMPTY = ("", "nan", "none")


def check_box_columns(columns: Sequence[str]) -> None:
    """Check the number of box columns.

    Raises:
        RecipeError: If there are neither none nor four.
    """
    if len(columns) not in (0, 4):
        raise RecipeError(
            f"columns.boxes must be the four columns of x, y, width and height, got {list(columns)}"
        )


class BoxCollector:
    """Collector of the boxes of images, from the rows of a table.

    Args:
        table: The table.
        names: The columns of x, y, width and height.
        findings: Names of the findings.
    """

    def __init__(self, table: Table, names: Sequence[str], findings: Sequence[str]) -> None:
        self.columns = [table.column(name, "columns.boxes") for name in names]
        self._table = table
        self._findings = findings
        self._boxes: dict[str, dict[str, list[Box]]] = {}

    def add(self, line: int, name: str, label: Label, cells: Sequence[str]) -> None:
        """Add the box of a row to the findings that this row names.

        Raises:
            DataError: If the cells are no box, or the row names no finding.
        """
        if all(cell.strip().casefold() in _EMPTY for cell in cells):
            return
        try:
            x, y, width, height = map(float, cells)
        except ValueError:
            x = y = width = height = math.nan
        if not box_is_valid((x, y, width, height)):
            raise DataError(
                f"{self._table.at(line)}: a box must be x, y, width and height, the sides above 0, "
                f"got {', '.join(map(repr, cells))}"
            )
        labels = label if isinstance(label, tuple) else (label,)
        found = [finding for finding, each in zip(self._findings, labels, strict=True) if each == 1]
        if not found:
            raise DataError(
                f"{self._table.at(line)}: a row with a box must have a finding, "
                f"the label of '{name}' has none"
            )
        of_image = self._boxes.setdefault(name, {})
        for finding in found:
            key = attribute_of(BOXES, finding if len(self._findings) > 1 else "")
            of_image.setdefault(key, []).append((x, y, width, height))

    def with_boxes(self, records: Sequence[ImageRecord]) -> list[ImageRecord]:
        """Return the records, with the boxes as attributes."""
        return [
            record._replace(
                attributes={
                    **record.attributes,
                    **{key: format_boxes(each) for key, each in boxes.items()},
                }
            )
            if (boxes := self._boxes.get(record.name))
            else record
            for record in records
        ]
