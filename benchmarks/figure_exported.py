"""Compare `predict --exported` with `predict --run`: results, start, and images a second.

python benchmarks/figure_exported.py --run RUN --exported DIR --images DIR

The images are written as JPEG, PNG and DICOM, in turn. Both commands alternate, so that other
programs on the same cores slow down both. The ratios are those of the medians.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

KINDS = ("run", "exported")


def write_images(source: Path, target: Path, number: int) -> list[Path]:
    """Write images of a folder as JPEG (copied), PNG and DICOM of 12 bits, in turn."""
    found = sorted(each for each in source.rglob("*") if each.suffix.lower() in {".jpeg", ".jpg"})
    target.mkdir()
    paths = []
    for index in range(number):
        origin = found[index * len(found) // number]
        stem = f"{index:04}"
        if index % 3 == 0:
            paths.append(target / f"{stem}.jpeg")
            paths[-1].write_bytes(origin.read_bytes())
            continue
        with Image.open(origin) as image:
            grey = image.convert("L")
        paths.append(target / f"{stem}.{'png' if index % 3 == 1 else 'dcm'}")
        if index % 3 == 1:
            grey.save(paths[-1])
        else:
            write_dicom(np.asarray(grey), paths[-1])
    return paths


def write_dicom(pixels: np.ndarray, path: Path) -> None:
    """Write an image of 8 bits as an inverted DICOM of 12 bits with a window."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME1", 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    dataset.add_new("PixelData", "OW", (4095 - pixels.astype("<u2") * 16).tobytes())
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)


def command(kind: str, model: Path, table: Path, files: list[Path]) -> tuple[float, float]:
    """Run `predict`; return the seconds until the first row of its table, and until its end."""
    table.unlink(missing_ok=True)
    argv = ["predict", f"--{kind}", str(model), "--output", str(table), "--overwrite", "true"]
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "cxrignite", *argv, "--files", *map(str, files)],
        stdout=subprocess.DEVNULL,
    )
    first = 0.0
    while process.poll() is None:
        if not first and table.exists() and table.read_bytes().count(b"\n") > 1:
            first = time.perf_counter() - start
        time.sleep(0.005)
    if process.returncode:
        raise SystemExit(f"predict --{kind} ended with {process.returncode}")
    end = time.perf_counter() - start
    return first or end, end


def compare_tables(tables: dict[str, Path]) -> None:
    """Print the largest difference of a score, and the number of different decisions."""
    rows = {}
    for kind, table in tables.items():
        with table.open(newline="") as file:
            rows[kind] = list(csv.DictReader(file))
    pairs = list(zip(rows["run"], rows["exported"], strict=True))
    largest = max(abs(float(a["score"]) - float(b["score"])) for a, b in pairs)
    other = sum(a["path"] != b["path"] or a["decision"] != b["decision"] for a, b in pairs)
    print(
        f"{len(pairs)} rows: largest difference of a score {largest:.2g}, {other} other decisions"
    )


def measure_model(run_dir: Path, exported: Path, repeats: int) -> None:
    """Print images a second of the model alone, with each batch size of its command."""
    import torch

    from cxrignite.cli.parsing import parse_recipe
    from cxrignite.engines import BatchScorer
    from cxrignite.runs.exported_model import ExportedModel
    from cxrignite.runs.run_folder import RunFolder
    from cxrignite.workflows.finished_run import load_run, open_folder
    from cxrignite.workflows.predict.exported import BATCH_SIZE
    from cxrignite.workflows.predict.onnx_model import OnnxModel

    folder, model = RunFolder(run_dir), ExportedModel.load(exported)
    recipe = parse_recipe("predict", [f"--config={folder.finished_recipe()}"])[0]
    cores = torch.get_num_threads()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 1, *model.reading.run_size), np.uint8)
    with open_folder(folder, recipe.trainer, writes=False) as (session, _):
        run = load_run(folder, session, recipe, None)
        usual = recipe.data.eval_batch_size or 2 * recipe.data.batch_size
        scorer = BatchScorer(
            run.model, **run.computing._asdict(), batch_size=usual, views=recipe.data.views
        )
        onnx = OnnxModel(exported, model, batch_size=BATCH_SIZE, num_threads=cores)

        def with_torch() -> None:
            for start in range(0, len(images), usual):
                scorer(torch.from_numpy(images[start : start + usual]))

        def with_onnx() -> None:
            for start in range(0, len(images), BATCH_SIZE):
                onnx(images[start : start + BATCH_SIZE])

        works: dict[str, Callable[[], None]] = {"run": with_torch, "exported": with_onnx}
        taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
        cpu: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(repeats + 1):  # the first of each warms up
            for kind, work in works.items():
                start, cpu_start = time.perf_counter(), time.process_time()
                work()
                taken[kind].append(time.perf_counter() - start)
                cpu[kind].append(time.process_time() - cpu_start)
    rates = {kind: len(images) / statistics.median(taken[kind][1:]) for kind in KINDS}
    print(
        f"model alone on {cores} cores: torch {rates['run']:.1f} images/s in batches of {usual}, "
        f"onnxruntime {rates['exported']:.1f} in batches of {BATCH_SIZE}: "
        f"{rates['exported'] / rates['run']:.2f} times (target > 1.2)"
    )
    # Threads that wait for each other on busy cores slow down torch more; CPU time shows it less.
    each = {kind: 1000 * statistics.median(cpu[kind][1:]) / len(images) for kind in KINDS}
    print(f"CPU per image: torch {each['run']:.0f} ms, onnxruntime {each['exported']:.0f} ms")


def main() -> None:
    """Run the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run folder")
    parser.add_argument("--exported", type=Path, required=True, help="its export as ONNX")
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG files")
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    models = {"run": options.run, "exported": options.exported}
    with tempfile.TemporaryDirectory() as name:
        files = write_images(options.images, Path(name, "images"), options.number)
        tables = {kind: Path(name, f"{kind}.csv") for kind in KINDS}
        for kind in KINDS:
            command(kind, models[kind], tables[kind], files)
        compare_tables(tables)
        first: dict[str, list[float]] = {kind: [] for kind in KINDS}
        whole: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(options.repeats):
            for kind in KINDS:
                first[kind].append(command(kind, models[kind], tables[kind], files[:1])[0])
                whole[kind].append(command(kind, models[kind], tables[kind], files)[1])
        for what, taken in (("first score", first), (f"{options.number} files", whole)):
            seconds = {kind: statistics.median(taken[kind]) for kind in KINDS}
            ratio = seconds["exported"] / seconds["run"]
            print(
                f"{what}: --run {seconds['run']:.2f} s, --exported {seconds['exported']:.2f} s, "
                f"ratio {ratio:.2f}"
            )
        print("target: the first score in at most 0.33 of the time")
    measure_model(options.run, options.exported, options.repeats)
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
