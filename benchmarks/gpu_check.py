"""Check on a GPU, in at most six minutes and without network, what cannot be checked on a CPU.

    python benchmarks/gpu_check.py --output runs/gpu_check

Each check runs on synthetic images and with random weights; one that fails does not stop the
others. `gpu_check.json` and `gpu_check.md` in the output folder hold the figures, and the exit
status is 1 if a check failed. `--device cpu` exercises the program itself with small sizes: formats
and figures then say nothing about a GPU, and `resnet50` is replaced by a small network.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from figure_steps import CASES, measure_steps
from torch.nn.parallel import DistributedDataParallel

from cxrignite.cli.main import run
from cxrignite.cli.parsing import parse_recipe
from cxrignite.runs.run_folder import RunFolder
from cxrignite.workflows.parts import build_data
from cxrignite.workflows.records import read_records

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 360
"""Time for all checks; one that would start later is reported as not run."""

Figures = dict[str, object]


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        seconds: About how long it takes on a GPU.
        of_gpu: True if a CPU cannot run it.
        measure: Returns the figures, or raises.
    """

    name: str
    seconds: int
    of_gpu: bool
    measure: Callable[[], Figures]


class GpuCheck:
    """All checks, in one scratch folder.

    Args:
        device: `cuda`, or `cpu` to exercise the program.
        place: Scratch folder.
    """

    def __init__(self, device: str, place: Path) -> None:
        self.device, self.place = device, place
        self.on_gpu = device == "cuda"

    def checks(self) -> list[Check]:
        """Return the checks in their order, the most important ones first."""
        formats = ("fp32", "fp16", "bf16")
        return [
            Check("tests marked cuda", 40, True, self.tests),
            *(Check(f"fit in {each}", 12, each == "fp16", self.format(each)) for each in formats),
            Check("channels_last", 12, False, self.fits("--trainer.channels_last", "true")),
            Check("resume bit for bit", 25, False, self.resume),
            Check("pinned memory, augmentation on the device", 5, False, self.loading),
            Check("one process with NCCL", 5, False, self.one_process),
            Check("loop overhead", 30, False, self.overhead),
            Check("batch 32 against the plain loop", 60, False, self.speed(32)),
            Check("batch 128 against the plain loop", 90, False, self.speed(128)),
            Check("compile", 60, True, self.fits("--trainer.compile", "true")),
        ]

    def fit(self, folder: str, *options: str) -> RunFolder:
        """Train a small network on a few synthetic images, and return its run folder."""
        arguments = ["fit", "--config", str(ROOT / "recipes/baseline_cnn.yaml")]
        arguments += ["--config", str(ROOT / "recipes/overlays/smoke.yaml")]
        arguments += ["--data.source.root", str(self.place / "few")]
        arguments += ["--trainer.device", self.device]
        arguments += ["--run_dir", str(self.place / folder), "--data.cache", "off", *options]
        if code := run(arguments):
            raise RuntimeError(f"fit ended with {code}")
        return RunFolder(self.place / folder)

    def fits(self, *options: str) -> Callable[[], Figures]:
        """Return a check that a run with the options ends with a finite loss."""

        def measure() -> Figures:
            history = self.fit("_".join(options).strip("-"), *options).history_path
            with history.open(encoding="utf-8") as file:
                loss = float(list(csv.DictReader(file))[-1]["loss"])
            if not 0 < loss < 10:
                raise RuntimeError(f"the loss is {loss}")
            return {"loss": loss}

        return measure

    def format(self, name: str) -> Callable[[], Figures]:
        """Return a check of one number format."""
        return self.fits("--trainer.precision", name)

    def tests(self) -> Figures:
        """Run the tests that need a GPU."""
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "cuda", "tests"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        last = (done.stdout.strip().splitlines() or [""])[-1]
        if done.returncode:
            raise RuntimeError(f"{last}\n{done.stdout[-4000:]}")
        return {"result": last}

    def resume(self) -> Figures:
        """Compare a run of two epochs with one that stops after the first and is resumed."""
        options = ["--trainer.profile", "reproducible", "--trainer.max_epochs"]
        weights = [self._digest(self.fit("whole", *options, "2"))]
        self.fit("parts", *options, "1")
        weights.append(self._digest(self.fit("parts", *options, "2", "--resume", "auto")))
        if weights[0] != weights[1]:
            raise RuntimeError("the resumed run has other weights")
        return {"identical": True}

    def _digest(self, folder: RunFolder) -> str:
        path = folder.checkpoints_dir / "last.pt"
        weights = torch.load(path, weights_only=True, map_location="cpu")["model"]
        digest = hashlib.sha256()
        for name in sorted(weights):
            digest.update(weights[name].contiguous().numpy().tobytes())
        return digest.hexdigest()

    def loading(self) -> Figures:
        """Check where batches are and where they are augmented."""
        recipe, _, _ = parse_recipe("fit", self._resnet50(32)[1:])
        records = read_records(recipe.data, recipe.data.source.records())
        data = build_data(recipe.data, records, recipe.seed, device=torch.device(self.device))
        try:
            images = next(iter(data.train_loader()))[0]
        finally:
            data.close()
        found = {"pinned": images.is_pinned(), "on_device": data.device_augment is not None}
        if self.on_gpu and not all(found.values()):
            raise RuntimeError(f"both must be true, got {found}")
        return found

    def one_process(self) -> Figures:
        """Take a step of a model wrapped for several processes, with the backend of the device."""
        backend = "nccl" if self.on_gpu else "gloo"
        torch.distributed.init_process_group(
            backend, init_method=f"file://{self.place}/rendezvous", rank=0, world_size=1
        )
        try:
            model = DistributedDataParallel(torch.nn.Linear(4, 1).to(self.device))
            model(torch.ones(2, 4, device=self.device)).sum().backward()
            # Not by Ignite, which would keep the group for later runs.
            total = torch.ones(1, device=self.device)
            torch.distributed.all_reduce(total)
        finally:
            torch.distributed.destroy_process_group()
        if total.item() != 1:
            raise RuntimeError(f"the sum over one process is {total.item()}")
        return {"backend": backend}

    def overhead(self) -> Figures:
        """Measure the time that `fit` adds to a step of a plain loop."""
        plain, difference, ratio = measure_steps(CASES[0], 15 if self.on_gpu else 2, self.device)
        return {"plain_ms": plain, "added_ms": difference, "ratio": ratio}

    def speed(self, batch_size: int) -> Callable[[], Figures]:
        """Return a check of `resnet50.yaml` against the reference's loop."""

        def measure() -> Figures:
            steps = "6" if self.on_gpu else "2"
            command = [*self._resnet50(batch_size), "--num_steps", steps, "--repeats", "1"]
            if code := run(["benchmark", *command[1:]]):
                raise RuntimeError(f"benchmark ended with {code}")
            table = self.place / f"resnet50_{batch_size}" / "benchmark" / "benchmark.csv"
            with table.open(encoding="utf-8") as file:
                ours = list(csv.DictReader(file))[-1]  # the whole of `fit`
            shown = ("images_per_second", "times_the_plain_way", "data_wait_share")
            return {name: float(ours[name]) for name in (*shown, "peak_memory_mb")}

        return measure

    def _resnet50(self, batch_size: int) -> list[str]:
        size, count = (224, 1400) if self.on_gpu else (32, 600)
        arguments = ["fit", "--config", str(ROOT / "recipes/resnet50.yaml")]
        arguments += ["--data.source", "Phantom", "--data.source.root", str(self.place / f"{size}")]
        arguments += ["--data.source.num_train", str(count), "--data.source.num_test", "8"]
        arguments += ["--data.source.size", str(size), "--data.image_size", f"[{size}, {size}]"]
        arguments += ["--data.batch_size", str(batch_size), "--trainer.device", self.device]
        arguments += ["--run_dir", str(self.place / f"resnet50_{batch_size}")]
        if self.on_gpu:
            return [*arguments, "--model.weights", "null"]
        return [*arguments, "--model", "LightCNN", "--data.num_workers", "1"]


