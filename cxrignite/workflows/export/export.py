"""Export a run: a folder with a model that reads images and decides, without the run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import nn

from cxrignite.data import ImageRecord
from cxrignite.durable_write import write_folder_durably
from cxrignite.engines import BatchScorer
from cxrignite.errors import CxrIgniteError, RecipeError
from cxrignite.recipe import Recipe
from cxrignite.reporting.model_card import CARD, LICENCE, model_card
from cxrignite.reporting.rule_statements import state_threshold
from cxrignite.reporting.text_table import alarm, indented
from cxrignite.reporting.wording import describe_parity, describe_rule
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.runs.exported_model import (
    DESCRIPTION,
    MODEL_FILES,
    ExportedFinding,
    ExportedModel,
    Parity,
)
from cxrignite.runs.run_folder import RunFolder
from cxrignite.runs.run_results import RunResults
from cxrignite.terminal import print_output
from cxrignite.workflows.export.bundle import BUNDLED_MODEL, bundle_files, make_check
from cxrignite.workflows.export.chosen_images import (
    choose_records,
    graph_limits,
    read_images,
    read_scores,
)
from cxrignite.workflows.export.description import (
    describe_findings,
    describe_inputs,
    output_specs,
    versions,
)
from cxrignite.workflows.export.graphs import Kind, check_packages, make_graph
from cxrignite.workflows.export.half_weights import HalfWeights
from cxrignite.workflows.export.parity import CPU_REFERENCE, compare, scored
from cxrignite.workflows.export.scoring_model import Limits, ScoringModel
from cxrignite.workflows.finished_run import FinishedRun, load_run, open_folder
from cxrignite.workflows.parts import build_pipeline
from cxrignite.workflows.predict.predict import usual_batch_size

Dtype = Literal["fp32", "fp16"]
Format = Literal["onnx", "torch", "bundle"]

_MAX_DIFFERENCE = 1e-4  # of a score in float32 on one CPU; larger ones are another computation


@dataclass(frozen=True)
class ExportRequest:
    """Form of an export.

    Attributes:
        output: The folder to write; it does not exist or is empty.
        format: Format of the folder; `bundle` holds a `torch` model.
        dtype: Number format of the stored weights.
        checked: Further images to compare the results on: files, folders and patterns of either.
        operating_point: The site whose operating point is used; None is the run's own.
        licence: File with the licence of the weights; None if unknown.
    """

    output: Path
    format: Format
    dtype: Dtype = "fp32"
    checked: Sequence[Path] = ()
    operating_point: str | None = None
    licence: Path | None = None

    @property
    def kind(self) -> Kind:
        """Format of the model."""
        return "onnx" if self.format == "onnx" else "torch"


def export(recipe: Recipe, run_dir: Path, request: ExportRequest) -> None:
    """Export a run's best weights with its decision rule, which are then compared with the run.

    The recipe is that of the run, whose folder is only read. The folder of the export is written
    completely or not at all.

    Raises:
        RunFolderError: The run has no such operating point.
        RecipeError: The output is not empty; a package is missing; or images are preprocessed by
            the user's own code.
        CheckpointError: The best weights are missing or damaged.
        DataError: An image of `--check` cannot be read, or there is no image to compare on.
        CxrIgniteError: The model cannot be exported, its results differ from those of the run, or
            the disk is full.
    """
    _check_output(request.output)
    is_bundle, licence = request.format == "bundle", _licence(request.licence)
    check_packages(request.kind)
    folder = RunFolder(run_dir)
    with open_folder(folder, recipe.trainer, writes=False) as (session, _):
        run = load_run(folder, session, recipe, request.operating_point)
        stored = read_scores(folder, run.rules)
        limits = graph_limits(run.rules, stored)
        records = run.folder.read_split(recipe.data.source.root)
        pipeline, scorer = build_pipeline(recipe.data), _scorer(run, recipe, records)
        images, num_checked = read_images(
            choose_records(records, run.rules, stored), request.checked, pipeline
        )
        samples = scored(scorer, images, run.rules, num_checked)
        check = make_check(pipeline, scorer, run.rules, samples) if is_bundle else {}
        rows, columns = samples.images[0].shape[-2:]
        reading = describe_inputs(recipe.data, folder, (rows, columns))
        identity = Identity(
            rule_sha256=_rule_sha256(folder, request.operating_point),
            weights_sha256=run.rules[0].weights_sha256,
        )
        graph = make_graph(
            _module(run, limits, request.dtype),
            torch.from_numpy(samples.images[0]),
            request.kind,
            any_size=reading.image_size is None and not reading.preprocess,
            properties=identity._asdict(),
        )
        findings = describe_findings(run.rules, limits, recipe.data.source.classes)
        parity = compare(graph, samples, findings)
        _check_parity(parity, findings, is_exact=request.dtype == "fp32")
        model = ExportedModel(
            kind=request.kind,
            weights_dtype=request.dtype,
            findings=findings,
            exclusive=run.rules[0].exclusive,
            classes=tuple(recipe.data.source.classes),
            operating_point=request.operating_point,
            **identity._asdict(),
            batch_norm_sha256=own.sha256 if (own := run.rules[0].batch_norm) else None,
            views=tuple(asdict(view) for view in run.rules[0].views),
            reading=reading,
            input=graph.input,
            outputs=output_specs(len(findings)),
            run=folder.root.resolve().name,
            versions=versions(request.kind),
            parity=parity,
            files={MODEL_FILES[request.kind]: hashlib.sha256(graph.content).hexdigest()},
        )
        results = RunResults.read(folder, request.operating_point)
        card = model_card(results, exported=model, form=request.format, licence=licence)
        if is_bundle:
            files = bundle_files(model, results, card.encode(), check, licence)
            write_folder_durably(request.output, files | {BUNDLED_MODEL: graph.content})
        else:
            texts = {CARD: card} | ({LICENCE: licence} if licence else {})
            written = {name: text.encode() for name, text in texts.items()}
            write_export(request.output, model, {model.model_file: graph.content, **written})
    print_output(_summary(request.output, model, run.rules, results, len(graph.content)))


class Identity(NamedTuple):
    """Digests of the files of a run that an export is made of."""

    rule_sha256: str
    weights_sha256: str


def write_export(output: Path, model: ExportedModel, files: Mapping[str, bytes]) -> None:
    """Write the folder of an export, completely or not at all.

    Args:
        output: The folder; it does not exist or is empty.
        model: Its description, without digests.
        files: Content of all other files, by name.

    Raises:
        CxrIgniteError: The folder cannot be written, for example because the disk is full.
    """
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    described = replace(model, files=digests).to_json()
    write_folder_durably(output, {**files, DESCRIPTION: described})


def _licence(path: Path | None) -> str | None:
    """Read the licence of the weights.

    Raises:
        RecipeError: It is not a text.
    """
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise RecipeError(f"--licence must be a text file, got {path}: {reason}") from error
    if not text.strip():
        raise RecipeError(f"--licence must be a text file, but {path} is empty")
    return text


def _check_output(output: Path) -> None:
    if output.is_dir() and not any(output.iterdir()):
        return
    if output.exists() or output.is_symlink():
        what = "is not empty" if output.is_dir() else "is not a folder"
        raise RecipeError(f"--output must be a new or empty folder, but {output} {what}")


def _rule_sha256(folder: RunFolder, site: str | None) -> str:
    path = folder.operating_point_path if site is None else folder.site_path(site)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _scorer(run: FinishedRun, recipe: Recipe, records: Sequence[ImageRecord]) -> BatchScorer:
    """Return the scorer of the run's model, as `predict` has it."""
    return BatchScorer(
        run.model,
        **run.computing._asdict(),
        batch_size=usual_batch_size(recipe.data, records),
        exclusive=run.rules[0].exclusive,
        views=run.rules[0].views,
    )


