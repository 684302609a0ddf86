"""Ignite engines for training and evaluation, and the functions that they run."""

from __future__ import annotations

from cxrignite.engines.averaging import AveragedWeights
from cxrignite.engines.batch_statistics import adapt_batch_norm, batch_norms
from cxrignite.engines.compilation import compile_model, compiler_errors_in_one_line
from cxrignite.engines.evaluator import create_evaluator
from cxrignite.engines.metrics import EVALUATION_METRICS, attach_metrics, evaluation_metrics
from cxrignite.engines.precision import Precision, choose_precision
from cxrignite.engines.schedules import WarmupCosine
from cxrignite.engines.scoring import BatchScorer
from cxrignite.engines.updater import amp_updater, create_trainer

__all__ = [
    "EVALUATION_METRICS",
    "AveragedWeights",
    "BatchScorer",
    "Precision",
    "WarmupCosine",
    "adapt_batch_norm",
    "amp_updater",
    "attach_metrics",
    "batch_norms",
    "choose_precision",
    "compile_model",
    "compiler_errors_in_one_line",
    "create_evaluator",
    "create_trainer",
    "evaluation_metrics",
]
