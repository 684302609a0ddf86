import csv
import io

import pytest

from cxrignite.csv_text import CsvReader, csv_bytes, dict_rows, plain_cell

FORMULAS = [
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "\uff1d1",
    "-",
    "+49 89",
    "-x",
]
TEXTS = ["", "a", "a=1", "'", "'a", "''=1", "'=1", "'-1.5", " =1", "a,b", 'a"b', "a\nb", "a\rb"]
NUMBERS = ["-1.5", "+1", "-1e-05", "-.5", "-inf", "+nan", "0.5"]


def read(data: bytes) -> list[dict]:
    return list(CsvReader(io.StringIO(data.decode(errors="surrogateescape"), newline="")))


@pytest.mark.parametrize("cell", [*FORMULAS, *TEXTS, *NUMBERS, "\udcff.png"])
def test_a_cell_reads_back(cell):
    assert read(dict_rows([{"a": cell, "b": "end"}], ["a", "b"])) == [{"a": cell, "b": "end"}]


@pytest.mark.parametrize("cell", FORMULAS)
def test_a_formula_becomes_text(cell):
    (row,) = csv.reader(io.StringIO(csv_bytes([[cell, "x"]]).decode(), newline=""))
    assert row == [f"'{cell}", "x"]
    assert plain_cell(row[0]) == cell


def test_numbers_stay_numbers():
    assert csv_bytes([[-1.5, -1, *NUMBERS]]).decode() == f"-1.5,-1,{','.join(NUMBERS)}\n"


def test_a_missing_cell_is_empty():
    assert dict_rows([{"a": 1}, {"b": 2}], ["a", "b"]) == b"a,b\n1,\n,2\n"
