"""A few real steps on real X-rays, from the recipe to the test split."""

import pytest
from results import finding

pytestmark = pytest.mark.slow


@pytest.fixture
def arguments(chest_xray, recipes_dir):
    return ["--config", recipes_dir / "baseline_cnn.yaml", "--data.source.root", chest_xray]


def test_the_baseline_learns_something_within_twenty_steps(command, arguments, tmp_path):
    short = ["--trainer.max_epochs", "1", "--trainer.epoch_length", "20"]
    done = command("fit", *arguments, *short, "--model.width", "8")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "baseline_cnn"
    validation = finding(run / "metrics" / "val.json")
    assert validation["roc_auc"]["value"] > 0.7
    done = command("test", "--run", run)
    assert done.returncode == 0, done.stderr
    test = finding(run / "metrics" / "test.json")
    assert test["num_images"] == 314
    assert test["num_positive"] == 197
    assert test["at_threshold"]["threshold"] == validation["at_threshold"]["threshold"]
