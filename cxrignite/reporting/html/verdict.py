"""The operating point in words: what is promised, for which films, and what keeps it from more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cxrignite.reporting.html.numbers import (
    UNDEFINED,
    percent,
    plain_percent,
    score_text,
)
from cxrignite.reporting.html.reading import Record
from cxrignite.runs.usability import films_in_words, status_words, unusable_warning
from cxrignite.terminal import counted

_SPLIT_WORDS = {"val": "validation", "train": "training"}

_TITLES = {
    "certified": "Certified",
    "empirical": "Not certified: met on the sample only",
    "infeasible": "Not met",
}


@dataclass(frozen=True)
class Verdict:
    """An operating point in words.

    Attributes:
        kind: `certified`, `empirical`, `infeasible` or `none`.
        title: The verdict in a few words.
        sentence: What it says, and about which films.
        remarks: Why it is not more, and what more would need.
        threshold: The raw score at and above which a film is called positive.
        natural_threshold: The same as a probability at the training films' prevalence;
            empty where it is not known.
        promise: The specificity that is promised, or that nothing is.
        promise_terms: On which terms.
        warnings: Why the threshold is not usable, to be read first; a line for each set of films.
    """

    kind: str
    title: str
    sentence: str
    remarks: Sequence[str]
    threshold: str
    natural_threshold: str = ""
    promise: str = UNDEFINED
    promise_terms: str = ""
    warnings: Sequence[str] = ()


def split_word(name: str) -> str:
    """What a reader calls a set of films: `val` is the validation split; sites keep their name."""
    return _SPLIT_WORDS.get(name, name)


def usability_warnings(point: Record, scored: Mapping[str, Record]) -> list[str]:
    """List why a threshold is not usable: by the films that chose it, then by later ones.

    Args:
        point: The operating point.
        scored: Figures at it by the name of their films.
    """
    films = {point.text("chosen_on"): point} | {
        name: figures for name, figures in scored.items() if name != point.text("chosen_on")
    }
    lines = [
        unusable_warning(
            each.texts("not_usable"),
            films_in_words(name) if each is point else f"the {split_word(name)} films",
        )
        for name, each in films.items()
    ]
    return list(filter(None, lines))


def describe_verdict(
    point: Record,
    classes: tuple[str, str],
    *,
    is_void: bool = False,
    warnings: Sequence[str] = (),
) -> Verdict:
    """Put an operating point into words.

    Args:
        point: `operating_point.json`; empty where none was chosen.
        classes: The negative and the positive class.
        is_void: Whether films scored since contradict it or are of another kind.
        warnings: What `usability_warnings` returned.
    """
    kind = point.text("verdict")
    if kind not in _TITLES or point.number("threshold") is None:
        sentence = "This run has no threshold of its own; decisions are shown at 0.5 alone."
        remarks = [note] if (note := point.text("note")) else []
        return Verdict("none", "No operating point", sentence, remarks, UNDEFINED)
    title = _TITLES[kind]
    if kind == "certified" and is_void:
        title = "Certified for the films it was chosen on, and not for films scored since"
    sentence = {
        "certified": _certified_sentence,
        "empirical": _empirical_sentence,
        "infeasible": _infeasible_sentence,
    }[kind](point, classes[0])
    asked = plain_percent(point.number("min_tnr"))
    natural = point.number("threshold_natural")
    is_certified = kind == "certified"
    confidence = plain_percent(point.number("confidence"))
    return Verdict(
        kind,
        status_words(title, warnings).capitalize() if warnings else title,
        sentence,
        _remarks(point, classes[0]),
        score_text(point.number("threshold")),
        score_text(natural) if natural is not None else "",
        f"at least {asked}" if is_certified else "nothing",
        f"with {confidence} confidence, for films like those it was chosen on"
        if is_certified
        else f"asked for: {asked}",
        warnings,
    )


def _certified_sentence(point: Record, negative: str) -> str:
    asked, confidence = plain_percent(point.number("min_tnr")), point.number("confidence")
    if _is_by_patient(point):
        share = f"at least {asked} of {negative} patients have every film below the threshold"
        condition = "if their films are like the ones it was chosen on"
    else:
        share = f"at least {asked} of {negative} films like the ones it was chosen on"
        condition = "stay below the threshold"
    joint = ", " if _is_by_patient(point) else " "
    return f"With {plain_percent(confidence)} confidence, {share}{joint}{condition}."


def _empirical_sentence(point: Record, negative: str) -> str:
    return (
        f"{percent(point.number('tnr'))} of the {_sample(point, negative)} stayed below the "
        f"threshold ({plain_percent(point.number('min_tnr'))} was asked for). That is an "
        "observation on the films that the threshold was fitted to, and no promise for others."
    )


def _infeasible_sentence(point: Record, negative: str) -> str:
    asked, confidence = point.number("min_tnr"), point.number("confidence")
    lowest = score_text(point.number("min_threshold"))
    assurance = "" if confidence is None else f" with {plain_percent(confidence)} confidence"
    return (
        f"No threshold of at least {lowest} could be shown to keep {plain_percent(asked)} of "
        f"{negative} films below it{assurance}, on the {_sample(point, negative)}. The threshold "
        "shown here is the one with the highest specificity found. Do not rely on it."
    )


def _remarks(point: Record, negative: str) -> list[str]:
    remarks = []
    kind, note = point.text("verdict"), point.text("note").strip()
    if note:
        remarks.append(f"Why it is not certified: {note}")
    elif kind == "empirical" and point.number("confidence") is None:
        remarks.append("Why it is not certified: the recipe asks for no confidence.")
    bound = point.number("tnr_lower_bound")
    if kind == "certified" and bound is not None:
        whose = "patient" if _is_by_patient(point) else "film"
        remarks.append(
            f"Lower bound of the specificity by {whose} at this threshold, with the same "
            f"confidence: {percent(bound)}."
        )
    needed, present = point.count("num_negatives_needed"), point.count("num_negative_patients")
    if kind == "infeasible" and needed is not None:
        unit = "patients" if _is_by_patient(point) else "films of different patients"
        had = "" if present is None else f"; there were {present:,}"
        remarks.append(
            f"A certificate for {plain_percent(point.number('min_tnr'))} needs at least {needed:,} "
            f"{negative} {unit} with no more false alarms than here{had}."
        )
    return remarks


def _sample(point: Record, negative: str) -> str:
    number, patients = point.count("num_negative"), point.count("num_negative_patients")
    films = f"{negative} films" if number is None else f"{number:,} {negative} films"
    if patients is not None and _is_by_patient(point):
        films += f" ({counted(patients, 'patient')})"
    chosen_on = point.text("chosen_on")
    if not chosen_on:
        return f"{films} it was chosen on"
    is_split = chosen_on in ("val", "calibration")
    return f"{films} of {f'the {split_word(chosen_on)} split' if is_split else chosen_on}"


def _is_by_patient(point: Record) -> bool:
    """Whether negatives were counted by patient; a patient a film each comes to the same."""
    patients = point.count("num_negative_patients")
    return patients is not None and patients != point.count("num_negative")
