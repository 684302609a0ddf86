"""What every handler of a recipe can do: attach itself to an engine."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod

from ignite.engine import Engine


class Attachable(ABC):
    """Something that attaches itself to one engine.

    Our handlers derive from it, so that a recipe can name them by their short class name. Any other
    class counts as one, and may be named by its import path, if its `attach` can be called with an
    engine alone, whatever its parameter is called and whether it is annotated.
    """

    @abstractmethod
    def attach(self, engine: Engine) -> None:
        """Register this object's event handlers on `engine`; attaching twice acts once.

        Args:
            engine: The engine to listen to.
        """

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        # No protocol: jsonargparse would compare names and annotations of parameters with ours.
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
