from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from messages import refused

from cxrignite.errors import NonFiniteError
from cxrignite.functional import PriorShift
from cxrignite.handlers import PredictionWriter
from cxrignite.handlers.prediction_writer import write_predictions

ROWS = [{"path": f"{name}.jpeg", "patient": name} for name in "abc"]


def run(writer: PredictionWriter, scores, labels, index=None) -> None:
    engine = Engine(lambda engine, batch: batch[:2])
    writer.attach(engine)
    batch = [torch.tensor(scores), torch.tensor(labels)]
    engine.run([batch if index is None else [*batch, torch.tensor(index)]])


def read(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_image_has_its_row_in_the_order_of_the_images(tmp_path):
    run(PredictionWriter(tmp_path / "p.csv", ROWS, 0.5), [0.7, 0.2, 0.5], [1, 0, 0], [2, 0, 1])
    assert [list(row.values()) for row in read(tmp_path / "p.csv")] == [
        ["a.jpeg", "a", "0", repr(float(np.float32(0.2))), "", "negative"],
        ["b.jpeg", "b", "0", "0.5", "", "positive"],
        ["c.jpeg", "c", "1", repr(float(np.float32(0.7))), "", "positive"],
    ]
    columns = ["path", "patient", "label", "score", "probability", "decision"]
    assert list(read(tmp_path / "p.csv")[0]) == columns


def test_arrays_in_any_order_are_written_in_the_order_of_the_images(tmp_path):
    arrays = (np.array([0.75, 0.25]), np.array([1, 0]), np.array([2, 0]))
    write_predictions(tmp_path / "p.csv", ROWS, *arrays, threshold=0.5)
    assert (tmp_path / "p.csv").read_text() == (
        "path,patient,label,score,probability,decision\na.jpeg,a,0,0.25,,negative\nc.jpeg,c,1,0.75,,positive\n"
    )


def test_the_training_score_stands_beside_the_raw_one_and_decides_nothing(tmp_path):
    prior_shift = PriorShift(300, 100, sampled_prevalence=0.5, pos_weight=1.0)
    writer = PredictionWriter(tmp_path / "p.csv", ROWS, 0.5, probability=prior_shift.probability)
    run(writer, [0.5, 0.25], [1, 0], [0, 1])
    rows = read(tmp_path / "p.csv")
    assert [float(row["probability"]) for row in rows] == pytest.approx([0.25, 0.1])
    assert [row["decision"] for row in rows] == ["positive", "negative"]


def test_an_unknown_training_scale_leaves_the_column_empty(tmp_path):
    prior_shift = PriorShift(300, 100, sampled_prevalence=0.5, pos_weight=None)
    run(
        PredictionWriter(tmp_path / "p.csv", ROWS, probability=prior_shift.probability),
        [0.5],
        [1],
        [0],
    )
    assert read(tmp_path / "p.csv")[0]["probability"] == ""


def test_a_float32_score_just_below_the_threshold_is_negative(tmp_path):
    assert float(np.float32(0.9)) < 0.9
    run(PredictionWriter(tmp_path / "p.csv", ROWS, 0.9), [0.9], [1], [0])
    assert read(tmp_path / "p.csv")[0]["decision"] == "negative"


def test_without_a_threshold_the_decision_is_empty_and_one_may_come_later(tmp_path):
    writer = PredictionWriter(tmp_path / "p.csv", ROWS)
    run(writer, [0.7], [1], [1])
    assert read(tmp_path / "p.csv")[0]["decision"] == ""
    writer.threshold = 0.6
    run(writer, [0.7], [1], [1])
    assert read(tmp_path / "p.csv")[0]["decision"] == "positive"


def test_a_path_with_a_comma_reads_back(tmp_path):
    rows = [{"path": 'a, "b".jpeg'}]
    run(PredictionWriter(tmp_path / "p.csv", rows), [0.7], [1], [0])
    assert read(tmp_path / "p.csv")[0]["path"] == 'a, "b".jpeg'


def test_batches_without_an_index_are_refused(tmp_path):
    with refused(ValueError, "state.batch[2]"):
        run(PredictionWriter(tmp_path / "p.csv", ROWS), [0.7], [1])
    assert not (tmp_path / "p.csv").exists()


def test_an_index_beyond_the_rows_is_refused(tmp_path):
    with refused(ValueError, "index", "3"):
        run(PredictionWriter(tmp_path / "p.csv", ROWS), [0.7], [1], [3])


def test_exclusive_classes_have_the_class_of_the_highest_score_in_each_row(tmp_path):
    classes = ("NORMAL", "BACTERIAL", "VIRAL")
    y_score = np.array([[0.3, 0.2], [0.3, 0.6], [0.6, 0.3]])
    y_true = np.array([[0, 0], [0, 1], [0, 1]])
    arrays = (y_score, y_true, np.array([2, 0, 1]))
    settings = {"findings": classes[1:], "classes": classes}
    write_predictions(tmp_path / "p.csv", ROWS, *arrays, [0.2, None], **settings)
    rows = read(tmp_path / "p.csv")
    assert list(rows[0])[-1] == "highest_class"
    expected = ["VIRAL"] * 2 + ["BACTERIAL"] * 2 + ["NORMAL"] * 2  # in the order of the images
    assert [row["highest_class"] for row in rows] == expected
    # A low threshold decides otherwise.
    assert [row["decision"] for row in rows] == ["positive", ""] * 3
    with refused(ValueError, "rows", "highest_class"):
        hidden = [{**row, "highest_class": "x"} for row in ROWS]
        write_predictions(tmp_path / "p.csv", hidden, *arrays, **settings)


@pytest.mark.parametrize("name", ["label", "score", "probability", "decision"])
def test_what_is_known_of_an_image_does_not_hide_a_column_of_the_file(tmp_path, name):
    arrays = (np.array([0.75]), np.array([1]), np.array([0]))
    with refused(ValueError, "rows", name):
        write_predictions(tmp_path / "p.csv", [{"path": "a", name: "b"}], *arrays)


@pytest.mark.parametrize(("score", "error"), [(float("nan"), NonFiniteError), (2.5, ValueError)])
def test_what_is_no_score_is_not_decided(tmp_path, score, error):
    with pytest.raises(error):
        run(PredictionWriter(tmp_path / "p.csv", ROWS, 0.5), [score, 0.5], [0, 1], [0, 1])
    assert not (tmp_path / "p.csv").exists()


def test_a_file_name_that_is_not_utf_8_keeps_its_bytes(tmp_path):
    arrays = (np.array([0.75]), np.array([1]), np.array([0]))
    write_predictions(tmp_path / "p.csv", [{"path": "a\udcff.png"}], *arrays)
    assert b"\na\xff.png,1,0.75,,\n" in (tmp_path / "p.csv").read_bytes()


def of_findings():
    scores = [[0.25, 0.75], [0.5, 0.125]]
    return scores, [[0, 1], [float("nan"), 0]]


def test_several_findings_have_a_row_each(tmp_path):
    rows = [{"path": f"{n}.png", "patient": str(n), "split": "test"} for n in range(2)]
    writer = PredictionWriter(
        tmp_path / "x.csv",
        rows,
        threshold=[0.25, None],
        probability=lambda scores: scores / 2,
        findings=("Effusion", "Mass"),
    )
    run(writer, *of_findings(), [1, 0])
    table = read(tmp_path / "x.csv")
    assert list(table[0]) == [
        *("path", "patient", "finding", "split", "label", "score", "probability", "decision")
    ]
    cells = [[*list(row.values())[:3], *list(row.values())[4:]] for row in table]
    assert cells == [
        ["0.png", "0", "Effusion", "", "0.5", "0.25", "positive"],
        ["0.png", "0", "Mass", "0", "0.125", "0.0625", ""],
        ["1.png", "1", "Effusion", "0", "0.25", "0.125", "positive"],
        ["1.png", "1", "Mass", "1", "0.75", "0.375", ""],
    ]


def test_without_a_patient_the_finding_follows_what_is_known(tmp_path):
    writer = PredictionWriter(
        tmp_path / "x.csv", [{"path": "a"}, {"path": "b"}], threshold=0.7, lower=0.2
    )
    run(writer, *of_findings(), [0, 1])
    table = read(tmp_path / "x.csv")
    assert list(table[0])[:3] == ["path", "finding", "label"]
    assert [(row["finding"], row["decision"]) for row in table] == [
        *(("0", "refer"), ("1", "positive"), ("0", "refer"), ("1", "negative"))
    ]


def test_thresholds_and_names_have_to_fit_the_findings(tmp_path):
    rows = [{"path": "a"}, {"path": "b"}]
    for settings, facts in (
        ({"threshold": [0.5]}, ["threshold", "2", "1"]),
        ({"findings": ("Mass",)}, ["findings", "2", "1"]),
    ):
        with refused(ValueError, *facts):
            run(PredictionWriter(tmp_path / "x.csv", rows, **settings), *of_findings(), [0, 1])
    with refused(ValueError, "finding"):
        run(PredictionWriter(tmp_path / "x.csv", [{"finding": "a"}] * 2), *of_findings(), [0, 1])
