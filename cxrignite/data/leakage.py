"""Films that stand on both sides of two splits: by their patient, and by their content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from cxrignite.csv_text import csv_bytes
from cxrignite.data.sources import SPLITS, Film
from cxrignite.durable_write import write_durably

COLUMNS = ("reason", "first", "first_split", "second", "second_split", "patient", "sha256")


class LeakedPair(NamedTuple):
    """Two films of different splits that are of one patient, or one picture.

    Attributes:
        reason: `patient` where they share the patient, `content` where their files are the same.
        first: Of the split that comes first in `SPLITS`.
        second: Of the later split: the one whose figures are flattered.
    """

    reason: Literal["patient", "content"]
    first: Film
    second: Film


def leaked_pairs(films: Sequence[Film]) -> list[LeakedPair]:
    """Finds every film that an earlier split knows already.

    Each film outside of `train` is paired with one film of an earlier split that shares its
    patient, and with one that shares its content: the number of pairs grows with the films, and not
    with the product of two splits, however many films a patient has.

    Args:
        films: The films of every split. Those without a digest are compared by patient alone.

    Returns:
        The pairs, by the split of the second film, then in the order of the films.
    """
    members: dict[str, list[Film]] = {split: [] for split in SPLITS}
    for film in films:
        members[film.split].append(film)
    patients: dict[str, Film] = {}
    contents: dict[str, Film] = {}
    pairs: list[LeakedPair] = []
    for split in filter(members.__getitem__, SPLITS):
        # Looked up before any film of this split is known: its own films are no leak.
        for film in members[split] if patients else ():
            if film.patient in patients:
                pairs.append(LeakedPair("patient", patients[film.patient], film))
            if film.sha256 and film.sha256 in contents:
                pairs.append(LeakedPair("content", contents[film.sha256], film))
        for film in members[split]:
            patients.setdefault(film.patient, film)
            if film.sha256:
                contents.setdefault(film.sha256, film)
    return pairs


def describe_leaks(pairs: Sequence[LeakedPair]) -> str:
    """How many pairs there are, and of which kind, in a few words.

    Examples:
        >>> film = Film("a.png", "a.png", 0, "p1", "train", {}, "ab")
        >>> describe_leaks(leaked_pairs([film, film.moved("test")]))
        '2 pairs of films across splits (1 of one patient, 1 of identical files)'
    """
    count = Counter(pair.reason for pair in pairs)
    return (
        f"{len(pairs)} pair{'' if len(pairs) == 1 else 's'} of films across splits "
        f"({count['patient']} of one patient, {count['content']} of identical files)"
    )


def write_leaks(pairs: Sequence[LeakedPair], path: Path) -> None:
    """Writes the pairs as a CSV file, whole or not at all.

    Columns: `reason`, `first` and `second` (the films' names) with `first_split` and
    `second_split`, and `patient` and `sha256` of the second film.

    Args:
        pairs: What `leaked_pairs` found.
        path: The file; replaced if it exists.

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
