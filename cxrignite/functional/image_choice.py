"""Selection of images for review, while their scores are computed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cxrignite.functional.arrays import check_finite
from cxrignite.functional.confusion import checked_scores

ImageKind = Literal["errors", "most_sure", "least_sure", "random"]
"""`errors`: wrong decisions, the farthest from the threshold first; `most_sure`: the farthest from
the threshold, correct or wrong; `least_sure`: the nearest to it; `random`: a random sample."""

UNKNOWN_LABEL = -1
"""Label of an image without a label; its decision is never an error."""


@dataclass(frozen=True)
class ImageChoice:
    """Rules for the selection of images.

    Images can be selected batch by batch and on several processes. An image that is selected from
    the whole is also selected from every part that contains it, so it is enough to keep the
    selection so far.

    Args:
        threshold: A score at or above it is called positive; in `[0, 1]`.
        lower: A score below it is called negative, and an image between the two is referred, which
            is neither an error nor sure; None if every score below `threshold` is called negative.
        kinds: Kinds of images. Errors and the most sure images alternate between those called
            positive and those called negative, as long as there are both.
        max_images: Maximum number of images of each kind, at least 1.
        indices: Indices of images that are always selected.
        seed: Seed of `random`.

    Raises:
        ValueError: If a setting is out of range.

    Examples:
        >>> choice = ImageChoice(threshold=0.5, kinds=("errors", "most_sure"), max_images=2)
        >>> choice.of([0.9, 0.8, 0.1, 0.6], [1, 0, 0, 0], [0, 1, 2, 3])
        {1: ['errors'], 3: ['errors'], 0: ['most_sure'], 2: ['most_sure']}
    """

    threshold: float = 0.5
    kinds: Sequence[ImageKind] = get_args(ImageKind)
    max_images: int = 8
    indices: Sequence[int] = ()
    seed: int = 0
    lower: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {self.threshold}")
        if self.lower is not None and not 0 <= self.lower <= self.threshold:
            raise ValueError(f"lower must be in [0, {self.threshold}], got {self.lower}")
        unknown = [kind for kind in self.kinds if kind not in get_args(ImageKind)]
        if unknown:
            known = ", ".join(get_args(ImageKind))
            raise ValueError(f"kinds must be among {known}, got {unknown[0]!r}")
        if self.max_images < 1:
            raise ValueError(f"max_images must be at least 1, got {self.max_images}")

    def of(
        self,
        y_score: Sequence[float] | NDArray[np.float64],
        y_true: Sequence[float] | NDArray[np.int64],
        index: Sequence[int] | NDArray[np.int64],
    ) -> dict[int, list[str]]:
        """Select images.

        Args:
            y_score: Probabilities of the positive class, shape `(N,)`.
            y_true: Labels, 0, 1 or `UNKNOWN_LABEL`, shape `(N,)`.
            index: Index of each image, shape `(N,)`; it breaks ties.

        Returns:
            The reasons of each selected image by its position in the arguments, in the order of
            selection: `fixed` for `indices`, or kinds.

        Raises:
            NonFiniteError: If a score is NaN or infinite.
            ValueError: If a score is outside `[0, 1]`, or a label has another value.
        """
        check_finite(y_score)
        labels, names = np.asarray(y_true), np.asarray(index)
        is_known = labels != UNKNOWN_LABEL
        scores, _ = checked_scores(y_score, np.where(is_known, labels, 0))
        called = scores >= self.threshold
        lower = self.threshold if self.lower is None else self.lower
        distance = np.minimum(np.abs(scores - self.threshold), np.abs(scores - lower))
        decided = np.flatnonzero(called | (scores < lower))
        is_error = is_known & np.where(labels == 1, scores < lower, called)
        everything = np.arange(len(scores))
        chosen: dict[int, list[str]] = {}
        fixed = np.flatnonzero(np.isin(names, list(self.indices)))
        for position in fixed[np.argsort(names[fixed])]:
            chosen.setdefault(int(position), []).append("fixed")
        for kind in self.kinds:
            if kind == "random":
                draws = np.array([_draw(self.seed, name) for name in names.tolist()])
                order = np.lexsort((names, draws))
            elif kind == "least_sure":
                order = np.lexsort((names, distance))
            else:
                among = everything[is_error] if kind == "errors" else decided
                order = _by_turns(among, called, distance, names)
            for position in order[: self.max_images]:
                chosen.setdefault(int(position), []).append(kind)
        return chosen


def _by_turns(
    among: NDArray[np.int64],
    called: NDArray[np.bool_],
    distance: NDArray[np.float64],
    names: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Order images by distance, alternating between those called positive and negative."""
    farthest = among[np.lexsort((names[among], -distance[among]))]
    turn = np.empty(len(farthest), dtype=np.int64)
    for side in (True, False):
        of_side = called[farthest] == side
        turn[of_side] = np.arange(of_side.sum())
    return farthest[np.lexsort((~called[farthest], turn))]


def _draw(seed: int, name: int) -> int:
    """Return a random number that depends on the seed and this image only."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7])
