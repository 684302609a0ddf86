"""The JSON schema of recipes: it accepts what `fit` accepts, and rejects what `fit` refuses."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from cxrignite import cli
from cxrignite.cli.parsing import recipe_json_schema
from cxrignite.cli.recipe_schema import recipe_schema
from cxrignite.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted([*(ROOT / "recipes").rglob("*.yaml"), *(ROOT / "docs").rglob("*.yaml")])
YAML_BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.M | re.S)
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for number, block in enumerate(YAML_BLOCK.findall(page.read_text(encoding="utf-8")))
]


@pytest.fixture(scope="module")
def schema():
    return recipe_json_schema()


@pytest.fixture(scope="module")
def problems(schema):
    validator = Draft202012Validator(schema)

    def of(recipe):
        return [error.json_path for error in validator.iter_errors(recipe)]

    return of


def changed(key, value):
    recipe = yaml.safe_load((ROOT / "recipes" / "resnet50.yaml").read_text(encoding="utf-8"))
    *groups, last = key.split(".")
    inside = recipe
    for group in groups:
        inside = inside[group]
    inside[last] = value
    return recipe


def test_it_is_a_schema(schema):
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_takes_every_recipe_that_ships(path, problems):
    assert problems(yaml.safe_load(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("block", BLOCKS)
def test_it_takes_every_recipe_of_the_pages(block, problems):
    assert problems(yaml.safe_load(block)) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", "my_parts.MyNet"),
        ("model", {"class_path": "my_parts.MyNet", "init_args": {"depth": 3}}),
        ("model", {"class_path": "LightCNN"}),
        ("optimizer", "SGD"),
        ("data.fold", {"index": 0, "count": 5}),
        ("data.cache", False),
        ("data.cache", "cache"),
        ("data.image_size", [224, 224]),
        ("trainer.handlers+", ["EpochTimer"]),
        ("lr_scheduler", None),
        ("data.sampler", None),
    ],
)
def test_it_takes_what_fit_takes(key, value, problems):
    assert problems(changed(key, value)) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sede", 1),
        ("seed", "many"),
        ("data.batchsize", 8),
        ("data.image_size", [224]),
        ("data.num_workers", 1.5),
        ("trainer.precision", "fp8"),
        ("trainer.device", "tpu"),
        ("model", "NoNetOfOurs"),
        ("model", {"class_path": "LightCNN", "init_args": {"widht": 8}}),
        ("model", {"class_path": "LightCNN", "init_args": {"stride": 4}}),
        ("data.source.init_args", {"rot": "data/chest_xray"}),
        ("data.fold", {"number": 1}),
        ("validator.handlers", {"class_path": "ThresholdSearch"}),
        ("monitor.mode", "best"),
    ],
)
def test_it_refuses_what_fit_refuses(key, value, problems):
    assert problems(changed(key, value)) != []


def test_every_key_has_its_type_and_what_it_means(schema):
    def look(group, printed, prefix):
        fields = {field.name for field in dataclasses.fields(group)}
        assert {key for key in printed["properties"] if not key.endswith("+")} == fields, prefix
        for name, value in printed["properties"].items():
            assert value.get("description"), f"{prefix}{name} has no description"
            assert set(value) - {"description", "default"}, f"{prefix}{name} has no type"

    look(Recipe, schema, "")
    for field in dataclasses.fields(Recipe):
        if dataclasses.is_dataclass(field.type):
            look(field.type, schema["properties"][field.name], f"{field.name}.")


def test_classes_that_no_recipe_can_make_are_not_offered(schema):
    offered = {base: printed["anyOf"][0]["enum"] for base, printed in schema["$defs"].items()}
    assert offered["Sampler"] == ["BalancedSampler"]  # torch's take no labels and no seed
    assert {"ThresholdSearch", "EpochTimer"} <= set(offered["Attachable"])
    assert not {"FiniteGuard", "GradCAMExporter"} & set(offered["Attachable"])  # want a model
    assert {"Resize", "RandAffine", "ScaleIntensity"} <= set(offered["Transform"])
    assert "Resized" not in offered["Transform"]  # of dictionaries
    assert {"AdamW", "SGD"} <= set(offered["Optimizer"])


def test_any_dataclass_may_be_described():
    @dataclasses.dataclass
    class Small:
        """Two keys.

        Attributes:
            rate: How fast.
            shape: How large.
        """

        rate: float
        shape: tuple[int, ...] = (1, 2)

    printed = recipe_schema(Small, {})
    assert printed["properties"]["rate"] == {"type": "number", "description": "How fast."}
    shape = {"type": "array", "items": {"type": "integer"}, "default": [1, 2]}
    assert printed["properties"]["shape"] == {**shape, "description": "How large."}
    assert printed["$defs"] == {}


def test_the_command_prints_it(capsys, schema):
    assert cli.run(["recipes", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema
