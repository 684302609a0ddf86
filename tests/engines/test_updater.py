import copy

import pytest
import torch
from ignite.engine import Engine, Events
from messages import refused
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from cxrignite.engines import (
    amp_updater,
    choose_precision,
    create_evaluator,
    create_trainer,
)
from cxrignite.errors import RecipeError

BF16 = choose_precision("bf16", "cpu")


class Scorer(nn.Module):
    """Layers that behave differently in training and evaluation: a batch norm and a dropout."""

    def __init__(self, num_channels=1):
        super().__init__()
        self.convolution = nn.Conv2d(num_channels, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(4, 1)
        self.seen = []

    def forward(self, images):
        self.seen.append(images)
        features = self.norm(self.convolution(images)).relu().mean((2, 3))
        return self.linear(self.dropout(features)).squeeze(1)


def make_batches(sizes, num_channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.rand(size, num_channels, 8, 8, generator=generator),
            torch.randint(0, 2, (size,), generator=generator).float(),
        )
        for size in sizes
    ]


def make_model(num_channels=1):
    torch.manual_seed(1)
    return Scorer(num_channels)


def assert_equal_states(model, other):
    for (name, value), theirs in zip(
        model.state_dict().items(), other.state_dict().values(), strict=True
    ):
        assert torch.equal(value, theirs), name


def test_two_epochs_equal_a_hand_written_loop_bit_for_bit():
    batches = make_batches([8, 8, 5])
    ours, by_hand = make_model(), make_model()
    optimizer = torch.optim.AdamW(ours.parameters(), lr=0.01)
    trainer = create_trainer(ours, optimizer, binary_cross_entropy_with_logits, device="cpu")
    torch.manual_seed(2)
    trainer.run(batches, max_epochs=2)

    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=0.01)
    torch.manual_seed(2)
    for _ in range(2):
        for images, labels in batches:
            optimizer.zero_grad()
            binary_cross_entropy_with_logits(by_hand(images), labels).backward()
            optimizer.step()
    assert_equal_states(ours, by_hand)


@pytest.mark.parametrize("max_grad_norm", [None, 0.05])
def test_accumulation_flushes_the_tail_with_its_true_mean(max_grad_norm):
    batches = make_batches([4] * 6)
    ours, by_hand = make_model(), make_model()
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    steps = []
    optimizer.register_step_post_hook(lambda *_: steps.append(trainer.state.iteration))
    trainer = create_trainer(
        ours,
        optimizer,
        binary_cross_entropy_with_logits,
        device="cpu",
        accumulation_steps=4,
        max_grad_norm=max_grad_norm,
    )
    torch.manual_seed(2)
    trainer.run(batches, max_epochs=2)
    assert steps == [4, 6, 10, 12]

    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    torch.manual_seed(2)
    for group in [batches[:4], batches[4:]] * 2:
        optimizer.zero_grad()
        for images, labels in group:
            loss = binary_cross_entropy_with_logits(by_hand(images), labels)
            (loss / len(group)).backward()
        if max_grad_norm is not None:
            nn.utils.clip_grad_norm_(by_hand.parameters(), max_grad_norm)
        optimizer.step()
    assert_equal_states(ours, by_hand)


