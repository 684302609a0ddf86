"""Conversion of a DICOM's stored values to grey levels, by a table of all possible values.

The header's steps (modality, value of interest, photometric interpretation; PS3.3, C.11.1 and
C.11.2) treat pixels independently. They are computed once for each of at most 65,536 values and
looked up for each pixel. This is exact and needs no float64 images.

pydicom's `apply_modality_lut` and `apply_voi_lut` (3.0.2) are not used. They reverse a window over
falling values, take 3,840 wrong entries of an 8-bit table of 4,096, and do not return which values
are black and white. The tests compare with them in the cases that they handle correctly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cxrignite.data.dicom_elements import DicomRefusal, Elements
from cxrignite.data.grey_scaling import Bits, GreyScaling, Values, grey_levels, used_range

WINDOW_CENTER, WINDOW_WIDTH, WINDOW_FUNCTION = 0x0028_1050, 0x0028_1051, 0x0028_1056
RESCALE_INTERCEPT, RESCALE_SLOPE = 0x0028_1052, 0x0028_1053
MODALITY_LUT, VOI_LUT = 0x0028_3000, 0x0028_3010
_LUT_DESCRIPTOR, _LUT_DATA = 0x0028_3002, 0x0028_3006

VALUE_TAGS = frozenset(
    {WINDOW_CENTER, WINDOW_WIDTH, WINDOW_FUNCTION, RESCALE_INTERCEPT, RESCALE_SLOPE}
    | {MODALITY_LUT, VOI_LUT}
)

# Above it, float64 cannot represent every whole number.
_LARGEST = 2.0**53


@dataclass(frozen=True)
class GreyRange:
    """The result of the header's steps for every possible value, and its range.

    Attributes:
        values: Shape `(2**bits_stored,)`, indexed by the stored bits taken as unsigned.
        low: The lowest nominal value.
        high: The highest nominal value.
        scaling: Rule for the values that become black and white; `stored` takes `low` and `high`.
    """

    values: Values
    low: float
    high: float
    scaling: GreyScaling = "stored"

    def levels(self, bits: Bits) -> NDArray[np.uint8]:
        """Return the grey level of each of `values`.

        Args:
            bits: The pixels, which set black and white under `minmax` and `percentiles`.
        """
        low, high = self.low, self.high
        if self.scaling in ("minmax", "percentiles"):
            low, high = used_range(bits, self.values, self.scaling)
        return grey_levels(self.values, low, high)


def grey_range(
    header: Elements, bits_stored: int, is_signed: bool, scaling: GreyScaling = "file"
) -> GreyRange:
    """Compute the steps of a header for every possible value.

    Args:
        header: The elements `VALUE_TAGS` that the file has.
        bits_stored: Bits of a value, 1 to 16.
        is_signed: True if values are two's complement.
        scaling: Rule for the values that become black and white; only `file` applies the window or
            VOI LUT.

    Raises:
        DicomRefusal: If a step of the header is not valid.
    """
    bits = np.arange(2**bits_stored)
    stored = np.where(bits >= 2 ** (bits_stored - 1), bits - 2**bits_stored, bits)
    values = (stored if is_signed else bits).astype(np.float64)
    with np.errstate(over="ignore"):  # a value far from a narrow window
        modality, has_table = _modality(header, values, is_signed)
        displayed = _voi(header, modality) if scaling == "file" else None
    if scaling != "file":
        return replace(modality, scaling=scaling)
    # 8-bit values are shown in full, like a JPEG: they were written for display.
    return displayed or replace(
        modality, scaling="stored" if bits_stored <= 8 and not has_table else "minmax"
    )


def _modality(header: Elements, values: Values, is_signed: bool) -> tuple[GreyRange, bool]:
    """Apply the modality LUT or rescale, or neither; also return True if it is a LUT."""
    table = _looked_up(header, MODALITY_LUT, "Modality LUT", values, is_signed)
    if table is not None:
        return table, True
    pair = _pair(header, RESCALE_SLOPE, RESCALE_INTERCEPT, "RescaleSlope and RescaleIntercept")
    if pair is not None:
        slope, intercept = pair
        values = values * slope + intercept
        if not np.abs(values).max() < _LARGEST:
            raise DicomRefusal("its RescaleSlope or RescaleIntercept is too large")
        if not values.min() < values.max():
            raise DicomRefusal(f"its RescaleSlope makes all values equal, got {slope:g}")
    return GreyRange(values, values.min(), values.max()), False


def _voi(header: Elements, modality: GreyRange) -> GreyRange | None:
    """Apply the first VOI LUT, else the first window; return `None` if there is neither."""
    is_signed = modality.low < 0
    table = _looked_up(header, VOI_LUT, "VOI LUT", modality.values, is_signed)
    if table is not None:
        return table
    pair = _pair(header, WINDOW_CENTER, WINDOW_WIDTH, "WindowCenter and WindowWidth")
    if pair is None:
        return None
    center, width = pair
    function = header.text(WINDOW_FUNCTION) or "LINEAR"
    if function not in {"LINEAR", "LINEAR_EXACT", "SIGMOID"}:
        raise DicomRefusal(
            "its VOILUTFunction must be LINEAR, LINEAR_EXACT or SIGMOID, got something else"
        )
    least = "at least 1" if function == "LINEAR" else "above 0"
    if width < 1 if function == "LINEAR" else width <= 0:
        raise DicomRefusal(f"its WindowWidth must be {least} for {function}, got {width:g}")
    if function == "SIGMOID":
        # Its ends are infinitely far away: values are in (0, 1).
        power = np.clip(-4 * (modality.values - center) / width, -700, 700)
        return GreyRange(1 / (1 + np.exp(power)), 0, 1)
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return GreyRange((modality.values > center).astype(np.float64), 0, 1)
    return GreyRange(np.clip((modality.values - center) / width + 0.5, 0, 1), 0, 1)


def _looked_up(
    header: Elements, tag: int, name: str, values: Values, is_signed: bool
) -> GreyRange | None:
    """Apply a lookup table of the header; return `None` if it has none or an empty one.

    The nominal range is that of the table's bits. Some tables have larger entries than their
    descriptor allows: then the range ends at the largest entry.
    """
    item = header.first_item(tag, frozenset({_LUT_DESCRIPTOR, _LUT_DATA}))
    if item is None:
        return None
    if not item.raw(_LUT_DESCRIPTOR) and not item.raw(_LUT_DATA):
        return None  # an empty item has no effect, like an empty value
    descriptor = item.words(_LUT_DESCRIPTOR)
    if len(descriptor) != 3 or not 8 <= descriptor[2] <= 16:
        raise DicomRefusal(f"its {name} has a descriptor that is not valid")
    num_entries, first, bits = int(descriptor[0]) or 2**16, int(descriptor[1]), int(descriptor[2])
    vr = item[_LUT_DESCRIPTOR].vr
    if first >= 2**15 and (vr == b"SS" or (is_signed and vr != b"US")):
        first -= 2**16
    raw = item.raw(_LUT_DATA)
    # Entries of 8 bits may be stored as two per word.
    has_bytes = bits == 8 and len(raw) in (num_entries, num_entries + 1) and num_entries > 1
    entries = np.frombuffer(raw, np.uint8) if has_bytes else item.words(_LUT_DATA)
    if len(entries) < num_entries:
        raise DicomRefusal(
            f"its {name} must have {num_entries} entries by its descriptor, got {len(entries)}"
        )
    entries = entries[:num_entries]
    index = np.clip(np.floor(values) - first, 0, num_entries - 1).astype(np.int64)
    high = max(2**bits - 1, int(entries.max()))
    return GreyRange(entries[index].astype(np.float64), 0, high)


def _pair(header: Elements, first: int, second: int, names: str) -> tuple[float, float] | None:
    """Return two numbers that must be given together; of several, the first of each."""
    values = [_first_number(header, tag, names) for tag in (first, second)]
    if values[0] is None and values[1] is None:
        return None
    if values[0] is None or values[1] is None:
        raise DicomRefusal(f"{names} must be given together, got one of them")
    return values[0], values[1]


def _first_number(header: Elements, tag: int, names: str) -> float | None:
    text = header.text(tag).split("\\")[0].strip()
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DicomRefusal(f"{names} must be numbers, got one that is not")
    return number
