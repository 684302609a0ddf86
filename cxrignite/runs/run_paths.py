"""Paths of the files of a run, and what their existence shows."""

from __future__ import annotations

from pathlib import Path


class RunPaths:
    """The paths of a run's files.

    Args:
        root: The run folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.recipe_path = root / "recipe.yaml"
        self.environment_path = root / "environment.json"
        self.split_path = root / "split.csv"
        self.leakage_path = root / "leakage.csv"
        self.audit_dir = root / "audit"
        self.checkpoints_dir = root / "checkpoints"
        self.best_path = self.checkpoints_dir / "best.pt"
        self.operating_point_path = root / "operating_point.json"
        self.reference_path = root / "reference.npz"
        self.looks_path = root / "looks.json"
        self.report_path = root / "report.html"
        self.history_path = root / "history.csv"
        self.tensorboard_dir = root / "tensorboard"
        self.figures_dir = root / "figures"
        self.log_path = root / "run.log"
        self._lock_path = root / "run.lock"

    def predictions_path(self, name: str) -> Path:
        """The scores of the films of `name`, a split or a given name."""
        return self.root / "predictions" / f"{name}.csv"

    def explain_dir(self, name: str) -> Path:
        """The class activation maps of the films of `name`, a split or a given name."""
        return self.root / "explain" / name

    def metrics_path(self, name: str) -> Path:
        """The figures of the films of `name`, a split or a given name."""
        return self.root / "metrics" / f"{name}.json"

    @property
    def holds_run(self) -> bool:
        """Whether an epoch was completed here; with less than that nothing is lost by beginning."""
        return self.history_path.is_file()

    @property
    def is_foreign(self) -> bool:
        """Whether there is something here that is no run."""
        # An audit may have been here before the run.
        others = set(self.root.iterdir()) - {self.audit_dir} if self.root.is_dir() else ()
        # The lock may not have come along when a run was copied.
        begun = self.recipe_path.is_file() and self.environment_path.is_file()
        return bool(others) and not (begun or self._lock_path.exists())

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end: the operating point is written last."""
        return self.operating_point_path.is_file()

    def site_path(self, site: str) -> Path:
        """The operating point of a site."""
        return self.root / "operating_points" / f"{site}.json"
