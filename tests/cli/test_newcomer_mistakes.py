"""Mistakes that newcomers make, each made for real, with the facts that its message must hold.

Each message names the thing, the rule and the value, and says where it is or what to do; it is one
line. The full texts are in `messages.txt`; `docs/guides/errors.md` explains the likeliest.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from messages import error_line, snapshot
from PIL import Image

from cxrignite.cli import run
from cxrignite.data import Phantom

pytestmark = pytest.mark.integration
REPOSITORY = Path(__file__).resolve().parents[2]
RECIPE = """\
seed: 3
run_dir: runs/mine
data:
  source:
    class_path: ClassFolders
    init_args:
      root: data/chest_xray
      classes: [NORMAL, PNEUMONIA]
  val_fraction: 0.25
  batch_size: 8
  num_workers: 0
  sampler: BalancedSampler
model:
  class_path: LightCNN
  init_args:
    width: 4
loss: BCEWithLogitsLoss
optimizer:
  class_path: AdamW
  init_args:
    lr: 1.0e-3
trainer:
  max_epochs: 1
  epoch_length: 2
validator:
  handlers:
    - class_path: ThresholdSearch
      init_args:
        min_tnr: 0.9
        min_threshold: 0.5
"""
SOURCE = RECIPE[RECIPE.index("    class_path: ClassF") : RECIPE.index("  val_fraction")]
FIT = "fit --config recipe.yaml"
TEST = "test --run runs/done"
NORMAL = "data/chest_xray/train/NORMAL"
USUAL = "run_dir: runs/done"


class Mistake(NamedTuple):
    """What was done, and the facts of the message."""

    what: str
    command: str
    code: int
    facts: list[str]
    old: str = ""  # in the recipe, and what stands there instead
    new: str = ""
    prepare: Callable[[], object] | None = None


def write(path: str, content: bytes | str = b"") -> Callable[[], object]:
    def prepare() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content.encode() if isinstance(content, str) else content)

    return prepare


def rename(old: str, new: str) -> Callable[[], object]:
    return lambda: Path(old).rename(new)


def empty_class() -> None:
    shutil.rmtree(NORMAL)
    Path(NORMAL).mkdir()


def an_image_in_two_splits() -> None:
    first = min(Path(NORMAL).iterdir())
    shutil.copy(first, "data/chest_xray/test/NORMAL/copy.png")


def two_healthy_of_another_site() -> None:
    shutil.copytree("data/chest_xray/test", "site/test")
    for path in sorted(Path("site/test/NORMAL").iterdir())[2:]:
        path.unlink()


def unfinished() -> None:
    shutil.copytree("runs/done", "runs/half")
    Path("runs/half/operating_point.json").unlink()


OF_COMMAND_LINE = [
    Mistake(
        "a command that there is not",
        "train --config recipe.yaml",
        2,
        ["'train'", "audit", "recipes"],
    ),
    Mistake("a device for a recipe", "fit --config /dev/zero", 2, ["/dev/zero", "regular file"]),
    Mistake("a command misspelt", "reprot --run runs/done", 2, ["'reprot'", "'report'"]),
    Mistake(
        "an option before the command",
        "--config recipe.yaml fit",
        2,
        ["'--config'", "cxrignite fit --config FILE"],
    ),
    Mistake(
        "a recipe without --config",
        "fit recipe.yaml",
        2,
        ["'recipe.yaml'", "--config recipe.yaml"],
    ),
    Mistake("--config without a file", "fit --config", 2, ["--config"]),
    Mistake(
        "a shipped recipe by its name",
        "fit --config quickstart",
        2,
        ["quickstart", "cxrignite recipes copy quickstart"],
    ),
    Mistake(
        "a recipe's name misspelt",
        "fit --config recipes.yaml",
        2,
        ["recipes.yaml", "'recipe.yaml'"],
    ),
    Mistake("one dash", "fit -config recipe.yaml", 2, ["'-config'", "'--config'"]),
    Mistake(
        "a dash for an underscore",
        f"{FIT} --data.batch-size 16",
        2,
        ["'--data.batch-size'", "'--data.batch_size'"],
    ),
    Mistake(
        "an option without its group",
        f"{FIT} --epochs 5",
        2,
        ["'--epochs'", "'--trainer.max_epochs'"],
    ),
    Mistake(
        "spaces around =",
        f"{FIT} --data.batch_size = 16",
        2,
        ["'='", "--data.batch_size=16"],
    ),
    Mistake("an option without a value", f"{FIT} --resume", 2, ["--resume"]),
    Mistake(
        "no recipe at all",
        "fit --seed 3",
        2,
        ["data.source", "model", "optimizer", "--config"],
    ),
    Mistake(
        "a batch of nothing",
        f"{FIT} --data.batch_size 0",
        2,
        ["data.batch_size", "2", "0"],
    ),
    Mistake(
        "a size of one number",
        f"{FIT} --data.image_size 224",
        2,
        ["'data.image_size'", "[224, 224]", "224"],
    ),
    Mistake(
        "gpu for cuda",
        f"{FIT} --trainer.device gpu",
        2,
        ["'trainer.device'", "'auto'", "'cpu'", "'cuda:1'", "gpu"],
    ),
    Mistake(
        "half precision on a CPU",
        f"{FIT} --trainer.device cpu --trainer.precision fp16",
        2,
        ["fp16", "CUDA", "cpu"],
    ),
    Mistake(
        "a data set misspelt",
        "download chestxray",
        2,
        ["'chestxray'", "'chest-xray-2017'"],
    ),
    Mistake(
        "report without a run",
        "report",
        2,
        ["--run", "report"],
    ),
]
OF_RECIPE = [
    Mistake(
        "a run folder named after a day",
        FIT,
        2,
        ["recipe.yaml:2", "'2026-11-29'", "'run_dir'", "quotes"],
        "run_dir: runs/mine",
        "run_dir: 2026-11-29",
    ),
    Mistake(
        "a transform of dictionaries",
        FIT,
        2,
        ["Flipd", "Flip"],
        "  val_fraction: 0.25",
        "  val_fraction: 0.25\n"
        "  preprocess:\n"
        "    - {class_path: monai.transforms.Flipd, init_args: {keys: [image]}}",
    ),
    Mistake(
        "a key at the top that belongs in a group",
        FIT,
        2,
        ["recipe.yaml:2", "'batch_size'", "'data.batch_size'"],
        "seed: 3\n",
        "seed: 3\nbatch_size: 16\n",
    ),
    Mistake(
        "the learning rate in the trainer",
        FIT,
        2,
        ["recipe.yaml:24", "'trainer.lr'", "'optimizer.init_args.lr'"],
        "  epoch_length: 2\n",
        "  lr: 0.001\n",
    ),
    Mistake(
        "a setting beside its class",
        FIT,
        2,
        ["recipe.yaml:20", "'optimizer.lr'", "'optimizer.init_args.lr'", "'optimizer.class_path'"],
        "  init_args:\n    lr: 1.0e-3\n",
        "  lr: 1.0e-3\n",
    ),
    Mistake(
        "a handler's setting beside its class",
        FIT,
        2,
        [
            "recipe.yaml:28",
            "'validator.handlers.0.min_tnr'",
            "init_args",
            "'validator.handlers.0.init_args.min_tnr'",
            "'validator.handlers.0.class_path'",
        ],
        "      init_args:\n        min_tnr: 0.9\n        min_threshold: 0.5\n",
        "      min_tnr: 0.9\n",
    ),
    Mistake(
        "a source without its class",
        FIT,
        2,
        [
            "recipe.yaml:5",
            "'data.source.root'",
            "init_args",
            "'data.source.init_args.root'",
            "'data.source.class_path'",
        ],
        SOURCE,
        "    root: data/chest_xray\n",
    ),
    Mistake(
        "a folder for a source",
        FIT,
        2,
        ["recipe.yaml:4", "'data/chest_xray'", "'data.source'", "ClassFolders"],
        f"\n{SOURCE}",
        " data/chest_xray\n",
    ),
    Mistake("no source", FIT, 2, ["recipe.yaml", "'data.source'"], f"  source:\n{SOURCE}", ""),
    Mistake(
        "a decimal comma",
        FIT,
        2,
        ["recipe.yaml:21", "'optimizer'", "'lr'", "0,001"],
        "lr: 1.0e-3",
        "lr: 0,001",
    ),
    Mistake(
        "per cent for a share",
        FIT,
        2,
        ["recipe.yaml:9", "data.val_fraction", "(0, 0.5]", "15.0"],
        "val_fraction: 0.25",
        "val_fraction: 15",
    ),
    Mistake(
        "per cent for a rate",
        FIT,
        2,
        ["recipe.yaml:29", "min_tnr", "[0, 1]", "93.0"],
        "0.9\n",
        "93\n",
    ),
    Mistake(
        "a tab",
        FIT,
        2,
        ["recipe.yaml:23", "YAML", "'\\t'"],
        "  max_epochs",
        "\tmax_epochs",
    ),
    Mistake(
        "another indentation",
        FIT,
        2,
        ["recipe.yaml:24", "YAML", "'<block mapping start>'"],
        "  max_epochs",
        "   max_epochs",
    ),
    Mistake(
        "no space after a colon",
        FIT,
        2,
        ["recipe.yaml:2", "YAML"],
        "seed: 3",
        "seed:3",
    ),
    Mistake(
        "a bracket left open",
        FIT,
        2,
        ["recipe.yaml:9", "YAML", "','", "':'"],
        "PNEUMONIA]",
        "PNEUMONIA",
    ),
    Mistake(
        "a Windows path in double quotes",
        FIT,
        2,
        ["recipe.yaml:7", "YAML", "'d'"],
        "root: data/chest_xray",
        'root: "C:\\data\\chest_xray"',
    ),
    Mistake(
        "a recipe saved as UTF-16",
        "fit --config wide.yaml",
        2,
        ["wide.yaml", "YAML", "U+0000", "UTF-16", "UTF-8"],
        prepare=write("wide.yaml", "seed: 1\n".encode("utf-16-le")),
    ),
    Mistake(
        "a key twice",
        FIT,
        2,
        ["recipe.yaml:2", "'seed'", "line 1"],
        "seed: 3\n",
        "seed: 3\nseed: 4\n",
    ),
    Mistake(
        "a group twice",
        FIT,
        2,
        ["recipe.yaml:25", "'trainer'", "line 22"],
        "validator:\n",
        "trainer:\n  max_epochs: 2\nvalidator:\n",
    ),
    Mistake(
        "one class",
        FIT,
        2,
        ["recipe.yaml:8", "classes", "['PNEUMONIA']"],
        "[NORMAL, PNEUMONIA]",
        "[PNEUMONIA]",
    ),
    Mistake(
        "classes that YAML takes for true and false",
        FIT,
        2,
        ["recipe.yaml:8", "'data.source'", "'classes'", "YAML", "'yes'", "'no'", "'on'", "'off'"],
        "[NORMAL, PNEUMONIA]",
        "[no, yes]",
    ),
    Mistake(
        "a pattern that is no regular expression",
        FIT,
        2,
        ["recipe.yaml:8", "patient_pattern", "['chest-xray-2017']", "(missing )"],
        "      classes",
        "      patient_pattern: 'person(\\d+'\n      classes",
    ),
    Mistake(
        "a handler that is no list",
        FIT,
        2,
        ["recipe.yaml:24", "'trainer.handlers'", "EpochTimer"],
        "epoch_length: 2",
        "handlers: EpochTimer",
    ),
    Mistake(
        "a setting misspelt",
        FIT,
        2,
        ["recipe.yaml:22", "'weigth_decay'", "AdamW", "'weight_decay'"],
        "    lr: 1.0e-3\n",
        "    lr: 1.0e-3\n    weigth_decay: 0.1\n",
    ),
    Mistake(
        "a class that is given nothing",
        f"{FIT} --lr_scheduler StepLR",
        2,
        ["'lr_scheduler'", "step_size"],
    ),
    Mistake(
        "a metric for a handler",
        f"{FIT} --trainer.handlers [ignite.metrics.Average]",
        2,
        ["'trainer.handlers'", "attach(engine)", "ignite.metrics.Average"],
    ),
    Mistake(
        "a class of the standard library",
        f"{FIT} --loss os.system",
        2,
        ["'loss'", "os.system"],
    ),
    Mistake(
        "a wrong setting, and a right one on the command line",
        f"{FIT} --optimizer.weight_decay 0.1",
        2,
        ["recipe.yaml:21", "'optimizer'", "'lr'", "1,0e-3"],
        "lr: 1.0e-3",
        "lr: 1,0e-3",
    ),
    Mistake(
        "settings without their class in a list",
        FIT,
        2,
        [
            "recipe.yaml:27",
            "'validator.handlers.0'",
            "class_path",
            "BestCheckpoint",
            "ThresholdSearch",
        ],
        "class_path: ThresholdSearch\n      init_args",
        "init_args",
    ),
    Mistake(
        "settings without their class, and one more on the command line",
        f"{FIT} --model.width 9",
        2,
        [
            "recipe.yaml:13",
            "'model'",
            "class_path",
            "LightCNN",
            "TimmClassifier",
            "TransferClassifier",
        ],
        "class_path: LightCNN\n  init_args",
        "init_args",
    ),
    Mistake(
        "a rate below zero in the file, and an option that has nothing to do with it",
        f"{FIT} --trainer.max_epochs 3",
        2,
        ["recipe.yaml:18", "optimizer", "-2.5"],
        "lr: 1.0e-3",
        "lr: -2.5",
    ),
    Mistake(
        "a rate of true negatives above 1 on the command line",
        f"{FIT} --validator.handlers.min_tnr 1.5",
        2,
        ["min_tnr", "[0, 1]", "1.5"],
    ),
    Mistake(
        "a loss that says nothing of negatives",
        f"{FIT} --loss SoftMarginLoss",
        2,
        ["loss", "BCEWithLogitsLoss", "SoftMarginLoss"],
    ),
    Mistake(
        "a rate below zero on the command line",
        f"{FIT} --optimizer.lr -1",
        2,
        ["optimizer", "-1.0"],
    ),
    Mistake(
        "a loss for each image",
        FIT,
        2,
        ["recipe.yaml:17", "loss", "reduction: mean", "reduction: none"],
        "loss: BCEWithLogitsLoss",
        "loss: {class_path: BCEWithLogitsLoss, init_args: {reduction: none}}",
    ),
    Mistake(
        "an option of a plain command misspelt",
        "report --runn runs/done",
        2,
        ["'--runn'", "'--run'"],
    ),
    Mistake(
        "an action that there is none of",
        "recipes lst",
        2,
        ["'lst'", "'list'"],
    ),
    Mistake(
        "a network's function for a class",
        FIT,
        2,
        [
            "recipe.yaml:14",
            "'resnet50'",
            "'model'",
            "LightCNN",
            "TimmClassifier",
            "TransferClassifier",
        ],
        "LightCNN\n  init_args:\n    width: 4\n",
        "resnet50\n",
    ),
    Mistake(
        "a layer for a loss",
        FIT,
        2,
        ["recipe.yaml:17", "'loss'", "torch.nn.modules.loss._Loss", "torch.nn.Linear"],
        "BCEWithLogitsLoss",
        "torch.nn.Linear",
    ),
    Mistake(
        "a loss for several logits an image",
        FIT,
        2,
        ["recipe.yaml:17", "loss", "BCEWithLogitsLoss", "CrossEntropyLoss"],
        "loss: BCEWithLogitsLoss",
        "loss: CrossEntropyLoss",
    ),
    Mistake(
        "an own module that is elsewhere",
        f"{FIT} --model mine_elsewhere.Net",
        2,
        ["'model'", "'mine_elsewhere'"],
    ),
    Mistake(
        "an own model that is a plain module",
        f"{FIT} --model mine_plain.Net",
        2,
        ["'model'", "cxrignite.nn.classifiers.BinaryClassifier", "mine_plain.Net"],
        prepare=write("mine_plain.py", "from torch import nn\nclass Net(nn.Module):\n    pass\n"),
    ),
    Mistake(
        "an own class misspelt",
        f"{FIT} --model mine_misspelt.Net",
        2,
        ["'model'", "'Net'", "mine_misspelt", "'Nett'"],
        prepare=write("mine_misspelt.py", "class Nett: pass\n"),
    ),
    Mistake(
        "an own module that is no Python",
        f"{FIT} --model mine_broken.Net",
        2,
        ["mine_broken.py:1"],
        prepare=write("mine_broken.py", "class Net(:\n"),
    ),
    Mistake(
        "a metric of another name",
        FIT,
        2,
        [
            "recipe.yaml:31",
            "monitor.metric",
            "roc_auc",
            "average_precision",
            "balanced_accuracy",
            "tnr_lower_bound",
            "auroc",
        ],
        "        min_threshold: 0.5\n",
        "        min_threshold: 0.5\nmonitor: {metric: auroc}\n",
    ),
]
OF_DATA = [
    Mistake(
        "no data",
        FIT,
        3,
        ["data/chest_xray"],
        prepare=rename("data", "images"),
    ),
    Mistake(
        "a root that is one folder up",
        f"{FIT} --data.source.root data",
        3,
        ["'train'", "'test'", "'chest_xray'", "data/chest_xray"],
    ),
    Mistake(
        "a root that is one folder down",
        f"{FIT} --data.source.root data/chest_xray/train",
        3,
        [
            "data/chest_xray/train",
            "'train'",
            "'test'",
            "'NORMAL'",
            "'PNEUMONIA'",
            "data/chest_xray",
        ],
    ),
    Mistake(
        "a class misspelt",
        FIT,
        3,
        ["data/chest_xray/train", "'PNEUMONIE'", "'NORMAL'", "'PNEUMONIA'"],
        "PNEUMONIA]",
        "PNEUMONIE]",
    ),
    Mistake(
        "classes in lower case",
        FIT,
        3,
        ["data/chest_xray/train", "'normal'", "'NORMAL'", "'PNEUMONIA'"],
        "[NORMAL, PNEUMONIA]",
        "[normal, pneumonia]",
    ),
    Mistake(
        "training images in a folder of another name",
        FIT,
        3,
        ["data/chest_xray", "test"],
        prepare=rename("data/chest_xray/train", "data/chest_xray/training"),
    ),
    Mistake(
        "a class without an image",
        FIT,
        3,
        ["data/chest_xray/train/NORMAL", "(JPEG, PNG, TIFF, BMP, WEBP, GIF, JPEG2000, DICOM)"],
        prepare=empty_class,
    ),
    Mistake(
        "a download that broke off",
        FIT,
        3,
        ["data/chest_xray/train/NORMAL/x.jpeg", "data.on_unreadable: skip"],
        prepare=write(f"{NORMAL}/x.jpeg", b"\xff\xd8\xff\xe0broken"),
    ),
    Mistake(
        "a text named as an image",
        FIT,
        3,
        ["data/chest_xray/train/NORMAL/x.jpeg", "JPEG", "PNG", "DICOM", "data.on_unreadable: skip"],
        prepare=write(f"{NORMAL}/x.jpeg", b"<html>please log in</html>"),
    ),
    Mistake(
        "images of several sizes",
        FIT,
        3,
        ["64 x 64", "60 x 80", "data/chest_xray/train/NORMAL/other.png", "data.image_size"],
        prepare=lambda: Image.new("L", (80, 60)).save(f"{NORMAL}/other.png"),
    ),
    Mistake(
        "an image in two splits",
        FIT,
        3,
        ["1 pair", "0 of", "1 of", "runs/mine/leakage.csv", "data.allow_leakage: true"],
        prepare=an_image_in_two_splits,
    ),
    Mistake(
        "a promise that takes more images",
        FIT,
        4,
        ["ThresholdSearch", "0.95", "95 %", "59 negative patients", "val", "6"],
        "min_tnr: 0.9\n",
        "min_tnr: 0.95\n        confidence: 0.95\n",
    ),
]
OF_RUN = [
    Mistake(
        "a run that is there already",
        f"{FIT} --run_dir runs/done",
        2,
        ["runs/done", "--resume auto", "run_dir"],
    ),
    Mistake(
        "resuming with another recipe",
        f"{FIT} --run_dir runs/done --resume auto --optimizer.lr 0.1",
        2,
        ["runs/done", "optimizer.init_args.lr"],
    ),
    Mistake(
        "--resume true",
        f"{FIT} --run_dir runs/done --resume true",
        3,
        ["--resume", "auto", "true"],
    ),
    Mistake(
        "the run's folder for its checkpoint",
        f"{FIT} --run_dir runs/done --resume runs/done",
        2,
        ["--resume", "auto", "'runs/done'"],
    ),
    Mistake(
        "a checkpoint's variable that is empty",
        f"{FIT} --run_dir runs/done --resume=",
        2,
        ["--resume", "auto", "''"],
    ),
    Mistake(
        "the data's folder for the run's",
        f"{FIT} --run_dir data/chest_xray",
        2,
        ["data/chest_xray", "run_dir"],
    ),
    Mistake(
        "a file for the run's folder",
        f"{FIT} --run_dir recipe.yaml",
        2,
        ["run_dir", "recipe.yaml"],
    ),
    Mistake(
        "a folder without write permission",
        f"{FIT} --run_dir /proc/mine",
        2,
        ["/proc/mine"],
    ),
    Mistake(
        "test before fit",
        "test --run runs/mine",
        2,
        ["runs/mine", "cxrignite fit"],
    ),
    Mistake(
        "the folder of all runs",
        "test --run runs",
        2,
        ["runs", "history.csv", "runs/done"],
    ),
    Mistake(
        "a run that did not finish",
        "test --run runs/half",
        2,
        [
            "runs/half",
            "operating_point.json",
            "cxrignite fit --config runs/half/recipe.yaml --run_dir runs/half --resume auto",
        ],
        prepare=unfinished,
    ),
    Mistake(
        "a run without --run",
        "test runs/done",
        2,
        ["--run runs/done"],
    ),
    Mistake(
        "another threshold for the test",
        f"{TEST} --validator.handlers.min_tnr 0.8",
        2,
        [
            "--validator.handlers.min_tnr",
            "--operating_point",
            "--data.source",
            "--data.batch_size",
            "--data.eval_batch_size",
            "--data.num_workers",
            "--data.prefetch_factor",
            "--data.worker_timeout",
            "--trainer.device",
            "--trainer.precision",
        ],
    ),
    Mistake(
        "other images without a name",
        f"{TEST} --data.source ClassFolders --data.source.root data/chest_xray",
        2,
        ["--data.source", "--name", "'test'"],
    ),
    Mistake(
        "a site that was never calibrated",
        f"{TEST} --operating_point clinic",
        2,
        ["runs/done", "'clinic'"],
    ),
    Mistake(
        "too few healthy images of a site",
        "recalibrate --run runs/done --name clinic --data.source.root site",
        4,
        ["TNR", "0.9", "95 %", "29 negative patients", "2", "27"],
        prepare=two_healthy_of_another_site,
    ),
    Mistake(
        "an empty folder of new images",
        "predict --run runs/done --files new",
        3,
        ["new", "JPEG", "PNG", "DICOM"],
        prepare=lambda: Path("new").mkdir(),
    ),
    Mistake(
        "runs that were not tested",
        "compare runs/done runs/other",
        2,
        ["runs/done", "predictions/test.csv", "cxrignite test --run runs/done"],
    ),
    Mistake(
        "a report of an empty folder",
        "report --run new",
        2,
        ["new", "history.csv"],
        prepare=lambda: Path("new").mkdir(),
    ),
    Mistake(
        "a layer that the model has not",
        "explain --run runs/done --explain.target_layer layer4",
        2,
        ["explain.target_layer", "'layer4'"],
    ),
]
MISTAKES = [*OF_COMMAND_LINE, *OF_RECIPE, *OF_DATA, *OF_RUN]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Images in class folders, and a finished run on them."""
    root = tmp_path_factory.mktemp("original")
    records = root / "data/chest_xray"
    Phantom(records, num_train=64, num_test=24, size=64).records()
    for path in records.iterdir():
        if path.name not in ("train", "test"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (root / "recipe.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert run([*FIT.split(), "--run_dir", "runs/done"]) == 0
    return root


@pytest.fixture
def folder(original, tmp_path, monkeypatch):
    """A copy of it, to make a mistake in."""
    for name in ("data", "runs"):
        shutil.copytree(original / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")  # as `python -m` does
    return tmp_path


def make(mistake: Mistake) -> list[str]:
    """Make it as far as files go; gives the command."""
    assert mistake.old in RECIPE
    Path("recipe.yaml").write_text(RECIPE.replace(mistake.old, mistake.new, 1))
    if mistake.prepare:
        mistake.prepare()
    return mistake.command.split()


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.what)
def test_a_mistake_gets_one_line(mistake, folder, capsys):
    code = run(make(mistake))
    assert error_line(capsys.readouterr().err, *mistake.facts).startswith("cxrignite")
    assert code == mistake.code


@pytest.mark.parametrize(
    "mistake",
    [OF_COMMAND_LINE[0], OF_RECIPE[-3], OF_DATA[0], OF_RUN[6]],
    ids=lambda mistake: mistake.what,
)
def test_a_process_of_its_own_says_the_same(mistake, folder, capsys, start):
    argv = make(mistake)
    _, error = (process := start(["-m", "cxrignite", *argv], cwd=folder)).communicate()
    assert process.returncode == run(argv) == mistake.code
    assert error.splitlines()[-1] == capsys.readouterr().err.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_where_there_is_none_gets_one_line(folder, capsys):
    make(OF_DATA[0]._replace(prepare=None))
    assert run([*FIT.split(), "--trainer.device", "cuda"]) == 2
    error_line(capsys.readouterr().err, "trainer.device", "cuda")


@pytest.mark.parametrize("rate", ["1e-4", "'1e-4'", "1.0E-4"])
def test_a_rate_that_yaml_takes_for_text_is_a_number_here(rate, folder):
    from cxrignite.cli.parsing import parse_recipe

    Path("recipe.yaml").write_text(RECIPE.replace("1.0e-3", rate))
    recipe, text, _ = parse_recipe("fit", ["--config", "recipe.yaml"])
    assert recipe.optimizer([torch.nn.Parameter(torch.zeros(1))]).defaults["lr"] == 1e-4
    assert "lr: 0.0001" in text


def test_every_message_of_the_guide_is_a_real_one():
    guide = (REPOSITORY / "docs/guides/errors.md").read_text(encoding="utf-8")
    row = r"^\| (?!what|---)(.+?) \| (``? ?)(.+?)( ?``?) \| (.+?) \|$"
    rows = [found[3].replace("FOLDER", "TMP") for found in re.finditer(row, guide, re.MULTILINE)]
    name = "tests/cli/test_newcomer_mistakes.py::test_a_mistake_gets_one_line"
    real = snapshot.seen.get(name, []) if snapshot.rewrite else snapshot.kept[name]
    if len(real) < len(MISTAKES) - 1:
        pytest.skip("the messages are being written again")
    messages = {message.partition(": error: ")[2] for message in real}
    assert len(rows) >= 12
    assert [shown for shown in rows if shown not in messages] == []
