"""`fit` on two real processes: one model, each image scored once, the figures of one process."""

import csv
import json
import os
import socket
from pathlib import Path

import pytest
import torch
from results import finding

from cxrignite.cli import run
from cxrignite.handlers import load_checkpoint

pytestmark = pytest.mark.integration

# 66 images and 16 of validation: an odd share for one of the processes.
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
trainer: {max_epochs: 2, precision: fp32, handlers: [EpochTimer], averaging: ema}
fine_tuning: {frozen: [backbone.0], unfreeze_epoch: 2, lr_factors: {backbone: 0.5}}
validator:
  handlers: [{class_path: ThresholdSearch, init_args: {min_tnr: 0.9, min_threshold: 0.1}}]
"""

LAUNCHED = """\
import json, os, pathlib, sys
import torch
from cxrignite.cli import run
from cxrignite.workflows.training import Training

rank = os.environ.get("RANK") or os.environ["SLURM_PROCID"]
train = Training.run

def train_and_note(training):
    train(training)
    weights = training.model.state_dict(), training.kept.state_dict()
    torch.save(weights, f"weights_{rank}.pt")

Training.run = train_and_note
code = run(sys.argv[1:])
tasks = pathlib.Path("/proc/self/task").glob("*/comm")
names = [task.read_text().strip() for task in tasks]
pathlib.Path(f"threads_{rank}.json").write_text(json.dumps(names))
sys.exit(code)
"""

IMPORTABLE = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}


@pytest.fixture
def program(tmp_path):
    """The arguments of a `fit` that notes which threads are left when it is done."""
    from cxrignite.data import Phantom

    Phantom(root=tmp_path / "images", num_train=66, num_test=8, size=64).records()
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "launched.py").write_text(LAUNCHED)
    records, folder = tmp_path / "images", tmp_path / "run"
    arguments = ["--config", "recipe.yaml", "--data.source.root", records, "--run_dir", folder]
    return ["launched.py", "fit", *map(str, arguments)]


def forked(program, folder, start):
    """Two processes with the variables that `torchrun` sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    job |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return [
        start(program, cwd=folder, environment={**job, "RANK": rank, "LOCAL_RANK": rank})
        for rank in ("0", "1")
    ]


def torchrun(program, folder, start):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return [start([*launcher, *program], cwd=folder, environment=IMPORTABLE)]


def srun(program, folder, start):
    """Two tasks with the variables that SLURM's `srun` sets; SLURM itself is not asked."""
    job = {
        # The last four digits choose the port.
        "SLURM_JOB_ID": str(10_000 + os.getpid() % 9_000),
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_JOB_NUM_NODES": "1",
        # Without `scontrol` Ignite reads the list of nodes itself.
        "PATH": "",
    }
    return [
        start(
            program,
            cwd=folder,
            environment={**job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
        )
        for rank in range(2)
    ]


@pytest.mark.parametrize(
    "launch", [forked, *(pytest.param(each, marks=pytest.mark.slow) for each in (torchrun, srun))]
)
def test_two_processes_train_one_model_and_score_each_image_once(launch, program, start, tmp_path):
    for process in launch(program, tmp_path, start):
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0, error
    # A thread of gloo that outlives the run may abort the process when the interpreter ends.
    for rank in (0, 1):
        threads = json.loads((tmp_path / f"threads_{rank}.json").read_text())
        assert not [name for name in threads if "gloo" in name]
    ours, theirs = (torch.load(tmp_path / f"weights_{rank}.pt") for rank in (0, 1))
    for kind in (0, 1):
        assert all(torch.equal(value, theirs[kind][name]) for name, value in ours[kind].items())
    weight = "backbone.0.0.weight"
    folder = tmp_path / "run"
    first, second = (
        load_checkpoint(folder / "checkpoints" / name)["model"][weight]
        for name in ("last.previous.pt", "last.pt")
    )
    assert torch.equal(second, ours[0][weight])
    assert not torch.equal(second, first)  # trained again, by both
    assert not torch.equal(second, ours[1][weight])  # the average is another
    with (folder / "predictions" / "val.csv").open() as file:
        joined = list(csv.DictReader(file))
    metrics = finding(folder / "metrics" / "val.json")
    assert len({row["path"] for row in joined}) == len(joined) == metrics["num_images"]
    assert json.loads((folder / "environment.json").read_text())["starts"][0]["num_processes"] == 2

    assert run(["validate", "--run", str(folder), "--trainer.device", "cpu"]) == 0
    assert finding(folder / "metrics" / "val.json") == metrics
    with (folder / "predictions" / "val.csv").open() as file:
        assert list(csv.DictReader(file)) == joined


def test_two_processes_find_the_metrics_of_each_finding_that_one_does(program, start, tmp_path):
    options = ["--data.source.findings", "[Opacity, Effusion, Nodule]"]
    options += ["--data.source.unknown_fraction", "0.2", "--trainer.max_epochs", "1"]
    for process in forked([*program, *options], tmp_path, start):
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0, error
    folder = tmp_path / "run"
    names = ["predictions/val.csv", "metrics/val.json"]
    before = [(folder / name).read_bytes() for name in names]
    with (folder / "predictions" / "val.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({(row["path"], row["finding"]) for row in rows}) == len(rows)
    assert len(rows) == 3 * len({row["path"] for row in rows})
    assert "" in {row["label"] for row in rows}
    # As of the epoch, whose scores the processes have gathered.
    with (folder / "history.csv").open() as file:
        [epoch] = csv.DictReader(file)
    for each in json.loads((folder / "metrics" / "val.json").read_text())["findings"]:
        gathered = float(epoch[f"val_roc_auc/{each['rule']['finding']}"])
        assert gathered == pytest.approx(each["roc_auc"]["value"], abs=1e-12)
    assert run(["validate", "--run", str(folder), "--trainer.device", "cpu"]) == 0
    assert [(folder / name).read_bytes() for name in names] == before
