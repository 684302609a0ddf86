"""HTML report of a run folder; `page.py` assembles it."""

from cxrignite.reporting.html.page import MAX_PAGE_BYTES, write_report

__all__ = ["MAX_PAGE_BYTES", "write_report"]
