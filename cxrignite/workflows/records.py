"""The images of a recipe: read once, checked, cached, and divided into splits."""

from __future__ import annotations

import gc
import hashlib
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ignite.distributed as idist

from cxrignite.data import ImageRecord
from cxrignite.data.cache_building import inspected, open_cache
from cxrignite.data.grey_scaling import MIN_SHARE
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

_MOST_NAMED = 3


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python's cyclic garbage collector still while tables of images are made.

    It looks through all images again and again as they grow in number, and there is nothing in them
    for it to find: a million images take 40 % longer with it.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


class ReadImages(NamedTuple):
    """Images whose files have been read.

    Attributes:
        records: Those that can be read, with their digests.
        cache: Their images; null where each epoch is to read the files.
    """

    records: list[ImageRecord]
    cache: ImageCache | None


def read_and_cache(
    data: DataRecipe, records: list[ImageRecord], pipeline: Pipeline, run_dir: Path
) -> ReadImages:
    """Read every image once, and keep its preprocessed image where the recipe has a place for it.

    Args:
        data: Where caches are kept, and the policy for unreadable images.
        records: What the source lists.
        pipeline: The recipe's.
        run_dir: The run folder, beside which caches lie if the recipe names no place.

    Raises:
        DataError: An image cannot be read (policy `raise`), or the pipeline fails.
        CacheError: The folder that the recipe names cannot keep the cache.
    """
    folder = _cache_folder(data.cache, run_dir)
    if folder is None or not records:
        return ReadImages(read_records(data, records), None)
    progress = sys.stderr.isatty()
    hashed = inspect_images(records, decode=False, on_unreadable="skip", progress=progress)
    try:
        loading = data.num_workers, data.worker_timeout
        cache = open_cache(folder, hashed.records, pipeline, *loading, progress=progress)
    except CacheError as error:
        if data.cache != "auto":
            raise
        _logger.warning("not cached, so each epoch reads the images: %s", error)
        return ReadImages(read_records(data, records), None)
    return ReadImages(_settled(data, inspected(cache, hashed)), cache)


def read_records(data: DataRecipe, records: list[ImageRecord]) -> list[ImageRecord]:
    """Read every image once; none is kept.

    Args:
        data: Policy for unreadable images.
        records: What a source lists.

    Raises:
        DataError: An image cannot be read (policy `raise`), or none can.
    """
    if not records:
        return []
    inspection = inspect_images(
        records,
        on_unreadable="skip",
        size=data.image_size,
        grey_scaling=data.grey_scaling,
        progress=sys.stderr.isatty(),
    )
    return _settled(data, inspection)


def _settled(data: DataRecipe, inspection: Inspection) -> list[ImageRecord]:
    """The readable images, by the recipe's policy for the others."""
    if data.on_unreadable == "raise" and inspection.unreadable:
        try:
            inspection.check_all_readable()
        except UnreadableImageError as error:
            hint = "mend it, or leave such images out with data.on_unreadable: skip"
            raise UnreadableImageError(error.path, f"{error.reason}; {hint}") from error
    inspection.log_unreadable()
    if not inspection.records:
        num_images = len(inspection.unreadable)
        raise DataError(f"none of the {num_images} images in {data.source.root} can be read")
    warn_of_nearly_blank(data.grey_scaling, inspection.nearly_blank, len(inspection.records))
    return inspection.records


def _cache_folder(cache: str | bool | Path, run_dir: Path) -> Path | None:
    if isinstance(cache, Path):
        return cache
    return run_dir.parent / "cache" if cache == "auto" else None


def check_no_second_test(data: DataRecipe, records: list[ImageRecord]) -> None:
    """Refuse to carve a test split beside the source's own, before any image is read.

    Raises:
        RecipeError: `data.test_fraction` asks for that.
    """
    num_test = sum(record.split == "test" for record in records)
    if data.test_fraction and num_test:
        raise RecipeError(
            "data.test_fraction must be 0 where the source has a test split, "
            f"got {data.test_fraction:g} beside {num_test} test images"
        )


def check_has_train(data: DataRecipe, records: list[ImageRecord]) -> None:
    """Refuse a source that has nothing to learn from, before any image is read.

    Raises:
        DataError: None of its images is for training.
    """
    if not any(record.split == "train" for record in records):
        found = ", ".join(sorted({record.split for record in records})) or "no image"
        raise DataError(f"{data.source.root} has no image to train on, found {found}")


