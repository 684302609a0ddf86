"""Measure the time to the first step of a cached `fit`, compared with that of its imports.

python benchmarks/figure_start.py --images DIR
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


FIRST_STEP = """
import json, os, sys, time, torch
def first_step(*_, **__):
    names = [name for name in sys.modules if not name.startswith(("_", "cxrignite"))]
    print(json.dumps([time.time() - float(os.environ["BEGAN"]), names]), flush=True)
    os._exit(0)
torch.optim.AdamW.zero_grad = first_step  # the first call of a step, after its batch is loaded
from cxrignite.cli import run
sys.exit(run(sys.argv[1:]))
"""

IMPORTS = """
import contextlib, importlib, json, os, sys, time, warnings
warnings.simplefilter("ignore")
for name in json.load(open(sys.argv[1])):
    with contextlib.suppress(Exception):
        importlib.import_module(name)
print(time.time() - float(os.environ["BEGAN"]))
"""


def run_python(code: str, *argv: str) -> Any:
    """Run a program, and return its last output line as JSON."""
    environment = {**os.environ, "BEGAN": str(time.time())}
    command = [sys.executable, "-c", code, *argv]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def measure_start(root: Path) -> None:
    """Measure `--help`, the time to the first step of a cached `fit`, and that of its imports."""
    helps = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "cxrignite", "--help"], check=True, stdout=subprocess.DEVNULL
        )
        helps.append(time.perf_counter() - start)
    print(f"--help: {statistics.median(helps):.2f} s (target < 0.7)")
    with tempfile.TemporaryDirectory() as folder:
        argv = ["fit", "--config", f"{RECIPES}/baseline_cnn.yaml", "--run_dir", f"{folder}/run"]
        argv += ["--data.source.root", str(root), "--data.image_size", "[224, 224]"]
        _, names = run_python(FIRST_STEP, *argv)  # builds the cache
        modules = Path(folder, "modules.json")
        modules.write_text(json.dumps(names))
        fits, imports = [], []
        for _ in range(5):
            fits.append(run_python(FIRST_STEP, *argv)[0])
            imports.append(run_python(IMPORTS, str(modules)))
    first, bare = statistics.median(fits), statistics.median(imports)
    print(f"first step: {first:.2f} s, imports {bare:.2f} s, {first / bare:.2f} x (target <= 1.3)")


def main() -> None:
    """Run the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--images", type=Path, required=True, help="folder with the layout of ChestXRay2017"
    )
    options = parser.parse_args()
    measure_start(options.images)


if __name__ == "__main__":
    main()
