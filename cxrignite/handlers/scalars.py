"""The numbers among an engine's metrics."""

from __future__ import annotations

from numbers import Real

import torch
from ignite.engine import Engine


def scalar_metrics(engine: Engine) -> dict[str, float]:
    """Pick the scalars out of `engine.state.metrics`; anything with a shape is left out.

    Args:
        engine: Whose metrics to read.

    Returns:
        Python floats by metric name, in the order in which the metrics were published.
    """
    scalars = {}
    for name, value in engine.state.metrics.items():
        if isinstance(value, Real) or (isinstance(value, torch.Tensor) and value.ndim == 0):
            scalars[name] = float(value)
    return scalars
