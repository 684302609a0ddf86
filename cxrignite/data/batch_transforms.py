"""Random transforms of images: geometry, grey values, noise, sharpness and erasing."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr
from torch import Tensor
from torch.nn import functional

from cxrignite.data.batch_augment import (
    BatchAugment,
    Plan,
    Uniforms,
    as_float,
    require,
    require_range,
    to_device,
    within,
)
from cxrignite.data.reading import Size


class RandomAffine(BatchAugment):
    """A random magnification about the centre, rotation and shift, in one resampling.

    Pixels from outside of the image are 0, since X-rays are black outside of their field.
    Interpolation is bilinear. Each setting is drawn independently. Rows and columns are magnified
    separately, since chests differ in the ratio of width to height. The uniform draw is of
    1 / magnification, the step from one sampled pixel to the next.

    Args:
        prob: Probability that an image is changed, in `[0, 1]`.
        rotate: Largest angle in radians, in either direction, in `[0, pi]`.
        scale: Lowest and highest magnification, above 0; 1 keeps the size, 2 shows half the chest
            at twice its size.
        shift: Largest shift as a share of the image's side, in either direction, in `[0, 1]`.

    Raises:
        RecipeError: If a setting is out of range.
    """

    is_geometric = True

    def __init__(
        self,
        prob: float = 0.5,
        rotate: float = 0.12,
        scale: tuple[float, float] = (0.9, 1.1),
        shift: float = 0.05,
    ) -> None:
        super().__init__(prob)
        require(0 <= rotate <= math.pi, "rotate", "in [0, pi] radians", rotate)
        require_range("scale", scale, "0 < low <= high")
        require(0 <= shift <= 1, "shift", "in [0, 1] of the side", shift)
        self.rotate = rotate
        self.scale = (scale[0], scale[1])
        self.shift = shift

    def settings(self, random: Uniforms, sides: Size) -> NDArray[np.float64]:
        """Return the sampling grid: for column and row, the step per row and column, and the start.

        Positions are in half sides from the centre.
        """
        low, high = self.scale
        angle = within(random[:, 0], (-self.rotate, self.rotate))
        step_row, step_column = within(random[:, 1:3], (1 / high, 1 / low)).T
        moved = within(random[:, 3:5], (-2 * self.shift, 2 * self.shift)).T
        aspect = sides[0] / sides[1]
        # The inverse of shift, anticlockwise rotation and magnification.
        column = np.stack([-np.sin(angle) * aspect, np.cos(angle)]) * step_column
        row = np.stack([np.cos(angle), np.sin(angle) / aspect]) * step_row
        starts = [-(part * moved).sum(axis=0) for part in (column, row)]
        return np.stack([*column, starts[0], *row, starts[1]], axis=1)

    def change(self, images: Tensor, settings: NDArray[np.float64]) -> Tensor:
        """Resample every image."""
        steps = to_device(settings, images).view(-1, 2, 3, 1, 1)
        # Pixel centres; the edges are -1 and 1, so a side of one pixel works too. Each plane of the
        # grid is contiguous: `grid_sample` reads it as fast, and it is written six times as fast as
        # the grid of `affine_grid`.
        rows, columns = (_centres(side, images) for side in images.shape[-2:])
        grid = (steps[:, :, 0] * rows[:, None] + steps[:, :, 2]) + steps[:, :, 1] * columns
        return resampled(images, grid.permute(0, 2, 3, 1))


def resampled(images: Tensor, grid: Tensor) -> Tensor:
    """Sample images at the positions of a grid; pixels from outside of an image are 0.

    Args:
        images: Shape `(N, 1, H, W)`, floating point.
        grid: Column and row of each pixel, in half sides from the centre, shape `(N, H, W, 2)`.

    Returns:
        The same shape as the images.
    """
    return functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )


def _centres(side: int, images: Tensor) -> Tensor:
    edge = 1 - 1 / side
    return torch.linspace(-edge, edge, side, device=images.device)


# torch divides longer runs among threads, and the last bit of a power depends on the division.
_SERIAL_RUN = 2**14


class RandomIntensity(BatchAugment):
    """A random gamma, then contrast about the image's mean, then an offset, clamped to `[0, 1]`.

    Each of the three is drawn, and left out, independently. It is fastest as the first transform of
    a list: gamma is then a lookup table of 256 grey levels.

    Args:
        prob: Probability of each of the three, in `[0, 1]`.
        gamma: Lowest and highest exponent of the grey value, above 0; above 1 darkens.
        contrast: Largest change of the contrast, up or down, in `[0, 1]`: 0.4 draws factors from
            0.6 to 1.4.
        brightness: Largest offset, up or down, as a share of full white, in `[0, 1]`.

    Raises:
        RecipeError: If a setting is out of range.
    """

    is_geometric = False
    reads_bytes = True

    def __init__(
        self,
        prob: float = 0.5,
        gamma: tuple[float, float] = (0.7, 1.4),
        contrast: float = 0.2,
        brightness: float = 0.1,
    ) -> None:
        super().__init__(prob)
        require_range("gamma", gamma, "0 < low <= high")
        require(0 <= contrast <= 1, "contrast", "in [0, 1]", contrast)
        require(0 <= brightness <= 1, "brightness", "in [0, 1]", brightness)
        self.gamma = (gamma[0], gamma[1])
        self.contrast = contrast
        self.brightness = brightness

    def plan(self, random: Uniforms, sides: Size) -> Plan:
        """Choose the images that at least one of the three changes.

        Args:
            random: Shape `(N, NUM_UNIFORMS)`, each in `[0, 1)`: the first three numbers select the
                three changes.
            sides: Rows and columns of the images.

        Returns:
            The plan of N images; a change that is left out has neutral settings.
        """
        drawn: NDArray[np.bool_] = random[:, :3] < self.prob
        settings = np.where(drawn, self.settings(random[:, 3:], sides), [1.0, 1.0, 0.0])
        return Plan(np.logical_or.reduce(drawn, axis=1), settings)

    def settings(self, random: Uniforms, sides: Size) -> NDArray[np.float64]:
        """Return the exponent, the factor of the contrast and the offset."""
        contrast, brightness = self.contrast, self.brightness
        ranges = [self.gamma, (1 - contrast, 1 + contrast), (-brightness, brightness)]
        return np.stack([within(random[:, each], ranges[each]) for each in range(3)], axis=1)

    def change(self, images: Tensor, settings: NDArray[np.float64]) -> Tensor:
        """Change the grey values of every image."""
        pixels = self._powers(images, settings[:, 0])
        if (settings[:, 1:] == [1.0, 0.0]).all():
            return pixels
        factor, offset = (
            to_device(settings[:, each], images)[:, None, None, None] for each in (1, 2)
        )
        # Row by row: the sum of a whole image would depend on the number of threads.
        mean = pixels.mean(dim=-1, keepdim=True).mean(dim=-2, keepdim=True)
        return (pixels * factor).add_(mean * (1 - factor) + offset).clamp_(0.0, 1.0)

    @staticmethod
    def _powers(images: Tensor, exponents: NDArray[np.float64]) -> Tensor:
        is_bytes = images.dtype == torch.uint8
        if (exponents == 1).all():
            return as_float(images) if is_bytes else images.clamp(0.0, 1.0)
        powers = to_device(exponents, images)
        if is_bytes:
            levels = torch.arange(256, device=images.device, dtype=torch.float32) / 255
            tables = (levels ** powers[:, None]).view(-1)
            places = torch.arange(0, len(tables), 256, device=images.device, dtype=torch.int32)
            index = images.to(torch.int32).add_(places[:, None, None, None])
            return tables.index_select(0, index.flatten()).view(images.shape)
        pixels = images.contiguous().clamp(0.0, 1.0)
        if len(pixels) > 1:
            return pixels.pow_(powers[:, None, None, None])
        flat = pixels.view(-1)
        for start in range(0, len(flat), _SERIAL_RUN):
            flat[start : start + _SERIAL_RUN].pow_(powers)
        return pixels


class RandomNoise(BatchAugment):
    """Gaussian noise on every pixel, as from a low dose, clamped to `[0, 1]`.

    Args:
        prob: Probability that an image is changed, in `[0, 1]`.
        std: Largest deviation of the noise as a share of full white, in `[0, 1]`; that of an image
            is drawn uniformly from 0 to `std`.

    Raises:
        RecipeError: If a setting is out of range.
    """

    is_geometric = False

    def __init__(self, prob: float = 0.3, std: float = 0.05) -> None:
        super().__init__(prob)
        require(0 <= std <= 1, "std", "in [0, 1]", std)
        self.std = std

    def settings(self, random: Uniforms, sides: Size) -> NDArray[np.float64]:
        """Return the deviation, and the seed of the pixels' noise, an integer below 2**53."""
        return np.stack([random[:, 0] * self.std, random[:, 1] * 2**53], axis=1)

    def change(self, images: Tensor, settings: NDArray[np.float64]) -> Tensor:
        """Add noise to every image."""
        noisy = torch.empty_like(images)
        generator = torch.Generator(images.device)
        for noise, (std, seed) in zip(noisy, settings.tolist(), strict=True):
            noise.normal_(0.0, std, generator=generator.manual_seed(int(seed)))
        return noisy.add_(images).clamp_(0.0, 1.0)


