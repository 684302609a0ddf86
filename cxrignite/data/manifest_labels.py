"""Reading of a manifest's label cells, selection of its rows, and counts of both."""

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
# Long numbers of images or patients may differ in the last digits only, which floats would lose.
_EXACT = Context(prec=1000)
# Characters around and between the parts of a list as Python prints it.
_LIST_MARKS = " \t\r\n[](){}'\""
# YAML reads each of these words as a boolean; the manifest may have any of them.
_BOOLEANS = {True: ("true", "yes", "on"), False: ("false", "no", "off")}


@dataclass(frozen=True)
class ManifestLabels:
    """Meaning of the cells in a manifest's label column.

    Attributes:
        values: Labels of each class. A class that is not listed has its own name as label; if none
            is listed, 0 and 1 count too. Case is ignored, and `1` equals `1.0`.
        separator: Text between several labels in a cell; null takes the cell as one label. Among
            several, positive counts before uncertain, uncertain before negative, all before others.
        uncertain: Labels that leave the class of an image open.
        on_uncertain: Handling of uncertain labels: stop, leave the image out, or count it as a
            class.
        on_missing: Handling of an empty label.
        on_other: Handling of a label that is not listed above.
    """

    values: dict[str, list[Value]] | None = None
    separator: str | None = None
    uncertain: list[Value] = field(default_factory=list)
    on_uncertain: Literal["raise", "skip", "negative", "positive"] = "raise"
    on_missing: Literal["raise", "skip", "negative"] = "raise"
    on_other: Literal["raise", "skip", "negative"] = "raise"


class LabelReader:
    """Reader of label cells.

    The last class is positive.

    Raises:
        RecipeError: If `settings` name a class that does not exist, or a label has two meanings.
    """

    def __init__(self, classes: tuple[str, str], settings: ManifestLabels) -> None:
        if settings.separator == "":
            raise RecipeError("labels.separator must be a text or null, got ''")
        self._separator = settings.separator
        self._meanings: dict[str, int | Unclear] = {}
        for label, values in enumerate(_class_values(classes, settings.values)):
            self._add(values, label, f"labels.values.{classes[label]}")
        self._add(settings.uncertain, "uncertain", "labels.uncertain")

    def read(self, cell: str) -> int | Unclear:
        """Return the meaning of a cell: 1 positive, 0 negative, or the kind of unclear label."""
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
                    raise RecipeError(f"{key} must differ from the other labels, got {value!r}")


def _class_values(
    classes: tuple[str, str], values: Mapping[str, list[Value]] | None
) -> list[list[Value]]:
    if not values:
        return [[name, label] for label, name in enumerate(classes)]
    for name in values:
        if name not in classes:
            raise RecipeError(
                f"labels.values must name a class, got '{name}'{suggestion(name, classes)}"
            )
    return [values.get(name, [name]) for name in classes]


def comparable(value: Value) -> str:
    """Return a label in the form used for comparison: lower case, numbers by value.

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
    """Return all texts that a recipe's value may be in a manifest."""
    return _BOOLEANS[value] if isinstance(value, bool) else (comparable(value),)


_logger = logging.getLogger(__name__)

_NUM_NAMED = 5
# A column named by mistake may hold patients' names: messages show only what looks like categories.
_MAX_CATEGORIES = 12
_MAX_CATEGORY_LENGTH = 40
_ROWS_PER_CATEGORY = 2
_LABELS = {"negative": 0, "positive": 1}

K = TypeVar("K")
T = TypeVar("T")


class Memo(dict[K, T]):
    """A cache of a function of cells: a million rows have few different ones."""

    def __init__(self, function: Callable[[K], T]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, key: K) -> T:
        value = self[key] = self._function(key)
        return value


