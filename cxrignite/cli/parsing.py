"""Parsing of recipe files and options into a `Recipe`, with jsonargparse."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cxrignite.cli.user_paths import expand_paths, user_path
from cxrignite.cli.written_paths import check_written_paths
from cxrignite.write_guard import part_runs, parts_limited

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from cxrignite.cli.recipe_tree import Node
    from cxrignite.recipe import Recipe

COMMANDS = {
    "audit": "Check a data set for problems before training",
    "fit": "Train and validate a model, choose the threshold, and write a run folder",
    "cross_validate": "Train a run for each fold of the patients, and make an ensemble of them",
    "validate": "Evaluate a run on its validation split, with the stored threshold",
    "test": "Evaluate a run on its test split or on other images, with a stored threshold",
    "recalibrate": "Choose a threshold for one site, with labelled images of that site",
    "predict": "Score new images into a CSV table; an interrupted run can be resumed",
    "export": "Write a folder with a run's model and threshold, for use without the run",
    "explain": "Draw class activation maps, and check that they show what moves the score",
    "compare": "Compare runs with a first one, in pairs on the same images",
    "report": "Write a report about a run: one self-contained HTML page",
    "find_lr": "Suggest a learning rate for a recipe by a short training, which is discarded",
    "benchmark": "Measure training speed, compared with a plain PyTorch loop",
    "download": "Download and unpack a public data set, checked by size and SHA-256",
    "recipes": "List, show or copy the included recipes; print their JSON schema for editors",
}
"""Task of each command, in the order of the help."""

EXIT_CODES = (
    "exit codes: 0 success, 1 failure while running, 2 wrong recipe or arguments, 3 wrong data, "
    "4 a constraint cannot be met"
)
_COMPUTING_KEYS = (
    *("data.batch_size", "data.eval_batch_size", "data.num_workers", "data.prefetch_factor"),
    "data.worker_timeout",
    *("trainer.device", "trainer.precision"),
)
_EVALUATION_KEYS = ("data.source", *_COMPUTING_KEYS)
# Keys of a finished run's recipe that these commands may change.
CHANGEABLE_KEYS = {
    "validate": _EVALUATION_KEYS,
    "test": _EVALUATION_KEYS,
    "recalibrate": _EVALUATION_KEYS,
    "explain": (*_EVALUATION_KEYS, "explain"),
    "predict": (*_COMPUTING_KEYS, "explain.method", "explain.target_layer"),
    "export": ("trainer.device",),
}
# Titles of the recipe's groups in the help of these commands.
_TITLES_OF_RUN = {"Data and loading": "Images to score", "Training": "Computation"}
# Default loss: a class path, because a run folder cannot hold an object.
_DEFAULT_LOSS = "torch.nn.BCEWithLogitsLoss"
# Keys in the help of `audit`, and defaults for the parts that it does not need.
_AUDITED_KEYS = ("config", "data", "loss", "validator", "seed", "run_dir")
_UNUSED_PARTS = {"model": "cxrignite.nn.LightCNN", "optimizer": "torch.optim.SGD"}


class Option(NamedTuple):
    """Option of a command that is no key of a recipe."""

    name: str
    type: Any
    help: str
    nargs: str | None = None
    default: Any = None


_RUN = Option("run", Path, "Run folder made by `fit`. (required)")
_NAME = Option("name", str, "Name of the results, if --data.source names other images.")
_SITE = Option("operating_point", str, "Site whose threshold is used; default: the run's own.")
_EVALUATION = (
    _RUN,
    _NAME,
    _SITE,
    Option("subgroups", str, "Regular expression on file names; named groups define subgroups."),
    Option(
        "prevalences",
        float,
        "Shares of positives for which PPV and NPV are reported, each in (0, 1).",
        "+",
        [0.01, 0.05, 0.2],
    ),
)
OPTIONS = {
    "audit": (
        Option("output_dir", Path, "Folder for lists and page; default: `audit` in run_dir."),
        Option(
            "fail_on",
            str,
            "Kinds of findings that lead to exit code 3. `problem`: all that make results wrong; "
            "`none`: no kind.",
            "+",
            ["problem"],
        ),
    ),
    "fit": (Option("resume", str, "Resume from a checkpoint: a path, or `auto` for the newest."),),
    "cross_validate": (
        Option("folds", int, "Number of folds, at least 2.", default=5),
        Option("jobs", int, "Folds that are trained at the same time.", default=1),
        Option("resume", str, "`auto` resumes the folds that are not finished."),
    ),
    "validate": _EVALUATION,
    "test": _EVALUATION,
    "explain": (
        _RUN,
        Option("split", str, "Split of the run: train, val, calibration or test.", default="test"),
        Option("files", Path, "Images or folders to explain, in place of a split.", "+"),
        Option("name", str, "Name of the results, if --data.source or --files names images."),
        Option(
            "findings",
            list[str] | str,
            "Findings to explain, as 'Mass' or '[Effusion, Mass]'; default: all.",
        ),
        _SITE,
    ),
    "predict": (
        _RUN,
        Option("exported", Path, "Folder made by `export`, in place of --run; needs no torch."),
        Option("files", Path, "Images, folders, or quoted patterns, as 'images/**/*.png'.", "+"),
        Option("manifest", Path, "CSV file that lists the images, in place of --files."),
        Option("path_column", str, "Column with the paths of the images.", default="path"),
        Option("patient_column", str, "Column with the patients; default: `patient`, if present."),
        Option("output", Path, "CSV file for the scores.", default=Path("predictions.csv")),
        _SITE,
        Option("prevalence", float, "Prevalence of column `probability`; default: as in training."),
        Option("maps", bool, "Draw a map of every image; also --explain true.", default=False),
        Option("overwrite", bool, "Replace earlier output; false resumes it.", default=False),
    ),
    "export": (
        _RUN,
        Option("format", str, "Format: onnx, torch or bundle (MONAI).", default="onnx"),
        Option("output", Path, "Folder to write; new or empty. (required)"),
        Option("dtype", str, "Format of the stored weights: fp32 or fp16.", default="fp32"),
        Option("licence", Path, "File with the licence of the weights, for the folder."),
        Option("check", Path, "Further images to compare the results of model and run on.", "+"),
        _SITE,
    ),
    "recalibrate": (
        _RUN,
        Option("name", str, "Name of the site. (required)"),
        Option(
            "share",
            float,
            "Share of the images that choose the threshold: in (0, 0.5], or 1 for all.",
            default=1.0,
        ),
        Option("min_tnr", float, "Lowest TNR (specificity); default: the run's own."),
        Option("min_tpr", float, "Lowest TPR (sensitivity); default: the run's own."),
        Option("refer", bool, "Choose two thresholds if one is not enough; default: as the run."),
        Option("min_threshold", float, "Lowest threshold; default: the run's own."),
        Option("confidence", float, "Confidence of the certificate; default: the run's, or 0.95."),
        Option(
            "adapt_batch_norm",
            bool,
            "First estimate the batch statistics again on these images, without their labels; the "
            "threshold is then not certified.",
            default=False,
        ),
    ),
    "find_lr": (
        Option("output", Path, "Folder for the table and the figure; default: RUN_DIR_find_lr."),
        Option("num_steps", int, "Optimizer steps from the lowest to the highest.", default=100),
    ),
    "benchmark": (
        Option("num_steps", int, "Batches in a measurement of each variant.", default=12),
        Option("repeats", int, "Repetitions of each measurement.", default=3),
        Option("with_compile", bool, "Also measure trainer.compile.", default=False),
    ),
}


def parse_recipe(command: str, argv: list[str]) -> tuple[Recipe, str, dict[str, Any]]:
    """Parse the arguments of a command that takes a recipe.

    Returns:
        The recipe, its resolved text (itself a recipe file), and the command's own options.

    Raises:
        RecipeError: The recipe or an argument is wrong; the message is one line.
        SystemExit: The help or the recipe was requested and has been printed.
    """
    from cxrignite.cli.validation import error_of_parser
    from cxrignite.recipe import Recipe

    names = [field.name for field in dataclasses.fields(Recipe)]
    tree, argv, own_root = _validated(command, argv)
    parser = _recipe_parser(command)
    try:
        config = parser.parse_args(argv)
        expand_paths(config)
        for name, value in own_root.items():
            config.data.source.init_args[name] = value
        check_written_paths(config.as_dict())  # before a handler creates its folder
        with parts_limited(config.run_dir), part_runs():
            objects = parser.instantiate(config)
        recipe = Recipe(**{name: objects[name] for name in names})
    except Exception as error:  # a module of the user may raise anything
        raise error_of_parser(error, tree) from error
    options = {name: value for name, value in vars(objects).items() if name not in names}
    for name in options:
        config.pop(name)
    options.pop("config")
    text = parser.dump(_plain(config), skip_unset=False)
    if options.pop("print_config", False):
        sys.stdout.write(text)
        raise SystemExit(0)
    return recipe, text, options


def _validated(command: str, argv: list[str]) -> tuple[Node, list[str], dict[str, Any]]:
    """Validate a command line with its recipe files.

    Returns:
        The merged recipe with its places, the arguments with `~` and variables of each `--config`
        replaced, and the root that a source uses instead of an inherited one.

    Raises:
        RecipeError: The recipe or an argument is wrong.
    """
    from cxrignite.cli.recipe_tree import Node, lay_over, option_node, options_of, read_recipe_file
    from cxrignite.cli.validation import RecipeKeys, check_recipe, keys_below
    from cxrignite.recipe import Recipe

    bases = _bases()
    keys = RecipeKeys(bases)
    schema = keys.group(Recipe, "")
    listed = [option.name for option in OPTIONS[command] if option.nargs]
    for option in OPTIONS[command]:
        kind = list[option.type] if option.nargs else option.type  # type: ignore[name-defined]
        schema["properties"][option.name] = keys.value(kind, option.name)
    flags = ["help", *(["print_config"] if command not in CHANGEABLE_KEYS else [])]
    known = [*keys_below(schema), *flags, "config"]
    tree = Node({key: Node(path) for key, path in _default_parts(command).items()})
    files: list[str] = []
    expanded: list[str] = []
    for name, values in options_of(argv, flags, listed, known, bases):
        if name == "config":
            files.append(str(user_path(values[0])))
            tree = lay_over(tree, read_recipe_file(Path(files[-1])))
            values = files[-1:]
        elif name in listed:
            tree = lay_over(tree, Node({name: Node([Node(value) for value in values])}))
        elif name not in (*flags, "h") and not name.endswith(".help"):
            tree = lay_over(tree, option_node(name, values[0], bases))
        ending = f"={values[0]}" if len(values) == 1 else ""
        expanded += [f"{'-' if name == 'h' else '--'}{name}{ending}", *values[len(values) == 1 :]]
        if name in ("h", "help") or name.endswith(".help"):
            return tree, argv, {}
    return tree, expanded, check_recipe(tree, schema, keys, ", ".join(files))


def recipe_json_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe file, with all classes that have a short name."""
    from cxrignite.cli.recipe_schema import recipe_schema
    from cxrignite.recipe import Recipe

    return recipe_schema(Recipe, _bases())


