"""The runs that the tests of commands look at, each trained once a session."""

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from forked import run_forked
from PIL import Image

# A little of everything: augmentation, dropout, a schedule, a calibration split with a certificate.
RECIPE = """\
seed: 3
data:
  source:
    class_path: Phantom
    init_args: {root: FOLDER/images, num_train: 240, num_test: 80, size: 64, positive_fraction: 0.4}
  val_fraction: 0.2
  calibration_fraction: 0.3
  batch_size: 16
  num_workers: 0
  sampler: BalancedSampler
  augment:
    - {class_path: RandAffine, init_args: {prob: 0.5, rotate_range: 0.1, translate_range: 3}}
model: {class_path: LightCNN, init_args: {width: 8, stride: 8, dropout: 0.1}}
loss: {class_path: SoftPosWeightBCE, init_args: {power: 0.5}}
optimizer: {class_path: AdamW, init_args: {lr: 1.0e-2}}
lr_scheduler: {class_path: CosineAnnealingLR, init_args: {T_max: 4}}
trainer: {max_epochs: 4, profile: reproducible, precision: fp32, handlers: [EpochTimer]}
validator:
  handlers:
    - {class_path: ThresholdSearch, init_args: {min_tnr: 0.7, min_threshold: 0.1, confidence: 0.9}}
monitor: {metric: roc_auc, patience: 50}
explain: {max_images: 2, num_measured: 4}
run_dir: FOLDER/run
"""

# Three findings side by side, with unknown labels in train, validation and calibration.
RECIPE_OF_FINDINGS = """\
seed: 3
data:
  source:
    class_path: Phantom
    init_args:
      root: FOLDER/images
      num_train: 240
      num_test: 60
      size: 48
      findings: [Opacity, Effusion, Nodule]
      unknown_fraction: 0.2
  val_fraction: 0.25
  calibration_fraction: 0.3
  batch_size: 16
  num_workers: 0
  sampler: BalancedSampler
model: {class_path: LightCNN, init_args: {width: 4, stride: 8, dropout: 0.1}}
loss: {class_path: SoftPosWeightBCE, init_args: {power: 0.5}}
optimizer: {class_path: AdamW, init_args: {lr: 1.0e-2}}
trainer: {max_epochs: 2, profile: reproducible, precision: fp32, handlers: [EpochTimer]}
validator:
  handlers:
    - class_path: ThresholdSearch
      init_args:
        min_tnr: 0.7
        min_threshold: 0.1
        confidence: 0.9
        per_finding: {Nodule: {min_tnr: 0.5}}
monitor: {metric: roc_auc}
explain: {max_images: 1, num_measured: 2}
run_dir: FOLDER/run
"""

# Three classes that exclude each other, by the names of made-up files.
RECIPE_OF_CLASSES = """\
seed: 3
data:
  source:
    class_path: ClassFolders
    init_args:
      root: FOLDER/images
      classes: [NORMAL, BACTERIAL, VIRAL]
      class_pattern: {NORMAL: /NORMAL/, BACTERIAL: bacteria, VIRAL: virus}
  val_fraction: 0.3
  batch_size: 16
  num_workers: 0
model: {class_path: LightCNN, init_args: {width: 4, stride: 8}}
loss: {class_path: SoftClassWeightCE, init_args: {power: 0.5}}
optimizer: {class_path: AdamW, init_args: {lr: 1.0e-2}}
trainer: {max_epochs: 2, profile: reproducible, precision: fp32}
validator:
  handlers: [{class_path: ThresholdSearch, init_args: {min_tnr: 0.7, min_threshold: 0.0}}]
monitor: {metric: roc_auc}
explain: {max_images: 1, num_measured: 2}
run_dir: FOLDER/run
"""


def write_classes(root: Path) -> None:
    """Write grey images of three classes: dark, bright on the left, bright below."""
    rng = np.random.default_rng(0)
    names = {
        "NORMAL": "IM-{0}-1",
        "BACTERIAL": "person{0}_bacteria_1",
        "VIRAL": "person{0}_virus_1",
    }
    for split, numbers in (("train", (40, 30, 20)), ("test", (10, 10, 10))):
        for position, (kind, name) in enumerate(names.items()):
            folder = root / split / ("NORMAL" if position == 0 else "PNEUMONIA")
            folder.mkdir(parents=True, exist_ok=True)
            for image in range(numbers[position]):
                pixels = rng.normal(90, 25, (32, 32))
                pixels[:, :12] += 40 * (kind == "BACTERIAL")
                pixels[20:] += 40 * (kind == "VIRAL")
                patient = 1000 * position + 100 * (split == "test") + image
                path = folder / f"{name.format(patient)}.png"
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def shared_run(
    folder: Path,
    name: str = "shared_run",
    recipe: str = RECIPE,
    write_images: Callable[[Path], None] | None = None,
) -> Path:
    """Train, test and explain it, or find that another worker has.

    Args:
        folder: The one that all workers share.
        name: Of the folder of this run.
        recipe: Its recipe.
        write_images: Writes its images, unless the source makes them.

    Returns:
        Its run folder. Its recipe lies beside it as `recipe.yaml`, its images as `images`.
    """
    home = folder / name
    done = home / "done"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(home, ignore_errors=True)  # of a worker whose attempt failed
            home.mkdir()
            (home / "recipe.yaml").write_text(recipe.replace("FOLDER", str(home)))
            if write_images is not None:
                write_images(home / "images")
            for line in ("fit --config recipe.yaml", "test --run run", "explain --run run"):
                ended = run_forked(["-m", "cxrignite", *line.split()], cwd=home)
                assert ended.returncode == 0, ended.stderr
                (home / f"{line.split()[0]}.txt").write_text(ended.stdout + ended.stderr)
            done.touch()
    return home / "run"
