"""Words on a command line: verbs, recipes and exit codes; the only file that knows jsonargparse.

Each verb imports what it needs when it is called, so that `--help`, `--version` and `recipes list`
answer before torch is imported.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrignite import __version__
from cxrignite.complaints import check_keys, explain, read_recipe_file
from cxrignite.errors import CxrIgniteError, RecipeError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from cxrignite.recipe import Recipe

_VERBS = {
    "fit": "train and validate, keep the best, choose the operating point, leave a run folder",
    "validate": "score a run on its validation split, with the stored threshold",
    "test": "score a run on its test split, with the stored threshold",
    "recipes": "list, show or copy the recipes that ship with the package",
}
_EXIT_CODES = "exit codes: 0 done, 1 failed while running, 2 bad recipe or arguments, 3 a data problem"
_MAX_NAMED = 6
# What `validate` and `test` may change of the recipe they find in the run folder.
_SCORING_KEYS = ("data.source", "data.batch_size", "data.num_workers", "trainer.device")


def run(argv: list[str]) -> int:
    """Run one command line.

    Args:
        argv: The arguments without the program's name.

    Returns:
        The exit code: 0 done, 1 it failed while running, 2 bad recipe or arguments, 3 a data problem,
        130 and 143 for signals.
    """
    verb = argv[0] if argv and argv[0] in _VERBS else None
    try:
        if verb is None:
            return _top_level(argv)
        commands: dict[str, Callable[[list[str]], int]] = {
            "fit": _fit,
            "validate": lambda args: _score(args, "val"),
            "test": lambda args: _score(args, "test"),
            "recipes": _recipes,
        }
        with _log_to_terminal():
            return commands[verb](argv[1:])
    except CxrIgniteError as error:
        sys.stderr.write(f"cxrignite {verb}: error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        number: int = getattr(interrupt, "signal_number", 2)
        sys.stderr.write(f"cxrignite {verb}: stopped by signal {number}\n")
        return 128 + number
    except BrokenPipeError:
        return 1
    except SystemExit as leaving:  # argparse's help and version leave this way
        return leaving.code if isinstance(leaving.code, int) else 0


@contextmanager
def _log_to_terminal() -> Iterator[None]:
    logger, handler = logging.getLogger("cxrignite"), logging.StreamHandler()
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    # Ignite logs every exception that passes through an engine; here each is told once.
    logging.getLogger("ignite").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _top_level(argv: list[str]) -> int:
    width = max(map(len, _VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {what}" for verb, what in _VERBS.items())
    parser = argparse.ArgumentParser(
        prog="cxrignite",
        description="Train medical image classifiers from a recipe, with an operating point to trust.",
        epilog=f"verbs:\n{verbs}\n\n'cxrignite VERB --help' tells more.\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cxrignite {__version__}")
    parser.add_argument("verb", choices=list(_VERBS), metavar="VERB")
    parser.parse_args(argv or ["--help"])
    return 0


def _fit(argv: list[str]) -> int:
    recipe, text, options = parse_recipe("fit", argv)
    from cxrignite.workflows.fit import fit

    fit(recipe, text, resume=options["resume"], command=["fit", *argv])
    return 0


def _score(argv: list[str], split: str) -> int:
    verb = {"val": "validate", "test": "test"}[split]
    run_dir = _value_of("--run", argv)
    if run_dir is None and not {"-h", "--help"} & set(argv):
        raise RecipeError("name the run folder that `fit` left: --run DIR")
    if run_dir is not None:
        _refuse_other_keys(argv, verb)
        from cxrignite.workflows.run_folder import RunFolder

        argv = [f"--config={RunFolder(Path(run_dir)).finished_recipe()}", *argv]
    recipe, _, options = parse_recipe(verb, argv)
    other_films = any(arg.startswith("--data.source") for arg in argv)
    if other_films and options["name"] is None:
        raise RecipeError(f"--data.source names other films: give these results a --name beside '{split}'")
    from cxrignite.workflows.score import score

    score(recipe, options["run"], split, name=options["name"] or split, same_films=not other_films)
    return 0


def _recipes(argv: list[str]) -> int:
    from cxrignite.workflows import shipped

    parser = argparse.ArgumentParser(prog="cxrignite recipes", allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|copy")
    actions.add_parser("list", help="name the recipes and say what each is for")
    show = actions.add_parser("show", help="print a recipe")
    show.add_argument("name")
    copy = actions.add_parser("copy", help="copy a recipe into this folder, to be changed there")
    copy.add_argument("name")
    options = parser.parse_args(argv)
    if options.action == "list":
        sys.stdout.write(shipped.describe_recipes())
    elif options.action == "show":
        sys.stdout.write(shipped.recipe_path(options.name).read_text(encoding="utf-8"))
    else:
        sys.stdout.write(f"{shipped.copy_recipe(options.name, Path.cwd())}\n")
    return 0


def parse_recipe(verb: str, argv: list[str]) -> tuple[Recipe, str, dict[str, Any]]:
    """Parse the arguments of a verb that takes a recipe.

    Args:
        verb: `fit`, `validate` or `test`.
        argv: The arguments after the verb.

    Returns:
        The recipe, its resolved text (itself a recipe file), and the verb's own options.

    Raises:
        RecipeError: Whatever is wrong with it, in one line.
    """
    import dataclasses

    from jsonargparse import ArgumentError

    from cxrignite.recipe import Recipe

    files = [read_recipe_file(Path(path)) for path in _values_of("--config", argv)]
    for file in files:
        check_keys(file, Recipe)
    parser = _recipe_parser(verb)
    names = [field.name for field in dataclasses.fields(Recipe)]
    try:
        config = parser.parse_args(argv)
        objects = parser.instantiate(config)
        recipe = Recipe(**{name: objects[name] for name in names})
    except (ArgumentError, ValueError, TypeError, AttributeError, ImportError) as error:
        raise explain(error, files, argv, _bases()) from error
    options = {name: value for name, value in vars(objects).items() if name not in names}
    for name in options:
        config.pop(name)
    return recipe, parser.dump(_plain(config), skip_unset=False), options


def _recipe_parser(verb: str) -> ArgumentParser:
    from jsonargparse import ArgumentParser, set_parsing_settings

    from cxrignite.recipe import Recipe

    # jsonargparse only warns of a class_path into these by default. A recipe names classes of
    # libraries and of the user, never of the standard library or of torch's code loaders.
    set_parsing_settings(
        import_path_denylist=[
            *sorted(name for name in sys.stdlib_module_names if name.isidentifier()),
            *("torch.hub", "torch.load", "torch.serialization", "torch.utils.cpp_extension"),
        ]
    )
    parser = ArgumentParser(
        prog=f"cxrignite {verb}",
        description=f"{_VERBS[verb]}.",
        epilog=_EXIT_CODES,
        allow_abbrev=False,
        exit_on_error=False,
        formatter_class=_brief_formatter(),
    )
    parser.add_argument(
        "--config", action="config", help="A recipe; a later --config or option wins over it."
    )
    if verb == "fit":
        parser.add_argument(
            "--resume",
            type=str,
            metavar="auto|PATH",
            help="Go on with the run in run_dir: from its newest valid checkpoint, or from this one.",
        )
    else:
        parser.add_argument("--run", type=Path, help="The run folder that `fit` left. (required)")
        parser.add_argument(
            "--name", type=str, help="Name of the results, where --data.source names other films."
        )
    parser.add_class_arguments(Recipe, None, fail_untyped=True)
    return parser


def _plain(value: Any) -> Any:
    """Write MONAI's defaults as what MONAI reads: `area` for its enumeration, `float32` for a dtype."""
    from enum import Enum

    import torch
    from jsonargparse import Namespace

    if isinstance(value, Namespace):
        return Namespace(**{name: _plain(child) for name, child in vars(value).items()})
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, type) and value.__module__ == "numpy":
        return value.__name__
    return value


