"""Request of `predict`: the images to score, and the output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cxrignite.errors import RecipeError
from cxrignite.functional import PriorShift


@dataclass(frozen=True)
class Request:
    """Images to score, and the output.

    Attributes:
        output: The table; the other files are named after it.
        files: Images, folders of images, and patterns of either.
        patient_column: The manifest's column of the patients; null takes `patient` if there is one.
        operating_point: The site whose operating point is used; null is the run's own.
        prevalence: Share of positives for the probabilities, in (0, 1); null is that of the
            training images.
        overwrite: Start again, replacing earlier results.
    """

    output: Path
    files: Sequence[Path]
    manifest: Path | None
    path_column: str
    patient_column: str | None
    prevalence: float | None
    overwrite: bool
    operating_point: str | None = None
    draws_maps: bool = False

    def check_prevalence(
        self, classes: Sequence[str], exclusive: bool, shifts: Sequence[PriorShift]
    ) -> None:
        """Refuse a prevalence at which the probabilities are unknown.

        Args:
            classes: Name of an image without a finding, then the findings.
            exclusive: True if the findings are exclusive classes.
            shifts: The prior shift of each finding.

        Raises:
            RecipeError: The classes are exclusive, or the effect of the loss is unknown.
        """
        if self.prevalence is None:
            return
        if exclusive:
            raise RecipeError(
                f"--prevalence needs findings that may occur together, got {self.prevalence:g}: "
                f"each of the {len(classes)} exclusive classes has its own share; omit --prevalence"
            )
        if any(shift.pos_weight is None for shift in shifts):
            raise RecipeError(
                f"--prevalence needs a run with probabilities, got {self.prevalence:g}: the "
                "effect of this run's loss on the scores is unknown; omit --prevalence"
            )