def main() -> int:
    """Run the checks, and write their table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/gpu_check"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    arguments = parser.parse_args()
    start, rows = perf_counter(), []
    with tempfile.TemporaryDirectory() as place:
        for check in GpuCheck(arguments.device, Path(place)).checks():
            began = perf_counter()
            row: Figures = {"check": check.name}
            if check.of_gpu and arguments.device == "cpu":
                row["status"] = "needs a GPU"
            elif began - start + check.seconds > SECONDS and arguments.device == "cuda":
                row["status"] = "not run, no time left"
            else:
                try:
                    row |= {"status": "passed", **check.measure()}
                except Exception as error:  # the other checks still count
                    row |= {"status": "FAILED", "error": f"{type(error).__name__}: {error}"}
                row["seconds"] = round(perf_counter() - began, 1)
            rows.append(row)
            print(_line(row), flush=True)
    has_gpu = torch.cuda.is_available()
    result = {
        "device": torch.cuda.get_device_name() if has_gpu else arguments.device,
        "torch": torch.__version__,
        "seconds": round(perf_counter() - start, 1),
        "checks": rows,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, default=str)
    (arguments.output / "gpu_check.json").write_text(text + "\n", encoding="utf-8")
    table = "\n".join(["| check | status | figures |", "|---|---|---|", *map(_line, rows)])
    (arguments.output / "gpu_check.md").write_text(table + "\n", encoding="utf-8")
    return int(any(row["status"] == "FAILED" for row in rows))


def _line(row: Figures) -> str:
    shown = (
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in row.items()
        if name not in ("check", "status")
    )
    figures = ", ".join(shown).replace("\n", " ")
    return f"| {row['check']} | {row['status']} | {figures[:300]} |"


if __name__ == "__main__":
    raise SystemExit(main())
