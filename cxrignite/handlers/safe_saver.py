"""Checkpoints that are complete or absent, even if the process is killed while it saves.

A checkpoint `last.pt` is valid if its size and sha256 are those in its manifest `last.json`. Saving
a new state over a valid one takes these steps. The process may be killed inside or between them:

| after the step | `last.pt` + `last.json` | `last.previous.pt` + `last.previous.json` |
| --- | --- | --- |
| 0. before | valid | valid, or absent |
| 1. the old file is also linked as `last.previous.pt` | valid | no match |
| 2. the old file's manifest is copied | valid | valid |
| 3. the new state is on the disk, in a temporary file | valid | valid |
| 4. the temporary file is renamed to `last.pt` | no match | valid |
| 5. the new manifest is written | valid | valid |
| 6. files that Ignite wants removed are removed | valid | valid |

The order guarantees that one of the two is valid at every moment; `latest_valid` finds it. The old
state is kept under its second name (1, 2) before its first name is reused (4). The manifest comes
last (5), because it declares the new file complete. Removal (6) waits for a valid replacement.

If `last.pt` does not match when a save begins, its save was killed after step 4. Then steps 1 and 2
are skipped, so that the valid previous file is not replaced by a damaged one. A `.pt` without a
manifest was never finished, and counts as absent.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.handlers.checkpoint import BaseSaveHandler

from cxrignite.durable_write import duplicate_durably, sweep_temporaries, write_durably
from cxrignite.errors import CheckpointError
from cxrignite.handlers.checkpoint_loading import (
    is_valid,
    manifest_path,
    previous_path,
    sealed,
)

_log = logging.getLogger(__name__)

# `torch.load(weights_only=True)` reads exactly these types and containers of them.
_LEAVES = (
    *(bool, int, float, complex, str, bytes, type(None)),
    *(torch.Tensor, torch.nn.Parameter, torch.Size, torch.dtype, torch.device),
)
_MAPPINGS = (dict, OrderedDict, Counter)


class SafeSaver(BaseSaveHandler):
    """Saver of checkpoints that never loses the last valid one by a kill, power cut or full disk.

    Each checkpoint has its manifest beside it and, from the second save on, its predecessor. The
    order of the steps of a save, and the reasons for it, are in the docstring of this module.

    *Attach to* nothing. It is an Ignite save handler, `Checkpoint(to_save, SafeSaver(directory))`,
    or is called directly, as in the example.
    *Expects* tensors, numbers, strings and containers of them.
    *Publishes* the checkpoint and its manifest in `directory`, on rank 0 only.

    Args:
        directory: The folder; it is created if missing. Temporary files of killed processes are
            removed from it.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> from cxrignite.handlers import latest_valid, load_checkpoint
        >>> with TemporaryDirectory() as folder:
        ...     SafeSaver(folder)({"epoch": 3}, "last.pt", {"epoch": 3})
        ...     load_checkpoint(latest_valid(folder, "last.pt"))
        {'epoch': 3}
    """

    def __init__(self, directory: Path | str) -> None:
        self.directory = Path(directory)
        self._superseded: list[str] = []
        if idist.get_rank() == 0:
            self.directory.mkdir(parents=True, exist_ok=True)
            for path in sweep_temporaries(self.directory):
                _log.info("removed %s, left by a killed process", path)

    def __call__(
        self,
        checkpoint: Mapping[str, Any],
        filename: str,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Save a checkpoint in the steps listed in this module's docstring.

        Args:
            checkpoint: A dictionary of tensors, numbers, strings and containers of them. NumPy
                scalars become Python numbers.
            filename: Its name in the folder, which ends in `.pt`.
            metadata: Entries of the manifest beside size and sha256, for example the epoch.

        Raises:
            ValueError: If `filename` does not end in `.pt`.
            CheckpointError: If the checkpoint holds an object that could not be loaded again.
            CxrIgniteError: If the disk is full or not writable; the former checkpoint is intact.
        """
        if idist.get_rank() != 0:
            return
        if not filename.endswith(".pt"):
            raise ValueError(f"filename must end in .pt, got {filename!r}")
        path = self.directory / filename
        # In memory first: then a full disk raises our `OSError` instead of aborting inside torch.
        buffer = io.BytesIO()
        torch.save(_plain(dict(checkpoint), filename), buffer)
        data = buffer.getbuffer()
        manifest = {
            **_plain(dict(metadata or {}), f"metadata of {filename}"),
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        if is_valid(path):
            duplicate_durably(path, previous_path(path))
            duplicate_durably(manifest_path(path), manifest_path(previous_path(path)))
        write_durably(path, data)
        content = f"{json.dumps(sealed(manifest), indent=2)}\n"
        write_durably(manifest_path(path), content.encode())
        self._remove_superseded(path)

    def remove(self, filename: str) -> None:
        """Mark a checkpoint as superseded; it is removed after the next complete save.

        Ignite calls this before it saves (pytorch/ignite#1986), when there is no replacement yet.

        Args:
            filename: Its name in the folder.
        """
        self._superseded.append(filename)

    def _remove_superseded(self, saved: Path) -> None:
        for path in (self.directory / filename for filename in self._superseded):
            if path != saved:
                for file in (path, previous_path(path)):
                    manifest_path(file).unlink(missing_ok=True)
                    file.unlink(missing_ok=True)
        self._superseded.clear()


def _plain(value: Any, where: str) -> Any:
    """Copy containers, convert NumPy scalars, and refuse objects that could not be loaded."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in _LEAVES:
        return value
    if type(value) in (list, tuple):
        return type(value)(_plain(item, f"{where}[{n}]") for n, item in enumerate(value))
    if type(value) in _MAPPINGS:
        plain = type(value)(
            {_plain(key, where): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
        )
        if isinstance(value, OrderedDict):
            vars(plain).update(vars(value))  # PyTorch keeps a module's versions in an attribute
        return plain
    raise CheckpointError(
        f"{where} must be a tensor, a plain value or a container, got {type(value).__name__}"
    )
