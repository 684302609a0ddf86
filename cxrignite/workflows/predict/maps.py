"""Maps of new images, drawn in small batches to save memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cxrignite.data import ImageRecord
from cxrignite.durable_write import writing
from cxrignite.engines.batches import fill_up
from cxrignite.functional import UNKNOWN_LABEL, CamMethod, grad_cam
from cxrignite.handlers import Explanation
from cxrignite.handlers.map_picture import as_png, explanation_pictures, picture_name
from cxrignite.nn import BinaryClassifier
from cxrignite.output_marker import mark_output

_BATCH_SIZE = 16


class DrawnMap(NamedTuple):
    """File name and strength of a drawn map.

    Attributes:
        raw_max: Highest value of the map; 0 if no region contributes to the class.
        picture: The file of image, map and caption. The file with only the map over the image has
            the suffix `.overlay.png`.
    """

    raw_max: float
    picture: str


class MapDrawer:
    """Drawer of the maps of all scored images.

    A map's pixels do not depend on the other images of its batch, and its strength is not compared
    with other maps. So a resumed command gives the same pictures as an uninterrupted one.

    Args:
        method: The method, such as `grad_cam`.
        classes: The negative and the positive class.
        model: The classifier.
        layer: The layer of the maps.
        directory: The folder of all pictures; created if missing.
        threshold: The threshold of the decisions in the captions.
        lower: A score below it is negative, if the images between both are referred.
        finding: Position of the finding among the model's outputs.
        subfolder: Folder of this finding's pictures inside of `directory`; empty for none.
    """

    def __init__(
        self,
        method: CamMethod,
        classes: tuple[str, str],
        model: BinaryClassifier,
        layer: str,
        directory: Path,
        threshold: float,
        lower: float | None = None,
        finding: int = 0,
        subfolder: str = "",
    ) -> None:
        self._finding, self._below = finding, f"{subfolder}/" if subfolder else ""
        self._method, self._classes = method, classes
        self._model, self._layer = model, layer
        self._directory, self._threshold, self._lower = directory, threshold, lower
        self._device = next(model.parameters()).device
        mark_output(directory)
        (directory / subfolder).mkdir(exist_ok=True)

    def draw(
        self,
        records: Sequence[ImageRecord],
        patients: Sequence[str],
        images: Tensor,
        y_score: NDArray[np.float64],
        first: int,
    ) -> list[DrawnMap]:
        """Draw the maps of a batch.

        Args:
            records: Its `n` images.
            patients: Their patients.
            images: Shape `(n, 1, H, W)`, uint8.
            y_score: Their scores, shape `(n,)`.
            first: Number of the first image; the others follow.

        Returns:
            One map per image.

        Raises:
            NonFiniteError: A map is NaN or infinite.
            CxrIgniteError: A picture cannot be written.
        """
        drawn = []
        for start in range(0, len(records), _BATCH_SIZE):
            part = images[start : start + _BATCH_SIZE]
            # Filled to one shape, as for the scores, so that the last bits are always the same.
            filled = fill_up(part, _BATCH_SIZE).to(self._device)
            found = grad_cam(
                self._model, filled, self._layer, method=self._method, output=self._finding
            )
            for row in range(len(part)):
                number = start + row
                record = records[number]
                explanation = Explanation(
                    about={"path": record.name, "patient": patients[number]},
                    selection=("fixed",),
                    y_score=float(y_score[number]),
                    y_true=UNKNOWN_LABEL,
                    threshold=self._threshold,
                    image=part[row],
                    importance=found.maps[row].cpu(),
                    raw_max=float(found.raw_max[row]),
                    strength=None,
                    name=picture_name(first + number, record.name),
                    lower=self._lower,
                )
                drawn.append(self._write(explanation))
        return drawn

    def _write(self, explanation: Explanation) -> DrawnMap:
        where = f"{self._method} at {self._layer}"
        pictures = explanation_pictures(explanation, self._classes, where)
        names = (self._below + explanation.picture, self._below + explanation.overlay)
        for name, pixels in zip(names, pictures, strict=True):
            # Not durably: a picture counts only if its image has a row, and else is drawn again.
            path = self._directory / name
            with writing(path):
                path.write_bytes(as_png(pixels))
        return DrawnMap(explanation.raw_max, names[0])
