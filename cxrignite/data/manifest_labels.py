"""What the label cells of a manifest mean: positive, negative, or not clear."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Literal

from cxrignite.errors import RecipeError

Value = bool | int | float | str
Unclear = Literal["uncertain", "missing", "other"]

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?")
# Long numbers of films or patients differ in their last digits, which floats would lose.
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
        uncertain: Labels that leave it open which class a film is of.
        on_uncertain: What to do with those: stop, leave the film out, or count it as a class.
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
            near = difflib.get_close_matches(name, classes, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(classes)}"
            raise RecipeError(f"labels.values: no class '{name}'; {hint}")
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
