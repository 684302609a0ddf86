from __future__ import annotations

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from messages import refused

from cxrignite.engines import attach_metrics
from cxrignite.errors import NonFiniteError
from cxrignite.handlers import PredictionWriter, ScoreCollector, ThresholdSearch


def evaluator() -> Engine:
    return Engine(lambda engine, batch: (batch[0], batch[1]))


def batch(scores, labels, index=None):
    tensors = (torch.tensor(scores), torch.tensor(labels, dtype=torch.float32))
    return tensors if index is None else (*tensors, torch.tensor(index))


def test_scores_come_back_by_index_each_image_once():
    engine = evaluator()
    collector = ScoreCollector.on(engine)
    engine.run([batch([0.3, 0.1], [1, 0], [3, 1]), batch([0.2, 0.3], [0, 1], [2, 3])])
    y_score, y_true, index = collector.gather()
    assert index.tolist() == [1, 2, 3]
    assert y_true.tolist() == [0, 0, 1]
    assert y_score.dtype == np.float64
    assert y_score.tolist() == [float(np.float32(x)) for x in (0.1, 0.2, 0.3)]


def test_without_an_index_the_order_is_kept_and_the_index_is_minus_one():
    engine = evaluator()
    collector = ScoreCollector.on(engine)
    engine.run([batch([0.5, 0.25], [1, 0]), batch([0.25], [0])])
    y_score, y_true, index = collector.gather()
    assert y_score.tolist() == [0.5, 0.25, 0.25]
    assert y_true.tolist() == [1, 0, 0]
    assert index.tolist() == [-1, -1, -1]


def test_each_epoch_stands_for_itself():
    engine = evaluator()
    collector = ScoreCollector.on(engine)
    engine.run([batch([0.5], [1])], max_epochs=3)
    assert len(collector.gather()[0]) == 1


def test_handlers_of_one_engine_share_one_collector_and_one_gathering():
    engine, other = evaluator(), evaluator()
    collector = ScoreCollector.on(engine)
    assert ScoreCollector.on(engine) is collector
    assert ScoreCollector.on(other) is not collector
    engine.run([batch([0.5], [1], [0])])
    assert collector.gather() is collector.gather()


def test_a_collector_attached_by_hand_is_the_engines_collector():
    engine, collector = evaluator(), ScoreCollector()
    collector.attach(engine)
    assert ScoreCollector.on(engine) is collector


def test_what_is_collected_does_not_change_with_the_batch():
    engine, kept = evaluator(), batch([0.5, 0.75], [1, 0], [0, 1])
    collector = ScoreCollector.on(engine)
    engine.run([kept])
    for tensor in kept:
        tensor.zero_()
    y_score, y_true, index = collector.gather()
    assert (y_score.tolist(), y_true.tolist(), index.tolist()) == ([0.5, 0.75], [1, 0], [0, 1])


def test_half_precision_scores_are_taken():
    engine = Engine(lambda engine, batch: (batch[0].bfloat16(), batch[1]))
    collector = ScoreCollector.on(engine)
    engine.run([batch([0.5, 0.25], [1, 0])])
    assert collector.gather()[0].tolist() == [0.5, 0.25]


def test_no_batches_give_no_scores():
    collector = ScoreCollector.on(evaluator())
    assert [len(part) for part in collector.gather()] == [0, 0, 0]


def test_an_index_of_another_length_is_refused():
    engine = evaluator()
    ScoreCollector.on(engine)
    with refused(ValueError, "1", "2"):
        engine.run([batch([0.5, 0.25], [1, 0], [0])])


def scored_batches():
    scores = torch.linspace(0.05, 0.95, 10).tolist()
    labels = [float(score > 0.4) for score in scores]
    order = [7, 2, 9, 0, 4, 1, 8, 3, 6, 5]
    return [
        batch([scores[n] for n in part], [labels[n] for n in part], part)
        for part in (order[:4], order[4:8], order[8:])
    ]


@pytest.fixture
def count_gatherings(monkeypatch):
    """The number of images of each gathering, whoever asks for it."""
    from cxrignite.functional import gathering

    sizes, gather_rows = [], gathering.gather_rows

    def counted(rows):
        sizes.append(len(rows))
        return gather_rows(rows)

    monkeypatch.setattr(gathering, "gather_rows", counted)
    return sizes


