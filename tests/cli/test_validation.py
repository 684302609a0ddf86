import pytest
from messages import refused

from cxrignite.cli.parsing import parse_recipe
from cxrignite.errors import RecipeError

PARTS = """\
import torch

class Opt(torch.optim.SGD):
    def __init__(self, parameters, speed: float, **settings):
        super().__init__(parameters, lr=speed, **settings)

class Outer:
    class Handler:
        def __init__(self, count: int = 3, names: list[str] | None = None): pass
        def attach(self, engine): pass
"""
HANDLER = "signed_parts.Outer.Handler"


@pytest.fixture
def parse(tmp_path, monkeypatch, recipes_dir):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "signed_parts.py").write_text(PARTS)
    quickstart = str(recipes_dir / "quickstart.yaml")
    return lambda *argv: parse_recipe("fit", ["--config", quickstart, *argv])[1]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--optimizer", "signed_parts.Opt", "--optimizer.speed", "1e-1"], "speed: 0.1"),
        (["--trainer.handlers+=signed_parts.Outer.Handler"], "signed_parts.Outer.Handler"),
        (["--loss", "BCEWithLogitsLoss", "--loss.reduction", "mean"], "reduction: mean"),
        (["--data.fold", "{index: 0, count: 5}"], "count: 5"),
    ],
)
def test_what_a_signature_takes_is_taken(argv, says, parse):
    assert says in parse(*argv)


@pytest.mark.parametrize(
    ("argv", "facts"),
    [
        (["--optimizer", "signed_parts.Opt"], ["'optimizer'", "speed"]),
        (
            ["--optimizer", "signed_parts.Opt", "--optimizer.speed", "fast"],
            ["'optimizer'", "'speed'", "number", "fast"],
        ),
        (
            [
                "--trainer.handlers",
                "[{class_path: signed_parts.Outer.Handler, init_args: {cout: 4}}]",
            ],
            ["'cout'", "Handler", "'count'"],
        ),
        (
            [
                "--trainer.handlers",
                "[{class_path: signed_parts.Outer.Handler, init_args: {names: [3]}}]",
            ],
            ["'trainer.handlers'", "'names'", "text", "3"],
        ),
        (["--data.fold", "{index: 5, count: 2}"], ["data.fold.index", "[0, 2)", "5"]),
        (["--model", "torch.serialization.load"], ["'model'", "torch.serialization.load"]),
        (["--model", "signed_parts.torch.load"], ["'model'", "signed_parts.torch.load"]),
    ],
)
def test_what_a_signature_does_not_take_is_one_line(argv, facts, parse):
    with refused(RecipeError, *facts):
        parse(*argv)


def test_a_class_of_ones_own_has_no_short_name_even_once_it_is_imported(parse):
    parse("--optimizer", "signed_parts.Opt", "--optimizer.speed", "0.1")
    with refused(RecipeError, "unknown class 'Opt'"):
        parse("--optimizer", "Opt", "--optimizer.speed", "0.1")
