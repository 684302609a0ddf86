"""Floor 0: tensors and arrays in, numbers out; no Ignite, no files, no state."""

from __future__ import annotations

from cxrignite.functional.class_balance import (
    ClassCounts,
    balanced_weights,
    class_counts,
    soft_pos_weight,
)
from cxrignite.functional.confusion import Confusion, confusion_at
from cxrignite.functional.gathering import gather_rows
from cxrignite.functional.operating_point import (
    OperatingPoint,
    Verdict,
    select_operating_point,
)

__all__ = [
    "ClassCounts",
    "Confusion",
    "OperatingPoint",
    "Verdict",
    "balanced_weights",
    "class_counts",
    "confusion_at",
    "gather_rows",
    "select_operating_point",
    "soft_pos_weight",
]
