"""An audit as one HTML page of figures and pictures."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from PIL import Image

from cxrignite import __version__
from cxrignite.data import Film, read_image
from cxrignite.data.grey_scaling import GreyScaling
from cxrignite.data.survey import Survey
from cxrignite.errors import UnreadableImageError
from cxrignite.handlers.map_picture import as_png
from cxrignite.reporting.html.html_page import render_page, to_data_uri
from cxrignite.reporting.plots import audit_figures as figures
from cxrignite.reporting.plots.charting import draw
from cxrignite.reporting.plots.run_figures import class_distribution
from cxrignite.runs.audit_result import KINDS, AuditResults, Finding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_PICTURED = 12
"""Groups of films that are shown of each kind of finding."""

_MAX_IN_GROUP = 2
_SIDE = 240

_MEANINGS = {
    "classes told apart by": (
        "How well a classifier that sees nothing else tells the classes apart, of films outside "
        "of the test split. Size, colour mode and format are no signs of disease: what they give "
        "away a network may learn instead. Grey levels and bytes a pixel are partly the disease "
        "and partly the device: a network that is no better than they are has learnt little."
    ),
    "test films told from the others by thumbnails": (
        "How well a classifier tells the test films of a class from its other films. Above the "
        "random halves, the test films are of another kind: a threshold certified on films like "
        "the others promises nothing there."
    ),
}


def audit_page(results: AuditResults) -> bytes:
    """Render the page.

    Args:
        results: What it shows.
    """
    survey, classes, counts = results.survey, results.classes, results.splits
    num_sizes = len({(facts.height, facts.width) for facts in survey.facts})
    bars = {row["split"]: {name: row[name] for name in classes} for row in counts}
    charts = {
        "Films by split and class": class_distribution(bars) if bars else None,
        "Size of the films": figures.sizes(survey, classes) if num_sizes > 1 else None,
        "Grey levels of the films": figures.greys(survey, classes) if survey.films else None,
    }
    context = {
        "root": results.root,
        "num_films": results.num_films,
        "version": __version__,
        "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "findings": [_shown(finding, survey, classes) for finding in results.findings],
        "counts": counts,
        "plan": results.sentences,
        "files": results.describe_files(),
        "probes": [
            {
                "title": f"{title[:1].upper()}{title[1:]}",
                "meaning": _MEANINGS[title],
                "figure": _uri(figures.areas(some, "")),
            }
            for title, some in results.probes.items()
            if some
        ],
        "figures": [{"alt": alt, "uri": _uri(figure)} for alt, figure in charts.items() if figure],
    }
    return render_page("audit_template.html", context)


def _shown(finding: Finding, survey: Survey, classes: tuple[str, str]) -> dict[str, Any]:
    kind = KINDS[finding.kind]
    gallery = [
        {"films": [_pictured(survey, row, classes) for row in group[:_MAX_IN_GROUP]]}
        for group in finding.pictured[:MAX_PICTURED]
    ]
    return {**finding.to_dict(), "title": kind.title, "advice": kind.advice, "gallery": gallery}


def _pictured(survey: Survey, row: int, classes: tuple[str, str]) -> dict[str, str]:
    film = survey.films[row]
    about = f"{film.split}, {classes[film.label]}, patient {film.patient}"
    return {"name": film.name, "about": about, "uri": _picture_uri(film, survey.grey_scaling)}


def _picture_uri(film: Film, grey_scaling: GreyScaling) -> str:
    try:
        image = Image.fromarray(read_image(film.path, None, grey_scaling))
    except UnreadableImageError:  # it could be read a moment ago
        return "data:,"
    image.thumbnail((_SIDE, _SIDE))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=75)
    return to_data_uri(data.getvalue(), "jpeg")


def _uri(figure: Figure) -> str:
    return to_data_uri(as_png(draw(figure)))
