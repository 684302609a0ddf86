"""Images that were read and show next to nothing: reported once, in one line."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from cxrignite.data.grey_scaling import MIN_SHARE

_logger = logging.getLogger(__name__)

_MOST_NAMED = 3


def warn_of_nearly_blank(grey_scaling: str, names: Sequence[str], num_images: int) -> None:
    """Log how many images use little of the grey range; nothing if none does.

    Args:
        grey_scaling: The setting by which they were scaled.
        names: Of those images.
        num_images: Images that were read.
    """
    if not names:
        return
    more = ", ..." if len(names) > _MOST_NAMED else ""
    _logger.warning(
        "%d of %d images are nearly blank, with less than %.0f %% of the grey range: %s%s; look at "
        "them, or choose another data.grey_scaling than %s",
        *(len(names), num_images, 100 * MIN_SHARE, ", ".join(names[:_MOST_NAMED]), more),
        grey_scaling,
    )
