"""Class activation maps of selected images of an evaluation, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from numpy.typing import NDArray
from torch import Tensor, nn

from cxrignite.durable_write import write_durably
from cxrignite.functional.class_activation import CamMethod, grad_cam
from cxrignite.functional.gathering import NO_INDEX
from cxrignite.functional.image_choice import UNKNOWN_LABEL, ImageChoice
from cxrignite.handlers.attachable import Attachable
from cxrignite.handlers.explanation import Explanation, explanations_table
from cxrignite.handlers.map_picture import as_png, explanation_pictures, picture_name
from cxrignite.handlers.score_collector import ScoreCollector
from cxrignite.handlers.tensorboard_writer import TensorBoardWriter
from cxrignite.handlers.threshold_search import ThresholdSearch

_BATCH_SIZE = 16


class _Candidate(NamedTuple):
    number: int
    y_score: float
    y_true: float  # unchanged, so that `ImageChoice` can refuse values that are not labels
    image: Tensor


class GradCAMExporter(Attachable):
    """Exporter of class activation maps for the images that `choice` selects.

    Images are selected while the scores arrive, and only images that may be selected are kept. The
    maps are computed after the epoch's last batch, and the model is left unchanged. Each run of the
    engine replaces the pictures of the previous run. Scores are read batch by batch, which
    synchronises a GPU.

    *Attach to* an evaluator.
    *Expects* `state.output` to be `(y_score, y_true)` of shape `(N,)`, or `(N, K)` for K findings,
    of which `finding` is explained; `state.batch[0]` to be the images, all of one shape
    `(C, H, W)`, as the model takes them; and `state.batch[2]`, if there is one, to be the index of
    each image. Without an index they are counted from 0. Other forms need transforms in the
    engine's `ScoreCollector`.
    *Publishes* in `directory` two PNG files per image and `explain.csv`; `explanations`; and
    TensorBoard images, if there is a `board`. On rank 0 only, for the images of all processes.

    Attributes:
        step: The step of the TensorBoard images; may be set before each run.
        explanations: Results of the last run, in the order of selection; empty on other ranks.

    Args:
        model: Maps images to one logit per image and finding.
        directory: The folder of the files.
        target_layer: The layer of the maps; see `grad_cam`.
        method: Weighting of activations and gradients.
        choice: The selection of images, and the threshold for their decisions.
        search: Its operating point replaces the threshold of `choice` as soon as there is one. On
            the same evaluator, attach it before this handler. `least_sure` images are then those
            nearest to the threshold of the previous epoch.
        rows: Known facts of each image, by index. All have the same keys, for example `path` and
            `patient`, which become the first columns. The first one names the picture.
        classes: The negative and the positive class, for the captions.
        board: Receives the TensorBoard images.
        finding: Number of the finding that is explained, from 0, if there are several. The labels
            of its images may be unknown.
        exclusive: True if the findings are exclusive classes; see `grad_cam`.

    Raises:
        RecipeError: If the model has no such layer, or maps are impossible there (in the run).
        ValueError: If batches of several processes have no index, an index is outside `rows`, there
            is no such finding, or output or batch has another form (in the run).
        NonFiniteError: If a map is NaN or infinite (in the run).
        CxrIgniteError: If a file cannot be written (in the run).

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> pooled = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> model = nn.Sequential(pooled, nn.Linear(2, 1), nn.Flatten(0))
        >>> evaluator = Engine(lambda engine, batch: (model(batch[0]).sigmoid(), batch[1]))
        >>> with TemporaryDirectory() as folder:
        ...     GradCAMExporter(model, folder, "0.0").attach(evaluator)
        ...     state = evaluator.run([(torch.rand(2, 1, 8, 8), torch.tensor([0.0, 1.0]))])
        ...     (Path(folder) / "explain.csv").exists()
        True
    """

    def __init__(
        self,
        model: nn.Module,
        directory: Path | str,
        target_layer: str | nn.Module,
        method: CamMethod = "grad_cam",
        choice: ImageChoice = ImageChoice(),  # noqa: B008  (it is frozen)
        rows: Sequence[Mapping[str, str]] | None = None,
        classes: tuple[str, str] = ("negative", "positive"),
        board: TensorBoardWriter | None = None,
        search: ThresholdSearch | None = None,
        finding: int = 0,
        exclusive: bool = False,
    ) -> None:
        self.model = model
        self.directory = Path(directory)
        self.target_layer = target_layer
        self.method = method
        self.choice = choice
        self.rows = rows
        self.classes = classes
        self.board = board
        self.search = search
        self.finding = finding
        self.exclusive = exclusive
        self.step = 0
        self.explanations: list[Explanation] = []
        self._reset()

    def attach(self, engine: Engine) -> None:
        """Draw maps after every epoch of `engine`; attaching twice acts once.

        Args:
            engine: The evaluator.
        """
        if not engine.has_event_handler(self._select, Events.ITERATION_COMPLETED):
            ScoreCollector.on(engine)
            engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._select)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def export(
        self,
        images: Tensor,
        y_score: NDArray[np.float64],
        y_true: NDArray[np.int64],
        index: NDArray[np.int64],
    ) -> list[Explanation]:
        """Draw the selected ones of these images, replacing earlier pictures.

        Args:
            images: Shape `(N, C, H, W)`, as the model takes them, on any device.
            y_score: Probabilities of the finding, shape `(N,)`.
            y_true: Its labels, 0, 1 or `UNKNOWN_LABEL`, shape `(N,)`.
            index: Index of each image, shape `(N,)`.

        Returns:
            The explanations, also kept as `explanations`.
        """
        choice = self._current_choice()
        chosen = choice.of(y_score, y_true, index)
        self._remove_pictures()
        positions = list(chosen)
        found = [
            grad_cam(
                self.model,
                images[positions[start : start + _BATCH_SIZE]].to(_device_of(self.model)),
                self.target_layer,
                method=self.method,
                output=self.finding,
                exclusive=self.exclusive,
            )
            for start in range(0, len(positions), _BATCH_SIZE)
        ]
        maps = [importance.cpu() for part in found for importance in part.maps]
        raw_max = [raw for part in found for raw in part.raw_max.tolist()]
        strongest = max(raw_max, default=0) or 1.0
        for position, importance, raw in zip(positions, maps, raw_max, strict=True):
            about = self._about(int(index[position]))
            explanation = Explanation(
                about=about,
                selection=chosen[position],
                y_score=float(y_score[position]),
                y_true=int(y_true[position]),
                threshold=choice.threshold,
                lower=choice.lower,
                image=images[position].cpu(),
                importance=importance,
                raw_max=raw,
                strength=raw / strongest,
                name=picture_name(int(index[position]), next(iter(about.values()))),
            )
            self.explanations.append(explanation)
            self._draw(explanation)
        write_durably(self.directory / "explain.csv", explanations_table(self.explanations))
        return self.explanations

    def _current_choice(self) -> ImageChoice:
        points = self.search.operating_points if self.search else ()
        point = points[self.finding] if points else None
        if point is None:
            return self.choice
        return replace(self.choice, threshold=point.threshold, lower=point.lower_threshold)

    def _reset(self) -> None:
        self._candidates: list[_Candidate] = []
        self._num_seen = 0

    def _select(self, engine: Engine) -> None:
        """Add the batch to the candidates, and keep those that would be chosen now."""
        images, y_score, y_true, index = ScoreCollector.on(engine).read(engine)
        if images is None or len(images) != len(y_score) or isinstance(images, Mapping):
            raise ValueError(
                f"state.batch[0] must be the {len(y_score)} images, got {type(images).__name__}; "
                "for an engine with another batch, use ScoreCollector(batch_transform=...)"
            )
        if (index == NO_INDEX).any():
            if idist.get_world_size() > 1:
                raise ValueError(
                    "with several processes each image needs an index, got none in state.batch[2]"
                )
            index = torch.arange(self._num_seen, self._num_seen + len(index))
        if y_score.ndim > 1:
            if not 0 <= self.finding < y_score.shape[1]:
                raise ValueError(
                    f"finding must be in [0, {y_score.shape[1]}), the number of columns of scores, "
                    f"got {self.finding}"
                )
            y_score = y_score[:, self.finding]
            y_true = y_true[:, self.finding].nan_to_num(UNKNOWN_LABEL)
        self._num_seen += len(index)
        new = zip(index.tolist(), y_score.tolist(), y_true.tolist(), images, strict=True)
        known = len(self._candidates)
        candidates = [*self._candidates, *(_Candidate(*each) for each in new)]
        # New images are copied: a view would keep the whole batch, whose memory may be reused.
        self._candidates = [
            each if position < known else each._replace(image=_copied(each.image))
            for position, each in self._chosen(candidates)
        ]

    def _chosen(self, candidates: Sequence[_Candidate]) -> list[tuple[int, _Candidate]]:
        choices = [self._current_choice()]
        if self.search is not None:
            # The threshold is not known yet. At any one, the errors and the most sure images are
            # those of the highest and the lowest scores, which are selected at 0 and 1.
            choices += [replace(self.choice, threshold=each, lower=None) for each in (0.0, 1.0)]
        columns = [(each.y_score, each.y_true, each.number) for each in candidates]
        arrays = list(zip(*columns, strict=True)) or [(), (), ()]
        chosen = dict.fromkeys(position for choice in choices for position in choice.of(*arrays))
        return [(position, candidates[position]) for position in chosen]

    def _finish(self) -> None:
        pools = [self._candidates]
        if idist.get_world_size() > 1:
            pools = idist.all_gather(self._candidates)  # type: ignore[assignment]  # gathers any object
        # A distributed sampler may give one image to two processes.
        unique = {each.number: each for pool in pools for each in pool}
        self._reset()
        if idist.get_rank() != 0:
            return
        images = [each.image for each in unique.values()]
        self.export(
            torch.stack(images) if images else torch.zeros(0, 1, 1, 1),
            np.array([each.y_score for each in unique.values()]),
            np.array([int(each.y_true) for each in unique.values()]),
            np.array(list(unique)),
        )

    def _draw(self, explanation: Explanation) -> None:
        layer = self.target_layer
        name = layer if isinstance(layer, str) else type(layer).__name__
        where = f"{self.method} at {name}"
        picture, over = explanation_pictures(explanation, self.classes, where)
        png = as_png(picture)
        write_durably(self.directory / explanation.picture, png)
        write_durably(self.directory / explanation.overlay, as_png(over))
        if self.board is not None:
            tag = f"grad_cam/{self.directory.name}/{explanation.name}"
            self.board.add_png(tag, png, self.step)

    def _remove_pictures(self) -> None:
        """Remove old pictures, which could be mistaken for results of this run."""
        for each in self.explanations:
            (self.directory / each.picture).unlink(missing_ok=True)
            (self.directory / each.overlay).unlink(missing_ok=True)
        self.explanations = []

    def _about(self, index: int) -> Mapping[str, str]:
        if self.rows is None:
            return {"index": str(index)}
        if index >= len(self.rows):
            raise ValueError(
                f"index must be below {len(self.rows)}, the number of rows, got {index}"
            )
        return self.rows[index]


def _copied(image: Tensor) -> Tensor:
    # A plain tensor: subclasses, such as MONAI's, carry more data than pixels.
    return image.detach().as_subclass(Tensor).cpu().clone()


def _device_of(model: nn.Module) -> torch.device:
    weight = next(model.parameters(), None)
    return torch.device("cpu") if weight is None else weight.device
