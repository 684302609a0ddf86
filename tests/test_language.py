"""The vocabulary of names, messages, documentation and docstrings."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = ("cxrignite", "recipes", "docs", "benchmarks")
SUFFIXES = {".py", ".md", ".yaml", ".html", ".css", ".js", ".svg"}
FILES = [
    ROOT / "README.md",
    *(
        path
        for place in PLACES
        for path in sorted((ROOT / place).rglob("*"))
        if path.suffix in SUFFIXES and "__pycache__" not in path.parts
    ),
]
# Each has a plain word that is used instead.
FORBIDDEN = re.compile(
    r"films?|told|tells?|speaks?|anew|mend(?:s|ed)?|verdicts?|ledgers?|voids?|voided|strange"
    r"|looks at|asked for|go on|goes on|going on|went on|carv(?:e|es|ed|ing)|dealt|nobody|somebody"
    r"|whoever|passport|open_pack|packs?|packed|verbs?|raw scores?|natural scores?",
    re.IGNORECASE,
)
WORD = re.compile(rf"(?<![\w.])(?:{FORBIDDEN.pattern})(?!\w)", re.IGNORECASE)
# The one line of the glossary, and names that other libraries or Python give.
ALLOWED = re.compile(r"^\W*film\W+an? |\.tell\(|struct\.(?:un)?pack|voids? \*", re.IGNORECASE)
QUESTIONS = ("What", "Whether", "How", "Which", "Where", "Who", "Whose")


@pytest.mark.parametrize("place", [*PLACES, "README.md"])
def test_no_word_of_another_vocabulary_is_used(place):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {word[0]}"
        for path in FILES
        if path.is_relative_to(ROOT / place)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if not ALLOWED.search(line)
        for word in WORD.finditer(line)
    ]
    assert found == []


def test_no_docstring_begins_with_a_question_word():
    begins = [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}: {text.split()[0]}"
        for path in FILES
        if path.suffix == ".py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and (text := ast.get_docstring(node))
        and text.split()[0] in QUESTIONS
    ]
    assert begins == []