def test_gradients_of_small_batches_are_those_of_one_large_batch():
    images, labels = make_batches([24])[0]
    small = list(zip(images.split(4), labels.split(4), strict=True))
    gradients = []
    for batches, accumulation_steps in ((small, 8), ([(images, labels)], 1)):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Flatten(0))
        nn.init.constant_(model[1].weight, 0.1)
        nn.init.zeros_(model[1].bias)
        create_trainer(
            model,
            torch.optim.SGD(model.parameters(), lr=0.0),
            binary_cross_entropy_with_logits,
            device="cpu",
            accumulation_steps=accumulation_steps,
        ).run(batches)
        gradients.append(model[1].weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_long_gradient_is_shortened_to_the_norm():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []
    optimizer.register_step_pre_hook(
        lambda *_: norms.append(
            torch.cat([weight.grad.flatten() for weight in model.parameters()]).norm().item()
        )
    )
    trainer = create_trainer(
        model, optimizer, binary_cross_entropy_with_logits, device="cpu", max_grad_norm=1e-3
    )
    trainer.run(make_batches([8, 8]))
    assert norms == pytest.approx([1e-3, 1e-3], rel=1e-3)


@pytest.mark.parametrize("epoch_length", [None, 3])
def test_accumulation_without_a_known_epoch_length_is_refused(epoch_length):
    model = make_model()
    trainer = create_trainer(
        model,
        torch.optim.SGD(model.parameters()),
        binary_cross_entropy_with_logits,
        device="cpu",
        accumulation_steps=2,
    )
    trainer.logger.disabled = True
    endless = iter(make_batches([4] * 9))
    if epoch_length is None:
        with refused(ValueError, "accumulation_steps", "epoch_length"):
            trainer.run(endless)
    else:
        trainer.run(endless, epoch_length=epoch_length)
        assert trainer.state.iteration == epoch_length


def train_on_cpu(scaler, batches, loss_fn=binary_cross_entropy_with_logits):
    model = make_model()
    trainer = create_trainer(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        loss_fn,
        device="cpu",
        scaler=scaler,
        max_grad_norm=0.05,
        accumulation_steps=4,
    )
    torch.manual_seed(2)
    trainer.run(batches, max_epochs=2)
    return model, trainer


def test_gradients_are_unscaled_before_they_are_clipped_and_stepped():
    # A power of two scales without rounding, so the scaler must leave no trace at all.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    batches = make_batches([4] * 6)
    scaled, scaled_trainer = train_on_cpu(scaler, batches)
    plain, plain_trainer = train_on_cpu(None, batches)
    assert_equal_states(scaled, plain)
    assert scaled_trainer.state.metrics == plain_trainer.state.metrics


def test_a_step_whose_gradient_overflows_is_left_out():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)

    def overflow(logits, labels):
        return binary_cross_entropy_with_logits(logits, labels) * torch.inf

    model, _ = train_on_cpu(scaler, make_batches([4] * 6), overflow)
    for weight, expected in zip(model.parameters(), make_model().parameters(), strict=True):
        assert torch.equal(weight, expected)
    assert scaler.get_scale() == 2.0**8


def test_the_output_is_the_loss_without_its_graph():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = Engine(
        amp_updater(
            model,
            optimizer,
            binary_cross_entropy_with_logits,
            device="cpu",
            accumulation_steps=2,
        )
    )
    outputs = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: outputs.append(engine.state.output)
    )
    batches = make_batches([4, 4])
    torch.manual_seed(3)
    trainer.run(batches)
    torch.manual_seed(3)
    expected = [binary_cross_entropy_with_logits(model(x), y) for x, y in batches]
    assert all(output.ndim == 0 and not output.requires_grad for output in outputs)
    # Undivided: accumulation does not make the loss smaller.
    assert torch.equal(torch.stack(outputs), torch.stack(expected))


def test_bf16_computes_the_forward_in_bf16_and_the_loss_in_float32():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    dtypes = []

    def loss_fn(logits, labels):
        dtypes.append((logits.dtype, labels.dtype))
        return binary_cross_entropy_with_logits(logits, labels)

    model.linear.register_forward_hook(lambda _m, _i, output: dtypes.append(output.dtype))
    trainer = create_trainer(model, optimizer, loss_fn, device="cpu", precision=BF16)
    images, labels = make_batches([4])[0]
    trainer.run([(images, labels.long())])
    assert dtypes == [torch.bfloat16, (torch.float32, torch.float32)]
    assert trainer.state.output.dtype == torch.float32
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_bf16_learns():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Flatten(0))
    images, _ = make_batches([64])[0]
    labels = (images[:, 0, 0, 0] > 0.5).float()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    trainer = create_trainer(
        model, optimizer, binary_cross_entropy_with_logits, device="cpu", precision=BF16
    )
    losses = []
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: losses.append(engine.state.metrics["loss"])
    )
    trainer.run([(images, labels)], max_epochs=60)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="fp16 with a scaler needs CUDA")
