"""A cache of preprocessed images in one memory-mapped file, found by the content of the files.

A cache is `<key>.npy`, the images, and `<key>.json`, its manifest. It exists if its manifest does.
The key is a digest of the content of every image file and of the pipeline.
"""

from __future__ import annotations

import json
import os
import sys
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
"""Largest size of a cache whose checksum is verified at each opening; it takes 1 to 2 seconds."""

_BLOCK_BYTES = 2**24
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


class ImageCache:
    """A cache of preprocessed images.

    Args:
        path: The images, a `.npy` file of shape `(N, H, W)` in 8 bits.
        digests: The files' digests, shape `(N,)`, each once and sorted: row `i` is the image of
            `digests[i]`.
        unreadable: Reason by digest for each image that cannot be read; its row is black.
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
        # Mapped once and kept: the folder may be deleted while a run reads from it.
        self._images = _mapped(path)
        shape = self._images.shape
        if len(shape) != 3 or shape[0] != len(digests):
            raise DataError(f"{path} must have {len(digests)} images, got shape {shape}")
        self.image_size: Size = (int(shape[1]), int(shape[2]))

    @property
    def num_bytes(self) -> int:
        """Size of the images in bytes."""
        height, width = self.image_size
        return len(self._digests) * height * width

    @property
    def fits_in_memory(self) -> bool:
        """True if it takes less than half of the memory, so that reads come from memory.

        False on Windows, where the size of the memory is not known here.
        """
        memory = 0
        if sys.platform != "win32":
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        with suppress(OSError, ValueError):  # no such group, or `max`
            memory = min(memory, int(_CGROUP_LIMIT.read_text()))
        return 2 * self.num_bytes < memory

    def split(self, records: Sequence[ImageRecord]) -> CachedSplit:
        """Return the cached images of some records, in their order.

        Args:
            records: Records with a digest.

        Raises:
            DataError: If the cache lacks one of them.
        """
        digests = as_digests(records)
        rows = np.searchsorted(self._digests, digests)
        found = self._digests[np.minimum(rows, len(self._digests) - 1)] == digests
        if not found.all():
            raise DataError(f"{self.path} lacks {records[int(np.argmin(found))].name}")
        return CachedSplit(self.path, torch.from_numpy(rows), self._images)

    def image(self, record: ImageRecord) -> Tensor:
        """Return one image, shape `(1, H, W)`, uint8.

        Args:
            record: A record with a digest.

        Raises:
            DataError: If the cache lacks the image.
        """
        return self.split([record]).images(torch.tensor([0]))[0]


class CachedSplit:
    """The cached images of one split; a worker process maps the file and copies nothing.

    Args:
        path: The file of a cache's images.
        rows: The row of each image, shape `(N,)`, int64.
        images: The file, mapped; `None` maps it at the first read.
    """

    def __init__(self, path: Path, rows: Tensor, images: NDArray[np.uint8] | None = None) -> None:
        self.path = path
        self.rows = rows
        self._images = images

    def images(self, index: Tensor) -> Tensor:
        """Return images of the split, shape `(len(index), 1, H, W)`, uint8, copied.

        Args:
            index: Positions in the split, int64.
        """
        if self._images is None:
            self._images = _mapped(self.path)
        taken = np.take(self._images, self.rows[index].numpy(), axis=0)
        return torch.from_numpy(taken).unsqueeze(1)

    def __getstate__(self) -> dict[str, Any]:
        # Pickling a memory map would copy its content.
        return {**vars(self), "_images": None}


def as_digests(records: Sequence[ImageRecord]) -> NDArray[np.bytes_]:
    """Return the records' digests, shape `(N,)`."""
    return np.array([record.sha256 for record in records], dtype="S64")


def write_manifest(
    path: Path, unreadable: Mapping[str, str], nearly_blank: Collection[str]
) -> None:
    """Write the manifest, which marks the images in `path` as complete.

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
    """Open a complete cache.

    Raises:
        DataError: If it is truncated, damaged, or not a cache.
    """
    manifest = _manifest_path(path)
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        size, checksum, *findings = (
            content[key] for key in ("bytes", "crc32", "unreadable", "nearly_blank")
        )
        if path.stat().st_size != size:
            raise DataError(f"{path} must have {size} bytes, got {path.stat().st_size}")
        if size <= MAX_CHECKED_BYTES and _checksum(path) != checksum:
            raise DataError(f"{path} is damaged: its checksum differs from its manifest")
        return ImageCache(path, digests, *findings)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a cache: {error}") from error


def has_manifest(path: Path) -> bool:
    """True if `path` is a complete cache."""
    return _manifest_path(path).is_file()


def remove_cache(path: Path) -> None:
    """Remove a cache, its manifest first."""
    _manifest_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _manifest_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _mapped(path: Path) -> NDArray[np.uint8]:
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(mapped, np.ndarray) or mapped.dtype != np.uint8:
        raise DataError(
            f"{path} must hold 8-bit images, got {getattr(mapped, 'dtype', type(mapped).__name__)}"
        )
    # A plain view of the same memory: indexing a `memmap` is slower.
    return mapped.view(np.ndarray)


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            checksum = zlib.crc32(block, checksum)
    return checksum
