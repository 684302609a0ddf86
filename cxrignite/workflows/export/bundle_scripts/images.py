"""Images of a bundle: the files of a folder, and the reading of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from cxrignite.data.grey_scaling import GreyScaling
from cxrignite.data.image_formats import IMAGE_SUFFIXES
from cxrignite.data.reading import read_image
from cxrignite.data.transforms import apply_transforms

PATH = "path"
"""Key of the file name in an item: relative to the folder, as in the table of the scores."""


def list_images(folder: str) -> list[dict[str, str]]:
    """List the images of a folder and of the folders in it, by name.

    Args:
        folder: The folder.

    Returns:
        For each image its file (`image`), and its name in the table (`path`).

    Raises:
        ValueError: There is none.
    """
    root = Path(folder)
    files = sorted(
        path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    if not files:
        raise ValueError(f"dataset_dir must hold images, but {folder} has none")
    return [{"image": str(path), PATH: path.relative_to(root).as_posix()} for path in files]


class ReadImaged:
    """Reader of the image file of an item, exactly as the images were read in training.

    MONAI's own readers differ: a large JPEG is decoded at a fraction of its size here, colours
    become luma, 16-bit images are rescaled, and DICOM windows and MONOCHROME1 are applied.

    Args:
        image_size: Rows and columns to resize to; None keeps the file's own.
        grey_scaling: Rule for the values that become black and white.
        preprocess: MONAI transforms of the image in `[0, 1]`, after the resizing.
    """

    def __init__(
        self,
        image_size: Sequence[int] | None = None,
        grey_scaling: GreyScaling = "file",
        preprocess: Sequence[Callable[[Any], Any]] = (),
    ) -> None:
        self.image_size = None if image_size is None else (image_size[0], image_size[1])
        self.grey_scaling = grey_scaling
        self.preprocess: Sequence[Any] = tuple(preprocess)

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Return the item with the image, `(1, H, W)`, float32: whole grey levels in `[0, 255]`.

        Raises:
            UnreadableImageError: The file is not a complete image of a supported format.
        """
        path = item["image"]
        image = torch.from_numpy(read_image(path, self.image_size, self.grey_scaling))[None]
        if self.preprocess:
            image = apply_transforms(self.preprocess, image, path).mul_(255).round_()
        return {**item, "image": image.float()}
