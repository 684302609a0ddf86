"""Network of a bundle: the exported model with its decision rule inside."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass


class ExportedNetwork(nn.Module):
    """Exported model as one network, whose output is one tensor.

    Args:
        folder: Folder of `model.pt2` and `model.json`, which has the digest of the first.
        device: Device of the model.

    Raises:
        ValueError: The model was changed, or belongs to another `model.json`.
    """

    def __init__(self, folder: str, device: str | torch.device = "cpu") -> None:
        super().__init__()
        content = (Path(folder) / "model.pt2").read_bytes()
        description = json.loads((Path(folder) / "model.json").read_bytes())
        expected, found = description["files"]["model.pt2"], hashlib.sha256(content).hexdigest()
        if found != expected:
            raise ValueError(
                f"{folder}/model.pt2 was changed, or belongs to another export: its sha256 must be "
                f"{expected}, got {found}"
            )
        program = torch.export.load(io.BytesIO(content))
        # Not as a submodule: an exported module refuses `eval`, which MONAI calls.
        self._exported = (move_to_device_pass(program, str(device)).module(),)

    def forward(self, image: Tensor) -> Tensor:
        """Score a batch.

        Args:
            image: Shape `(N, 1, H, W)`, whole grey levels in `[0, 255]`, of any type.

        Returns:
            Shape `(N, 3 K)`, float32, for K findings: all scores, all probabilities, and all
            decisions, each of them a position in the words of `model.json`.
        """
        (exported,) = self._exported
        grey = torch.as_tensor(image).as_subclass(Tensor).to(torch.uint8)
        score, probability, decision = exported(grey)
        return torch.cat([score, probability, decision.float()], dim=1)
