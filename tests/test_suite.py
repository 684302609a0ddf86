"""A check that no test asserts a sentence; conftest.py counts the interpreters."""

import ast
import re
from pathlib import Path

import pytest
from messages import SNAPSHOT, exists, parse

TESTS = Path(__file__).resolve().parent
FILES = sorted(TESTS.rglob("test_*.py"))
ASKING = {"refused", "line_with", "sentence_with", "error_line", "missing", "raises", "warns"}
ASKING |= {"parametrize"}


def texts(node):
    """The texts that an assertion compares with, or that it asks a message for."""
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.lineno, each.value


def is_sentence(text):
    """Five words in a row, of which none is a name, a number or an option."""
    return re.search(r"(?:(?<![\w.`-])[a-z']{2,}[,;:]? ){4}[a-z']{2,}(?![\w.-])", text)


def sentences(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        asked = isinstance(node, ast.Call) and ASKING & {
            getattr(node.func, "id", ""),
            getattr(node.func, "attr", ""),
        }
        if isinstance(node, ast.Assert):
            node = node.test  # its own message may be a sentence
        elif not asked:
            continue
        yield from (f"{path.name}:{at}: {text}" for at, text in texts(node) if is_sentence(text))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(TESTS).as_posix())
def test_no_test_asserts_a_sentence(path):
    assert list(sentences(path)) == []


def test_every_kept_message_belongs_to_a_test():
    kept = parse(SNAPSHOT.read_text(encoding="utf-8"))
    assert [name for name in kept if not exists(name)] == []
