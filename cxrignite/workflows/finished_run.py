"""A finished run opened by a later command: folder, decision rule and best weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from cxrignite.data import Source, View
from cxrignite.engines.session import Session, open_session
from cxrignite.errors import CheckpointError, DataError
from cxrignite.nn import BinaryClassifier
from cxrignite.recipe import Recipe, TrainerRecipe
from cxrignite.runs.checkpoints import load_best, load_statistics
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.runs.run_folder import RunFolder
from cxrignite.workflows.parts import Computing, build_model, choose_computing
from cxrignite.write_guard import parts_limited

_NO_THRESHOLD = 0.5


class FinishedRun(NamedTuple):
    """Best weights of a run and the decision rules for their scores.

    Attributes:
        folder: The run folder.
        session: The processes that compute.
        rules: The run's own decision rules, or a site's, one for each finding.
        model: The classifier with the best weights, and the batch statistics of the rules.
        computing: Settings of its forward passes.
        epoch: The epoch of the weights.
    """

    folder: RunFolder
    session: Session
    rules: tuple[DecisionRule, ...]
    model: BinaryClassifier
    computing: Computing
    epoch: int


def map_threshold(rule: DecisionRule) -> float:
    """Return the threshold of the decisions in map captions; 0.5 if the rule has none."""
    return _NO_THRESHOLD if rule.threshold is None else rule.threshold


@contextmanager
def open_folder(
    folder: RunFolder, settings: TrainerRecipe, *, writes: bool = True
) -> Iterator[tuple[Session, ExitStack]]:
    """Open a session on a run folder, with a stack that is closed with it.

    With `writes`, the folder is locked, and its log continues.

    Raises:
        RunFolderError: Another process writes into the folder.
    """
    with open_session(settings.device, settings.profile) as session, ExitStack() as stack:
        if writes and session.is_main_process:
            stack.enter_context(folder.lock())
            stack.enter_context(folder.logging())
        stack.enter_context(parts_limited(folder.root))
        yield session, stack


def load_run(
    folder: RunFolder, session: Session, recipe: Recipe, site: str | None = None
) -> FinishedRun:
    """Load the decision rules and the best weights of a run.

    `site` names the operating point; None is that of the run. A site may have its own batch
    statistics.

    Raises:
        RunFolderError: The run has no such operating point.
        CheckpointError: The best weights are missing, damaged, or do not fit the model; or the
            rules belong to scores of other views.
        DataError: The source has other findings than the run.
    """
    rules, best = folder.read_rules(site), load_best(folder.best_path)
    _check_findings(recipe.data.source, folder, rules)
    _check_views(recipe.data.views, folder, rules)
    computing = choose_computing(recipe.trainer, session)
    model = build_model(recipe.model, computing, best.weights, num_findings=len(rules))
    if site is not None and (own := rules[0].batch_norm) is not None:
        content = folder.read_statistics(site, own.sha256)
        load_statistics(model, content, folder.statistics_path(site))
    return FinishedRun(folder, session, rules, model, computing, best.epoch)


def _check_views(views: Sequence[View], folder: RunFolder, rules: Sequence[DecisionRule]) -> None:
    """Check that the decision rules were chosen on scores of the same views."""
    for rule in rules:
        if rule.views != tuple(views):
            others = " others" if len(views) == len(rule.views) else ""
            raise CheckpointError(
                f"data.views must be the views that the threshold in {folder.root} was chosen "
                f"with, {len(rule.views)}, got {len(views)}{others}: a threshold is valid only for "
                "the scores that chose it"
            )


def _check_findings(source: Source, folder: RunFolder, rules: Sequence[DecisionRule]) -> None:
    """Check that a source has the findings of a run, in the same order.

    One finding may have any name: another site may name its classes differently.
    """
    ours, theirs = [rule.finding for rule in rules], list(source.findings)
    if ours != theirs and (len(ours) > 1 or len(theirs) > 1):
        raise DataError(
            f"{source.root} must have the findings of {folder.root} in the same order, "
            f"{', '.join(ours)}, got {', '.join(theirs)}; list all of them in "
            "data.source.classes: one without labels in a table is unknown in its images"
        )
    # The scores are a softmax or sigmoids, as the network was trained.
    if source.exclusive != rules[0].exclusive:
        kinds = ("side by side", "exclusive")
        raise DataError(
            f"{source.root} must have findings that are {kinds[rules[0].exclusive]}, as in "
            f"{folder.root}, got findings that are {kinds[source.exclusive]}; "
            "set data.source to a Manifest with exclusive as in the run"
        )
