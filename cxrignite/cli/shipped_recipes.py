"""Recipes that come with the package; imports little, so that `recipes list` is fast."""

from __future__ import annotations

import shutil
from pathlib import Path

from cxrignite.errors import RecipeError, suggestion
from cxrignite.terminal import wrapped

_PACKAGE = Path(__file__).resolve().parent.parent


def recipes_dir() -> Path:
    """Return the folder of the recipes: inside an installed package, or beside it in a checkout."""
    installed = _PACKAGE / "_recipes"
    return installed if installed.is_dir() else _PACKAGE.parent / "recipes"


def recipe_names() -> list[str]:
    """Return the names of all recipes, sorted; overlays are included (`overlays/smoke`)."""
    root = recipes_dir()
    return sorted(
        path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml")
    )


def recipe_path(name: str) -> Path:
    """Return the file of a recipe.

    Raises:
        RecipeError: No recipe has this name.
    """
    names = recipe_names()
    stem = name.removesuffix(".yaml")
    if stem not in names:
        raise RecipeError(f"unknown recipe '{name}'{suggestion(stem, names)}")
    return recipes_dir() / f"{stem}.yaml"


def describe_recipes() -> str:
    """Return a line for each recipe: its name and the first line of its opening comment."""
    names = recipe_names()
    width = max(map(len, names), default=0)
    texts = (recipe_path(name).read_text(encoding="utf-8") for name in names)
    firsts = (text.partition("\n")[0].lstrip("# ") for text in texts)
    lines = zip(names, firsts, strict=True)
    return "".join(f"{wrapped(first, f'{name:<{width}}  ')}\n" for name, first in lines)


def copy_recipe(name: str, folder: Path) -> Path:
    """Copy a recipe into `folder`.

    Raises:
        RecipeError: No recipe has this name, or the file exists already.
    """
    source = recipe_path(name)
    target = folder / source.name
    if target.exists():
        raise RecipeError(f"{target} exists already; move or rename it first")
    shutil.copyfile(source, target)
    return target
