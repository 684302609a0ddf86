"""Near-duplicate images: copied, recompressed, resized, brightened, inverted or mirrored."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

MIN_CORRELATION = 0.97
"""Default for thumbnails of 32 x 32 pixels. Different images reach .976 in ChestXRay2017 and .99 if
synthetic; their detail distinguishes them from copies."""

MIN_DETAIL_CORRELATION = 0.6
"""Minimum for the detail of 128 x 128 pixels. Different images with similar thumbnails reach .48
(real) and .57 (synthetic). Copies that are strongly compressed, halved, blurred, brightened or
rotated by one degree keep at least .64, as do nine of ten copies cropped by 1 % on each side."""

Likeness = Literal["same", "inverted", "mirrored"]

_NUM_COMPONENTS = 24
_DETAIL_SIGMA = 2.0
_DETAIL_BORDER = 4
_MIN_SPREAD = 2.0
_FITTED_TO = 500
_BLOCK = 2_048
_MAX_PARTNERS = 20


class NearPair(NamedTuple):
    """A pair of near-duplicate images.

    Attributes:
        first: Index of the first image.
        second: Index of the second image, above `first`.
        correlation: Correlation of their pixels, in `[MIN_CORRELATION, 1]`, after the change that
            `likeness` names.
        likeness: Change of one image that makes it equal to the other: none (`same`), inverted
            greys, or mirrored from left to right.
    """

    first: int
    second: int
    correlation: float
    likeness: Likeness


def near_duplicates(
    thumbnails: ArrayLike, min_correlation: float = MIN_CORRELATION
) -> list[NearPair]:
    """Find pairs of images with correlated thumbnails.

    A thumbnail minus its mean and divided by its norm is a point on a sphere. The correlation of
    two is `1 - d^2 / 2`, where `d` is their distance. A projection never increases a distance, so a
    search in the first principal components finds every pair. The correlation of each candidate is
    then computed exactly.

    Args:
        thumbnails: Grey images, shape `(N, H, W)`, with values from 0 to 255. Nearly blank images
            (standard deviation below 2) are ignored.
        min_correlation: Minimum correlation, in `(0, 1]`.

    Returns:
        Each pair once, sorted by its indices, with the first matching `Likeness`. The search keeps
        the 20 nearest neighbours of each image, since an image that occurs ten thousand times would
        give fifty million pairs.

    Raises:
        ValueError: If the shape is wrong or `min_correlation` is out of range.

    Examples:
        >>> random = np.random.default_rng(0)
        >>> images = random.uniform(0, 255, (3, 8, 8))
        >>> images[2] = 250 - 0.5 * images[0]
        >>> near_duplicates(images)[0][:2], near_duplicates(images)[0].likeness
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
    """Return the correlation of the fine detail of two images, such as noise and edges.

    The detail is an image minus its Gaussian blur (2 pixels). Images of the same anatomy have
    similar thumbnails; only copies of the same image have similar detail.

    Args:
        first: Grey image, shape `(H, W)`, such as 128 x 128.
        second: Other grey image, shape `(H, W)`.
        likeness: Change to apply to the second image first.

    Returns:
        The correlation, in `[-1, 1]`; 0 if an image has no detail.

    Raises:
        ValueError: If the shapes differ.
    """
    from scipy.ndimage import gaussian_filter

    images = [np.asarray(each, dtype=np.float32) for each in (first, second)]
    if images[0].ndim != 2 or images[0].shape != images[1].shape:
        shapes = " and ".join(str(image.shape) for image in images)
        raise ValueError(f"images must have the same shape (H, W), got {shapes}")
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
    """Return each image minus its mean and divided by its norm, shape `(N, H * W)`."""
    flat: NDArray[np.float32] = images.reshape(len(images), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    return flat


def _principal_axes(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the first principal axes of the points, shape `(D, K)`."""
    some = points[:: -(-len(points) // _FITTED_TO)]
    _, _, axes = np.linalg.svd(some - some.mean(axis=0), full_matrices=False)
    return np.ascontiguousarray(axes[:_NUM_COMPONENTS].T)


def _close_pairs(
    points: NDArray[np.float32], others: NDArray[np.float32], min_correlation: float
) -> NDArray[np.intp]:
    """Return pairs `(i, j)`, `i < j`, close enough for the correlation, shape `(P, 2)`."""
    from sklearn.neighbors import NearestNeighbors

    # The last term exceeds the error of single precision.
    radius = float(np.sqrt(2 * (1 - min_correlation))) + 1e-3
    # One more, since each image is its own nearest neighbour. Brute force, since trees take ten
    # times as long in 24 dimensions.
    num_partners = min(_MAX_PARTNERS + 1, len(points))
    search = NearestNeighbors(n_neighbors=num_partners, algorithm="brute").fit(others)
    distances, partners = search.kneighbors(points)
    row, column = np.nonzero(distances <= radius)
    pairs = np.sort(np.stack([row, partners[row, column]], axis=1), axis=1)
    # Most pairs are found twice, and an image may be its own mirror image.
    return np.unique(pairs[pairs[:, 0] < pairs[:, 1]], axis=0)
