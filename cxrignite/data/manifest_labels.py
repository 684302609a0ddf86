"""Reading of a manifest's label cells: which findings are present, absent or unclear."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Literal, TypeVar

from cxrignite.errors import RecipeError, suggestion

Value = bool | int | float | str
Unclear = Literal["uncertain", "missing", "other"]
Meaning = int | Unclear

KINDS: tuple[Unclear, ...] = ("uncertain", "missing", "other")
"""The kinds of labels that do not say if a finding is present."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?")
# Long numbers of images or patients may differ in the last digits only, which floats would lose.
_EXACT = Context(prec=1000)
# Characters around and between the parts of a list as Python prints it.
_LIST_MARKS = " \t\r\n[](){}'\""
# YAML reads each of these words as a boolean; the manifest may have any of them.
_BOOLEANS = {True: ("true", "yes", "on"), False: ("false", "no", "off")}
# Cells of a finding's own column.
_OWN = {"negative": [0, False], "positive": [1, True]}
_PER_FINDING = {
    "on_uncertain": ("raise", "skip", "unknown", "negative", "positive"),
    "on_missing": ("raise", "skip", "unknown", "negative"),
}

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


@dataclass(frozen=True)
class ManifestLabels:
    """Meaning of the cells in a manifest's label columns.

    Attributes:
        values: Labels of each class. A class that is not listed has its own name as label; if none
            of two classes is listed, 0 and 1 count too. Case is ignored, and `1` equals `1.0`. If
            each finding has its own column: the cells that mean `positive` and `negative`, by
            default 1 and 0.
        separator: Text between several labels in a cell; null takes the cell as one label. Among
            several, positive counts before uncertain, uncertain before negative, all before others.
        uncertain: Labels that leave a finding open; -1 if each finding has its own column and
            nothing is listed.
        on_uncertain: Handling of uncertain labels: stop, leave the image out, or count the finding
            as unknown, negative or positive. An image without any known label is left out.
        on_missing: Handling of an empty label.
        on_other: Handling of a label that is not listed above.
        per_finding: Other values of `on_uncertain` and `on_missing` by finding.
        rows: `agree`: all rows of an image must have the same label. `any_positive`: a finding is
            positive if one of the rows says so; else negative if one does.
    """

    values: dict[str, list[Value]] | None = None
    separator: str | None = None
    uncertain: list[Value] = field(default_factory=list)
    on_uncertain: Literal["raise", "skip", "unknown", "negative", "positive"] = "raise"
    on_missing: Literal["raise", "skip", "unknown", "negative"] = "raise"
    on_other: Literal["raise", "skip", "negative", "positive"] = "raise"
    per_finding: dict[str, dict[str, str]] | None = None
    rows: Literal["agree", "any_positive"] = "agree"


