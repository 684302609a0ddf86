"""`fit`: an experiment from a recipe to a run folder, in five phases."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from ignite.engine import Engine, Events

from cxrignite.data.leakage import LeakedPair, leaked_pairs
from cxrignite.data.splits import write_split
from cxrignite.engines.session import Session, open_session, seed_everything
from cxrignite.errors import CheckpointError, NonFiniteError
from cxrignite.functional import OperatingPoint, PriorShift
from cxrignite.handlers import ThresholdSearch, load_checkpoint
from cxrignite.recipe import Recipe
from cxrignite.reporting.console import print_data, print_end, print_split, print_training
from cxrignite.runs.checkpoints import Best, load_best, load_weights
from cxrignite.runs.decision_rule import Calibrators, DecisionRule
from cxrignite.runs.environment import describe_start
from cxrignite.runs.informativeness import measure_informativeness
from cxrignite.runs.reference import Reference
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.scores import SplitScores
from cxrignite.workflows import plots
from cxrignite.workflows.allocator_tuning import allocator_tuning
from cxrignite.workflows.parts import (
    Computing,
    build_data,
    build_loss,
    build_model,
    build_pipeline,
    build_prior_shift,
    check_certificates,
    check_image_size,
    choose_computing,
    explained_layer,
    threshold_split,
)
from cxrignite.workflows.records import (
    check_has_train,
    check_leakage,
    check_no_second_test,
    check_same_everywhere,
    collector_paused,
    frozen_records,
    list_leakage,
    read_and_cache,
    split_records,
)
from cxrignite.workflows.resumption import check_best, check_processes, is_complete, state_to_resume
from cxrignite.workflows.score import EvaluationOptions, publish, score_split
from cxrignite.workflows.training import Training, build_learner

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """An experiment that can be run: nothing of it is refused any more.

    Attributes:
        folder: The run folder.
        session: Where to compute.
        computing: Settings of the forward passes.
        training: The trainer with everything attached.
        prior_shift: Effect of sampler and loss on the prior.
        search: Chooses the threshold; None if the recipe has none.
        leaks: Pairs of images that more than one split knows.
    """

    folder: RunFolder
    session: Session
    computing: Computing
    training: Training
    prior_shift: PriorShift
    search: ThresholdSearch | None
    leaks: list[LeakedPair]


def fit(
    recipe: Recipe, recipe_text: str, *, resume: str | None = None, command: list[str] | None = None
) -> None:
    """Run an experiment from a recipe to a run folder.

    Five phases, whose order is a contract:

    1. `prepare`: read and split the images, build all parts, load the state to resume from.
       Whatever can be refused is refused here, before anything in the run folder changes.
    2. `train`: the epochs that are left. Each ends with its state saved, so that a run that is
       killed later resumes from there.
    3. `choose`: the best weights score the validation and the calibration split, and the threshold
       is chosen on images that chose neither the weights nor the epoch, if there are some.
    4. `evaluate`: metrics, predictions and figures of both splits at that threshold.
    5. `save`: the decision rule, last, since a run that has one is finished.

    Args:
        recipe: The experiment.
        recipe_text: The same, resolved, as YAML; kept in the run folder.
        resume: `auto` resumes from the newest valid checkpoint in the run folder, or begins if
            there is none; a path resumes from that checkpoint; None begins a new run.
        command: The command line, kept in the run folder.

    Raises:
        RecipeError: The recipe asks for what cannot be had here.
        RunFolderError: The folder is in use, holds a run already (without `resume`), or belongs to
            another recipe.
        CxrIgniteError: Whatever else ends a run; see `cxrignite.errors`.
    """
    settings = recipe.trainer
    with (
        open_session(settings.device, settings.profile) as session,
        allocator_tuning(session.device)
        if settings.profile == "fast"
        else contextlib.nullcontext(),
    ):
        # A call of its own: when it returns, nothing holds the processes' connections any more.
        _fit(recipe, recipe_text, resume, command or [], session)


def _fit(
    recipe: Recipe, recipe_text: str, resume: str | None, command: list[str], session: Session
) -> None:
    folder = RunFolder(recipe.run_dir)
    with contextlib.ExitStack() as stack:
        if session.is_main_process:
            stack.enter_context(folder.lock())
            stack.enter_context(folder.logging())
        prepared = prepare(recipe, recipe_text, resume, command, folder, session, stack)
        if prepared is None:
            _logger.info("%s is finished, nothing to do", folder.root)
            return
        best = train(prepared)
        scored = score(prepared, best)
        if session.is_main_process:
            rule = choose(prepared, scored)
            evaluate(prepared, best, scored, rule)
            save(prepared, best, scored, rule)


def prepare(
    recipe: Recipe,
    recipe_text: str,
    resume: str | None,
    command: list[str],
    folder: RunFolder,
    session: Session,
    stack: contextlib.ExitStack,
) -> Prepared | None:
    """Read and split the images, build all parts, and load the state to resume from.

    Args:
        recipe: The experiment.
        recipe_text: The same, resolved, as YAML.
        resume: As in `fit`.
        command: The command line.
        folder: The run folder, locked.
        session: Where to compute.
        stack: Closes what is opened here when the run ends.

    Returns:
        The experiment; None if the run is finished already.
    """
    state = state_to_resume(folder, recipe_text, resume)
    if state is not None:
        epochs = recipe.trainer.max_epochs
        if is_complete(folder, recipe.monitor.patience, epochs, state):
            return None
        check_processes(folder, session.world_size)
    computing = choose_computing(recipe.trainer, session)
    print_data(recipe.data.source, recipe.run_dir, recipe.seed)
    # Listed before the model is built, since a missing folder is the most common mistake, and
    # read after it, since reading thousands of images takes longer.
    with collector_paused():
        listed = recipe.data.source.records()
    check_has_train(recipe.data, listed)
    check_no_second_test(recipe.data, listed)
    seed_everything(recipe.seed)
    model = build_model(recipe.model, computing, state.weights if state else None)
    if state is not None:
        check_best(folder, state, model)
    pipeline = build_pipeline(recipe.data)
    with collector_paused():
        records, cache = read_and_cache(recipe.data, listed, pipeline, recipe.run_dir)
        if state is None:
            records = split_records(recipe.data, records, recipe.seed)
        else:
            records = frozen_records(recipe.data, folder, current=records)
        leaks = leaked_pairs(records)
    if session.is_main_process and state is None:
        list_leakage(folder, leaks)
    check_same_everywhere(records)  # and wait for the list, before a refusal ends all
    check_leakage(folder, leaks, is_allowed=recipe.data.allow_leakage)
    data = build_data(
        recipe.data, records, recipe.seed, device=session.device, pipeline=pipeline, cache=cache
    )
    stack.callback(data.close)
    check_image_size(model, data.image_size, is_restored=state is not None)
    if recipe.explain.target_layer is not None:
        # A slip shows now, not in the end.
        explained_layer(recipe.explain.target_layer, model, data.image_size)
    check_certificates(recipe.validator.handlers, data)
    print_split(recipe.data, recipe.seed, listed, data, frozen=state is not None)
    loss = build_loss(recipe.loss, data, session.device)
    prior_shift = build_prior_shift(data, loss)
    training = Training(
        build_learner(
            model,
            loss,
            recipe.optimizer,
            recipe.lr_scheduler,
            is_compiled=recipe.trainer.compile,
        ),
        *(data, folder, session, computing),
        *(recipe.trainer, recipe.monitor, recipe.validator, recipe.seed),
    )
    print_training(
        recipe.trainer,
        recipe.monitor,
        session,
        computing.precision,
        model,
        getattr(recipe.model, "keywords", {}).get("arch"),
        (training.epoch_length, recipe.data.batch_size),
    )
    if prior_shift.corrects_twice:
        _logger.warning(
            "the sampler and the loss both correct the class balance: scores are further from "
            "probabilities than either alone makes them; probability takes both back"
        )
    stack.callback(training.board.close)
    if state is not None:
        training.restore(state)
        _logger.info("going on after epoch %d", training.trainer.state.epoch)
    plots.plot_validations(training.validator, training.trainer, training.board)
    # All that can be refused has been: from here on the run folder changes.
    if session.is_main_process:
        if state is None:
            write_split(records, folder.split_path, folder.files.write)
        _plot_later(training)
        start = describe_start(
            command,
            device=str(session.device),
            precision=computing.precision.name,
            num_processes=session.world_size,
        )
        folder.begin(recipe_text, start)
    searches = [each for each in recipe.validator.handlers if isinstance(each, ThresholdSearch)]
    search = searches[-1] if searches else None
    return Prepared(folder, session, computing, training, prior_shift, search, leaks)


def _plot_later(training: Training) -> None:
    """Show the recipe, and draw the images after the first epoch.

    Drawing takes seconds, and training can go ahead.
    """
    folder, trainer = training.folder, training.trainer

    @trainer.on(Events.STARTED)
    def tell() -> None:
        plots.log_recipe(folder, training.board, trainer.state.epoch)

    if plots.shows_data(folder):
        return

    def plot(engine: Engine) -> None:
        for _ in plots.plot_data(folder, training.data, training.board):
            training.stop.stop_if_requested()

    after_next = Events.EPOCH_COMPLETED(once=trainer.state.epoch + 1)
    trainer.add_event_handler(after_next, plot)


def train(prepared: Prepared) -> Best:
    """Train the epochs that are left, and find the weights of the best one.

    A run killed between saving a new best and the state of its epoch runs that epoch again. Where
    that does not give the same bits (profile `fast` on CUDA) it may not be the best any more, and
    the best is then the file before it.
    """
    training = prepared.training
    training.run()
    best, directory = training.best, prepared.folder.checkpoints_dir
    if best.best_epoch is None:
        raise NonFiniteError(f"no epoch had a finite {best.metric}: there is no best one")
    for name in ("best.pt", "best.previous.pt"):
        with contextlib.suppress(CheckpointError):
            found = load_best(directory / name)
            if found.epoch == best.best_epoch:
                if name != "best.pt":
                    whole = load_checkpoint(directory / name)
                    training.saver(whole, "best.pt", {"epoch": best.best_epoch})
                return found
    raise CheckpointError(
        f"{directory / 'best.pt'} does not hold epoch {best.best_epoch}, the best"
    )


def score(prepared: Prepared, best: Best) -> dict[str, SplitScores]:
    """Score the validation and the calibration split with the best weights, on all processes."""
    model, data = prepared.training.model, prepared.training.data
    load_weights(model, best.weights)
    return {
        split: score_split(
            model, data, split, prepared.computing, shows=prepared.session.is_main_process
        )
        for split in ("val", "calibration")
        if split in data.splits
    }


def choose(prepared: Prepared, scored: Mapping[str, SplitScores]) -> DecisionRule:
    """Choose the threshold on the images that may choose it."""
    data = prepared.training.data
    chosen_on = threshold_split(data)
    point = None
    if prepared.search is not None:
        point = choose_point(prepared.search, scored[chosen_on], chosen_on, prepared.leaks)
        if point.status == "infeasible":
            _logger.warning("no threshold meets the constraints on the %s split", chosen_on)
    val = scored["val"]
    return DecisionRule(
        finding=data.classes[1],
        point=point,
        chosen_on=chosen_on,
        prior_shift=prepared.prior_shift,
        weights_sha256=prepared.folder.weights_sha256(),
        calibrators=Calibrators.fit(val.y_score, val.y_true),
        informativeness=measure_informativeness(
            scored[chosen_on], point.threshold if point else None
        ),
    )


def choose_point(
    search: ThresholdSearch, scores: SplitScores, split: str, leaks: list[LeakedPair]
) -> OperatingPoint:
    """Choose an operating point, certified only if its images had no other part in the run.

    Args:
        search: The constraints.
        scores: Of the split that chooses.
        split: Its name.
        leaks: Pairs of images that more than one split knows.
    """
    point = search.select(scores.y_score, scores.y_true, scores.patients)
    if split == "val":
        point = point.without_certificate(
            "not certified, since these images also picked the checkpoint: "
            "set data.calibration_fraction"
        )
    touching = sum(split in (pair.first.split, pair.second.split) for pair in leaks)
    if touching:
        point = point.without_certificate(
            f"not certified, since patients or files of the {split} split are in others too: "
            f"{touching} in leakage.csv"
        )
    return point


def evaluate(
    prepared: Prepared, best: Best, scored: Mapping[str, SplitScores], rule: DecisionRule
) -> None:
    """Write and print the metrics of both splits at the threshold."""
    for split, scores in scored.items():
        scoring = EvaluationOptions(
            split, split, prints_decision=False
        )  # which is printed last, once
        sys.stdout.write("\n")
        publish(scores, rule, prepared.folder, scoring, prepared.training.board, best.epoch)


def save(
    prepared: Prepared, best: Best, scored: Mapping[str, SplitScores], rule: DecisionRule
) -> None:
    """Store what later images are compared with, and last the decision rule."""
    folder, training = prepared.folder, prepared.training
    Reference.of(scored[rule.chosen_on]).write(folder.reference_path, folder.files.write)
    plots.plot_training(folder, training.board)
    folder.write_rule(rule)
    chosen = (best.epoch, training.best.metric, training.best.best_score or 0.0)
    print_end(folder, rule, chosen, training.data)
