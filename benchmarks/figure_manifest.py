"""Measure the time to read a manifest with a million rows.

    python benchmarks/figure_manifest.py

The rows have path, label, patient, split and three attributes; a filter and skipped labels exclude
some of them. With `--salt`, patients are hashed. Only one of the image files exists.
"""

from __future__ import annotations

import argparse
import csv
import logging
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cxrignite.data import Manifest, ManifestColumns, ManifestLabels, ManifestPatients
from cxrignite.workflows.records import collector_paused


def rows(num_rows: int) -> Iterator[tuple[object, ...]]:
    """Yield a header, then three images per patient."""
    yield "path", "label", "patient", "split", "view", "sex", "age"
    labels = ("normal", "pneumonia", "1.0", "0.0", "other")
    splits = ("train", "train", "train", "valid", "test")
    for number in range(num_rows):
        patient = number // 3
        yield (
            f"images_{number % 12:03}/{patient:08}_{number % 3:03}.png",
            labels[number % 9 % 5],
            f"{patient:08}",
            splits[patient % 5],
            "PA" if number % 20 else "LL",
            "FM"[patient % 2],
            patient % 90,
        )


def measure(num_rows: int, folder: Path, with_salt: bool) -> None:
    """Write a manifest, read its image records, and print the seconds."""
    path, salt = folder / "images.csv", folder / "salt"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows(num_rows))
    (folder / "images_001").mkdir()
    (folder / "images_001" / "00000000_001.png").touch()
    salt.write_text("not a secret, since it is published here")
    source = Manifest(
        path,
        columns=ManifestColumns(attributes=["view", "sex", "age"]),
        labels=ManifestLabels(
            {"NORMAL": ["normal", 0], "PNEUMONIA": ["pneumonia", 1]}, on_other="skip"
        ),
        where={"view": ["PA", "AP"]},
        patients=ManifestPatients(salt_file=salt if with_salt else None),
    )
    start, start_cpu = time.perf_counter(), time.process_time()
    with collector_paused():
        records = source.records()
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{num_rows:,} rows, {path.stat().st_size / 1e6:.0f} MB: {len(records):,} images in "
        f"{seconds:.1f} s ({cpu:.1f} s of CPU time), peak memory {peak:,} MB (target < 10 s)"
    )


def main() -> None:
    """Run the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_rows", type=int, default=1_000_000)
    parser.add_argument("--salt", action="store_true", help="hash the patients")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as folder:
        measure(options.num_rows, Path(folder), options.salt)


if __name__ == "__main__":
    main()
