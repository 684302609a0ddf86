"""Ignite handlers for any engine, each usable on its own in another project.

Importing this package loads torch, numpy and Ignite, and nothing that reads recipes or images.
SciPy, TensorBoard and Pillow are imported on first use.
"""

from __future__ import annotations

from cxrignite.handlers.attachable import Attachable
from cxrignite.handlers.best_checkpoint import BestCheckpoint
from cxrignite.handlers.checkpoint_loading import (
    latest_valid,
    load_checkpoint,
    verify_checkpoint,
)
from cxrignite.handlers.epoch_timer import EpochTimer
from cxrignite.handlers.explanation import Explanation
from cxrignite.handlers.feature_collector import FeatureCollector
from cxrignite.handlers.finite_guard import FiniteGuard
from cxrignite.handlers.graceful_stop import GracefulStop
from cxrignite.handlers.grad_cam_exporter import GradCAMExporter
from cxrignite.handlers.history_writer import HistoryWriter, read_history
from cxrignite.handlers.prediction_writer import PredictionWriter
from cxrignite.handlers.progress_line import ProgressLine
from cxrignite.handlers.safe_saver import SafeSaver
from cxrignite.handlers.score_collector import ScoreCollector
from cxrignite.handlers.tensorboard_writer import TensorBoardWriter
from cxrignite.handlers.threshold_search import ThresholdSearch
from cxrignite.stops import StopRequested

__all__ = [
    "Attachable",
    "BestCheckpoint",
    "EpochTimer",
    "Explanation",
    "FeatureCollector",
    "FiniteGuard",
    "GracefulStop",
    "GradCAMExporter",
    "HistoryWriter",
    "PredictionWriter",
    "ProgressLine",
    "SafeSaver",
    "ScoreCollector",
    "StopRequested",
    "TensorBoardWriter",
    "ThresholdSearch",
    "latest_valid",
    "load_checkpoint",
    "read_history",
    "verify_checkpoint",
]
