"""What `fit` would make of these films: its splits, the prior its loss sees, its certificate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cxrignite.data import Film, XrayData
from cxrignite.errors import ConstraintError, CxrIgniteError
from cxrignite.functional import ImbalanceLedger, num_negatives_needed
from cxrignite.functional.certificate import num_false_positives_allowed
from cxrignite.handlers import ThresholdSearch
from cxrignite.recipe import Recipe
from cxrignite.runs.audit_result import Finding
from cxrignite.workflows.parts import (
    build_data,
    build_ledger,
    build_loss,
    check_certificates,
    deciding_split,
)

_USUAL_CONFIDENCE = 0.95
_USUAL_TNR = 0.93


@dataclass(frozen=True)
class Plan:
    """What a recipe would make of films.

    Attributes:
        data: The films in the splits that `fit` would train on.
        ledger: What sampler and loss do to the prior; None where it cannot be told.
        sentences: The same in words, and what certificate the films allow.
        findings: What speaks against it.
    """

    data: XrayData
    ledger: ImbalanceLedger | None
    sentences: list[str]
    findings: list[Finding]


def counts_by_split(data: XrayData) -> list[Mapping[str, Any]]:
    """Films and patients of each split that has any, by class."""
    rows: list[Mapping[str, Any]] = []
    for split in data.splits:
        films = data.films(split)
        row: dict[str, Any] = {"split": split, "films": len(films)}
        row["patients"] = len({film.patient for film in films})
        for label, name in enumerate(data.classes):
            ours = [film for film in films if film.label == label]
            row[name] = len(ours)
            row[f"{name} patients"] = len({film.patient for film in ours})
        rows.append(row)
    return rows


def plan_training(recipe: Recipe, films: Sequence[Film]) -> Plan:
    """Work out what `fit` would, short of building a model.

    Args:
        recipe: Sampler, loss and wished operating point.
        films: In the splits that `fit` would make.
    """
    data = build_data(recipe.data, list(films), recipe.seed, device=torch.device("cpu"))
    ledger, sentences, findings = None, [], []
    if {"train", deciding_split(data)} <= set(data.splits):
        try:
            ledger = build_ledger(data, build_loss(recipe.loss, data, torch.device("cpu")))
        except (CxrIgniteError, ValueError) as error:
            findings.append(Finding("cannot_split", 1, str(error)))
        else:
            sentences += _prior(ledger, data.classes[1])
            if ledger.corrects_twice:
                text = "the sampler evens the classes out, and the loss weighs them besides"
                findings.append(Finding("corrected_twice", 1, text))
        findings += _uncertifiable(recipe, data)
        sentences += _certificates(recipe, data)
    return Plan(data, ledger, sentences, findings)


def _prior(ledger: ImbalanceLedger, positive: str) -> list[str]:
    told = [f"{ledger.prevalence:.1%} of the training films are {positive}"]
    natural = ledger.natural([0.9])
    if ledger.seen_prevalence is None or natural is None:
        return [*told, "what the loss makes of that is not known: scores are a ranking only"]
    return [
        *told,
        f"after sampler and loss training sees {ledger.seen_prevalence:.1%}: "
        f"a score of 0.900 stands for {natural[0]:.3f} where as many are positive as in training",
    ]


def _uncertifiable(recipe: Recipe, data: XrayData) -> list[Finding]:
    try:
        check_certificates(recipe.validator.handlers, data)
    except ConstraintError as error:
        return [Finding("too_few_negatives", 1, str(error))]
    except CxrIgniteError as error:
        return [Finding("cannot_split", 1, str(error))]
    return []


def _certificates(recipe: Recipe, data: XrayData) -> list[str]:
    """What the negatives of the deciding split allow, for each search of the recipe."""
    split = deciding_split(data)
    have = len({film.patient for film in data.films(split) if film.label == 0})
    searches = [each for each in recipe.validator.handlers if isinstance(each, ThresholdSearch)]
    wishes = [(each.min_tnr, each.confidence or _USUAL_CONFIDENCE) for each in searches]
    told = []
    for min_tnr, confidence in wishes or [(_USUAL_TNR, _USUAL_CONFIDENCE)]:
        allowed = num_false_positives_allowed(have, min_tnr, confidence)
        needed = num_negatives_needed(min_tnr, confidence)
        can = (
            f"can certify, with {allowed} false positives"
            if allowed is not None
            else f"cannot certify (it takes {needed})"
        )
        told.append(
            f"the {have} negative patients of {split} {can}, "
            f"a TNR of {min_tnr:g} with {100 * confidence:g} % confidence"
        )
    if split == "val":
        told.append(
            "val picks the checkpoint too, so nothing chosen on it is certified: "
            "set data.calibration_fraction"
        )
    return told
