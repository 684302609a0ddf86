"""How far an epoch is, on the terminal."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from tqdm import tqdm

from cxrignite.handlers.attachable import Attachable
from cxrignite.handlers.image_count import num_images

# With a loss and a thousand steps it leaves the bar a dozen of 80 columns.
_FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}, {remaining} left"


def progress_bar(name: str, total: int | None, *, is_shown: bool = True) -> tqdm[Any]:
    """The line itself, for work that no engine runs.

    Args:
        name: What stands before the line.
        total: How many steps there are; null where that is not known.
        is_shown: Draw it; else it is only counted.

    Returns:
        To be updated after each step, and closed.
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
    """Draws a line on stderr a few times a second, however many steps that are.

    Ignite's `ProgressBar` (0.5.5) draws twice at every step and reads the loss, for which a step
    waits until the device has done it.

    *Attach to* any engine, on one process and where stderr is a terminal.
    *Expects* nothing; where `state.batch` holds images first, the line tells how many a second have
    come since the epoch began. With `shows_loss`, `state.output` is a 0-d tensor or a number.
    *Publishes* nothing.

    Args:
        name: What stands before the line.
        shows_loss: Whether the loss of the last step stands behind it.

    Examples:
        >>> evaluator = Engine(lambda engine, batch: None)
        >>> ProgressLine("validate").attach(evaluator)
        >>> evaluator.run(range(3)).iteration
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
        # tqdm draws every tenth of a second, and says when it did.
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
