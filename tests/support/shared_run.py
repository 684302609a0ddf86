"""The one run that the tests of commands look at, trained once a session."""

import fcntl
import shutil
from pathlib import Path

from forked import run_forked

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


def shared_run(folder: Path) -> Path:
    """Train, test and explain it, or find that another worker has.

    Args:
        folder: The one that all workers share.

    Returns:
        Its run folder. Its recipe lies beside it as `recipe.yaml`, its images as `images`.
    """
    home = folder / "shared_run"
    done = home / "done"
    with (folder / "shared_run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(home, ignore_errors=True)  # of a worker whose attempt failed
            home.mkdir()
            (home / "recipe.yaml").write_text(RECIPE.replace("FOLDER", str(home)))
            for line in ("fit --config recipe.yaml", "test --run run", "explain --run run"):
                ended = run_forked(["-m", "cxrignite", *line.split()], cwd=home)
                assert ended.returncode == 0, ended.stderr
                (home / f"{line.split()[0]}.txt").write_text(ended.stdout + ended.stderr)
            done.touch()
    return home / "run"
