"""The films of a recipe: read once, checked, packed, and divided into splits."""

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

from cxrignite.data import Film
from cxrignite.data.carving import carve_fold, carve_split
from cxrignite.data.grey_scaling import MIN_SHARE
from cxrignite.data.inspection import Inspection, inspect_films
from cxrignite.data.leakage import LeakedPair, describe_leaks, leaked_pairs, write_leaks
from cxrignite.data.pack_building import inspected, open_pack
from cxrignite.data.packing import Pack
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.splits import check_same_films
from cxrignite.errors import DataError, PackError, RecipeError, UnreadableImageError
from cxrignite.recipe import DataRecipe
from cxrignite.runs.run_folder import RunFolder

_logger = logging.getLogger(__name__)

_MOST_NAMED = 3


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python's cyclic garbage collector still while tables of films are made.

    It looks through all films again and again as they grow in number, and there is nothing in them
    for it to find: a million films take 40 % longer with it.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


class ReadFilms(NamedTuple):
    """Films whose files have been read.

    Attributes:
        films: Those that can be read, with their digests.
        pack: Their images; null where each epoch is to read the files.
    """

    films: list[Film]
    pack: Pack | None


def read_and_pack(
    data: DataRecipe, films: list[Film], pipeline: Pipeline, run_dir: Path
) -> ReadFilms:
    """Read every film once, and keep its preprocessed image where the recipe has a place for it.

    Args:
        data: Where packs are kept, and the policy for unreadable images.
        films: What the source lists.
        pipeline: The recipe's.
        run_dir: The run folder, beside which packs lie if the recipe names no place.

    Raises:
        DataError: An image cannot be read (policy `raise`), or the pipeline fails.
        PackError: The folder that the recipe names cannot keep the pack.
    """
    folder = _pack_folder(data.pack, run_dir)
    if folder is None or not films:
        return ReadFilms(read_films(data, films), None)
    progress = sys.stderr.isatty()
    hashed = inspect_films(films, decode=False, on_unreadable="skip", progress=progress)
    try:
        loading = data.num_workers, data.worker_timeout
        pack = open_pack(folder, hashed.films, pipeline, *loading, progress=progress)
    except PackError as error:
        if data.pack != "auto":
            raise
        _logger.warning("not packed, so each epoch reads the films: %s", error)
        return ReadFilms(read_films(data, films), None)
    return ReadFilms(_settled(data, inspected(pack, hashed)), pack)


def read_films(data: DataRecipe, films: list[Film]) -> list[Film]:
    """Read every film once; none is kept.

    Args:
        data: Policy for unreadable images.
        films: What a source lists.

    Raises:
        DataError: An image cannot be read (policy `raise`), or none can.
    """
    if not films:
        return []
    inspection = inspect_films(
        films,
        on_unreadable="skip",
        size=data.image_size,
        grey_scaling=data.grey_scaling,
        progress=sys.stderr.isatty(),
    )
    return _settled(data, inspection)


def _settled(data: DataRecipe, inspection: Inspection) -> list[Film]:
    """The readable films, by the recipe's policy for the others."""
    if data.on_unreadable == "raise" and inspection.unreadable:
        try:
            inspection.check_all_readable()
        except UnreadableImageError as error:
            hint = "mend it, or leave such films out with data.on_unreadable: skip"
            raise UnreadableImageError(error.path, f"{error.reason}; {hint}") from error
    inspection.log_unreadable()
    if not inspection.films:
        num_films = len(inspection.unreadable)
        raise DataError(f"none of the {num_films} images in {data.source.root} can be read")
    warn_of_nearly_blank(data.grey_scaling, inspection.nearly_blank, len(inspection.films))
    return inspection.films


def _pack_folder(pack: str | bool | Path, run_dir: Path) -> Path | None:
    if isinstance(pack, Path):
        return pack
    return run_dir.parent / "packs" if pack == "auto" else None


def check_no_second_test(data: DataRecipe, films: list[Film]) -> None:
    """Refuse to carve a test split beside the source's own, before any film is read.

    Raises:
        RecipeError: `data.test_fraction` asks for that.
    """
    num_test = sum(film.split == "test" for film in films)
    if data.test_fraction and num_test:
        raise RecipeError(
            "data.test_fraction must be 0 where the source has a test split, "
            f"got {data.test_fraction:g} beside {num_test} test films"
        )


def check_has_train(data: DataRecipe, films: list[Film]) -> None:
    """Refuse a source that has nothing to learn from, before any film is read.

    Raises:
        DataError: None of its films is for training.
    """
    if not any(film.split == "train" for film in films):
        found = ", ".join(sorted({film.split for film in films})) or "no film"
        raise DataError(f"{data.source.root} has no film to train on, found {found}")


