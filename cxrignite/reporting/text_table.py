"""Layout of rows of cells as a table, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from cxrignite.terminal import printable, wrapped

_GAP = "  "


def table_lines(
    rows: Sequence[Sequence[str]],
    align: str = "<",
    *,
    indent: str = "",
    wrap: bool = False,
    markdown: bool = False,
) -> list[str]:
    """Lay out rows in columns that are as wide as their widest cell.

    Args:
        rows: The cells of each row. A row of one cell is a heading, which is not aligned; a row
            without cells is a blank line.
        align: `<` or `>` for each column; the last one applies to all further columns.
        indent: Prefix of every row that is not a heading.
        wrap: Wrap the last column to the terminal's width.
        markdown: Write a Markdown table with the first row as its head.

    Examples:
        >>> for line in table_lines([["", "images"], ["train", "7"]], "<>"):
        ...     print(line)
               images
        train       7
    """
    rows = [[printable(cell, keep="") for cell in row] for row in rows]
    columns = [row for row in rows if len(row) > 1]
    widths = [
        max(len(row[column]) for row in columns if column < len(row))
        for column in range(max(map(len, columns), default=0))
    ]
    signs = align.ljust(len(widths), align[-1])

    def padded(cells: Sequence[str]) -> list[str]:
        return [f"{cell:{signs[at]}{widths[at]}}" for at, cell in enumerate(cells)]

    if markdown:
        rules = ["-" * (width - 1) for width in widths]
        rule = [
            f":{dashes}" if signs[at] == "<" else f"{dashes}:" for at, dashes in enumerate(rules)
        ]
        head, *others = map(padded, rows)
        return [f"| {' | '.join(cells)} |" for cells in (head, rule, *others)]
    lines = []
    for row in rows:
        cells = padded(row) if len(row) > 1 else []
        if not cells:
            lines.append("".join(row))
        elif wrap:
            lines += wrapped(row[-1], indent + _GAP.join([*cells[:-1], ""])).splitlines()
        else:
            lines.append(f"{indent}{_GAP.join(cells)}".rstrip())
    return lines


def alarm(text: str, finding: str = "") -> list[str]:
    """Lay out an alarm, which is printed before everything else; no line without one."""
    return [indented(f"{finding}: {text}" if finding else text, "!! ")] if text else []


def indented(text: str, first: str = "  ") -> str:
    """Wrap a line to fit the terminal; the lines after the first are indented further."""
    return wrapped(text, first, " " * len(first) + "  ")
