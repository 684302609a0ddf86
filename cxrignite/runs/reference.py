"""Features of the negatives that chose a threshold; new images are compared with them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cxrignite.durable_write import write_durably
from cxrignite.errors import DamagedRunError, is_resource_error
from cxrignite.runs.scores import FindingScores

_MAX_IMAGES = 2_000


@dataclass(frozen=True)
class Reference:
    """Features of the images without a finding that chose its threshold.

    Attributes:
        features: Input of the classifier's head, `(N, F)`.
        patients: Patient of each image, `(N,)`.
        is_negative: True if the image is known to be without the finding, `(N, K)`.
    """

    features: NDArray[np.float32]
    patients: list[str]
    is_negative: NDArray[np.bool_]

    @classmethod
    def of(cls, scores: FindingScores) -> Self:
        """Return the reference of a split: up to 2,000 images of each finding, evenly spread."""
        is_negative = scores.y_true == 0
        is_kept = np.zeros(len(is_negative), dtype=bool)
        for each in is_negative.T:
            missing = min(each.sum(), _MAX_IMAGES) - (each & is_kept).sum()
            rest = np.flatnonzero(each & ~is_kept)
            if missing > 0:
                places = np.linspace(0, len(rest) - 1, missing)
                is_kept[rest[places.round().astype(int)]] = True
        kept = np.flatnonzero(is_kept)
        patients = scores.patients
        return cls(scores.features[kept], [patients[row] for row in kept], is_negative[kept])

    def negatives(self, index: int) -> tuple[NDArray[np.float32], list[str]]:
        """Return features and patients of the images without one finding."""
        rows = np.flatnonzero(self.is_negative[:, index])
        return self.features[rows], [self.patients[row] for row in rows]

    def write(self, path: Path, write: Callable[[Path, memoryview], None] = write_durably) -> None:
        """Write an `.npz` file, whole or not at all.

        Raises:
            CxrIgniteError: If it cannot be written.
        """
        content = io.BytesIO()
        np.savez_compressed(
            content,
            features=self.features,
            patients=np.array(self.patients, str),
            is_negative=self.is_negative,
        )
        write(path, content.getbuffer())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the file that `write` wrote.

        Raises:
            DamagedRunError: If the file is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as content:
                features, patients = content["features"], content["patients"]
                is_negative = content["is_negative"]
            if features.shape != (len(patients), *features.shape[1:2]):
                raise ValueError(f"features of shape {features.shape} for {len(patients)} images")
            if is_negative.dtype != bool or is_negative.shape[:-1] != (len(patients),):
                raise ValueError(f"is_negative of shape {is_negative.shape}")
            return cls(
                features.astype(np.float32, casting="same_kind"), patients.tolist(), is_negative
            )
        except Exception as error:  # zipfile, numpy and zlib raise errors of many kinds
            if is_resource_error(error):
                raise
            reason = str(error).partition("\n")[0]
            raise DamagedRunError(f"{path} is damaged: {reason}") from error
