"""The commands that take a finished run's own recipe, and may change little of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cxrignite.cli.commands.names import COMMANDS
from cxrignite.cli.parsing import CHANGEABLE_KEYS, OPTIONS, option_values, parse_recipe, with_maps
from cxrignite.cli.user_paths import user_path
from cxrignite.errors import RecipeError

if TYPE_CHECKING:
    from cxrignite.recipe import Recipe


def score_command(argv: list[str], split: str) -> int:
    """`validate` and `test`: the images of a split, or other images under its name."""
    command = {"val": "validate", "test": "test"}[split]
    recipe, options = _recipe_of_run(command, argv)
    other_records = _names_other_images(argv, options["name"], split)
    try:
        subgroups = re.compile(options["subgroups"]) if options["subgroups"] else None
    except re.error as error:
        raise RecipeError(f"--subgroups must be a regular expression: {error}") from error
    if subgroups is not None and not subgroups.groupindex:
        raise RecipeError("--subgroups must have a named group, such as (?P<view>AP|PA)")
    site = options["operating_point"]
    from cxrignite.workflows.score import EvaluationOptions, score

    name = _results_name(options["name"], split, site)
    score(
        recipe, options["run"], EvaluationOptions(split, name, not other_records, site, subgroups)
    )
    return 0


def explain_command(argv: list[str]) -> int:
    """`explain`."""
    recipe, options = _recipe_of_run("explain", argv)
    from cxrignite.data.sources import SPLITS

    split, site, files = options["split"], options["operating_point"], options["files"]
    if split not in SPLITS:
        raise RecipeError(f"--split must be one of {', '.join(SPLITS)}, got '{split}'")
    if files is not None:
        if any(arg.startswith(("--split", "--data.source")) for arg in argv):
            raise RecipeError("--files goes without --split and --data.source")
        name = options["name"] or "files"
        _check_no_split(name, "images that are of no split need a")
        from cxrignite.workflows.explain.explain import explain_files

        explain_files(recipe, options["run"], files, _results_name(name, name, site), site)
        return 0
    other_records = _names_other_images(argv, options["name"], split)
    from cxrignite.workflows.explain.explain import explain
    from cxrignite.workflows.score import EvaluationOptions

    name = _results_name(options["name"], split, site)
    explain(recipe, options["run"], EvaluationOptions(split, name, not other_records, site))
    return 0


def predict_command(argv: list[str]) -> int:
    """`predict`."""
    recipe, options = _recipe_of_run("predict", with_maps(argv))
    if (options["files"] is None) == (options["manifest"] is None):
        raise RecipeError("name the images: --files PATH ... or --manifest FILE")
    columns = ("--path_column", "--patient_column")
    if options["manifest"] is None and any(arg.startswith(columns) for arg in argv):
        raise RecipeError(f"{' and '.join(columns)} go with --manifest")
    from cxrignite.workflows.predict.predict import Request, predict

    files, maps = options.pop("files") or (), options.pop("maps")
    predict(recipe, options.pop("run"), Request(files=files, draws_maps=maps, **options))
    return 0


def recalibrate_command(argv: list[str]) -> int:
    """`recalibrate`."""
    recipe, options = _recipe_of_run("recalibrate", argv)
    if not any(arg.startswith("--data.source") for arg in argv):
        raise RecipeError("name the site's images: --data.source.root DIR")
    if not options["name"]:
        raise RecipeError("name the site: --name NAME")
    _check_no_split(options["name"], "a site needs a")
    share = options["share"]
    if not (0 < share <= 0.5 or share == 1):
        raise RecipeError(f"--share must be in (0, 0.5], or 1 for all images, got {share}")
    from cxrignite.workflows.recalibrate import Recalibration, recalibrate

    limits = (options[key] for key in ("min_tnr", "min_threshold", "confidence"))
    recalibrate(recipe, options["run"], Recalibration(options["name"], share, *limits))
    return 0


def _names_other_images(argv: list[str], name: str | None, split: str) -> bool:
    """Whether `--data.source` names other images than the run's, which then have a name.

    Without a name its root, or path, is where the run's own images have been moved to.

    Raises:
        RecipeError: They have none of their own, or there is a name and no such images.
    """
    source = {arg.partition("=")[0][2:] for arg in argv if arg.startswith("--data.source")}
    other_records = bool(source)
    if source and name is None and source <= _places():
        return False
    if name is not None and not other_records:
        raise RecipeError("--name goes with --data.source, for the results of other images")
    if other_records:
        _check_no_split(name or split, "--data.source names other images: give their results a")
    return other_records


def _places() -> set[str]:
    """The options that say where images lie, in their long and their short form."""
    from cxrignite.runs.recipe_keys import PLACES

    return {*PLACES, *(key.replace(".init_args", "") for key in PLACES)}


def _results_name(name: str | None, split: str, site: str | None) -> str:
    """The results of a site's operating point stand beside those of the run's own.

    No name holds an `@`, so none can be taken for another.
    """
    return "@".join(filter(None, (name or split, site)))


def _recipe_of_run(command: str, argv: list[str]) -> tuple[Recipe, dict[str, Any]]:
    """The recipe of the run that `--run` names, and the command's own options.

    Raises:
        RecipeError: No run is named, or an option touches what the run has decided.
        RunFolderError: There is no finished run.
    """
    values = option_values("--run", argv)
    if not values and not {"-h", "--help"} & set(argv):
        named = argv[0] if argv and not argv[0].startswith("-") else "DIR"
        raise RecipeError(f"name the run folder that `fit` left: --run {named}")
    if values:
        _refuse_other_keys(argv, command)
        from cxrignite.runs.run_folder import RunFolder

        argv = [f"--config={RunFolder(user_path(values[-1])).finished_recipe()}", *argv]
    recipe, _, options = parse_recipe(command, COMMANDS[command], argv)
    for key in ("name", "operating_point"):
        if options.get(key) is not None:
            checked_name(options[key], f"--{key}")
    return recipe, options


def _check_no_split(name: str, why: str) -> None:
    """Keep the names of the run's own splits for the run's own splits.

    Raises:
        RecipeError: It is one of them.
    """
    from cxrignite.data.sources import SPLITS

    if name in SPLITS:
        raise RecipeError(f"{why} --name other than {', '.join(SPLITS)}, got '{name}'")


def checked_name(name: str, option: str = "--name") -> str:
    """A name that becomes part of file names.

    Raises:
        RecipeError: It could leave the folder.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise RecipeError(f"{option} must be letters, digits, '_', '-' and '.', got '{name}'")
    return name


def _refuse_other_keys(argv: list[str], command: str) -> None:
    """The run folder's recipe decides; only what does not touch weights or threshold may change.

    Raises:
        RecipeError: Naming the option and what may be given.
    """
    allowed = ("help", *(option.name for option in OPTIONS[command]), *CHANGEABLE_KEYS[command])
    for arg in argv:
        key = arg[2:].partition("=")[0]
        if arg.startswith("--") and not any(
            key == each or key.startswith(f"{each}.") for each in allowed
        ):
            options = ", ".join(f"--{each}" for each in allowed)
            raise RecipeError(
                f"{command} takes the run's own recipe; --{key} is not one of {options}"
            )
