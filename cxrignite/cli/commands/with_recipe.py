"""The verbs that begin with a recipe or a source: `audit`, `fit`, `benchmark`."""

from __future__ import annotations

from cxrignite.cli.commands.names import VERBS
from cxrignite.cli.parsing import parse_recipe
from cxrignite.errors import RecipeError


def audit_verb(argv: list[str]) -> int:
    """`audit`."""
    if not argv:
        raise RecipeError("name a recipe, --config FILE, or a source, --data.source CLASS")
    recipe, _, options = parse_recipe("audit", VERBS["audit"], argv)
    from cxrignite.runs.run_folder import RunFolder
    from cxrignite.workflows.audit.audit import PROBLEMS, audit

    chosen = options["fail_on"]
    fail_on = [PROBLEMS] if chosen is None else [kind for kind in chosen if kind != "none"]
    audit(recipe, options["output_dir"] or RunFolder(recipe.run_dir).audit_dir, fail_on)
    return 0


def fit_verb(argv: list[str]) -> int:
    """`fit`."""
    if not argv:
        raise RecipeError("name a recipe: --config FILE; `cxrignite recipes list` names some")
    recipe, text, options = parse_recipe("fit", VERBS["fit"], argv)
    from cxrignite.workflows.fit import fit

    fit(recipe, text, resume=options["resume"], command=["fit", *argv])
    return 0


def benchmark_verb(argv: list[str]) -> int:
    """`benchmark`."""
    if not argv:
        raise RecipeError("name a recipe: --config FILE; `cxrignite recipes list` names some")
    recipe, _, options = parse_recipe("benchmark", VERBS["benchmark"], argv)
    from cxrignite.workflows.benchmark.benchmark import benchmark

    chosen = {name: value for name, value in options.items() if value is not None}
    num_steps, repeats = chosen.get("num_steps", 12), chosen.get("repeats", 3)
    benchmark(
        recipe,
        num_steps=num_steps,
        repeats=repeats,
        with_compile=chosen.get("with_compile", False),
    )
    return 0
