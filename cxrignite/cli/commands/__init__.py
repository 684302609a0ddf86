"""Commands: their options, and the workflows that they call.

Each command imports its workflow when it is called, so that `--help`, `--version` and
`recipes list` do not import torch.
"""

from __future__ import annotations

from collections.abc import Callable

from cxrignite.cli.commands import with_recipe, with_run_recipe, without_recipe
from cxrignite.cli.parsing import COMMANDS

__all__ = ["COMMANDS", "FUNCTIONS"]

FUNCTIONS: dict[str, Callable[[list[str]], int]] = {
    "audit": with_recipe.audit_command,
    "fit": with_recipe.fit_command,
    "cross_validate": with_recipe.cross_validate_command,
    "validate": lambda argv: with_run_recipe.score_command(argv, "val"),
    "test": lambda argv: with_run_recipe.score_command(argv, "test"),
    "recalibrate": with_run_recipe.recalibrate_command,
    "predict": with_run_recipe.predict_command,
    "export": with_run_recipe.export_command,
    "explain": with_run_recipe.explain_command,
    "compare": without_recipe.compare_command,
    "report": without_recipe.report_command,
    "find_lr": with_recipe.find_lr_command,
    "benchmark": with_recipe.benchmark_command,
    "download": without_recipe.download_command,
    "recipes": without_recipe.recipes_command,
}
"""Function of each command: it takes the arguments after the command and returns an exit code."""
