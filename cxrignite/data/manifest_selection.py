"""Which rows of a manifest count, as what; and what was decided, told with counts."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from cxrignite.data.manifest_labels import (
    LabelReader,
    ManifestLabels,
    Unclear,
    Value,
    comparable,
    comparables,
)
from cxrignite.data.manifest_table import Table
from cxrignite.errors import DataError

_logger = logging.getLogger(__name__)

_NUM_NAMED = 5
_LABELS = {"negative": 0, "positive": 1}

T = TypeVar("T")


class Memo(dict[str, T]):
    """A function of a cell, asked once for each different cell: a million rows have few."""

    def __init__(self, function: Callable[[str], T]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, cell: str) -> T:
        value = self[cell] = self._function(cell)
        return value


class RowSelection:
    """Chooses rows by `where` and by their labels, and counts.

    Args:
        table: The manifest.
        classes: The two class names; the last one is positive.
        labels: What labels mean, and the policies for those that are not clear.
        where: From a column to the values that count.

    Raises:
        DataError: If the manifest lacks a column.
    """

    def __init__(
        self,
        table: Table,
        classes: tuple[str, str],
        labels: ManifestLabels,
        where: Mapping[str, list[Value]],
    ) -> None:
        self.columns = [table.column(name, "where") for name in where]
        self._table, self._classes, self._where = table, classes, where
        self._read = Memo(LabelReader(classes, labels).read)
        self._allowed = [Memo(_one_of(values)) for values in where.values()]
        self._policies = {
            "uncertain": labels.on_uncertain,
            "missing": labels.on_missing,
            "other": labels.on_other,
        }
        self._unclear: dict[Unclear, Counter[str]] = {
            "uncertain": Counter(),
            "missing": Counter(),
            "other": Counter(),
        }
        self._first: dict[Unclear, int] = {}
        self._num_rows = self._num_elsewhere = 0

    def label(self, line: int, cell: str, others: Sequence[str]) -> int | None:
        """The label that a row counts as, `None` where it is left out.

        Args:
            line: Where it stands.
            cell: Its label.
            others: Its cells in `columns`.
        """
        self._num_rows += 1
        for allowed, other in zip(self._allowed, others, strict=True):
            if not allowed[other]:
                self._num_elsewhere += 1
                return None
        meaning = self._read[cell]
        if isinstance(meaning, int):
            return meaning
        self._first.setdefault(meaning, line)
        self._unclear[meaning][cell] += 1
        return _LABELS.get(self._policies[meaning])

    def check(self) -> None:
        """Refuses labels that a policy refuses, and a manifest without a row that counts.

        Raises:
            DataError: If there is one; it counts all and names the first.
        """
        refused = [kind for kind in self._first if self._policies[kind] == "raise"]
        if refused:
            self._refuse(min(refused, key=self._first.__getitem__))
        if not self._num_rows:
            raise DataError(f"{self._table.path} must have a row a film, it has only a header")

    def left_out(self) -> str:
        """How many rows were left out, and for what reason; empty where none was."""
        reasons = {"by where": self._num_elsewhere}
        for kind, cells in self._unclear.items():
            if self._policies[kind] == "skip":
                reasons[_plural(kind)] = cells.total()
        total = sum(reasons.values())
        told = ", ".join(f"{num:,} {reason}" for reason, num in reasons.items() if num)
        return f"{total:,} of {self._num_rows:,} rows left out: {told}" if total else ""

    def tell(self) -> None:
        """Logs what was left out, and what was counted as a class by a policy."""
        if self.left_out():
            _logger.info("%s: %s", self._table.path, self.left_out())
        for kind, cells in self._unclear.items():
            policy = self._policies[kind]
            if cells and policy in _LABELS:
                _logger.info(
                    "%s: %s %s counted as %s",
                    *(self._table.path, f"{cells.total():,}", _plural(kind)),
                    self._classes[_LABELS[policy]],
                )

    def found(self) -> str:
        """The values of the columns and of the labels that no row got past, for messages."""
        for name, allowed in zip(self._where, self._allowed, strict=True):
            if not any(allowed.values()):
                return f"column '{name}' holds {_some(list(allowed))}"
        return f"the labels are {_some([cell for cell in self._read if cell])}"

    def _refuse(self, kind: Unclear) -> None:
        cells, place = self._unclear[kind], self._table.at(self._first[kind])
        first, num = next(iter(cells)), cells.total()
        rows = f"{num:,} row{'s' if num > 1 else ''} like it"
        if kind == "missing":
            raise DataError(
                f"{place}: the row has no label ({rows}); labels.on_missing may be skip or negative"
            )
        if kind == "uncertain":
            raise DataError(
                f"{place}: label '{first}' is uncertain ({rows}); "
                "labels.on_uncertain may be skip, negative or positive"
            )
        common = [f"'{cell}' {num:,}" for cell, num in cells.most_common(_NUM_NAMED)]
        more = ", ..." if len(cells) > _NUM_NAMED else ""
        raise DataError(
            f"{place}: label '{first}' is of neither class, {' or '.join(self._classes)} "
            f"({rows}: {', '.join(common)}{more}); labels.values may name it, "
            "labels.on_other may be skip or negative"
        )


def _one_of(values: list[Value]) -> Callable[[str], bool]:
    wanted = {text for value in values for text in comparables(value)}
    return lambda cell: comparable(cell) in wanted


def _plural(kind: Unclear) -> str:
    return {
        "uncertain": "uncertain labels",
        "missing": "without a label",
        "other": "labels of neither class",
    }[kind]


def _some(cells: list[str]) -> str:
    more = ", ..." if len(cells) > _NUM_NAMED else ""
    return ", ".join(f"'{cell}'" for cell in cells[:_NUM_NAMED]) + more
