"""The command `report`: a run folder to one HTML page; `page.py` puts it together."""

from cxrignite.reporting.html.page import MAX_PAGE_BYTES, write_report

__all__ = ["MAX_PAGE_BYTES", "write_report"]
