"""Measure images per second of `predict`, compared with a plain loop and the same model.

python benchmarks/figure_predict.py --images DIR

The images are copied into a temporary folder until there are enough, so that every file is read.
Both alternate, and are measured in two ways: the scoring alone in this process, and whole programs
including imports. On shared cores, threads that wait for each other make the plain loop several
times slower. It is therefore also measured with one thread, and the fastest result counts. The
light CNN is narrow by default, so that decoding dominates; the recipes use `--width 32`.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

# The plain program, which imports only what it needs.
PLAIN = """
import csv, sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cxrignite.nn import LightCNN

weights, images, output = map(Path, sys.argv[1:4])
if sys.argv[5:]:
    torch.set_num_threads(int(sys.argv[5]))
model = LightCNN(width=int(sys.argv[4])).eval()
model.load_state_dict(torch.load(weights, weights_only=True)["model"])
rows = []
with torch.no_grad():
    for path in sorted(images.iterdir()):
        image = Image.open(path).convert("L").resize((224, 224))
        batch = torch.from_numpy(np.array(image))[None, None]
        rows.append((path, torch.sigmoid(model(batch)).item()))
with open(output, "w", newline="") as file:
    csv.writer(file).writerows(rows)
"""

RECIPE = """
data:
  source: {class_path: Phantom, init_args: {num_train: 64, num_test: 128, size: 224}}
  image_size: [224, 224]
  val_fraction: 0.25
  num_workers: 2
model: {class_path: LightCNN, init_args: {width: WIDTH}}
optimizer: {class_path: AdamW}
trainer: {max_epochs: 1, precision: fp32}
validator:
  handlers: [{class_path: ThresholdSearch, init_args: {min_tnr: 0.5, min_threshold: 0.1}}]
"""


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Return wall seconds and CPU seconds of a call."""
    start, cpu_start = time.perf_counter(), cpu_seconds()
    work()
    return time.perf_counter() - start, cpu_seconds() - cpu_start


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its finished child processes."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(each)[:2]) for each in whose)


def make_run(folder: Path, width: int) -> Path:
    """Train a short run of the light CNN, whose weights do not matter here."""
    from cxrignite.cli import run

    (folder / "recipe.yaml").write_text(RECIPE.replace("WIDTH", str(width)))
    argv = ["fit", "--config", f"{folder}/recipe.yaml", "--run_dir", f"{folder}/run"]
    if run([*argv, "--data.source.root", f"{folder}/phantom"]):
        raise SystemExit("the training run for the measurement failed")
    return folder / "run"


def copy_images(source: Path, target: Path, number: int) -> None:
    """Copy the images of a folder, repeatedly, until there are `number` copies."""
    found = sorted(each for each in source.rglob("*") if each.suffix.lower() in {".jpeg", ".jpg"})
    target.mkdir()
    for each in range(number):
        shutil.copy(found[each % len(found)], target / f"{each:05d}.jpeg")


def largest_difference(ours: Path, theirs: Path) -> float:
    """Return the largest difference between the scores of two tables."""
    with ours.open(newline="") as first, theirs.open(newline="") as second:
        mine = [float(row["score"]) for row in csv.DictReader(first)]
        other = [float(row[1]) for row in csv.reader(second)]
    return max(abs(a - b) for a, b in zip(mine, other, strict=True))


def plain_here(argv: list[str]) -> None:
    """Run the plain loop in this process, without the time of imports."""
    threads = torch.get_num_threads()
    sys.argv[1:] = argv
    exec(compile(PLAIN, "plain loop", "exec"), {})
    torch.set_num_threads(threads)


def call(argv: list[str]) -> None:
    """Run a Python program to its end."""
    subprocess.run([sys.executable, *argv], check=True, stdout=subprocess.DEVNULL)


def measure(images: Path, number: int, repeats: int, width: int) -> None:
    """Measure both alternately, and print their ratio."""
    from cxrignite.cli import run
    from cxrignite.workflows.predict import predict as command

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_dir = make_run(folder, width)
        copy_images(images, folder / "images", number)
        weights, ours, theirs = run_dir / "checkpoints/best.pt", folder / "o.csv", folder / "t.csv"
        argv = ["predict", "--run", str(run_dir), "--files", str(folder / "images")]
        argv += ["--output", str(ours), "--overwrite", "true"]
        plain = [str(weights), str(folder / "images"), str(theirs), str(width)]

        one = [*plain, "1"]
        here, there = "predict, images", "predict, program"
        works: dict[str, Callable[[], object]] = {
            "plain loop, images": lambda: plain_here(plain),
            "plain loop, images, 1 thread": lambda: plain_here(one),
            here: lambda: run(argv),  # only the scoring inside counts
            "plain loop, program": lambda: call(["-c", PLAIN, *plain]),
            "plain loop, program, 1 thread": lambda: call(["-c", PLAIN, *one]),
            there: lambda: call(["-m", "cxrignite", *argv]),
        }
        # Measured without parsing the recipe and reading the weights.
        images_alone: list[tuple[float, float]] = []
        score_images = command.score_images
        command.score_images = lambda *parts: images_alone.append(
            measured(lambda: score_images(*parts))
        )
        taken: dict[str, list[tuple[float, float]]] = {each: [] for each in works}
        for _ in range(repeats):
            for each, work in works.items():
                whole = measured(work)
                taken[each].append(images_alone.pop() if each == here else whole)
                print(f"{each}: {taken[each][-1]}", file=sys.stderr)
        print(f"\n{number} images on {len(os.sched_getaffinity(0))} cores, fastest of {repeats}")
        for each, times in taken.items():
            wall, cpu = min(times)
            text = " ".join(f"{time:.1f}" for time, _ in times)
            rate = f"{number / wall:6.1f} images/s, {1000 * cpu / number:5.1f} ms CPU per image"
            print(f"{each:30s}{wall:6.2f} s {rate}  ({text})")
        num_cores = len(os.sched_getaffinity(0))
        for ours_is in (here, there):
            plain_is = ours_is.replace("predict", "plain loop")
            faster, ours_taken = taken[plain_is] + taken[f"{plain_is}, 1 thread"], taken[ours_is]
            print(f"{ours_is}: {min(faster)[0] / min(ours_taken)[0]:.2f} times as fast")
        # CPU time does not include the time that other processes use the cores.
        cpu = min(cpu for _, cpu in taken["plain loop, images, 1 thread"])
        share = min(cpu for _, cpu in taken[here]) / num_cores
        print(f"images, by CPU time: {cpu / share:.2f} times as fast on an idle machine")
        print(f"largest difference between scores: {largest_difference(ours, theirs):.2g}")


def main() -> None:
    """Run the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="full-size JPEG files")
    parser.add_argument("--number", type=int, default=624)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--width", type=int, default=8)
    options = parser.parse_args()
    measure(options.images, options.number, options.repeats, options.width)


if __name__ == "__main__":
    main()
