"""What each verb takes from its command line, and the workflow that it calls.

Each verb imports what it needs when it is called, so that `--help`, `--version` and `recipes list`
answer before torch is imported.
"""

from __future__ import annotations

from collections.abc import Callable

from cxrignite.cli.commands.names import VERBS
from cxrignite.cli.commands.of_run import explain_verb, predict_verb, recalibrate_verb, score_verb
from cxrignite.cli.commands.plain import compare_verb, download_verb, recipes_verb, report_verb
from cxrignite.cli.commands.with_recipe import audit_verb, benchmark_verb, fit_verb

__all__ = ["COMMANDS", "VERBS"]

COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "audit": audit_verb,
    "fit": fit_verb,
    "validate": lambda argv: score_verb(argv, "val"),
    "test": lambda argv: score_verb(argv, "test"),
    "recalibrate": recalibrate_verb,
    "predict": predict_verb,
    "explain": explain_verb,
    "compare": compare_verb,
    "report": report_verb,
    "benchmark": benchmark_verb,
    "download": download_verb,
    "recipes": recipes_verb,
}
"""From a verb to what runs it: the arguments after the verb in, an exit code out."""
