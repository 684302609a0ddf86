"""Commands that use the recipe of a finished run, of which they may change few keys."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cxrignite.cli.parsing import CHANGEABLE_KEYS, OPTIONS, option_values, parse_recipe, with_maps
from cxrignite.cli.user_paths import user_path
from cxrignite.errors import RecipeError, suggestion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cxrignite.recipe import Recipe

_EXPORT_FORMATS = ("onnx", "torch", "bundle")


def score_command(argv: list[str], split: str) -> int:
    """Run `validate` or `test`, on a split or on other images."""
    command = {"val": "validate", "test": "test"}[split]
    recipe, options = _recipe_of_run(command, argv)
    other_records = _names_other_images(argv, options["name"], split)
    try:
        subgroups = re.compile(options["subgroups"]) if options["subgroups"] else None
    except re.error as error:
        raise RecipeError(f"--subgroups must be a regular expression: {error}") from error
    if subgroups is not None and not subgroups.groupindex:
        raise RecipeError("--subgroups must have a named group, such as (?P<view>AP|PA)")
    site, prevalences = options["operating_point"], sorted(set(options["prevalences"]))
    _check_prevalences(prevalences, "--prevalences")
    from cxrignite.workflows.score import EvaluationOptions, score

    name = _results_name(options["name"], split, site)
    images = (split, name, not other_records, site)
    score(recipe, options["run"], EvaluationOptions(*images, subgroups, prevalences))
    return 0


def explain_command(argv: list[str]) -> int:
    """Run `explain`."""
    recipe, options = _recipe_of_run("explain", argv)
    from cxrignite.data.sources import SPLITS

    split, site, files = options["split"], options["operating_point"], options["files"]
    findings = _positions(options["findings"], recipe.data.source.findings)
    if split not in SPLITS:
        raise RecipeError(f"--split must be one of {', '.join(SPLITS)}, got '{split}'")
    if files is not None:
        if any(arg.startswith(("--split", "--data.source")) for arg in argv):
            raise RecipeError("--files cannot be combined with --split or --data.source")
        name = options["name"] or "files"
        _check_no_split(name, "images of no split need a")
        from cxrignite.workflows.explain.explain import explain_files

        name = _results_name(name, name, site)
        explain_files(recipe, options["run"], files, name, site, findings)
        return 0
    other_records = _names_other_images(argv, options["name"], split)
    from cxrignite.workflows.explain.explain import explain
    from cxrignite.workflows.score import EvaluationOptions

    name = _results_name(options["name"], split, site)
    images = EvaluationOptions(split, name, not other_records, site)
    explain(recipe, options["run"], images, findings)
    return 0


def _positions(names: str | list[str] | None, findings: Sequence[str]) -> list[int]:
    """Return the positions of the findings that `--findings` names; of all without names.

    Raises:
        RecipeError: The run has no such finding, or none is named.
    """
    names = [names] if isinstance(names, str) else names
    for name in names or ():
        if name not in findings:
            near = suggestion(name, findings)
            raise RecipeError(f"--findings must name findings of the run, got '{name}'{near}")
    if names == []:
        raise RecipeError("--findings must name at least one finding, got []")
    return [index for index, name in enumerate(findings) if names is None or name in names]


def predict_command(argv: list[str]) -> int:
    """Run `predict`, with a run or with an exported model."""
    if option_values("--exported", argv):
        from cxrignite.cli.commands.without_recipe import predict_exported_command

        return predict_exported_command(argv)
    recipe, options = _recipe_of_run("predict", with_maps(argv))
    check_images(argv, options)
    del options["exported"]
    from cxrignite.workflows.predict.predict import predict
    from cxrignite.workflows.predict.request import Request

    files, maps = options.pop("files") or (), options.pop("maps")
    predict(recipe, options.pop("run"), Request(files=files, draws_maps=maps, **options))
    return 0


def check_images(argv: list[str], options: dict[str, Any]) -> None:
    """Check the options of `predict` that name images, and the prevalence.

    Args:
        argv: The arguments.
        options: The parsed options.

    Raises:
        RecipeError: There is not exactly one of `files` and `manifest`, a column is named without
            the latter, or the prevalence is out of range.
    """
    if (options["files"] is None) == (options["manifest"] is None):
        raise RecipeError("name the images with either --files PATH ... or --manifest FILE")
    columns = ("--path_column", "--patient_column")
    if options["manifest"] is None and any(arg.startswith(columns) for arg in argv):
        raise RecipeError(f"{' and '.join(columns)} need --manifest")
    if options["prevalence"] is not None:
        _check_prevalences([options["prevalence"]], "--prevalence")


def export_command(argv: list[str]) -> int:
    """Run `export`."""
    recipe, options = _recipe_of_run("export", argv)
    for name, values in (("format", _EXPORT_FORMATS), ("dtype", ("fp32", "fp16"))):
        if options[name] not in values:
            near = suggestion(options[name], values)
            raise RecipeError(
                f"--{name} must be one of {', '.join(values)}, got '{options[name]}'{near}"
            )
    if options["output"] is None:
        raise RecipeError("name the folder to write: --output DIR")
    from cxrignite.workflows.export.export import ExportRequest, export

    request = ExportRequest(
        options["output"],
        options["format"],
        options["dtype"],
        options["check"] or (),
        options["operating_point"],
        options["licence"],
    )
    export(recipe, options["run"], request)
    return 0


def recalibrate_command(argv: list[str]) -> int:
    """Run `recalibrate`."""
    recipe, options = _recipe_of_run("recalibrate", argv)
    if not any(arg.startswith("--data.source") for arg in argv):
        raise RecipeError("name the images of the site: --data.source.root DIR")
    if not options["name"]:
        raise RecipeError("name the site: --name NAME")
    _check_no_split(options["name"], "a site needs a")
    options["site"], share = options.pop("name"), options["share"]
    if not (0 < share <= 0.5 or share == 1):
        raise RecipeError(f"--share must be in (0, 0.5], or 1 for all images, got {share}")
    from cxrignite.workflows.recalibrate import Recalibration, recalibrate

    recalibrate(recipe, options.pop("run"), Recalibration(**options))
    return 0


def _check_prevalences(prevalences: list[float], option: str) -> None:
    """Refuse a share of positives that leaves no image of one class."""
    for each in prevalences:
        if not 0 < each < 1:
            raise RecipeError(f"{option} must be in (0, 1), such as 0.05 for 5 %, got {each:g}")


def _names_other_images(argv: list[str], name: str | None, split: str) -> bool:
    """True if `--data.source` names images other than those of the run.

    Without `--name`, a root or path alone is the new place of the run's own images.
    """
    source = {arg.partition("=")[0][2:] for arg in argv if arg.startswith("--data.source")}
    other_records = bool(source)
    if source and name is None and source <= _places():
        return False
    if name is not None and not other_records:
        raise RecipeError("--name is for other images, so it needs --data.source")
    if other_records:
        _check_no_split(name or split, "--data.source names other images; their results need a")
    return other_records


def _places() -> set[str]:
    """Return the options for the place of the images, in long and in short form."""
    from cxrignite.runs.recipe_keys import PLACES

    return {*PLACES, *(key.replace(".init_args", "") for key in PLACES)}


def _results_name(name: str | None, split: str, site: str | None) -> str:
    """Return the name of results; those with the threshold of a site end with `@` and the site.

    No other name holds an `@`, so the names are unique.
    """
    return "@".join(filter(None, (name or split, site)))


def _recipe_of_run(command: str, argv: list[str]) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe of the run that `--run` names, and the command's own options.

    Raises:
        RecipeError: No run is named, or an option changes a key that belongs to the run.
        RunFolderError: There is no finished run.
    """
    values = option_values("--run", argv)
    if not values and not {"-h", "--help"} & set(argv):
        named = argv[0] if argv and not argv[0].startswith("-") else "DIR"
        raise RecipeError(f"name a run folder made by `fit`: --run {named}")
    if values:
        _refuse_other_keys(argv, command)
        from cxrignite.runs.run_folder import RunFolder

        argv = [f"--config={RunFolder(user_path(values[-1])).finished_recipe()}", *argv]
    recipe, _, options = parse_recipe(command, argv)
    for key in ("name", "operating_point"):
        if options.get(key) is not None:
            checked_name(options[key], f"--{key}")
    return recipe, options


def _check_no_split(name: str, why: str) -> None:
    """Refuse the name of a split for other images."""
    from cxrignite.data.sources import SPLITS

    if name in SPLITS:
        raise RecipeError(f"{why} --name other than {', '.join(SPLITS)}, got '{name}'")


def checked_name(name: str, option: str = "--name") -> str:
    """Return a name that becomes part of file names.

    Raises:
        RecipeError: It has other characters, which could lead out of the folder.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise RecipeError(f"{option} must be letters, digits, '_', '-' and '.', got '{name}'")
    return name


def _refuse_other_keys(argv: list[str], command: str) -> None:
    """Refuse options that would change the weights or the threshold of a finished run."""
    allowed = ("help", *(option.name for option in OPTIONS[command]), *CHANGEABLE_KEYS[command])
    for arg in argv:
        key = arg[2:].partition("=")[0]
        if arg.startswith("--") and not any(
            key == each or key.startswith(f"{each}.") for each in allowed
        ):
            options = ", ".join(f"--{each}" for each in allowed)
            raise RecipeError(
                f"--{key} belongs to the run and cannot be changed; {command} accepts {options}"
            )
