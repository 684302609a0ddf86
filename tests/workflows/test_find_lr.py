"""The learning-rate finder, on a tiny model and by the command line."""

import copy
import csv
import re
from types import SimpleNamespace

import pytest
import torch
from messages import error_line, missing, unwrapped
from PIL import Image
from torch import nn

from cxrignite.cli import run
from cxrignite.engines import choose_precision
from cxrignite.recipe import TrainerRecipe
from cxrignite.reporting.plots.run_figures import learning_rate_curve
from cxrignite.workflows.find_lr import HIGHEST, LOWEST, LearningRateSearch
from cxrignite.workflows.parts import Computing
from cxrignite.workflows.training import Learner

BATCHES = [
    (torch.randn(8, 4, generator=torch.Generator().manual_seed(each)), torch.arange(8) % 2)
    for each in range(6)
]
for inputs, labels in BATCHES:
    inputs[:, 0] += 3 * labels


class Wide(nn.Module):
    """A model with two groups of parameters."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 1)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, images):
        return self.head(self.norm(self.body(images))).squeeze(1)


def search_of(loss=None, *, precision="fp32", ratios=(1.0,), **settings):
    torch.manual_seed(0)
    model = Wide()
    parts = [model.head, model.body][: len(ratios)] if len(ratios) > 1 else [model]
    groups = [
        {"params": part.parameters(), "lr": 1e-3 * ratio}
        for part, ratio in zip(parts, ratios, strict=True)
    ]
    device = torch.device("cpu")
    data = SimpleNamespace(train_loader=lambda: BATCHES, set_epoch=int, device_augment=None)
    return LearningRateSearch(
        Learner(model, model, loss or nn.BCEWithLogitsLoss(), torch.optim.SGD(groups, lr=1e-3)),
        data,
        Computing(device, choose_precision(precision, device), False),
        TrainerRecipe(**settings),
        seed=0,
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("ratios", [(1.0,), (1.0, 0.1)])
def test_the_rate_rises_in_all_groups_and_the_weights_stay(precision, ratios):
    search = search_of(precision=precision, ratios=ratios, accumulation_steps=2, epoch_length=5)
    model, optimizer = search._learner.model, search._learner.optimizer
    before = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    seen = []
    optimizer.register_step_pre_hook(
        lambda *_: seen.append([group["lr"] for group in optimizer.param_groups])
    )
    search.run(40)
    assert search.failure == ""
    assert LOWEST < search.suggestion <= HIGHEST / 10
    lowest = search.lr[search.smoothed.index(min(search.smoothed))]
    assert search.suggestion <= lowest / 10
    assert search.lr == sorted(search.lr)
    assert len(search.lr) == len(search.loss) == len(search.smoothed) <= 81
    assert search.own == 1e-3
    # Groups keep their ratio, and each step has one rate for two batches.
    assert len(seen) < len(search.lr)
    for rates in seen:
        assert rates[-1] == pytest.approx(rates[0] * ratios[-1])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[0][name]), name
    assert [group["lr"] for group in optimizer.param_groups] == [
        group["lr"] for group in before[1]["param_groups"]
    ]


class Constant(nn.Module):
    def forward(self, logits, labels):
        return 0 * logits.sum() + 0.7


class Infinite(nn.Module):
    def forward(self, logits, labels):
        return logits.sum() * float("inf")


class Rising(nn.Module):
    def __init__(self):
        super().__init__()
        self.value = 1.0

    def forward(self, logits, labels):
        self.value *= 1.5
        return 0 * logits.sum() + self.value


@pytest.mark.parametrize("loss", [Constant(), Infinite(), Rising()])
def test_a_loss_that_does_not_fall_gives_a_reason_and_no_rate(loss):
    search = search_of(loss)
    search.run(30)
    assert search.suggestion is None
    assert "loss" in search.failure
    assert len(search.loss) <= 31
    if isinstance(loss, Infinite):
        assert len(search.loss) == 1


def test_the_figure_is_whole_and_shows_both_rates(assert_nothing_is_cut):
    lr = [10.0**power for power in range(-7, 2)]
    loss = [0.7, 0.72, 0.69, 0.6, 0.5, 0.45, 0.6, 3.0, float("nan")]
    figure = learning_rate_curve(lr, loss, loss, suggestion=1e-3, own=1e-4)
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert sum("0.001" in text for text in texts) == 1
    assert sum("0.0001" in text for text in texts) == 1
    assert_nothing_is_cut(figure)
    ticks = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert "0.001" in ticks
    assert_nothing_is_cut(learning_rate_curve(lr, [float("nan")] * 9, lr, suggestion=None, own=1))


@pytest.mark.integration
def test_a_recipe_gets_a_rate_and_nothing_else_is_written(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["find_lr", "--config", str(trained.parent / "recipe.yaml"), "--run_dir", "runs/new"]
    assert run([*argv, "--num_steps", "40"]) == 0
    folder = tmp_path / "runs" / "new_find_lr"
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("[!.]*"))
    files = [f"runs/new_find_lr/find_lr.{suffix}" for suffix in ("csv", "png")]
    assert written == ["runs", "runs/new_find_lr", *files]
    rows = list(csv.DictReader((folder / "find_lr.csv").read_text().splitlines()))
    assert 20 <= len(rows) <= 41
    assert [*rows[0]] == ["step", "lr", "loss", "smoothed_loss"]
    with Image.open(folder / "find_lr.png") as figure:
        assert figure.size > (500, 300)
    printed = capsys.readouterr().out
    suggested = float(re.search(r"--optimizer.lr (\S+)`", unwrapped(printed))[1])
    assert LOWEST < suggested <= HIGHEST / 10
    assert not missing(printed.splitlines()[0], [0.01])


@pytest.mark.parametrize(
    ("argv", "facts"),
    [
        (["--num_steps", "9"], ["--num_steps", 10, 9]),
        (["--output", "TMP", "--optimizer.lr", "0"], ["learning rates", 0]),
        (["--output", "RUN/lr"], ["--output", "run"]),
        (["--output", "RUN/recipe.yaml"], ["--output"]),
    ],
)
def test_what_cannot_be_searched_is_one_line(argv, facts, trained, tmp_path, capsys):
    recipe = ["find_lr", "--config", str(trained.parent / "recipe.yaml")]
    places = {"RUN": str(trained), "TMP": str(tmp_path)}
    for name, place in places.items():
        argv = [each.replace(name, place) for each in argv]
    assert run([*recipe, *argv]) == 2
    error_line(capsys.readouterr().err, *facts)
