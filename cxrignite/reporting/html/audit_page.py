"""HTML page of an audit, with figures and pictures."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from PIL import Image

from cxrignite import __version__
from cxrignite.data import ImageRecord, read_image
from cxrignite.data.grey_scaling import GreyScaling
from cxrignite.data.survey import Survey
from cxrignite.errors import UnreadableImageError
from cxrignite.handlers.map_picture import as_png
from cxrignite.reporting.audit_text import (
    PRIOR_TITLE,
    SHIFT_TITLE,
    SHORTCUT_TITLE,
    WORDS,
    certificate_rows,
    certificate_title,
    file_sentences,
    finding_text,
    label_text,
    plan_sentences,
    prior_rows,
    probed_sentences,
    split_rows,
)
from cxrignite.reporting.html.html_page import render_page, to_data_uri
from cxrignite.reporting.plots import audit_figures as figures
from cxrignite.reporting.plots.charting import draw
from cxrignite.reporting.plots.run_figures import class_distribution
from cxrignite.runs.audit_result import AuditResult, Finding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_PICTURED = 12
"""Maximum number of image groups shown for each kind of finding."""

_MAX_IN_GROUP = 2
_SIDE = 240

_SHORTCUT_MEANING = (
    "How well a classifier separates the classes by one property alone, on images outside the "
    "test split. Size, colour mode and format are no signs of disease: if they separate the "
    "classes, a network may learn them instead. Grey levels and bytes per pixel reflect partly "
    "the disease and partly the device: a network that is no better has learnt little."
)
_SHIFT_MEANING = (
    "How well a classifier separates the test images of a class from its other images, by "
    "thumbnails. If the AUC is above that of the random halves, the test images differ: a "
    "threshold certified on the other images has no guarantee for them."
)


def audit_page(result: AuditResult, survey: Survey) -> bytes:
    """Render the page."""
    classes = result.classes
    num_sizes = len({(facts.height, facts.width) for facts in survey.facts})
    bars = {
        row.split: {each.name: each.num_images for each in row.classes} for row in result.splits
    }
    charts = {
        "Images by split and class": class_distribution(bars) if bars else None,
        "Size of the images": figures.sizes(survey, classes) if num_sizes > 1 else None,
        "Grey levels of the images": figures.greys(survey, classes) if survey.records else None,
    }
    probes = (
        (SHORTCUT_TITLE, _SHORTCUT_MEANING, result.shortcut_probes),
        (SHIFT_TITLE, _SHIFT_MEANING, result.shift_probes),
    )
    context = {
        "audit": result,
        "version": __version__,
        "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "findings": [
            {
                "finding": finding,
                "title": WORDS[finding.kind][0],
                "text": finding_text(finding, classes),
                "advice": WORDS[finding.kind][1],
                "gallery": _gallery(finding, survey.grey_scaling, classes),
            }
            for finding in result.findings
        ],
        "tables": [
            {"title": title, "head": rows[0], "rows": rows[1:]}
            for title, rows in (
                ("", split_rows(result)),
                (PRIOR_TITLE, prior_rows(result)),
                (certificate_title(result), certificate_rows(result)),
            )
            if rows
        ],
        "plan": plan_sentences(result),
        "probed": probed_sentences(result),
        "files": file_sentences(result),
        "probes": [
            {"title": name, "meaning": meaning, "figure": _uri(figures.areas(some, ""))}
            for name, meaning, some in probes
            if some
        ],
        "figures": [{"alt": alt, "uri": _uri(figure)} for alt, figure in charts.items() if figure],
    }
    return render_page("audit_template.html", **context)


def _gallery(
    finding: Finding, scaling: GreyScaling, classes: tuple[str, ...]
) -> list[list[dict[str, str]]]:
    """Return the first groups of a finding's images, each image with its picture."""
    return [
        [
            {
                "name": each.name,
                "about": f"{each.split}, {label_text(each, classes)}, patient {each.patient}",
                "uri": _picture_uri(each, scaling),
            }
            for each in group[:_MAX_IN_GROUP]
        ]
        for group in finding.groups[:MAX_PICTURED]
    ]


def _picture_uri(record: ImageRecord, grey_scaling: GreyScaling) -> str:
    try:
        image = Image.fromarray(read_image(record.path, None, grey_scaling))
    except UnreadableImageError:  # the file has changed since the survey
        return "data:,"
    image.thumbnail((_SIDE, _SIDE))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=75)
    return to_data_uri(data.getvalue(), "jpeg")


def _uri(figure: Figure) -> str:
    return to_data_uri(as_png(draw(figure)))