class RowSelection:
    """Selection of rows by `where` and by their labels, with counts.

    Args:
        table: The manifest.
        label: The column of the label.
        classes: The two class names; the last one is positive.
        labels: Meaning of the labels, and the policies for unclear ones.
        where: The accepted values of each column.

    Attributes:
        columns: Positions of the cells it needs, the label's first.

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
        """Return the label that a row counts as, `None` if it is left out.

        The cells are those at `columns`.
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
        """Check the labels and that both classes have images; log the rows left out.

        Raises:
            DataError: If a policy rejects a label (the message counts all and names the first), or
                a class has no image.
        """
        rejected = [kind for kind in self._first if self._policies[kind] == "raise"]
        if rejected:
            self._reject(min(rejected, key=self._first.__getitem__))
        if not self._num_rows:
            raise DataError(f"{self._table.path} must have one row per image, it has only a header")
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
        """Return the counts of rows left out, by reason; empty if there are none."""
        reasons = {"by where": self._num_elsewhere}
        for kind, cells in self._unclear.items():
            if self._policies[kind] == "skip":
                reasons[_plural(kind)] = cells.total()
        total = sum(reasons.values())
        text = ", ".join(f"{num:,} {reason}" for reason, num in reasons.items() if num)
        return f"{total:,} of {self._num_rows:,} rows left out: {text}" if total else ""

    def _log(self) -> None:
        """Log the rows left out, and those that a policy counted as a class."""
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
        """Return the values of the first column that excludes every row, for messages."""
        for at, (name, allowed) in enumerate(zip(self._where, self._allowed, strict=True), 1):
            cells = self._column(at)
            if not any(comparable(cell) in allowed for cell in cells):
                return f"column '{name}' holds {_some(cells)}"
        return f"the labels are {_some(self._column(0))}"

    def _column(self, at: int) -> Counter[str]:
        """Return the number of rows by value of one of the columns."""
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

    def _reject(self, kind: Unclear) -> None:
        cells, place = self._unclear[kind], self._table.at(self._first[kind])
        first, num = next(iter(cells)), cells.total()
        rows = f"{num:,} such row{'s' if num > 1 else ''}"
        if kind == "missing":
            raise DataError(
                f"{place}: the row has no label ({rows}); set labels.on_missing to skip or negative"
            )
        text = _are_categories(self._column(0))
        label = f"label '{first}'" if text or comparable(first) in self._uncertain else "the label"
        if kind == "uncertain":
            raise DataError(
                f"{place}: {label} is uncertain ({rows}); "
                "set labels.on_uncertain to skip, negative or positive"
            )
        if text:
            common = [f"'{cell}' {num:,}" for cell, num in cells.most_common(_NUM_NAMED)]
            rows += f": {', '.join(common)}{', ...' if len(cells) > _NUM_NAMED else ''}"
        raise DataError(
            f"{place}: {label} belongs to neither class, {' or '.join(self._classes)} ({rows}); "
            "add it to labels.values, or set labels.on_other to skip or negative"
        )


def _plural(kind: Unclear) -> str:
    return {
        "uncertain": "uncertain labels",
        "missing": "without a label",
        "other": "labels of neither class",
    }[kind]


def _are_categories(cells: Counter[str]) -> bool:
    """True if a column's values are few, short and repeated, and so not names of patients."""
    found = {cell: num for cell, num in cells.items() if cell}
    return (
        len(found) <= _MAX_CATEGORIES
        and all(len(cell) <= _MAX_CATEGORY_LENGTH for cell in found)
        and sum(found.values()) >= _ROWS_PER_CATEGORY * len(found)
    )


def _some(cells: Counter[str]) -> str:
    """Return the values of a column, or only their number if they may be names."""
    if not _are_categories(cells):
        values, rows = counted(len(cells), "value"), counted(cells.total(), "row")
        return f"{values} in {rows}, not shown because they may be names"
    names = [f"'{cell}'" for cell in cells]
    return ", ".join([*names[:_NUM_NAMED], *(["..."] if len(names) > _NUM_NAMED else [])])