def split_records(data: DataRecipe, records: list[ImageRecord], seed: int) -> list[ImageRecord]:
    """Carve the test, validation and calibration splits by patient.

    The test split is carved first: it depends on nothing but the images, its share and the seed.

    Args:
        data: Shares of the splits, and the fold.
        records: With the splits of their source. With a fold its `val` is joined to `train`.
        seed: Of the draw.

    Raises:
        RecipeError: There is a test split, and another is to be carved.
        DataError: A split would be empty, or lack a class.
    """
    check_no_second_test(data, records)
    # All are shares of the images as they come, so each is one of what those before it left.
    left = 1.0
    if data.test_fraction:
        records = split_off(records, "test", data.test_fraction, seed)
        left -= data.test_fraction
    has_val = any(record.split == "val" for record in records)
    if data.fold is not None:
        if has_val:
            _logger.info("the source's val split is joined to train: a fold takes its place")
            records = [
                record.moved("train") if record.split == "val" else record for record in records
            ]
        records = split_off_fold(records, data.fold.index, data.fold.count, seed)
        left -= left / data.fold.count
    elif not has_val:
        records = split_off(records, "val", min(data.val_fraction / left, 0.5), seed)
        left -= data.val_fraction
    if data.calibration_fraction:
        fraction = min(data.calibration_fraction / left, 0.5)
        records = split_off(records, "calibration", fraction, seed)
    return records


def list_leakage(folder: RunFolder, pairs: list[LeakedPair]) -> None:
    """Leave the list of leaked pairs in the run folder; that of an earlier start goes."""
    if pairs:
        write_leaks(pairs, folder.leakage_path)
    else:
        folder.leakage_path.unlink(missing_ok=True)


def check_leakage(folder: RunFolder, pairs: list[LeakedPair], *, is_allowed: bool) -> None:
    """Refuse to train where a split knows another's images, unless the recipe allows it.

    Args:
        folder: Where they are listed.
        pairs: What was found in the splits.
        is_allowed: True if the recipe allows it.

    Raises:
        DataError: It does not.
    """
    if not pairs:
        return
    found = f"{describe_leaks(pairs)}, listed in {folder.leakage_path}"
    if not is_allowed:
        raise DataError(
            f"leakage: {found}; mend the splits, or train all the same with "
            "data.allow_leakage: true"
        )
    _logger.warning("leakage, allowed by the recipe: %s; their figures flatter", found)


def check_same_everywhere(records: list[ImageRecord]) -> None:
    """Refuse to go on where processes have read other images, as from disks of their own.

    Every process of a group calls it. Their splits would differ, and a patient could be learnt from
    here and validated on there.

    Raises:
        DataError: They differ.
    """
    if idist.get_world_size() == 1:
        return
    digest = hashlib.sha256()
    for record in records:
        digest.update(f"{record.name}\0{record.split}\0{record.sha256}\n".encode(errors="replace"))
    gathered: Any = idist.all_gather(digest.hexdigest())
    if len(set(gathered)) > 1:
        raise DataError(
            f"all processes must read the same images, got {len(set(gathered))} different tables "
            f"in {len(gathered)} processes"
        )


def frozen_records(
    data: DataRecipe,
    folder: RunFolder,
    split: str | None = None,
    current: list[ImageRecord] | None = None,
) -> list[ImageRecord]:
    """The images of a run as `split.csv` froze them, checked against the files as they are now.

    Args:
        data: The run's own.
        folder: The run.
        split: The one split whose files are checked; null checks all.
        current: The source's images as they were read just now; null reads those that are checked.

    Raises:
        DataError: An image is gone or has other content than in this run.
    """
    frozen = folder.read_split(data.source.root)
    wanted = [record for record in frozen if split in (None, record.split)]
    names = {record.name for record in wanted}
    if current is None:
        listed = data.source.records()
        current = read_records(data, [record for record in listed if record.name in names])
    check_same_records(wanted, [record for record in current if record.name in names])
    leaks = [pair for pair in leaked_pairs(frozen) if pair.second.split == split]
    if leaks:
        _logger.warning("the %s images' figures flatter: %s", split, describe_leaks(leaks))
    return frozen


def other_records(data: DataRecipe, folder: RunFolder, split: str) -> list[ImageRecord]:
    """Images of another source to be scored as `split`: those of its split of that name, else all.

    Raises:
        DataError: The source has no usable images, an image cannot be read (policy `raise`), or a
            image took part in this run's training or in the choice of its threshold.
    """
    records = data.source.records()
    wanted = [record for record in records if record.split == split] or records
    readable = read_records(data, wanted)
    used = {record.sha256 for record in folder.read_split("") if record.split != "test"}
    seen = [record for record in readable if record.sha256 in used]
    if seen:
        raise DataError(
            f"{len(seen)} of {len(readable)} images took part in training or validation of this "
            f"run, the first is {seen[0].name}"
        )
    root = data.source.root
    _logger.info("scoring %d of the %d images in %s", len(readable), len(records), root)
    return [record.moved(split) for record in readable]


def warn_of_nearly_blank(grey_scaling: str, names: Sequence[str], num_images: int) -> None:
    """Log how many images use little of the grey range; nothing if none does.

    Args:
        grey_scaling: The setting by which they were scaled.
        names: Of those images.
        num_images: Images that were read.
    """
    if not names:
        return
    more = ", ..." if len(names) > _MOST_NAMED else ""
    _logger.warning(
        "%d of %d images are nearly blank, with less than %.0f %% of the grey range: %s%s; look at "
        "them, or choose another data.grey_scaling than %s",
        *(len(names), num_images, 100 * MIN_SHARE, ", ".join(names[:_MOST_NAMED]), more),
        grey_scaling,
    )