class RandomErase(BatchAugment):
    """A random rectangle of one grey value, so that the model does not rely on a single region.

    Args:
        prob: Probability that an image is changed, in `[0, 1]`.
        size: Lowest and highest side of the rectangle as a share of the image's, in `(0, 1]`;
            height and width are drawn independently, and the rectangle is inside the image.
        value: Grey value of the rectangle, in `[0, 1]`.

    Raises:
        RecipeError: If a setting is out of range.
    """

    is_geometric = False

    def __init__(
        self, prob: float = 0.3, size: tuple[float, float] = (0.15, 0.35), value: float = 0.5
    ) -> None:
        super().__init__(prob)
        require_range("size", size, "0 < low <= high <= 1", high=1.0)
        require(0 <= value <= 1, "value", "in [0, 1]", value)
        self.size = (size[0], size[1])
        self.value = value

    def settings(self, random: Uniforms, sides: Size) -> NDArray[np.float64]:
        """Return the rectangle: first row and column, and those just beyond it."""
        sizes = np.maximum(np.rint(within(random[:, :2], self.size) * sides), 1)
        starts = np.floor(random[:, 2:4] * (np.array(sides) - sizes + 1))
        return np.hstack([starts, starts + sizes])

    def change(self, images: Tensor, settings: NDArray[np.float64]) -> Tensor:
        """Fill a rectangle in every image."""
        erased = images.clone()
        boxes = settings.astype(int).tolist()
        for image, (top, left, bottom, right) in zip(erased, boxes, strict=True):
            image[:, top:bottom, left:right] = self.value
        return erased