def _module(run: FinishedRun, limits: Sequence[Limits | None], dtype: Dtype) -> nn.Module:
    """Return all steps after the reading of an image as one module on the CPU."""
    shifts = [rule.prior_shift for rule in run.rules]
    first = run.rules[0]
    module = ScoringModel(
        run.model.cpu(), limits, shifts, exclusive=first.exclusive, views=first.views
    )
    return HalfWeights(module) if dtype == "fp16" else module


def _check_parity(parity: Parity, findings: Sequence[ExportedFinding], *, is_exact: bool) -> None:
    """Refuse an export that decides otherwise than the run, or computes something else."""
    num_images = parity.num_images + parity.num_checked
    for index, finding in enumerate(findings):
        different, score = parity.num_decisions_different[index], parity.score_difference[index]
        which = f" about {finding.name}" if len(findings) > 1 else ""
        if different:
            way_out = "use --dtype fp32" if not is_exact else "use --format torch, or report this"
            raise CxrIgniteError(
                f"the exported model must decide as the run, but {different} of {num_images} "
                f"decisions{which} differ (largest difference of a score: {score:.2g}); {way_out}; "
                "nothing was written"
            )
        limit = _MAX_DIFFERENCE if is_exact and parity.reference == CPU_REFERENCE else 1.0
        largest = max(score, parity.probability_difference[index] or 0.0)
        if largest > limit:
            raise CxrIgniteError(
                "the exported model must have the scores and probabilities of the run up to "
                f"{limit:g}, but one{which} differs by {largest:.2g}; use another --format, or "
                "report this; nothing was written"
            )


def _summary(
    output: Path,
    model: ExportedModel,
    rules: Sequence[DecisionRule],
    results: Sequence[RunResults],
    num_bytes: int,
) -> str:
    alarms, described = [], []
    for rule, each in zip(rules, results, strict=True):
        finding = rule.finding if len(rules) > 1 else ""
        stated = state_threshold(each)
        failed = [stated.rule.title] if stated.is_invalid_anywhere else []
        for text in [*(stated.rule.alarms or failed)]:
            alarms += alarm(text, finding)
        text = describe_rule(rule)
        described.append(indented(f"{finding}: {text}" if finding else text))
    head = f"{output}: {model.model_file} ({num_bytes / 1e6:.1f} MB) and {DESCRIPTION}"
    return "\n".join([*alarms, head, *described, *describe_parity(model), ""])
