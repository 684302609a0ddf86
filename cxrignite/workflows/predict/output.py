"""The table that `predict` writes batch by batch, and that the next command can resume.

Whenever the process is stopped, only the last image may be incomplete, and the next command removes
its rows. A complete row is never written again.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from cxrignite.csv_text import csv_bytes, plain_cell
from cxrignite.data.reading import Size
from cxrignite.durable_write import write_durably
from cxrignite.errors import CxrIgniteError, RecipeError
from cxrignite.functional.confusion import HIGHEST_CLASS
from cxrignite.locks import hold_lock

COLUMNS = (
    *("path", "patient", "score", "probability"),
    *("decision", "threshold", "lower_threshold", "status"),
)
MAP_COLUMNS = ("raw_max", "picture")
FINDING = "finding"
"""Column after `patient` if the run has several findings, each with a row for each image."""

_T = TypeVar("_T")

_NUM_NAMED = 3
_OTHER = "choose another --output"
_START_AGAIN = "choose another --output, or start again with --overwrite true"

# These may differ between commands, because the scores do not depend on them.
_INFORMATION = frozenset({"run", "version"})
_OF_PREDICT = frozenset({"run", "weights_sha256"})
_SUFFIX = ".csv"
_RUN_FILES = ("recipe.yaml", "environment.json", "split.csv", "history.csv", "folds.json")
_RUN_FOLDERS = frozenset(
    {
        *("audit", "checkpoints", "explain", "figures", "metrics", "operating_points"),
        *("predictions", "tensorboard"),
    }
)


def table_columns(num_findings: int, exclusive: bool, *, draws_maps: bool = False) -> list[str]:
    """Return the columns of a table.

    Args:
        num_findings: Number of findings.
        exclusive: True if they are exclusive classes.
        draws_maps: True if each image gets a map.
    """
    columns = [*COLUMNS, *(MAP_COLUMNS if draws_maps else ())]
    if num_findings > 1:
        columns.insert(columns.index("patient") + 1, FINDING)
    if exclusive:
        columns.insert(columns.index("decision") + 1, HIGHEST_CLASS)
    return columns


def one_or_all(values: list[_T]) -> _T | list[_T]:
    """Return the value of the only finding, or those of all, for `OutputSettings`."""
    return values[0] if len(values) == 1 else values


@dataclass(frozen=True)
class OutputSettings:
    """Settings that determine every cell to the last bit; stored beside the table.

    Attributes:
        operating_point: The site of the operating point; None is the run's own rule.
        chosen_on: The split, or the site's images, that chose the threshold.
        threshold: The threshold; None if the run has none.
        lower_threshold: Score below which an image is negative; None if there is one threshold.
        status: Status of the rule; None if the run has no threshold.
        image_size: Rows and columns of the preprocessed images.
        prevalence: Share of positives for the probabilities; None is that of the training images.
        maps: Method and layer of the maps; None if none are drawn.
        views: Settings of each view whose scores are averaged with those of the images.
        batch_norm_sha256: Digest of the batch statistics of a site; None are those of the weights.
        exported_sha256: Digest of the exported model; None if the run itself scored the images.
    """

    run: str
    version: str
    weights_sha256: str
    operating_point: str | None
    chosen_on: str
    threshold: float | Sequence[float | None] | None
    lower_threshold: float | Sequence[float | None] | None
    status: str | Sequence[str | None] | None
    image_size: Size | None
    batch_size: int
    precision: str
    device: str
    prevalence: float | None = None
    maps: Mapping[str, str] | None = None
    views: Sequence[Mapping[str, Any]] = ()
    batch_norm_sha256: str | None = None
    exported_sha256: str | None = None

    def to_json(self) -> str:
        """Return the settings as JSON."""
        return json.dumps(asdict(self), indent=2)


class OutputPaths:
    """Paths of the files of one output.

    Args:
        table: The CSV table of the scores; the other files are named after it.

    Raises:
        RecipeError: It is not a CSV file, or would lie among a run's own files.
    """

    def __init__(self, table: Path) -> None:
        if table.suffix != _SUFFIX:
            raise RecipeError(f"--output must end in {_SUFFIX}, got {table}")
        _check_outside_of_runs(table)
        self.table = table
        file = table.resolve()  # so that a link and its target share one lock
        self.lock = file.with_name(f".{file.name}.lock")
        self.settings = table.with_suffix(".json")
        self.unreadable = table.with_suffix(".unreadable.csv")
        self.maps_dir = table.with_name(f"{table.stem}_maps")

    def check_own(self) -> None:
        """Refuse to change files that `predict` has not written.

        Raises:
            RecipeError: A file exists, and no settings beside it show that `predict` wrote it.
        """
        files = (self.table, self.settings, self.unreadable)
        taken = [path for path in files if path.exists() and path.stat().st_size]
        if self.maps_dir.is_dir() and any(self.maps_dir.iterdir()):
            taken.append(self.maps_dir)
        if not taken:
            return
        if not self.settings.exists():
            raise RecipeError(
                f"{taken[0]} was not written by predict, which would have written "
                f"{self.settings.name} beside it; {_OTHER}"
            )
        try:
            stored = json.loads(self.settings.read_text(encoding="utf-8"))
        except ValueError:
            stored = None  # not of `predict`, which writes it completely or not at all
        if not isinstance(stored, dict) or not stored.keys() >= _OF_PREDICT:
            raise RecipeError(f"{self.settings} was not written by predict; {_OTHER}")


def _check_outside_of_runs(table: Path) -> None:
    """Refuse the folders of a run's own files; a new folder inside a run is allowed."""
    # Resolved, because a link may lead there.
    folder = table.resolve().parent
    below = ""
    for each in (folder, *folder.parents):
        # A single file of such a name may have another origin.
        is_run = sum((each / name).is_file() for name in _RUN_FILES) > 1
        if is_run and (not below or below in _RUN_FOLDERS):
            raise RecipeError(
                f"--output must be outside of a run's own folders, got {table}; choose a new folder"
            )
        below = each.name


