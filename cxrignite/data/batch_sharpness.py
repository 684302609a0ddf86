"""Sharpness at random: focal spots, detectors and scans of many kinds."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr
from torch import Tensor
from torch.nn import functional

from cxrignite.data.batch_transform import BatchAugment, require_range, to_device, within
from cxrignite.data.reading import Size
from cxrignite.data.seeded_uniforms import Uniforms

_TRUNCATE = 4.0  # deviations after which the kernel ends, as scipy's and MONAI's


class RandomBlur(BatchAugment):
    """Blurs by a Gaussian, rows and columns alike; beyond its edge an image goes on as it ends.

    A weight is the Gaussian's share of a pixel's breadth, not its value at the centre, so that a
    narrow one blurs by what it should.

    Args:
        prob: Probability that an image is changed, in `[0, 1]`.
        sigma: Lowest and highest standard deviation in pixels, above 0.

    Raises:
        RecipeError: If a setting is out of range.
    """

    def __init__(self, prob: float = 0.25, sigma: tuple[float, float] = (0.4, 1.6)) -> None:
        super().__init__(prob)
        require_range("sigma", sigma, "0 < low <= high")
        self.sigma = (sigma[0], sigma[1])

    def settings(self, random: Uniforms, sides: Size) -> NDArray[np.float64]:
        """Weights of the pixels at each distance from 0 on, as far as the widest blur goes."""
        sigma = within(random[:, :1], self.sigma)
        radii = (_TRUNCATE * sigma + 0.5).astype(int)
        distances = np.arange(int(_TRUNCATE * self.sigma[1] + 0.5) + 1)
        ends = ndtr((distances + 0.5) / sigma), ndtr((distances - 0.5) / sigma)
        weights: NDArray[np.float64] = np.where(distances <= radii, ends[0] - ends[1], 0.0)
        # Both sides together sum to 1.
        weights /= 2 * weights.sum(axis=1, keepdims=True) - weights[:, :1]
        return weights

    def change(self, images: Tensor, settings: NDArray[np.float64]) -> Tensor:
        """Blurs every image."""
        # Sums of shifted images: a convolution of one channel is slower on the CPU, and is rounded
        # to TF32 on a GPU.
        widest = settings[:, settings.any(axis=0)]
        weights = to_device(widest.T.copy(), images)[..., None, None, None]
        radius = len(weights) - 1
        blurred = functional.pad(images, [radius] * 4, mode="replicate")
        for dim in (-2, -1):
            blurred = _weighted_sum(blurred, weights, dim)
        return blurred


class RandomLowResolution(BatchAugment):
    """Shrinks an image, smoothly, and magnifies it again; both bilinear.

    It is antialiased: means of areas, which are uneven where a share is not 1 / 2 or 1 / 3, blur at
    0.9 nearly as at 0.7.

    Args:
        prob: Probability that an image is changed, in `[0, 1]`.
        zoom: Lowest and highest share of the image's sides that it is shrunk to, in `(0, 1]`.

    Raises:
        RecipeError: If a setting is out of range.
    """

    def __init__(self, prob: float = 0.25, zoom: tuple[float, float] = (0.4, 0.9)) -> None:
        super().__init__(prob)
        require_range("zoom", zoom, "0 < low <= high <= 1", high=1.0)
        self.zoom = (zoom[0], zoom[1])

    def settings(self, random: Uniforms, sides: Size) -> NDArray[np.float64]:
        """Rows and columns of the small image."""
        return np.maximum(np.rint(within(random[:, :1], self.zoom) * sides), 1)

    def change(self, images: Tensor, settings: NDArray[np.float64]) -> Tensor:
        """Takes fine detail from every image."""
        sides = images.shape[-2:]
        done = []
        for image, size in zip(images, settings.astype(int).tolist(), strict=True):
            small = functional.interpolate(image[None], size=size, mode="bilinear", antialias=True)
            done.append(functional.interpolate(small, size=sides, mode="bilinear"))
        return done[0] if len(done) == 1 else torch.cat(done)


def _weighted_sum(images: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Sums neighbours along a dimension, which gets shorter by the radius at either end."""
    radius = len(weights) - 1
    length = images.shape[dim] - 2 * radius
    total = images.narrow(dim, radius, length) * weights[0]
    for step in range(1, radius + 1):
        before, after = (images.narrow(dim, radius + way, length) for way in (-step, step))
        total.addcmul_(before + after, weights[step])
    return total
