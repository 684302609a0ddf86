"""What each set of films got at the threshold, beside what was promised, and where the two part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from cxrignite.data import Film
from cxrignite.data.leakage import describe_leaks, leaked_pairs
from cxrignite.reporting.html.numbers import (
    UNDEFINED,
    Estimate,
    decimal_estimate,
    observed_share,
    plain_percent,
    rate,
    rate_ends,
    score_text,
)
from cxrignite.reporting.html.reading import Record, RunRecords
from cxrignite.reporting.html.verdict import split_word
from cxrignite.runs.usability import NOT_USABLE
from cxrignite.terminal import counted


class Caution(NamedTuple):
    """What a reader has to know before any figure.

    Attributes:
        title: In a few words.
        text: In a sentence or two.
        reasons: Further lines.
    """

    title: str
    text: str
    reasons: Sequence[str] = ()


class Observation(NamedTuple):
    """What a set of films got at the threshold.

    Attributes:
        films: Which films.
        size: How many of which class, of how many patients.
        threshold: As text.
        tnr: Specificity.
        tpr: Sensitivity.
        reading: What that says about the promise.
    """

    films: str
    size: str
    threshold: str = UNDEFINED
    tnr: Estimate = Estimate()
    tpr: Estimate = Estimate()
    reading: str = ""


def is_void(metrics: Record) -> bool:
    """Whether the certificate does not hold for these films: they contradict it, or differ."""
    return metrics.flag("certificate.is_void")


def cautions_of(name: str, metrics: Record, point: Record) -> list[Caution]:
    """What the figures of one set of films say against the operating point.

    Args:
        name: Of the films.
        metrics: Their figures.
        point: The run's operating point.
    """
    films = f"{split_word(name)} films"
    theirs, decisions = metrics.child("operating_point"), metrics.child("at_threshold")
    certificate, asked = metrics.child("certificate"), theirs.number("min_tnr")
    tnr, ends = rate(decisions, "tnr"), rate_ends(decisions, "tnr")
    seen = f"On them the specificity is {tnr.value} (95 % interval {tnr.interval})"
    cautions = []
    if is_void(metrics):
        contradicted = certificate.flag("is_contradicted")
        because = "they contradict it" if contradicted else "they are of another kind"
        promise = plain_percent(certificate.number("min_tnr"))
        text = f"{seen}; promised was at least {promise}, for films like those it was chosen on."
        title = f"The certificate is void for the {films}: {because}"
        cautions.append(Caution(title, text, certificate.texts("reasons") or [_shift(metrics)]))
    elif asked is not None and ends is not None and ends[1] < asked:
        text = f"{seen}; asked for was {plain_percent(asked)}. The whole interval lies below that."
        cautions.append(Caution(f"The {films} get less specificity than was asked for", text))
    if metrics.flag("shift.is_detected") and not is_void(metrics):
        cautions.append(Caution(f"The {films} look different to the model", _shift(metrics)))
    # A site's own threshold is another one by intention.
    if theirs and not is_of_site(metrics, point):
        stale = theirs.number("threshold") != point.number("threshold")
        if stale or _other_weights(theirs, point):
            text = (
                f"They were scored at {score_text(theirs.number('threshold'))}; the threshold of "
                f"this run is {score_text(point.number('threshold'))} now, or the weights are "
                "others. Score the films again."
            )
            title = f"The figures of the {films} belong to another threshold"
            cautions.append(Caution(title, text))
    return cautions


def weights_caution(point: Record, best: Record) -> list[Caution]:
    """Whether the threshold was chosen by scores of other weights than the run has.

    Args:
        point: The run's operating point.
        best: What is known of the best weights.
    """
    theirs, ours = point.text("weights_sha256"), best.text("sha256")
    if not theirs or not ours or theirs == ours:
        return []
    text = "A threshold means nothing for scores that did not choose it: choose it again."
    return [Caution("The threshold belongs to other weights than this run has", text)]


def leakage_caution(films: Sequence[Film]) -> list[Caution]:
    """Whether films were judged that an earlier split knows, which flatters their figures.

    Args:
        films: The films of every split.
    """
    pairs = leaked_pairs(films)
    if not pairs:
        return []
    splits = Counter((pair.first.split, pair.second.split) for pair in pairs)
    reasons = [
        f"{split_word(second)} and {split_word(first)}: {counted(number, 'pair')}"
        for (first, second), number in splits.items()
    ]
    text = (
        f"The splits share {describe_leaks(pairs)}; leakage.csv names them. The figures of the "
        "later split flatter, and nothing is certified where the threshold was chosen on it."
    )
    return [Caution("Patients or films stand on two sides", text, reasons)]


def is_of_site(metrics: Record, point: Record) -> bool:
    """Whether these films were decided by a site's own operating point."""
    chosen_on = metrics.text("operating_point.chosen_on")
    return chosen_on not in ("", point.text("chosen_on"))


def _other_weights(theirs: Record, ours: Record) -> bool:
    digests = {record.text("weights_sha256") for record in (theirs, ours)} - {""}
    return len(digests) == 2