class LabelReader:
    """Reader of label cells.

    Args:
        classes: The name of "nothing found", then those of the findings.
        settings: Meaning of the labels.
        own_columns: True if each finding has its own column; else one column names the findings.
        exclusive: True if a label names one class.

    Attributes:
        policies: The handling of each kind of unclear label, for each finding.
        own_columns: As given.

    Raises:
        RecipeError: If `settings` name a class that does not exist, a label has two meanings, or
            settings contradict each other.
    """

    def __init__(
        self,
        classes: Sequence[str],
        settings: ManifestLabels,
        *,
        own_columns: bool = False,
        exclusive: bool = False,
    ) -> None:
        findings = classes[1:]
        if settings.separator == "":
            raise RecipeError("labels.separator must be a text or null, got ''")
        self.policies = _policies(findings, settings)
        if exclusive and (own_columns or settings.separator or settings.rows != "agree"):
            raise RecipeError(
                "exclusive classes must have one label column with one class in each cell, got a "
                "column for each finding, labels.separator or labels.rows; remove it, or remove "
                "exclusive"
            )
        if own_columns and settings.separator:
            raise RecipeError(
                "labels.separator needs a label column, but each finding has its own column; "
                "remove one of them"
            )
        if len(findings) > 1 and not own_columns:
            self._check_no_positive_policy()
        self.own_columns = own_columns
        self._separator = settings.separator
        self._num_findings = len(findings)
        self._meanings: dict[str, Meaning] = {}
        values = _cell_values(settings.values) if own_columns else {}
        values = values or _class_values(classes, settings.values)
        for label, (name, each) in enumerate(values.items()):
            self._add(each, label, f"labels.values.{name}")
        self._uncertain = settings.uncertain or ([-1] if own_columns else [])
        self._add(self._uncertain, "uncertain", "labels.uncertain")
        # An unlisted label that counts as the finding counts like one that is listed.
        others_first = settings.on_other == "positive" and not own_columns
        self._order: tuple[Unclear, ...] = ("other", "uncertain") if others_first else KINDS[:1]
        self._cells: Memo[str, Meaning] = Memo(self._own_cell)

    def read(self, cells: Sequence[str]) -> tuple[Meaning, ...]:
        """Return the meaning of a row for each finding: 1, 0, or the kind of unclear label.

        Args:
            cells: The cells of the label columns: one, or one for each finding.
        """
        if self.own_columns:
            return tuple(map(self.read_cell, cells))
        found = {self._meanings.get(comparable(part), "other") for part in self.parts(cells[0])}
        rest: Meaning = next((each for each in self._order if each in found), "missing")
        if rest == "missing" and found:
            rest = "other" if found == {"other"} else 0
        return tuple([1 if each in found else rest for each in range(1, self._num_findings + 1)])

    def read_cell(self, cell: str) -> Meaning:
        """Return the meaning of a cell of a finding's own column.

        Args:
            cell: The cell.
        """
        return self._cells[cell]

    def parts(self, cell: str) -> list[str]:
        """Return the labels in a cell that are not empty."""
        if self._separator is None:
            parts = [cell.strip()]
        else:
            parts = [part.strip(_LIST_MARKS) for part in cell.split(self._separator)]
        return [part for part in parts if part]

    def is_listed(self, label: str) -> bool:
        """True if the recipe gives a label a meaning."""
        return comparable(label) in self._meanings

    def is_uncertain(self, label: str) -> bool:
        """True if the recipe lists a label as uncertain."""
        return self._meanings.get(comparable(label)) == "uncertain"

    def _own_cell(self, cell: str) -> Meaning:
        text = comparable(cell)
        return self._meanings.get(text, "other") if text else "missing"

    def _add(self, values: Iterable[Value], meaning: Meaning, key: str) -> None:
        for value in values:
            for text in comparables(value):
                if self._meanings.setdefault(text, meaning) != meaning:
                    raise RecipeError(f"{key} must differ from the other labels, got {value!r}")

    def _check_no_positive_policy(self) -> None:
        """Raise if an unclear label of a whole image counts as every one of several findings."""
        for kind, policies in self.policies.items():
            if "positive" in policies:
                raise RecipeError(
                    f"labels.on_{kind} must not be positive if one column names several findings: "
                    "the label does not say which finding; list it in labels.values of a finding, "
                    "or use two classes"
                )


def _policies(findings: Sequence[str], settings: ManifestLabels) -> dict[Unclear, tuple[str, ...]]:
    """Return the policy of each finding for each kind of unclear label."""
    per_finding = settings.per_finding or {}
    for name, policies in per_finding.items():
        if name not in findings:
            raise RecipeError(
                f"labels.per_finding must name a finding, got '{name}'{suggestion(name, findings)}"
            )
        for key, policy in policies.items():
            if key not in _PER_FINDING:
                raise RecipeError(
                    f"labels.per_finding.{name} has no key '{key}'{suggestion(key, _PER_FINDING)}"
                )
            if policy not in _PER_FINDING[key]:
                raise RecipeError(
                    f"labels.per_finding.{name}.{key} must be one of "
                    f"{', '.join(_PER_FINDING[key])}, got '{policy}'"
                )
    defaults: dict[Unclear, str] = {
        "uncertain": settings.on_uncertain,
        "missing": settings.on_missing,
        "other": settings.on_other,
    }
    return {
        kind: tuple([per_finding.get(each, {}).get(f"on_{kind}", default) for each in findings])
        for kind, default in defaults.items()
    }


def _class_values(
    classes: Sequence[str], values: Mapping[str, list[Value]] | None
) -> Mapping[str, Sequence[Value]]:
    if not values:
        # The order of three and more classes is the recipe's own: numbers must be listed.
        numbered = len(classes) == 2
        return {name: [name, *[label] * numbered] for label, name in enumerate(classes)}
    _check_names(values, classes, "a class")
    return {name: values.get(name, [name]) for name in classes}


def _cell_values(values: Mapping[str, list[Value]] | None) -> Mapping[str, Sequence[Value]]:
    _check_names(values or {}, list(_OWN), "positive or negative")
    return {**_OWN, **(values or {})}


def _check_names(values: Iterable[str], known: Sequence[str], what: str) -> None:
    for name in values:
        if name not in known:
            raise RecipeError(
                f"labels.values must name {what}, got '{name}'{suggestion(name, known)}"
            )


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
