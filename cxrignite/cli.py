"""Words on a command line: verbs and exit codes.

Each verb imports what it needs when it is called, so that `--help`, `--version` and `recipes list`
answer before torch is imported.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrignite import __version__
from cxrignite.errors import CxrIgniteError, RecipeError
from cxrignite.parsing import EXIT_CODES, OPTIONS, SCORING_KEYS, option_values, parse_recipe

if TYPE_CHECKING:
    from cxrignite.recipe import Recipe

_VERBS = {
    "fit": "train and validate, keep the best, choose the operating point, leave a run folder",
    "validate": "score a run on its validation split, with the stored threshold",
    "test": "score a run on its test split or on other films, with a stored threshold",
    "recalibrate": "choose a threshold for one site from its own labelled films",
    "compare": "runs against each other, in pairs on the same films",
    "report": "a run folder as one self-contained HTML page",
    "benchmark": "what this machine makes of a recipe, beside the same loop written by hand",
    "recipes": "list, show or copy the recipes that ship with the package",
}


def run(argv: list[str]) -> int:
    """Run one command line.

    Args:
        argv: The arguments without the program's name.

    Returns:
        The exit code: 0 done, 1 it failed while running, 2 bad recipe or arguments, 3 a data
        problem, 4 a constraint that cannot be met, 130 and 143 for signals.
    """
    verb = argv[0] if argv and argv[0] in _VERBS else None
    try:
        if verb is None:
            return _top_level(argv)
        commands: dict[str, Callable[[list[str]], int]] = {
            "fit": _fit,
            "validate": lambda args: _score(args, "val"),
            "test": lambda args: _score(args, "test"),
            "recalibrate": _recalibrate,
            "compare": _compare,
            "report": _report,
            "benchmark": _benchmark,
            "recipes": _recipes,
        }
        with _log_to_terminal():
            return commands[verb](argv[1:])
    except CxrIgniteError as error:
        sys.stderr.write(f"cxrignite {verb}: error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        number: int = getattr(interrupt, "signal_number", 2)
        hint = "; go on with --resume auto" if verb == "fit" else ""
        sys.stderr.write(f"cxrignite {verb}: stopped by signal {number}{hint}\n")
        return 128 + number
    except BrokenPipeError:
        return 1
    except OSError as error:  # a full disk, say, where no better message was found
        name = f" {error.filename}" if error.filename else ""
        sys.stderr.write(f"cxrignite {verb}: error: {error.strerror or error}{name}\n")
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
        description="Train medical image classifiers from a recipe, with a threshold to trust.",
        epilog=f"verbs:\n{verbs}\n\n'cxrignite VERB --help' tells more.\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cxrignite {__version__}")
    parser.add_argument("verb", choices=list(_VERBS), metavar="VERB")
    parser.parse_args(argv or ["--help"])
    return 0


def _fit(argv: list[str]) -> int:
    if not argv:
        raise RecipeError("name a recipe: --config FILE; `cxrignite recipes list` names some")
    recipe, text, options = parse_recipe("fit", _VERBS["fit"], argv)
    from cxrignite.workflows.fit import fit

    fit(recipe, text, resume=options["resume"], command=["fit", *argv])
    return 0


def _score(argv: list[str], split: str) -> int:
    verb = {"val": "validate", "test": "test"}[split]
    recipe, options = _recipe_of_run(verb, argv)
    other_films = any(arg.startswith("--data.source") for arg in argv)
    name = options["name"]
    if name is not None and not other_films:
        raise RecipeError("--name goes with --data.source, for the results of other films")
    if other_films:
        _check_no_split(name or split, "--data.source names other films: give their results a")
    try:
        subgroups = re.compile(options["subgroups"]) if options["subgroups"] else None
    except re.error as error:
        raise RecipeError(f"--subgroups must be a regular expression: {error}") from error
    if subgroups is not None and not subgroups.groupindex:
        raise RecipeError("--subgroups must have a named group, such as (?P<view>AP|PA)")
    site = options["operating_point"]
    from cxrignite.workflows.score import Scoring, score

    scoring = Scoring(split, _results_name(name, split, site), not other_films, site, subgroups)
    score(recipe, options["run"], scoring)
    return 0


def _results_name(name: str | None, split: str, site: str | None) -> str:
    """The results of a site's operating point stand beside those of the run's own.

    No name holds an `@`, so none can be taken for another.
    """
    return "@".join(filter(None, (name or split, site)))


def _recalibrate(argv: list[str]) -> int:
    recipe, options = _recipe_of_run("recalibrate", argv)
    if not any(arg.startswith("--data.source") for arg in argv):
        raise RecipeError("name the site's films: --data.source.root DIR")
    if not options["name"]:
        raise RecipeError("name the site: --name NAME")
    _check_no_split(options["name"], "a site needs a")
    share = 1.0 if options["share"] is None else options["share"]
    if not (0 < share <= 0.5 or share == 1):
        raise RecipeError(f"--share must be in (0, 0.5], or 1 for all films, got {share}")
    from cxrignite.workflows.recalibrate import Recalibration, recalibrate

    limits = (options[key] for key in ("min_tnr", "min_threshold", "confidence"))
    recalibrate(recipe, options["run"], Recalibration(options["name"], share, *limits))
    return 0


def _compare(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="cxrignite compare", description=f"{_VERBS['compare']}.", allow_abbrev=False
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="the first is compared to"
    )
    parser.add_argument("--name", default="test", help="of the results, as test or test@SITE")
    parser.add_argument("--output", type=Path, help="write the table as CSV, too")
    options = parser.parse_args(argv)
    from cxrignite.workflows.compare import compare_runs

    for part in options.name.split("@"):
        _checked_name(part)
    comparison = compare_runs(options.runs, options.name)
    sys.stdout.write(f"{comparison.table()}\n")
    if options.output:
        comparison.write_csv(options.output)
    return 0


def _report(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="cxrignite report", description=f"{_VERBS['report']}.", allow_abbrev=False
    )
    parser.add_argument("--run", type=Path, required=True, help="the run folder that `fit` left")
    parser.add_argument("--output", type=Path, help="the page; report.html in the run folder")
    parser.add_argument("--source_root", type=Path, help="the films' folder, if it has moved")
    options = parser.parse_args(argv)
    from cxrignite.workflows.report import write_report

    page = write_report(options.run, options.output, source_root=options.source_root)
    sys.stdout.write(f"{page}\n")
    return 0


def _benchmark(argv: list[str]) -> int:
    if not argv:
        raise RecipeError("name a recipe: --config FILE; `cxrignite recipes list` names some")
    recipe, _, options = parse_recipe("benchmark", _VERBS["benchmark"], argv)
    from cxrignite.workflows.benchmark import benchmark

    chosen = {name: value for name, value in options.items() if value is not None}
    num_steps, repeats = chosen.get("num_steps", 12), chosen.get("repeats", 3)
    benchmark(
        recipe,
        num_steps=num_steps,
        repeats=repeats,
        with_compile=chosen.get("with_compile", False),
    )
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


def _recipe_of_run(verb: str, argv: list[str]) -> tuple[Recipe, dict[str, Any]]:
    """The recipe of the run that `--run` names, and the verb's own options.

    Raises:
        RecipeError: No run is named, or an option touches what the run has decided.
        RunFolderError: There is no finished run.
    """
    values = option_values("--run", argv)
    if not values and not {"-h", "--help"} & set(argv):
        raise RecipeError("name the run folder that `fit` left: --run DIR")
    if values:
        _refuse_other_keys(argv, verb)
        from cxrignite.workflows.run_folder import RunFolder

        argv = [f"--config={RunFolder(Path(values[-1])).finished_recipe()}", *argv]
    recipe, _, options = parse_recipe(verb, _VERBS[verb], argv)
    for key in ("name", "operating_point"):
        if options.get(key) is not None:
            _checked_name(options[key], f"--{key}")
    return recipe, options


def _check_no_split(name: str, why: str) -> None:
    """Keep the names of the run's own splits for the run's own splits.

    Raises:
        RecipeError: It is one of them.
    """
    from cxrignite.data.sources import SPLITS

    if name in SPLITS:
        raise RecipeError(f"{why} --name other than {', '.join(SPLITS)}, got '{name}'")


def _checked_name(name: str, option: str = "--name") -> str:
    """A name that becomes part of file names.

    Raises:
        RecipeError: It could leave the folder.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise RecipeError(f"{option} must be letters, digits, '_', '-' and '.', got '{name}'")
    return name


def _refuse_other_keys(argv: list[str], verb: str) -> None:
    """The run folder's recipe decides; only what does not touch weights or threshold may change.

    Raises:
        RecipeError: Naming the option and what may be given.
    """
    allowed = ("help", *(option.name for option in OPTIONS[verb]), *SCORING_KEYS)
    for arg in argv:
        key = arg[2:].partition("=")[0]
        if arg.startswith("--") and not any(
            key == each or key.startswith(f"{each}.") for each in allowed
        ):
            options = ", ".join(f"--{each}" for each in allowed)
            raise RecipeError(f"{verb} takes the run's own recipe; --{key} is not one of {options}")
