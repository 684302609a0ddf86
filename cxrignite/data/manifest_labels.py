"""Meaning of a manifest's label cells, and of its rows: what counts as what, with counts."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Literal, TypeVar

from cxrignite.data.manifest_table import Table
from cxrignite.data.sources import ImageRecord
from cxrignite.errors import DataError, RecipeError, suggestion
from cxrignite.terminal import counted

Value = bool | int | float | str
Unclear = Literal["uncertain", "missing", "other"]

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?")
# Long numbers of images or patients differ in their last digits, which floats would lose.
_EXACT = Context(prec=1000)
# Around and between the parts of a list as Python prints it.
_LIST_MARKS = " \t\r\n[](){}'\""
# YAML reads these words as booleans, whichever of them the manifest has.
_BOOLEANS = {True: ("true", "yes", "on"), False: ("false", "no", "off")}


@dataclass(frozen=True)
class ManifestLabels:
    """What the cells of a manifest's label column mean.

    Attributes:
        values: From a class to its labels; a class that is not named has its own name, and where
            none is named, 0 and 1 count too. Case does not matter, and `1` is `1.0`.
        separator: Between several labels in a cell; null takes the cell as one label. Among
            several, positive goes before uncertain, uncertain before negative, all before others.
        uncertain: Labels that leave it open which class an image is of.
        on_uncertain: What to do with those: stop, leave the image out, or count it as a class.
        on_missing: What to do where there is no label.
        on_other: What to do with a label that none of the above names.
    """

    values: dict[str, list[Value]] | None = None
    separator: str | None = None
    uncertain: list[Value] = field(default_factory=list)
    on_uncertain: Literal["raise", "skip", "negative", "positive"] = "raise"
    on_missing: Literal["raise", "skip", "negative"] = "raise"
    on_other: Literal["raise", "skip", "negative"] = "raise"


class LabelReader:
    """Reads label cells.

    Args:
        classes: The two class names; the last one is positive.
        settings: What the labels mean.

    Raises:
        RecipeError: If `settings` name a class that is not there, or a label means two things.
    """

    def __init__(self, classes: tuple[str, str], settings: ManifestLabels) -> None:
        if settings.separator == "":
            raise RecipeError("labels.separator must be a text between labels or null, got ''")
        self._separator = settings.separator
        self._meanings: dict[str, int | Unclear] = {}
        for label, values in enumerate(_class_values(classes, settings.values)):
            self._add(values, label, f"labels.values.{classes[label]}")
        self._add(settings.uncertain, "uncertain", "labels.uncertain")

    def read(self, cell: str) -> int | Unclear:
        """The meaning of a cell: 1 positive, 0 negative, or in which way it is not clear."""
        parts = [cell.strip()]
        if self._separator is not None:
            parts = [part.strip(_LIST_MARKS) for part in cell.split(self._separator)]
        found = {self._meanings.get(comparable(part), "other") for part in parts if part}
        order: tuple[int | Unclear, ...] = (1, "uncertain", 0, "other")
        return next((each for each in order if each in found), "missing")

    def _add(self, values: Iterable[Value], meaning: int | Unclear, key: str) -> None:
        for value in values:
            for text in comparables(value):
                if self._meanings.setdefault(text, meaning) != meaning:
                    raise RecipeError(f"{key} must be labels of their own, got {value!r} twice")


def _class_values(
    classes: tuple[str, str], values: Mapping[str, list[Value]] | None
) -> list[list[Value]]:
    if not values:
        return [[name, label] for label, name in enumerate(classes)]
    for name in values:
        if name not in classes:
            raise RecipeError(f"labels.values: no class '{name}'{suggestion(name, classes)}")
    return [values.get(name, [name]) for name in classes]


def comparable(value: Value) -> str:
    """A label in the form that labels are compared in: no case, numbers by their value.

    Examples:
        >>> comparable(" Pneumonia ")
        'pneumonia'
        >>> comparable("1.00") == comparable(1)
        True
    """
    text = str(value).strip().casefold()
    if not _NUMBER.fullmatch(text):
        return text
    return str(_EXACT.normalize(_EXACT.plus(Decimal(text))))


def comparables(value: Value) -> tuple[str, ...]:
    """All that a recipe's value may be in a manifest."""
    return _BOOLEANS[value] if isinstance(value, bool) else (comparable(value),)


