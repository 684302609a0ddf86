"""Train declared variants of two recipes, each with two seeds, and test them on another batch.

    python benchmarks/other_batch.py DIR --output runs/other_batch --weights FILE --only light

`DIR` has ChestXRay2017 in class folders, `FILE` the ImageNet weights of Lite0. The test images come
from other machines than the training images, so they show what carries over. They are used here as
development data: a recipe that takes over a variant has been chosen with their help. All variants
are declared in `VARIANTS`, before the first of them ran; each runs once with each seed, and every
result is printed. A finished run is not repeated.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from cxrignite.runs.run_folder import RunFolder

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (42, 7)
LITE0 = yaml.safe_load((ROOT / "recipes/efficientnet_lite0.yaml").read_text(encoding="utf-8"))
# What differs between X-ray machines: exposure, contrast, sharpness, noise, framing.
MACHINES = {
    "data": {"batch_augment": LITE0["data"]["batch_augment"]},
    "model": {"init_args": {"standardize": "per_image"}},
}
WARMUP = {"class_path": "WarmupCosine", "init_args": {"warmup": 0.1, "final_factor": 0.01}}
VIEWS = [
    {"scale": 0.94},
    {"scale": 1.06},
    {"shift": [0.03, 0.03]},
    {"shift": [-0.03, -0.03]},
    {"gamma": 0.8},
    {"gamma": 1.25},
]


def averaged(epochs: int, decay: float) -> dict[str, Any]:
    """Return the settings of an average of the weights, with warm-up."""
    trainer = {"averaging": "ema", "ema_decay": decay, "max_epochs": epochs, "lr_step": "iteration"}
    return {"trainer": trainer, "lr_scheduler": WARMUP}


# Name: the recipe, and what differs from it.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "light": ("baseline_cnn", {}),
    "light_machines": ("baseline_cnn", MACHINES),
    "light_averaged": ("baseline_cnn", MACHINES | averaged(16, 0.99)),
    "light_views": (
        "baseline_cnn",
        MACHINES | averaged(16, 0.99) | {"data": {**MACHINES["data"], "views": VIEWS}},
    ),
    "lite0": ("efficientnet_lite0", {}),
    "lite0_averaged": ("efficientnet_lite0", averaged(3, 0.99)),
    "lite0_loss": (
        "efficientnet_lite0",
        averaged(4, 0.99)
        | {"monitor": {"metric": "loss", "mode": "min"}, "fine_tuning": {"layer_decay": 0.85}},
    ),
    "lite0_views": ("efficientnet_lite0", averaged(3, 0.99) | {"data": {"views": VIEWS}}),
}


def run(name: str, seed: int, arguments: argparse.Namespace) -> Path:
    """Train and test one variant with one seed, unless that is done; return its folder."""
    recipe, changes = VARIANTS[name]
    folder: Path = arguments.output / f"{name}_{seed}"
    overlay = arguments.output / f"{name}_{seed}.yaml"
    overlay.parent.mkdir(parents=True, exist_ok=True)
    overlay.write_text(yaml.safe_dump(changes or {"seed": seed}), encoding="utf-8")
    command = [sys.executable, "-m", "cxrignite"]
    fit = [*command, "fit", "--config", f"{ROOT}/recipes/{recipe}.yaml", "--config", str(overlay)]
    fit += ["--data.source.root", str(arguments.root), "--seed", str(seed)]
    fit += ["--run_dir", str(folder), "--data.num_workers", str(arguments.workers)]
    fit += ["--resume", "auto", "--data.cache", str(arguments.output / "cache")]
    if recipe == "efficientnet_lite0":
        fit += ["--model.weights", str(arguments.weights)]
    subprocess.run(fit, check=True)
    if not (folder / "metrics" / "test.json").is_file():
        subprocess.run([*command, "test", "--run", str(folder)], check=True)
    return folder


def main() -> None:
    """Run the variants, and print a row for each run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--output", type=Path, default=Path("runs/other_batch"))
    parser.add_argument("--weights", type=Path, help="for Lite0")
    parser.add_argument("--only", default="", help="variants whose names begin so")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    rows = [
        "| variant | seed | val AUC | test AUC | balanced accuracy | TNR | TPR |",
        "|" + "---|" * 7,
    ]
    for name in (each for each in VARIANTS if each.startswith(arguments.only)):
        for seed in SEEDS:
            folder = RunFolder(run(name, seed, arguments))
            val, test = (folder.find_evaluations(split) for split in ("val", "test"))
            if val is None or test is None:
                raise SystemExit(f"{folder.root} has no results")
            area, own = val.findings[0].roc_auc.value, test.findings[0]
            values = [area, own.roc_auc.value]
            if (at := own.at_threshold) is not None:
                values += [at.balanced_accuracy.value, at.tnr.value, at.tpr.value]
            shown = (f"{value:.4f}" if value is not None else "" for value in values)
            rows.append(f"| {name} | {seed} | {' | '.join(shown)} |")
            print("\n".join(rows), flush=True)


if __name__ == "__main__":
    main()
