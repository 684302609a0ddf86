"""From recipe files and options to a `Recipe`; the only file that knows jsonargparse."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cxrignite.cli.complaints import check_keys, check_source_root, read_recipe_file
from cxrignite.cli.parser_errors import explain
from cxrignite.cli.user_paths import expand_paths, with_config_paths
from cxrignite.cli.written_paths import check_written_paths
from cxrignite.errors import RecipeError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

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
_SCORING_KEYS = ("data.source", *_COMPUTING_KEYS)
# What verbs that take a finished run may change of the recipe they find in its folder.
CHANGEABLE_KEYS = {
    "validate": _SCORING_KEYS,
    "test": _SCORING_KEYS,
    "recalibrate": _SCORING_KEYS,
    "explain": (*_SCORING_KEYS, "explain"),
    "predict": (*_COMPUTING_KEYS, "explain.method", "explain.target_layer"),
}
# What the recipe's groups are to them.
_TITLES_OF_RUN = {
    "What is learnt from": "What is scored, and how it is loaded",
    "How the model is trained": "How it is computed",
}
# What `audit` shows of a recipe, and the parts that it needs none of.
_AUDITED_KEYS = ("config", "data", "loss", "validator", "seed", "run_dir")
_UNUSED_PARTS = {
    "model": {"class_path": "cxrignite.nn.LightCNN"},
    "optimizer": {"class_path": "torch.optim.SGD"},
}


class Option(NamedTuple):
    """An option of a verb, beside the keys of a recipe."""

    name: str
    type: Callable[[str], Any]
    help: str
    nargs: str | None = None


_RUN = Option("run", Path, "The run folder that `fit` left. (required)")
_NAME = Option("name", str, "Name of the results, where --data.source names other films.")
_SCORING = (
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
            "Kinds of findings that end it with exit code 3; `problem` (default) is all that are "
            "grave, `none` is none.",
            "+",
        ),
    ),
    "fit": (Option("resume", str, "Go on from the newest valid checkpoint: `auto`, or its path."),),
    "validate": _SCORING,
    "test": _SCORING,
    "explain": (
        _RUN,
        Option("split", str, "Of the run's films: train, val, calibration or test (default)."),
        Option("files", Path, "All of these images, or folders of images, instead.", "+"),
        Option("name", str, "Name of the results, where --data.source or --files names images."),
        Option("operating_point", str, "Decide by the operating point of this site."),
    ),
    "predict": (
        _RUN,
        Option("files", Path, "Images, folders, quoted patterns as 'films/**/*.png'.", "+"),
        Option("manifest", Path, "A CSV file that names the images, in place of --files."),
        Option("path_column", str, "Its column of the images' names; `path` by default."),
        Option("patient_column", str, "Its column of patients; `patient` where there is one."),
        Option("output", Path, "The table of scores; predictions.csv by default."),
        Option("operating_point", str, "Decide by the operating point of this site."),
        Option("maps", bool, "As --explain true: draw a map of every image, too."),
        Option("overwrite", bool, "Begin anew, whatever is there; false goes on (default)."),
    ),
    "recalibrate": (
        _RUN,
        Option("name", str, "The site's name. (required)"),
        Option("share", float, "Share of the films that choose, in (0, 0.5]; all by default."),
        Option("min_tnr", float, "Lowest TNR; the run's own by default."),
        Option("min_threshold", float, "Lowest threshold; the run's own by default."),
        Option("confidence", float, "Of the certificate; the run's own by default, else 0.95."),
    ),
    "benchmark": (
        Option("num_steps", int, "Batches that each variant trains; 12 by default."),
        Option("repeats", int, "Times that everything is measured; 3 by default."),
        Option("with_compile", bool, "Measure trainer.compile too; false by default."),
    ),
}


def parse_recipe(verb: str, what: str, argv: list[str]) -> tuple[Recipe, str, dict[str, Any]]:
    """Parse the arguments of a verb that takes a recipe.

    Args:
        verb: One of `OPTIONS`.
        what: What the verb does, for its help.
        argv: The arguments after the verb.

    Returns:
        The recipe, its resolved text (itself a recipe file), and the verb's own options.

    Raises:
        RecipeError: Whatever is wrong with it, in one line.
        SystemExit: It was asked for its help, or to be printed, and that is done.
    """
    _check_spelling(argv)
    from cxrignite.recipe import Recipe

    argv = with_config_paths(argv)
    files = [read_recipe_file(Path(path)) for path in option_values("--config", argv)]
    for file in files:
        check_keys(file, Recipe, _bases())
    parser = _recipe_parser(verb, what)
    names = [field.name for field in dataclasses.fields(Recipe)]
    try:
        config = parser.parse_args(argv)
        expand_paths(config)
        check_source_root(config.data.source, files, argv)
        check_written_paths(config.as_dict())  # before a handler makes its folder
        objects = parser.instantiate(config)
        recipe = Recipe(**{name: objects[name] for name in names})
    except Exception as error:  # a recipe may name a module of the user's, which may do anything
        spelt = [name for action in parser._actions for name in action.option_strings]
        known = [name.lstrip("-") for name in spelt]
        raise explain(error, files, argv, _bases(), known) from error
    options = {name: value for name, value in vars(objects).items() if name not in names}
    for name in options:
        config.pop(name)
    text = parser.dump(_plain(config), skip_unset=False)
    if options.pop("print_config", False):
        sys.stdout.write(text)
        raise SystemExit(0)
    return recipe, text, options


def recipe_json_schema() -> dict[str, Any]:
    """The JSON schema of a recipe file, with the classes that may be named shortly."""
    from cxrignite.cli.recipe_schema import recipe_schema
    from cxrignite.recipe import Recipe

    return recipe_schema(Recipe, _bases())


def _recipe_parser(verb: str, what: str) -> ArgumentParser:
    from jsonargparse import ArgumentParser, set_parsing_settings

    from cxrignite.cli.help_text import BriefFormatter, OfRunFormatter, hide_all_but
    from cxrignite.recipe import Recipe

    # jsonargparse only warns of a class_path into these by default. A recipe names classes of
    # libraries and of the user, never of the standard library or of torch's code loaders.
    set_parsing_settings(
        import_path_denylist=[
            *sorted(name for name in sys.stdlib_module_names if name.isidentifier()),
            *("torch.hub", "torch.load", "torch.serialization", "torch.utils.cpp_extension"),
        ]
    )
    takes_recipe = verb not in CHANGEABLE_KEYS
    parser = ArgumentParser(
        prog=f"cxrignite {verb}",
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
        told = "Print what comes of it all, a recipe with every default, and stop."
        parser.add_argument("--print_config", action="store_true", help=told)
    for option in OPTIONS[verb]:
        parser.add_argument(
            f"--{option.name}", type=option.type, help=option.help, nargs=option.nargs
        )
    parser.add_class_arguments(Recipe, None, fail_untyped=True)
    # An object as a default cannot be written into the run folder; its class can.
    parser.set_defaults({"loss": {"class_path": "torch.nn.BCEWithLogitsLoss"}})
    if verb == "audit":
        parser.set_defaults(_UNUSED_PARTS)
        own = [option.name for option in OPTIONS[verb]]
        hide_all_but(parser, _AUDITED_KEYS, ["print_config", *own])
    if not takes_recipe:
        hide_all_but(parser, CHANGEABLE_KEYS[verb], [option.name for option in OPTIONS[verb]])
        for group in parser._action_groups:
            group.title = _TITLES_OF_RUN.get(group.title or "", group.title)
    return parser


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


def _check_spelling(argv: list[str]) -> None:
    """Refuse what would be taken for something else.

    Raises:
        RecipeError: An equals sign stands alone, or `--config` names no file.
    """
    for before, arg, after in zip(["", *argv], argv, [*argv[1:], ""], strict=False):
        if arg == "=":
            raise RecipeError(f"no space may stand around '=': write {before}={after}")
        if arg == "--config" and (not after or after.startswith("--")):
            raise RecipeError("--config needs a value: the file of a recipe")


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
    told = []
    for arg, following in itertools.pairwise([*argv, "--"]):
        name, equals, value = arg.partition("=")
        told.append(f"--maps{equals}{value}" if name == "--explain" else arg)
        if arg == "--explain" and following.startswith("--"):
            told.append("true")
    return told
