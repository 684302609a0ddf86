"""What every handler of a recipe can do: attach itself to an engine."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from ignite.engine import Engine


@runtime_checkable
class Attachable(Protocol):
    """Something that attaches itself to one engine.

    Our handlers derive from it, so that a recipe can name them by their short class name; any other
    class with a fitting `attach` may be named by its import path.
    """

    def attach(self, engine: Engine) -> None:
        """Register this object's event handlers on `engine`; attaching twice acts once.

        Args:
            engine: The engine to listen to.
        """
        ...
