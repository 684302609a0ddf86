"""Preprocessed images in one memory-mapped file, found by the content of their images.

A cache is `<key>.npy`, the images, and `<key>.json`, its manifest: a cache is there if its manifest
is. The key is a digest of what decides the images: the content of every image, and the pipeline.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxrignite.data.reading import Size
from cxrignite.data.sources import ImageRecord
from cxrignite.durable_write import write_durably
from cxrignite.errors import DataError

MAX_CHECKED_BYTES = 2**32
"""Up to here the checksum of a cache is worked out whenever it is opened: a second or two."""

_BLOCK_BYTES = 2**24
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


class ImageCache:
    """The preprocessed images of images.

    Args:
        path: The images, a `.npy` file of shape `(N, H, W)` in 8 bits.
        digests: The images' digests, shape `(N,)`, each once and sorted: row `i` is the image of
            `digests[i]`.
        unreadable: From the digest of an image that cannot be read to the reason; its row is black.
        nearly_blank: Digests of the images that use little of the grey range.

    Raises:
        DataError: If the file is not such an array.
    """

    def __init__(
        self,
        path: Path,
        digests: NDArray[np.bytes_],
        unreadable: Mapping[str, str],
        nearly_blank: Collection[str] = (),
    ) -> None:
        self.path = path
        self.unreadable = dict(unreadable)
        self.nearly_blank = frozenset(nearly_blank)
        self._digests = digests
        # Mapped once and for all: the folder may be deleted while a run reads from it.
        self._images = _mapped(path)
        shape = self._images.shape
        if len(shape) != 3 or shape[0] != len(digests):
            raise DataError(f"{path} must hold {len(digests)} images, got shape {shape}")
        self.image_size: Size = (int(shape[1]), int(shape[2]))

    @property
    def num_bytes(self) -> int:
        """Size of the images."""
        height, width = self.image_size
        return len(self._digests) * height * width

    @property
    def fits_in_memory(self) -> bool:
        """Whether it takes less than half of the memory at hand, and so is read from there."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        with suppress(OSError, ValueError):  # no such group, or `max`
            memory = min(memory, int(_CGROUP_LIMIT.read_text()))
        return 2 * self.num_bytes < memory

    def split(self, records: Sequence[ImageRecord]) -> CachedSplit:
        """The images of some of its images, in their order.

        Args:
            records: Images with a digest.

        Raises:
            DataError: If it does not hold one of them.
        """
        wanted = as_digests(records)
        rows = np.searchsorted(self._digests, wanted)
        found = self._digests[np.minimum(rows, len(self._digests) - 1)] == wanted
        if not found.all():
            raise DataError(f"{self.path} does not hold {records[int(np.argmin(found))].name}")
        return CachedSplit(self.path, torch.from_numpy(rows), self._images)

    def image(self, record: ImageRecord) -> Tensor:
        """One image, shape `(1, H, W)`, uint8.

        Args:
            record: An image with a digest.

        Raises:
            DataError: If it does not hold the image.
        """
        return self.split([record]).images(torch.tensor([0]))[0]


class CachedSplit:
    """The images of the images of one split; a worker process maps the file, and copies nothing.

    Args:
        path: The images of a cache.
        rows: The row of each image, shape `(N,)`, int64.
        images: The file, mapped; `None` maps it when it is first asked for an image.
    """

    def __init__(self, path: Path, rows: Tensor, images: NDArray[np.uint8] | None = None) -> None:
        self.path = path
        self.rows = rows
        self._images = images

    def images(self, index: Tensor) -> Tensor:
        """Images of the split, shape `(len(index), 1, H, W)`, uint8, with their own memory.

        Args:
            index: Positions in the split, int64.
        """
        if self._images is None:
            self._images = _mapped(self.path)
        taken = np.take(self._images, self.rows[index].numpy(), axis=0)
        return torch.from_numpy(taken).unsqueeze(1)

    def __getstate__(self) -> dict[str, Any]:
        # Pickled, a memory map would be its content.
        return {**vars(self), "_images": None}


def as_digests(records: Sequence[ImageRecord]) -> NDArray[np.bytes_]:
    """The images' digests, shape `(N,)`."""
    return np.array([record.sha256 for record in records], dtype="S64")


def write_manifest(
    path: Path, unreadable: Mapping[str, str], nearly_blank: Collection[str]
) -> None:
    """Says that the images in `path` are whole.

    Raises:
        CxrIgniteError: If it cannot be written.
    """
    content = {
        "bytes": path.stat().st_size,
        "crc32": _checksum(path),
        "unreadable": unreadable,
        "nearly_blank": sorted(nearly_blank),
    }
    write_durably(_manifest_path(path), json.dumps(content, indent=1).encode())


def read_cache(path: Path, digests: NDArray[np.bytes_]) -> ImageCache:
    """Opens a cache that is whole.

    Args:
        path: Its images.
        digests: As in `ImageCache`.

    Raises:
        DataError: If it is cut, damaged, or not a cache.
    """
    manifest = _manifest_path(path)
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        size, checksum, *records = (
            content[key] for key in ("bytes", "crc32", "unreadable", "nearly_blank")
        )
        if path.stat().st_size != size:
            raise DataError(f"{path} must have {size} bytes, got {path.stat().st_size}")
        if size <= MAX_CHECKED_BYTES and _checksum(path) != checksum:
            raise DataError(f"{path} is damaged: its checksum is not that of its manifest")
        return ImageCache(path, digests, *records)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no cache: {error}") from error


def has_manifest(path: Path) -> bool:
    """Whether a cache was completed here."""
    return _manifest_path(path).is_file()


def remove_cache(path: Path) -> None:
    """Removes a cache, its manifest first."""
    _manifest_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _manifest_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _mapped(path: Path) -> NDArray[np.uint8]:
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(mapped, np.ndarray) or mapped.dtype != np.uint8:
        raise DataError(f"{path} must hold 8-bit images")
    # A plain view of the same memory: indexing `memmap` itself costs more.
    return mapped.view(np.ndarray)


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return checksum
