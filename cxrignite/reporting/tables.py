"""The figures of a split as a person reads them in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cxrignite.reporting.text_table import table_lines
from cxrignite.terminal import counted, wrapped

_RATES = (
    ("TNR (specificity)", "tnr"),
    ("TPR (sensitivity)", "tpr"),
    ("PPV", "ppv"),
    ("NPV", "npv"),
    ("balanced accuracy", "balanced_accuracy"),
)
_CALIBRATION = (
    ("Brier score", "brier"),
    ("calibration error (ECE)", "ece"),
    ("calibration slope", "calibration_slope"),
)
_FITTED = {"platt": "Platt scaling", "temperature": "temperature scaling"}


def score_table(name: str, classes: Sequence[str], content: Mapping[str, Any]) -> str:
    """Lay out what `assessment.assess` returned, every figure with its 95 % interval.

    Args:
        name: What the films are called.
        classes: The negative and the positive class.
        content: The figures.
    """
    negatives, positives = content["num_negative"], content["num_positive"]
    lines = [
        f"{name}: {counted(content['num_images'], 'film')} of "
        f"{counted(content['num_patients'], 'patient')}, "
        f"{negatives} {classes[0]} and {positives} {classes[1]}",
        f"  AUC {_figure(content, 'roc_auc', 4)}   "
        f"average precision {_figure(content, 'average_precision', 4)}",
        "",
    ]
    columns = [content[key] for key in ("at_half", "at_threshold") if key in content]
    titles = [f"at {column['threshold']:.4g}" for column in columns[:1]]
    titles += [f"at the threshold {column['threshold']:.4f}" for column in columns[1:]]
    rows = [["", *titles]]
    rows += [[label, *(_figure(each, key) for each in columns)] for label, key in _RATES]
    rows.append(["missed", *(f"{each['fn']} of {positives}" for each in columns)])
    rows.append(["false alarms", *(f"{each['fp']} of {negatives}" for each in columns)])
    scales = content["calibration"]
    shown = [scales[scale] for scale in ("raw", "natural") if scales[scale] is not None]
    titles = ["of the raw score", "of the natural score"][: len(shown)]
    rows += [[], ["", *titles]]
    rows += [[label, *(_figure(each, key) for each in shown)] for label, key in _CALIBRATION]
    fitted = [name for name in _FITTED if scales[name]]
    if fitted:
        rows.append(["", *(_FITTED[name] for name in fitted)])
        cells = [_figure(scales[name], "ece") for name in fitted]
        rows.append(["calibration error (ECE)", *cells])
    lines += table_lines(rows, indent="  ")
    # Three figures with their intervals in 80 columns leave no room for a label.
    groups = [["  ", "TNR", "TPR", "AUC"]] if content["subgroups"] else []
    for group in content["subgroups"]:
        groups.append([f"  {group['attribute']} {group['value']} ({group['num_images']})"])
        groups.append(["", *(_figure(group, key) for key in ("tnr", "tpr", "roc_auc"))])
    return "\n".join([*lines, *([""] if groups else []), *table_lines(groups, indent="  ")])


def banner(certificate: Mapping[str, Any] | None) -> str | None:
    """A warning that cannot be overlooked; none where nothing speaks against the threshold.

    Args:
        certificate: What `assessment.judge` returned.
    """
    if certificate is None or not certificate["reasons"]:
        return None
    if certificate["is_void"]:
        headline = (
            f"THE CERTIFICATE IS VOID FOR THESE FILMS (TNR of at least {certificate['min_tnr']:g} "
            f"with {100 * certificate['confidence']:g} % confidence)"
        )
    elif certificate["is_contradicted"]:
        headline = "THE TNR OF THESE FILMS IS LOWER THAN WAS ASKED FOR"
    else:
        headline = "THE THRESHOLD WAS CHOSEN ON FILMS OF ANOTHER KIND"
    reasons = [indented(reason, "  - ") for reason in certificate["reasons"]]
    is_of_run = certificate["chosen_on"] in ("val", "calibration")
    advice = (
        "choose one for this site with `cxrignite recalibrate`"
        if is_of_run
        else f"the threshold of {certificate['chosen_on']} does not serve these films: "
        "choose another from films like these"
    )
    return "\n".join([f"!! {headline}", *reasons, indented(advice)])


def alarm(text: str) -> list[str]:
    """A warning as it stands before everything else; no line where there is nothing to say."""
    return [indented(text, "!! ")] if text else []


def indented(text: str, first: str = "  ") -> str:
    """A remark in lines that fit the terminal.

    Args:
        text: One line.
        first: How the first line begins; the others begin further in.
    """
    return wrapped(text, first, " " * len(first) + "  ")


def _figure(block: Mapping[str, Any], key: str, digits: int = 3) -> str:
    value = block[key]
    if value is None:
        return "undefined"
    pair = block.get("intervals", {}).get(key) or block.get("patient_intervals", {}).get(key)
    told = f"{value:.{digits}f}"
    return f"{told} ({pair[0]:.3f} to {pair[1]:.3f})" if pair else told