_TRUNCATE = 4.0  # deviations after which the kernel ends, as in scipy and MONAI


class RandomBlur(BatchAugment):
    """A Gaussian blur, the same for rows and columns; edge pixels are repeated outwards.

    A weight is the integral of the Gaussian over a pixel, not its value at the centre, so that a
    narrow Gaussian blurs by the right amount.

    Args:
        prob: Probability that an image is changed, in `[0, 1]`.
        sigma: Lowest and highest standard deviation in pixels, above 0.

    Raises:
        RecipeError: If a setting is out of range.
    """

    is_geometric = False

    def __init__(self, prob: float = 0.25, sigma: tuple[float, float] = (0.4, 1.6)) -> None:
        super().__init__(prob)
        require_range("sigma", sigma, "0 < low <= high")
        self.sigma = (sigma[0], sigma[1])

    def settings(self, random: Uniforms, sides: Size) -> NDArray[np.float64]:
        """Return the weights of pixels at each distance, from 0 to the reach of the widest blur."""
        sigma = within(random[:, :1], self.sigma)
        radii = (_TRUNCATE * sigma + 0.5).astype(int)
        distances = np.arange(int(_TRUNCATE * self.sigma[1] + 0.5) + 1)
        ends = ndtr((distances + 0.5) / sigma), ndtr((distances - 0.5) / sigma)
        weights: NDArray[np.float64] = np.where(distances <= radii, ends[0] - ends[1], 0.0)
        # The weights of both sides together sum to 1.
        weights /= 2 * weights.sum(axis=1, keepdims=True) - weights[:, :1]
        return weights

    def change(self, images: Tensor, settings: NDArray[np.float64]) -> Tensor:
        """Blur every image."""
        # Sums of shifted images: a convolution of one channel is slower on the CPU and rounds to
        # TF32 on a GPU.
        widest = settings[:, settings.any(axis=0)]
        weights = to_device(widest.T.copy(), images)[..., None, None, None]
        radius = len(weights) - 1
        blurred = functional.pad(images, [radius] * 4, mode="replicate")
        for dim in (-2, -1):
            blurred = _weighted_sum(blurred, weights, dim)
        return blurred


class RandomLowResolution(BatchAugment):
    """A reduction to a lower resolution and back, both bilinear, the first with antialiasing.

    Means of areas are not used: for shares other than 1 / 2 or 1 / 3 their areas are uneven, and
    0.9 blurs nearly as much as 0.7.

    Args:
        prob: Probability that an image is changed, in `[0, 1]`.
        zoom: Lowest and highest share of the image's sides to reduce to, in `(0, 1]`.

    Raises:
        RecipeError: If a setting is out of range.
    """

    is_geometric = False

    def __init__(self, prob: float = 0.25, zoom: tuple[float, float] = (0.4, 0.9)) -> None:
        super().__init__(prob)
        require_range("zoom", zoom, "0 < low <= high <= 1", high=1.0)
        self.zoom = (zoom[0], zoom[1])

    def settings(self, random: Uniforms, sides: Size) -> NDArray[np.float64]:
        """Return the rows and columns of the small image."""
        return np.maximum(np.rint(within(random[:, :1], self.zoom) * sides), 1)

    def change(self, images: Tensor, settings: NDArray[np.float64]) -> Tensor:
        """Remove fine detail from every image."""
        sides = images.shape[-2:]
        done = []
        for image, size in zip(images, settings.astype(int).tolist(), strict=True):
            small = functional.interpolate(image[None], size=size, mode="bilinear", antialias=True)
            done.append(functional.interpolate(small, size=sides, mode="bilinear"))
        return done[0] if len(done) == 1 else torch.cat(done)


def _weighted_sum(images: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Sum weighted neighbours along a dimension, which gets shorter by the radius at both ends."""
    radius = len(weights) - 1
    length = images.shape[dim] - 2 * radius
    total = images.narrow(dim, radius, length) * weights[0]
    for step in range(1, radius + 1):
        before, after = (images.narrow(dim, radius + way, length) for way in (-step, step))
        total.addcmul_(before + after, weights[step])
    return total