def test_fp16_scales_and_unscales_the_loss():
    model = make_model().cuda()
    by_hand = copy.deepcopy(model)
    batches = make_batches([8] * 6)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)
    trainer = create_trainer(
        model.eval(),
        torch.optim.SGD(model.parameters(), lr=0.1),
        binary_cross_entropy_with_logits,
        device="cuda",
        precision=choose_precision("fp16", "cuda"),
        scaler=scaler,
        max_grad_norm=0.5,
        accumulation_steps=4,
    )
    model.dropout.p = by_hand.dropout.p = 0.0
    trainer.run(batches)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    for group in (batches[:4], batches[4:]):
        optimizer.zero_grad()
        for images, labels in group:
            loss = binary_cross_entropy_with_logits(by_hand(images.cuda()), labels.cuda())
            (loss / len(group)).backward()
        nn.utils.clip_grad_norm_(by_hand.parameters(), 0.5)
        optimizer.step()
    for weight, expected in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, atol=2e-3, rtol=2e-2)
    assert scaler.get_scale() == 2.0**10


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="fp16 with a scaler needs CUDA")
def test_fp16_leaves_a_step_out_whose_gradient_overflows():
    model = make_model().cuda()
    before = copy.deepcopy(list(model.parameters()))
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40)
    create_trainer(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        binary_cross_entropy_with_logits,
        device="cuda",
        precision=choose_precision("fp16", "cuda"),
        scaler=scaler,
        max_grad_norm=1.0,
    ).run(make_batches([8]))
    assert scaler.get_scale() == 2.0**39
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize(("num_channels", "is_laid_out"), [(3, True), (1, False)])
def test_channels_last_lays_out_the_model_and_images_of_many_channels(num_channels, is_laid_out):
    model = make_model(num_channels)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    trainer = create_trainer(
        model, optimizer, binary_cross_entropy_with_logits, device="cpu", channels_last=True
    )
    trainer.run(make_batches([4], num_channels))
    assert model.seen[0].is_contiguous() != is_laid_out
    assert model.seen[0].is_contiguous(memory_format=torch.channels_last)
    assert model.convolution.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_model_left_in_evaluation_mode_is_trained_in_training_mode():
    model = make_model().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    trainer = create_trainer(model, optimizer, binary_cross_entropy_with_logits, device="cpu")
    trainer.run(make_batches([4]))
    assert model.training
    assert model.norm.num_batches_tracked == 1


def test_a_third_part_of_a_batch_is_left_alone():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    trainer = create_trainer(model, optimizer, binary_cross_entropy_with_logits, device="cpu")
    trainer.run([(*make_batches([4])[0], torch.arange(4))])
    assert trainer.state.output.isfinite()


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"max_grad_norm": 0.0}, ["max_grad_norm", "0", "0.0"]),
        ({"max_grad_norm": float("nan")}, ["max_grad_norm", "0", "nan"]),
        ({"accumulation_steps": 0}, ["accumulation_steps", "1", "0"]),
    ],
)
def test_settings_out_of_range_are_refused(settings, facts):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters())
    with refused(ValueError, *facts):
        amp_updater(model, optimizer, binary_cross_entropy_with_logits, device="cpu", **settings)


def test_a_model_inside_a_wrapper_is_trained_in_training_mode_after_an_evaluation():
    model = nn.Sequential(nn.Linear(4, 1), nn.Dropout(0.5), nn.Flatten(0))
    wrapper = nn.Sequential(model)  # as DistributedDataParallel holds it
    optimizer = torch.optim.SGD(wrapper.parameters(), lr=0.1)
    update = amp_updater(wrapper, optimizer, nn.BCEWithLogitsLoss(), device="cpu")
    batch = (torch.rand(6, 4), torch.ones(6))
    update(Engine(update), batch)
    model.eval()
    update(Engine(update), batch)
    assert all(module.training for module in wrapper.modules())


