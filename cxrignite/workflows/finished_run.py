"""A finished run opened by a later command: folder, decision rule and best weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from cxrignite.engines.session import Session, open_session
from cxrignite.nn import BinaryClassifier
from cxrignite.recipe import TrainerRecipe
from cxrignite.runs.checkpoints import load_best
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.runs.run_folder import RunFolder
from cxrignite.workflows.parts import Computing, build_model, choose_computing

_NO_THRESHOLD = 0.5


class FinishedRun(NamedTuple):
    """Best weights of a run and the decision rule for their scores."""

    folder: RunFolder
    session: Session
    rule: DecisionRule
    model: BinaryClassifier
    computing: Computing
    epoch: int

    @property
    def map_threshold(self) -> float:
        """Threshold of the decisions in map captions; 0.5 if the run has none."""
        return _NO_THRESHOLD if self.rule.threshold is None else self.rule.threshold


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
        yield session, stack


def load_run(
    folder: RunFolder,
    session: Session,
    settings: TrainerRecipe,
    make: Callable[..., BinaryClassifier],
    site: str | None = None,
) -> FinishedRun:
    """Load the decision rule and the best weights of a run.

    `site` names the operating point; None is that of the run.

    Raises:
        RunFolderError: The run has no such operating point.
        CheckpointError: The best weights are missing, damaged, or do not fit the model.
    """
    rule, best = folder.read_rule(site), load_best(folder.best_path)
    computing = choose_computing(settings, session)
    model = build_model(make, computing, best.weights)
    return FinishedRun(folder, session, rule, model, computing, best.epoch)
