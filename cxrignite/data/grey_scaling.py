"""Scaling of stored values to grey levels between black and white."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

GreyScaling = Literal["file", "stored", "minmax", "percentiles"]
"""The rule for which values become black and white.

`file`: the window or VOI LUT in the file. A file of more than 8 bits without either is scaled as in
common viewers, from the lowest to the highest value of its pixels. The other rules ignore windows
and VOI LUTs. `stored`: the full range that the file format can store. `minmax`: the lowest and the
highest value of the pixels. `percentiles`: their 1st and 99th percentile; the rest is clipped.
"""

MIN_SHARE = 0.05
"""Smallest share of the grey range that the middle 98 % of an image's pixels must use."""

_SHARES = {"minmax": (0.0, 1.0), "percentiles": (0.01, 0.99)}
_BLOCK = 2**20
_MAX_NAMED = 3

_logger = logging.getLogger(__name__)

Values = NDArray[np.float64]
Bits = NDArray[np.unsignedinteger[Any]]


def grey_levels(values: Values, low: float, high: float) -> NDArray[np.uint8]:
    """Scale values to `[0, 255]`, rounded; values outside of `low` and `high` are clipped.

    Args:
        values: Any shape.
        low: The value that becomes 0.
        high: The value that becomes 255; if it is not above `low`, the result is 0 everywhere.
    """
    if not low < high:
        return np.zeros(values.shape, np.uint8)
    return np.floor(((values - low) * 255 / (high - low)).clip(0, 255) + 0.5).astype(np.uint8)


def used_range(
    bits: Bits, values: Values, scaling: Literal["minmax", "percentiles"]
) -> tuple[float, float]:
    """Return the values of an image that become black and white.

    Args:
        bits: The pixels, as indices into `values`.
        values: Shape `(V,)`, the value of each index.
        scaling: The rule; if both percentiles are equal, minimum and maximum are used.
    """
    low, high = _at_shares(bits, values, *_SHARES[scaling])
    return _at_shares(bits, values, 0, 1) if low == high else (low, high)


def rescaled(pixels: Bits, scaling: GreyScaling) -> NDArray[np.uint8]:
    """Return the grey levels of an image in a format without a window, such as PNG.

    Args:
        pixels: Unsigned, of 8 or 16 bits.
        scaling: The rule. Under `file`, 8-bit pixels are not changed.
    """
    if pixels.itemsize == 1 and scaling in ("file", "stored"):
        return pixels.astype(np.uint8, copy=False)
    values = np.arange(2 ** (8 * pixels.itemsize), dtype=np.float64)
    low, high = 0.0, float(values[-1])
    if scaling != "stored":
        low, high = used_range(pixels, values, "minmax" if scaling == "file" else scaling)
    return np.take(grey_levels(values, low, high), pixels)


def is_nearly_blank(grey: NDArray[np.uint8]) -> bool:
    """True if the middle 98 % of the pixels use less than `MIN_SHARE` of the grey range."""
    low, high = _at_shares(grey, np.arange(256.0), 0.01, 0.99)
    return high - low < MIN_SHARE * 255


def _at_shares(bits: Bits, values: Values, first: float, second: float) -> tuple[float, float]:
    """Return the values at these shares of the sorted pixels."""
    counts = np.zeros(len(values), np.int64)
    flat = bits.reshape(-1)
    for start in range(0, flat.size, _BLOCK):  # counting takes eight bytes per pixel
        counts += np.bincount(flat[start : start + _BLOCK], minlength=len(values))
    order = np.argsort(values, kind="stable")
    ranks = np.maximum(1, np.ceil(np.array([first, second]) * flat.size))
    low, high = values[order][np.searchsorted(np.cumsum(counts[order]), ranks)]
    return float(low), float(high)


def warn_of_nearly_blank(grey_scaling: str, names: Sequence[str], num_images: int) -> None:
    """Log the number of images that use little of the grey range; nothing if there is none."""
    if not names:
        return
    more = ", ..." if len(names) > _MAX_NAMED else ""
    _logger.warning(
        "%d of %d images are nearly blank, with less than %.0f %% of the grey range: %s%s; check "
        "them, or choose another data.grey_scaling than %s",
        *(len(names), num_images, 100 * MIN_SHARE, ", ".join(names[:_MAX_NAMED]), more),
        grey_scaling,
    )
