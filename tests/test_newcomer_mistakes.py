"""Mistakes that newcomers make, each made for real, with the message that it gets.

Each message names the thing, the rule and the value, and says where it is or what to do; it is one
line, and the exit code tells whose turn it is. `docs/guides/errors.md` explains the likeliest.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image

from cxrignite.cli import run
from cxrignite.data import Phantom

REPOSITORY = Path(__file__).resolve().parent.parent
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
SKIP = "mend it, or leave such films out with data.on_unreadable: skip"
VERBS = (
    "audit, fit, validate, test, recalibrate, predict, explain, compare, report, benchmark, "
    "download, recipes"
)


class Mistake(NamedTuple):
    """What was done, and what must be said.

    `says` is the whole message; in it `FOLDER` is the one that the command runs in.
    """

    what: str
    command: str
    code: int
    says: str
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


def a_film_in_two_splits() -> None:
    first = min(Path(NORMAL).iterdir())
    shutil.copy(first, "data/chest_xray/test/NORMAL/copy.png")


def two_healthy_of_another_site() -> None:
    shutil.copytree("data/chest_xray/test", "site/test")
    for film in sorted(Path("site/test/NORMAL").iterdir())[2:]:
        film.unlink()


def unfinished() -> None:
    shutil.copytree("runs/done", "runs/half")
    Path("runs/half/operating_point.json").unlink()


OF_COMMAND_LINE = [
    Mistake(
        "a verb that there is not",
        "train --config recipe.yaml",
        2,
        f"no verb 'train'; there are {VERBS}",
    ),
    Mistake(
        "a verb misspelt", "reprot --run runs/done", 2, "no verb 'reprot'; did you mean 'report'?"
    ),
    Mistake(
        "an option before the verb",
        "--config recipe.yaml fit",
        2,
        "no verb '--config'; the verb comes first, as in `cxrignite fit --config FILE`",
    ),
    Mistake(
        "a recipe without --config",
        "fit recipe.yaml",
        2,
        "'recipe.yaml' is no option; name a recipe with --config recipe.yaml",
    ),
    Mistake(
        "--config without a file", "fit --config", 2, "--config needs a value: the file of a recipe"
    ),
    Mistake(
        "a shipped recipe by its name",
        "fit --config quickstart",
        2,
        "quickstart: cannot read this recipe: there is no such file; "
        "`cxrignite recipes copy quickstart` makes quickstart.yaml",
    ),
    Mistake(
        "a recipe's name misspelt",
        "fit --config recipes.yaml",
        2,
        "recipes.yaml: cannot read this recipe: there is no such file; did you mean 'recipe.yaml'?",
    ),
    Mistake(
        "one dash", "fit -config recipe.yaml", 2, "no option '-config'; did you mean '--config'?"
    ),
    Mistake(
        "a dash for an underscore",
        f"{FIT} --data.batch-size 16",
        2,
        "no option '--data.batch-size'; did you mean '--data.batch_size'?",
    ),
    Mistake(
        "an option without its group",
        f"{FIT} --epochs 5",
        2,
        "no option '--epochs'; did you mean '--trainer.max_epochs'?",
    ),
    Mistake(
        "spaces around =",
        f"{FIT} --data.batch_size = 16",
        2,
        "no space may stand around '=': write --data.batch_size=16",
    ),
    Mistake("an option without a value", f"{FIT} --resume", 2, "--resume needs a value"),
    Mistake(
        "no recipe at all",
        "fit --seed 3",
        2,
        "these keys are missing: data.source, model, optimizer; name a recipe with --config FILE",
    ),
    Mistake(
        "a batch of nothing",
        f"{FIT} --data.batch_size 0",
        2,
        "data.batch_size must be at least 2, got 0",
    ),
    Mistake(
        "a size of one number",
        f"{FIT} --data.image_size 224",
        2,
        "'data.image_size' must be two int, as [224, 224] or null, got 224",
    ),
    Mistake(
        "gpu for cuda",
        f"{FIT} --trainer.device gpu",
        2,
        "'trainer.device' must be 'auto', 'cpu', 'cuda', got gpu",
    ),
    Mistake(
        "half precision on a CPU",
        f"{FIT} --trainer.device cpu --trainer.precision fp16",
        2,
        "precision fp16 needs a CUDA device, got cpu",
    ),
    Mistake(
        "a data set misspelt",
        "download chestxray",
        2,
        "no name 'chestxray'; did you mean 'chest-xray-2017'?",
    ),
    Mistake(
        "report without a run",
        "report",
        2,
        "--run is missing; `cxrignite report --help` tells what it takes",
    ),
]
OF_RECIPE = [
    Mistake(
        "a key at the top that belongs in a group",
        FIT,
        2,
        "recipe.yaml:2: no key 'batch_size'; did you mean 'data.batch_size'?",
        "seed: 3\n",
        "seed: 3\nbatch_size: 16\n",
    ),
    Mistake(
        "the learning rate in the trainer",
        FIT,
        2,
        "recipe.yaml:24: no key 'trainer.lr'; did you mean 'optimizer.init_args.lr'?",
        "  epoch_length: 2\n",
        "  lr: 0.001\n",
    ),
    Mistake(
        "a setting beside its class",
        FIT,
        2,
        "recipe.yaml:20: no key 'optimizer.lr'; a setting stands below init_args, "
        "'optimizer.init_args.lr', and its class in 'optimizer.class_path'",
        "  init_args:\n    lr: 1.0e-3\n",
        "  lr: 1.0e-3\n",
    ),
    Mistake(
        "a handler's setting beside its class",
        FIT,
        2,
        "recipe.yaml:28: no key 'validator.handlers.0.min_tnr'; a setting stands below init_args, "
        "'validator.handlers.0.init_args.min_tnr', and its class in "
        "'validator.handlers.0.class_path'",
        "      init_args:\n        min_tnr: 0.9\n        min_threshold: 0.5\n",
        "      min_tnr: 0.9\n",
    ),
    Mistake(
        "a source without its class",
        FIT,
        2,
        "recipe.yaml:5: no key 'data.source.root'; a setting stands below init_args, "
        "'data.source.init_args.root', and its class in 'data.source.class_path'",
        SOURCE,
        "    root: data/chest_xray\n",
    ),
    Mistake(
        "a folder for a source",
        FIT,
        2,
        "recipe.yaml:4: no class 'data/chest_xray' for 'data.source'; there are ClassFolders, "
        "Manifest, Phantom",
        f"\n{SOURCE}",
        " data/chest_xray\n",
    ),
    Mistake("no source", FIT, 2, "recipe.yaml: no key 'data.source'", f"  source:\n{SOURCE}", ""),
    Mistake(
        "a decimal comma",
        FIT,
        2,
        "recipe.yaml:21: 'optimizer': 'lr' must be float, got 0,001",
        "lr: 1.0e-3",
        "lr: 0,001",
    ),
    Mistake(
        "per cent for a share",
        FIT,
        2,
        "recipe.yaml:9: data.val_fraction must be in (0, 0.5], got 15.0",
        "val_fraction: 0.25",
        "val_fraction: 15",
    ),
    Mistake(
        "per cent for a rate",
        FIT,
        2,
        "recipe.yaml:29: min_tnr must be in [0, 1], got 93.0",
        "0.9\n",
        "93\n",
    ),
    Mistake(
        "a tab",
        FIT,
        2,
        "recipe.yaml:23: not valid YAML: found character '\\t' that cannot start any token; "
        "this line is indented by a tab; take spaces",
        "  max_epochs",
        "\tmax_epochs",
    ),
    Mistake(
        "another indentation",
        FIT,
        2,
        "recipe.yaml:24: not valid YAML: expected <block end>, but found '<block mapping start>'; "
        "this line is indented otherwise than those it belongs to",
        "  max_epochs",
        "   max_epochs",
    ),
    Mistake(
        "no space after a colon",
        FIT,
        2,
        "recipe.yaml:2: not valid YAML: mapping values are not allowed here; "
        "a space after a colon or a quote is missing above, or this line is indented too far",
        "seed: 3",
        "seed:3",
    ),
    Mistake(
        "a bracket left open",
        FIT,
        2,
        "recipe.yaml:9: not valid YAML: expected ',' or ']', but got ':'; "
        "a comma or a bracket is missing, here or above",
        "PNEUMONIA]",
        "PNEUMONIA",
    ),
    Mistake(
        "a Windows path in double quotes",
        FIT,
        2,
        "recipe.yaml:7: not valid YAML: found unknown escape character 'd'; "
        "a backslash; write paths with / or in single quotes",
        "root: data/chest_xray",
        'root: "C:\\data\\chest_xray"',
    ),
    Mistake(
        "a recipe saved as UTF-16",
        "fit --config wide.yaml",
        2,
        "wide.yaml: not valid YAML: the character U+0000 is not allowed; a file in UTF-16, or none "
        "of text; save it as UTF-8",
        prepare=write("wide.yaml", "seed: 1\n".encode("utf-16-le")),
    ),
    Mistake(
        "a key twice",
        FIT,
        2,
        "recipe.yaml:2: key 'seed' stands twice, first in line 1",
        "seed: 3\n",
        "seed: 3\nseed: 4\n",
    ),
    Mistake(
        "one class",
        FIT,
        2,
        "recipe.yaml:8: classes must be two different folder names, got ['PNEUMONIA']",
        "[NORMAL, PNEUMONIA]",
        "[PNEUMONIA]",
    ),
    Mistake(
        "classes that YAML takes for true and false",
        FIT,
        2,
        "recipe.yaml:8: 'data.source': 'classes' must be str, got False; "
        "quote what YAML takes for true or false: 'yes', 'no', 'on', 'off'",
        "[NORMAL, PNEUMONIA]",
        "[no, yes]",
    ),
    Mistake(
        "a pattern that is no regular expression",
        FIT,
        2,
        "recipe.yaml:8: patient_pattern must be one of ['chest-xray-2017'] or a regular "
        "expression, got 'person(\\\\d+' (missing ), unterminated subpattern at position 6)",
        "      classes",
        "      patient_pattern: 'person(\\d+'\n      classes",
    ),
    Mistake(
        "a handler that is no list",
        FIT,
        2,
        "recipe.yaml:24: 'trainer.handlers' must be list, got EpochTimer",
        "epoch_length: 2",
        "handlers: EpochTimer",
    ),
    Mistake(
        "a setting misspelt",
        FIT,
        2,
        "recipe.yaml:22: no setting 'weigth_decay' of AdamW; did you mean 'weight_decay'?",
        "    lr: 1.0e-3\n",
        "    lr: 1.0e-3\n    weigth_decay: 0.1\n",
    ),
    Mistake(
        "a class that is given nothing",
        f"{FIT} --lr_scheduler StepLR",
        2,
        "'lr_scheduler' needs step_size",
    ),
    Mistake(
        "a metric for a handler",
        f"{FIT} --trainer.handlers [ignite.metrics.Average]",
        2,
        "'trainer.handlers' must be a class whose attach(engine) needs no more than an engine, got "
        "ignite.metrics.Average",
    ),
    Mistake(
        "a class of the standard library",
        f"{FIT} --loss os.system",
        2,
        "'loss' must name a class of a library or of your own, got os.system",
    ),
    Mistake(
        "a wrong setting, and a right one on the command line",
        f"{FIT} --optimizer.weight_decay 0.1",
        2,
        "recipe.yaml:21: 'optimizer': 'lr' must be float, got 1,0e-3",
        "lr: 1.0e-3",
        "lr: 1,0e-3",
    ),
    Mistake(
        "settings without their class in a list",
        FIT,
        2,
        "recipe.yaml:27: 'validator.handlers.0' needs a class_path; there are BestCheckpoint, "
        "BoardWriter, EpochTimer, FeatureCollector, FiniteGuard, GracefulStop, GradCAMExporter, "
        "HistoryWriter, PredictionWriter, ProgressLine, ScoreCollector, ThresholdSearch",
        "class_path: ThresholdSearch\n      init_args",
        "init_args",
    ),
    Mistake(
        "settings without their class, and one more on the command line",
        f"{FIT} --model.width 9",
        2,
        "recipe.yaml:13: 'model' needs a class_path; there are LightCNN, TimmClassifier, "
        "TransferClassifier",
        "class_path: LightCNN\n  init_args",
        "init_args",
    ),
    Mistake(
        "a rate below zero in the file, and an option that has nothing to do with it",
        f"{FIT} --trainer.max_epochs 3",
        2,
        "recipe.yaml:18: optimizer: Invalid learning rate: -2.5",
        "lr: 1.0e-3",
        "lr: -2.5",
    ),
    Mistake(
        "a rate of true negatives above 1 on the command line",
        f"{FIT} --validator.handlers.min_tnr 1.5",
        2,
        "min_tnr must be in [0, 1], got 1.5",
    ),
    Mistake(
        "a loss that says nothing of negatives",
        f"{FIT} --loss SoftMarginLoss",
        2,
        "loss must be of one logit and one label an image, as BCEWithLogitsLoss, got "
        "SoftMarginLoss",
    ),
    Mistake(
        "a rate below zero on the command line",
        f"{FIT} --optimizer.lr -1",
        2,
        "optimizer: Invalid learning rate: -1.0",
    ),
    Mistake(
        "a loss for each image",
        FIT,
        2,
        "recipe.yaml:17: loss must be one number a batch, which is what reduction: mean gives, got "
        "reduction: none",
        "loss: BCEWithLogitsLoss",
        "loss: {class_path: BCEWithLogitsLoss, init_args: {reduction: none}}",
    ),
    Mistake(
        "an option of a plain verb misspelt",
        "report --runn runs/done",
        2,
        "no option '--runn'; did you mean '--run'?",
    ),
    Mistake(
        "an action that there is none of",
        "recipes lst",
        2,
        "no action 'lst'; did you mean 'list'?",
    ),
    Mistake(
        "a network's function for a class",
        FIT,
        2,
        "recipe.yaml:14: no class 'resnet50' for 'model'; there are LightCNN, TimmClassifier, "
        "TransferClassifier",
        "LightCNN\n  init_args:\n    width: 4\n",
        "resnet50\n",
    ),
    Mistake(
        "a layer for a loss",
        FIT,
        2,
        "recipe.yaml:17: 'loss' must be a subclass of torch.nn.modules.loss._Loss, got "
        "torch.nn.Linear",
        "BCEWithLogitsLoss",
        "torch.nn.Linear",
    ),
    Mistake(
        "a loss for several logits an image",
        FIT,
        2,
        "recipe.yaml:17: loss must be of one logit and one label an image, as BCEWithLogitsLoss, "
        "got CrossEntropyLoss",
        "loss: BCEWithLogitsLoss",
        "loss: CrossEntropyLoss",
    ),
    Mistake(
        "an own module that is elsewhere",
        f"{FIT} --model mine_elsewhere.Net",
        2,
        "'model': no module 'mine_elsewhere'; it is looked for in this folder and installed",
    ),
    Mistake(
        "an own model that is a plain module",
        f"{FIT} --model mine_plain.Net",
        2,
        "'model' must be a subclass of cxrignite.nn.classifiers.BinaryClassifier, got "
        "mine_plain.Net",
        prepare=write("mine_plain.py", "from torch import nn\nclass Net(nn.Module):\n    pass\n"),
    ),
    Mistake(
        "an own class misspelt",
        f"{FIT} --model mine_misspelt.Net",
        2,
        "'model': no 'Net' in module mine_misspelt; did you mean 'Nett'?",
        prepare=write("mine_misspelt.py", "class Nett: pass\n"),
    ),
    Mistake(
        "an own module that is no Python",
        f"{FIT} --model mine_broken.Net",
        2,
        "mine_broken.py:1: invalid syntax",
        prepare=write("mine_broken.py", "class Net(:\n"),
    ),
    Mistake(
        "a metric of another name",
        FIT,
        2,
        "recipe.yaml:31: monitor.metric must be one of loss, roc_auc, average_precision, "
        "threshold, tnr, tpr, balanced_accuracy, tnr_lower_bound, got auroc",
        "        min_threshold: 0.5\n",
        "        min_threshold: 0.5\nmonitor: {metric: auroc}\n",
    ),
]
OF_DATA = [
    Mistake(
        "no data",
        FIT,
        3,
        "data root must be an existing folder, got data/chest_xray, looked for in FOLDER",
        prepare=rename("data", "films"),
    ),
    Mistake(
        "a root that is one folder up",
        f"{FIT} --data.source.root data",
        3,
        "data root data must hold a folder 'train' or 'test', found 'chest_xray'; "
        "did you mean data/chest_xray?",
    ),
    Mistake(
        "a root that is one folder down",
        f"{FIT} --data.source.root data/chest_xray/train",
        3,
        "data root data/chest_xray/train must hold a folder 'train' or 'test', found 'NORMAL', "
        "'PNEUMONIA'; did you mean data/chest_xray?",
    ),
    Mistake(
        "a class misspelt",
        FIT,
        3,
        "data/chest_xray/train must hold a folder for class 'PNEUMONIE', found 'NORMAL', "
        "'PNEUMONIA'",
        "PNEUMONIA]",
        "PNEUMONIE]",
    ),
    Mistake(
        "classes in lower case",
        FIT,
        3,
        "data/chest_xray/train must hold a folder for class 'normal', found 'NORMAL', 'PNEUMONIA'",
        "[NORMAL, PNEUMONIA]",
        "[normal, pneumonia]",
    ),
    Mistake(
        "training films in a folder of another name",
        FIT,
        3,
        "data/chest_xray has no film to train on, found test",
        prepare=rename("data/chest_xray/train", "data/chest_xray/training"),
    ),
    Mistake(
        "a class without a film",
        FIT,
        3,
        f"{NORMAL} must hold at least one image (.dcm .dicom .jpeg .jpg .png), found none",
        prepare=empty_class,
    ),
    Mistake(
        "a download that broke off",
        FIT,
        3,
        f"cannot read image {NORMAL}/x.jpeg: Truncated File Read; {SKIP}",
        prepare=write(f"{NORMAL}/x.jpeg", b"\xff\xd8\xff\xe0broken"),
    ),
    Mistake(
        "a text named as an image",
        FIT,
        3,
        f"cannot read image {NORMAL}/x.jpeg: not a JPEG, PNG or DICOM image; {SKIP}",
        prepare=write(f"{NORMAL}/x.jpeg", b"<html>please log in</html>"),
    ),
    Mistake(
        "films of several sizes",
        FIT,
        3,
        "images must have one size, got 64 x 64 and 60 x 80 "
        f"({NORMAL}/other.png): set data.image_size",
        prepare=lambda: Image.new("L", (80, 60)).save(f"{NORMAL}/other.png"),
    ),
    Mistake(
        "a film in two splits",
        FIT,
        3,
        "leakage: 1 pair of films across splits (0 of one patient, 1 of identical files), listed "
        "in runs/mine/leakage.csv; mend the splits, or train all the same with "
        "data.allow_leakage: true",
        prepare=a_film_in_two_splits,
    ),
    Mistake(
        "a promise that takes more films",
        FIT,
        4,
        "ThresholdSearch asks for a TNR of 0.95 with 95 % confidence, which needs at least 59 "
        "negative patients; the val split has 6",
        "min_tnr: 0.9\n",
        "min_tnr: 0.95\n        confidence: 0.95\n",
    ),
]
OF_RUN = [
    Mistake(
        "a run that is there already",
        f"{FIT} --run_dir runs/done",
        2,
        "runs/done holds a run already; go on with --resume auto, or choose another run_dir",
    ),
    Mistake(
        "going on with another recipe",
        f"{FIT} --run_dir runs/done --resume auto --optimizer.lr 0.1",
        2,
        "runs/done belongs to another recipe; these keys changed: optimizer.init_args.lr",
    ),
    Mistake(
        "--resume true",
        f"{FIT} --run_dir runs/done --resume true",
        3,
        "--resume must be auto or a checkpoint's file, got true, which does not exist",
    ),
    Mistake(
        "the run's folder for its checkpoint",
        f"{FIT} --run_dir runs/done --resume runs/done",
        2,
        "--resume must be auto or a checkpoint's file, got 'runs/done', which is a folder",
    ),
    Mistake(
        "a checkpoint's variable that is empty",
        f"{FIT} --run_dir runs/done --resume=",
        2,
        "--resume must be auto or a checkpoint's file, got '', which is a folder",
    ),
    Mistake(
        "the data's folder for the run's",
        f"{FIT} --run_dir data/chest_xray",
        2,
        "data/chest_xray is not empty and no run folder; choose another run_dir",
    ),
    Mistake(
        "a file for the run's folder",
        f"{FIT} --run_dir recipe.yaml",
        2,
        "run_dir must be a folder, got the file recipe.yaml",
    ),
    Mistake(
        "a folder that nobody may write to",
        f"{FIT} --run_dir /proc/mine",
        2,
        "cannot write into /proc/mine: No such file or directory",
    ),
    Mistake(
        "test before fit",
        "test --run runs/mine",
        2,
        "runs/mine holds no run: there is no such folder; `cxrignite fit` makes it",
    ),
    Mistake(
        "the folder of all runs",
        "test --run runs",
        2,
        "runs holds no run: it has no history.csv, but these do: runs/done",
    ),
    Mistake(
        "a run that did not finish",
        "test --run runs/half",
        2,
        "the run in runs/half did not finish: it has no operating_point.json; go on with "
        "`cxrignite fit --config runs/half/recipe.yaml --resume auto`",
        prepare=unfinished,
    ),
    Mistake(
        "a run without --run",
        "test runs/done",
        2,
        "name the run folder that `fit` left: --run runs/done",
    ),
    Mistake(
        "another threshold for the test",
        f"{TEST} --validator.handlers.min_tnr 0.8",
        2,
        "test takes the run's own recipe; --validator.handlers.min_tnr is not one of --help, "
        "--run, --name, --operating_point, --subgroups, --data.source, --data.batch_size, "
        "--data.eval_batch_size, --data.num_workers, --data.prefetch_factor, --trainer.device, "
        "--trainer.precision",
    ),
    Mistake(
        "other films without a name",
        f"{TEST} --data.source.root data/chest_xray",
        2,
        "--data.source names other films: give their results a --name other than train, val, "
        "calibration, test, got 'test'",
    ),
    Mistake(
        "a site that was never calibrated",
        f"{TEST} --operating_point clinic",
        2,
        "runs/done has no operating point 'clinic', it has only its own",
    ),
    Mistake(
        "too few healthy films of a site",
        "recalibrate --run runs/done --name clinic --data.source.root site",
        4,
        "a TNR of 0.9 at 95 % confidence needs at least 29 negative patients, got 2: 27 more are "
        "missing",
        prepare=two_healthy_of_another_site,
    ),
    Mistake(
        "an empty folder of new films",
        "predict --run runs/done --files new",
        3,
        "new must hold an image, found none that is JPEG, PNG or DICOM",
        prepare=lambda: Path("new").mkdir(),
    ),
    Mistake(
        "runs that were not tested",
        "compare runs/done runs/other",
        2,
        "runs/done has no predictions/test.csv; score these films first: "
        "`cxrignite test --run runs/done`",
    ),
    Mistake(
        "a report of an empty folder",
        "report --run new",
        2,
        "new holds no run: it has no history.csv",
        prepare=lambda: Path("new").mkdir(),
    ),
    Mistake(
        "a layer that the model has not",
        "explain --run runs/done --explain.target_layer layer4",
        2,
        "explain.target_layer must be the name of a layer of the model, got 'layer4'; it has "
        "normalizer, backbone, head",
    ),
]
MISTAKES = [*OF_COMMAND_LINE, *OF_RECIPE, *OF_DATA, *OF_RUN]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Films in class folders, and a finished run on them."""
    root = tmp_path_factory.mktemp("original")
    films = root / "data/chest_xray"
    Phantom(films, num_train=64, num_test=24, size=64).films()
    for path in films.iterdir():
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


