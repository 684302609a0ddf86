"""Image records of a recipe: read once, checked, cached, and divided into splits."""

from __future__ import annotations

import gc
import hashlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ignite.distributed as idist

from cxrignite.data import ImageRecord
from cxrignite.data.cache_building import inspected, open_cache
from cxrignite.data.grey_scaling import warn_of_nearly_blank
from cxrignite.data.image_cache import ImageCache
from cxrignite.data.inspection import Inspection, inspect_images
from cxrignite.data.leakage import LeakedPair, describe_leaks, leaked_pairs, write_leaks
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.split_assignment import split_off, split_off_fold
from cxrignite.data.splits import check_same_records
from cxrignite.errors import CacheError, DataError, RecipeError, UnreadableImageError
from cxrignite.recipe import DataRecipe
from cxrignite.runs.run_folder import RunFolder

_logger = logging.getLogger(__name__)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause Python's cyclic garbage collector while tables of image records are made.

    It scans all records again as their number grows, and records contain no cycles. With it, a
    million records take 40 % longer.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


class ReadImages(NamedTuple):
    """Records of images whose files have been read.

    Attributes:
        records: Records of the readable images, with their digests.
        cache: Their preprocessed pixels; null if each epoch reads the files.
    """

    records: list[ImageRecord]
    cache: ImageCache | None


def read_and_cache(
    data: DataRecipe, records: list[ImageRecord], pipeline: Pipeline, run_dir: Path
) -> ReadImages:
    """Read every image once, and cache the preprocessed pixels if the recipe says so.

    Caches lie beside the run folder if the recipe names no folder.

    Raises:
        DataError: An image cannot be read (policy `raise`), or the pipeline fails.
        CacheError: The cache cannot be written to the folder that the recipe names.
    """
    folder = _cache_folder(data.cache, run_dir)
    if folder is None or not records:
        return ReadImages(read_records(data, records), None)
    progress = sys.stderr.isatty()
    hashed = inspect_images(records, decode=False, progress=progress)
    try:
        loading = data.num_workers, data.worker_timeout
        cache = open_cache(folder, hashed.records, pipeline, *loading, progress=progress)
    except CacheError as error:
        if data.cache != "auto":
            raise
        _logger.warning("no cache is used, so each epoch reads the image files: %s", error)
        return ReadImages(read_records(data, records), None)
    return ReadImages(_settled(data, inspected(cache, hashed)), cache)


def read_records(data: DataRecipe, records: list[ImageRecord]) -> list[ImageRecord]:
    """Read every image once, without a cache.

    Raises:
        DataError: An image cannot be read (policy `raise`), or none can.
    """
    if not records:
        return []
    inspection = inspect_images(
        records,
        size=data.image_size,
        grey_scaling=data.grey_scaling,
        progress=sys.stderr.isatty(),
    )
    return _settled(data, inspection)


def _settled(data: DataRecipe, inspection: Inspection) -> list[ImageRecord]:
    """Return the readable images, and apply the recipe's policy for the others."""
    if data.on_unreadable == "raise" and inspection.unreadable:
        try:
            inspection.check_all_readable()
        except UnreadableImageError as error:
            hint = "fix the file, or set data.on_unreadable: skip to leave such images out"
            raise UnreadableImageError(error.path, f"{error.reason}; {hint}") from error
    inspection.log_unreadable()
    if not inspection.records:
        num_images = len(inspection.unreadable)
        raise DataError(f"{data.source.root} must have readable images, got none of {num_images}")
    warn_of_nearly_blank(data.grey_scaling, inspection.nearly_blank, len(inspection.records))
    return inspection.records


def _cache_folder(cache: str | bool | Path, run_dir: Path) -> Path | None:
    if isinstance(cache, Path):
        return cache
    return run_dir.parent / "cache" if cache == "auto" else None


def check_no_second_test(data: DataRecipe, records: list[ImageRecord]) -> None:
    """Check, before any image is read, that no second test split is requested.

    Raises:
        RecipeError: The source has a test split, and `data.test_fraction` requests another.
    """
    num_test = sum(record.split == "test" for record in records)
    if data.test_fraction and num_test:
        raise RecipeError(
            "data.test_fraction must be 0 if the source has a test split, "
            f"got {data.test_fraction:g} beside {num_test} test images"
        )


def check_has_train(data: DataRecipe, records: list[ImageRecord]) -> None:
    """Check, before any image is read, that the source has images to train on.

    Raises:
        DataError: The source has no training image.
    """
    if not any(record.split == "train" for record in records):
        found = ", ".join(sorted({record.split for record in records})) or "no image"
        raise DataError(f"{data.source.root} must have images in the train split, found {found}")


