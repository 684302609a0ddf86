"""The library's own errors; each knows the exit code that the command line ends with."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

# Of torch's allocators, of oneDNN, and of Python where it starts a thread or a process.
_RESOURCE_ERROR = re.compile(
    r"out of memory|not enough memory|DefaultCPUAllocator|Cannot allocate memory"
    r"|could not create a (memory object|primitive)\b(?! descriptor)"
)


class CxrIgniteError(Exception):
    """A failure that the user can act on; the command line shows it as one line."""

    exit_code = 1


class RecipeError(CxrIgniteError, ValueError):
    """A recipe or argument that cannot be honoured: exit code 2."""

    exit_code = 2


class RunFolderError(CxrIgniteError):
    """A run folder that is in use, unfinished, or of another recipe: exit code 2."""

    exit_code = 2


class DamagedRunError(RunFolderError):
    """A file of a run folder that is damaged or is not as it was written: exit code 3."""

    exit_code = 3


class WeightsError(CxrIgniteError):
    """Pretrained weights that cannot be had or do not fit the architecture: exit code 2."""

    exit_code = 2


class DataError(CxrIgniteError):
    """Images, labels or folders that cannot be used: exit code 3."""

    exit_code = 3


class UnreadableImageError(DataError):
    """One image file that cannot be read.

    Args:
        path: The file.
        reason: Why, in a few words.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"cannot read image {path}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableImageError], tuple[Path, str]]:
        # A loader worker pickles its exception; the default would replay the joined message.
        return type(self), (self.path, self.reason)


class CacheError(CxrIgniteError):
    """A folder that cannot keep preprocessed images: exit code 1."""


class DownloadError(CxrIgniteError):
    """A file that could not be fetched: exit code 1."""


class CheckpointError(CxrIgniteError):
    """A checkpoint that is missing, damaged or not ours: exit code 3."""

    exit_code = 3


class ConstraintError(CxrIgniteError):
    """A constraint on the operating point that these images cannot meet: exit code 4."""

    exit_code = 4


class NonFiniteError(CxrIgniteError):
    """A loss, weight or map became NaN or infinite: exit code 1."""


class WorkerKilled(BaseException):
    """The system, or a person, has ended a worker process of a data loader.

    It is raised wherever the main process happens to be, in the middle of decoding an image, say.
    Hence it is no `Exception`: no code that blames what it works on for every error may take it.
    """


def is_resource_error(error: BaseException) -> bool:
    """Recognise memory that ran out, which says nothing against what was being computed.

    Code that blames a file or a transform for any error of its passes these on.

    Args:
        error: What was raised.

    Returns:
        Whether it is of memory.
    """
    each: BaseException | None = error
    while each is not None:  # libraries quote it in errors of their own
        if isinstance(each, MemoryError):
            return True
        if isinstance(each, RuntimeError | OSError) and _RESOURCE_ERROR.search(str(each)):
            return True
        each = each.__cause__ or each.__context__
    return False


def suggestion(name: str, names: Iterable[str], prefix: str = "", *, lists: bool = True) -> str:
    """End an error about a name that does not exist with the nearest one that does.

    Args:
        name: The wrong name.
        names: The right ones.
        prefix: Stands before each of them.
        lists: List them (but at most 12) if none is near.

    Returns:
        The end of a sentence; empty if there is nothing to suggest.
    """
    names = sorted({*names} - {""})
    near = nearest(name, names)
    if near is not None:
        return f"; did you mean '{prefix}{near}'?"
    shown = [f"{prefix}{each}" for each in names[:12]] + ["..."] * (len(names) > 12)
    return f"; there are {', '.join(shown)}" if names and lists else ""


def nearest(name: str, names: Sequence[str]) -> str | None:
    """Find the name nearest to one that does not exist; case does not matter.

    Args:
        name: The wrong name.
        names: The right ones; a dotted one is also found by its last part.

    Returns:
        One of `names`; None if none is near.
    """
    # Of several with one last part the first is found.
    keys = {each.rpartition(".")[2].casefold(): each for each in reversed(names)}
    keys.update((each.casefold(), each) for each in reversed(names))
    near = difflib.get_close_matches(name.casefold(), keys, n=1)
    return keys[near[0]] if near else None
