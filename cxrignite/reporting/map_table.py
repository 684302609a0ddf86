"""What was explained, and how far to believe it, as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cxrignite.handlers import Explanation
from cxrignite.reporting.text_table import table_lines
from cxrignite.terminal import counted, wrapped


def map_table(name: str, explained: Sequence[Explanation], content: Mapping[str, Any]) -> str:
    """Lay out what `explain.json` holds.

    Args:
        name: What the films are called.
        explained: The films that were drawn.
        content: The figures.
    """
    positive = content["target_class"]
    num_empty = sum(each.raw_max <= 0 for each in explained)
    empty = f", {num_empty} of them empty" if num_empty else ""
    title = f"{name}: {counted(len(explained), 'map')} of what speaks for {positive}{empty}"
    about = f"{content['method']} at {content['target_layer']}"
    rows = [[title], [f"  {about}, threshold {content['threshold']:.4f}"]]
    found = content["faithfulness"]
    if found is None:
        rows.append(["  whether the maps mean anything was not measured"])
        return "\n".join(table_lines(rows))
    random, against = found["randomization"], found["against"]
    rows += [[], _question(found, positive), *_curves(found)]
    rows.append(
        [
            "random weights",
            f"rank correlation with their maps {_told(random['rank_correlation'])}, "
            f"mean of {random['num_models']} random models; near 0 is good",
        ]
    )
    if against is not None:
        rows += [[], _question(against, content["other_class"]), *_curves(against)]
    masks = found["masks"]
    if masks is not None:
        low, high = masks["pointing_game_interval"]
        chance, num_masks = masks["randomized"], masks["num_images"]
        rows += [
            [],
            [f"  do the maps lie in the masks? ({counted(num_masks, 'film')} with a mask)"],
            [
                "pointing game",
                f"{masks['pointing_game']:.3f} ({low:.3f} to {high:.3f}), "
                f"with random weights {chance['pointing_game']:.3f}",
            ],
            [
                "energy inside",
                f"{masks['energy_ratio']:.2f} times the area's share "
                f"({masks['energy']:.3f} in {masks['area']:.3f}), "
                f"with random weights {chance['energy_ratio']:.2f} times",
            ],
        ]
    return "\n".join(table_lines(rows, indent="  ", wrap=True))


def _question(found: Mapping[str, Any], scored: str) -> list[str]:
    text = (
        f"does the score for {scored} rest on what maps for {scored} show? "
        f"({counted(found['num_images'], 'film')}, called {scored} where any is)"
    )
    return [wrapped(text, "  ")]


def _curves(found: Mapping[str, Any]) -> list[list[str]]:
    return [
        *_curve("deletion, lower is better", found["deletion"], below=True),
        *_curve("insertion, higher is better", found["insertion"], below=False),
    ]


def _curve(label: str, figures: Mapping[str, Any], *, below: bool) -> list[list[str]]:
    low, high = figures["interval"]
    interval, verdict = "no interval", "not told from random maps"
    if low is not None and high is not None:
        is_better = high < 0 if below else low > 0
        interval = f"{low:+.3f} to {high:+.3f}"
        verdict = "better than random maps" if is_better else "NO BETTER THAN RANDOM MAPS"
    told = (
        f"{figures['map']:.3f}, random maps {figures['random']:.3f}, "
        f"difference {figures['difference']:+.3f} ({interval}): {verdict}"
    )
    rows = [[label, told]]
    if below and figures["blank"] >= figures["map"]:
        blank = f"films without a pixel score {figures['blank']:.3f}: deletion cannot tell here"
        rows.append(["", blank])
    return rows


def _told(number: float | None) -> str:
    return "undefined" if number is None else f"{number:+.3f}"
