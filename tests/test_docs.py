"""The pages' links and what must be named in them; `test_documentation.py` executes the pages."""

import importlib
import re
from pathlib import Path

import pytest

from cxrignite.cli import commands as commands

ROOT = Path(__file__).resolve().parents[1]
# By docs/generate.py, when the site is built; test_reference.py is about them.
GENERATED = [
    ROOT / "docs/reference" / name for name in ("cli.md", "recipe.md", "recipe.schema.json")
]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(set((ROOT / "docs").rglob("*.md")) - set(GENERATED)),
]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def text_of(page):
    return page.read_text(encoding="utf-8")


def links():
    return [
        pytest.param(page, target, id=f"{page.stem}-{target}")
        for page in PAGES
        for target in re.findall(r"\]\(([^)]+)\)", FENCED.sub("", text_of(page)))
        if "://" not in target
    ]


def test_there_are_links_to_follow():
    assert len(links()) >= 10


@pytest.mark.parametrize(("page", "target"), links())
def test_a_link_inside_the_project_leads_somewhere(page, target):
    path, _, anchor = target.partition("#")
    destination = (page.parent / path).resolve() if path else page
    if destination in GENERATED:
        return
    assert destination.exists()
    if anchor:
        titles = re.findall(r"^#+ (.*)$", FENCED.sub("", text_of(destination)), re.M)
        plain = [re.sub(r"[^\w\- ]", "", title.lower()) for title in titles]
        assert anchor in [title.replace(" ", "-") for title in plain]


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_the_readme_names_every_command(command):
    assert f"`{command}`" in text_of(ROOT / "README.md")


@pytest.mark.parametrize("room", ["data", "engines", "functional", "handlers", "nn"])
def test_every_public_name_of_a_room_is_in_the_changelog_and_the_reference(room):
    changes = text_of(ROOT / "CHANGELOG.md")
    names = importlib.import_module(f"cxrignite.{room}").__all__
    assert [name for name in names if not re.search(rf"`{name}\b", changes)] == []
    assert f"::: cxrignite.{room}\n" in text_of(ROOT / f"docs/reference/api/{room}.md")
