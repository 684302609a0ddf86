"""MONAI transforms; this is the only file that imports MONAI.

It imports MONAI on first use, since that takes seconds and 300 MB.
"""

from __future__ import annotations

import re
import sys
from abc import ABCMeta
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cxrignite.errors import DataError, RecipeError, is_resource_error
from cxrignite.write_guard import part_runs

_MONAI_PACKAGES = ("", "monai.transforms")

if TYPE_CHECKING:
    from monai.transforms.transform import Transform as Transform
else:

    class _MonaiTransforms(ABCMeta):
        """A metaclass that accepts MONAI transforms as subclasses without importing MONAI."""

        def __subclasses__(cls) -> list[type]:
            from monai.transforms.transform import Transform as MonaiTransform

            return [MonaiTransform]

        def __subclasscheck__(cls, other: type) -> bool:
            # If a subclass exists, MONAI has been imported.
            module = sys.modules.get("monai.transforms.transform")
            return other is cls or (module is not None and issubclass(other, module.Transform))

        def __instancecheck__(cls, instance: object) -> bool:
            return cls.__subclasscheck__(type(instance))

    class Transform(metaclass=_MonaiTransforms):
        """A MONAI transform, for annotations that are evaluated at run time."""


def named_transform(class_path: str, settings: Mapping[str, Any]) -> Transform:
    """Return a transform of MONAI by its name and its settings.

    Args:
        class_path: A class of `monai.transforms`, such as `monai.transforms.GaussianSmooth`.
        settings: Its arguments.

    Raises:
        RecipeError: MONAI has no such transform, it refuses the settings, or it is not installed.
    """
    try:
        import monai.transforms
        from monai.transforms.transform import Transform as MonaiTransform
    except ImportError as error:
        raise RecipeError(
            f"the run's data.preprocess needs MONAI for {class_path}; pip install monai"
        ) from error
    package, _, name = class_path.rpartition(".")
    kind = getattr(monai.transforms, name, None) if package in _MONAI_PACKAGES else None
    if not isinstance(kind, type) or not issubclass(kind, MonaiTransform):
        raise RecipeError(
            f"data.preprocess must name transforms of monai.transforms, got {class_path}"
        )
    try:
        with part_runs():
            found: Transform = kind(**settings)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{class_path} refuses its settings: {error}") from error
    return found


def check_randomness(preprocess: Sequence[Transform], augment: Sequence[Transform]) -> None:
    """Check that transforms are repeatable by a seed and take arrays, not dictionaries.

    Args:
        preprocess: Transforms that must be deterministic.
        augment: Transforms that may be random, with their own random state.

    Raises:
        RecipeError: If one of them breaks these rules.
    """
    from monai.transforms.traits import RandomizableTrait
    from monai.transforms.transform import MapTransform, Randomizable

    for transform in _flatten([*preprocess, *augment]):
        if isinstance(transform, MapTransform):
            name = type(transform).__name__
            raise RecipeError(
                f"transforms must take arrays, got {name}, which takes dictionaries; "
                f"use {re.sub(r'(d|D|Dict)$', '', name)}"
            )
    for transform in _flatten(preprocess):
        if isinstance(transform, RandomizableTrait):
            raise RecipeError(
                f"preprocess must be deterministic, got {type(transform).__name__}; "
                "move it to augment"
            )
    for transform in _flatten(augment):
        settable = isinstance(transform, Randomizable)
        if isinstance(transform, RandomizableTrait) and not settable:
            raise RecipeError(
                "augment must contain transforms whose random state can be set, "
                f"got {type(transform).__name__}"
            )


def check_keeps_places(augment: Sequence[Transform]) -> None:
    """Check that random transforms of images leave the places of pixels, so that masks still fit.

    Only MONAI's transforms of grey values are known to.

    Args:
        augment: Random transforms of single images.

    Raises:
        RecipeError: If another transform is among them.
    """
    for transform in _flatten(augment):
        if not type(transform).__module__.startswith("monai.transforms.intensity."):
            raise RecipeError(
                "data.augment must have MONAI's transforms of intensity only, if maps are taught "
                f"by masks, got {type(transform).__name__}, which may move pixels; use "
                "RandomAffine in data.batch_augment, which also moves masks"
            )


def seed_each(transforms: Sequence[Transform], seed: int) -> None:
    """Set the random state of each random transform, all from one seed.

    Args:
        transforms: Random transforms, and others that are not affected.
        seed: At least 0.
    """
    from monai.transforms.transform import Randomizable

    random = np.random.RandomState(seed)
    for transform in transforms:
        if isinstance(transform, Randomizable):
            transform.set_random_state(seed=int(random.randint(2**32, dtype=np.uint32)))


def apply_transforms(transforms: Sequence[Transform], image: Tensor, path: Path | str) -> Tensor:
    """Apply transforms to one image.

    Args:
        transforms: At least one transform.
        image: Shape `(1, H, W)`, uint8.
        path: Its file, for errors.

    Returns:
        Shape `(1, H, W)`, float32 in `[0, 1]`, a plain tensor with its own memory.

    Raises:
        DataError: If a transform fails, or returns another shape than `(1, H, W)` or another scale
            than `[0, 1]`.
        RecipeError: If it writes outside of the run folder, see `write_guard`.
    """
    from monai.utils.type_conversion import convert_to_tensor

    image = image.to(torch.float32).div_(255)
    with _plain_tensors():
        for transform in transforms:
            try:
                with part_runs():
                    image = convert_to_tensor(transform(image), track_meta=False)
            except RecipeError:
                raise
            except Exception as error:
                reason = error.__cause__ or error
                if is_resource_error(reason):
                    raise reason from None
                raise DataError(
                    f"transform {type(transform).__name__} failed on {path}: {reason}"
                ) from error
    name = type(transforms[-1]).__name__
    # Some transforms return a list of samples.
    shape = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
    if len(shape) != 3 or shape[0] != 1 or 0 in shape:
        raise DataError(
            f"transforms must return shape (1, H, W), got {shape} after {name} on {path}"
        )
    low, high = (float(bound) for bound in torch.aminmax(image))
    # Interpolation and brightness may overshoot a little; NaN fails both comparisons.
    if not (low >= -1.0 and high <= 2.0):
        raise DataError(
            f"transforms must keep images in [0, 1], got [{low:.3g}, {high:.3g}] "
            f"after {name} on {path}"
        )
    # `clamp` copies, so that a view does not keep a larger image in memory.
    return image.to(torch.float32).clamp(0.0, 1.0).contiguous()


def _flatten(transforms: Sequence[Transform]) -> Iterator[Any]:
    from monai.transforms.compose import Compose

    for transform in transforms:
        if isinstance(transform, Compose):
            yield from _flatten(transform.transforms)
        else:
            yield transform


@contextmanager
def _plain_tensors() -> Iterator[None]:
    # Images have no metadata here, and MONAI spends a third of RandAffine's time on keeping it.
    from monai.data.meta_obj import get_track_meta, set_track_meta

    before = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(before)
