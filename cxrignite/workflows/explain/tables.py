"""What was explained, and how far to believe it, as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cxrignite.handlers import Explanation

_WIDTH = 28


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
    lines = [
        f"{name}: {len(explained)} maps of what speaks for {positive}{empty}",
        f"  {content['method']} at {content['target_layer']}, threshold {content['threshold']:.4f}",
    ]
    found = content["faithfulness"]
    if found is None:
        return "\n".join([*lines, "  whether the maps mean anything was not measured"])
    lines += [
        "",
        f"  does the score rest on what the maps show? ({found['num_images']} films called "
        f"{positive} where there are any)",
        _curve("deletion (lower is better)", found["deletion"], below=True),
        _curve("insertion (higher is better)", found["insertion"], below=False),
        f"  {'with random weights':<{_WIDTH}}rank correlation of the maps "
        f"{_told(found['randomization']['rank_correlation'])} "
        f"(mean of {found['randomization']['num_models']} random models; 0 is best)",
    ]
    masks = found["masks"]
    if masks is not None:
        low, high = masks["pointing_game_interval"]
        chance = masks["randomized"]
        lines += [
            "",
            f"  do the maps lie in the masks? ({masks['num_images']} films with a mask)",
            f"  {'pointing game':<{_WIDTH}}{masks['pointing_game']:.3f} ({low:.3f} to {high:.3f}), "
            f"with random weights {chance['pointing_game']:.3f}",
            f"  {'energy inside':<{_WIDTH}}{masks['energy_ratio']:.2f} times the area's share "
            f"({masks['energy']:.3f} in {masks['area']:.3f}), "
            f"with random weights {chance['energy_ratio']:.2f} times",
        ]
    return "\n".join(lines)


def _curve(label: str, figures: Mapping[str, Any], *, below: bool) -> str:
    low, high = figures["interval"]
    if low is None or high is None:
        verdict, interval = "not told from random maps", "no interval"
    else:
        is_better = high < 0 if below else low > 0
        verdict = "better than random maps" if is_better else "NO BETTER THAN RANDOM MAPS"
        interval = f"{low:+.3f} to {high:+.3f}"
    return (
        f"  {label:<{_WIDTH}}{figures['map']:.3f}, random maps {figures['random']:.3f}, "
        f"difference {figures['difference']:+.3f} ({interval}): {verdict}"
    )


def _told(number: float | None) -> str:
    return "undefined" if number is None else f"{number:+.3f}"
