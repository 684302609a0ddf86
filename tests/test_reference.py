"""The pages of the reference that are written from the code, by `docs/generate.py`."""

import importlib.util
import json
from pathlib import Path

import pytest

from cxrignite.cli.commands import COMMANDS
from cxrignite.cli.parsing import recipe_json_schema

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(generate, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    generate.write_reference(folder)
    return folder


def test_every_command_has_its_help(folder):
    page = (folder / "cli.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        _, _, rest = page.partition(f"\n## {command}\n")
        section = rest.partition("\n## ")[0]
        assert f"usage: cxrignite {command} " in section
        assert section.count("```") == 2
    assert max(len(line) for line in page.splitlines() if line.startswith(" ")) <= 84


def test_every_key_has_a_row(folder):
    page = (folder / "recipe.md").read_text(encoding="utf-8")
    schema = recipe_json_schema()
    for key, value in schema["properties"].items():
        inner = [f"{key}.{name}" for name in value.get("properties", ())] or [key]
        for name in inner:
            assert (f"| `{name}` |" in page) is not name.endswith("+"), name
    description = schema["properties"]["data"]["properties"]["val_fraction"]["description"]
    assert f"| `data.val_fraction` | number | `0.15` | {description} |" in page
    assert "| `data.fold.count` | integer |  | " in page


@pytest.mark.parametrize("name", ["ClassFolders", "LightCNN", "SoftPosWeightBCE", "EpochTimer"])
def test_our_classes_have_their_settings(name, folder):
    page = (folder / "recipe.md").read_text(encoding="utf-8")
    assert f"\n#### `{name}`\n" in page


def test_the_schema_lies_beside_the_pages(folder):
    text = (folder / "recipe.schema.json").read_text(encoding="utf-8")
    assert json.loads(text) == recipe_json_schema()


def test_what_is_the_same_is_not_written_again(folder, generate):
    page, other = folder / "cli.md", folder / "recipe.md"
    before = page.stat().st_mtime_ns
    other.write_text("old", encoding="utf-8")
    generate.write_reference(folder)
    assert page.stat().st_mtime_ns == before
    assert other.read_text(encoding="utf-8").startswith("# The recipe\n")
