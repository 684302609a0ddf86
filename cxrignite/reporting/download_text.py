"""Summary of a downloaded data set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cxrignite.reporting.text_table import table_lines


def download_text(
    folder: Path, num_images: Mapping[str, int], *, licence: str, citation: str, doi: str
) -> str:
    """Describe the images, their licence and citation, and the next command.

    Args:
        folder: Folder of the images.
        num_images: Number of images by `<split>/<class>`.
        licence: Name and address of the licence.
        citation: Reference to cite.
        doi: DOI of the data set.
    """
    splits, classes = (
        list(dict.fromkeys(name.split("/")[place] for name in num_images)) for place in (0, 1)
    )
    rows = [["", *classes]]
    for split in splits:
        rows.append([split, *(f"{num_images[f'{split}/{name}']:,}" for name in classes)])
    root = "" if folder == Path("data/chest_xray") else f" --data.source.root {folder}"
    facts = [
        ["licence", licence],
        ["cite", f"{citation}, doi {doi}"],
        ["next", f"cxrignite audit --config recipes/resnet50.yaml{root}"],
    ]
    total = f"{sum(num_images.values()):,} images in {folder}"
    return "\n".join([*table_lines(rows, "<>"), total, *table_lines(facts), ""])