@pytest.mark.parametrize("metrics_come", ["first", "last", "never"])
def test_metrics_and_handlers_of_one_evaluator_see_the_same_scores(metrics_come, tmp_path):
    engine = evaluator()
    search = ThresholdSearch(min_tnr=0.5, min_threshold=0.1)
    if metrics_come == "first":
        attach_metrics(engine)
    search.attach(engine)
    if metrics_come == "last":
        attach_metrics(engine)
    collector = ScoreCollector.on(engine)
    for _ in range(2):
        engine.run(scored_batches())
        scores = collector.gather()
        assert scores.index.tolist() == list(range(10))
        assert scores.y_score.tolist() == torch.linspace(0.05, 0.95, 10).double().tolist()
        assert scores.y_true.tolist() == [0] * 4 + [1] * 6
        assert search.operating_point.tnr == 1
        if metrics_come != "never":
            assert engine.state.metrics["roc_auc"] == 1


def test_metrics_and_handlers_gather_the_scores_once(count_gatherings, tmp_path):
    engine = evaluator()
    attach_metrics(engine)
    ThresholdSearch(min_tnr=0.5, min_threshold=0.1).attach(engine)
    PredictionWriter(tmp_path / "x.csv", [{"path": str(n)} for n in range(10)]).attach(engine)
    engine.run(scored_batches())
    ScoreCollector.on(engine).gather()
    assert count_gatherings == [10, 10]  # the rows and their indices
    engine.run(scored_batches())
    assert count_gatherings == [10] * 4


def test_a_collector_beside_metrics_keeps_no_scores_of_its_own():
    engine, collector = evaluator(), ScoreCollector()
    metrics = attach_metrics(engine)
    collector.attach(engine)
    engine.run(scored_batches())
    assert collector.gather() is metrics.gather()
    assert not collector._rows


def a_mapping_an_image(scores, labels, index):
    """What a MONAI engine has after a step."""
    images = zip(scores, labels, index, strict=True)
    return [
        {"image": torch.full((1, 2, 2), score), "pred": score, "label": label, "number": number}
        for score, label, number in images
    ]


def columns_of(*keys):
    return lambda images: tuple([image[key] for image in images] for key in keys)


def test_transforms_turn_any_output_and_batch_into_scores():
    engine = Engine(lambda engine, batch: batch)
    collector = ScoreCollector(columns_of("pred", "label"), columns_of("image", "label", "number"))
    collector.attach(engine)
    search = ThresholdSearch(min_tnr=0.5, min_threshold=0.1)
    search.attach(engine)
    engine.run(
        [
            a_mapping_an_image([0.75, 0.25, 0.5], [1, 0, 1], [2, 0, 3]),
            a_mapping_an_image([0], [0], [1]),
        ]
    )
    assert ScoreCollector.on(engine) is collector
    y_score, y_true, index = collector.gather()
    assert (y_score.tolist(), y_true.tolist()) == ([0.25, 0, 0.75, 0.5], [0, 0, 1, 1])
    assert index.tolist() == [0, 1, 2, 3]
    assert search.operating_point.threshold == 0.5
    assert collector.read(engine).images[0].shape == (1, 2, 2)


def test_without_a_transform_of_the_batch_a_mapping_an_image_has_no_index():
    engine = Engine(lambda engine, batch: batch)
    collector = ScoreCollector(output_transform=columns_of("pred", "label"))
    collector.attach(engine)
    engine.run([a_mapping_an_image([0.75, 0.25, 0.5], [1, 0, 1], [2, 0, 3])])
    assert collector.gather().index.tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    "scores", [[[0.5], [0.25]], [torch.tensor([0.5]), torch.tensor([0.25])], [0.5, 0.25]]
)
def test_scores_may_be_a_column_or_a_list(scores):
    scores = torch.tensor(scores) if isinstance(scores[0], list) else scores
    engine = Engine(lambda engine, batch: (scores, torch.tensor([1, 0])))
    collector = ScoreCollector.on(engine)
    engine.run([None])
    assert collector.gather().y_score.tolist() == [0.5, 0.25]


