"""Progress of an epoch, on the terminal."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from tqdm import tqdm

from cxrignite.handlers.attachable import Attachable
from cxrignite.handlers.image_count import num_images

# With a loss and a thousand steps, about 12 of 80 columns remain for the bar.
_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}, {remaining} left"


def progress_bar(name: str, total: int | None, *, is_shown: bool = True) -> tqdm[Any]:
    """Make a progress bar, for work that no engine runs.

    Args:
        name: Text before the bar.
        total: Number of steps; null if unknown.
        is_shown: Draw the bar; if false, steps are only counted.

    Returns:
        The bar; update it after each step, and close it.
    """
    return tqdm(
        total=total,
        desc=name,
        leave=False,
        bar_format=_FORMAT,
        position=0,
        dynamic_ncols=True,
        disable=not is_shown,
    )


class ProgressLine(Attachable):
    """Progress line on stderr, drawn about ten times a second whatever the number of steps.

    Ignite's `ProgressBar` (0.5.5) draws twice at every step and reads the loss, so every step waits
    for the device.

    *Attach to* any engine, on one process, if stderr is a terminal.
    *Expects* nothing. If the first part of `state.batch` holds images, the line shows the images
    per second since the epoch began. With `shows_loss`, `state.output` is a 0-d tensor or a number.
    *Publishes* nothing.

    Args:
        name: Text before the line.
        shows_loss: Show the loss of the last step after the line.

    Examples:
        >>> evaluator = Engine(lambda engine, batch: 0.5)
        >>> line = ProgressLine("validate", shows_loss=True)
        >>> line.attach(evaluator)
        >>> state = evaluator.run(range(3))
        >>> state.iteration
        3
    """

    def __init__(self, name: str = "epoch", shows_loss: bool = False) -> None:
        self.name = name
        self.shows_loss = shows_loss
        self._line: tqdm[Any] | None = None
        self._num_images = 0

    def attach(self, engine: Engine) -> None:
        """Draw while `engine` runs; attaching twice acts once.

        Args:
            engine: A trainer or an evaluator.
        """
        if not engine.has_event_handler(self._step, Events.ITERATION_COMPLETED):
            engine.add_event_handler(Events.EPOCH_STARTED, self._start)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._close)
            engine.add_event_handler(Events.COMPLETED, self._close)

    def _start(self, engine: Engine) -> None:
        self._close()
        epoch, last = engine.state.epoch, engine.state.max_epochs
        counted = f" {epoch}/{last}" if last is not None and last > 1 else ""
        self._num_images = 0
        self._line = progress_bar(self.name + counted, engine.state.epoch_length)

    def _step(self, engine: Engine) -> None:
        if self._line is None:
            return
        state: Any = engine.state
        self._num_images += num_images(state.batch)
        # tqdm draws every tenth of a second, and returns True when it did.
        if self._line.update():
            text = [f"loss {float(state.output):.4f}"] if self.shows_loss else []
            seconds = self._line.format_dict["elapsed"]
            if self._num_images and seconds:
                text.append(f"{self._num_images / seconds:,.0f} images/s")
            self._line.set_postfix_str(", ".join(text), refresh=False)

    def _close(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None
