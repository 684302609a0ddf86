from __future__ import annotations

import math

import pytest
import torch
from ignite.engine import Engine, Events
from messages import line_with, refused
from torch import nn

from cxrignite.handlers import BestCheckpoint, load_checkpoint, verify_checkpoint


def run(best: BestCheckpoint, model: nn.Module, scores: list[object], start: int = 0) -> None:
    engine = Engine(lambda engine, batch: None)

    @engine.on(Events.EPOCH_COMPLETED)
    def publish() -> None:
        engine.state.metrics["auc"] = scores[engine.state.epoch - 1]
        nn.init.constant_(model.weight, engine.state.epoch)

    best.attach(engine)
    if start:
        engine.load_state_dict({"epoch": start, "epoch_length": 1, "max_epochs": len(scores)})
    engine.run([0], max_epochs=len(scores))


def saved_epoch(folder, name: str = "best") -> tuple[int, float]:
    """The epoch the file says, and the one its weights say."""
    checkpoint = load_checkpoint(folder / f"{name}.pt")
    return checkpoint["epoch"], checkpoint["model"]["weight"].flatten()[0].item()


@pytest.mark.parametrize(
    ("mode", "scores", "epoch"),
    [
        ("max", [0.5, 0.9, 0.7], 2),
        ("min", [0.5, 0.9, 0.7], 1),
        ("max", [0.9, 0.9, 0.9], 1),
        ("max", [math.nan, 0.1, math.nan], 2),
        ("max", [math.inf, 0.1, -math.inf], 2),
        ("max", [torch.tensor(0.1), torch.tensor(0.2)], 2),
        ("min", [-0.1, -0.2], 2),
    ],
)
def test_the_file_holds_the_weights_of_the_best_epoch(mode, scores, epoch, tmp_path):
    model = nn.Linear(2, 1)
    best = BestCheckpoint({"model": model}, tmp_path, "auc", mode=mode)
    run(best, model, scores)
    assert saved_epoch(tmp_path) == (epoch, epoch)
    assert best.best_epoch == epoch
    assert best.best_score == float(scores[epoch - 1])
    manifest = verify_checkpoint(tmp_path / "best.pt")
    assert (manifest["epoch"], manifest["metric"]) == (epoch, "auc")
    assert set(load_checkpoint(tmp_path / "best.pt")) == {"model", "epoch", "metric", "score"}


def test_a_run_without_a_finite_score_saves_nothing_and_says_why(tmp_path, caplog):
    model = nn.Linear(2, 1)
    best = BestCheckpoint({"model": model}, tmp_path, "auc")
    run(best, model, [math.nan, math.nan])
    assert list(tmp_path.iterdir()) == []
    assert best.best_score is None
    assert len(caplog.messages) == 2
    for epoch, warning in enumerate(caplog.messages, start=1):
        line_with(warning, "epoch", epoch, "auc", "nan")


def test_a_resumed_run_has_to_beat_the_former_best(tmp_path):
    model = nn.Linear(2, 1)
    first = BestCheckpoint({"model": model}, tmp_path, "auc")
    run(first, model, [0.5, 0.9])
    second = BestCheckpoint({"model": model}, tmp_path, "auc")
    second.load_state_dict(first.state_dict())
    run(second, model, [0.0, 0.0, 0.8], start=2)
    assert saved_epoch(tmp_path) == (2, 2)
    third = BestCheckpoint({"model": model}, tmp_path, "auc")
    third.load_state_dict(second.state_dict())
    run(third, model, [0.0, 0.0, 0.0, 0.95], start=3)
    assert saved_epoch(tmp_path) == (4, 4)


def test_several_objects_and_another_name_are_kept(tmp_path):
    model, optimizer = nn.Linear(2, 1), torch.optim.SGD([torch.ones(1)], 0.5)
    best = BestCheckpoint({"model": model, "optimizer": optimizer}, tmp_path, "auc", name="top")
    run(best, model, [0.5])
    assert load_checkpoint(tmp_path / "top.pt")["optimizer"]["param_groups"][0]["lr"] == 0.5


