"""DenseNet-121 of the library torchxrayvision, which was trained on chest X-rays."""

from __future__ import annotations

from torch import nn

from cxrignite.nn.classifiers import BinaryClassifier, dense_head
from cxrignite.nn.normalizer import ImageNormalizer
from cxrignite.nn.transfer import densenet_features
from cxrignite.nn.weights import load_weights_file

# torchxrayvision scales grey values to [-1024, 1024].
_MEAN, _STD = 0.5, 1 / 2048
_NUM_FEATURES, _SIZE = 1024, 224


class TorchXrayVisionClassifier(BinaryClassifier):
    """DenseNet-121 with one input channel, for weights of torchxrayvision, and a new head.

    The head is `Linear -> ReLU -> Dropout -> Linear(hidden, K)`. Grey values go from -1024 to 1024,
    and images must be 224 x 224 pixels, as the weights expect. torchxrayvision publishes whole
    objects, which are not loaded: save `torchxrayvision.models.DenseNet(...).state_dict()`.

    Args:
        weights: Path of a state dict, or null for random weights. Its classifier layer is left out.
        hidden: Number of units between the two layers of the head.
        dropout: Share of these units dropped in training, in `[0, 1)`.
        num_findings: Number of findings, K, with one logit each. `fit` sets it from the data.

    Raises:
        WeightsError: If the weights cannot be loaded or do not fit.
        ValueError: If `hidden`, `dropout` or `num_findings` is out of range.
    """

    def __init__(
        self,
        weights: str | None = None,
        hidden: int = 256,
        dropout: float = 0.5,
        num_findings: int = 1,
    ) -> None:
        head = dense_head(_NUM_FEATURES, hidden, dropout, num_findings)
        backbone = densenet_features("densenet121")
        features = backbone.get_submodule("features")
        features.conv0 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        if weights is not None:
            load_weights_file(
                backbone, weights, "torchxrayvision's DenseNet", ignored=("classifier",)
            )
        normalizer = ImageNormalizer([_MEAN], [_STD], num_channels=1)
        size = (_SIZE, _SIZE)
        super().__init__(normalizer, backbone, head, image_size=size, num_findings=num_findings)
