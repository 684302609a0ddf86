"""`fit`: an experiment from a recipe to a run folder, in five phases."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ignite.engine import Engine, Events

from cxrignite.data import View
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
from cxrignite.runs.scores import FindingScores, SplitScores
from cxrignite.terminal import counted, print_output
from cxrignite.workflows import plots
from cxrignite.workflows.allocator_tuning import allocator_tuning
from cxrignite.workflows.fine_tuning import check_parts, check_start_is_apart, start_from
from cxrignite.workflows.map_supervision import build_map_term
from cxrignite.workflows.parts import (
    Computing,
    build_data,
    build_loss,
    build_model,
    build_pipeline,
    build_prior_shifts,
    check_certificates,
    check_image_size,
    choose_computing,
    explained_layer,
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
from cxrignite.write_guard import parts_limited

_logger = logging.getLogger(__name__)

ALSO_CHOSE = "these images also chose the checkpoint: set data.calibration_fraction"
"""Reason why the images of `val` certify nothing."""


@dataclass(frozen=True)
class Prepared:
    """Experiment that has passed all checks and is ready to run.

    Attributes:
        folder: The run folder.
        session: The processes and the device.
        computing: Settings of the forward passes.
        training: The trainer with everything attached.
        prior_shifts: Effect of sampler and loss on the prior of each finding.
        search: The constraints of the threshold; None if the recipe has no search.
        leaks: Pairs of images that leak between splits.
    """

    folder: RunFolder
    session: Session
    computing: Computing
    training: Training
    prior_shifts: tuple[PriorShift, ...]
    search: ThresholdSearch | None
    leaks: list[LeakedPair]


def fit(
    recipe: Recipe, recipe_text: str, *, resume: str | None = None, command: list[str] | None = None
) -> None:
    """Run an experiment from a recipe to a run folder.

    The order of the five phases is a contract:

    1. `prepare`: read and split the images, build all parts, load the state to resume from. All
       checks are here, so that an error costs no training and leaves the run folder unchanged.
    2. `train`: train the remaining epochs. The state is saved at the end of each epoch, so that a
       killed run can be resumed from there.
    3. `score` and `choose_rules`: score the validation and the calibration split with the best
       weights, then choose the threshold. It comes after training because a threshold belongs to
       one set of weights. It uses images that chose neither the weights nor the epoch, if there
       are any, because only those allow a certificate.
    4. `evaluate`: write metrics, predictions and figures of both splits at that threshold.
    5. `save`: write the decision rule. It comes last because it marks the run as finished: a run
       killed before has no rule and can be resumed.

    Args:
        recipe: The experiment.
        recipe_text: The same, resolved, as YAML; stored in the run folder.
        resume: `auto` resumes from the newest valid checkpoint in the run folder, or begins a run
            if there is none; a path resumes from that checkpoint; None begins a new run.
        command: The command line, stored in the run folder.

    Raises:
        RecipeError: The recipe requests something that is not available here.
        RunFolderError: The folder is in use, holds a run already (without `resume`), or belongs to
            another recipe.
        CxrIgniteError: Any other reason that ends a run; see `cxrignite.errors`.
    """
    settings = recipe.trainer
    with (
        open_session(settings.device, settings.profile) as session,
        allocator_tuning(session.device)
        if settings.profile == "fast"
        else contextlib.nullcontext(),
    ):
        # A separate call, so that nothing keeps the processes' connections open afterwards.
        _fit(recipe, recipe_text, resume, command or [], session)


def _fit(
    recipe: Recipe, recipe_text: str, resume: str | None, command: list[str], session: Session
) -> None:
    folder = RunFolder(recipe.run_dir)
    with contextlib.ExitStack() as stack:
        if session.is_main_process:
            stack.enter_context(folder.lock())
            stack.enter_context(folder.logging())
        stack.enter_context(parts_limited(folder.root))
        prepared = prepare(recipe, recipe_text, resume, command, folder, session, stack)
        if prepared is None:
            _logger.info("%s is already finished: nothing to do", folder.root)
            return
        best = train(prepared)
        scored = score(prepared, best)
        if session.is_main_process:
            rules = choose_rules(
                *(scored, prepared.prior_shifts, prepared.search, prepared.leaks),
                folder.weights_sha256(),
                views=recipe.data.views,
            )
            evaluate(prepared, best, scored, rules)
            save(prepared, best, scored, rules)


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

    Cheap checks come before expensive work, and nothing in the run folder changes before the last
    check has passed. Only the list of leaked pairs is written earlier: the error points to it.

    Args:
        recipe: The experiment.
        recipe_text: The same, resolved, as YAML.
        resume: As in `fit`.
        command: The command line.
        folder: The run folder, locked.
        session: The processes and the device.
        stack: Closes the objects opened here when the run ends.

    Returns:
        The experiment; None if the run has already finished.
    """
    state = state_to_resume(folder, recipe_text, resume)
    if state is not None:
        epochs = recipe.trainer.max_epochs
        if is_complete(folder, recipe.monitor.patience, epochs, state):
            return None
        check_processes(folder, session.world_size)
    computing = choose_computing(recipe.trainer, session)
    print_data(recipe.data.source, recipe.run_dir, recipe.seed)
    # Images are listed before the model is built, because a missing folder is the most common
    # mistake. They are read after it, because reading thousands of images takes longer.
    with collector_paused():
        listed = recipe.data.source.records()
    check_has_train(recipe.data, listed)
    check_no_second_test(recipe.data, listed)
    seed_everything(recipe.seed)
    model = build_model(
        recipe.model,
        computing,
        state.weights if state else None,
        num_findings=len(recipe.data.source.findings),
    )
    tuning, started_from = recipe.fine_tuning, None
    if state is not None:
        check_best(folder, state, model)
        starts = folder.read_starts()
        started_from = starts[-1].start_from_sha256 if starts else None
    elif tuning.start_from is not None:
        started_from = start_from(model, tuning.start_from)
    num_trained = check_parts(model, tuning)
    pipeline = build_pipeline(recipe.data)
    with collector_paused():
        records, cache = read_and_cache(recipe.data, listed, pipeline, recipe.run_dir)
        if state is None:
            records = split_records(recipe.data, records, recipe.seed)
            if tuning.start_from is not None:
                check_start_is_apart(records, tuning.start_from)
        else:
            records = frozen_records(recipe.data, folder, current=records)
        leaks = leaked_pairs(records)
    if session.is_main_process and state is None:
        list_leakage(folder, leaks)
    check_same_everywhere(records)  # also waits for the list, before an error ends all processes
    check_leakage(folder, leaks, is_allowed=recipe.data.allow_leakage)
    data = build_data(
        recipe.data, records, recipe.seed, device=session.device, pipeline=pipeline, cache=cache
    )
    stack.callback(data.close)
    check_image_size(model, data.image_size, is_restored=state is not None)
    if recipe.explain.target_layer is not None:
        # A wrong layer is refused now, not after training.
        explained_layer(recipe.explain.target_layer, model, data.image_size)
    check_certificates(recipe.validator.handlers, data)
    print_split(recipe.data, recipe.seed, listed, data, frozen=state is not None)
    loss = build_loss(recipe.loss, data, session.device)
    prior_shifts = build_prior_shifts(data, loss)
    training = Training(
        build_learner(
            model,
            loss,
            recipe.optimizer,
            recipe.lr_scheduler,
            tuning,
            is_compiled=recipe.trainer.compile,
            map_term=build_map_term(
                recipe.map_loss, model, data, recipe.data.source.root, session.device
            ),
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
        (num_trained, tuning.unfreeze_epoch),
    )
    if any(shift.corrects_twice for shift in prior_shifts):
        _logger.warning(
            "the sampler and the loss both correct the class balance, which moves scores further "
            "from probabilities than one of them alone; the column probability reverses both"
        )
    stack.callback(training.board.close)
    if state is not None:
        training.restore(state)
        _logger.info("resuming after epoch %d", training.trainer.state.epoch)
    plots.plot_validations(training.validator, training.trainer, training.board, data.findings)
    # All checks have passed: from here on the run folder changes.
    if session.is_main_process:
        if state is None:
            write_split(records, folder.split_path, folder.files.write, recipe.data.source.findings)
        _plot_later(training)
        start = describe_start(
            command,
            device=str(session.device),
            precision=computing.precision.name,
            num_processes=session.world_size,
            start_from_sha256=started_from,
            num_parameters=sum(each.numel() for each in model.parameters()),
            num_trained=num_trained,
        )
        folder.begin(recipe_text, start)
    search = find_search(recipe.validator.handlers)
    return Prepared(folder, session, computing, training, prior_shifts, search, leaks)


def find_search(handlers: Sequence[object]) -> ThresholdSearch | None:
    """Return the last `ThresholdSearch` of a recipe's validator, which chooses the threshold."""
    searches = [each for each in handlers if isinstance(each, ThresholdSearch)]
    return searches[-1] if searches else None


def _plot_later(training: Training) -> None:
    """Show the recipe at the start, and draw sample images after the first epoch.

    Drawing takes seconds, which would delay the first result.
    """
    folder, trainer = training.folder, training.trainer

    @trainer.on(Events.STARTED)
    def log_recipe() -> None:
        plots.log_recipe(folder, training.board, trainer.state.epoch)

    if plots.shows_data(folder):
        return

    def plot(engine: Engine) -> None:
        for _ in plots.plot_data(folder, training.data, training.board):
            training.stop.stop_if_requested()

    after_next = Events.EPOCH_COMPLETED(once=trainer.state.epoch + 1)
    trainer.add_event_handler(after_next, plot)


def train(prepared: Prepared) -> Best:
    """Train the remaining epochs, and find the weights of the best one.

    `best.pt` is saved before the state of the epoch. So a run killed between the two repeats the
    epoch. With profile `fast` on CUDA the repeated epoch is not bit-identical, and may no longer be
    the best. Then the best weights are in the previous file.
    """
    training = prepared.training
    training.run()
    best, directory = training.best, prepared.folder.checkpoints_dir
    if best.best_epoch is None:
        raise NonFiniteError(f"{best.metric} must be finite in some epoch, got none: no best epoch")
    for name in ("best.pt", "best.previous.pt"):
        with contextlib.suppress(CheckpointError):
            found = load_best(directory / name)
            if found.epoch == best.best_epoch:
                if name != "best.pt":
                    whole = load_checkpoint(directory / name)
                    training.saver(whole, "best.pt", {"epoch": best.best_epoch})
                return found
    raise CheckpointError(
        f"{directory / 'best.pt'} must hold the best epoch, {best.best_epoch}, and does not"
    )


def score(prepared: Prepared, best: Best) -> dict[str, FindingScores]:
    """Score the validation and the calibration split with the best weights, on all processes.

    All processes take part, because the forward passes are shared; the later phases need only one.
    """
    model, data = prepared.training.model, prepared.training.data
    load_weights(model, best.weights)
    return {
        split: score_split(
            model, data, split, prepared.computing, shows=prepared.session.is_main_process
        )
        for split in ("val", "calibration")
        if split in data.splits
    }


def choose_rules(
    scored: Mapping[str, FindingScores],
    prior_shifts: Sequence[PriorShift],
    search: ThresholdSearch | None,
    leaks: list[LeakedPair],
    weights_sha256: str,
    *,
    seen: str = ALSO_CHOSE,
    views: Sequence[View] = (),
) -> tuple[DecisionRule, ...]:
    """Choose the threshold of each finding, on the calibration split if there is one, else on val.

    It comes before the evaluation, so that every metric is at the threshold that is saved.

    Args:
        scored: Scores of `val`, and of `calibration` if there is one.
        prior_shifts: Effect of sampler and loss on the prior of each finding.
        search: The constraints; None chooses no threshold.
        leaks: Pairs of images that leak between splits.
        weights_sha256: Digest of the weights.
        seen: Reason why the scores of `val` certify nothing.
        views: Views whose scores were averaged.
    """
    chosen_on = "calibration" if "calibration" in scored else "val"
    rules = []
    for scores, val, shift in zip(scored[chosen_on], scored["val"], prior_shifts, strict=True):
        finding, point = scores.classes[1], None
        if search is not None:
            point = choose_point(search, scores, chosen_on, leaks, seen)
            if point.status == "infeasible":
                _logger.warning(
                    "no threshold meets the constraints%s on the %s split",
                    *(f" for {finding}" if len(prior_shifts) > 1 else "", chosen_on),
                )
        rule = DecisionRule(
            finding=finding,
            point=point,
            chosen_on=chosen_on,
            prior_shift=shift,
            weights_sha256=weights_sha256,
            calibrators=Calibrators.fit(val.y_score, val.y_true),
            informativeness=measure_informativeness(
                scores,
                point.threshold if point else None,
                lower=point.lower_threshold if point else None,
            ),
            exclusive=scored[chosen_on].exclusive,
            views=tuple(views),
        )
        rules.append(rule)
    return tuple(rules)


def choose_point(
    search: ThresholdSearch,
    scores: SplitScores,
    split: str,
    leaks: list[LeakedPair],
    seen: str = ALSO_CHOSE,
) -> OperatingPoint:
    """Choose an operating point, certified only if its images had no other part in the run.

    `seen` is the reason why the scores of `val` certify nothing.
    """
    finding = scores.classes[1]
    point = search.select(scores.y_score, scores.y_true, scores.patients, finding)
    if split == "val":
        point = point.without_certificate(f"not certified, because {seen}")
    touching = sum(split in (pair.first.split, pair.second.split) for pair in leaks)
    if touching:
        point = point.without_certificate(
            f"not certified, because patients or files of the {split} split are also in others: "
            f"{counted(touching, 'pair')} in leakage.csv"
        )
    return point


def evaluate(
    prepared: Prepared,
    best: Best,
    scored: Mapping[str, FindingScores],
    rules: Sequence[DecisionRule],
) -> None:
    """Write and print the metrics of both splits at the threshold.

    The results exist before the rule is saved, so that a finished run has all of them.
    """
    for split, scores in scored.items():
        # The decision is printed once, by `save`.
        options = EvaluationOptions(split, split, prints_decision=False)
        print_output("\n")
        publish(scores, rules, prepared.folder, options, prepared.training.board, best.epoch)


def save(
    prepared: Prepared,
    best: Best,
    scored: Mapping[str, FindingScores],
    rules: Sequence[DecisionRule],
) -> None:
    """Write the reference for the shift check, and last the decision rules.

    The rules mark the run as finished, so every other file is written before them.
    """
    folder, training = prepared.folder, prepared.training
    Reference.of(scored[rules[0].chosen_on]).write(folder.reference_path, folder.files.write)
    plots.plot_training(folder, training.board)
    folder.write_rules(rules)
    mean_of, metric = training.best.mean_of, training.best.metric
    metric += f" (mean of {mean_of} epochs)" if mean_of > 1 else ""
    chosen = (best.epoch, metric, training.best.best_score or 0.0)
    print_end(folder, rules, chosen, training.data)
