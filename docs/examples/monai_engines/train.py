"""MONAI's own trainer and evaluator, with handlers of cxrignite beside MONAI's own."""

import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ROCAUC, ValidationHandler, from_engine
from monai.networks.nets import DenseNet
from monai.transforms import Activationsd
from torch import nn

from cxrignite.functional import ImageChoice
from cxrignite.handlers import (
    EpochTimer,
    FiniteGuard,
    GradCAMExporter,
    HistoryWriter,
    PredictionWriter,
    ScoreCollector,
    ThresholdSearch,
)
from cxrignite.reporting.wording import describe_point


def make_images(num_negative: int, num_positive: int) -> Dataset:
    """Make noise, with a brighter square in the positives; `index` is the number of the image."""
    items = []
    for index in range(num_negative + num_positive):
        image, label = torch.randn(1, 32, 32), float(index >= num_negative)
        if label:
            top, left = torch.randint(0, 24, (2,)).tolist()
            image[0, top : top + 8, left : left + 8] += 0.5 + torch.rand(1)
        items.append({"image": image, "label": torch.tensor([label]), "index": index})
    return Dataset(items)


def make_evaluator(network: nn.Module, images: Dataset, handlers: list) -> SupervisedEvaluator:
    """Make MONAI's evaluator, whose `pred` are probabilities.

    MONAI's engines return a list of dictionaries, one per image. A `ScoreCollector` converts it,
    with MONAI's own `from_engine`. The handlers after it get scores and images from it.
    """
    scores = from_engine(["pred", "label"])
    collector = ScoreCollector(
        output_transform=scores, batch_transform=from_engine(["image", "label", "index"])
    )
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(images, batch_size=40),
        network=network,
        postprocessing=Activationsd(keys="pred", sigmoid=True),
        key_val_metric={"roc_auc": ROCAUC(output_transform=scores)},
        val_handlers=[collector, *handlers],
    )


def main() -> None:
    """Train with a validation after each epoch, then score a test split with the threshold."""
    torch.manual_seed(0)
    train, val, test = make_images(240, 80), make_images(120, 40), make_images(60, 20)
    network = DenseNet(2, 1, 1, init_features=16, growth_rate=8, block_config=(2, 2))

    search, timer = ThresholdSearch(min_tnr=0.9, min_threshold=0.3), EpochTimer()
    validator = make_evaluator(network, val, [search, HistoryWriter("history.csv")])
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=3,
        train_data_loader=DataLoader(train, batch_size=20, shuffle=True),
        network=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=3e-3),
        loss_function=nn.BCEWithLogitsLoss(),
        train_handlers=[
            FiniteGuard(network, output_transform=from_engine("loss", first=True)),
            timer,
            ValidationHandler(1, validator),
        ],
    )
    trainer.run()
    point = search.operating_point
    print(f"trained on {timer.epochs[-1].num_images} images per epoch")
    print(f"validation: roc_auc {validator.state.metrics['roc_auc']:.3f}, {describe_point(point)}")

    rows = [{"path": f"test/{index}.png"} for index in range(len(test))]
    choice = ImageChoice(threshold=point.threshold, kinds=("errors", "most_sure"), max_images=2)
    predictions = PredictionWriter("predictions.csv", rows, threshold=point.threshold)
    maps = GradCAMExporter(network, "maps", "features", choice=choice, rows=rows)
    tester = make_evaluator(network, test, [predictions, maps])
    tester.run()
    print(f"test: roc_auc {tester.state.metrics['roc_auc']:.3f}")
    print(f"wrote history.csv, {predictions.path} and {len(maps.explanations)} maps in maps")


if __name__ == "__main__":
    main()
