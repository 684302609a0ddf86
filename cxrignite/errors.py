"""Errors of the library, each with the exit code of the command line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

# Messages of torch's allocators, of oneDNN, and of Python if it cannot start a thread or process.
_RESOURCE_ERROR = re.compile(
    r"out of memory|not enough memory|DefaultCPUAllocator|Cannot allocate memory"
    r"|could not create a (memory object|primitive)\b(?! descriptor)"
)


class CxrIgniteError(Exception):
    """A failure that the user can act on; the command line shows it as one line."""

    exit_code = 1


class RecipeError(CxrIgniteError, ValueError):
    """A recipe or argument that is not valid: exit code 2."""

    exit_code = 2


class RunFolderError(CxrIgniteError):
    """A run folder that is in use, unfinished, or made by another recipe: exit code 2."""

    exit_code = 2


class DamagedRunError(RunFolderError):
    """A file of a run folder that is damaged or was changed: exit code 3."""

    exit_code = 3


class WeightsError(CxrIgniteError):
    """Pretrained weights that are not available or do not fit the architecture: exit code 2."""

    exit_code = 2


class DataError(CxrIgniteError):
    """Images, labels or folders that cannot be used: exit code 3."""

    exit_code = 3


class UnreadableImageError(DataError):
    """One image file that cannot be read.

    Args:
        path: The file.
        reason: The cause, in a few words.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"cannot read image {path}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableImageError], tuple[Path, str]]:
        # A loader worker pickles its exception; by default the message becomes `path`.
        return type(self), (self.path, self.reason)


class CacheError(CxrIgniteError):
    """A folder that cannot hold an image cache: exit code 1."""


class DownloadError(CxrIgniteError):
    """A file that could not be fetched: exit code 1."""


class CheckpointError(CxrIgniteError):
    """A checkpoint that is missing, damaged or of another program: exit code 3."""

    exit_code = 3


class ConstraintError(CxrIgniteError):
    """A constraint on the operating point that these images cannot meet: exit code 4."""

    exit_code = 4


class NonFiniteError(CxrIgniteError):
    """A loss, weight or map became NaN or infinite: exit code 1."""


class WorkerKilled(BaseException):
    """Death of a worker process of a data loader, killed by the system or by a person.

    It is raised at any point of the main process, for example while it decodes an image. Hence it
    is no `Exception`: code that attributes every error to its input must not catch it.
    """


def is_resource_error(error: BaseException) -> bool:
    """True if memory ran out, which is no fault of the file or the transform in use.

    Code that attributes errors to a file or a transform raises these unchanged.

    Args:
        error: The exception.

    Returns:
        True if it, or an exception behind it, is about memory.
    """
    each: BaseException | None = error
    while each is not None:  # libraries wrap it in errors of their own
        if isinstance(each, MemoryError):
            return True
        if isinstance(each, RuntimeError | OSError) and _RESOURCE_ERROR.search(str(each)):
            return True
        each = each.__cause__ or each.__context__
    return False


def suggestion(name: str, names: Iterable[str], prefix: str = "", *, lists: bool = True) -> str:
    """Return the end of an error about an unknown name: the nearest known one.

    Args:
        name: The unknown name.
        names: The known names.
        prefix: Text before each known name.
        lists: List the known names (at most 12) if none is near.

    Returns:
        The end of a sentence; empty if there is nothing to suggest.
    """
    names = sorted({*names} - {""})
    near = nearest(name, names)
    if near is not None:
        return f"; did you mean '{prefix}{near}'?"
    shown = [f"{prefix}{each}" for each in names[:12]] + ["..."] * (len(names) > 12)
    return f"; available: {', '.join(shown)}" if names and lists else ""


def nearest(name: str, names: Sequence[str]) -> str | None:
    """Find the known name nearest to an unknown one; case does not matter.

    Args:
        name: The unknown name.
        names: The known names; a dotted one is also found by its last part.

    Returns:
        One of `names`; None if none is near.
    """
    # If several have the same last part, the first is found.
    keys = {each.rpartition(".")[2].casefold(): each for each in reversed(names)}
    keys.update((each.casefold(), each) for each in reversed(names))
    near = difflib.get_close_matches(name.casefold(), keys, n=1)
    return keys[near[0]] if near else None
