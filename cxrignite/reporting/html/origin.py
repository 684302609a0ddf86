"""A report's statements on the source of its data and on how they reached the model.

Each sentence comes from the recipe's keys that were in force or from what the run left, and a part
that is not known says so: a default of one source is not a fact about another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from cxrignite.data import Film
from cxrignite.reporting.wording import split_name
from cxrignite.runs.run_results import RunResults, Tree
from cxrignite.terminal import counted

_BY_NAME = ("ClassFolders", "Phantom")


def patient_origin(source: Tree, films: Sequence[Film]) -> str:
    """Describe how patients were identified, and count the films that counted as one each.

    Args:
        source: The recipe's `data.source`.
        films: The films of every split.
    """
    settings = source.child("init_args")
    kind = source.text("class_path").rpartition(".")[2]
    alone = sum(film.patient in (film.name, _without_suffix(film.name)) for film in films)
    if kind in _BY_NAME:
        where = "the file names"
    elif kind != "Manifest":
        where = f"what {kind} says" if kind else "a source that is not known"
    elif settings.flag("patients.from_header"):
        where = "the DICOM headers"
    elif settings.text("patients.pattern"):
        where = "the paths of the films"
    else:
        column = settings.text("columns.patient") or "patient"
        where = f"the column '{column}' of the manifest"
    if films and alone == len(films):
        return "No film names a patient, so each counts as a patient of its own."
    own = (
        f"; {counted(alone, 'film')} without one counted as patients of their own" if alone else ""
    )
    return f"Who is one patient was read from {where}{own}."


def batch_words(data: Tree, trainer: Tree, num_processes: int | None) -> str:
    """Count the images of one step of the optimizer.

    Args:
        data: The recipe's `data`.
        trainer: The recipe's `trainer`.
        num_processes: Processes that trained; null where that is not known.
    """
    size = data.count("batch_size")
    if size is None:
        return ""
    factors = {
        "batches accumulated": trainer.count("accumulation_steps") or 1,
        "processes": num_processes or 1,
    }
    several = {name: number for name, number in factors.items() if number > 1}
    if not several:
        return str(size)
    images = size
    for number in several.values():
        images *= number
    parts = " and ".join(f"{number} {name}" for name, number in several.items())
    return f"{size}; with {parts}, {images} images make one step of the optimizer"


def films_of_splits(results: RunResults) -> str:
    """Count the films of each split: a source may have splits of its own."""
    counts = [
        (sum(film.split == name for film in results.films), split_name(name))
        for name in results.split_names
    ]
    return ", ".join(f"{number:,} {name}" for number, name in counts)


def fold_words(data: Tree) -> str:
    """Name the fold that validated; empty if there are no folds."""
    index, count = data.count("fold.index"), data.count("fold.count")
    if index is None or count is None:
        return ""
    return f"fold {index} of {count}, counted from 0"


def of_starts(values: Iterable[object]) -> str:
    """List a property of each start of a run in order, once if all have the same."""
    return ", then ".join(dict.fromkeys(str(value) for value in values if value is not None))


def _without_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if PurePosixPath(name).name else name
