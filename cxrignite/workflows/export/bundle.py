"""MONAI bundle of an exported model: a folder that MONAI runs without this package.

The bundle contains the code that reads images, as it is here, with other names of the modules. So a
file gives the same pixels in a bundle as in training, in every format and size.
"""

from __future__ import annotations

import ast
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from PIL import Image

from cxrignite.csv_text import csv_bytes
from cxrignite.data.phantom_rendering import render_phantom
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.reading import Size, decode_image
from cxrignite.engines import BatchScorer
from cxrignite.reporting.model_card import LICENCE
from cxrignite.reporting.rule_statements import state_threshold
from cxrignite.reporting.run_facts import heading, intended_use
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.runs.exported_model import DESCRIPTION, MODEL_FILES, ExportedModel
from cxrignite.runs.run_results import RunResults
from cxrignite.workflows.export.bundle_scripts.scores import COLUMNS
from cxrignite.workflows.export.parity import Samples, scored

__all__ = ["BUNDLED_MODEL", "bundle_files", "check_images", "make_check"]

_MODELS = "models"
BUNDLED_MODEL = f"{_MODELS}/{MODEL_FILES['torch']}"
"""Path of the model in a bundle."""

_CHECK = "check"
_CHECK_TABLE = "scores.csv"

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
"""Address of MONAI's schema of `metadata.json`."""

_VERSION = "1.0.0"
_BLANK = "To be filled in"
_UNKNOWN_LICENCE = (
    "The licence of the weights in models/ was not known at the export. To be filled in.\n"
    "The licence of configs/ and scripts/ is in scripts/LICENSE.\n"
)
_SCRIPTS = "cxrignite.workflows.export.bundle_scripts"
_PACKAGES = {"pytorch-ignite", "pillow", "simplejpeg", "pydicom"}
_BATCH_SIZE = 16
_KINDS = {"grey": ".jpg", "colours": ".jpg", "16_bits": ".png"}
_NUM_CANDIDATES = 4  # of each kind
_ENLARGED = 1.5


def bundle_files(
    model: ExportedModel,
    findings: Sequence[RunResults],
    card: bytes,
    check: Mapping[str, bytes],
    licence: str | None = None,
) -> dict[str, bytes]:
    """Return the files of a MONAI bundle, except `BUNDLED_MODEL`.

    Args:
        model: The exported model, of kind `torch`, with the digest of its file.
        findings: Results of each finding of the run.
        card: The model card.
        check: What `make_check` returned.
        licence: The licence of the weights; None if unknown.

    Returns:
        The content of each file, by its path in the bundle.
    """
    configs: dict[str, Any] = {
        "metadata": _metadata(model, findings),
        "inference": _inference(model),
    }
    if check:
        configs["check"] = _check()
    return {
        **{f"configs/{name}.json": _json(content) for name, content in configs.items()},
        f"{_MODELS}/{DESCRIPTION}": model.to_json(),
        "docs/README.md": card,
        # MONAI declares what this file says as the licence of the weights, if it publishes them.
        LICENCE: (licence or _UNKNOWN_LICENCE).encode(),
        "scripts/LICENSE": _code_licence().encode(),
        **{f"{_CHECK}/{name}": content for name, content in check.items()},
        **_scripts(),
    }


def make_check(
    pipeline: Pipeline, scorer: BatchScorer, rules: Sequence[DecisionRule], samples: Samples
) -> dict[str, bytes]:
    """Make images, and the table of their scores by the model of the run.

    Of each kind of file the image is chosen whose score is nearest to 0.5, since scores near 0 and
    1 hardly depend on the pixels.

    Args:
        pipeline: Reads the images.
        scorer: The model of the run.
        rules: The decision rule of each finding.
        samples: Images of the run.

    Returns:
        The content of each file, by its name; empty if preprocessing gives the images another size
        than those of the run, which the exported model may not take.
    """
    rows, columns = samples.images[0].shape[1:]
    files = check_images((rows, columns), is_resized=pipeline.image_size is not None)
    read = []
    for name, content in files.items():
        grey = decode_image(content, name, pipeline.image_size, pipeline.grey_scaling)
        read.append(pipeline.preprocessed(torch.from_numpy(grey)[None], name).numpy())
    if any(image.shape != (1, rows, columns) for image in read):
        return {}
    found = scored(scorer, read, rules, 0)
    distance = dict(zip(files, np.abs(found.score - 0.5).min(axis=1), strict=True))
    kinds = [[name for name in files if name.startswith(kind)] for kind in _KINDS]
    chosen = {min(names, key=distance.__getitem__) for names in kinds}
    results = (found.score.tolist(), found.probability.tolist(), found.decision.tolist())
    table = [
        (name, rule.finding, repr(score), "" if math.isnan(share) else repr(share), word)
        for name, *of_image in zip(files, *results, strict=True)
        if name in chosen
        for rule, score, share, word in zip(rules, *of_image, strict=True)
    ]
    kept = {name: content for name, content in files.items() if name in chosen}
    return kept | {_CHECK_TABLE: csv_bytes([COLUMNS, *table])}


