"""Which images of an evaluation are worth a look, chosen while their scores come in."""

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
"""`errors`: called wrongly, the farthest from the threshold; `most_sure` and `least_sure`: the
farthest from it and the nearest to it, right or wrong; `random`: whatever they score."""

UNKNOWN_LABEL = -1
"""The label of an image that nobody has labelled; it is no miss."""


@dataclass(frozen=True)
class ImageChoice:
    """Which images are chosen, and how many at most.

    What is chosen from a part of the images holds all that would be chosen from the whole and lies
    in that part. So images can be chosen batch by batch, and on several processes, by keeping what
    has been chosen so far.

    Args:
        threshold: A score of at least this, in `[0, 1]`, is called positive.
        kinds: Kinds of images. Of the errors and the most sure, every other one is called positive
            as far as there are any.
        max_images: Images of each kind at most, at least 1.
        indices: Images that are chosen in any case.
        seed: Of `random`.

    Raises:
        ValueError: If a setting is out of its range.

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

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {self.threshold}")
        unknown = [kind for kind in self.kinds if kind not in get_args(ImageKind)]
        if unknown:
            known = ", ".join(get_args(ImageKind))
            raise ValueError(f"kinds must be of {known}, got {unknown[0]!r}")
        if self.max_images < 1:
            raise ValueError(f"max_images must be at least 1, got {self.max_images}")

    def of(
        self,
        y_score: Sequence[float] | NDArray[np.float64],
        y_true: Sequence[float] | NDArray[np.int64],
        index: Sequence[int] | NDArray[np.int64],
    ) -> dict[int, list[str]]:
        """Choose from images.

        Args:
            y_score: Probabilities of the positive class, shape `(N,)`.
            y_true: Labels, 0, 1 or `UNKNOWN_LABEL`, shape `(N,)`.
            index: What each image is called, shape `(N,)`; it breaks ties.

        Returns:
            From position in the arguments to what the image was chosen as, in the order of
            choice: `fixed` for `indices`, or kinds.

        Raises:
            NonFiniteError: If a score is NaN or infinite.
            ValueError: If a score is outside `[0, 1]`, or a label is another.
        """
        check_finite(y_score)
        labels, names = np.asarray(y_true), np.asarray(index)
        is_known = labels != UNKNOWN_LABEL
        scores, _ = checked_scores(y_score, np.where(is_known, labels, 0))
        called = scores >= self.threshold
        distance = np.abs(scores - self.threshold)
        is_miss = is_known & (labels != called)
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
                among = everything[is_miss] if kind == "errors" else everything
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
    """Of the images called positive and of the others in turn, the farthest first."""
    farthest = among[np.lexsort((names[among], -distance[among]))]
    turn = np.empty(len(farthest), dtype=np.int64)
    for side in (True, False):
        of_side = called[farthest] == side
        turn[of_side] = np.arange(of_side.sum())
    return farthest[np.lexsort((~called[farthest], turn))]


def _draw(seed: int, name: int) -> int:
    """A random number of an image that no other image has a part in."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7])
