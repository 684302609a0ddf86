"""Selection of a manifest's rows, the labels they count as, and counts of both."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

from cxrignite.data.manifest_labels import (
    KINDS,
    LabelReader,
    Meaning,
    Memo,
    Unclear,
    Value,
    comparable,
    comparables,
)
from cxrignite.data.manifest_table import Table
from cxrignite.data.sources import UNKNOWN, ImageRecord, Label
from cxrignite.errors import DataError, nearest
from cxrignite.terminal import counted

_logger = logging.getLogger(__name__)

_NUM_NAMED = 5
# A column named by mistake may hold patients' names: messages show only what looks like categories.
_MAX_CATEGORIES = 12
_MAX_CATEGORY_LENGTH = 40
_ROWS_PER_CATEGORY = 2
_RAISE, _SKIP = -3, -2  # below all labels, so that the least one decides
_LABELS = {"negative": 0, "positive": 1, "unknown": UNKNOWN, "skip": _SKIP, "raise": _RAISE}
_PLURALS = {
    "uncertain": "uncertain labels",
    "missing": "without a label",
    "other": "labels of neither class",
}
_WITHOUT = "without any known label"
_PLURALS_OF_SEVERAL = {
    "uncertain": "uncertain labels",
    "missing": "missing labels",
    "other": "labels of no listed class",
}

Key = tuple[str, ...]


class RowSelection:
    """Selection of rows by `where` and by their labels, with counts.

    Args:
        table: The manifest.
        label_columns: Positions of the label columns: one, or one for each finding; None if a site
            has no column of a finding, which is then unknown in all images.
        classes: The name of "nothing found", then those of the findings.
        reader: Reader of the label cells, with the policies for unclear ones.
        where: The accepted values of each column.
        exclusive: True if an image has at most one finding.
        is_site: True if a run exists already: its images may lack labels of some of the findings.

    Attributes:
        columns: Positions of the cells it needs, those of the labels first.

    Raises:
        DataError: If the manifest lacks a column.
    """

    def __init__(
        self,
        table: Table,
        label_columns: Sequence[int | None],
        classes: Sequence[str],
        reader: LabelReader,
        where: Mapping[str, list[Value]],
        *,
        exclusive: bool = False,
        is_site: bool = False,
    ) -> None:
        self._has_column = [column is not None for column in label_columns]
        any_column = next(column for column in label_columns if column is not None)
        # The cells of a finding without a column are not used.
        labels = [any_column if column is None else column for column in label_columns]
        self.columns = [*labels, *(table.column(name, "where") for name in where)]
        self._num_labels = len(label_columns)
        self._table, self._classes, self._where = table, classes, where
        self._findings = classes[1:]
        self._exclusive, self._reader = exclusive, reader
        self._is_site = is_site and len(self._findings) > 1 and not exclusive
        self._allowed = [
            {text for value in values for text in comparables(value)} for values in where.values()
        ]
        self._codes = [
            {0: 0, 1: 1, **{kind: _LABELS[reader.policies[kind][at]] for kind in KINDS}}
            for at in range(len(self._findings))
        ]
        self._own_codes = [
            Memo(partial(_code, reader, codes if has_column else None))
            for codes, has_column in zip(self._codes, self._has_column, strict=False)
        ]
        self._labels: Memo[Key, Label | Literal["rejected"] | None] = Memo(self._label_of)
        self._shared: Memo[Label, Label] = Memo(lambda label: label)
        self._counts: Counter[Key] = Counter()
        self._first: dict[Key, int] = {}  # lines of rejected cells

    def label(self, line: int, cells: Sequence[str]) -> Label | None:
        """Return the label that a row counts as, `None` if it is left out.

        Args:
            line: The row's line.
            cells: The cells at `columns`.
        """
        key = tuple(cells)
        self._counts[key] += 1
        label = self._labels[key]
        if isinstance(label, str):
            self._first.setdefault(key, line)
            return None
        return label

    def checked(self, records: list[ImageRecord]) -> list[ImageRecord]:
        """Check the labels and that each class has images; log the rows left out.

        Args:
            records: The records of all selected rows.

        Returns:
            The records; of a site, a finding that its table does not label is unknown in all.

        Raises:
            DataError: If a policy rejects a label (the message counts all and names the first), or
                a class has no image.
        """
        if self._first:
            self._reject(next(iter(self._first)))
        if not self._counts:
            raise DataError(f"{self._table.path} must have one row per image, it has only a header")
        counts = Counter(record.label for record in records)
        if len(self._findings) == 1:
            self._check_two_classes(counts)
        elif self._is_site and counts:
            records = self._without_unlabelled(records, counts)
        else:
            self._check_findings(counts)
        self._log()
        return records

    def _without_unlabelled(
        self, records: list[ImageRecord], counts: Mapping[Label, int]
    ) -> list[ImageRecord]:
        """Return a site's records with the findings unknown that it does not label; log these.

        In a column of names, a finding that no row names was not looked for, as far as one knows:
        else all images would count as negative.
        """
        own = self._reader.own_columns
        labels = [label for label in counts if isinstance(label, tuple)]
        missing = [
            at
            for at in range(len(self._findings))
            if not any(label[at] == 1 or (own and label[at] == 0) for label in labels)
        ]
        if not missing:
            return records
        near = next((at for at in missing if self._near(self._findings[at])), None)
        if len(missing) == len(self._findings) or near is not None:
            at = missing[0] if near is None else near
            raise DataError(
                f"{self._table.path} must have images with a finding of the run, got 0 of "
                f"{sum(counts.values()):,} with '{self._findings[at]}'{self._left_out_text()}; "
                f"{self._near(self._findings[at]) or self._found(at)}"
            )
        _logger.info(
            "%s: no labels for %s at this site: unknown in all images",
            *(self._table.path, ", ".join(self._findings[at] for at in missing)),
        )
        known = [at not in missing for at in range(len(self._findings))]
        changed: Memo[Label, Label] = Memo(lambda label: _masked(label, known))
        return [record._replace(label=changed[record.label]) for record in records]

    def _check_two_classes(self, counts: Mapping[Label, int]) -> None:
        numbers = counts.get(0, 0), counts.get(1, 0)
        if not all(numbers):
            text = " and ".join(f"{n:,} {c}" for n, c in zip(numbers, self._classes, strict=True))
            raise DataError(
                f"{self._table.path} must have images of both classes, got {text}"
                f"{self._left_out_text()}; {self._found(0)}"
            )

    def _check_findings(self, counts: Mapping[Label, int]) -> None:
        """Raise if there is no known label, or a finding is in no image, or in every image."""
        path, total = self._table.path, f"{sum(counts.values()):,}"
        if not counts:
            raise DataError(
                f"{path} must have images with a known label, got none{self._left_out_text()}; "
                f"{self._found(0)}"
            )
        nothing = (0,) * len(self._findings)
        if self._exclusive and nothing not in counts:
            raise DataError(
                f"{path} must have images of each class, got 0 of {total} with "
                f"'{self._classes[0]}'{self._left_out_text()}; {self._found(0)}"
            )
        for at, name in enumerate(self._findings):
            for value, what in ((1, "with"), (0, "without")):
                if not any(isinstance(each, tuple) and each[at] == value for each in counts):
                    raise DataError(
                        f"{path} must have images with and without each finding, got 0 of {total} "
                        f"{what} '{name}'{self._left_out_text()}; "
                        f"{self._near(name) or self._found(at)}"
                    )

    def _near(self, finding: str) -> str:
        """Return a hint if an unlisted label resembles a finding; it is no patient's name then."""
        if self._reader.own_columns:
            return ""
        unlisted = self._unlisted()
        near = nearest(finding, sorted(unlisted))
        return f"did you mean '{near}' ({counted(unlisted[near], 'row')})?" if near else ""

    def _unlisted(self) -> Counter[str]:
        """Return the labels in the label column that the recipe does not list."""
        unlisted: Counter[str] = Counter()
        for key, num in self._counts.items():
            for part in self._reader.parts(key[0]):
                if not self._reader.is_listed(part):
                    unlisted[part] += num
        return unlisted

    def _left_out_text(self) -> str:
        return f" ({self._left_out()})" if self._left_out() else ""

    def _left_out(self) -> str:
        """Return the counts of rows left out, by reason; empty if there are none."""
        reasons: Counter[str] = Counter()
        for key, num in self._counts.items():
            if self._labels[key] is None:
                reasons[self._reason(key)] += num
        order = ["by where", *map(self._plural, KINDS), _WITHOUT]
        text = ", ".join(f"{reasons[each]:,} {each}" for each in order if reasons[each])
        rows = f"{self._counts.total():,}"
        return f"{reasons.total():,} of {rows} rows left out: {text}" if text else ""

    def _reason(self, key: Key) -> str:
        """Return why rows with these cells are left out."""
        if self._is_elsewhere(key):
            return "by where"
        unclear = list(self._unclear(key))
        if len(self._findings) > 1:
            unclear = [each for each in unclear if each[2] == "skip"]
        return self._plural(unclear[0][0]) if unclear else _WITHOUT

    def _log(self) -> None:
        """Log the rows left out, and the unclear labels that a policy counted, a line for each."""
        if self._left_out():
            _logger.info("%s: %s", self._table.path, self._left_out())
        counts = self._num_unclear()
        for kind in KINDS:
            of_kind = [counts[kind, at] for at in range(len(self._findings))]
            if any(of_kind):
                _logger.info("%s: %s", self._table.path, self._counted(kind, of_kind))

    def _num_unclear(self) -> Counter[tuple[Meaning, int]]:
        """Count the unclear labels of the selected rows, by their kind and the finding."""
        kept = {key: num for key, num in self._counts.items() if self._labels[key] is not None}
        counts: Counter[tuple[Meaning, int]] = Counter()
        if self._reader.own_columns:  # by column, since most combinations of cells are rare
            for at in (at for at, has_column in enumerate(self._has_column) if has_column):
                for cell, num in _column(kept, at).items():
                    counts[self._reader.read_cell(cell), at] += num
            return counts
        for key, num in kept.items():
            for at, meaning in enumerate(self._reader.read(key[: self._num_labels])):
                counts[meaning, at] += num
        return counts

    def _counted(self, kind: Unclear, counts: Sequence[int]) -> str:
        """Return the text about one kind of labels: their number, and what they count as.

        Args:
            kind: The kind.
            counts: The number of such labels of each finding.
        """
        what, policies = self._plural(kind), self._reader.policies[kind]
        of_row = len(counts) == 1 or not self._reader.own_columns
        if of_row and len(set(counts)) == len(set(policies)) == 1:
            policy = policies[0]
            as_class = len(counts) == 1 or policy == "negative"
            name = self._classes[_LABELS[policy]] if as_class else policy
            return f"{counts[0]:,} {what} counted as {name}"
        parts = [
            f"{finding} {num:,} as {policy}"
            for finding, num, policy in zip(self._findings, counts, policies, strict=True)
            if num
        ]
        return f"{sum(counts):,} {what} counted: {', '.join(parts)}"

    def _found(self, at: int) -> str:
        """Return the values of the first column that excludes every row, for messages.

        Args:
            at: The label column to describe if no other column excludes every row.
        """
        for place, (name, allowed) in enumerate(zip(self._where, self._allowed, strict=True)):
            cells = _column(self._counts, self._num_labels + place)
            if not any(comparable(cell) in allowed for cell in cells):
                return f"column '{name}' holds {_some(cells)}"
        if self._reader.own_columns:
            return f"the labels of '{self._findings[at]}' are {_some(_column(self._counts, at))}"
        return f"the labels are {_some(_column(self._counts, 0))}"

    def _is_elsewhere(self, key: Key) -> bool:
        """True if `where` leaves out rows with these cells."""
        cells = key[self._num_labels :]
        return any(
            comparable(cell) not in allowed
            for cell, allowed in zip(cells, self._allowed, strict=True)
        )

    def _unclear(self, key: Key) -> Iterator[tuple[Unclear, int, str]]:
        """Yield kind, finding and policy of each unclear label in a row's cells."""
        for at, meaning in enumerate(self._reader.read(key[: self._num_labels])):
            if isinstance(meaning, str) and self._has_column[at if self._reader.own_columns else 0]:
                yield meaning, at, self._reader.policies[meaning][at]

    def _label_of(self, key: Key) -> Label | Literal["rejected"] | None:
        """Return what rows with these cells count as."""
        if self._where and self._is_elsewhere(key):
            return None
        if self._reader.own_columns:
            label = tuple([codes[cell] for codes, cell in zip(self._own_codes, key, strict=False)])
        else:
            meanings = self._reader.read(key[: self._num_labels])
            label = tuple([codes[each] for codes, each in zip(self._codes, meanings, strict=True)])
        lowest = min(label)
        if lowest == _RAISE:
            return "rejected"
        if lowest == _SKIP or max(label) == UNKNOWN:
            return None
        return self._shared[label if len(label) > 1 else label[0]]

    def _reject(self, rejected: Key) -> None:
        """Raise the error about an unclear label whose policy is `raise`."""
        kind, finding = next(
            (kind, at) for kind, at, policy in self._unclear(rejected) if policy == "raise"
        )
        own, at = self._reader.own_columns, finding if self._reader.own_columns else 0
        cells: Counter[str] = Counter()
        for key, num in self._counts.items():
            if not self._is_elsewhere(key) and self._meaning(key, finding) == kind:
                cells[key[at].strip()] += num
        place, first, num = (
            self._table.at(self._first[rejected]),
            rejected[at].strip(),
            cells.total(),
        )
        rows = f"{num:,} such row{'s' if num > 1 else ''}"
        of = f" of '{self._findings[finding]}'" if own else ""
        unknown = "unknown, " if len(self._findings) > 1 else ""
        if kind == "missing":
            raise DataError(
                f"{place}: the row has no label{of} ({rows}); "
                f"set labels.on_missing to {unknown}skip or negative"
            )
        text = _are_categories(_column(self._counts, at))
        is_shown = text or self._reader.is_uncertain(first)
        label = f"label '{first}'{of}" if is_shown else f"the label{of}"
        if kind == "uncertain":
            positive = "negative or positive" if own or len(self._findings) == 1 else "or negative"
            raise DataError(
                f"{place}: {label} is uncertain ({rows}); "
                f"set labels.on_uncertain to {unknown}skip, {positive}"
            )
        if text:
            common = [f"'{cell}' {num:,}" for cell, num in cells.most_common(_NUM_NAMED)]
            rows += f": {', '.join(common)}{', ...' if len(cells) > _NUM_NAMED else ''}"
        raise DataError(f"{place}: {label} {self._other(rows)}")

    def _other(self, rows: str) -> str:
        """Return the end of the error about a label that the recipe does not list."""
        if self._reader.own_columns:
            return (
                f"is neither positive nor negative ({rows}); add it to labels.values or "
                "labels.uncertain, or set labels.on_other to skip or negative"
            )
        if len(self._findings) == 1:
            return (
                f"belongs to neither class, {' or '.join(self._classes)} ({rows}); "
                "add it to labels.values, or set labels.on_other to skip or negative"
            )
        seen = {at for key in self._counts for at in self._present(key)}
        absent = [name for at, name in enumerate(self._findings) if at not in seen]
        near = next((f"'{name}': {hint}" for name in absent if (hint := self._near(name))), "")
        # The classes of a run that exists cannot change.
        way = (
            "list it in labels.values of the finding that it means"
            if self._is_site
            else "add its class to classes"
        )
        return (
            f"belongs to no class{' of the run' if self._is_site else ''} ({rows})"
            + (f", and no row has {near} Otherwise " if near else "; ")
            + f"{way}, or set labels.on_other to skip or negative"
        )

    def _present(self, key: Key) -> list[int]:
        cells = key[: self._num_labels]
        return [at for at, meaning in enumerate(self._reader.read(cells)) if meaning == 1]

    def _meaning(self, key: Key, finding: int) -> Meaning:
        return self._reader.read(key[: self._num_labels])[finding]

    def _plural(self, kind: Unclear) -> str:
        return (_PLURALS if len(self._findings) == 1 else _PLURALS_OF_SEVERAL)[kind]


def _code(reader: LabelReader, codes: Mapping[Meaning, int] | None, cell: str) -> int:
    """Return what a cell of a finding's own column counts as; unknown without a column."""
    return UNKNOWN if codes is None else codes[reader.read_cell(cell)]


def _masked(label: Label, known: Sequence[bool]) -> Label:
    """Return the labels of an image, some of them made unknown."""
    assert isinstance(label, tuple)  # of several findings
    return tuple([each if keep else UNKNOWN for each, keep in zip(label, known, strict=True)])


def _column(counts: Mapping[Key, int], at: int) -> Counter[str]:
    """Return the number of rows by value of one of the columns."""
    found: Counter[str] = Counter()
    for cells, num in counts.items():
        found[cells[at].strip()] += num
    return found


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