def test_a_wrapper_for_several_processes_is_taken_off(tmp_path):
    model = nn.Linear(2, 1)
    best = BestCheckpoint({"model": nn.DataParallel(model)}, tmp_path, "auc")
    run(best, model, [0.5])
    assert set(load_checkpoint(tmp_path / "best.pt")["model"]) == {"weight", "bias"}


def test_a_metric_that_nobody_publishes_is_named(tmp_path):
    model = nn.Linear(2, 1)
    best = BestCheckpoint({"model": model}, tmp_path, "roc_auc")
    with refused(ValueError, "metric", "['auc']", "'roc_auc'"):
        run(best, model, [0.5])


def test_another_mode_is_refused(tmp_path):
    with refused(ValueError, "mode", "'max'", "'min'", "'best'"):
        BestCheckpoint({}, tmp_path, "auc", mode="best")


@pytest.mark.parametrize("name", ["epoch", "metric", "score", "best"])
def test_an_object_whose_name_is_a_key_of_the_file_is_refused(tmp_path, name):
    with refused(ValueError, "to_save", name):
        BestCheckpoint({name: nn.Linear(1, 1)}, tmp_path, metric="auc")


def test_the_metric_of_a_finding_can_be_the_best(tmp_path):
    best = BestCheckpoint({"model": nn.Linear(1, 1)}, tmp_path, "val_roc_auc/Mass")
    trainer = Engine(
        lambda engine, batch: engine.state.metrics.update({"val_roc_auc/Mass": batch / 4})
    )
    best.attach(trainer)
    trainer.run([1.0, 3.0])
    assert (best.best_score, [path.name for path in tmp_path.glob("*.pt")]) == (0.75, ["best.pt"])


def run_with_loss(best: BestCheckpoint, pairs: list[tuple[float, float]], start: int = 0) -> None:
    engine = Engine(lambda engine, batch: None)

    @engine.on(Events.EPOCH_COMPLETED)
    def publish() -> None:
        engine.state.metrics.update(
            zip(("auc", "loss"), pairs[engine.state.epoch - 1], strict=True)
        )

    best.attach(engine)
    if start:
        engine.load_state_dict({"epoch": start, "epoch_length": 1, "max_epochs": len(pairs)})
    engine.run([0], max_epochs=len(pairs))


@pytest.mark.parametrize(
    ("pairs", "settings", "epoch"),
    [
        ([(0.9, 0.5), (0.9, 0.4), (0.9, 0.4)], {"tie": "loss"}, 2),
        ([(0.9, 0.5), (0.8, 0.1), (0.9, math.nan)], {"tie": "loss"}, 1),
        ([(0.9, 0.5), (0.9, 0.4)], {}, 1),
        ([(1.0, 0.5), (0.2, 0.5), (0.8, 0.5), (0.8, 0.5)], {"mean_of": 2}, 4),
        ([(0.4, 0.5), (0.6, 0.4), (0.4, 0.3)], {"mean_of": 2, "tie": "loss"}, 3),
        ([(math.nan, 0.5), (0.6, 0.4), (0.4, 0.3)], {"mean_of": 2}, 3),
    ],
)
def test_ties_and_means_choose_the_epoch_also_of_a_resumed_run(pairs, settings, epoch, tmp_path):
    for start in range(1, len(pairs)):
        first = BestCheckpoint({"model": nn.Linear(1, 1)}, tmp_path, "auc", **settings)
        run_with_loss(first, pairs[:start])
        second = BestCheckpoint({"model": nn.Linear(1, 1)}, tmp_path, "auc", **settings)
        second.load_state_dict(first.state_dict())
        run_with_loss(second, pairs, start)
        assert second.best_epoch == epoch


def test_a_tie_without_its_metric_and_a_mean_of_nothing_are_refused(tmp_path):
    with refused(ValueError, "mean_of", 0):
        BestCheckpoint({}, tmp_path, "auc", mean_of=0)
    best = BestCheckpoint({"model": nn.Linear(2, 1)}, tmp_path, "auc", tie="loss")
    with refused(ValueError, "metric", "['auc']", "'loss'"):
        run(best, nn.Linear(2, 1), [0.5])
