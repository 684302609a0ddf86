"""One renderer for every table of the terminal and of Markdown."""

from cxrignite.reporting.text_table import table_lines

ROWS = [["", "images"], ["train", "1,200"], ["test", "7"]]


def test_columns_are_as_wide_as_their_widest_cell_and_aligned():
    assert table_lines(ROWS, "<>", indent=". ") == [
        ".        images",
        ". train   1,200",
        ". test        7",
    ]


def test_a_heading_is_not_measured_and_a_row_may_end_early():
    lines = table_lines([["a heading that is long"], [], ["a", "b", "c"], ["d", "e"]], indent="  ")
    assert lines == ["a heading that is long", "", "  a  b  c", "  d  e"]


def test_the_last_column_is_wrapped_below_its_beginning():
    first, *others = table_lines([["label", "word " * 60], ["", "end"]], indent="  ", wrap=True)
    assert first.startswith("  label  word word")
    assert {line[:9] for line in others} == {" " * 9}
    assert max(map(len, [first, *others])) <= 100


def test_a_markdown_table_has_a_rule_that_aligns():
    assert table_lines(ROWS, "<>", markdown=True) == [
        "|       | images |",
        "| :---- | -----: |",
        "| train |  1,200 |",
        "| test  |      7 |",
    ]
