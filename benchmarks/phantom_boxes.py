"""Write a table of a phantom's images, with boxes for a part of its positive training images.

    python benchmarks/phantom_boxes.py data/phantom --share 0.5

The table is `data/phantom_boxes.csv`, beside the folder: one row per box, of each connected part of
a mask. Test images have the path of their mask instead, so that `explain` measures the maps by the
masks.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import find_objects, label

from cxrignite.data import Phantom

COLUMNS = ("path", "label", "patient", "split", "mask", "x", "y", "width", "height")


def boxes_of(mask: Path) -> list[tuple[int, int, int, int]]:
    """Return x, y, width and height around each connected part of a mask."""
    parts, _ = label(np.array(Image.open(mask)) > 127)
    return [
        (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        for rows, columns in find_objects(parts)
    ]


def main() -> None:
    """Render the phantom if needed, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of positive training images")
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    with arguments.root.with_name(f"{arguments.root.name}_boxes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for record in Phantom(arguments.root).records():
            mask = record.attributes.get("mask", "")
            facts = (record.name, record.label, record.patient, record.split)
            is_boxed = mask and record.split == "train" and random.random() < arguments.share
            if is_boxed:
                writer.writerows((*facts, "", *box) for box in boxes_of(arguments.root / mask))
            else:
                writer.writerow((*facts, mask if record.split == "test" else "", *[""] * 4))


if __name__ == "__main__":
    main()
