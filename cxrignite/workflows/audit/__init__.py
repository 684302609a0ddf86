"""What is wrong with a data set, before training on it: the verb `audit`."""

from cxrignite.workflows.audit.verb import PROBLEMS, audit

__all__ = ["PROBLEMS", "audit"]