def check(mistake: Mistake, code: int, error: str, folder: Path) -> None:
    lines = error.splitlines()
    assert "Traceback" not in error
    verb = mistake.command.split()[0]
    name = "cxrignite" if mistake.says.startswith("no verb") else f"cxrignite {verb}"
    told = f"{name}: error: {mistake.says.replace('FOLDER', str(folder))}"
    # Beside what was told before the mistake showed, it is one line.
    assert lines[-1] == told
    assert sum(": error: " in line for line in lines) == 1
    assert code == mistake.code


def test_there_are_thirty_mistakes_and_more():
    assert len({mistake.says for mistake in MISTAKES}) == len(MISTAKES) >= 30


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.what)
def test_a_mistake_gets_one_line(mistake, folder, capsys):
    code = run(make(mistake))
    check(mistake, code, capsys.readouterr().err, folder)


@pytest.mark.parametrize(
    "mistake",
    [OF_COMMAND_LINE[0], OF_RECIPE[-3], OF_DATA[0], OF_RUN[6]],
    ids=lambda mistake: mistake.what,
)
def test_a_process_of_its_own_says_the_same(mistake, folder):
    done = subprocess.run(
        [sys.executable, "-m", "cxrignite", *make(mistake)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    check(mistake, done.returncode, done.stderr, folder)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_where_there_is_none_gets_one_line(folder, capsys):
    mistake = Mistake(
        "cuda without a device",
        f"{FIT} --trainer.device cuda",
        2,
        "trainer.device is cuda, and this machine has no CUDA device",
    )
    code = run(make(mistake))
    check(mistake, code, capsys.readouterr().err, folder)


@pytest.mark.parametrize("rate", ["1e-4", "'1e-4'", "1.0E-4"])
def test_a_rate_that_yaml_takes_for_text_is_a_number_here(rate, folder):
    from cxrignite.parsing import parse_recipe

    Path("recipe.yaml").write_text(RECIPE.replace("1.0e-3", rate))
    recipe, text, _ = parse_recipe("fit", "", ["--config", "recipe.yaml"])
    assert recipe.optimizer([torch.nn.Parameter(torch.zeros(1))]).defaults["lr"] == 1e-4
    assert "lr: 0.0001" in text


def test_every_message_of_the_guide_is_a_real_one():
    guide = (REPOSITORY / "docs/guides/errors.md").read_text(encoding="utf-8")
    row = r"^\| (?!what|---)(.+?) \| (``? ?)(.+?)( ?``?) \| (.+?) \|$"
    rows = [found[3] for found in re.finditer(row, guide, re.MULTILINE)]
    messages = {mistake.says for mistake in MISTAKES}
    assert len(rows) >= 12
    assert [told for told in rows if told not in messages] == []
