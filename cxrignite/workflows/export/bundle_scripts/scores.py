"""Table of the scores of a bundle, and its comparison with another table."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from cxrignite.csv_text import CsvReader, csv_bytes

COLUMNS = ("path", "finding", "score", "probability", "decision")


class ScoreTable:
    """Writer of one row for each image and finding: score, probability and decision.

    *Attach to* an evaluator of MONAI that does not decollate its batches.
    *Publishes* the file, when all images are scored.

    Args:
        path: The CSV file; its folder is created.
        findings: Name of each finding.
        decisions: Words of the decisions of each finding; empty without a threshold.
    """

    def __init__(
        self, path: str, findings: Sequence[str], decisions: Sequence[Sequence[str]]
    ) -> None:
        self.path = Path(path)
        self.findings, self.decisions = findings, decisions
        self._rows: list[tuple[str, ...]] = []

    def attach(self, engine: Any) -> None:
        """Attach to an evaluator of Ignite."""
        from ignite.engine import Events

        engine.add_event_handler(Events.STARTED, lambda _: self._rows.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _add(self, engine: Any) -> None:
        values = engine.state.output["pred"].double().cpu().reshape(-1, 3, len(self.findings))
        for name, (scores, probabilities, decisions) in zip(
            engine.state.batch["path"], values.tolist(), strict=True
        ):
            for index, finding in enumerate(self.findings):
                words, probability = self.decisions[index], probabilities[index]
                self._rows.append(
                    (
                        name,
                        finding,
                        repr(scores[index]),
                        "" if math.isnan(probability) else repr(probability),
                        words[int(decisions[index])] if words else "",
                    )
                )

    def _write(self, engine: Any) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(csv_bytes([COLUMNS, *self._rows]))
        num_images = len(self._rows) // len(self.findings)
        sys.stdout.write(f"{self.path}: scores of {num_images} images\n")


def compare_tables(table: str, reference: str, max_difference: float = 1e-5) -> None:
    """Compare a table of scores with that of `cxrignite predict`, or with that of the export.

    Args:
        table: The table of this bundle.
        reference: Another table of the same images, with the columns `path`, `score`, `decision`
            and, for several findings, `finding`.
        max_difference: Largest difference of a score.

    Raises:
        ValueError: An image is missing in one of them, a score differs by more, or a decision does.
    """
    ours = _read(table)
    names, findings = {name for name, _ in ours}, {finding for _, finding in ours}
    theirs = {}
    for (path, finding), row in _read(reference).items():
        # The table of a run with one finding has no such column.
        for each in [finding] if finding else findings:
            theirs[_own_name(path, names), each] = row
    if missing := sorted(ours.keys() ^ theirs.keys()):
        raise ValueError(
            f"{table} and {reference} must have the same images, but {missing[0][0]} is only in "
            f"{'the first' if missing[0] in ours else 'the second'}"
        )
    largest = max(abs(float(ours[key]["score"]) - float(theirs[key]["score"])) for key in ours)
    different = [key for key in ours if ours[key]["decision"] != theirs[key]["decision"]]
    sys.stdout.write(
        f"{len(ours)} scores compared: largest difference {largest:.1e}, "
        f"{len(different)} other decisions\n"
    )
    if different or not largest <= max_difference:
        raise ValueError(
            f"scores must differ by at most {max_difference:g} and decisions not at all, got "
            f"{largest:.1e} and {len(different)} other decisions"
        )


def _own_name(path: str, names: Collection[str]) -> str:
    """Return the name of an image, which `predict` begins with the name of its folder."""
    parts = path.split("/")
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if end in names), path)


def _read(path: str) -> dict[tuple[str, str], Mapping[str, str]]:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return {(row["path"], row.get("finding", "")): row for row in CsvReader(file)}
