"""The code of a user's own transform: its file, and its imports from the user's folders.

A library is identified by its version; a module of the user only by its text.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import pickle
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

_LIBRARIES = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")]
_LIBRARY_FOLDERS = {"site-packages", "dist-packages"}
_OURS = Path(__file__).resolve().parents[1]


def named_modules(thing: object) -> set[str]:
    """Return the modules of all classes and functions that an object contains, at any depth.

    Raises:
        Exception: The exception of pickle, if it cannot be pickled.
    """
    recorder = _Recorder(io.BytesIO(), protocol=5)
    recorder.dump(thing)
    return recorder.modules


class _Recorder(pickle.Pickler):
    """A pickler that notes the module of everything that is pickled by its name."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.modules: set[str] = set()

    def reducer_override(self, obj: object) -> Any:
        kinds = (obj,) if isinstance(obj, type | FunctionType) else type(obj).__mro__
        self.modules |= {str(each.__module__) for each in kinds}
        return NotImplemented


def own_sources(modules: Iterable[str]) -> dict[str, bytes]:
    """Return the files of modules outside of libraries, and of their imports, recursively.

    Imports inside of functions count too. Code that is loaded by a computed name or a name from a
    file is not found, and neither are data files.

    Returns:
        Each module's name and its file's content, sorted by name.
    """
    found: dict[str, bytes] = {}
    seen: set[str] = set()
    todo = list(modules)
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        file, package = _file_of(name)
        if file is None:
            continue
        with contextlib.suppress(OSError):
            found[name] = file.read_bytes()
            todo += [name.rpartition(".")[0], *_imports(found[name], package)]
    return dict(sorted(found.items()))


def _file_of(name: str) -> tuple[Path | None, str]:
    """Return the file of a user's own module and its package; no file for any other module."""
    # Importing a parent package may raise anything; the import of the transform reports it.
    with contextlib.suppress(Exception):
        module = sys.modules.get(name)
        spec = getattr(module, "__spec__", None) or importlib.util.find_spec(name)
        origin = getattr(module, "__file__", None) or (spec.origin if spec else None)
        if origin is not None and _is_own(Path(origin).resolve()):
            return Path(origin), (spec.parent or "") if spec else ""
    return None, ""


def _is_own(file: Path) -> bool:
    return (
        file.is_file()
        and not _LIBRARY_FOLDERS & set(file.parts)
        and not any(file.is_relative_to(folder) for folder in (*_LIBRARIES, _OURS))
    )


def _imports(source: bytes, package: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # such as compiled code
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                with contextlib.suppress(ImportError):
                    base = importlib.util.resolve_name("." * node.level + base, package)
            # A name imported from a package may be a module.
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))