def split_films(data: DataRecipe, films: list[Film], seed: int) -> list[Film]:
    """Carve the test, validation and calibration splits by patient.

    The test split is carved first: it depends on nothing but the films, its share and the seed.

    Args:
        data: Shares of the splits, and the fold.
        films: With the splits of their source. With a fold its `val` is joined to `train`.
        seed: Of the draw.

    Raises:
        RecipeError: There is a test split, and another is to be carved.
        DataError: A split would be empty, or lack a class.
    """
    check_no_second_test(data, films)
    # All are shares of the films as they come, so each is one of what those before it left.
    left = 1.0
    if data.test_fraction:
        films = carve_split(films, "test", data.test_fraction, seed)
        left -= data.test_fraction
    has_val = any(film.split == "val" for film in films)
    if data.fold is not None:
        if has_val:
            _logger.info("the source's val split is joined to train: a fold takes its place")
            films = [film.moved("train") if film.split == "val" else film for film in films]
        films = carve_fold(films, data.fold.index, data.fold.count, seed)
        left -= left / data.fold.count
    elif not has_val:
        films = carve_split(films, "val", min(data.val_fraction / left, 0.5), seed)
        left -= data.val_fraction
    if data.calibration_fraction:
        fraction = min(data.calibration_fraction / left, 0.5)
        films = carve_split(films, "calibration", fraction, seed)
    return films


def list_leakage(folder: RunFolder, pairs: list[LeakedPair]) -> None:
    """Leave the list of leaked pairs in the run folder; that of an earlier start goes."""
    if pairs:
        write_leaks(pairs, folder.leakage_path)
    else:
        folder.leakage_path.unlink(missing_ok=True)


def check_leakage(folder: RunFolder, pairs: list[LeakedPair], *, is_allowed: bool) -> None:
    """Refuse to train where a split knows another's films, unless the recipe allows it.

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


def check_same_everywhere(films: list[Film]) -> None:
    """Refuse to go on where processes have read other films, as from disks of their own.

    Every process of a group calls it. Their splits would differ, and a patient could be learnt from
    here and validated on there.

    Raises:
        DataError: They differ.
    """
    if idist.get_world_size() == 1:
        return
    digest = hashlib.sha256()
    for film in films:
        digest.update(f"{film.name}\0{film.split}\0{film.sha256}\n".encode(errors="replace"))
    gathered: Any = idist.all_gather(digest.hexdigest())
    if len(set(gathered)) > 1:
        raise DataError(
            f"all processes must read the same films, got {len(set(gathered))} different tables "
            f"in {len(gathered)} processes"
        )


def frozen_films(
    data: DataRecipe,
    folder: RunFolder,
    split: str | None = None,
    current: list[Film] | None = None,
) -> list[Film]:
    """The films of a run as `split.csv` froze them, checked against the files as they are now.

    Args:
        data: The run's own.
        folder: The run.
        split: The one split whose files are checked; null checks all.
        current: The source's films as they were read just now; null reads those that are checked.

    Raises:
        DataError: A film is gone or has other content than in this run.
    """
    frozen = folder.read_split(data.source.root)
    wanted = [film for film in frozen if split in (None, film.split)]
    names = {film.name for film in wanted}
    if current is None:
        listed = data.source.films()
        current = read_films(data, [film for film in listed if film.name in names])
    check_same_films(wanted, [film for film in current if film.name in names])
    leaks = [pair for pair in leaked_pairs(frozen) if pair.second.split == split]
    if leaks:
        _logger.warning("the %s films' figures flatter: %s", split, describe_leaks(leaks))
    return frozen


def other_films(data: DataRecipe, folder: RunFolder, split: str) -> list[Film]:
    """Films of another source to be scored as `split`: those of its split of that name, else all.

    Raises:
        DataError: The source has no usable films, an image cannot be read (policy `raise`), or a
            film took part in this run's training or in the choice of its threshold.
    """
    films = data.source.films()
    wanted = [film for film in films if film.split == split] or films
    readable = read_films(data, wanted)
    used = {film.sha256 for film in folder.read_split("") if film.split != "test"}
    seen = [film for film in readable if film.sha256 in used]
    if seen:
        raise DataError(
            f"{len(seen)} of {len(readable)} films took part in training or validation of this "
            f"run, the first is {seen[0].name}"
        )
    root = data.source.root
    _logger.info("scoring %d of the %d films in %s", len(readable), len(films), root)
    return [film.moved(split) for film in readable]


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
