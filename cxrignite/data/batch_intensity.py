"""Grey values at random: exposure, contrast, noise, and a part that cannot be seen."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxrignite.data.batch_transform import (
    BatchAugment,
    Plan,
    as_float,
    require,
    require_range,
    to_device,
    within,
)
from cxrignite.data.reading import Size
from cxrignite.data.seeded_uniforms import Uniforms

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