def _recipe_parser(command: str) -> ArgumentParser:
    from jsonargparse import ArgumentParser, set_parsing_settings

    from cxrignite.cli.help_text import BriefFormatter, OfRunFormatter, hide_all_but, summarize
    from cxrignite.cli.validation import DENIED_MODULES
    from cxrignite.recipe import Recipe

    # Validation refuses these first. jsonargparse also sees class paths inside settings, and by
    # default only warns of some of them.
    set_parsing_settings(import_path_denylist=list(DENIED_MODULES))
    takes_recipe = command not in CHANGEABLE_KEYS
    parser = ArgumentParser(
        prog=f"cxrignite {command}",
        # By default the usage would repeat all keys of the list below.
        usage=f"%(prog)s {'--config RECIPE' if takes_recipe else '--run RUN'} [--KEY VALUE ...]",
        description=f"{COMMANDS[command]}.",
        epilog=EXIT_CODES,
        allow_abbrev=False,
        exit_on_error=False,
        formatter_class=BriefFormatter if takes_recipe else OfRunFormatter,
        print_config=None,  # jsonargparse's own writes unreadable defaults of MONAI
    )
    parser.add_argument(
        "--config", action="config", help="Recipe file; a later --config or option overrides it."
    )
    if takes_recipe:
        text = "Print the resulting recipe with all defaults, and exit."
        parser.add_argument("--print_config", action="store_true", help=text)
    for option in OPTIONS[command]:
        name, *settings = option
        parser.add_argument(f"--{name}", **dict(zip(Option._fields[1:], settings, strict=True)))
    parser.add_class_arguments(Recipe, None, fail_untyped=True)
    parser.set_defaults(
        {key: {"class_path": path} for key, path in _default_parts(command).items()}
    )
    summarize(parser)
    if command == "audit":
        own = [option.name for option in OPTIONS[command]]
        hide_all_but(parser, _AUDITED_KEYS, ["print_config", *own])
    if not takes_recipe:
        hide_all_but(parser, CHANGEABLE_KEYS[command], [option.name for option in OPTIONS[command]])
        for group in parser._action_groups:
            group.title = _TITLES_OF_RUN.get(group.title or "", group.title)
    return parser