def test_what_a_subclass_of_tensor_carries_along_is_left_behind():
    class Labelled(torch.Tensor):
        pass

    scores = torch.tensor([0.5, 0.25]).as_subclass(Labelled)
    engine = Engine(lambda engine, batch: (scores, scores))
    collector = ScoreCollector.on(engine)
    engine.run([None])
    assert type(collector.read(engine).y_score) is torch.Tensor


@pytest.mark.parametrize(
    "output",
    [
        a_mapping_an_image([0.75, 0.25], [1, 0], [0, 1]),
        a_mapping_an_image([0.75, 0.25, 0.5], [1, 0, 1], [0, 1, 2]),
        {"pred": torch.zeros(2), "label": torch.zeros(2)},
        torch.zeros(2),
        torch.tensor(0.5),
        (torch.zeros(2, 2), torch.zeros(2)),
        (torch.zeros(2, 2, 2), torch.zeros(2, 2, 2)),
        (torch.zeros(2), torch.zeros(3)),
        (torch.tensor(0.5), torch.tensor(1.0)),
    ],
)
def test_another_form_of_output_is_refused_and_the_way_out_is_named(output):
    engine = Engine(lambda engine, batch: output)
    ThresholdSearch().attach(engine)
    with refused(
        ValueError, "state.output", "(y_score, y_true)", "ScoreCollector(output_transform="
    ):
        engine.run([None])


def test_a_collector_that_comes_after_the_handlers_is_refused():
    engine = evaluator()
    ThresholdSearch().attach(engine)
    with refused(ValueError, "ScoreCollector"):
        ScoreCollector(output_transform=columns_of("pred", "label")).attach(engine)


@pytest.mark.parametrize("label", [0.9, -0.5, 255.0, float("nan")])
def test_a_label_that_is_none_is_refused_and_not_rounded(label):
    engine = evaluator()
    collector = ScoreCollector.on(engine)
    engine.run([batch([0.25, 0.75], [label, 1])])
    with refused(ValueError, "y_true", "0", "1"):
        collector.gather()


def test_a_third_part_that_is_no_index_is_refused_and_the_way_out_is_named():
    engine = evaluator()
    ThresholdSearch().attach(engine)
    third = ["a.png", "b.png"]
    with refused(ValueError, "state.batch[2]", "ScoreCollector(batch_transform="):
        engine.run([(*batch([0.5, 0.25], [1, 0]), third)])
    engine = evaluator()
    collector = ScoreCollector(batch_transform=lambda batch: batch[:2])
    collector.attach(engine)
    engine.run([(*batch([0.5, 0.25], [1, 0]), third)])
    assert collector.gather().index.tolist() == [-1, -1]


NAN = float("nan")
FINDINGS = [[[0.75, 0.25], [0.5, 0.125]], [[1, NAN], [-1, 0]]]


@pytest.mark.parametrize("has_metrics", [False, True])
def test_several_findings_keep_their_columns_and_an_unknown_label_is_minus_one(has_metrics):
    engine = evaluator()
    if has_metrics:
        attach_metrics(engine)
    collector = ScoreCollector.on(engine)
    for size in (1, 2):
        parts = [*map(torch.tensor, FINDINGS), torch.tensor([3, 1])]
        engine.run(list(zip(*(part.split(size) for part in parts), strict=True)))
        scores = collector.gather()
        assert scores.y_score.tolist() == [[0.5, 0.125], [0.75, 0.25]]
        assert scores.y_score.dtype == np.float64
        assert scores.y_true.tolist() == [[-1, 0], [1, -1]]
        assert scores.y_true.dtype == np.int64
        assert scores.index.tolist() == [1, 3]


def test_findings_may_come_as_a_list_of_tensors_for_each_image():
    engine = Engine(lambda engine, batch: [list(map(torch.tensor, part)) for part in FINDINGS])
    collector = ScoreCollector.on(engine)
    engine.run([None])
    assert collector.gather().y_score.shape == (2, 2)


@pytest.mark.parametrize(
    ("scores", "labels", "error"),
    [([[0.5, NAN]], [[0, 1]], NonFiniteError), ([[0.5, 0.5]], [[0, 2]], ValueError)],
)
def test_findings_that_are_no_scores_or_labels_are_refused(scores, labels, error):
    engine = evaluator()
    collector = ScoreCollector.on(engine)
    engine.run([batch(scores, labels)])
    with refused(error, "1" if error is NonFiniteError else "2"):
        collector.gather()
