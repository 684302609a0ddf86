"""The verb `explain`: where a run's model looks, and whether its maps mean anything."""

from cxrignite.workflows.explain.verb import explain, explain_files

__all__ = ["explain", "explain_files"]
