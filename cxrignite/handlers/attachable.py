"""Base class of all handlers: an object that attaches itself to an engine."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod

from ignite.engine import Engine


class Attachable(ABC):
    """Object that attaches itself to one engine.

    Our handlers derive from it, so that a recipe can name them by their short class name. Any other
    class counts as a subclass if its `attach` can be called with an engine alone. The name and the
    annotation of that parameter do not matter. A recipe names such a class by its import path.

    Examples:
        >>> from ignite.engine import Events
        >>> class EpochPrinter(Attachable):
        ...     def attach(self, engine):
        ...         if not engine.has_event_handler(self.show):
        ...             engine.add_event_handler(Events.EPOCH_COMPLETED, self.show)
        ...
        ...     def show(self, engine):
        ...         print("epoch", engine.state.epoch)
        >>> trainer = Engine(lambda engine, batch: None)
        >>> EpochPrinter().attach(trainer)
        >>> state = trainer.run([1, 2])
        epoch 1
    """

    @abstractmethod
    def attach(self, engine: Engine) -> None:
        """Register this object's event handlers on `engine`; attaching twice acts once.

        Args:
            engine: The engine whose events are handled.
        """

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        # Not a `Protocol`: jsonargparse would then require our parameter names and annotations.
        if cls is not Attachable:
            return super().__subclasshook__(other)
        attach = getattr(other, "attach", None)
        if not callable(attach):
            return False
        try:
            inspect.signature(attach).bind("self", "engine")
        except (TypeError, ValueError):
            return False
        return True
