import re

import pytest
import yaml

from cxrignite import cli
from cxrignite.cli.parsing import recipe_json_schema

SCHEMA = recipe_json_schema()["properties"]
DATA = SCHEMA["data"]["properties"]
TITLES = [SCHEMA[group]["description"].rstrip(".") for group in ("data", "trainer")]


def describes(key, said):
    """Whether a help text has what the schema says of a key of the data."""
    return DATA[key]["description"] in said


def help_of(command, capsys):
    assert cli.run([command, "--help"]) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", ["validate", "test", "recalibrate", "predict", "explain"])
def test_a_command_that_reads_a_run_takes_the_runs_own_values(command, capsys):
    said = help_of(command, capsys)
    assert describes("num_workers", said)
    # One default for all keys of the recipe, which is none of the recipe's own.
    keys = re.findall(r"--(?:data|trainer)\.\w+ \S+ .*?default: ([^)]+)\)", said)
    assert len(keys) >= 4
    assert len(defaults := set(keys) - {"null"}) == 1
    assert not re.search(r"\d", *defaults)
    assert "required, type" not in said
    assert "--model" not in said
    assert "-h, --help" in said
    # A group's title is not that of `fit`, which says what the keys do in training.
    assert not any(title in said for title in TITLES)


def test_fit_says_what_must_be_given_and_what_is_taken_otherwise(capsys):
    said = help_of("fit", capsys)
    assert describes("source", said)
    assert re.search(r"--data\.source SOURCE [^(]*\(required, type", said)
    assert "(type: int, default: 4)" in said
    assert all(title in said for title in TITLES)


def test_of_many_classes_a_few_are_named(capsys):
    said = help_of("fit", capsys)
    assert "torch.optim.Adafactor, torch.optim.Muon, ...)" in said
    assert "cxrignite.nn.Ensemble, cxrignite.nn.LightCNN, " in said


def test_what_is_printed_is_a_recipe_that_prints_the_same(capsys, recipes_dir, tmp_path):
    recipe = str(recipes_dir / "resnet50.yaml")
    resize = "[{class_path: Resize, init_args: {spatial_size: [224, 224]}}]"
    argv = ["fit", "--config", recipe, "--optimizer", "SGD", "--run_dir", str(tmp_path / "run")]
    argv += ["--data.preprocess", resize]
    assert cli.run([*argv, "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert "class_path: torch.optim.SGD" in printed
    assert "mode: area" in printed  # as MONAI reads it
    assert "print_config" not in printed
    again = tmp_path / "again.yaml"
    again.write_text(printed, encoding="utf-8")
    assert cli.run(["fit", "--config", str(again), "--print_config"]) == 0
    assert capsys.readouterr().out == printed
    assert not (tmp_path / "run").exists()


def test_a_key_that_the_help_leaves_out_is_printed_and_stored(capsys, recipes_dir):
    argv = ["fit", "--config", str(recipes_dir / "baseline_cnn.yaml")]
    argv += ["--fine_tuning", "{frozen: [backbone.0], lr_factors: {head: 2.0}}"]
    argv += ["--trainer.averaging", "swa", "--trainer.swa_start", "2"]
    assert cli.run([*argv, "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    for group, keys in SCHEMA.items():
        if "properties" in keys and not {"class_path", "init_args"} & keys["properties"].keys():
            known = {name for name in keys["properties"] if not name.endswith("+")}
            assert printed[group].keys() == known, group
    assert printed["fine_tuning"]["frozen"] == ["backbone.0"]
    assert printed["fine_tuning"]["lr_factors"] == {"head": 2.0}
    assert printed["trainer"]["swa_start"] == 2
    said = help_of("fit", capsys)
    assert "--fine_tuning.frozen" not in said
    assert "--trainer.swa_start" not in said
