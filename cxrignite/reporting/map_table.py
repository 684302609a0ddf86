"""Table of an evaluation of maps for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from cxrignite.handlers import Explanation
from cxrignite.reporting.text_table import table_lines
from cxrignite.runs.map_evaluation import MapEvaluation, PerturbationCheck, PerturbationChecks
from cxrignite.terminal import counted, wrapped


def map_table(name: str, explained: Sequence[Explanation], evaluation: MapEvaluation) -> str:
    """Lay out an evaluation of maps."""
    positive, checks = evaluation.target_class, evaluation.checks
    num_empty = sum(each.raw_max <= 0 for each in explained)
    empty = f", {num_empty} of them empty" if num_empty else ""
    title = f"{name}: {counted(len(explained), 'map')} of evidence for {positive}{empty}"
    about = f"{evaluation.method} at {evaluation.target_layer}"
    lower, thresholds = evaluation.lower_threshold, f"threshold {evaluation.threshold:.4f}"
    if lower is not None:
        thresholds = f"thresholds {lower:.4f} and {evaluation.threshold:.4f}"
    rows = [[title], [f"  {about}, {thresholds}"]]
    if checks is None:
        rows.append(["  the maps were not checked"])
        return "\n".join(table_lines(rows))
    correlation = checks.rank_correlation
    rows += [[], *_curves(checks.positive, positive)]
    rows.append(
        [
            "random weights",
            "rank correlation with their maps "
            f"{'undefined' if correlation is None else f'{correlation:+.3f}'}, "
            f"mean over {checks.num_random_models} random models; near 0 is good",
        ]
    )
    if checks.negative is not None:
        rows += [[], *_curves(checks.negative, evaluation.other_class)]
    masks = checks.masks
    if masks is not None:
        low, high = masks.pointing_game_interval
        rows += [
            [],
            [f"  maps compared with masks ({counted(masks.num_images, 'image')} with a mask)"],
            [
                "pointing game",
                f"{masks.pointing_game:.3f} ({low:.3f} to {high:.3f}), "
                f"with random weights {masks.random_pointing_game:.3f}",
            ],
            [
                "energy inside",
                f"{masks.energy_ratio:.2f} times the area's share "
                f"({masks.energy:.3f} in {masks.area:.3f}), "
                f"with random weights {masks.random_energy_ratio:.2f} times",
            ],
        ]
    return "\n".join(table_lines(rows, indent="  ", wrap=True))


def _curves(checks: PerturbationChecks, scored: str) -> list[list[str]]:
    heading = (
        f"effect of the mapped places on the score for {scored} "
        f"(measured on {counted(checks.num_images, 'image')}, if possible called {scored})"
    )
    return [
        *([line] for line in wrapped(heading, "  ").splitlines()),
        *_curve("deletion, lower is better", checks.deletion, below=True),
        *_curve("insertion, higher is better", checks.insertion, below=False),
    ]


def _curve(label: str, check: PerturbationCheck, *, below: bool) -> list[list[str]]:
    interval, reading = "no interval", "not shown to be better than random maps"
    if check.difference.by_patient is not None:
        low, high = check.difference.by_patient
        is_better = high < 0 if below else low > 0
        interval = f"{low:+.3f} to {high:+.3f}"
        reading = "better than random maps" if is_better else "NO BETTER THAN RANDOM MAPS"
    text = (
        f"{check.by_map:.3f}, random maps {check.by_chance:.3f}, "
        f"difference {check.difference.value:+.3f} ({interval}): {reading}"
    )
    rows = [[label, text]]
    if below and check.blank >= check.by_map:
        blank = f"a blank image scores {check.blank:.3f}: deletion is not informative here"
        rows.append(["", blank])
    return rows
