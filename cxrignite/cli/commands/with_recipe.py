"""Commands that take a recipe or a source: `fit` and its relatives, `audit`, `benchmark`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cxrignite.cli.parsing import parse_recipe
from cxrignite.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cxrignite.recipe import Recipe

_NO_RECIPE = "give a recipe with --config FILE; `cxrignite recipes list` shows the included ones"


def audit_command(argv: list[str]) -> int:
    """Run `audit`."""
    if not argv:
        raise RecipeError("give a recipe with --config FILE, or a source with --data.source CLASS")
    recipe, _, options = parse_recipe("audit", argv)
    from cxrignite.runs.run_folder import RunFolder
    from cxrignite.workflows.audit.audit import audit

    fail_on = [kind for kind in options["fail_on"] if kind != "none"]
    audit(recipe, options["output_dir"] or RunFolder(recipe.run_dir).audit_dir, fail_on)
    return 0


def fit_command(argv: list[str]) -> int:
    """Run `fit`."""
    if not argv:
        raise RecipeError(_NO_RECIPE)
    recipe, text, options = parse_recipe("fit", argv)
    from cxrignite.workflows.fit import fit

    fit(recipe, text, resume=options["resume"], command=["fit", *argv])
    return 0


def cross_validate_command(argv: list[str]) -> int:
    """Run `cross_validate`."""
    if not argv:
        raise RecipeError(_NO_RECIPE)
    recipe, text, options = parse_recipe("cross_validate", argv)
    from cxrignite.workflows.cross_validate import cross_validate

    def parse(arguments: Sequence[str]) -> tuple[Recipe, str]:
        return parse_recipe("fit", [*arguments])[:2]

    cross_validate(
        *(recipe, text, parse, options["folds"]),
        num_jobs=options["jobs"],
        resume=options["resume"],
        command=["cross_validate", *argv],
    )
    return 0


def find_lr_command(argv: list[str]) -> int:
    """Run `find_lr`."""
    if not argv:
        raise RecipeError(_NO_RECIPE)
    recipe, _, options = parse_recipe("find_lr", argv)
    from cxrignite.workflows.find_lr import find_lr

    beside = recipe.run_dir.with_name(f"{recipe.run_dir.name}_find_lr")
    find_lr(recipe, options["output"] or beside, options["num_steps"])
    return 0


def benchmark_command(argv: list[str]) -> int:
    """Run `benchmark`."""
    if not argv:
        raise RecipeError(_NO_RECIPE)
    recipe, _, options = parse_recipe("benchmark", argv)
    from cxrignite.workflows.benchmark.benchmark import benchmark

    benchmark(recipe, **options)
    return 0
