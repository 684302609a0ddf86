"""Groups of images by their rarest positive finding, which sampling and splits balance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cxrignite.data.sources import UNKNOWN, Label


def rarest_positive(labels: Sequence[Label] | NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the group of each image: its rarest positive finding, or the group without one.

    A finding is rarer than another if fewer images are known to have it; of equally rare findings
    the first counts.

    Args:
        labels: 1, 0 or `UNKNOWN`, shape `(N, K)`.

    Returns:
        Shape `(N,)`: 0 without a positive finding, else the finding's number from 1.

    Examples:
        >>> rarest_positive([(0, 0), (1, 0), (1, 1), (1, -1)]).tolist()
        [0, 1, 2, 1]
    """
    is_positive = np.asarray(labels) == 1
    order = np.argsort(is_positive.sum(axis=0), kind="stable")
    by_rarity = is_positive[:, order]
    rarest = order[by_rarity.argmax(axis=1)] + 1
    return np.where(by_rarity.any(axis=1), rarest, 0).astype(np.int64)


def known_counts(labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """Count the known labels of each finding.

    Args:
        labels: 1, 0 or `UNKNOWN`, shape `(N, K)`.

    Returns:
        Shape `(K, 2)`: the negatives and the positives.
    """
    known = labels != UNKNOWN
    positive = (labels == 1).sum(axis=0)
    return np.stack([known.sum(axis=0) - positive, positive], axis=1).astype(np.int64)
