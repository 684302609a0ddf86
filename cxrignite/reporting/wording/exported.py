"""Sentences about an exported model: the reading of its images, and its parity with the run."""

from __future__ import annotations

from cxrignite.data.grey_scaling import GreyScaling
from cxrignite.data.image_formats import READ_FORMATS
from cxrignite.data.reading import Size
from cxrignite.reporting.text_table import table_lines
from cxrignite.runs.exported_model import ExportedModel, PreprocessStep
from cxrignite.terminal import counted

_SCALING: dict[GreyScaling, str] = {
    "file": (
        "an 8-bit image keeps its values; a DICOM file is scaled by its first VOI LUT, or else by "
        "its first window; of any other image with more than 8 bits the lowest value becomes 0 "
        "and the highest 255"
    ),
    "stored": "the full range that the file format can store becomes 0 to 255",
    "minmax": "the lowest value of an image becomes 0 and its highest 255",
    "percentiles": "the 1st percentile of an image becomes 0 and its 99th 255, the rest is clipped",
}


def describe_reading(
    image_size: Size | None, grey_scaling: GreyScaling, steps: tuple[PreprocessStep, ...]
) -> tuple[str, ...]:
    """State each step from an image file to the input of an exported model."""
    rules = [
        f"read a file in one of the formats {READ_FORMATS}; in a DICOM file of one frame apply the "
        "modality LUT or the rescale slope and intercept, and invert MONOCHROME1",
        "make it grey: ITU-R 601 luma; transparency is ignored",
        f"scale it to 8 bits: {_SCALING[grey_scaling]}",
        "rotate a JPEG or PNG upright by its EXIF orientation",
    ]
    if image_size is None:
        rules.append("keep its rows and columns")
    else:
        rows, columns = image_size
        rules.append(
            f"resize it to {rows} rows and {columns} columns, bilinear with antialiasing (BILINEAR "
            "of Pillow), without keeping the aspect ratio; a JPEG may first be decoded at the "
            "smallest multiple of 1/8 of its size that covers this size"
        )
    if steps:
        names = ", ".join(step.class_path.rpartition(".")[2] for step in steps)
        rules.append(
            f"divide it by 255, apply the MONAI transforms {names} in this order to the array of "
            "shape (1, rows, columns), multiply it by 255 and round it"
        )
    rules.append("pass it as unsigned 8-bit integers: 0 is black, 255 is white")
    return tuple(rules)


def describe_parity(model: ExportedModel) -> list[str]:
    """Describe the parity of an exported model with its run, in lines."""
    parity = model.parity
    sizes = " and ".join(map(str, parity.batch_sizes))
    named = f" and {counted(parity.num_checked, 'image')} of --check" if parity.num_checked else ""
    lines = [
        f"compared with the run ({parity.reference}) on {counted(parity.num_images, 'image')} of "
        f"it{named}, by {parity.runtime} in batches of {sizes}:"
    ]
    rows = [["", "largest difference of score", "of probability", "decisions that differ"]]
    for index, finding in enumerate(model.findings):
        probability = parity.probability_difference[index]
        rows.append(
            [
                finding.name,
                f"{parity.score_difference[index]:.1e}",
                "unknown" if probability is None else f"{probability:.1e}",
                str(parity.num_decisions_different[index]) if finding.point else "no threshold",
            ]
        )
    return [*lines, *table_lines(rows, "<>", indent="  ")]
