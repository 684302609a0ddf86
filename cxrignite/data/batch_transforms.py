"""Random changes of images: framing, grey values, noise, sharpness, and a part that is hidden."""

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
    """Magnifies an image about its centre, turns it and moves it, in one resampling.

    What comes from outside the image is 0, as an image beside its field is black; in between pixels
    it is bilinear. Each setting is drawn on its own. Rows and columns are magnified each by its
    own: chests differ in breadth for their height. Drawn evenly is 1 / magnification, the step from
    one pixel that is read to the next.

    Args:
        prob: Probability that an image is changed, in `[0, 1]`.
        rotate: Largest angle in radians, either way, in `[0, pi]`.
        scale: Lowest and highest magnification, above 0; 1 keeps the size, 2 shows half the chest
            at twice its size.
        shift: Largest move as a share of the image's side, either way, in `[0, 1]`.

    Raises:
        RecipeError: If a setting is out of range.
    """

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
        """Places to read: for column and row, the step a row, the step a column, and the start.

        Positions count in half sides from the centre.
        """
        low, high = self.scale
        angle = within(random[:, 0], (-self.rotate, self.rotate))
        step_row, step_column = within(random[:, 1:3], (1 / high, 1 / low)).T
        moved = within(random[:, 3:5], (-2 * self.shift, 2 * self.shift)).T
        aspect = sides[0] / sides[1]
        # Back out of the shift, against an anticlockwise turn, out of the magnification.
        column = np.stack([-np.sin(angle) * aspect, np.cos(angle)]) * step_column
        row = np.stack([np.cos(angle), np.sin(angle) / aspect]) * step_row
        starts = [-(part * moved).sum(axis=0) for part in (column, row)]
        return np.stack([*column, starts[0], *row, starts[1]], axis=1)

    def change(self, images: Tensor, settings: NDArray[np.float64]) -> Tensor:
        """Resamples every image."""
        steps = to_device(settings, images).view(-1, 2, 3, 1, 1)
        # Pixel centres, where -1 and 1 are the edges: right for a side of one pixel too. Both
        # planes of the grid lie whole in memory, which `grid_sample` reads as fast and which is
        # written six times as fast as `affine_grid` writes its own.
        rows, columns = (_centres(side, images) for side in images.shape[-2:])
        grid = (steps[:, :, 0] * rows[:, None] + steps[:, :, 2]) + steps[:, :, 1] * columns
        return functional.grid_sample(
            images,
            grid.permute(0, 2, 3, 1),
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )


def _centres(side: int, images: Tensor) -> Tensor:
    edge = 1 - 1 / side
    return torch.linspace(-edge, edge, side, device=images.device)


# torch hands longer runs to several threads, and a power's last bit depends on where they are cut.
_SERIAL_RUN = 2**14


class RandomIntensity(BatchAugment):
    """Gamma, then contrast about the image's mean, then an offset, clamped to `[0, 1]`.

    Each of the three is drawn, and left out, on its own. First in a list it is fastest: gamma is
    then looked up for 256 grey levels.

    Args:
        prob: Probability of each of the three, in `[0, 1]`.
        gamma: Lowest and highest exponent of the grey value, above 0; above 1 darkens.
        contrast: Largest change of the contrast, either way, in `[0, 1]`: 0.4 draws factors from
            0.6 to 1.4.
        brightness: Largest offset, either way, as a share of full white, in `[0, 1]`.

    Raises:
        RecipeError: If a setting is out of range.
    """

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
        """Chooses images that at least one of the three changes.

        Args:
            random: Shape `(N, NUM_UNIFORMS)`, each in `[0, 1)`: the first three decide, one each.
            sides: Rows and columns of the images.

        Returns:
            The plan of N images, where what is left out has no effect.
        """
        drawn: NDArray[np.bool_] = random[:, :3] < self.prob
        settings = np.where(drawn, self.settings(random[:, 3:], sides), [1.0, 1.0, 0.0])
        return Plan(np.logical_or.reduce(drawn, axis=1), settings)

    def settings(self, random: Uniforms, sides: Size) -> NDArray[np.float64]:
        """Exponent, factor of the contrast, offset."""
        contrast, brightness = self.contrast, self.brightness
        ranges = [self.gamma, (1 - contrast, 1 + contrast), (-brightness, brightness)]
        return np.stack([within(random[:, each], ranges[each]) for each in range(3)], axis=1)

    def change(self, images: Tensor, settings: NDArray[np.float64]) -> Tensor:
        """Changes the grey values of every image."""
        pixels = self._powers(images, settings[:, 0])
        if (settings[:, 1:] == [1.0, 0.0]).all():
            return pixels
        factor, offset = (
            to_device(settings[:, each], images)[:, None, None, None] for each in (1, 2)
        )
        # Row by row: the sum of a whole image would be cut by the number of threads.
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
    """Adds Gaussian noise to every pixel, as a low dose does, and clamps to `[0, 1]`.

    Args:
        prob: Probability that an image is changed, in `[0, 1]`.
        std: Largest deviation of the noise as a share of full white, in `[0, 1]`; an image's own is
            drawn evenly from 0 to it.

    Raises:
        RecipeError: If a setting is out of range.
    """

    def __init__(self, prob: float = 0.3, std: float = 0.05) -> None:
        super().__init__(prob)
        require(0 <= std <= 1, "std", "in [0, 1]", std)
        self.std = std

    def settings(self, random: Uniforms, sides: Size) -> NDArray[np.float64]:
        """Deviation, and the seed of the pixels' noise, an integer below 2**53."""
        return np.stack([random[:, 0] * self.std, random[:, 1] * 2**53], axis=1)

    def change(self, images: Tensor, settings: NDArray[np.float64]) -> Tensor:
        """Makes every image noisy."""
        noisy = torch.empty_like(images)
        generator = torch.Generator(images.device)
        for noise, (std, seed) in zip(noisy, settings.tolist(), strict=True):
            noise.normal_(0.0, std, generator=generator.manual_seed(int(seed)))
        return noisy.add_(images).clamp_(0.0, 1.0)


class RandomErase(BatchAugment):
    """Paints one rectangle over, so that no single place decides.

    Args:
        prob: Probability that an image is changed, in `[0, 1]`.
        size: Lowest and highest side of the rectangle as a share of the image's, in `(0, 1]`;
            height and width are drawn each on its own, and the rectangle lies inside the image.
        value: What it is painted with, in `[0, 1]`.

    Raises:
        RecipeError: If a setting is out of range.
    """

    def __init__(
        self, prob: float = 0.3, size: tuple[float, float] = (0.15, 0.35), value: float = 0.5
    ) -> None:
        super().__init__(prob)
        require_range("size", size, "0 < low <= high <= 1", high=1.0)
        require(0 <= value <= 1, "value", "in [0, 1]", value)
        self.size = (size[0], size[1])
        self.value = value

    def settings(self, random: Uniforms, sides: Size) -> NDArray[np.float64]:
        """The rectangle: first row and column, and those just beyond it."""
        sizes = np.maximum(np.rint(within(random[:, :2], self.size) * sides), 1)
        starts = np.floor(random[:, 2:4] * (np.array(sides) - sizes + 1))
        return np.hstack([starts, starts + sizes])

    def change(self, images: Tensor, settings: NDArray[np.float64]) -> Tensor:
        """Paints a rectangle over in every image."""
        erased = images.clone()
        boxes = settings.astype(int).tolist()
        for image, (top, left, bottom, right) in zip(erased, boxes, strict=True):
            image[:, top:bottom, left:right] = self.value
        return erased


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
