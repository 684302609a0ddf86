import copy

import pytest
import torch
from messages import refused
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from cxrignite.engines import choose_precision, create_evaluator, create_trainer
from cxrignite.errors import RecipeError
from cxrignite.nn import LightCNN


def make_model(num_channels=1):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(num_channels, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 1),
        nn.Flatten(0),
    )


def make_batches(num_channels=1):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(21, num_channels, 8, 8, generator=generator)
    labels = torch.arange(21) % 2
    return list(zip(images.split(8), labels.split(8), strict=True))


def test_the_output_is_probabilities_and_labels_in_float32():
    model = make_model()
    evaluator = create_evaluator(model, device="cpu")
    images, labels = make_batches()[0]
    y_score, y_true = evaluator.run([(images, labels)]).output
    assert (y_score.dtype, y_true.dtype) == (torch.float32, torch.float32)
    assert torch.equal(y_score, torch.sigmoid(model.eval()(images)))
    assert torch.equal(y_true, labels.float())


def test_metrics_are_those_of_a_hand_written_loop():
    model = make_model()
    metrics = (
        create_evaluator(model, binary_cross_entropy_with_logits, device="cpu")
        .run(make_batches())
        .metrics
    )
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(images) for images, _ in make_batches()])
    labels = torch.cat([labels for _, labels in make_batches()]).float()
    assert metrics["roc_auc"] == roc_auc_score(labels, torch.sigmoid(logits).double())
    assert metrics["loss"] == binary_cross_entropy_with_logits(logits, labels).item()


def test_evaluation_leaves_the_model_as_it_was():
    model = make_model().train()
    before = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    create_evaluator(model, binary_cross_entropy_with_logits, device="cpu").run(make_batches())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not model.training


def test_a_layer_left_in_training_mode_is_evaluated_too():
    model = make_model().eval()
    model[3].train()
    evaluator = create_evaluator(model, device="cpu")
    first = evaluator.run(make_batches()[:1]).output[0]
    assert torch.equal(evaluator.run(make_batches()[:1]).output[0], first)


def test_training_goes_on_after_an_evaluation():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = create_trainer(model, optimizer, binary_cross_entropy_with_logits, device="cpu")
    evaluator = create_evaluator(model, device="cpu")
    for _ in range(2):
        evaluator.run(make_batches())
        trainer.run(make_batches(), max_epochs=trainer.state.epoch + 1)
        assert model.training
    assert model[1].num_batches_tracked == 6


def test_bf16_scores_are_float32_and_near_the_exact_ones():
    model = make_model()
    dtypes = []
    model[6].register_forward_hook(lambda _module, _inputs, output: dtypes.append(output.dtype))
    exact = create_evaluator(model, device="cpu").run(make_batches()[:1]).output[0]
    evaluator = create_evaluator(model, device="cpu", precision=choose_precision("bf16", "cpu"))
    y_score = evaluator.run(make_batches()[:1]).output[0]
    assert dtypes == [torch.float32, torch.bfloat16]
    assert y_score.dtype == torch.float32
    torch.testing.assert_close(y_score, exact, atol=0.01, rtol=0)


@pytest.mark.parametrize("channels_last", [True, False])
def test_images_of_many_channels_are_laid_out(channels_last):
    model = make_model(3)
    layouts = []
    model[0].register_forward_pre_hook(
        lambda _module, inputs: layouts.append(
            inputs[0].is_contiguous(memory_format=torch.channels_last)
        )
    )
    create_evaluator(model, device="cpu", channels_last=channels_last).run(make_batches(3))
    assert set(layouts) == {channels_last}


@pytest.mark.parametrize(
    ("channels_last", "num_findings", "exclusive"),
    [(False, 1, False), (True, 1, False), (True, 14, False), (False, 3, True)],
)
def test_scores_do_not_depend_on_the_batches_to_the_last_bit(
    channels_last, num_findings, exclusive
):
    # Ours has the matrix products whose last bits change with the number of images.
    torch.manual_seed(0)
    model = LightCNN(width=8, num_findings=num_findings)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    images = torch.randint(0, 256, (17, 1, 64, 64), dtype=torch.uint8)
    labels, index = torch.arange(17) % 2, torch.arange(17)
    if num_findings > 1:
        labels = torch.nn.functional.one_hot(torch.arange(17) % num_findings, num_findings)

    def scores(order, batch_size):
        evaluator = create_evaluator(
            model, device="cpu", batch_size=batch_size, exclusive=exclusive
        )
        parts = [torch.tensor(each) for each in order]
        evaluator.run([(images[part], labels[part], index[part]) for part in parts])
        return evaluator.state.score_source.gather().y_score

    whole = scores([range(16), [16]], 16)
    evens, odds = list(range(0, 17, 2)), list(range(1, 17, 2))
    assert (scores([evens, odds], 16) == whole).all()
    assert (scores([[each] for each in range(17)], 16) == whole).all()


def test_fillings_reach_the_model_and_nothing_else():
    model, sizes = make_model(), []
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    evaluator = create_evaluator(
        model, binary_cross_entropy_with_logits, device="cpu", batch_size=8
    )
    plain = create_evaluator(model, binary_cross_entropy_with_logits, device="cpu")
    filled = evaluator.run(make_batches())
    assert sizes == [8, 8, 8]
    assert len(filled.output[0]) == len(filled.logits) == 5
    assert filled.num_fillings == 3
    assert filled.metrics == pytest.approx(plain.run(make_batches()).metrics)
    assert plain.state.num_fillings == 0


def test_another_number_of_logits_than_findings_is_refused():
    evaluator = create_evaluator(LightCNN(width=2, num_findings=2), device="cpu")
    evaluator.logger.disabled = True
    with refused(RecipeError, "(1, 3)", "(1, 2)"):
        evaluator.run([(torch.rand(1, 1, 32, 32), torch.zeros(1, 3))])