@pytest.mark.parametrize("stage", ["training", "evaluation"])
def test_a_model_that_gives_columns_instead_of_logits_is_refused(stage):
    model = nn.Linear(4, 1)
    batch = (torch.rand(6, 4), torch.ones(6))
    if stage == "training":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        engine = create_trainer(model, optimizer, nn.BCEWithLogitsLoss(), device="cpu")
    else:
        engine = create_evaluator(model, device="cpu")
    with refused(RecipeError, "(6,)", "(6, 1)"):
        engine.run([batch])


def test_a_loss_that_is_not_one_number_is_refused():
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = nn.BCEWithLogitsLoss(reduction="none")
    trainer = create_trainer(model, optimizer, loss, device="cpu")
    with refused(RecipeError, "(6,)"):
        trainer.run([(torch.rand(6, 4), torch.ones(6))])


def train_with(augment, batches, **settings):
    model = make_model()
    trainer = create_trainer(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        binary_cross_entropy_with_logits,
        device="cpu",
        augment=augment,
        **settings,
    )
    torch.manual_seed(2)
    trainer.run(batches)
    return model


def with_seeds(batches):
    return [
        (images, labels, torch.arange(len(labels)), 100 * number + torch.arange(len(labels)))
        for number, (images, labels) in enumerate(batches)
    ]


def test_images_are_augmented_by_their_seeds_before_the_forward_pass():
    batches = with_seeds(make_batches([4, 3]))
    calls = []

    def augment(images, seeds):
        calls.append((images, seeds, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        return images + seeds.view(-1, 1, 1, 1)

    model = train_with(augment, batches, precision=BF16)
    for batch, seen, (images, seeds, *switches) in zip(batches, model.seen, calls, strict=True):
        assert torch.equal(images, batch[0])
        assert seeds is batch[3]
        assert switches == [False, False]
        assert torch.equal(seen, batch[0] + batch[3].view(-1, 1, 1, 1))


def test_without_augmentation_images_stay_as_they_are():
    batches = with_seeds(make_batches([4, 3]))
    assert_equal_states(
        train_with(None, batches), train_with(lambda images, seeds: images, batches)
    )
    assert torch.equal(train_with(None, batches).seen[0], batches[0][0])


@pytest.mark.parametrize("num_parts", [2, 3])
def test_an_augmentation_needs_the_seeds(num_parts):
    batches = [batch[:num_parts] for batch in with_seeds(make_batches([4]))]
    with refused(ValueError, "augment", num_parts):
        train_with(lambda images, seeds: images, batches)


def test_a_further_loss_is_added_of_the_logits_and_the_whole_batch():
    batches = [(*each, torch.arange(len(each[1]))) for each in make_batches([8, 5])]
    ours, by_hand = make_model(), make_model()
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)

    def extra(logits, batch):
        return None if len(batch[2]) == 5 else 0.5 * (logits * batch[2]).mean()

    trainer = create_trainer(
        ours, optimizer, binary_cross_entropy_with_logits, device="cpu", extra_loss=extra
    )
    torch.manual_seed(2)
    losses = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: losses.append(trainer.state.output.item())
    )
    trainer.run(batches, max_epochs=1)

    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    torch.manual_seed(2)
    for (images, labels, index), given in zip(batches, losses, strict=True):
        optimizer.zero_grad()
        logits = by_hand(images)
        loss = binary_cross_entropy_with_logits(logits, labels)
        if len(index) == 8:
            loss = loss + 0.5 * (logits * index).mean()
        loss.backward()
        optimizer.step()
        assert loss.item() == given
    assert_equal_states(ours, by_hand)
