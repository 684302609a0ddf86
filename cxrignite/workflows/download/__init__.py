"""`download`: a public data set by name, checked by size and sha256, and unpacked safely."""

from __future__ import annotations

from cxrignite.workflows.download.catalogue import PUBLIC_DATA, PublicData
from cxrignite.workflows.download.fetch import Patience
from cxrignite.workflows.download.verb import download

__all__ = ["PUBLIC_DATA", "Patience", "PublicData", "download"]
