from __future__ import annotations

import csv
import math

import numpy as np
import torch
from ignite.engine import Engine, Events
from messages import refused

from cxrignite.errors import CxrIgniteError
from cxrignite.handlers import HistoryWriter, read_history


def trainer(publish) -> Engine:
    engine = Engine(lambda engine, batch: None)
    engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: engine.state.metrics.update(publish(engine.state.epoch))
    )
    return engine


def write(path, publish, max_epochs: int, start: int = 0) -> HistoryWriter:
    engine, writer = trainer(publish), HistoryWriter(path)
    writer.attach(engine)
    if start:
        engine.load_state_dict({"epoch": start, "epoch_length": 2, "max_epochs": max_epochs})
    engine.run([0, 1], max_epochs=max_epochs)
    return writer


def read(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_floats_read_back_equal(tmp_path):
    values = [0.1 + 0.2, 1e-300, math.pi * 1e17, float(np.float32(0.9)), -0.0, math.inf]
    write(tmp_path / "h.csv", lambda epoch: {"loss": values[epoch - 1]}, len(values))
    rows = read(tmp_path / "h.csv")
    assert [float(row["loss"]) for row in rows] == values
    assert [row["epoch"] for row in rows] == [str(n + 1) for n in range(len(values))]


def test_columns_come_as_they_were_first_seen_and_gaps_stay_empty(tmp_path):
    def publish(epoch):
        return {"loss": 1.0, "auc": 0.5, **({"late": 2} if epoch == 2 else {})}

    writer = write(tmp_path / "h.csv", publish, 2)
    assert (tmp_path / "h.csv").read_text() == ("epoch,loss,auc,late\n1,1.0,0.5,\n2,1.0,0.5,2.0\n")
    assert writer.rows == [
        {"epoch": 1, "loss": 1.0, "auc": 0.5},
        {"epoch": 2, "loss": 1.0, "auc": 0.5, "late": 2.0},
    ]


def test_only_scalars_are_written(tmp_path):
    def publish(epoch):
        return {
            "tensor": torch.tensor(0.5),
            "numpy": np.float32(0.25),
            "count": 3,
            "nan": math.nan,
            "matrix": torch.eye(2),
            "text": "no",
            "many": {"a": 1},
        }

    write(tmp_path / "h.csv", publish, 1)
    assert (tmp_path / "h.csv").read_text() == (
        "epoch,tensor,numpy,count,nan\n1,0.5,0.25,3.0,nan\n"
    )


def test_a_resumed_run_replaces_the_epochs_it_runs_again(tmp_path):
    def publish(epoch):
        return {"loss": 1 / epoch, **({"late": 0.5} if epoch > 2 else {})}

    write(tmp_path / "once.csv", publish, 5)
    write(tmp_path / "twice.csv", publish, 4)
    write(tmp_path / "twice.csv", publish, 5, start=2)
    assert (tmp_path / "twice.csv").read_bytes() == (tmp_path / "once.csv").read_bytes()


def test_a_fresh_run_begins_a_fresh_history(tmp_path):
    write(tmp_path / "h.csv", lambda epoch: {"old": 1}, 3)
    write(tmp_path / "h.csv", lambda epoch: {"new": 1}, 1)
    assert (tmp_path / "h.csv").read_text() == "epoch,new\n1,1.0\n"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with refused(CxrIgniteError, "file/h.csv"):
        write(tmp_path / "file" / "h.csv", lambda epoch: {}, 1)


def test_the_metric_of_a_finding_is_a_column(tmp_path):
    metrics = {"val_roc_auc": 0.75, "val_roc_auc/Pleural Thickening, left": 0.5}
    write(tmp_path / "history.csv", lambda epoch: metrics, max_epochs=2)
    assert read_history(tmp_path / "history.csv")[1] == {"epoch": 2, **metrics}
