"""Transfer learning from any network of the timm collection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cxrignite.errors import RecipeError, WeightsError, is_resource_error, suggestion
from cxrignite.nn.classifiers import BinaryClassifier, dense_head
from cxrignite.nn.normalizer import ImageNormalizer, Standardize
from cxrignite.nn.weights import check_finite, first_line, load_weights_file, names_a_file

if TYPE_CHECKING:
    from types import ModuleType


class TimmClassifier(BinaryClassifier):
    """Classifier with a timm network and a head `Linear -> ReLU -> Dropout -> Linear(hidden, K)`.

    Needs the extra `timm`. Mean and deviation are those of timm's settings for the network; for
    `tf_efficientnet_lite0` these are 0.5 and 0.5 (127/255 and 128/255 in the original).

    Args:
        arch: Name from `timm.list_models()`, with or without a tag (`resnet18.a1_in1k`).
        weights: `pretrained` for the weights that timm publishes, the path of a state dict, or
            null for random weights. The classifier layer of a state dict may be missing or have any
            size.
        hidden: Number of units between the two layers of the head.
        dropout: Share of these units dropped in training, in `[0, 1)`.
        standardize: `fixed` normalises with the mean and deviation that the weights were trained
            with, `per_image` with those of each image.
        num_findings: Number of findings, K, with one logit each. `fit` sets it from the data.

    Raises:
        RecipeError: If timm is not installed, or does not know `arch` or `weights`.
        WeightsError: If the weights cannot be loaded or do not fit.
        ValueError: If `hidden`, `dropout` or `num_findings` is out of range.
    """

    def __init__(
        self,
        arch: str,
        weights: str | None = None,
        hidden: int = 256,
        dropout: float = 0.5,
        standardize: Standardize = "fixed",
        num_findings: int = 1,
    ) -> None:
        timm = _import_timm()
        _check_arch(timm, arch)
        is_file = weights is not None and names_a_file(weights)
        if weights is not None and weights != "pretrained" and not is_file:
            raise RecipeError(f"weights must be pretrained, a local file or null, got {weights!r}")
        dense_head(1, hidden, dropout, num_findings)

        backbone = _build(timm, arch, pretrained=weights == "pretrained")
        settings: dict[str, Any] = backbone.pretrained_cfg
        if weights is not None and is_file:
            classifier = settings.get("classifier") or ()
            ignored = (classifier,) if isinstance(classifier, str) else tuple(classifier)
            load_weights_file(backbone, weights, arch, ignored=ignored)
        size = tuple(settings["input_size"][1:]) if settings.get("fixed_input_size") else None
        super().__init__(
            ImageNormalizer(settings["mean"], settings["std"], standardize=standardize),
            backbone,
            # Some networks have a layer between the pooled features and the classifier.
            dense_head(
                getattr(backbone, "head_hidden_size", None) or backbone.num_features,
                hidden,
                dropout,
                num_findings,
            ),
            image_size=size,
            num_findings=num_findings,
        )


def _import_timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise RecipeError(
            "TimmClassifier needs timm, which is not installed; "
            "run pip install '.[timm]' in a checkout"
        ) from error
    return timm


def _check_arch(timm: ModuleType, arch: str) -> None:
    if timm.is_model(arch):
        return
    near = suggestion(arch.split(".")[0], timm.list_models(), lists=False)
    raise RecipeError(f"arch must be a name that timm knows, got {arch!r}{near}")


def _build(timm: ModuleType, arch: str, pretrained: bool) -> Any:
    try:
        network = timm.create_model(arch, pretrained=pretrained, num_classes=0)
    # The exception types depend on the hub's client and on timm.
    except Exception as error:
        if is_resource_error(error):
            raise
        if not pretrained:
            raise RecipeError(f"timm cannot build {arch}: {first_line(error)}") from error
        settings = timm.get_pretrained_cfg(arch)
        origin = (settings and (settings.hf_hub_id or settings.url)) or "nothing published"
        raise WeightsError(
            f"cannot get timm's weights of {arch} ({origin}): {first_line(error)}; "
            "set weights to the path of a local file or to null"
        ) from error
    if pretrained:
        check_finite(network, f"pretrained of {arch}")
    return network
