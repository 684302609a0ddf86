"""Guard over the files that the parts of a recipe write.

A recipe may come from another person. Its settings are checked before any part is made
(`cli/written_paths.py`), but a part can have a default folder, or build a path from a prefix. So
the interpreter itself reports each file that Python opens for writing, and the guard refuses those
elsewhere. It sees nothing that a C library or another process writes.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cxrignite.errors import CxrIgniteError, RecipeError

WRITABLE = "CXRIGNITE_WRITABLE"
"""Environment variable with further folders that parts may write to, separated as in PATH."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Positions of the paths, and of the descriptor of the folder that a path is relative to.
_EVENTS = {
    "os.mkdir": ((0,), 2),
    "os.rename": ((0, 1), 2),
    "os.remove": ((0,), 1),
    "os.rmdir": ((0,), 1),
    "os.link": ((0, 1), 2),
    "os.symlink": ((1,), 2),
    "os.truncate": ((0,), None),
    "os.chmod": ((0,), 2),
    "os.chown": ((0,), 3),
    "os.utime": ((0,), 3),
    "shutil.rmtree": ((0,), None),
    "sqlite3.connect": ((0,), None),
}
# Folders in which libraries keep files of their own: compiled kernels, fonts, downloads.
_LIBRARY_FOLDERS = (
    *("XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR"),
    *("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "CUDA_CACHE_PATH"),
)
_LIBRARY_DEFAULTS = ("~/.cache", "~/.triton", "~/.nv", "~/.config/matplotlib", "/dev/shm")
_DEVICES = ("/dev/null", "/dev/tty")


class _Limit:
    """The folders that parts may write to.

    Temporary files of other programs are foreign too, so only entries of the temporary folder that
    are made later are writable.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.refused: list[str] = []
        named = [os.environ[name] for name in _LIBRARY_FOLDERS if os.environ.get(name)]
        self.folders = [*writable_folders(run_dir), *map(resolved, [*named, *_LIBRARY_DEFAULTS])]
        self.temporary = resolved(tempfile.gettempdir())
        self.foreign = {
            name for name in os.listdir(self.temporary) if not name.startswith("torchinductor_")
        }

    def allows(self, path: Path) -> bool:
        if any(path.is_relative_to(folder) for folder in self.folders):
            return True
        if path != self.temporary and path.is_relative_to(self.temporary):
            return path.relative_to(self.temporary).parts[0] not in self.foreign
        return str(path) in _DEVICES or "__pycache__" in path.parts


_limits: list[_Limit] = []
_running: list[None] = []  # a list, since its methods are atomic: threads also run transforms
_is_hooked = False


def resolved(place: str | Path) -> Path:
    """Return a path that is absolute, without links, and with `~` replaced."""
    return Path(os.path.realpath(os.path.expanduser(place)))


def writable_folders(run_dir: Path) -> list[Path]:
    """Return the folders below which the parts of a recipe may write."""
    further = filter(None, os.environ.get(WRITABLE, "").split(os.pathsep))
    return [resolved(run_dir), *map(resolved, further)]


def rule_of_writes(run_dir: Path) -> str:
    """Return the rule for the files of parts, as part of an error."""
    return (
        f"must lie below run_dir {run_dir} (or in a folder that the environment variable "
        f"{WRITABLE} names)"
    )


@contextmanager
def parts_limited(run_dir: Path) -> Iterator[None]:
    """Limit what parts write, wherever `part_runs` marks them, to a run folder."""
    _hook_once()
    _limits.append(_Limit(run_dir))
    try:
        yield
    finally:
        _limits.pop()


@contextmanager
def part_runs() -> Iterator[None]:
    """Mark code that runs parts of a recipe; without `parts_limited` it has no effect.

    Raises:
        RecipeError: A part wrote outside of the folders.
    """
    if not _limits:
        yield
        return
    refused = _limits[-1].refused
    before = len(refused)
    _running.append(None)
    try:
        yield
    except Exception as error:
        # Libraries wrap it in errors of their own, or try another way and blame something else.
        if refused[before:] and not isinstance(error, CxrIgniteError):
            raise RecipeError(refused[-1]) from error
        raise
    finally:
        _running.pop()


def _hook_once() -> None:
    # A hook stays until the process ends, and forked workers inherit it.
    global _is_hooked
    if not _is_hooked:
        sys.addaudithook(_check)
        _is_hooked = True


def _check(event: str, args: tuple[Any, ...]) -> None:
    if not _running or not _limits:
        return
    if event == "open":
        if isinstance(args[0], int) or not (args[2] or 0) & _WRITING:
            return
        paths = args[:1]
    elif event in _EVENTS:
        positions, folder = _EVENTS[event]
        # `shutil.rmtree` has been checked as a whole before it removes with descriptors.
        if folder is not None and args[folder] not in (-1, None):
            return
        paths = tuple(args[position] for position in positions)
    else:
        return
    for path in paths:
        if isinstance(path, int):
            continue
        place = resolved(os.fsdecode(path))
        if not _limits[-1].allows(place):
            rule = rule_of_writes(_limits[-1].run_dir)
            _limits[-1].refused.append(f"what handlers and transforms write {rule}, got {place}")
            # An OSError, so that a library can do without its cache, as on a read-only disk.
            raise PermissionError(_limits[-1].refused[-1])
