"""From recipe files and options to a `Recipe`; the only file that knows jsonargparse."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cxrignite.cli.user_paths import expand_paths, user_path
from cxrignite.cli.written_paths import check_written_paths

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from cxrignite.cli.recipe_tree import Node
    from cxrignite.recipe import Recipe

EXIT_CODES = (
    "exit codes: 0 done, 1 failed while running, 2 bad recipe or arguments, 3 a data problem, "
    "4 a constraint that cannot be met"
)
_COMPUTING_KEYS = (
    *("data.batch_size", "data.eval_batch_size", "data.num_workers", "data.prefetch_factor"),
    "data.worker_timeout",
    *("trainer.device", "trainer.precision"),
)
_EVALUATION_KEYS = ("data.source", *_COMPUTING_KEYS)
# What commands that take a finished run may change of the recipe they find in its folder.
CHANGEABLE_KEYS = {
    "validate": _EVALUATION_KEYS,
    "test": _EVALUATION_KEYS,
    "recalibrate": _EVALUATION_KEYS,
    "explain": (*_EVALUATION_KEYS, "explain"),
    "predict": (*_COMPUTING_KEYS, "explain.method", "explain.target_layer"),
}
# What the recipe's groups are to them.
_TITLES_OF_RUN = {
    "What is learnt from": "What is scored, and how it is loaded",
    "How the model is trained": "How it is computed",
}
# The loss of a recipe that names none: a class, since no object can be written into a run folder.
_DEFAULT_LOSS = "torch.nn.BCEWithLogitsLoss"
# What `audit` shows of a recipe, and the parts that it needs none of.
_AUDITED_KEYS = ("config", "data", "loss", "validator", "seed", "run_dir")
_UNUSED_PARTS = {"model": "cxrignite.nn.LightCNN", "optimizer": "torch.optim.SGD"}


class Option(NamedTuple):
    """An option of a command, beside the keys of a recipe."""

    name: str
    type: Callable[[str], Any]
    help: str
    nargs: str | None = None
    default: Any = None


_RUN = Option("run", Path, "The run folder that `fit` left. (required)")
_NAME = Option("name", str, "Name of the results, where --data.source names other images.")
_EVALUATION = (
    _RUN,
    _NAME,
    Option("operating_point", str, "Decide by the operating point of this site."),
    Option("subgroups", str, "A regular expression on file names; its named groups count."),
)
OPTIONS = {
    "audit": (
        Option("output_dir", Path, "Gets the lists and the page; `audit` in run_dir by default."),
        Option(
            "fail_on",
            str,
            "Kinds of findings that end it with exit code 3; `problem` is all that are grave, "
            "`none` is none.",
            "+",
            ["problem"],
        ),
    ),
    "fit": (Option("resume", str, "Go on from the newest valid checkpoint: `auto`, or its path."),),
    "validate": _EVALUATION,
    "test": _EVALUATION,
    "explain": (
        _RUN,
        Option("split", str, "Of the run's images: train, val, calibration, test.", default="test"),
        Option("files", Path, "All of these images, or folders of images, instead.", "+"),
        Option("name", str, "Name of the results, where --data.source or --files names images."),
        Option("operating_point", str, "Decide by the operating point of this site."),
    ),
    "predict": (
        _RUN,
        Option("files", Path, "Images, folders, quoted patterns as 'images/**/*.png'.", "+"),
        Option("manifest", Path, "A CSV file that names the images, in place of --files."),
        Option("path_column", str, "Its column of the images' names.", default="path"),
        Option("patient_column", str, "Its column of patients; `patient` where there is one."),
        Option("output", Path, "The table of scores.", default=Path("predictions.csv")),
        Option("operating_point", str, "Decide by the operating point of this site."),
        Option("maps", bool, "As --explain true: draw a map of every image, too.", default=False),
        Option("overwrite", bool, "Begin again, whatever is there; false resumes.", default=False),
    ),
    "recalibrate": (
        _RUN,
        Option("name", str, "The site's name. (required)"),
        Option(
            "share", float, "Share of the images that choose: in (0, 0.5], or all.", default=1.0
        ),
        Option("min_tnr", float, "Lowest TNR; the run's own by default."),
        Option("min_threshold", float, "Lowest threshold; the run's own by default."),
        Option("confidence", float, "Of the certificate; the run's own by default, else 0.95."),
    ),
    "benchmark": (
        Option("num_steps", int, "Batches that each variant trains.", default=12),
        Option("repeats", int, "Times that everything is measured.", default=3),
        Option("with_compile", bool, "Measure trainer.compile too.", default=False),
    ),
}


def parse_recipe(command: str, what: str, argv: list[str]) -> tuple[Recipe, str, dict[str, Any]]:
    """Parse the arguments of a command that takes a recipe.

    Args:
        command: One of `OPTIONS`.
        what: What the command does, for its help.
        argv: The arguments after the command.

    Returns:
        The recipe, its resolved text (itself a recipe file), and the command's own options.

    Raises:
        RecipeError: Whatever is wrong with it, in one line.
        SystemExit: The help or the recipe was to be printed, and that is done.
    """
    from cxrignite.cli.validation import error_of_parser
    from cxrignite.recipe import Recipe

    names = [field.name for field in dataclasses.fields(Recipe)]
    tree, argv, own_root = _validated(command, argv)
    parser = _recipe_parser(command, what)
    try:
        config = parser.parse_args(argv)
        expand_paths(config)
        for name, value in own_root.items():
            config.data.source.init_args[name] = value
        check_written_paths(config.as_dict())  # before a handler makes its folder
        objects = parser.instantiate(config)
        recipe = Recipe(**{name: objects[name] for name in names})
    except Exception as error:  # a recipe may name a module of the user's, which may do anything
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
        replaced, and the root that a source takes instead of an inherited one.

    Raises:
        RecipeError: In one line.
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
    """The JSON schema of a recipe file, with the classes that may be named shortly."""
    from cxrignite.cli.recipe_schema import recipe_schema
    from cxrignite.recipe import Recipe

    return recipe_schema(Recipe, _bases())


def _recipe_parser(command: str, what: str) -> ArgumentParser:
    from jsonargparse import ArgumentParser, set_parsing_settings

    from cxrignite.cli.help_text import BriefFormatter, OfRunFormatter, hide_all_but
    from cxrignite.cli.validation import DENIED_MODULES
    from cxrignite.recipe import Recipe

    # Validation refuses these first; jsonargparse also meets class paths inside of settings, and
    # only warns of some of them by default.
    set_parsing_settings(import_path_denylist=list(DENIED_MODULES))
    takes_recipe = command not in CHANGEABLE_KEYS
    parser = ArgumentParser(
        prog=f"cxrignite {command}",
        # Left to itself it names all keys, which stand below with what they mean.
        usage=f"%(prog)s {'--config RECIPE' if takes_recipe else '--run RUN'} [--KEY VALUE ...]",
        description=f"{what}.",
        epilog=EXIT_CODES,
        allow_abbrev=False,
        exit_on_error=False,
        formatter_class=BriefFormatter if takes_recipe else OfRunFormatter,
        print_config=None,  # jsonargparse's own writes values of MONAI's that nobody can read
    )
    parser.add_argument(
        "--config", action="config", help="A recipe; a later --config or option wins over it."
    )
    if takes_recipe:
        text = "Print what comes of it all, a recipe with every default, and stop."
        parser.add_argument("--print_config", action="store_true", help=text)
    for option in OPTIONS[command]:
        name, *settings = option
        parser.add_argument(f"--{name}", **dict(zip(Option._fields[1:], settings, strict=True)))
    parser.add_class_arguments(Recipe, None, fail_untyped=True)
    parser.set_defaults(
        {key: {"class_path": path} for key, path in _default_parts(command).items()}
    )
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
    """Write MONAI's defaults as MONAI reads them, `area` for an enumeration and the like."""
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

    from cxrignite.data import Source
    from cxrignite.data.batch_augment import BatchAugment
    from cxrignite.data.transforms import Transform
    from cxrignite.handlers import Attachable
    from cxrignite.nn import BinaryClassifier

    return {
        "model": BinaryClassifier,
        "loss": nn.modules.loss._Loss,
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
    """The values of an option on a command line, as `--option VALUE` or `--option=VALUE`."""
    pairs = itertools.pairwise([*argv, ""])
    return [
        arg.partition("=")[2] if "=" in arg else following
        for arg, following in pairs
        if arg.partition("=")[0] == option
    ]


def with_maps(argv: list[str]) -> list[str]:
    """`--explain true` as `--maps true`: the recipe's group of that name would take a file."""
    text = []
    for arg, following in itertools.pairwise([*argv, "--"]):
        name, equals, value = arg.partition("=")
        text.append(f"--maps{equals}{value}" if name == "--explain" else arg)
        if arg == "--explain" and following.startswith("--"):
            text.append("true")
    return text
