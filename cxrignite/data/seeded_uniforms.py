"""Random numbers that an image's own seed decides, whatever batch the image is in."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Uniforms: TypeAlias = NDArray[np.float64]
"""Shape `(N, NUM_UNIFORMS)`, each in `[0, 1)`: for one transform, a row an image."""

NUM_UNIFORMS = 8
"""Numbers that a transform gets for an image."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIXERS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


def seeded_uniforms(seeds: NDArray[np.integer], num_transforms: int) -> list[Uniforms]:
    """Draws for each image and transform, as a pure function of `(seed, transform, number)`.

    The function is SplitMix64 (Steele, Lea and Flood, 2014, https://doi.org/10.1145/2714064.2660195),
    each image and transform with a start of its own: the mixed 64-bit word of the two. A word is
    mixed by a bijection, so that no two of them start alike.

    Args:
        seeds: Shape `(N,)`, in `[0, 2**32)`.
        num_transforms: How many transforms draw.

    Returns:
        Uniforms for each transform.
    """
    words = seeds.astype(np.uint64) << np.uint64(32)
    starts = _mix(words | np.arange(num_transforms, dtype=np.uint64)[:, None])
    steps = np.arange(1, NUM_UNIFORMS + 1, dtype=np.uint64) * _GOLDEN
    # The 53 high bits: what a float64 below 1 can hold.
    return list((_mix(starts[:, :, None] + steps) >> np.uint64(11)) * 2.0**-53)


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # On arrays alone: numpy wraps round in silence there, and warns of it on single numbers.
    for shift, factor in _MIXERS:
        words = (words ^ (words >> shift)) * factor
    return words ^ (words >> np.uint64(31))
