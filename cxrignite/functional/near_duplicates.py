"""Images that show the same picture: copied, compressed again, resized, brightened, mirrored."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

MIN_CORRELATION = 0.97
"""Of thumbnails of 32 x 32 pixels. Others of ChestXRay2017 reach .976, synthetic ones .99:
those are told from copies by their detail."""

MIN_DETAIL_CORRELATION = 0.6
"""Of the detail of 128 x 128 pixels. Different images that are alike as thumbnails reach .48 (real)
and .57 (synthetic). A copy that was compressed hard, halved, blurred, brightened or turned by one
degree keeps .64 and more, and nine of ten that were cropped by 1 % on each side."""

Likeness = Literal["same", "inverted", "mirrored"]

_NUM_COMPONENTS = 24
_DETAIL_SIGMA = 2.0
_DETAIL_BORDER = 4
_MIN_SPREAD = 2.0
_FITTED_TO = 500
_BLOCK = 2_048
_MAX_PARTNERS = 20


class NearPair(NamedTuple):
    """Two images that show the same picture.

    Attributes:
        first: Index of the one that comes first.
        second: Index of the other.
        correlation: Of their pixels, in `[MIN_CORRELATION, 1]`; after inverting or mirroring one.
        likeness: What has to be done to one for that: nothing, inverting its greys, or mirroring it
            from left to right.
    """

    first: int
    second: int
    correlation: float
    likeness: Likeness


def near_duplicates(
    thumbnails: ArrayLike, min_correlation: float = MIN_CORRELATION
) -> list[NearPair]:
    """Find pairs of images whose thumbnails are correlated.

    A thumbnail less its mean and divided by its norm is a point on a sphere, and the correlation of
    two is `1 - d^2 / 2` with `d` their distance. A projection makes no distance longer, so a search
    among the first principal components misses no pair, and what it finds is then measured.

    Args:
        thumbnails: Grey images, shape `(N, H, W)`, with levels from 0 to 255. One that is nearly
            blank (its deviation is below 2 levels) is like nothing.
        min_correlation: In `(0, 1]`.

    Returns:
        Each pair once, by its indices; in the first way of `Likeness` in which it is alike. Of an
        image that is like more than 20 others, the pairs with the 20 nearest, and those whose
        nearest it is: a picture that is there ten thousand times would make fifty million.

    Raises:
        ValueError: If a shape or number is another.

    Examples:
        >>> random = np.random.default_rng(0)
        >>> records = random.uniform(0, 255, (3, 8, 8))
        >>> records[2] = 250 - 0.5 * records[0]
        >>> near_duplicates(records)[0][:2], near_duplicates(records)[0].likeness
        ((0, 2), 'inverted')
    """
    images = np.asarray(thumbnails, dtype=np.float32)
    if images.ndim != 3:
        raise ValueError(f"thumbnails must have shape (N, H, W), got {images.shape}")
    if not 0 < min_correlation <= 1:
        raise ValueError(f"min_correlation must be in (0, 1], got {min_correlation}")
    shown = np.flatnonzero(images.std(axis=(1, 2)) >= _MIN_SPREAD)
    if shown.size < 2:
        return []
    upright = _on_sphere(images[shown])
    mirrored = _on_sphere(images[shown][:, :, ::-1])
    axes = _principal_axes(upright)
    found: dict[tuple[int, int], NearPair] = {}
    ways: dict[Likeness, NDArray[np.float32]]
    ways = {"same": upright, "inverted": -upright, "mirrored": mirrored}
    for likeness, others in ways.items():
        pairs = _close_pairs(upright @ axes, others @ axes, min_correlation)
        for start in range(0, len(pairs), _BLOCK):
            first, second = pairs[start : start + _BLOCK].T
            correlations = np.einsum("nd,nd->n", upright[first], others[second])
            for each in np.flatnonzero(correlations >= min_correlation):
                key = (int(shown[first[each]]), int(shown[second[each]]))
                correlation = min(float(correlations[each]), 1.0)
                found.setdefault(key, NearPair(*key, correlation, likeness))
    return [found[key] for key in sorted(found)]


def detail_correlation(first: ArrayLike, second: ArrayLike, likeness: Likeness = "same") -> float:
    """How far two images share what is finer than anatomy: noise, edges, the exposure itself.

    That is each image less its blurred self (a Gaussian of 2 pixels). Two images of one anatomy
    look alike at the size of a thumbnail; two copies of one image do so in detail too.

    Args:
        first: Grey image, shape `(H, W)`, such as 128 x 128.
        second: Another one, shape `(H, W)`.
        likeness: What is done to the second before.

    Returns:
        The correlation, in `[-1, 1]`; 0 where an image has no detail.

    Raises:
        ValueError: If the shapes are not one.
    """
    from scipy.ndimage import gaussian_filter

    images = [np.asarray(each, dtype=np.float32) for each in (first, second)]
    if images[0].ndim != 2 or images[0].shape != images[1].shape:
        shapes = " and ".join(str(image.shape) for image in images)
        raise ValueError(f"images must have one shape (H, W), got {shapes}")
    if likeness == "mirrored":
        images[1] = images[1][:, ::-1]
    if likeness == "inverted":
        images[1] = -images[1]
    inside = slice(_DETAIL_BORDER, -_DETAIL_BORDER)
    details = [(each - gaussian_filter(each, _DETAIL_SIGMA))[inside, inside] for each in images]
    details = [each - each.mean() for each in details]
    norm = float(np.linalg.norm(details[0]) * np.linalg.norm(details[1]))
    return float((details[0] * details[1]).sum() / norm) if norm > 0 else 0.0


def _on_sphere(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each image less its mean and of length 1, shape `(N, H * W)`."""
    flat: NDArray[np.float32] = images.reshape(len(images), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    return flat


def _principal_axes(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Orthonormal directions in which the points differ most, shape `(D, K)`."""
    some = points[:: -(-len(points) // _FITTED_TO)]
    _, _, axes = np.linalg.svd(some - some.mean(axis=0), full_matrices=False)
    return np.ascontiguousarray(axes[:_NUM_COMPONENTS].T)


def _close_pairs(
    points: NDArray[np.float32], others: NDArray[np.float32], min_correlation: float
) -> NDArray[np.intp]:
    """Pairs `(i, j)`, `i < j`, whose distance allows for the correlation, shape `(P, 2)`."""
    from sklearn.neighbors import NearestNeighbors

    # Single precision is off by less than the last term.
    radius = float(np.sqrt(2 * (1 - min_correlation))) + 1e-3
    # One more, since an image is nearest to itself. Trees take ten times as long in 24 dimensions.
    num_partners = min(_MAX_PARTNERS + 1, len(points))
    search = NearestNeighbors(n_neighbors=num_partners, algorithm="brute").fit(others)
    distances, partners = search.kneighbors(points)
    row, column = np.nonzero(distances <= radius)
    pairs = np.sort(np.stack([row, partners[row, column]], axis=1), axis=1)
    # Most pairs are met twice, and an image may be its own mirror image.
    return np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0)