def _check_settings(paths: OutputPaths, settings: OutputSettings) -> None:
    """Refuse to resume an output with other settings."""
    stored = json.loads(paths.settings.read_text(encoding="utf-8"))
    current = json.loads(settings.to_json())
    keys = [key for key in {**current, **stored} if key not in _INFORMATION]
    differing = [
        f"{key} was {_brief(stored.get(key))}, is {_brief(current.get(key))}"
        for key in keys
        if stored.get(key) != current.get(key)
    ]
    if differing:
        raise RecipeError(
            f"{paths.table} was started with the run {stored.get('run')} and other settings: "
            f"{'; '.join(differing)}; {_START_AGAIN}"
        )


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f'{text[:12]}..."'


class PredictionFile:
    """An open output that no other process can write to; made by `open_output`.

    Attributes:
        names: Names of the images with a row.
        decisions: Number of rows by finding (empty if there is one) and decision.
        num_unreadable: Number of images that this command could not read.
        first_unreadable: The first of them, with the reasons.
    """

    def __init__(
        self, paths: OutputPaths, file: io.FileIO, columns: Sequence[str], num_findings: int
    ) -> None:
        self._paths, self._file, self._columns = paths, file, columns
        self._num_findings = num_findings
        self._of_image: list[Sequence[str]] = []
        self.names: set[str] = set()
        self.decisions: Counter[tuple[str, str]] = Counter()
        self.num_unreadable = 0
        self.first_unreadable: dict[str, str] = {}
        self._end = 0

    def holds_rows(self) -> bool:
        """True if the file has a row of an image; a header alone can be replaced."""
        self._file.seek(0)
        return len(list(islice(_whole_rows(self._file), 2))) > 1

    def resume(self) -> None:
        """Read the rows of the complete images, and remove those of an incomplete one after them.

        Raises:
            RecipeError: The file is not such a table.
        """
        self._file.seek(0)
        try:
            for row, end in _whole_rows(self._file):
                if self._resume(row):
                    self._end = end
        except csv.Error as error:
            raise RecipeError(f"{self._paths.table} is damaged: {error}; {_START_AGAIN}") from error
        self._file.truncate(self._end)
        self._file.seek(self._end)

    def _resume(self, row: Sequence[str]) -> bool:
        """Check a row and count those of a complete image; return True if it is complete."""
        table, expected = self._paths.table, self._columns
        if self._end == 0:
            if tuple(row) != tuple(expected):
                raise RecipeError(
                    f"{table} must have the columns {', '.join(expected)}, got {', '.join(row)}; "
                    f"{_START_AGAIN}"
                )
        elif len(row) != len(expected):
            raise RecipeError(
                f"{table}, row {self.num_rows + 1}: it must have {len(expected)} cells, "
                f"got {len(row)}; {_START_AGAIN}"
            )
        else:
            self._of_image.append(row)
            if len(self._of_image) < self._num_findings:
                return False
            for each in self._of_image:
                self._count(each)
            self._of_image = []
        return True

    @property
    def num_rows(self) -> int:
        """Number of images with a row."""
        return len(self.names)

    def begin(self) -> None:
        """Write the header if there is none yet."""
        if self._end == 0:
            self._write([self._columns])

    def append(self, rows: Sequence[Sequence[Any]], failures: Mapping[str, str]) -> None:
        """Write the results of a batch; they are on the disk when this returns.

        `failures` has the reasons why images have no score, by name.

        Raises:
            CxrIgniteError: The file cannot be written; the rows before stay complete.
        """
        if failures:
            self._list_unreadable(failures)
        if rows:
            self._write(rows)
        for row in rows:
            self._count([str(cell) for cell in row])

    def _count(self, row: Sequence[str]) -> None:
        self.names.add(row[self._columns.index("path")])
        finding = row[self._columns.index(FINDING)] if FINDING in self._columns else ""
        self.decisions[finding, row[self._columns.index("decision")]] += 1

    def _write(self, rows: Iterable[Sequence[Any]]) -> None:
        data = csv_bytes(rows)
        try:
            _write_all(self._file, data)
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._end)
            reason = error.strerror or error
            raise CxrIgniteError(f"cannot write {self._paths.table}: {reason}") from error
        self._end += len(data)

    def _list_unreadable(self, failures: Mapping[str, str]) -> None:
        # Each command starts a new list, because it tries the images without a score again.
        mode = "a" if self.num_unreadable else "w"
        rows: list[Sequence[str]] = [] if self.num_unreadable else [("path", "reason")]
        try:
            with io.FileIO(self._paths.unreadable, mode) as file:
                _write_all(file, csv_bytes([*rows, *failures.items()]))
        except OSError as error:
            reason = error.strerror or error
            raise CxrIgniteError(f"cannot write {self._paths.unreadable}: {reason}") from error
        self.num_unreadable += len(failures)
        for name, reason in failures.items():
            if len(self.first_unreadable) < _NUM_NAMED:
                self.first_unreadable[name] = reason


