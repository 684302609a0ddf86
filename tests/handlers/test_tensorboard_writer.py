from __future__ import annotations

import math
import os
import sys
import time
from types import ModuleType

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from messages import line_with
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cxrignite.handlers import TensorBoardWriter
from cxrignite.handlers.map_picture import as_png


def run(board: TensorBoardWriter, publish, max_epochs: int, start: int = 0) -> None:
    engine = Engine(lambda engine, batch: None)
    engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: engine.state.metrics.update(publish(engine.state.epoch))
    )
    board.attach(engine)
    if start:
        engine.load_state_dict({"epoch": start, "epoch_length": 1, "max_epochs": max_epochs})
    engine.run([0], max_epochs=max_epochs)


def read(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0})
    return events.Reload()


def wait_for_another_second() -> None:
    """TensorBoard reads event files in the order of their names, which count whole seconds."""
    time.sleep(1.01 - time.time() % 1)


def scalars(folder, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def test_metrics_stand_under_their_split_with_the_epoch_as_step(tmp_path):
    def publish(epoch):
        return {"loss": epoch, "val_roc_auc": 0.5, "test_loss": 2, "epoch_seconds": 3.0}

    run(TensorBoardWriter(tmp_path), publish, 2)
    tags = read(tmp_path).Tags()["scalars"]
    assert sorted(tags) == ["test/loss", "train/epoch_seconds", "train/loss", "val/roc_auc"]
    assert scalars(tmp_path, "train/loss") == [(1, 1.0), (2, 2.0)]


def test_what_is_not_a_finite_scalar_is_left_out(tmp_path):
    def publish(epoch):
        return {"loss": math.nan if epoch == 1 else 0.5, "rate": math.inf, "matrix": torch.eye(2)}

    run(TensorBoardWriter(tmp_path), publish, 2)
    assert read(tmp_path).Tags()["scalars"] == ["train/loss"]
    assert scalars(tmp_path, "train/loss") == [(2, 0.5)]


def test_the_learning_rate_of_every_group_is_written(tmp_path):
    groups = [{"params": [torch.ones(1)], "lr": lr} for lr in (0.5, 0.25)]
    run(TensorBoardWriter(tmp_path, optimizer=torch.optim.SGD(groups)), lambda epoch: {}, 1)
    assert scalars(tmp_path, "lr/group_0") == [(1, 0.5)]
    assert scalars(tmp_path, "lr/group_1") == [(1, 0.25)]


def test_a_resumed_run_shows_each_epoch_once(tmp_path):
    run(TensorBoardWriter(tmp_path), lambda epoch: {"loss": epoch}, 4)
    wait_for_another_second()
    run(TensorBoardWriter(tmp_path), lambda epoch: {"loss": epoch * 10}, 5, start=2)
    assert scalars(tmp_path, "train/loss") == [(1, 1), (2, 2), (3, 30), (4, 40), (5, 50)]


def test_each_epoch_can_be_read_before_the_run_ends(tmp_path):
    seen = []

    def publish(epoch):
        if epoch > 1:
            seen.append(scalars(tmp_path, "train/loss"))
        return {"loss": epoch}

    run(TensorBoardWriter(tmp_path), publish, 3)
    assert seen == [[(1, 1.0)], [(1, 1.0), (2, 2.0)]]


def test_curves_images_and_texts_are_taken_without_an_engine_and_after_a_run(tmp_path):
    board = TensorBoardWriter(tmp_path)
    board.add_image("before", np.zeros((1, 4, 5), np.uint8), 0)
    run(board, lambda epoch: {"loss": 1}, 1)
    board.add_image("after", torch.rand(3, 4, 5), 1)
    png = as_png(np.zeros((6, 7, 3), np.uint8))
    board.add_png("encoded", png, 2)
    board.add_pr_curve("val", np.array([0.1, 0.9]), torch.tensor([0, 1]), 1)
    board.add_text("recipe", "seed: 0", 0)
    board.close()
    events = read(tmp_path)
    [text] = events.Tensors("recipe/text_summary")
    assert (text.step, text.tensor_proto.string_val) == (0, [b"seed: 0"])
    assert sorted(events.Tags()["images"]) == ["after", "before", "encoded"]
    [before], [encoded] = events.Images("before"), events.Images("encoded")
    assert (before.height, before.width) == (4, 5)
    assert (encoded.step, encoded.height, encoded.width) == (2, 6, 7)
    assert encoded.encoded_image_string == bytes(png)
    assert "val" in events.Tags()["tensors"]
    assert events.Tags()["scalars"] == ["train/loss"]


def test_a_figure_is_drawn_and_stays_open(tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure = pyplot.figure()
    board = TensorBoardWriter(tmp_path)
    board.add_figure("drawn", figure, 3)
    board.close()
    assert read(tmp_path).Images("drawn")[0].step == 3
    assert pyplot.fignum_exists(figure.number)
    pyplot.close(figure)


def test_nothing_is_made_before_the_first_use(tmp_path):
    board = TensorBoardWriter(tmp_path / "board")
    board.attach(Engine(lambda engine, batch: None))
    board.close()
    assert not (tmp_path / "board").exists()


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    board = TensorBoardWriter(tmp_path / "board")
    run(board, lambda epoch: {"loss": 1}, 1)
    board.add_image("image", np.zeros((1, 4, 4), np.uint8), 0)
    board.add_png("encoded", b"", 0)
    assert not (tmp_path / "board").exists()


def test_tensorboardx_is_not_used_where_it_is_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    run(TensorBoardWriter(tmp_path), lambda epoch: {"loss": 1}, 1)
    wait_for_another_second()
    monkeypatch.setitem(sys.modules, "tensorboardX", ModuleType("tensorboardX"))
    run(TensorBoardWriter(tmp_path), lambda epoch: {"loss": 2}, 2, start=1)
    assert scalars(tmp_path, "train/loss") == [(1, 1.0), (2, 2.0)]


FULL = """
import logging, resource, sys
from ignite.engine import Engine, Events
from torch.utils import tensorboard  # before files are limited, byte code too
from cxrignite.handlers import TensorBoardWriter

logging.basicConfig(stream=sys.stdout, format="%(message)s")
board, trainer = TensorBoardWriter(sys.argv[1]), Engine(lambda engine, batch: None)
trainer.add_event_handler(
    Events.EPOCH_COMPLETED,
    lambda: trainer.state.metrics.update({f"val_{number}": 1.0 for number in range(50)}),
)
board.attach(trainer)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    trainer.run([0], max_epochs=9)
finally:
    board.close()
"""


@pytest.mark.integration
def test_a_disk_that_takes_no_more_is_one_line_with_the_folder_and_closing_hides_nothing(
    start, tmp_path
):
    # In a process of its own, as the limit is of the whole process; of a pipe there is none.
    reader, writer = os.pipe()
    process = start(["-c", FULL, tmp_path], cwd=tmp_path, stderr=writer)
    os.close(writer)
    with open(reader) as pipe:
        kind, _, message = pipe.read().splitlines()[-1].partition(": ")
    assert process.wait() == 1
    assert kind == "cxrignite.errors.CxrIgniteError"
    line_with(message, tmp_path, "free", "File too large")
    # Ignite's own line repeats the message.
    line_with(process.output.replace(message, ""), tmp_path, "File too large")


def test_the_metric_of_a_finding_stands_under_its_metric(tmp_path):
    name = "Pleural Thickening"
    published = {f"val_roc_auc/{name}": 0.5, f"threshold/{name}": 0.25}
    run(TensorBoardWriter(tmp_path), lambda epoch: published, max_epochs=1)
    assert scalars(tmp_path, f"val/roc_auc/{name}") == [(1, 0.5)]
    assert scalars(tmp_path, f"train/threshold/{name}") == [(1, 0.25)]