def _brief_formatter() -> type[argparse.HelpFormatter]:
    """MONAI has hundreds of transforms; help names a few, and `--KEY.help CLASS` tells of each."""
    from jsonargparse import DefaultHelpFormatter

    class BriefFormatter(DefaultHelpFormatter):
        def _expand_help(self, action: argparse.Action) -> str:
            text: str = super()._expand_help(action)
            before, marker, classes = text.partition("known subclasses: ")
            names = classes.rstrip(")").split(", ")
            few = ", ".join(names[:_MAX_NAMED])
            return text if len(names) <= _MAX_NAMED else f"{before}{marker}{few}, ...)"

    return BriefFormatter


def _bases() -> dict[str, type]:
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from torch.utils.data import Sampler

    from cxrignite.data import Source
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
        "trainer.handlers": Attachable,
        "validator.handlers": Attachable,
    }


def _values_of(option: str, argv: list[str]) -> list[str]:
    pairs = zip(argv, [*argv[1:], ""], strict=True)
    return [
        arg.partition("=")[2] if "=" in arg else following
        for arg, following in pairs
        if arg.partition("=")[0] == option
    ]


def _value_of(option: str, argv: list[str]) -> str | None:
    values = _values_of(option, argv)
    return values[-1] if values else None


def _refuse_other_keys(argv: list[str], verb: str) -> None:
    """The run folder's recipe decides; only what does not touch weights or threshold may change.

    Raises:
        RecipeError: Naming the option and what may be given.
    """
    allowed = ("run", "name", "help", *_SCORING_KEYS)
    for arg in argv:
        key = arg[2:].partition("=")[0]
        if arg.startswith("--") and not any(key == each or key.startswith(f"{each}.") for each in allowed):
            options = ", ".join(f"--{each}" for each in allowed)
            raise RecipeError(f"{verb} takes the run's own recipe; --{key} is not one of {options}")
