"""A plain Ignite loop with three parts of cxrignite, in the lines marked with an arrow."""

import torch
from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cxrignite.data import BalancedSampler
from cxrignite.handlers import EpochTimer, ThresholdSearch
from cxrignite.reporting.wording import describe_point

NUM_EPOCHS = 4


def make_images(num_negative: int, num_positive: int) -> TensorDataset:
    """Make noise in the shape of CIFAR's images; a positive has a brighter square somewhere."""
    labels = torch.cat([torch.zeros(num_negative), torch.ones(num_positive)])
    images = torch.randn(len(labels), 3, 32, 32)
    for number in range(num_negative, len(labels)):
        top, left = torch.randint(0, 24, (2,)).tolist()
        images[number, :, top : top + 8, left : left + 8] += 0.2 + 0.6 * torch.rand(1)
    return TensorDataset(images, labels)


def make_model() -> nn.Module:
    """Make a small network: images `(N, 3, 32, 32)` in, one logit per image `(N,)` out."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 5, stride=2), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(32, 1), nn.Flatten(0)),
    )


def main() -> None:
    """Train, and choose a threshold on the validation images after each epoch."""
    torch.manual_seed(0)
    train, val = make_images(900, 100), make_images(300, 60)
    labels = train.tensors[1].int().tolist()
    sampler = BalancedSampler(labels, seed=0)  # <- draws both classes equally often
    loader = DataLoader(train, batch_size=50, sampler=sampler)

    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    trainer = create_supervised_trainer(model, optimizer, nn.BCEWithLogitsLoss())
    evaluator = create_supervised_evaluator(
        model, output_transform=lambda x, y, logits: (torch.sigmoid(logits), y)
    )

    timer = EpochTimer(num_warmup_epochs=1)  # <- times each epoch and its waits for data
    timer.attach(trainer)
    search = ThresholdSearch(min_tnr=0.9, min_threshold=0.5)  # <- needs (y_score, y_true)
    search.attach(evaluator)

    @trainer.on(Events.EPOCH_STARTED)
    def draw_again() -> None:
        sampler.set_epoch(trainer.state.epoch)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate() -> None:
        metrics = evaluator.run(DataLoader(val, batch_size=100)).metrics
        print(
            f"epoch {trainer.state.epoch}: {timer.epochs[-1].images_per_second:.0f} images/s, "
            f"threshold {metrics['threshold']:.3f}, TNR {metrics['tnr']:.3f}, "
            f"TPR {metrics['tpr']:.3f}"
        )

    trainer.run(loader, max_epochs=NUM_EPOCHS)
    drawn = [labels[index] for index in sampler]
    print(f"positives: {sum(labels)} of {len(labels)}, drawn {sum(drawn)} of {len(drawn)}")
    summary = timer.summary()
    print(f"an epoch: {summary['epoch_seconds']:.2f} s after the first")
    print(describe_point(search.operating_point))


if __name__ == "__main__":
    main()
