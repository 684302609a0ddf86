"""Ensemble of the folds of a cross-validation, as a run folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from cxrignite.data import ImageRecord, Source, XrayData
from cxrignite.data.leakage import leaked_pairs
from cxrignite.data.splits import write_split
from cxrignite.errors import DataError
from cxrignite.handlers import SafeSaver, TensorBoardWriter, verify_checkpoint
from cxrignite.nn import Ensemble
from cxrignite.recipe import Recipe
from cxrignite.reporting.console import print_rules, suggest_next
from cxrignite.reporting.fold_table import fold_csv, fold_table
from cxrignite.reporting.wording import describe_ensemble
from cxrignite.runs.checkpoints import load_best
from cxrignite.runs.environment import describe_start
from cxrignite.runs.fold_results import FoldResult, FoldResults
from cxrignite.runs.json_codec import to_json
from cxrignite.runs.reference import Reference
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.run_results import Tree, read_predictions
from cxrignite.runs.scores import FindingScores
from cxrignite.terminal import print_output, wrapped
from cxrignite.workflows import plots
from cxrignite.workflows.finished_run import open_folder
from cxrignite.workflows.fit import choose_rules, find_search
from cxrignite.workflows.parts import (
    build_data,
    build_loss,
    build_model,
    build_prior_shifts,
    choose_computing,
)
from cxrignite.workflows.records import frozen_records, list_leakage
from cxrignite.workflows.score import EvaluationOptions, publish, score_split, write_scores

_logger = logging.getLogger(__name__)

_EPOCH = 0  # an ensemble has none
_SEEN = (
    "each of these images was scored by the one member that had not trained on it, not by the "
    "ensemble: set data.calibration_fraction"
)


def build_ensemble(
    parent: RunFolder,
    folders: Sequence[RunFolder],
    source: Source,
    parse: Callable[[Sequence[str]], tuple[Recipe, str]],
    command: list[str],
) -> None:
    """Make a run of the models of all folds, with a threshold of its own.

    The calibration images choose the threshold, which no fold has seen. Without them it is the
    out-of-fold scores, and no certificate is possible. As in `fit`, the rules are written last.

    Args:
        parent: The folder of the cross-validation, locked.
        folders: The finished runs of the folds.
        source: The images.
        parse: Parses the arguments of `fit`.
        command: The command line.

    Raises:
        DataError: The folds were made from different images, or an image has changed since.
        DamagedRunError: A file of a fold is damaged.
    """
    folder, results = RunFolder(parent.root / "ensemble"), _results(folders)
    if folder.is_finished and folder.find_folds() == results:
        _logger.info("%s is already finished: nothing to do", folder.root)
        return
    recipe, text = parse(_arguments(parent, folder, len(folders), exclusive=source.exclusive))
    with open_folder(folder, recipe.trainer) as (session, stack):
        computing = choose_computing(recipe.trainer, session)
        weights = _weights(folders)
        model = build_model(recipe.model, computing, weights, num_findings=len(source.findings))
        records, fold_of = _records(folders, source.root)
        if any(record.split == "calibration" for record in records):
            frozen_records(recipe.data, folders[0], "calibration")  # checks the files
        data = build_data(recipe.data, records, recipe.seed, device=session.device)
        stack.callback(data.close)
        leaks = leaked_pairs(records)
        prior_shifts = build_prior_shifts(data, build_loss(recipe.loss, data, session.device))
        start = describe_start(
            command,
            device=str(session.device),
            precision=computing.precision.name,
            num_processes=session.world_size,
        )
        folder.begin(text, start)
        folder.files.write(folder.folds_path, to_json(results))
        write_split(records, folder.split_path, folder.files.write, source.findings)
        list_leakage(folder, leaks)
        about = {"epoch": _EPOCH}
        SafeSaver(folder.checkpoints_dir)({"model": weights, **about}, "best.pt", about)
        scored = {"val": _out_of_fold(folders, data)}
        if "calibration" in data.splits:
            scored["calibration"] = score_split(model, data, "calibration", computing, shows=True)
        rules = choose_rules(
            *(scored, prior_shifts, find_search(recipe.validator.handlers), leaks),
            folder.weights_sha256(),
            seen=_SEEN,
            views=recipe.data.views,
        )
        # Scores of single members, which are more extreme than their means, fit no map for these.
        rules = tuple(replace(rule, calibrators=None) for rule in rules)
        board = TensorBoardWriter(folder.tensorboard_dir)
        stack.callback(board.close)
        for _ in plots.plot_data(folder, data, board):
            pass
        print_output("\n" + wrapped(describe_ensemble(len(folders))))
        for split, scores in scored.items():
            options = EvaluationOptions(split, split, prints_decision=False)
            print_output("\n")
            publish(scores, rules, folder, options, board, _EPOCH)
        val = scored["val"]
        folds = [fold_of[record.name] for record in val.records]
        write_scores(parent, "out_of_fold", val, rules, folds)
        parent.files.write(parent.root / "folds.csv", fold_csv(results))
        if "calibration" in scored:  # else no features of unseen images are known
            reference = Reference.of(scored["calibration"])
            reference.write(folder.reference_path, folder.files.write)
        folder.write_rules(rules)
        print_output(fold_table(results))
        print_rules(rules)
        _logger.info("the ensemble of %d folds is in %s", len(folders), folder.root)
        suggest_next(folder, data)


def _arguments(
    parent: RunFolder, folder: RunFolder, num_members: int, *, exclusive: bool
) -> list[str]:
    """Return the arguments of `fit` for the recipe of the folds, with the ensemble as its model."""
    member = Tree(parent.read_recipe()).child("model")
    settings = {**member.child("init_args").content}
    if "weights" in settings:  # the members' weights are in the checkpoint
        settings["weights"] = None
    model = {
        "class_path": f"{Ensemble.__module__}.{Ensemble.__name__}",
        "init_args": {
            "model": {"class_path": member.text("class_path"), "init_args": settings},
            "num_members": num_members,
            "exclusive": exclusive,
        },
    }
    return [
        f"--config={parent.recipe_path}",
        f"--run_dir={folder.root}",
        "--data.fold=null",
        f"--model={json.dumps(model)}",
    ]


def _weights(folders: Sequence[RunFolder]) -> dict[str, Tensor]:
    """Return the weights of all members, named as in `Ensemble`."""
    return {
        f"backbone.{index}.{name}": weight
        for index, folder in enumerate(folders)
        for name, weight in load_best(folder.best_path).weights.items()
    }


def _records(
    folders: Sequence[RunFolder], root: Path | str
) -> tuple[list[ImageRecord], dict[str, int]]:
    """Return the records of all folds, whose `val` is `train`, and the fold of each name in it.

    Raises:
        DataError: The folds differ in more than their validation images.
    """
    fold_of: dict[str, int] = {}
    shared: list[ImageRecord] | None = None
    for index, folder in enumerate(folders):
        records = folder.read_split(root)
        own = {record.name: index for record in records if record.split == "val"}
        joined = [record.moved("train") if record.name in own else record for record in records]
        if (shared is not None and joined != shared) or own.keys() & fold_of.keys():
            raise DataError(
                f"{folder.root} must have the images of {folders[0].root} with other validation "
                "images; the data have changed since: choose another run_dir"
            )
        shared = joined
        fold_of |= own
    return shared or [], fold_of


def _out_of_fold(folders: Sequence[RunFolder], data: XrayData) -> FindingScores:
    """Return the score of each training image by the fold that did not train on it.

    They have no features: those of different members cannot be compared.
    """
    has_several = len(data.findings) > 1
    scores = {
        (image.name, image.finding): image.score
        for folder in folders
        for image in read_predictions(
            folder, "val", has_several=has_several, is_exclusive=data.exclusive
        )
        or ()
    }
    records, findings = data.records("train"), data.findings if has_several else ("",)
    return FindingScores(
        *(records, data.classes, data.exclusive),
        np.array([[scores[record.name, each] for each in findings] for record in records]),
        np.array([record.labels for record in records]),
        np.empty((len(records), 0), dtype=np.float32),
    )


def _results(folders: Sequence[RunFolder]) -> FoldResults:
    found = []
    for index, folder in enumerate(folders):
        best = verify_checkpoint(folder.best_path)
        evaluations = folder.find_evaluations("val")
        for each in evaluations.findings if evaluations else ():
            decisions = each.at_threshold
            found.append(
                FoldResult(
                    fold=index,
                    finding=each.rule.finding,
                    num_images=each.num_images,
                    num_positive=each.num_positive,
                    epoch=int(best["epoch"]),
                    weights_sha256=str(best["sha256"]),
                    threshold=each.rule.threshold,
                    roc_auc=each.roc_auc.value,
                    average_precision=each.average_precision.value,
                    tnr=decisions.tnr.value if decisions else None,
                    tpr=decisions.tpr.value if decisions else None,
                    balanced_accuracy=decisions.balanced_accuracy.value if decisions else None,
                )
            )
    return FoldResults(tuple(found))
