"""From a file to a tensor: read, preprocess, augment. The only file that imports MONAI."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from monai.data.meta_obj import get_track_meta, set_track_meta
from monai.transforms.compose import Compose
from monai.transforms.traits import RandomizableTrait
from monai.transforms.transform import Randomizable, Transform
from monai.utils.type_conversion import convert_to_tensor
from torch import Tensor

from cxrignite.data.reading import read_image
from cxrignite.errors import DataError, RecipeError

__all__ = ["Pipeline", "Transform"]


class Pipeline:
    """Reads an image, preprocesses it and, in training, augments it.

    Preprocessing gives 8-bit images in every split, so that an image kept after it is the image
    that is served. Transforms receive float32 tensors of shape `(1, H, W)` in `[0, 1]`, and have to
    keep to that scale: normalisation belongs to the classifier.

    Args:
        preprocess: Deterministic MONAI transforms, for every split.
        augment: MONAI transforms for training, random or not.

    Raises:
        RecipeError: If a transform in `preprocess` is random, or one in `augment` draws from global
            random state.
    """

    def __init__(
        self, preprocess: Sequence[Transform] = (), augment: Sequence[Transform] = ()
    ) -> None:
        for transform in _flatten(preprocess):
            if isinstance(transform, RandomizableTrait):
                raise RecipeError(
                    f"preprocess must be deterministic, got {type(transform).__name__}: "
                    "move it to augment"
                )
        for transform in _flatten(augment):
            settable = isinstance(transform, Randomizable)
            if isinstance(transform, RandomizableTrait) and not settable:
                raise RecipeError(
                    "augment must hold transforms whose random state can be set, "
                    f"got {type(transform).__name__}"
                )
        self.preprocess = tuple(preprocess)
        self.augment = tuple(augment)

    def __call__(self, path: Path | str, seed: int | None = None) -> Tensor:
        """Gives one image.

        Args:
            path: The file.
            seed: Seed of the augmentation, at least 0; the same seed gives the same image, whatever
                was drawn before. `None` does not augment.

        Returns:
            Shape `(1, H, W)`, a plain contiguous tensor with its own memory: uint8, or float32 in
            `[0, 1]` if augmented.

        Raises:
            UnreadableImageError: If the file is not a whole JPEG or PNG image.
            DataError: If a transform fails, or gives another shape than `(1, H, W)` or another
                scale than `[0, 1]`.
        """
        image = torch.from_numpy(read_image(path)).unsqueeze(0)
        if self.preprocess:
            image = self._apply(self.preprocess, image, path).mul_(255).round_().to(torch.uint8)
        if seed is None or not self.augment:
            return image
        random = np.random.RandomState(seed)
        for transform in self.augment:
            if isinstance(transform, Randomizable):
                transform.set_random_state(seed=int(random.randint(2**32, dtype=np.uint32)))
        return self._apply(self.augment, image, path)

    def _apply(self, transforms: tuple[Transform, ...], image: Tensor, path: Path | str) -> Tensor:
        image = image.to(torch.float32).div_(255)
        with _plain_tensors():
            for transform in transforms:
                try:
                    image = convert_to_tensor(transform(image), track_meta=False)
                except Exception as error:
                    reason = error.__cause__ or error
                    raise DataError(
                        f"transform {type(transform).__name__} failed on {path}: {reason}"
                    ) from error
        name = type(transforms[-1]).__name__
        # Some transforms give a list of samples.
        shape = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        if len(shape) != 3 or shape[0] != 1 or 0 in shape:
            raise DataError(
                f"transforms must give shape (1, H, W), got {shape} after {name} on {path}"
            )
        low, high = (float(bound) for bound in torch.aminmax(image))
        # Interpolation and brightness overshoot a little; NaN fails both comparisons.
        if not (low >= -1.0 and high <= 2.0):
            raise DataError(
                f"transforms must keep images in [0, 1], got [{low:.3g}, {high:.3g}] "
                f"after {name} on {path}"
            )
        # `clamp` copies, so that a view into a larger image keeps none of it alive.
        return image.to(torch.float32).clamp(0.0, 1.0).contiguous()


def _flatten(transforms: Sequence[Transform]) -> Iterator[Transform]:
    for transform in transforms:
        if isinstance(transform, Compose):
            yield from _flatten(transform.transforms)
        else:
            yield transform


@contextmanager
def _plain_tensors() -> Iterator[None]:
    # Images carry no metadata here, and MONAI spends a third of RandAffine's time on keeping it.
    before = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(before)