@contextmanager
def open_output(
    paths: OutputPaths,
    settings: OutputSettings,
    columns: Sequence[str],
    *,
    num_findings: int = 1,
    overwrite: bool,
) -> Iterator[PredictionFile]:
    """Open a new output, or one to resume, for this process only.

    Args:
        paths: The files of the output.
        settings: The settings, stored beside the table.
        columns: Columns of the table.
        num_findings: Number of rows of each image.
        overwrite: Start again, replacing earlier results of `predict`.

    Raises:
        RecipeError: Another process writes there, or the existing files have other settings or are
            not of `predict`.
        CxrIgniteError: The file cannot be written.
    """
    with ExitStack() as stack:
        try:
            paths.table.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold_lock(paths.lock, is_required=False))
            stack.callback(paths.lock.unlink, missing_ok=True)
            file = io.FileIO(os.open(paths.table, os.O_RDWR | os.O_CREAT, 0o666), "r+")
            stack.enter_context(file)
        except BlockingIOError as error:
            raise RecipeError(f"{paths.table} is {error.strerror}") from error
        except OSError as error:
            reason = error.strerror or error
            raise CxrIgniteError(f"cannot write {paths.table}: {reason}") from error
        paths.check_own()
        if overwrite:
            file.truncate(0)
            _remove_maps(paths)
        output = PredictionFile(paths, file, columns, num_findings)
        if output.holds_rows():
            _check_settings(paths, settings)
            output.resume()
        else:
            file.truncate(0)
            file.seek(0)
        write_durably(paths.settings, f"{settings.to_json()}\n".encode())
        paths.unreadable.unlink(missing_ok=True)
        output.begin()
        yield output


def _remove_maps(paths: OutputPaths) -> None:
    # The settings stay until new ones replace them: without them no command could resume.
    for overlay in paths.maps_dir.rglob("*.overlay.png"):
        # Each has its picture beside it; other pictures were not made by `predict`.
        overlay.with_name(f"{overlay.name.removesuffix('.overlay.png')}.png").unlink(
            missing_ok=True
        )
        overlay.unlink()


def _whole_rows(file: io.FileIO) -> Iterator[tuple[list[str], int]]:
    """Yield the rows that end with a line break, and the position after each."""
    lines: list[bytes] = []
    num_quotes, end = 0, 0
    with open(file.fileno(), "rb", closefd=False) as reader:
        for line in reader:
            lines.append(line)
            num_quotes += line.count(b'"')
            # Inside quotes a line break is part of a name.
            if line.endswith(b"\n") and num_quotes % 2 == 0:
                content = b"".join(lines)
                end += len(content)
                text = io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")
                yield list(map(plain_cell, next(csv.reader(text), []))), end
                lines, num_quotes = [], 0


def _write_all(file: io.FileIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
    os.fsync(file.fileno())