def split_records(data: DataRecipe, records: list[ImageRecord], seed: int) -> list[ImageRecord]:
    """Split off the test, validation and calibration images by patient.

    The test split comes first, so that it depends only on the images, its share and the seed.

    With a fold, `val` of the source joins `train`, and the calibration images are split off before
    the folds: they are the same for every fold.

    Raises:
        RecipeError: There is a test split, and another is requested.
        DataError: A split would be empty, or lack a class.
    """
    check_no_second_test(data, records)
    findings = data.source.findings
    # All shares refer to all images, so each is divided by the share that is left.
    left = 1.0
    if data.test_fraction:
        records = split_off(records, "test", data.test_fraction, seed, findings)
        left -= data.test_fraction
    has_val = any(record.split == "val" for record in records)
    if data.fold is not None:
        if has_val:
            _logger.info("the source's val split joins train, because data.fold replaces it")
            records = [
                record.moved("train") if record.split == "val" else record for record in records
            ]
        if data.calibration_fraction:  # before the folds, so that it is the same in all of them
            fraction = min(data.calibration_fraction / left, 0.5)
            records = split_off(records, "calibration", fraction, seed, findings)
            left -= data.calibration_fraction
        records = split_off_fold(records, data.fold.index, data.fold.count, seed, findings)
    elif not has_val:
        records = split_off(records, "val", min(data.val_fraction / left, 0.5), seed, findings)
        left -= data.val_fraction
    if data.calibration_fraction and data.fold is None:
        fraction = min(data.calibration_fraction / left, 0.5)
        records = split_off(records, "calibration", fraction, seed, findings)
    return records


def list_leakage(folder: RunFolder, pairs: list[LeakedPair]) -> None:
    """Write the list of leaked pairs to the run folder, or remove that of an earlier start."""
    if pairs:
        write_leaks(pairs, folder.leakage_path)
    else:
        folder.leakage_path.unlink(missing_ok=True)


def check_leakage(folder: RunFolder, pairs: list[LeakedPair], *, is_allowed: bool) -> None:
    """Refuse to train on splits that share patients or files, unless the recipe allows it.

    Raises:
        DataError: There is leakage, and it is not allowed.
    """
    if not pairs:
        return
    found = f"{describe_leaks(pairs)}, listed in {folder.leakage_path}"
    if not is_allowed:
        raise DataError(
            f"leakage: {found}; fix the splits, or set data.allow_leakage: true to train anyway"
        )
    _logger.warning(
        "leakage, allowed by the recipe: %s; metrics of these splits are optimistic", found
    )


def check_same_everywhere(records: list[ImageRecord]) -> None:
    """Check that all processes have read the same images, for example from separate disks.

    Every process of a group calls it. Otherwise their splits would differ, and one process could
    train on a patient that another validates on.

    Raises:
        DataError: They differ.
    """
    if idist.get_world_size() == 1:
        return
    digest = hashlib.sha256()
    for record in records:
        fields = (record.name, record.split, record.sha256, record.label)
        digest.update("\0".join(map(str, fields)).encode(errors="replace") + b"\n")
    gathered: Any = idist.all_gather(digest.hexdigest())
    if len(set(gathered)) > 1:
        raise DataError(
            f"all processes must read the same images, got {len(set(gathered))} different sets "
            f"in {len(gathered)} processes"
        )


def frozen_records(
    data: DataRecipe,
    folder: RunFolder,
    split: str | None = None,
    current: list[ImageRecord] | None = None,
) -> list[ImageRecord]:
    """Return the records of a run's `split.csv`, checked against the current files.

    Only the files of `split` are checked; None checks all. `current` has the records of the source,
    if they have just been read; None reads the checked files.

    Raises:
        DataError: An image is missing or has changed since this run.
    """
    frozen = folder.read_split(data.source.root)
    expected = [record for record in frozen if split in (None, record.split)]
    names = {record.name for record in expected}
    if current is None:
        listed = data.source.records()
        current = read_records(data, [record for record in listed if record.name in names])
    check_same_records(expected, [record for record in current if record.name in names])
    leaks = [pair for pair in leaked_pairs(frozen) if pair.second.split == split]
    if leaks:
        _logger.warning("metrics of the %s images are optimistic: %s", split, describe_leaks(leaks))
    return frozen


def other_records(data: DataRecipe, folder: RunFolder, split: str) -> list[ImageRecord]:
    """Return another source's records to score as `split`: its split of that name, else all.

    Raises:
        DataError: The source has no usable images, an image cannot be read (policy `raise`), or an
            image was used for this run's training or for the choice of its threshold.
    """
    records = data.source.site_records()
    requested = [record for record in records if record.split == split] or records
    readable = read_records(data, requested)
    used = {record.sha256 for record in folder.read_split("") if record.split != "test"}
    seen = [record for record in readable if record.sha256 in used]
    if seen:
        raise DataError(
            f"{len(seen)} of {len(readable)} images were used in training or validation of this "
            f"run, the first is {seen[0].name}; use images that the run has not seen"
        )
    root = data.source.root
    _logger.info("scoring %d of the %d images in %s", len(readable), len(records), root)
    return [record.moved(split) for record in readable]
