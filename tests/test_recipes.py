"""Every shipped recipe is found by search, parsed, read back, and trained for two steps."""

from pathlib import Path

import pytest
import torch
import yaml
from results import finding

from cxrignite.cli import run
from cxrignite.cli.parsing import parse_recipe

RECIPES = sorted((Path(__file__).resolve().parent.parent / "recipes").glob("*.yaml"))
WEIGHTLESS = ["--model.weights", "null"]


def test_there_are_recipes():
    assert {path.stem for path in RECIPES} >= {
        "quickstart",
        "baseline_cnn",
        "resnet50",
        "efficientnet_lite0",
    }


@pytest.fixture(params=RECIPES, ids=lambda path: path.stem)
def recipe_path(request):
    return request.param


def test_a_recipe_read_back_from_its_dump_is_the_same(recipe_path, tmp_path):
    recipe, text, _ = parse_recipe("fit", ["--config", str(recipe_path)])
    dumped = tmp_path / "recipe.yaml"
    dumped.write_text(text)
    again, text_again, _ = parse_recipe("fit", ["--config", str(dumped)])
    assert text_again == text
    assert type(again.loss) is type(recipe.loss)
    assert again.trainer.max_epochs == recipe.trainer.max_epochs


def test_a_recipe_of_nothing_but_what_is_required_can_be_read_back(tmp_path):
    least = tmp_path / "least.yaml"
    least.write_text(
        "data: {source: {class_path: Phantom, init_args: {root: images}}}\n"
        "model: LightCNN\n"
        "optimizer: {class_path: AdamW, init_args: {lr: 1.0e-3}}\n"
    )
    recipe, text, _ = parse_recipe("fit", ["--config", str(least)])
    dumped = tmp_path / "recipe.yaml"
    dumped.write_text(text)
    again, text_again, _ = parse_recipe("fit", ["--config", str(dumped)])
    assert text_again == text
    assert type(again.loss) is type(recipe.loss) is torch.nn.BCEWithLogitsLoss


def test_a_dump_keeps_nulls(recipe_path):
    _, text, _ = parse_recipe("fit", ["--config", str(recipe_path)])
    trainer = yaml.safe_load(text)["trainer"]
    assert "max_grad_norm" in trainer
    assert trainer["max_grad_norm"] is None


def test_a_recipe_opens_with_the_commands_that_launch_it(recipe_path):
    opening = recipe_path.read_text().partition("\nseed")[0]
    assert f"python -m cxrignite fit  --config recipes/{recipe_path.name}" in opening
    assert f"python -m cxrignite test --run runs/{recipe_path.stem}" in opening


def test_no_recipe_flips_a_chest(recipe_path):
    _, text, _ = parse_recipe("fit", ["--config", str(recipe_path)])
    assert "Flip" not in text


def test_affine_augmentation_moves_and_scales_both_ways(recipe_path):
    data = yaml.safe_load(recipe_path.read_text())["data"]
    assert "augment" not in data  # one vocabulary in all recipes that ship
    affine = [each for each in data["batch_augment"] if each["class_path"] == "RandomAffine"]
    assert len(affine) == 1
    low, high = affine[0]["init_args"]["scale"]
    assert low < 1 < high


def test_augmentation_is_the_same_after_reading_the_dump_back(recipe_path, tmp_path):
    import numpy as np
    from PIL import Image

    from cxrignite.workflows.parts import build_pipeline

    pixels = np.random.default_rng(0).integers(0, 255, (160, 200), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    recipe, text, _ = parse_recipe("fit", ["--config", str(recipe_path)])
    dumped = tmp_path / "recipe.yaml"
    dumped.write_text(text)
    again, _, _ = parse_recipe("fit", ["--config", str(dumped)])
    pipelines = [build_pipeline(each.data) for each in (recipe, again)]
    for seed in range(24):  # enough that each random transform takes part
        first, second = (pipeline(tmp_path / "image.png", seed=seed) for pipeline in pipelines)
        assert torch.equal(first, second)


# `test_documentation.py` trains the other recipes, two with smaller networks.
@pytest.mark.integration
@pytest.mark.parametrize(
    "name",
    [
        *("efficientnet_lite0", "manifest"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("quickstart", "baseline_cnn", "resnet50")
        ),
    ],
)
def test_a_recipe_trains_with_the_smoke_overlay(name, smoke_arguments, tmp_path, monkeypatch):
    [path] = [path for path in RECIPES if path.stem == name]
    weightless = WEIGHTLESS if "weights:" in path.read_text() else []
    monkeypatch.chdir(tmp_path)
    assert run(["fit", "--config", str(path), *smoke_arguments, *weightless]) == 0
    folder = tmp_path / "runs" / "smoke"
    assert (folder / "checkpoints" / "best.pt").is_file()
    assert finding(folder / "metrics" / "val.json")["num_images"] == 12
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["trainer"]["epoch_length"] == 2
