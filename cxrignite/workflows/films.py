"""The films of a recipe: read once, checked, packed, and divided into splits."""

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

from cxrignite.data import Film
from cxrignite.data.carving import carve_fold, carve_split
from cxrignite.data.inspection import Inspection, inspect_films
from cxrignite.data.leakage import LeakedPair, describe_leaks, leaked_pairs, write_leaks
from cxrignite.data.pack_building import inspected, open_pack
from cxrignite.data.packing import Pack
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.splits import check_same_films
from cxrignite.errors import DataError, PackError, RecipeError, UnreadableImageError
from cxrignite.recipe import Recipe
from cxrignite.runs.run_folder import RunFolder
from cxrignite.workflows.nearly_blank import warn_of_nearly_blank

_logger = logging.getLogger(__name__)


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


def read_and_pack(recipe: Recipe, films: list[Film], pipeline: Pipeline) -> ReadFilms:
    """Read every film once, and keep its preprocessed image where the recipe has a place for it.

    Args:
        recipe: Where packs are kept, and the policy for unreadable images.
        films: What the source lists.
        pipeline: The recipe's.

    Raises:
        DataError: An image cannot be read (policy `raise`), or the pipeline fails.
        PackError: The folder that the recipe names cannot keep the pack.
    """
    folder = _pack_folder(recipe)
    if folder is None or not films:
        return ReadFilms(read_films(recipe, films), None)
    progress = sys.stderr.isatty()
    hashed = inspect_films(films, decode=False, on_unreadable="skip", progress=progress)
    try:
        loading = recipe.data.num_workers, recipe.data.worker_timeout
        pack = open_pack(folder, hashed.films, pipeline, *loading, progress=progress)
    except PackError as error:
        if recipe.data.pack != "auto":
            raise
        _logger.warning("not packed, so each epoch reads the films: %s", error)
        return ReadFilms(read_films(recipe, films), None)
    return ReadFilms(_settled(recipe, inspected(pack, hashed)), pack)


def read_films(recipe: Recipe, films: list[Film]) -> list[Film]:
    """Read every film once; none is kept.

    Args:
        recipe: Policy for unreadable images.
        films: What a source lists.

    Raises:
        DataError: An image cannot be read (policy `raise`), or none can.
    """
    if not films:
        return []
    inspection = inspect_films(
        films,
        on_unreadable="skip",
        size=recipe.data.image_size,
        grey_scaling=recipe.data.grey_scaling,
        progress=sys.stderr.isatty(),
    )
    return _settled(recipe, inspection)


def _settled(recipe: Recipe, inspection: Inspection) -> list[Film]:
    """The readable films, by the recipe's policy for the others."""
    if recipe.data.on_unreadable == "raise" and inspection.unreadable:
        try:
            inspection.check_all_readable()
        except UnreadableImageError as error:
            hint = "mend it, or leave such films out with data.on_unreadable: skip"
            raise UnreadableImageError(error.path, f"{error.reason}; {hint}") from error
    inspection.log_unreadable()
    if not inspection.films:
        num_films = len(inspection.unreadable)
        raise DataError(f"none of the {num_films} images in {recipe.data.source.root} can be read")
    warn_of_nearly_blank(recipe, inspection.nearly_blank, len(inspection.films))
    return inspection.films


def _pack_folder(recipe: Recipe) -> Path | None:
    pack = recipe.data.pack
    if isinstance(pack, Path):
        return pack
    return recipe.run_dir.parent / "packs" if pack == "auto" else None


def check_no_second_test(recipe: Recipe, films: list[Film]) -> None:
    """Refuse to carve a test split beside the source's own, before any film is read.

    Raises:
        RecipeError: `data.test_fraction` asks for that.
    """
    num_test = sum(film.split == "test" for film in films)
    if recipe.data.test_fraction and num_test:
        raise RecipeError(
            "data.test_fraction must be 0 where the source has a test split, "
            f"got {recipe.data.test_fraction:g} beside {num_test} test films"
        )


def check_has_train(recipe: Recipe, films: list[Film]) -> None:
    """Refuse a source that has nothing to learn from, before any film is read.

    Raises:
        DataError: None of its films is for training.
    """
    if not any(film.split == "train" for film in films):
        found = ", ".join(sorted({film.split for film in films})) or "no film"
        raise DataError(f"{recipe.data.source.root} has no film to train on, found {found}")


def split_films(recipe: Recipe, films: list[Film]) -> list[Film]:
    """Carve the test, validation and calibration splits by patient.

    The test split is carved first: it depends on nothing but the films, its share and the seed.

    Args:
        recipe: Shares of the splits, the fold, seed.
        films: With the splits of their source. With a fold its `val` is joined to `train`.

    Raises:
        RecipeError: There is a test split, and another is to be carved.
        DataError: A split would be empty, or lack a class.
    """
    check_no_second_test(recipe, films)
    data = recipe.data
    # All are shares of the films as they come, so each is one of what those before it left.
    left = 1.0
    if data.test_fraction:
        films = carve_split(films, "test", data.test_fraction, recipe.seed)
        left -= data.test_fraction
    has_val = any(film.split == "val" for film in films)
    if data.fold is not None:
        if has_val:
            _logger.info("the source's val split is joined to train: a fold takes its place")
            films = [film.moved("train") if film.split == "val" else film for film in films]
        films = carve_fold(films, data.fold.index, data.fold.count, recipe.seed)
        left -= left / data.fold.count
    elif not has_val:
        films = carve_split(films, "val", min(data.val_fraction / left, 0.5), recipe.seed)
        left -= data.val_fraction
    if data.calibration_fraction:
        fraction = min(data.calibration_fraction / left, 0.5)
        films = carve_split(films, "calibration", fraction, recipe.seed)
    return films


def list_leakage(folder: RunFolder, pairs: list[LeakedPair]) -> None:
    """Leave the list of leaked pairs in the run folder; that of an earlier start goes."""
    if pairs:
        write_leaks(pairs, folder.leakage_path)
    else:
        folder.leakage_path.unlink(missing_ok=True)


def check_leakage(recipe: Recipe, folder: RunFolder, pairs: list[LeakedPair]) -> None:
    """Refuse to train where a split knows another's films, unless the recipe allows it.

    Args:
        recipe: Whether it does.
        folder: Where they are listed.
        pairs: What was found in the splits.

    Raises:
        DataError: It does not.
    """
    if not pairs:
        return
    found = f"{describe_leaks(pairs)}, listed in {folder.leakage_path}"
    if not recipe.data.allow_leakage:
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
    recipe: Recipe,
    folder: RunFolder,
    split: str | None = None,
    current: list[Film] | None = None,
) -> list[Film]:
    """The films of a run as `split.csv` froze them, checked against the files as they are now.

    Args:
        recipe: The run's recipe.
        folder: The run.
        split: The one split whose files are checked; null checks all.
        current: The source's films as they were read just now; null reads those that are checked.

    Raises:
        DataError: A film is gone or has other content than in this run.
    """
    frozen = folder.read_split(recipe.data.source.root)
    wanted = [film for film in frozen if split in (None, film.split)]
    names = {film.name for film in wanted}
    if current is None:
        listed = recipe.data.source.films()
        current = read_films(recipe, [film for film in listed if film.name in names])
    check_same_films(wanted, [film for film in current if film.name in names])
    leaks = [pair for pair in leaked_pairs(frozen) if pair.second.split == split]
    if leaks:
        _logger.warning("the %s films' figures flatter: %s", split, describe_leaks(leaks))
    return frozen


def other_films(recipe: Recipe, folder: RunFolder, split: str) -> list[Film]:
    """Films of another source to be scored as `split`: those of its split of that name, else all.

    Raises:
        DataError: The source has no usable films, an image cannot be read (policy `raise`), or a
            film took part in this run's training or in the choice of its threshold.
    """
    films = recipe.data.source.films()
    wanted = [film for film in films if film.split == split] or films
    readable = read_films(recipe, wanted)
    used = {film.sha256 for film in folder.read_split("") if film.split != "test"}
    seen = [film for film in readable if film.sha256 in used]
    if seen:
        raise DataError(
            f"{len(seen)} of {len(readable)} films took part in training or validation of this "
            f"run, the first is {seen[0].name}"
        )
    root = recipe.data.source.root
    _logger.info("scoring %d of the %d films in %s", len(readable), len(films), root)
    return [film.moved(split) for film in readable]