def _default_parts(command: str) -> dict[str, str]:
    return {"loss": _DEFAULT_LOSS, **(_UNUSED_PARTS if command == "audit" else {})}


def _plain(value: Any) -> Any:
    """Return MONAI's defaults as MONAI reads them, such as `area` for an enumeration."""
    import torch
    from jsonargparse import Namespace

    if isinstance(value, Namespace):
        plain = {name: _plain(child) for name, child in vars(value).items()}
        return Namespace(plain)  # type: ignore[no-untyped-call]  # jsonargparse leaves it untyped
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, type) and value.__module__ == "numpy":
        return value.__name__
    return value


def _bases() -> dict[str, type]:
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from torch.utils.data import Sampler

    import cxrignite.data
    from cxrignite.data import Source
    from cxrignite.data.batch_augment import BatchAugment
    from cxrignite.data.transforms import Transform
    from cxrignite.handlers import Attachable
    from cxrignite.nn import BinaryClassifier, MapLoss

    # A short name is known only if its class is imported, and some are not yet.
    for name in cxrignite.data.__all__:
        getattr(cxrignite.data, name)
    return {
        "model": BinaryClassifier,
        "loss": nn.modules.loss._Loss,
        "map_loss": MapLoss,
        "optimizer": Optimizer,
        "lr_scheduler": LRScheduler,
        "data.source": Source,
        "data.sampler": Sampler,
        "data.preprocess": Transform,
        "data.augment": Transform,
        "data.batch_augment": BatchAugment,
        "trainer.handlers": Attachable,
        "validator.handlers": Attachable,
    }


def option_values(option: str, argv: list[str]) -> list[str]:
    """Return the values of an option, given as `--option VALUE` or `--option=VALUE`."""
    pairs = itertools.pairwise([*argv, ""])
    return [
        arg.partition("=")[2] if "=" in arg else following
        for arg, following in pairs
        if arg.partition("=")[0] == option
    ]


def with_maps(argv: list[str]) -> list[str]:
    """Replace `--explain true` by `--maps true`; the recipe group `explain` expects a file."""
    replaced = []
    for arg, following in itertools.pairwise([*argv, "--"]):
        name, equals, value = arg.partition("=")
        replaced.append(f"--maps{equals}{value}" if name == "--explain" else arg)
        if arg == "--explain" and following.startswith("--"):
            replaced.append("true")
    return replaced
