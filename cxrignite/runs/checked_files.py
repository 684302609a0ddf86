"""Files of a run folder that later commands rely on, and their digests in `digests.json`.

Checkpoints have their own manifests. Every other file that a later command relies on is written by
`CheckedFiles.write`, and its digest is checked before it is read. A process may be killed between
or inside any of the steps of a write:

| after the step | the file is | `digests.json` accepts |
| --- | --- | --- |
| 0. before | the old one | the old one |
| 1. the new digest is added | the old one | the old one and the new one |
| 2. the file is written | the new one | the old one and the new one |
| 3. at the next write, or when the folder is released | the new one | the new one |

So a run can be resumed after a kill at any step. A file that does not exist has the digest null.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxrignite.durable_write import write_durably
from cxrignite.errors import DamagedRunError

_logger = logging.getLogger(__name__)

# Files of a run without digests (from an older version) that get one at the next write.
_UNCHECKED = (
    *("recipe.yaml", "environment.json", "split.csv", "history.csv", "operating_point.json"),
    *(
        "reference.npz",
        "evaluations.json",
        "folds.json",
        "operating_points/*",
        "metrics/*",
        "predictions/*",
    ),
    *("explain/*/explain.json", "explain/*/explain.csv"),
)

Digests = dict[str, list[str | None]]


class CheckedFiles:
    """Writer and checker of the files of a run folder, by their digests.

    Every method raises `DamagedRunError` if `digests.json` is damaged, and `CxrIgniteError` if a
    file cannot be written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "digests.json"

    def write(self, path: Path, data: bytes | memoryview) -> None:
        """Write a file completely or not at all, and store its digest."""
        self.expect({path: data})
        write_durably(path, data)

    def expect(self, contents: Mapping[Path, bytes | memoryview]) -> None:
        """Accept new contents of files, in addition to their present ones."""
        digests = self._settled()
        for path, data in contents.items():
            name = self._name(path)
            digests[name] = [hashlib.sha256(data).hexdigest(), *digests.get(name, [None])]
        self._save(digests)

    def remove(self, path: Path) -> None:
        """Remove a file, if it exists; the next write removes its digest."""
        digests, name = self._settled(), self._name(path)
        if name in digests:
            self._save({**digests, name: [None, *digests[name]]})
        path.unlink(missing_ok=True)

    def check(self, *paths: Path) -> None:
        """Refuse files that have changed since they were written.

        A folder without `digests.json` is not checked; `warn_if_unchecked` logs that.

        A file that was never written may be missing.

        Raises:
            DamagedRunError: A file was changed, damaged, lost or added, or `digests.json` is
                damaged.
        """
        digests = self._read()
        if digests is None:
            return
        for path in paths:
            accepted, found = digests.get(self._name(path), [None]), _digest(path)
            if found in accepted:
                continue
            way_out = "restore the original"
            if found is None:
                fault = "is missing"
            elif accepted == [None]:
                fault, way_out = "was not written by a command of this run", "remove it"
            else:
                fault = f"was changed: its sha256 must be {accepted[0]}, got {found}"
            raise DamagedRunError(f"{path} {fault}; {way_out}, or {self._trust()}")

    def written_in(self, folder: Path) -> list[Path]:
        """Return the files that a folder has or should have, sorted."""
        listed = {path for path in self.listed() if path.parent == folder}
        return sorted(listed | {*folder.glob("*")})

    def listed(self) -> list[Path]:
        """Return the files that have a digest."""
        return [self.root / name for name in self._read() or ()]

    def warn_if_unchecked(self) -> None:
        """Log a warning if nothing in this folder can be checked."""
        if not self.path.exists():
            _logger.warning(
                "%s has no %s, so its files are used without a check", self.root, self.path.name
            )

    def settle(self) -> None:
        """Accept only the last written content of each file."""
        before = self._read()
        if before is not None and (settled := self._settled()) != before:
            self._save(settled)

    def _settled(self) -> Digests:
        """Return one digest a file; a folder without digests gets those of its present files."""
        digests = self._read()
        if digests is None:
            found = {path for pattern in _UNCHECKED for path in self.root.glob(pattern)}
            return {self._name(path): [_digest(path)] for path in sorted(found) if path.is_file()}
        for name, accepted in digests.items():
            if len(accepted) > 1 and (now := _digest(self.root / name)) in accepted:
                digests[name] = [now]
        return {name: accepted for name, accepted in digests.items() if accepted != [None]}

    def _read(self) -> Digests | None:
        digests: Any
        try:
            digests = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError):
            digests = None
        is_valid: bool = isinstance(digests, dict) and all(
            isinstance(accepted, list)
            and accepted
            and all(each is None or isinstance(each, str) for each in accepted)
            for accepted in digests.values()
        )
        if not is_valid:
            raise DamagedRunError(
                f"{self.path} is damaged; restore the original, or {self._trust()}"
            )
        return dict(digests)

    def _save(self, digests: Digests) -> None:
        write_durably(self.path, f"{json.dumps(digests, indent=1, sort_keys=True)}\n".encode())

    def _trust(self) -> str:
        return f"remove {self.path} to use all files without a check"

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _digest(path: Path) -> str | None:
    """Return the SHA-256 of a file; None if it does not exist."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedRunError(f"{path} cannot be read: {error.strerror}") from error