_logger = logging.getLogger(__name__)

_NUM_NAMED = 5
# A column that was named by mistake may hold patients' names: only what looks like kinds is told.
_MAX_KINDS = 12
_MAX_KIND_LENGTH = 40
_ROWS_A_KIND = 2
_LABELS = {"negative": 0, "positive": 1}

K = TypeVar("K")
T = TypeVar("T")


class Memo(dict[K, T]):
    """A function of cells, asked once for each that differs: a million rows have few."""

    def __init__(self, function: Callable[[K], T]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, key: K) -> T:
        value = self[key] = self._function(key)
        return value


class RowSelection:
    """Chooses rows by `where` and by their labels, and counts.

    Args:
        table: The manifest.
        label: The column of the label.
        classes: The two class names; the last one is positive.
        labels: What labels mean, and the policies for those that are not clear.
        where: From a column to the values that count.

    Attributes:
        columns: Positions of the cells that it needs, the label's first.

    Raises:
        DataError: If the manifest lacks a column.
    """

    def __init__(
        self,
        table: Table,
        label: str,
        classes: tuple[str, str],
        labels: ManifestLabels,
        where: Mapping[str, list[Value]],
    ) -> None:
        self.columns = [
            table.column(label, "columns.label"),
            *(table.column(name, "where") for name in where),
        ]
        self._table, self._classes, self._where = table, classes, where
        self._reader = LabelReader(classes, labels)
        self._uncertain = {text for value in labels.uncertain for text in comparables(value)}
        self._allowed = [
            {text for value in values for text in comparables(value)} for values in where.values()
        ]
        self._meanings = Memo(self._meaning)
        self._counts: Counter[tuple[str, ...]] = Counter()
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

    def label(self, line: int, cells: Sequence[str]) -> int | None:
        """The label that a row counts as, `None` where it is left out.

        Args:
            line: Where it stands.
            cells: Those of `columns`.
        """
        self._num_rows += 1
        key = tuple(cells)
        self._counts[key] += 1
        meaning = self._meanings[key]
        if isinstance(meaning, int):
            return meaning
        if meaning == "elsewhere":
            self._num_elsewhere += 1
            return None
        self._first.setdefault(meaning, line)
        self._unclear[meaning][cells[0].strip()] += 1
        return _LABELS.get(self._policies[meaning])

    def check(self, records: Sequence[ImageRecord]) -> None:
        """Refuses labels that a policy refuses, and images of one class; tells what was decided.

        Args:
            records: Those of all rows that count.

        Raises:
            DataError: If a label is refused (it counts all and names the first), or a class has no
                image.
        """
        refused = [kind for kind in self._first if self._policies[kind] == "raise"]
        if refused:
            self._refuse(min(refused, key=self._first.__getitem__))
        if not self._num_rows:
            raise DataError(f"{self._table.path} must have a row an image, it has only a header")
        num_positive = sum(record.label for record in records)
        counts = (len(records) - num_positive, num_positive)
        if not all(counts):
            text = " and ".join(f"{n:,} {c}" for n, c in zip(counts, self._classes, strict=True))
            left_out = f" ({self._left_out()})" if self._left_out() else ""
            raise DataError(
                f"{self._table.path} must have images of both classes, got {text}{left_out}; "
                f"{self._found()}"
            )
        self._log()

    def _left_out(self) -> str:
        """Rows that were left out, counted by reason; empty if none was."""
        reasons = {"by where": self._num_elsewhere}
        for kind, cells in self._unclear.items():
            if self._policies[kind] == "skip":
                reasons[_plural(kind)] = cells.total()
        total = sum(reasons.values())
        text = ", ".join(f"{num:,} {reason}" for reason, num in reasons.items() if num)
        return f"{total:,} of {self._num_rows:,} rows left out: {text}" if total else ""

    def _log(self) -> None:
        """Logs what was left out, and what was counted as a class by a policy."""
        if self._left_out():
            _logger.info("%s: %s", self._table.path, self._left_out())
        for kind, cells in self._unclear.items():
            policy = self._policies[kind]
            if cells and policy in _LABELS:
                _logger.info(
                    "%s: %s %s counted as %s",
                    *(self._table.path, f"{cells.total():,}", _plural(kind)),
                    self._classes[_LABELS[policy]],
                )

    def _found(self) -> str:
        """The values of the columns and of the labels that no row got past, for messages."""
        for at, (name, allowed) in enumerate(zip(self._where, self._allowed, strict=True), 1):
            cells = self._column(at)
            if not any(comparable(cell) in allowed for cell in cells):
                return f"column '{name}' holds {_some(cells)}"
        return f"the labels are {_some(self._column(0))}"

    def _column(self, at: int) -> Counter[str]:
        """Counts of the values of one of the columns."""
        found: Counter[str] = Counter()
        for cells, num in self._counts.items():
            found[cells[at].strip()] += num
        return found

    def _meaning(self, cells: tuple[str, ...]) -> int | Unclear | Literal["elsewhere"]:
        label, *others = cells
        for allowed, other in zip(self._allowed, others, strict=True):
            if comparable(other) not in allowed:
                return "elsewhere"
        return self._reader.read(label)

    def _refuse(self, kind: Unclear) -> None:
        cells, place = self._unclear[kind], self._table.at(self._first[kind])
        first, num = next(iter(cells)), cells.total()
        rows = f"{num:,} row{'s' if num > 1 else ''} like it"
        if kind == "missing":
            raise DataError(
                f"{place}: the row has no label ({rows}); labels.on_missing may be skip or negative"
            )
        text = _are_kinds(self._column(0))
        label = f"label '{first}'" if text or comparable(first) in self._uncertain else "the label"
        if kind == "uncertain":
            raise DataError(
                f"{place}: {label} is uncertain ({rows}); "
                "labels.on_uncertain may be skip, negative or positive"
            )
        if text:
            common = [f"'{cell}' {num:,}" for cell, num in cells.most_common(_NUM_NAMED)]
            rows += f": {', '.join(common)}{', ...' if len(cells) > _NUM_NAMED else ''}"
        raise DataError(
            f"{place}: {label} is of neither class, {' or '.join(self._classes)} ({rows}); "
            "labels.values may name it, labels.on_other may be skip or negative"
        )


def _plural(kind: Unclear) -> str:
    return {
        "uncertain": "uncertain labels",
        "missing": "without a label",
        "other": "labels of neither class",
    }[kind]


def _are_kinds(cells: Counter[str]) -> bool:
    """True if a column's cells are few, short and often the same, and so no names of patients."""
    kinds = {cell: num for cell, num in cells.items() if cell}
    return (
        len(kinds) <= _MAX_KINDS
        and all(len(cell) <= _MAX_KIND_LENGTH for cell in kinds)
        and sum(kinds.values()) >= _ROWS_A_KIND * len(kinds)
    )


def _some(cells: Counter[str]) -> str:
    """The cells of a column, or where they may be names how many there are."""
    if not _are_kinds(cells):
        values, rows = counted(len(cells), "value"), counted(cells.total(), "row")
        return f"{values} in {rows}, not shown since they may be names"
    names = [f"'{cell}'" for cell in cells]
    return ", ".join([*names[:_NUM_NAMED], *(["..."] if len(names) > _NUM_NAMED else [])])
