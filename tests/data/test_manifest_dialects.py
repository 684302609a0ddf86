"""Tables as programs write them: each must give the same two images."""

import csv
import gzip
import io

import pytest

from cxrignite.data.manifest import Manifest, ManifestColumns
from cxrignite.data.manifest_table import open_table

ROWS = [
    ["path", "label", "patient", "note"],
    ["a, 1.png", "NORMAL", "001", "NA"],
    ["b.png", "PNEUMONIA", "002", '1,5; "x"'],
]


def written(rows=ROWS, **options) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, **options).writerows(rows)
    return text.getvalue()


def indexed(*names: str) -> list[list[str]]:
    return [[name, *row] for name, row in zip(names, ROWS, strict=True)]


LINES = written(lineterminator="\n")
QUOTED = written(quoting=csv.QUOTE_ALL, lineterminator="\n")
EXCEL = written(delimiter=";")
DIALECTS = {
    "python": written(),
    "pandas": LINES,
    "pandas with its index": written(indexed("", "0", "1"), lineterminator="\n"),
    "pandas with an old index": written(indexed("Unnamed: 0", "0", "1"), lineterminator="\n"),
    "pandas, tabs": written(delimiter="\t", lineterminator="\n"),
    "all quoted": QUOTED,
    "all quoted, CRLF": QUOTED.replace("\n", "\r\n"),
    "all quoted, semicolons": written(quoting=csv.QUOTE_ALL, delimiter=";"),
    "all quoted, tabs": written(quoting=csv.QUOTE_ALL, delimiter="\t"),
    "all quoted, bars": written(quoting=csv.QUOTE_ALL, delimiter="|"),
    "text quoted": written(quoting=csv.QUOTE_NONNUMERIC),
    "R write.csv": written(indexed("", "1", "2"), quoting=csv.QUOTE_ALL, lineterminator="\n"),
    "R write.csv2": written(
        indexed("", "1", "2"), quoting=csv.QUOTE_ALL, delimiter=";", lineterminator="\n"
    ),
    "R write.table, tabs": written(
        [ROWS[0], *indexed("", "1", "2")[1:]],
        quoting=csv.QUOTE_ALL,
        delimiter="\t",
        lineterminator="\n",
    ),
    "Excel": written().encode("utf-8-sig"),
    "Excel of a decimal comma": EXCEL.encode("utf-8-sig"),
    "Excel with sep=;": f"sep=;\r\n{EXCEL}",
    "Excel with sep=; and a mark": f"sep=;\r\n{EXCEL}".encode("utf-8-sig"),
    "Excel with a quoted sep=,": f'"sep=,"\r\n{written()}',
    "Excel with sep=| of two columns": "sep=|\r\npath|label\r\na, 1.png|NORMAL\r\nb.png|PNEUMONIA",
    "Excel with a padded sep=;": f"sep=;;;;\r\n{EXCEL}",
    "Excel Unicode text": written(delimiter="\t").encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + LINES.encode("utf-16-be"),
    "UTF-16 with sep=;": f"sep=;\r\n{EXCEL}".encode("utf-16"),
    "Excel for the Mac": written(lineterminator="\r"),
    "Excel, empty lines at the end": f"{written()},,,\r\n,,,\r\n\r\n",
    "Excel, empty lines first": f"\r\n,,,\r\n{written()}",
    "Excel, empty columns": LINES.replace("\n", ",,\n"),
    "commas after rows": LINES.replace("NA\n", "NA,\n"),
    "bars": written(delimiter="|"),
    "no line end": LINES.removesuffix("\n"),
    "spaces after commas": QUOTED.replace('",', '", '),
    "spaces in the header": LINES.replace("path,label,", "path, label , "),
    "header of other case": LINES.replace("path,label", "Path,LABEL"),
    "a header in quotes that holds commas": LINES.replace("note", '"note, free; text | etc."'),
    "cached": gzip.compress(QUOTED.encode()),
}


def test_there_are_enough_of_them():
    assert len(DIALECTS) >= 30


@pytest.mark.parametrize("name", DIALECTS)
def test_a_dialect_is_read(name, tmp_path):
    content = DIALECTS[name]
    path = tmp_path / ("images.csv.gz" if name == "cached" else "images.csv")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "a, 1.png").touch()
    note = next((column for column in open_table(path).header if column.startswith("note")), None)
    records = Manifest(path, columns=ManifestColumns(attributes=[note] if note else [])).records()
    assert [(record.name, record.label) for record in records] == [("a, 1.png", 0), ("b.png", 1)]
    if note:  # text as it is written
        assert [record.patient for record in records] == ["001", "002"]
        assert [record.attributes[note] for record in records] == ["NA", '1,5; "x"']


@pytest.mark.parametrize(
    "text", ["image\na b.png\n", '"image"\n"a b.png"\n', "image\r\na b.png\r\n"]
)
def test_a_table_of_one_column_is_read(text, tmp_path):
    (tmp_path / "images.csv").write_bytes(text.encode())
    table = open_table(tmp_path / "images.csv")
    assert table.header == ["image"]
    assert list(table.read([0, 0])) == [(2, ("a b.png", "a b.png"))]


def test_lines_are_counted_from_the_first_of_the_file(tmp_path):
    (tmp_path / "images.csv").write_text("sep=;\n\npath;label\na;0\n\nb;1\n")
    assert [line for line, _ in open_table(tmp_path / "images.csv").read([0, 1])] == [4, 6]