def check_images(size: Size, *, is_resized: bool) -> dict[str, bytes]:
    """Make synthetic chest X-rays to check the reading and the scores of a bundle.

    Args:
        size: Rows and columns of the input of the model.
        is_resized: True if an image is resized to them.

    Returns:
        Grey JPEG, colour JPEG and 16-bit PNG files, by name; they are larger than the input if they
        are resized to it, so that a JPEG is decoded at a fraction of its size.
    """
    rows, columns = (round(side * (_ENLARGED if is_resized else 1)) for side in size)
    files = {}
    for seed in range(len(_KINDS) * _NUM_CANDIDATES):
        kind, suffix = list(_KINDS.items())[seed % len(_KINDS)]
        drawn = render_phantom(seed, size=max(rows, columns, 32), positive=seed % 2 == 0).image
        grey = drawn[:rows, :columns]
        if kind == "grey":
            image = Image.fromarray(grey)
        elif kind == "colours":
            image = Image.fromarray(np.stack([grey, grey, 255 - grey], axis=-1))
        else:
            image = Image.fromarray(grey.astype(np.uint16) * 16)
        files[f"{kind}_{seed}{suffix}"] = _encoded(image, suffix)
    return files


def _encoded(image: Image.Image, suffix: str) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG" if suffix == ".png" else "JPEG")
    return content.getvalue()


def _inference(model: ExportedModel) -> dict[str, Any]:
    """Return the configuration that scores the images of a folder."""
    reading = model.reading
    has_one_size = all(isinstance(size, int) for size in model.input.shape[2:])
    return {
        "imports": ["$import torch", "$from scripts.images import list_images"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output": "$@bundle_root + '/eval/scores.csv'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "batch_size": _BATCH_SIZE if has_one_size else 1,
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "scripts.images.ReadImaged",
                    "image_size": reading.image_size and list(reading.image_size),
                    "grey_scaling": reading.grey_scaling,
                    "preprocess": [
                        {"_target_": each.class_path, **each.init_args}
                        for each in reading.preprocess
                    ],
                }
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$list_images(@dataset_dir)",
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": "@batch_size",
            "shuffle": False,
            "num_workers": 0,
        },
        "network_def": {
            "_target_": "scripts.network.ExportedNetwork",
            "folder": "$@bundle_root + '/models'",
            "device": "@device",
        },
        "inferer": {"_target_": "SimpleInferer"},
        "handlers": [
            {
                "_target_": "scripts.scores.ScoreTable",
                "path": "@output",
                "findings": [each.name for each in model.findings],
                "decisions": [list(each.decisions) for each in model.findings],
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network_def",
            "inferer": "@inferer",
            "val_handlers": "@handlers",
            "decollate": False,
        },
        "run": ["$@evaluator.run()"],
    }


def _check() -> dict[str, Any]:
    """Return what changes `inference.json` to compare scores with a table."""
    return {
        "imports": [
            "$import torch",
            "$from scripts.images import list_images",
            "$from scripts.scores import compare_tables",
        ],
        "dataset_dir": f"$@bundle_root + '/{_CHECK}'",
        "reference": f"$@bundle_root + '/{_CHECK}/{_CHECK_TABLE}'",
        "max_difference": 1e-5,
        "run": ["$@evaluator.run()", "$compare_tables(@output, @reference, @max_difference)"],
    }


