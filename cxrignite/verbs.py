"""What each verb takes from its command line, and the workflow that it calls.

Each verb imports what it needs when it is called, so that `--help`, `--version` and `recipes list`
answer before torch is imported.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxrignite.errors import RecipeError
from cxrignite.parsing import CHANGEABLE_KEYS, OPTIONS, option_values, parse_recipe, with_maps

if TYPE_CHECKING:
    from cxrignite.recipe import Recipe

VERBS = {
    "audit": "what is wrong with a data set, before training on it",
    "fit": "train and validate, keep the best, choose the operating point, leave a run folder",
    "validate": "score a run on its validation split, with the stored threshold",
    "test": "score a run on its test split or on other films, with a stored threshold",
    "recalibrate": "choose a threshold for one site from its own labelled films",
    "predict": "new films to a table of scores and decisions, which a stop does not undo",
    "explain": "draw where the model looked, and measure whether the maps mean anything",
    "compare": "runs against each other, in pairs on the same films",
    "report": "a run folder as one self-contained HTML page",
    "benchmark": "what this machine makes of a recipe, beside the same loop written by hand",
    "download": "a public data set by name, checked by size and sha256, unpacked",
    "recipes": "list, show or copy the recipes that ship with the package",
}
"""What each verb does, in the order in which help names them."""


def _audit(argv: list[str]) -> int:
    if not argv:
        raise RecipeError("name a recipe, --config FILE, or a source, --data.source CLASS")
    recipe, _, options = parse_recipe("audit", VERBS["audit"], argv)
    from cxrignite.workflows.audit import PROBLEMS, audit

    chosen = options["fail_on"]
    fail_on = [PROBLEMS] if chosen is None else [kind for kind in chosen if kind != "none"]
    audit(recipe, options["output_dir"] or recipe.run_dir / "audit", fail_on)
    return 0


def _fit(argv: list[str]) -> int:
    if not argv:
        raise RecipeError("name a recipe: --config FILE; `cxrignite recipes list` names some")
    recipe, text, options = parse_recipe("fit", VERBS["fit"], argv)
    from cxrignite.workflows.fit import fit

    fit(recipe, text, resume=options["resume"], command=["fit", *argv])
    return 0


def _score(argv: list[str], split: str) -> int:
    verb = {"val": "validate", "test": "test"}[split]
    recipe, options = _recipe_of_run(verb, argv)
    other_films = _names_other_films(argv, options["name"], split)
    try:
        subgroups = re.compile(options["subgroups"]) if options["subgroups"] else None
    except re.error as error:
        raise RecipeError(f"--subgroups must be a regular expression: {error}") from error
    if subgroups is not None and not subgroups.groupindex:
        raise RecipeError("--subgroups must have a named group, such as (?P<view>AP|PA)")
    site = options["operating_point"]
    from cxrignite.workflows.score import Scoring, score

    name = _results_name(options["name"], split, site)
    score(recipe, options["run"], Scoring(split, name, not other_films, site, subgroups))
    return 0


def _explain(argv: list[str]) -> int:
    recipe, options = _recipe_of_run("explain", argv)
    from cxrignite.data.sources import SPLITS

    split, site, files = options["split"], options["operating_point"], options["files"]
    if split is not None and split not in SPLITS:
        raise RecipeError(f"--split must be one of {', '.join(SPLITS)}, got '{split}'")
    if files is not None:
        if split is not None or any(arg.startswith("--data.source") for arg in argv):
            raise RecipeError("--files goes without --split and --data.source")
        name = options["name"] or "files"
        _check_no_split(name, "images that are of no split need a")
        from cxrignite.workflows.explain import explain_files

        explain_files(recipe, options["run"], files, _results_name(name, name, site), site)
        return 0
    split = split or "test"
    other_films = _names_other_films(argv, options["name"], split)
    from cxrignite.workflows.explain import explain
    from cxrignite.workflows.score import Scoring

    name = _results_name(options["name"], split, site)
    explain(recipe, options["run"], Scoring(split, name, not other_films, site))
    return 0


def _predict(argv: list[str]) -> int:
    recipe, options = _recipe_of_run("predict", with_maps(argv))
    from cxrignite.workflows.predict import Request, predict

    predict(recipe, options["run"], Request.of(options))
    return 0


def _names_other_films(argv: list[str], name: str | None, split: str) -> bool:
    """Whether `--data.source` names other films than the run's, which then have a name.

    Raises:
        RecipeError: They have none of their own, or there is a name and no such films.
    """
    other_films = any(arg.startswith("--data.source") for arg in argv)
    if name is not None and not other_films:
        raise RecipeError("--name goes with --data.source, for the results of other films")
    if other_films:
        _check_no_split(name or split, "--data.source names other films: give their results a")
    return other_films


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
        prog="cxrignite compare", description=f"{VERBS['compare']}.", allow_abbrev=False
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
        prog="cxrignite report", description=f"{VERBS['report']}.", allow_abbrev=False
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
    recipe, _, options = parse_recipe("benchmark", VERBS["benchmark"], argv)
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


def _download(argv: list[str]) -> int:
    from cxrignite.workflows import download

    parser = argparse.ArgumentParser(
        prog="cxrignite download", description=f"{VERBS['download']}.", allow_abbrev=False
    )
    names = list(download.PUBLIC_DATA)
    parser.add_argument("name", choices=names, metavar="NAME", help=f"one of {', '.join(names)}")
    parser.add_argument("--into", type=Path, default=Path("data"), help="folder; data by default")
    parser.add_argument("--archive", type=Path, help="take this file, checked the same way")
    parser.add_argument(
        "--keep_archive",
        choices=["true", "false"],
        default="false",
        help="keep the archive beside the films; false by default",
    )
    options = parser.parse_args(argv)
    download.download(
        download.PUBLIC_DATA[options.name],
        options.into,
        archive=options.archive,
        keep_archive=options.keep_archive == "true",
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
    recipe, _, options = parse_recipe(verb, VERBS[verb], argv)
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
    allowed = ("help", *(option.name for option in OPTIONS[verb]), *CHANGEABLE_KEYS[verb])
    for arg in argv:
        key = arg[2:].partition("=")[0]
        if arg.startswith("--") and not any(
            key == each or key.startswith(f"{each}.") for each in allowed
        ):
            options = ", ".join(f"--{each}" for each in allowed)
            raise RecipeError(f"{verb} takes the run's own recipe; --{key} is not one of {options}")


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "audit": _audit,
    "fit": _fit,
    "validate": lambda argv: _score(argv, "val"),
    "test": lambda argv: _score(argv, "test"),
    "recalibrate": _recalibrate,
    "predict": _predict,
    "explain": _explain,
    "compare": _compare,
    "report": _report,
    "benchmark": _benchmark,
    "download": _download,
    "recipes": _recipes,
}
"""From a verb to what runs it: the arguments after the verb in, an exit code out."""
