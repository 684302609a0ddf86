"""All statements on the threshold of one finding, from the results of a run."""

from __future__ import annotations

from typing import NamedTuple

from cxrignite.reporting import wording
from cxrignite.reporting.wording import RuleStatement, Statement
from cxrignite.runs.run_results import RunResults


class RuleStatements(NamedTuple):
    """Statements on the threshold of one finding.

    Attributes:
        rule: What it guarantees.
        warnings: Evaluated images that contradict it, differ from those that chose it, or were
            evaluated at another threshold.
        problems: Titles of the warnings, without those that repeat the statement on the rule.
        is_invalid: True if its certificate does not hold for some evaluated images.
        is_invalid_anywhere: The same of its certificate or that of a site.
    """

    rule: RuleStatement
    warnings: list[Statement]
    problems: list[str]
    is_invalid: bool
    is_invalid_anywhere: bool


def state_threshold(results: RunResults) -> RuleStatements:
    """Collect all statements on the threshold of one finding.

    Args:
        results: Results of the finding.
    """
    rule, evaluations = results.rule, results.evaluations
    # Evaluations at a site's threshold do not affect the run's own certificate.
    own = {
        name: each
        for name, each in evaluations.items()
        if rule and each.rule.chosen_on == rule.chosen_on
    }
    checked = {name: wording.check_rule(name, each) for name, each in evaluations.items()}
    stale = [wording.check_freshness(name, each, rule) for name, each in evaluations.items()]
    warnings = [each for each in (*checked.values(), *stale) if each]
    # The statement on the threshold names the images for which its certificate is not valid.
    named = [checked[name] for name, each in own.items() if each.is_invalid]
    return RuleStatements(
        wording.state_rule(rule, results.classes, own),
        warnings,
        [each.title for each in warnings if each not in named],
        any(each.is_invalid for each in own.values()),
        any(each.is_invalid for each in evaluations.values()),
    )