def _shift(metrics: Record) -> str:
    area = decimal_estimate(metrics.number("shift.roc_auc"), metrics.interval("shift.interval"), 2)
    return (
        "From what the model sees in them, a simple classifier tells these films from the films "
        f"the threshold was chosen on with an AUC of {area.value} (95 % interval {area.interval}); "
        "0.5 would mean that it cannot. What was promised for those films need not hold for these."
    )


def observations(records: RunRecords) -> list[Observation]:
    """What each set of films got at the threshold, the ones it was chosen on first."""
    point, metrics = records.point, records.metrics
    chosen_on = point.text("chosen_on") or "val"
    rows = []
    is_chosen = point.number("threshold") is not None
    if is_chosen and not metrics.get(chosen_on, Record()).child("at_threshold"):
        rows.append(_chosen_on_row(chosen_on, point, records.classes))
    usual = [chosen_on, "val", "calibration", "test"]
    for name in dict.fromkeys([*usual, *metrics]):
        figures = metrics.get(name)
        if figures is not None:
            row = _observation(name, figures, records.classes, name == chosen_on)
            if is_of_site(figures, point):
                site = figures.text("operating_point.chosen_on")
                row = row._replace(reading=f"threshold of {site}; {row.reading}")
            rows.append(row)
        elif name == "test" and "test" in records.split_names and not records.has_metrics("test"):
            rows.append(Observation("test", _split_size(records, "test"), reading="not looked at"))
    return rows


def _chosen_on_row(name: str, point: Record, classes: tuple[str, str]) -> Observation:
    negatives, positives = point.count("num_negative"), point.count("num_positive")
    alarms, missed = point.count("num_false_positive"), point.count("num_false_negative")
    kept = None if negatives is None or alarms is None else negatives - alarms
    found = None if positives is None or missed is None else positives - missed
    return Observation(
        split_word(name),
        _size(negatives, positives, None, classes),
        score_text(point.number("threshold")),
        observed_share(kept, alarms),
        observed_share(found, missed),
        _usable_first(point, _chosen_on_reading(point)),
    )


def _observation(
    name: str, figures: Record, classes: tuple[str, str], is_chosen_on: bool
) -> Observation:
    decisions, theirs = figures.child("at_threshold"), figures.child("operating_point")
    positives, total = figures.count("num_positive"), figures.count("num_images")
    negatives = None if positives is None or total is None else total - positives
    reading = _chosen_on_reading(theirs) if is_chosen_on else _reading(figures)
    if name == "val":
        # Whoever chose the best weights by these films got the luckiest figure of many.
        reading = f"{reading}; the weights were chosen here too, which flatters it"
    looks = figures.count("num_looks")
    if looks is not None and looks > 1:
        reading = f"{reading}; scored {looks} times, so no first look any more"
    return Observation(
        split_word(name),
        _size(negatives, positives, figures.count("num_patients"), classes),
        score_text(decisions.number("threshold")),
        rate(decisions, "tnr"),
        rate(decisions, "tpr"),
        _usable_first(figures, reading.removeprefix("; ")),
    )


def _usable_first(record: Record, reading: str) -> str:
    reasons = record.texts("not_usable")
    words = [f"{NOT_USABLE}: {'; '.join(reasons)}"] if reasons else []
    return "; ".join(filter(None, [*words, reading]))


def _chosen_on_reading(point: Record) -> str:
    asked = plain_percent(point.number("min_tnr"))
    return {
        "certified": f"the threshold was chosen here; promised: at least {asked}",
        "empirical": f"the threshold was chosen here; asked for: {asked}, nothing promised",
        "infeasible": f"the threshold was chosen here; asked for: {asked}, not met",
    }.get(point.text("verdict"), "")


def _reading(figures: Record) -> str:
    certificate, decisions = figures.child("certificate"), figures.child("at_threshold")
    asked, seen = figures.number("operating_point.min_tnr"), decisions.number("tnr")
    ends = rate_ends(decisions, "tnr")
    if is_void(figures) and certificate.flag("is_contradicted"):
        return ": ".join(["contradicts the certificate", *certificate.texts("reasons")[:1]])
    if is_void(figures):
        return "the promise does not cover these films"
    if asked is None or seen is None or ends is None:
        return ""
    promised = certificate.text("verdict") == "certified"
    wanted = f"the {plain_percent(asked)} {'promised' if promised else 'asked for'}"
    if ends[1] < asked:
        return f"below {wanted}, with its whole interval"
    if seen < asked:
        return f"below {wanted}, which its interval reaches"
    return f"in agreement with {wanted}"


def _split_size(records: RunRecords, split: str) -> str:
    films = [film for film in records.films if film.split == split]
    positives = sum(film.label for film in films)
    patients = len({film.patient for film in films})
    return _size(len(films) - positives, positives, patients, records.classes)


def _size(
    negatives: int | None, positives: int | None, patients: int | None, classes: tuple[str, str]
) -> str:
    pairs = zip((negatives, positives), classes, strict=True)
    parts = [f"{number:,} {name}" for number, name in pairs if number is not None]
    if patients is not None:
        parts.append(counted(patients, "patient"))
    return ", ".join(parts)
