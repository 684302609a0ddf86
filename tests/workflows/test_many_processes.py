"""`fit` under torchrun: two real processes that train one model and score each film once."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

from cxrignite.cli import run

RECIPE = """\
data:
  source: {class_path: Phantom, init_args: {num_train: 66, num_test: 8, size: 64}}
  val_fraction: 0.25
  batch_size: 8
  num_workers: 0
  sampler: BalancedSampler
model: {class_path: LightCNN, init_args: {width: 4}}
loss: {class_path: SoftPosWeightBCE, init_args: {power: 0.5}}
optimizer: {class_path: AdamW, init_args: {lr: 1.0e-3}}
trainer: {max_epochs: 2, precision: fp32, handlers: [EpochTimer]}
validator:
  handlers: [{class_path: ThresholdSearch, init_args: {min_tnr: 0.9, min_threshold: 0.1}}]
"""

LAUNCHED = """\
import json, os, pathlib, sys
from cxrignite.cli import run

code = run(sys.argv[1:])
tasks = pathlib.Path("/proc/self/task").glob("*/comm")
names = [task.read_text().strip() for task in tasks]
pathlib.Path(f"threads_{os.environ['RANK']}.json").write_text(json.dumps(names))
sys.exit(code)
"""


def test_two_processes_train_one_model_and_score_each_film_once(tmp_path):
    from cxrignite.data import Phantom

    # An odd number of validation films, so that the processes' shares differ.
    Phantom(root=tmp_path / "films", num_train=66, num_test=8, size=64).films()
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "launched.py").write_text(LAUNCHED)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
            *("launched.py", "fit", "--config", "recipe.yaml"),
            *("--data.source.root", tmp_path / "films", "--run_dir", "run"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            "OMP_NUM_THREADS": "1",
        },
    )
    assert done.returncode == 0, done.stderr
    # A thread of gloo that outlives the run may abort the process when the interpreter ends.
    for rank in (0, 1):
        threads = json.loads((tmp_path / f"threads_{rank}.json").read_text())
        assert not [name for name in threads if "gloo" in name]
    with (tmp_path / "run" / "predictions" / "val.csv").open() as file:
        joined = list(csv.DictReader(file))
    metrics = json.loads((tmp_path / "run" / "metrics" / "val.json").read_text())
    assert len({row["path"] for row in joined}) == len(joined) == metrics["num_images"]
    assert (
        json.loads((tmp_path / "run" / "environment.json").read_text())["starts"][0]["processes"]
        == 2
    )

    assert run(["validate", "--run", str(tmp_path / "run"), "--trainer.device", "cpu"]) == 0
    alone = json.loads((tmp_path / "run" / "metrics" / "val.json").read_text())
    assert alone == metrics
