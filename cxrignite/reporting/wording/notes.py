"""Notes that explain figures, the same in every report and model card."""

from __future__ import annotations

from typing import NamedTuple

RESEARCH_ONLY = "For research only. Not a medical device."

OBSERVED = "Guaranteed and observed, for each set of evaluated images"

AVERAGED_BY_PATIENT = "95 % intervals by patient (bootstrap)."
OBSERVED_INTERVALS = "Intervals by image (Clopper-Pearson)."
RANKING_INTERVALS = "Intervals by image (DeLong) and by patient (bootstrap)."
RATE_INTERVALS = (
    "First interval by image (Clopper-Pearson), second by patient (bootstrap). Images of one "
    "patient resemble each other; only the second interval accounts for that."
)
SUBGROUPS = (
    "At the chosen threshold. Small groups have wide intervals, and among many groups some have "
    "low figures by chance."
)
DESCRIPTION = "model.json holds the decision rule and the preprocessing in exact words and numbers."
OUTPUTS = {
    "score": "output of the network after the sigmoid or softmax, in [0, 1]",
    "probability": "score corrected to the share of positives in the training images, in [0, 1]; "
    "NaN if unknown",
    "decision": "position of a word in the table below; -1 without a threshold",
}
"""Meaning of each output of an exported model."""

RUN_BUNDLE = (
    "This folder is a MONAI bundle. Run it inside of the folder; IMAGES is a folder of images, and "
    "eval/scores.csv gets their scores. The last command scores made-up images of the bundle, and "
    "compares the scores with those of the model of the run."
)
BUNDLE_COMMANDS = (
    "pip install monai pytorch-ignite fire pillow simplejpeg pydicom",
    "python -m monai.bundle run --meta_file configs/metadata.json "
    "--config_file configs/inference.json --dataset_dir IMAGES",
    "python -m monai.bundle run --meta_file configs/metadata.json "
    "--config_file \"['configs/inference.json','configs/check.json']\"",
)

NO_RESULTS = "There are no results for these images."
NO_SPLIT = "There is no record of the split."
NO_SUBGROUPS = "No subgroups were measured."


class Term(NamedTuple):
    """A term, and the text that explains it."""

    name: str
    text: str


def define_rates(classes: tuple[str, str], *, refers: bool) -> list[Term]:
    """Define specificity, sensitivity and the decision of an image.

    Args:
        classes: The negative and the positive class.
        refers: True if the images between two thresholds are referred.

    Returns:
        The terms; the last one has no name, only sentences.
    """
    negative, positive = classes
    of_negatives = f"not called {positive}" if refers else f"called {negative}"
    of_positives = f"not called {negative}" if refers else f"called {positive}"
    decision = (
        f"An image is called {positive} if its score is at or above the "
        f"{'upper ' if refers else ''}threshold."
    )
    if refers:
        decision += (
            f" It is called {negative} if its score is below the lower one. An image between the "
            "two is referred to a reader; it counts as neither a false positive nor a false "
            "negative."
        )
    return [
        Term(
            "Specificity",
            f" (true negative rate, TNR): the share of {negative} images that are {of_negatives}.",
        ),
        Term(
            "Sensitivity",
            f" (true positive rate, TPR): the share of {positive} images that are {of_positives}.",
        ),
        Term("", f"{decision} The range with a figure is its 95 % confidence interval."),
    ]


def describe_scales(positive: str) -> str:
    """Describe the scales of the scores, whose calibration is shown."""
    return (
        "The score is the model's output. The probability is the score corrected to the share of "
        f"{positive} in the training images. Platt and temperature scaling are fitted on the "
        "validation images. None of them changes a decision. Intervals by patient (bootstrap)."
    )


def describe_untested(shown: str, *, has_test: bool, num_findings: int = 1) -> Term:
    """State that no test split was evaluated, so that the figures are those of other images.

    Args:
        shown: Name of the images that are shown.
        has_test: True if there is a test split.
        num_findings: Number of findings.
    """
    thresholds = "its threshold was" if num_findings == 1 else "its thresholds were"
    return Term(
        "The test split has not been evaluated." if has_test else "There is no test split.",
        f" All figures below are for the {shown} images, on which the model or {thresholds} "
        "chosen. Expect lower figures on new images.",
    )


def describe_shared(num_patients: int, num_files: int) -> list[Term]:
    """State how many patients and files are in more than one split."""
    return [
        Term("Patients with images in more than one split: ", f"{num_patients:,}"),
        Term("Files with the same content in more than one split: ", f"{num_files:,}"),
    ]
