"""A downloaded data set in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cxrignite.reporting.text_table import table_lines


def download_text(
    folder: Path, num_images: Mapping[str, int], *, licence: str, citation: str, doi: str
) -> str:
    """Describe what there is, what may be done with it, and what to do next.

    Args:
        folder: Where the images are.
        num_images: From `<split>/<class>` to the number of images.
        licence: Its name and its address.
        citation: What a work that uses the data has to cite.
        doi: Of the data set.
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
