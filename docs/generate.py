"""Generator of the reference pages: the command line, the recipe, its schema.

MkDocs calls `on_pre_build` before it reads the pages (`hooks` in `mkdocs.yml`). For a builder
without hooks, run `python docs/generate.py`. The pages are not committed.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cxrignite import cli
from cxrignite.cli.commands import COMMANDS
from cxrignite.cli.parsing import recipe_json_schema

REFERENCE = Path(__file__).resolve().parent / "reference"
_HELP_WIDTH = "84"  # columns that fit beside the navigation
# Title of the first group after the command's own options: the keys of the recipe begin here.
_KEYS_BEGIN = re.compile(r"^(?!options:)\S.*:$", re.M)
_TAKE_RECIPE = ("audit", "fit", "find_lr", "benchmark")
_HIDDEN = "+"  # `handlers+` appends to `handlers`; the top of the page explains this once
# From a base class to its title on the page.
_TITLES = {
    "Source": "Sources of images",
    "Transform": "Transforms",
    "BatchAugment": "Batch augmentation",
    "Sampler": "Samplers",
    "BinaryClassifier": "Models",
    "Optimizer": "Optimizers",
    "Loss": "Losses",
    "MapLoss": "Losses of maps",
    "LRScheduler": "Learning-rate schedulers",
    "Attachable": "Handlers",
}


def on_pre_build(config: Any) -> None:
    """Write the pages before MkDocs lists them."""
    logging.getLogger("mkdocs.plugins.cxrignite").info("Writing the reference from the code")
    write_reference(REFERENCE)


def write_reference(folder: Path) -> None:
    """Write the pages; an unchanged one is not touched, so `mkdocs serve` does not rebuild."""
    schema = recipe_json_schema()
    pages = {
        "cli.md": cli_page(),
        "recipe.md": recipe_page(schema),
        "recipe.schema.json": json.dumps(schema, indent=1) + "\n",
    }
    for name, text in pages.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def cli_page() -> str:
    """Return the page with the `--help` of each command."""
    lines = [
        "# The command line",
        "",
        "`cxrignite COMMAND ...` and `python -m cxrignite COMMAND ...` are the same. This page "
        "shows the `--help` of each command. Any key of a recipe may be an option, such as "
        "`--trainer.max_epochs 3`; [The recipe](recipe.md) lists them. [Exit codes](exit-codes.md) "
        "are for scripts.",
        "",
        "| command | purpose |",
        "| --- | --- |",
        *(f"| [`{command}`](#{command}) | {_cell(text)} |" for command, text in COMMANDS.items()),
    ]
    for command in COMMANDS:
        text = _help_of(command)
        if command in _TAKE_RECIPE:
            found = _KEYS_BEGIN.search(text, text.index("\noptions:\n"))
            assert found is not None, f"the help of {command} must list the keys of a recipe"
            keys, epilog = "... and the keys of a recipe\n", text[text.index("\nexit codes:") :]
            text = text[: found.start()] + keys + epilog
        lines += ["", f"## {command}", "", "```text", text.rstrip(), "```"]
    return "\n".join(lines) + "\n"


def _help_of(command: str) -> str:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = _HELP_WIDTH
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            code = cli.run([command, "--help"])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    assert code == 0, f"`{command} --help` ended with exit code {code}"
    return printed.getvalue()


def recipe_page(schema: Mapping[str, Any]) -> str:
    """Return the page with every key of a recipe, and every class of this package for a key."""
    lines = [
        "# The recipe",
        "",
        "Every key, generated from the code. [Write a recipe](../guides/recipes.md) explains their "
        "use. A `+` after the key of a list appends to the list of an earlier recipe. Editors can "
        "use the JSON schema, [`recipe.schema.json`](recipe.schema.json).",
    ]
    groups: list[tuple[str, Mapping[str, Any]]] = [("", schema)]
    for key, value in schema["properties"].items():
        if value.get("type") == "object" and "properties" in value:
            groups.append((key, value))
    inner = {key for key, _ in groups}
    for prefix, group in groups:
        lines += ["", f"## `{prefix}`" if prefix else "## Top-level keys", ""]
        lines += [group["description"], ""] if prefix else []
        keys = [key for key in group["properties"] if prefix or key not in inner]
        lines += _table(
            {key: group["properties"][key] for key in keys}, f"{prefix}." * bool(prefix)
        )
    lines += ["", "## Classes", "", *_about_classes(schema["$defs"])]
    for base, title in _TITLES.items():
        lines += ["", f"### {title}", "", *_classes(schema["$defs"][base])]
    return "\n".join(lines) + "\n"


def _about_classes(bases: Mapping[str, Any]) -> Iterator[str]:
    difference = set(bases) ^ set(_TITLES)
    assert not difference, f"_TITLES must have the bases of the schema, difference: {difference}"
    yield (
        "Values of the keys with a `class_path`. Classes of this package are listed with their "
        "settings. For those of PyTorch and MONAI use `cxrignite fit --optimizer.help AdamW`. "
        "Your own class is named by its import path, `package.module.Class`; so is a function "
        "that a class needs."
    )


def _classes(base: Mapping[str, Any]) -> Iterator[str]:
    names, *others = base["anyOf"]
    ours = {kind.__name__ for kind in _our_classes()}
    known = {each["properties"]["class_path"].get("const"): each for each in others[1:]}
    for name in names["enum"]:
        if name in ours:
            settings = known[name]["properties"]["init_args"]["properties"]
            yield from (f"#### `{name}`", "", known[name]["description"], "")
            yield from _table(settings) if settings else ["It has no settings."]
            yield ""
    foreign = [f"`{name}`" for name in names["enum"] if name not in ours]
    if foreign:
        prefix = "From PyTorch: " if ours & set(names["enum"]) else ""
        yield f"{prefix}{', '.join(foreign)}."


def _our_classes() -> Iterator[type]:
    import cxrignite.data
    import cxrignite.engines
    import cxrignite.handlers
    import cxrignite.nn

    packages = (cxrignite.data, cxrignite.engines, cxrignite.handlers, cxrignite.nn)
    for package in packages:
        yield from (kind for kind in vars(package).values() if isinstance(kind, type))


def _table(properties: Mapping[str, Any], prefix: str = "") -> list[str]:
    rows = list(_rows(properties, prefix))
    return ["| key | value | default | meaning |", "| --- | --- | --- | --- |", *rows]


def _rows(properties: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in properties.items():
        if key.endswith(_HIDDEN):
            continue
        default = f"`{_plain(value['default'])}`" if "default" in value else ""
        text = _cell(value.get("description", ""))
        yield f"| `{prefix}{key}` | {_cell(_values(value))} | {_cell(default)} | {text} |"
        for group in (value, *value.get("anyOf", ())):
            if "properties" in group:
                yield from _rows(group["properties"], f"{prefix}{key}.")


def _values(schema: Mapping[str, Any]) -> str:
    """Describe the values that a key accepts."""
    if "$ref" in schema:
        title = _TITLES[schema["$ref"].rpartition("/")[2]]
        return f"one of [{title.lower()}](#{title.lower().replace(' ', '-')})"
    if "enum" in schema:
        return ", ".join(f"`{_plain(value)}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_values, schema["anyOf"])))
    if "prefixItems" in schema:
        return f"`[{', '.join(map(_values, schema['prefixItems']))}]`"
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_values(schema['items'])}" if schema["items"] else "list"
    if kind == "object":
        return "keys below" if "properties" in schema else "mapping"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


if __name__ == "__main__":
    write_reference(REFERENCE)
