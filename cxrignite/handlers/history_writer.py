"""History of a run: one CSV row per epoch."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import ignite.distributed as idist
from ignite.engine import Engine, Events

from cxrignite.csv_text import CsvReader, dict_rows
from cxrignite.durable_write import write_durably
from cxrignite.handlers.attachable import Attachable
from cxrignite.handlers.scalars import scalar_metrics


class HistoryWriter(Attachable):
    """Writer of every scalar metric of every epoch; floats are written without loss.

    A run that starts after epoch k keeps the rows up to k and removes the later ones. So a resumed
    run replaces the epochs that it repeats, and a new run begins a new history.

    *Attach to* a trainer, after the handlers that publish the metrics.
    *Expects* `state.metrics`; values that are not scalars are left out.
    *Publishes* the file, and the attribute `rows`.

    Args:
        path: The CSV file; only rank 0 writes it.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> trainer = Engine(lambda engine, batch: engine.state.metrics.update(loss=0.25))
        >>> with TemporaryDirectory() as folder:
        ...     HistoryWriter(f"{folder}/history.csv").attach(trainer)
        ...     state = trainer.run([1, 2], max_epochs=2)
        ...     read_history(f"{folder}/history.csv")
        [{'epoch': 1, 'loss': 0.25}, {'epoch': 2, 'loss': 0.25}]
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        # Not an argument: a recipe could then name any function.
        self.write: Callable[[Path, bytes], None] = write_durably
        self.rows: list[dict[str, float]] = []

    def attach(self, engine: Engine) -> None:
        """Write a row after every epoch of `engine`; attaching twice acts once.

        Args:
            engine: The trainer.
        """
        if not engine.has_event_handler(self._write_row, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.STARTED, self._continue)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._write_row)

    def _continue(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            rows = read_history(self.path) if self.path.exists() else []
            self.rows = [row for row in rows if row["epoch"] <= engine.state.epoch]

    def _write_row(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            self.rows.append({"epoch": engine.state.epoch, **scalar_metrics(engine)})
            self.write(self.path, _to_csv(self.rows))


def _to_csv(rows: list[dict[str, float]]) -> bytes:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return dict_rows([{name: repr(value) for name, value in row.items()} for row in rows], columns)


def read_history(path: Path | str) -> list[dict[str, float]]:
    """Read the file of a `HistoryWriter`.

    Args:
        path: The CSV file.

    Returns:
        One row per epoch; empty cells are left out.

    Raises:
        ValueError: If the file is damaged.
    """
    rows = []
    with Path(path).open(newline="", encoding="utf-8") as file:
        reader = CsvReader(file, strict=True)
        try:
            for row in reader:
                # Cells beyond the header arrive as a list under the name None.
                cells = {name: cell for name, cell in row.items() if cell}
                rows.append(
                    {
                        name: int(cell) if name == "epoch" else float(cell)
                        for name, cell in cells.items()
                    }
                )
                if "epoch" not in cells:
                    raise ValueError("the row has no epoch")
        except (ValueError, TypeError, csv.Error) as error:
            raise ValueError(f"line {reader.line_num}: {error}") from error
    return rows
