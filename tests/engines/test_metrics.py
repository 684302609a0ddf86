import logging
import math

import pytest
import torch
from ignite.engine import Engine, Events
from messages import line_with, refused
from pair import run_pair
from sklearn.metrics import average_precision_score, roc_auc_score
from torch.nn.functional import binary_cross_entropy_with_logits

from cxrignite.engines import (
    EVALUATION_METRICS,
    attach_metrics,
    create_evaluator,
    evaluation_metrics,
)
from cxrignite.engines.metrics import EpochMeanLoss
from cxrignite.errors import NonFiniteError
from cxrignite.functional.gathering import ScoreSource
from cxrignite.nn.losses import fitted_loss

NUM_IMAGES = 101


def scripted_evaluator(loss_fn=None):
    """Return an engine that hands on the logits and labels that its batches are."""

    def step(engine, batch):
        engine.state.logits = batch[0]
        return torch.sigmoid(batch[0].float()), batch[1]

    evaluator = Engine(step)
    attach_metrics(evaluator, loss_fn)
    return evaluator


def make_scores(num_images=NUM_IMAGES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(num_images, generator=generator) < 0.7).float()
    return torch.randn(num_images, generator=generator) + labels, labels


def as_batches(logits, labels, *more, size=16):
    return list(zip(*(part.split(size) for part in (logits, labels, *more)), strict=True))


def test_ranking_metrics_are_those_of_scikit_learn():
    logits, labels = make_scores()
    metrics = scripted_evaluator().run(as_batches(logits, labels)).metrics
    y_score = torch.sigmoid(logits).double().numpy()
    assert metrics["roc_auc"] == roc_auc_score(labels, y_score)
    assert metrics["average_precision"] == average_precision_score(labels, y_score)
    assert set(metrics) == {"roc_auc", "average_precision"}
    assert all(type(value) is float for value in metrics.values())


def test_bfloat16_logits_are_taken():
    logits, labels = make_scores()
    logits = logits.bfloat16()
    metrics = (
        scripted_evaluator(binary_cross_entropy_with_logits).run(as_batches(logits, labels)).metrics
    )
    y_score = torch.sigmoid(logits.float()).numpy()
    assert metrics["roc_auc"] == pytest.approx(roc_auc_score(labels, y_score), abs=1e-12)
    assert metrics["loss"] == pytest.approx(
        binary_cross_entropy_with_logits(logits.float(), labels).item()
    )


def test_the_loss_is_the_mean_over_images_and_not_over_batches():
    logits, labels = make_scores(17)
    metrics = (
        scripted_evaluator(binary_cross_entropy_with_logits).run(as_batches(logits, labels)).metrics
    )
    expected = binary_cross_entropy_with_logits(logits.double(), labels.double())
    assert metrics["loss"] == pytest.approx(expected.item(), rel=1e-6)


def test_the_loss_function_gets_float32_and_the_names_are_those_promised():
    dtypes = []

    def loss_fn(logits, labels):
        dtypes.append((logits.dtype, labels.dtype))
        return binary_cross_entropy_with_logits(logits, labels)

    logits, labels = make_scores()
    metrics = scripted_evaluator(loss_fn).run(as_batches(logits.double(), labels)).metrics
    assert dtypes == [(torch.float32, torch.float32)]
    assert tuple(metrics) == EVALUATION_METRICS


def test_an_image_that_comes_twice_counts_once():
    logits, labels = make_scores()
    indices = torch.arange(NUM_IMAGES)
    again = torch.cat([indices, indices[:7]])
    evaluator = scripted_evaluator(binary_cross_entropy_with_logits)
    once = dict(evaluator.run(as_batches(logits, labels, indices)).metrics)
    twice = dict(evaluator.run(as_batches(logits[again], labels[again], again)).metrics)
    assert twice == once
    # Without indices there is no telling, and repeats weigh in.
    blind = evaluator.run(as_batches(logits[again], labels[again])).metrics
    assert blind["loss"] != once["loss"]


def test_neither_order_nor_batch_size_changes_a_bit():
    logits, labels = make_scores()
    indices = torch.arange(NUM_IMAGES)
    order = torch.randperm(NUM_IMAGES)
    evaluator = scripted_evaluator(binary_cross_entropy_with_logits)
    straight = dict(evaluator.run(as_batches(logits, labels, indices)).metrics)
    shuffled = as_batches(logits[order], labels[order], indices[order], size=7)
    assert dict(evaluator.run(shuffled).metrics) == straight


def test_an_epoch_starts_from_nothing():
    evaluator = scripted_evaluator()
    logits, labels = make_scores(seed=1)
    evaluator.run(as_batches(*make_scores(seed=2)))
    metrics = evaluator.run(as_batches(logits, labels)).metrics
    assert metrics["roc_auc"] == roc_auc_score(labels, torch.sigmoid(logits).double().numpy())


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_alone_gives_nan_and_one_warning(caplog, label):
    evaluator = scripted_evaluator(binary_cross_entropy_with_logits)
    batches = as_batches(torch.randn(20), torch.full((20,), label))
    with caplog.at_level(logging.WARNING, logger="cxrignite"):
        for _ in range(2):
            metrics = evaluator.run(batches).metrics
            assert math.isnan(metrics["roc_auc"])
            assert math.isnan(metrics["average_precision"])
            assert math.isfinite(metrics["loss"])
    (message,) = caplog.messages
    line_with(message, "roc_auc", "average_precision", "nan", 20, int(20 * label))


