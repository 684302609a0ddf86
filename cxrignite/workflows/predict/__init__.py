"""The verb `predict`: new films to a table of scores, written as it goes."""

from cxrignite.workflows.predict.verb import Request, predict

__all__ = ["Request", "predict"]
