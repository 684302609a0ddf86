"""Scalars among an engine's metrics."""

from __future__ import annotations

from numbers import Real

import torch
from ignite.engine import Engine


def scalar_metrics(engine: Engine) -> dict[str, float]:
    """Return the scalars of `engine.state.metrics`; values with a shape are left out.

    Args:
        engine: The engine whose metrics are read.

    Returns:
        Python floats by metric name, in the order in which the metrics were published.
    """
    scalars = {}
    for name, value in engine.state.metrics.items():
        if isinstance(value, Real) or (isinstance(value, torch.Tensor) and value.ndim == 0):
            scalars[name] = float(value)
    return scalars
