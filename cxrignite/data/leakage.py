"""Leakage between splits: images in different splits that share the patient or the content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from cxrignite.csv_text import csv_bytes
from cxrignite.data.sources import SPLITS, ImageRecord
from cxrignite.durable_write import write_durably

COLUMNS = ("reason", "first", "first_split", "second", "second_split", "patient", "sha256")


class LeakedPair(NamedTuple):
    """Two images of different splits that share the patient, or whose files are identical.

    Attributes:
        reason: `patient` if they share the patient, `content` if their files are identical.
        first: The image in the split that comes first in `SPLITS`.
        second: The image in the later split, whose metrics the leak makes too good.
    """

    reason: Literal["patient", "content"]
    first: ImageRecord
    second: ImageRecord


def leaked_pairs(records: Sequence[ImageRecord]) -> list[LeakedPair]:
    """Find every image whose patient or content is also in an earlier split.

    Each image outside of `train` is paired with one image of an earlier split that shares its
    patient, and with one that shares its content. The number of pairs thus grows with the number of
    images, not with the product of two splits.

    Args:
        records: The records of every split. Those without a digest are compared by patient only.

    Returns:
        The pairs, by the split of the second image, then in the order of the records.
    """
    members: dict[str, list[ImageRecord]] = {split: [] for split in SPLITS}
    for record in records:
        members[record.split].append(record)
    patients: dict[str, ImageRecord] = {}
    contents: dict[str, ImageRecord] = {}
    pairs: list[LeakedPair] = []
    for split in filter(members.__getitem__, SPLITS):
        # Looked up before the images of this split are added: they are no leak among themselves.
        for record in members[split] if patients else ():
            if record.patient in patients:
                pairs.append(LeakedPair("patient", patients[record.patient], record))
            if record.sha256 and record.sha256 in contents:
                pairs.append(LeakedPair("content", contents[record.sha256], record))
        for record in members[split]:
            patients.setdefault(record.patient, record)
            if record.sha256:
                contents.setdefault(record.sha256, record)
    return pairs


def describe_leaks(pairs: Sequence[LeakedPair]) -> str:
    """Return the number of pairs by reason, as a phrase.

    Examples:
        >>> record = ImageRecord("a.png", "a.png", 0, "p1", "train", {}, "ab")
        >>> describe_leaks(leaked_pairs([record, record.moved("test")]))
        '2 pairs of images across splits (1 of one patient, 1 of identical files)'
    """
    count = Counter(pair.reason for pair in pairs)
    return (
        f"{len(pairs)} pair{'' if len(pairs) == 1 else 's'} of images across splits "
        f"({count['patient']} of one patient, {count['content']} of identical files)"
    )


def write_leaks(pairs: Sequence[LeakedPair], path: Path) -> None:
    """Write the pairs to a CSV file, completely or not at all.

    Columns: `reason`, `first` and `second` (the images' names) with `first_split` and
    `second_split`, and `patient` and `sha256` of the second image.

    Raises:
        CxrIgniteError: If the file cannot be written.
    """
    rows = (
        (
            *(reason, first.name, first.split, second.name, second.split),
            *(second.patient, second.sha256),
        )
        for reason, first, second in pairs
    )
    write_durably(path, csv_bytes([COLUMNS, *rows]))
