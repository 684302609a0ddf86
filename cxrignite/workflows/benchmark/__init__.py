"""`benchmark`: what each part of the pipeline gives on this machine, with this recipe and data."""

from __future__ import annotations

from cxrignite.workflows.benchmark.verb import benchmark

__all__ = ["benchmark"]
