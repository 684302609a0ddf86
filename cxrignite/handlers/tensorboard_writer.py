"""TensorBoard event files of a run."""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers.tensorboard_logger import OptimizerParamsHandler, TensorboardLogger
from numpy.typing import NDArray
from torch.optim import Optimizer

from cxrignite.durable_write import free_bytes
from cxrignite.errors import CxrIgniteError
from cxrignite.handlers.attachable import Attachable
from cxrignite.handlers.scalars import scalar_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    Array = NDArray[Any] | torch.Tensor

_log = logging.getLogger(__name__)
_SPLITS = ("train", "val", "calibration", "test")


class TensorBoardWriter(Attachable):
    """Writer of scalar metrics and learning rates to TensorBoard, one step per epoch.

    `val_roc_auc` becomes `val/roc_auc`; a metric without a split becomes `train/<name>`. NaN and
    infinity are left out. A resumed run hides the steps that it writes again. The event file is
    opened at the run's start or by the first entry, and closed at the run's end. A later entry
    opens another file, which TensorBoard joins to it.

    *Attach to* a trainer, after the handlers that publish the metrics.
    *Expects* `state.metrics`; values that are not scalars are left out.
    *Publishes* the event files, on rank 0 only.

    Args:
        log_dir: The folder of the event files.
        optimizer: Source of the learning rates, one per parameter group, written as `lr/group_0`.

    Raises:
        CxrIgniteError: During the run, if the folder cannot be written to, as on a full disk.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> trainer = Engine(lambda engine, batch: engine.state.metrics.update(val_loss=0.5))
        >>> with TemporaryDirectory() as folder:
        ...     TensorBoardWriter(folder).attach(trainer)
        ...     state = trainer.run([1, 2])
        ...     [path.name.split(".")[0] for path in Path(folder).iterdir()]
        ['events']
    """

    def __init__(self, log_dir: Path | str, optimizer: Optimizer | None = None) -> None:
        self.log_dir = Path(log_dir)
        self.optimizer = optimizer
        self._logger: TensorboardLogger | None = None

    def attach(self, engine: Engine) -> None:
        """Write after every epoch of `engine`; attaching twice acts once.

        Args:
            engine: The trainer.
        """
        if not engine.has_event_handler(self._write, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.STARTED, self._start)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)
            engine.add_event_handler(Events.COMPLETED, self.close)

    def add_pr_curve(
        self,
        tag: str,
        y_score: Array,
        y_true: Array,
        step: int,
    ) -> None:
        """Write a precision-recall curve.

        Args:
            tag: Its name.
            y_score: Probabilities of the positive class, shape `(N,)`.
            y_true: Labels, 0 or 1, shape `(N,)`.
            step: The epoch.
        """
        self._add("add_pr_curve", tag, _to_numpy(y_true), _to_numpy(y_score), step)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Write one number.

        Args:
            tag: Its name.
            value: The number.
            step: The epoch.
        """
        self._add("add_scalar", tag, value, step)

    def add_text(self, tag: str, text: str, step: int) -> None:
        """Write a text.

        Args:
            tag: Its name.
            text: Markdown.
            step: The epoch.
        """
        self._add("add_text", tag, text, step)

    def add_figure(self, tag: str, figure: Figure, step: int) -> None:
        """Write a matplotlib figure without closing it.

        Args:
            tag: Its name.
            figure: The figure.
            step: The epoch.
        """
        self._add("add_figure", tag, figure, step, close=False)

    def add_image(self, tag: str, image: Array, step: int) -> None:
        """Write an image.

        Args:
            tag: Its name.
            image: Shape `(C, H, W)`, uint8, or float in `[0, 1]`.
            step: The epoch.
        """
        self._add("add_image", tag, _to_numpy(image), step)

    def add_png(self, tag: str, png: bytes | memoryview, step: int) -> None:
        """Write an encoded image as it is; `add_image` would encode it again.

        Args:
            tag: Its name.
            png: The content of a PNG file.
            step: The epoch.
        """
        if idist.get_rank() == 0:
            from tensorboard.compat.proto.summary_pb2 import Summary

            content = bytes(png)
            width, height = struct.unpack(">2I", content[16:24])  # in the header of every PNG file
            image = Summary.Image(encoded_image_string=content, width=width, height=height)
            summary = Summary(value=[Summary.Value(tag=tag, image=image)])
            with self._naming_the_folder():
                self._open().writer.file_writer.add_summary(summary, step)

    def close(self) -> None:
        """Close the event file; a later write opens another."""
        logger, self._logger = self._logger, None
        if logger is not None:
            try:
                logger.close()
            except OSError as error:  # often a full disk, which has been reported already
                _log.warning("the last events are missing in %s: %s", self.log_dir, error.strerror)
                with suppress(OSError):  # ends the thread; its traceback would follow our message
                    logger.writer.file_writer.close()

    def _add(self, method: str, *arguments: Any, **options: Any) -> None:
        """Call a method of torch's writer on rank 0, the only process that writes."""
        if idist.get_rank() == 0:
            with self._naming_the_folder():
                getattr(self._open().writer, method)(*arguments, **options)

    def _start(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            self.close()
            with self._naming_the_folder():
                self._open(purge_step=engine.state.epoch + 1 if engine.state.epoch else None)

    def _write(self, engine: Engine) -> None:
        if idist.get_rank() != 0:
            return
        with self._naming_the_folder():
            logger = self._open()
            for name, value in scalar_metrics(engine).items():
                if math.isfinite(value):
                    logger.writer.add_scalar(_tag(name), value, engine.state.epoch)
            if self.optimizer is not None:
                OptimizerParamsHandler(self.optimizer)(engine, logger, Events.EPOCH_COMPLETED)
            logger.writer.flush()

    @contextmanager
    def _naming_the_folder(self) -> Iterator[None]:
        # TensorBoard writes in its own thread, whose errors name no file.
        try:
            yield
        except OSError as error:
            free = free_bytes(self.log_dir / "events")
            raise CxrIgniteError(
                f"cannot write into {self.log_dir} ({free} bytes free): {error.strerror or error}"
            ) from error

    def _open(self, purge_step: int | None = None) -> TensorboardLogger:
        if self._logger is None:
            self._logger = _TorchBoardLogger(self.log_dir, purge_step)
        return self._logger


class _TorchBoardLogger(TensorboardLogger):
    """Ignite's logger on torch's writer.

    Ignite prefers tensorboardX if it is installed, whose `flush` (2.6) leaves events unwritten.
    """

    def __init__(self, log_dir: Path, purge_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(log_dir, purge_step=purge_step)


def _tag(name: str) -> str:
    split, _, rest = name.partition("_")
    return f"{split}/{rest}" if rest and split in _SPLITS else f"train/{name}"


def _to_numpy(values: Array) -> NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
