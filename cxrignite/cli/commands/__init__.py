"""Commands: their options, and the workflows that they call.

Each command imports its workflow when it is called, so that `--help`, `--version` and
`recipes list` do not import torch.
"""

from __future__ import annotations

from collections.abc import Callable

from cxrignite.cli.commands import of_run, plain, with_recipe
from cxrignite.cli.parsing import COMMANDS

__all__ = ["COMMANDS", "FUNCTIONS"]

FUNCTIONS: dict[str, Callable[[list[str]], int]] = {
    "audit": with_recipe.audit_command,
    "fit": with_recipe.fit_command,
    "validate": lambda argv: of_run.score_command(argv, "val"),
    "test": lambda argv: of_run.score_command(argv, "test"),
    "recalibrate": of_run.recalibrate_command,
    "predict": of_run.predict_command,
    "explain": of_run.explain_command,
    "compare": plain.compare_command,
    "report": plain.report_command,
    "benchmark": with_recipe.benchmark_command,
    "download": plain.download_command,
    "recipes": plain.recipes_command,
}
"""Function of each command: it takes the arguments after the command and returns an exit code."""