def _metadata(model: ExportedModel, findings: Sequence[RunResults]) -> dict[str, Any]:
    first, names = findings[0], [each.name for each in model.findings]
    shape = [size if isinstance(size, int) else "*" for size in model.input.shape[2:]]
    columns = [f"{output.name} of {name}" for output in model.outputs for name in names]
    return {
        "schema": SCHEMA,
        "version": _VERSION,
        "changelog": {_VERSION: f"exported from the run {model.run}"},
        "monai_version": _version("monai"),
        "pytorch_version": _version("torch"),
        "numpy_version": _version("numpy"),
        "required_packages_version": {name: _version(name) for name in sorted(_PACKAGES)},
        "name": heading(first),
        "task": f"{heading(first, with_negative=False)} on chest X-rays",
        "description": " ".join(_describe_rule(each) for each in findings),
        "authors": _BLANK,
        "copyright": _BLANK,
        "data_source": _BLANK,
        "data_type": "image files, DICOM",
        "image_classes": "grey levels of one channel",
        "pred_classes": "; ".join(columns),
        "eval_metrics": _eval_metrics(findings),
        "intended_use": intended_use(first),
        "references": [],
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": "X-ray",
                    "num_channels": 1,
                    "spatial_shape": shape,
                    "dtype": "float32",
                    "value_range": [0, 255],
                    "is_patch_data": False,
                    "channel_def": {"0": "grey level"},
                }
            },
            "outputs": {
                "pred": {
                    "type": "probabilities",
                    "format": "classes",
                    "num_channels": len(columns),
                    "spatial_shape": [],
                    "dtype": "float32",
                    "value_range": [-1, 2],
                    "is_patch_data": False,
                    "channel_def": {str(index): text for index, text in enumerate(columns)},
                }
            },
        },
    }


def _describe_rule(results: RunResults) -> str:
    """Describe the decision rule of a finding, and whether later images contradict it."""
    stated = state_threshold(results)
    title = f"{results.classes[1]}: {stated.rule.title}."
    return " ".join(
        [title, *stated.rule.alarms, stated.rule.text, *map(_sentence, stated.problems)]
    )


def _sentence(title: str) -> str:
    return f"{title}."


def _eval_metrics(findings: Sequence[RunResults]) -> dict[str, float]:
    """Return the area under the ROC curve of each finding on each set of images."""
    return {
        f"roc_auc, {each.classes[1]}, {name}": value
        for each in findings
        for name, evaluation in each.evaluations.items()
        if (value := evaluation.roc_auc.value) is not None
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _code_licence() -> str:
    """Return the licence of this package, which is that of the configurations and the code."""
    try:
        text = metadata.distribution("cxrignite").read_text("licenses/LICENSE")
    except metadata.PackageNotFoundError:
        text = None
    return text or "Apache License, Version 2.0: http://www.apache.org/licenses/LICENSE-2.0\n"


def _scripts() -> dict[str, bytes]:
    """Return the modules that the bundle runs, with those that they import."""
    modules = {f"{_SCRIPTS}.{name}" for name in ("images", "network", "scores")}
    sources: dict[str, str] = {}
    while waiting := modules - sources.keys():
        for module in sorted(waiting):
            sources[module] = _source(module)
            modules |= _imports(sources[module])
    scripts = {_script_path(module): _moved(source) for module, source in sources.items()}
    folders = {path.rpartition("/")[0] for path in scripts}
    return {
        **{f"{folder}/__init__.py": b"" for folder in sorted(folders)},
        **{path: source.encode() for path, source in sorted(scripts.items())},
    }


def _source(module: str) -> str:
    package, _, name = module.rpartition(".")
    return (files(package) / f"{name}.py").read_text(encoding="utf-8")


def _imports(source: str) -> set[str]:
    """Return the modules of this package that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cxrignite"):
            package, _, name = str(node.module).rpartition(".")
            if package and (files(package) / f"{name}.py").is_file():
                found.add(str(node.module))
            else:
                found |= {f"{node.module}.{each.name}" for each in node.names}
    return found


def _script_path(module: str) -> str:
    own = module.removeprefix(f"{_SCRIPTS}.")
    name = own if own != module else module.removeprefix("cxrignite.")
    return f"scripts/{name.replace('.', '/')}.py"


def _moved(source: str) -> str:
    """Return a module that imports the modules of the bundle in place of those of this package."""
    source = source.replace(f"from {_SCRIPTS}", "from scripts")
    return re.sub(r"^(\s*)from cxrignite\b", r"\1from scripts", source, flags=re.MULTILINE)


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=4, ensure_ascii=False) + "\n").encode()