def test_an_epoch_without_images_gives_nan(caplog):
    evaluator = scripted_evaluator(binary_cross_entropy_with_logits)
    empty = [(torch.zeros(0), torch.zeros(0), torch.zeros(0).long())]
    with caplog.at_level(logging.WARNING, logger="cxrignite"):
        metrics = evaluator.run(empty).metrics
    assert all(math.isnan(value) for value in metrics.values())
    assert len(metrics) == 3
    assert len(caplog.records) == 1


def test_a_handler_attached_later_sees_the_metrics():
    evaluator = create_evaluator(torch.nn.Flatten(0), device="cpu")
    seen = []
    evaluator.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: seen.append(set(engine.state.metrics))
    )
    evaluator.run(as_batches(torch.rand(20, 1, 1, 1), make_scores(20)[1]))
    assert seen == [{"roc_auc", "average_precision"}]


def mean_loss_of(losses, sizes):
    steps = iter(losses)
    trainer = Engine(lambda _engine, _batch: next(steps))
    EpochMeanLoss().attach(trainer)
    return trainer.run([(None, torch.zeros(size)) for size in sizes]).metrics["loss"]


def test_the_training_loss_weighs_batches_by_their_images():
    losses = torch.tensor([1.0, 2.0, 5.0])
    assert mean_loss_of(losses, [8, 8, 2]) == pytest.approx((8 + 16 + 10) / 18, rel=1e-12)


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_the_training_loss_is_the_same_however_many_losses_are_kept(monkeypatch, most):
    monkeypatch.setattr("cxrignite.engines.metrics._MAX_LOSSES", most)
    losses = torch.tensor([1.0, 2.0, 5.0, 4.0])
    assert mean_loss_of(losses, [8, 8, 2, 4]) == pytest.approx((8 + 16 + 10 + 16) / 22, rel=1e-12)


def test_each_epochs_training_loss_stands_for_itself(monkeypatch):
    monkeypatch.setattr("cxrignite.engines.metrics._MAX_LOSSES", 2)
    steps, means = iter(torch.arange(6.0)), []
    trainer = Engine(lambda _engine, _batch: next(steps))
    EpochMeanLoss().attach(trainer)
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: means.append(engine.state.metrics["loss"])
    )
    trainer.run([(None, torch.zeros(4))] * 3, max_epochs=2)
    assert means == [1.0, 4.0]


def test_the_scores_of_an_evaluation_are_on_its_state():
    logits, labels = make_scores()
    indices = torch.randperm(NUM_IMAGES)
    evaluator = create_evaluator(torch.nn.Flatten(0), device="cpu")
    evaluator.run(as_batches(logits[indices].view(-1, 1, 1, 1), labels[indices], indices))
    source = evaluator.state.score_source
    assert isinstance(source, ScoreSource)
    scores = source.gather()
    assert scores is source.gather()
    assert scores.index.tolist() == list(range(NUM_IMAGES))
    assert scores.y_score.tolist() == torch.sigmoid(logits).double().tolist()
    assert scores.y_true.tolist() == labels.tolist()
    assert (scores.y_score.dtype, scores.y_true.dtype) == ("float64", "int64")


def test_an_index_of_another_length_is_refused():
    evaluator = scripted_evaluator()
    evaluator.logger.disabled = True
    logits, labels = make_scores(4)
    with refused(ValueError, "3", "4"):
        evaluator.run([(logits, labels, torch.arange(3))])


def evaluate_in_process(rank):
    logits, labels = make_scores()
    results = {}
    for name, num_draws in (("uneven", NUM_IMAGES), ("padded", NUM_IMAGES + 1)):
        # torch's DistributedSampler pads with the first images until the shares are even.
        indices = (torch.arange(num_draws) % NUM_IMAGES)[rank::2]
        evaluator = create_evaluator(
            torch.nn.Flatten(0), binary_cross_entropy_with_logits, device="cpu"
        )
        images = logits[indices].view(-1, 1, 1, 1)
        metrics = evaluator.run(as_batches(images, labels[indices], indices)).metrics
        results[name] = dict(metrics)
        results[f"{name} scores"] = evaluator.state.score_source.gather().y_score.tolist()
    results["training"] = mean_loss_of(torch.tensor([1.0, 2.0]) + rank, (4, 2 + rank))
    return results


