"""Everything that a person reads: the console, plots and HTML pages."""

from cxrignite.reporting.wording import describe_point, describe_shift

__all__ = ["describe_point", "describe_shift"]
