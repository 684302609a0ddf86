"""What an audit has come to: shown in the terminal, on the page and in `audit.json` alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxrignite.data.survey import Survey
from cxrignite.workflows.audit.findings import Finding
from cxrignite.workflows.audit.plan import Plan, counts_by_split
from cxrignite.workflows.audit.probes import Probe


@dataclass(frozen=True)
class AuditResults:
    """A whole audit.

    Attributes:
        root: The data set's folder.
        classes: The negative and the positive class.
        survey: What was looked at, its films in the splits that `fit` would make.
        plan: What `fit` would make of them.
        probes: From what they look for to the probes.
        findings: The worst first.
    """

    root: str
    classes: tuple[str, str]
    survey: Survey
    plan: Plan
    probes: Mapping[str, Sequence[Probe]]
    findings: Sequence[Finding]

    @property
    def num_films(self) -> int:
        """Films that the source lists."""
        return len(self.survey.films) + len(self.survey.unreadable)

    @property
    def splits(self) -> list[Mapping[str, Any]]:
        """A row a split: films and patients, by class."""
        return counts_by_split(self.plan.data)

    @property
    def files_by_class(self) -> list[Mapping[str, Any]]:
        """What the files of each class are like: median columns and rows, and kinds of pixels."""
        found: list[Mapping[str, Any]] = []
        for label, name in enumerate(self.classes):
            pairs = zip(self.survey.films, self.survey.facts, strict=True)
            facts = [each for film, each in pairs if film.label == label]
            if facts:
                modes = Counter(f"{each.format} {each.mode}" for each in facts)
                found.append(
                    {
                        "class": name,
                        "median_width": float(np.median([each.width for each in facts])),
                        "median_height": float(np.median([each.height for each in facts])),
                        "modes": dict(modes.most_common()),
                    }
                )
        return found

    def describe_files(self) -> list[str]:
        """`files_by_class`, a line a class."""
        return [
            f"{row['class']}: {row['median_width']:g} x {row['median_height']:g} pixels "
            "(columns by rows, median), "
            + ", ".join(f"{count:,} {mode}" for mode, count in row["modes"].items())
            for row in self.files_by_class
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON."""
        return {
            "source": self.root,
            "classes": list(self.classes),
            "num_films": self.num_films,
            "num_unreadable": len(self.survey.unreadable),
            "splits": self.splits,
            "files": self.files_by_class,
            "plan": self.plan.to_dict(),
            "probes": {
                name: [probe.to_dict() for probe in some] for name, some in self.probes.items()
            },
            "findings": [finding.to_dict() for finding in self.findings],
        }