@pytest.mark.integration
@pytest.mark.usefixtures("_server")
def test_two_processes_publish_exactly_what_one_process_does(tmp_path):
    logits, labels = make_scores()
    evaluator = create_evaluator(
        torch.nn.Flatten(0), binary_cross_entropy_with_logits, device="cpu"
    )
    alone = evaluator.run(
        as_batches(logits.view(-1, 1, 1, 1), labels, torch.arange(NUM_IMAGES))
    ).metrics
    for results in run_pair(evaluate_in_process, tmp_path):
        assert results["uneven"] == dict(alone)
        assert results["padded"] == dict(alone)
        expected_scores = evaluator.state.score_source.gather().y_score.tolist()
        assert results["uneven scores"] == results["padded scores"] == expected_scores
        expected = (1 * 4 + 2 * 2 + 2 * 4 + 3 * 3) / 13
        assert results["training"] == pytest.approx(expected, rel=1e-12)


def test_scores_that_are_not_finite_are_refused_in_one_line():
    logits, labels = make_scores(seed=1)
    logits[3] = math.nan
    with refused(NonFiniteError, 1, len(logits), "NaN"):
        scripted_evaluator().run(as_batches(logits, labels))


NAMES = ("Effusion", "Nodule", "Mass")


def make_findings(num_images=NUM_IMAGES):
    generator = torch.Generator().manual_seed(1)
    labels = (torch.rand(num_images, 3, generator=generator) < 0.4).float()
    logits = torch.randn(num_images, 3, generator=generator) + labels
    labels[torch.rand(num_images, 3, generator=generator) < 0.3] = math.nan
    return logits, labels


def findings_evaluator(findings=NAMES, exclusive=False, loss_fn=None):
    loss_fn = loss_fn or fitted_loss(torch.nn.BCEWithLogitsLoss(), 3)
    model = torch.nn.Flatten()
    settings = {"batch_size": 16, "exclusive": exclusive, "findings": findings}
    return create_evaluator(model, loss_fn, device="cpu", **settings)


def findings_of(indices):
    logits, labels = make_findings()
    return as_batches(logits[indices].view(-1, 3, 1, 1), labels[indices], indices)


def test_each_finding_has_its_metrics_and_the_average_leaves_out_unknown_labels():
    evaluator = findings_evaluator()
    metrics = evaluator.run(findings_of(torch.arange(NUM_IMAGES))).metrics
    assert tuple(metrics) == evaluation_metrics(NAMES)
    logits, labels = make_findings()
    scores, known = torch.sigmoid(logits), ~labels.isnan()
    areas = []
    for number, name in enumerate(NAMES):
        pair = labels[:, number][known[:, number]], scores[:, number][known[:, number]]
        areas.append(roc_auc_score(*pair))
        assert metrics[f"roc_auc/{name}"] == pytest.approx(areas[-1], abs=1e-12)
        precision = average_precision_score(*pair)
        assert metrics[f"average_precision/{name}"] == pytest.approx(precision, abs=1e-12)
    assert metrics["roc_auc"] == pytest.approx(sum(areas) / 3, abs=1e-12)
    micro = roc_auc_score(labels[known], scores[known])
    assert metrics["roc_auc_micro"] == pytest.approx(micro, abs=1e-12)
    loss = binary_cross_entropy_with_logits(logits[known], labels[known])
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-6)
    gathered = evaluator.state.score_source.gather()
    assert (gathered.y_true == labels.nan_to_num(-1).numpy()).all()


def test_a_finding_of_one_class_is_named_once_and_left_out_of_the_average(caplog):
    logits, labels = make_findings()
    labels[:, 1] = 0
    evaluator = Engine(lambda engine, batch: (torch.sigmoid(batch[0]), batch[1]))
    attach_metrics(evaluator)
    for _ in range(2):
        metrics = evaluator.run(as_batches(logits, labels)).metrics
    assert math.isnan(metrics["roc_auc/1"])
    expected = (metrics["roc_auc/0"] + metrics["roc_auc/2"]) / 2
    assert metrics["roc_auc"] == pytest.approx(expected)
    assert len(caplog.records) == 1
    assert line_with(caplog.text, "1")


def test_scores_of_exclusive_classes_add_up_to_less_than_one():
    evaluator = findings_evaluator(exclusive=True)
    evaluator.run(findings_of(torch.arange(NUM_IMAGES)))
    expected = torch.softmax(torch.nn.functional.pad(make_findings()[0], (1, 0)), 1)[:, 1:]
    scores = torch.from_numpy(evaluator.state.score_source.gather().y_score)
    torch.testing.assert_close(scores.float(), expected)


def test_a_name_for_each_finding_is_needed():
    evaluator = findings_evaluator(NAMES[:2])
    evaluator.logger.disabled = True
    with refused(ValueError, "3", "2"):
        evaluator.run(findings_of(torch.arange(NUM_IMAGES)))


def evaluate_findings_in_process(rank):
    evaluator = findings_evaluator()
    indices = torch.arange(NUM_IMAGES)[rank::2]
    return {"shared": dict(evaluator.run(findings_of(indices)).metrics)}


@pytest.mark.integration
@pytest.mark.usefixtures("_server")
def test_two_processes_publish_the_findings_of_one(tmp_path):
    alone = findings_evaluator().run(findings_of(torch.arange(NUM_IMAGES))).metrics
    for results in run_pair(evaluate_findings_in_process, tmp_path):
        assert results["shared"] == dict(alone)
