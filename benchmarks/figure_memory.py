"""Measure the peak memory of `fit` with all its handlers, compared with a plain loop.

Pages of files, such as those of a cache, are not counted, since the system can release them.

python benchmarks/figure_memory.py --images DIR --weights FILE
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cxrignite.workflows.benchmark.memory import memory_with_children

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


PLAIN_LOOP = """
import sys, torch
from pathlib import Path
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from cxrignite.nn import LightCNN, TimmClassifier

class Images(Dataset):
    def __init__(self, paths):
        self.paths = paths
        self.transform = transforms.Compose([
            transforms.Resize((224, 224)),
            transforms.RandomAffine(8, (0.05, 0.05), (0.9, 1.1)),
            transforms.ToTensor(),
        ])
    def __len__(self):
        return len(self.paths)
    def __getitem__(self, index):
        path = self.paths[index]
        with Image.open(path) as image:
            return self.transform(image.convert("RGB")), float("PNEUMONIA" in str(path))

root, weights, workers, steps = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
paths = sorted(Path(root).glob("train/*/*.jpeg"))
chosen = paths[::10]
kept = {"num_workers": workers, "persistent_workers": workers > 0}
train = DataLoader(Images([p for p in paths if p not in set(chosen)]), 32, shuffle=True, **kept)
val = DataLoader(Images(chosen), 32, **kept)
if weights == "none":
    model = LightCNN(width=32, dropout=0.3)
else:
    model = TimmClassifier("tf_efficientnet_lite0", weights, dropout=0.3, standardize="per_image")
model = model.to(memory_format=torch.channels_last)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)
loss_fn = torch.nn.BCEWithLogitsLoss()
has_bf16 = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
cast = lambda: torch.autocast("cpu", torch.bfloat16, enabled=has_bf16)
for step, (images, labels) in zip(range(steps), train):
    optimizer.zero_grad(set_to_none=True)
    with cast():
        logits = model(images[:, :1].contiguous())
    loss_fn(logits.float(), labels.float()).backward()
    optimizer.step()
model.eval()
scores, truth = [], []
with torch.no_grad(), cast():
    for images, labels in val:
        scores.append(model(images[:, :1].contiguous()).float().sigmoid())
        truth.append(labels)
print(roc_auc_score(torch.cat(truth), torch.cat(scores)))
"""


def peak_memory(*command: str) -> float:
    """Return the peak memory of a program and its workers in MB, each page counted once."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        most = max(most, memory_with_children(Path("/proc", str(process.pid))))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"{command[:4]} failed with exit code {process.returncode}")
    return most / 2**20


def measure_memory(root: Path, weights: str) -> None:
    """Measure `fit` with all handlers and a plain loop, both with and without workers."""
    recipes = {"baseline_cnn": "none"} | ({"efficientnet_lite0": weights} if weights else {})
    for name, file in recipes.items():
        for workers in (0, 2):
            with tempfile.TemporaryDirectory() as folder:
                argv = ["fit", "--config", f"{RECIPES}/{name}.yaml", "--run_dir", f"{folder}/run"]
                argv += ["--data.source.root", str(root), "--data.image_size", "[224, 224]"]
                argv += ["--data.num_workers", str(workers), "--trainer.epoch_length", "20"]
                argv += ["--trainer.max_epochs", "1"]
                argv += ["--model.weights", file] if file != "none" else []
                fit = peak_memory(sys.executable, "-m", "cxrignite", *argv)
            plain = peak_memory(
                sys.executable, "-c", PLAIN_LOOP, str(root), file, str(workers), "20"
            )
            print(
                f"peak memory, {name}, {workers} workers: fit {fit:,.0f} MB, plain loop "
                f"{plain:,.0f} MB, {fit / plain:.2f} x (target <= 1.1)"
            )


def main() -> None:
    """Run the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--images", type=Path, required=True, help="folder with the layout of ChestXRay2017"
    )
    parser.add_argument("--weights", default="", help="weights file of tf_efficientnet_lite0")
    options = parser.parse_args()
    measure_memory(options.images, options.weights)


if __name__ == "__main__":
    main()
