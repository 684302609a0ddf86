"""The documentation's own promises: its Python runs, its verbs exist, its links lead somewhere."""

import re
from pathlib import Path

import pytest

from cxrignite.cli import _VERBS
from cxrignite.parsing import OPTIONS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(language, text, id=f"{page.name}-{number}")
    for page in PAGES
    for number, (language, text) in enumerate(
        re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)
    )
]


def test_there_are_blocks_of_every_kind():
    languages = {block.values[0] for block in BLOCKS}
    assert {"", "python", "yaml"} <= languages


@pytest.mark.parametrize(("language", "text"), BLOCKS)
def test_a_block_holds_what_it_promises(language, text):
    if language == "python" and "evaluator" not in text:  # that one needs the reader's engines
        exec(compile(text, "block", "exec"), {})
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if "cxrignite" not in words or "install" in words:
            continue
        verb, *arguments = words[words.index("cxrignite") + 1 :]
        assert verb in _VERBS, line
        known = {option.name for option in OPTIONS.get(verb, ())} | {"run", "output", "config"}
        for argument in arguments:
            name = argument.removeprefix("--")
            if argument.startswith("--"):
                assert name in known or name.split(".")[0] in ("data", "model", "trainer"), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_inside_the_project_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target
