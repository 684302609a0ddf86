"""The pipeline from an image file to the model's input: read, preprocess, augment."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import inspect
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL
import simplejpeg
import torch
from torch import Tensor

from cxrignite.data import (
    dicom,
    dicom_elements,
    dicom_pixels,
    dicom_streams,
    dicom_values,
    exif,
    grey_scaling,
    jpeg,
    pillow_formats,
    pixel_limit,
    png,
    reading,
    transforms,
)
from cxrignite.data.batch_augment import BatchAugment, augment_batch
from cxrignite.data.grey_scaling import GreyScaling, is_nearly_blank
from cxrignite.data.own_code import named_modules, own_sources
from cxrignite.data.reading import Size
from cxrignite.data.transforms import Transform, apply_transforms
from cxrignite.data.worker_loading import note
from cxrignite.errors import CacheError, DataError, RecipeError, is_resource_error

_DICOM = (dicom, dicom_elements, dicom_pixels, dicom_streams, dicom_values)
_FILES = (exif, grey_scaling, jpeg, pillow_formats, pixel_limit, png)


class Pipeline:
    """A pipeline that reads, preprocesses and, in training, augments an image.

    Reading and preprocessing return 8-bit images in every split, so that a cached image is exactly
    the image that the model gets. MONAI transforms receive float32 tensors of shape `(1, H, W)` in
    `[0, 1]` and must keep this scale: normalisation is part of the classifier.

    Args:
        preprocess: Deterministic MONAI transforms, for every split.
        augment: MONAI transforms of single images for training, random or not.
        image_size: Rows and columns that each image is resized to; `None` keeps the file's own.
        batch_augment: Transforms of whole batches for training, after `augment`.
        grey_scaling: Rule for the values that become black and white, see `GreyScaling`.

    Raises:
        RecipeError: If a size is below 1, a transform in `preprocess` is random, or one in
            `augment` draws from global random state.
    """

    def __init__(
        self,
        preprocess: Sequence[Transform] = (),
        augment: Sequence[Transform] = (),
        *,
        image_size: Size | None = None,
        batch_augment: Sequence[BatchAugment] = (),
        grey_scaling: GreyScaling = "file",
    ) -> None:
        if image_size is not None and min(image_size) < 1:
            raise RecipeError(f"image_size must be at least 1 x 1, got {list(image_size)}")
        self.image_size = image_size
        self.grey_scaling = grey_scaling
        self.preprocess = tuple(preprocess)
        self.augment = tuple(augment)
        self.batch_augment = tuple(batch_augment)
        if self.preprocess or self.augment:
            transforms.check_randomness(self.preprocess, self.augment)

    def __call__(self, path: Path | str, seed: int | None = None) -> Tensor:
        """Return one image.

        Args:
            path: The file.
            seed: Seed of the augmentation, at least 0; the same seed always gives the same image.
                `None` does not augment.

        Returns:
            Shape `(1, H, W)`, a plain contiguous tensor with its own memory: uint8, or float32 in
            `[0, 1]` if augmented.

        Raises:
            UnreadableImageError: If the file is not a complete image of a supported format.
            DataError: If a transform fails, or returns another shape than `(1, H, W)` or another
                scale than `[0, 1]`.
        """
        image = self.read(path)
        return image if seed is None else self.augmented(image[None], [seed], [path])[0]

    def read(self, path: Path | str) -> Tensor:
        """Return one image before augmentation, as a cache stores it.

        Args:
            path: The file.

        Returns:
            Shape `(1, H, W)`, uint8.

        Raises:
            UnreadableImageError: If the file is not a complete image of a supported format.
            DataError: If a transform fails, or breaks the rules for shape and scale.
        """
        return self.read_and_judge(path)[0]

    def read_and_judge(self, path: Path | str) -> tuple[Tensor, bool]:
        """Read like `read`, and check if the image is nearly blank before preprocessing.

        Args:
            path: The file.

        Returns:
            The image, shape `(1, H, W)`, uint8; and True if it uses little of the grey range before
            preprocessing, see `is_nearly_blank`.

        Raises:
            UnreadableImageError: If the file is not a complete image of a supported format.
            DataError: If a transform fails, or breaks the rules for shape and scale.
        """
        note(path)
        grey = reading.read_image(path, self.image_size, self.grey_scaling)
        image = torch.from_numpy(grey).unsqueeze(0)
        return self.preprocessed(image, path), is_nearly_blank(grey)

    def preprocessed(self, image: Tensor, path: Path | str) -> Tensor:
        """Preprocess an image, or a mask, that has been read.

        Args:
            image: Shape `(1, H, W)`, uint8.
            path: Its file, for errors.

        Returns:
            Shape `(1, H, W)`, uint8.

        Raises:
            DataError: If a transform fails, or breaks the rules for shape and scale.
        """
        if self.preprocess:
            image = apply_transforms(self.preprocess, image, path).mul_(255).round_()
        return image.to(torch.uint8)

    def augmented(
        self,
        images: Tensor,
        seeds: Sequence[int],
        paths: Sequence[Path | str],
        *,
        as_batch: bool = True,
    ) -> Tensor:
        """Augment a batch: each image with the MONAI transforms, then the whole batch with ours.

        Args:
            images: Shape `(N, 1, H, W)`, uint8.
            seeds: One per image, at least 0.
            paths: Their files, for errors; may be empty if `augment` is.
            as_batch: Apply `batch_augment` too; a GPU may do that faster.

        Returns:
            Shape `(N, 1, H, W)`, float32 in `[0, 1]`; the given images if there are no transforms.

        Raises:
            DataError: If a transform fails, breaks the rules for shape and scale, or returns images
                of several sizes.
        """
        if self.augment:
            done = []
            for image, seed, path in zip(images, seeds, paths, strict=True):
                note(path)
                transforms.seed_each(self.augment, seed)
                done.append(apply_transforms(self.augment, image, path))
            images = stack_images(done, paths)
        if self.batch_augment and as_batch:
            images = augment_batch(self.batch_augment, images, torch.tensor(seeds))
        return images

    def fingerprint(self) -> str:
        """Return a digest of everything except the file that determines the result of `read`.

        This includes the settings, the code of the transforms and of their imports from the user's
        folders (`own_code.py`), and the versions of the libraries.

        Raises:
            CacheError: If a transform cannot be pickled, such as one with a lambda.
        """
        versions = [np.__version__, torch.__version__, PIL.__version__, simplejpeg.__version__]
        versions.append(importlib.metadata.version("pydicom"))  # avoids importing it
        code = [reading, *_FILES, *_DICOM, transforms, sys.modules[__name__]]
        settings, named = [], set[str]()
        if self.preprocess:
            import monai

            versions.append(monai.__version__)
        for transform in self.preprocess:
            try:
                settings.append(pickle.dumps(transform, protocol=5))
                named |= named_modules(transform)
            except Exception as error:
                if is_resource_error(error):
                    raise
                raise CacheError(
                    f"transform {type(transform).__name__} must be picklable for the cache, "
                    f"got: {error}; use a named function, or set data.cache: off"
                ) from error
        digest = hashlib.sha256(
            repr((self.image_size, self.grey_scaling, versions, settings)).encode()
        )
        for module in code:
            with contextlib.suppress(OSError, TypeError):  # no source, such as built-in code
                digest.update(inspect.getsource(module).encode())
        # The versions stand for the code of libraries.
        for name, source in own_sources(named).items():
            digest.update(name.encode() + b"\0" + source)
        return digest.hexdigest()


def stack_images(images: Sequence[Tensor], paths: Sequence[Path | str]) -> Tensor:
    """Stack the images of a batch.

    Returns:
        Shape `(N, 1, H, W)`.

    Raises:
        DataError: If they differ in size.
    """
    for image, path in zip(images, paths, strict=True):
        if image.shape != images[0].shape:
            raise DataError(
                "images of a batch must have one size, got "
                f"{_size(images[0])} ({paths[0]}) and {_size(image)} ({path}); set data.image_size"
            )
    return torch.stack(list(images))


def _size(image: Tensor) -> str:
    return f"{image.shape[-2]} x {image.shape[-1]}"
