"""Training samples per second beside a plain PyTorch loop and segmentation_models_pytorch, on one machine, in turns.

    python benchmarks/training.py [--steps 6] [--rounds 3] [--device auto] [--workers N]

All learn from the same pictures: PNG of 1024 x 1024 pixels, patches of 256 px, batches of 8, changes of the same
strength. `plain` is what a good tutorial shows: a DataLoader with as many workers as there are cores, each of which
decodes a picture and its mask for every sample and changes a random crop with albumentations; float32, cross entropy
and Dice, AdamW, and the same U-Net (base 32, depth 4). `smp` is the same loop with smp.Unet("resnet34"), where
segmentation_models_pytorch is installed; its network is another one. segkit runs as `segkit train` with its defaults
(on a GPU also with augment.backend=device), and its numbers are those of its metrics.csv. Each process warms up for
two steps; validation and starting are in no number. Medians over the rounds.
"""

import argparse
import csv
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from making import SLIDE, machine

IMAGES, SIDE, PATCH_PX, BATCH, WARM_UP = 12, 1024, 256, 8, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6, help="of each process, after two to warm up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, help="of the plain loops; the number of cores, if not given")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        print(json.dumps(train_plainly(**json.loads(given.child))))
        return
    device = given.device if given.device != "auto" else found_device()
    workers = len(os.sched_getaffinity(0)) if given.workers is None else given.workers
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pictures(folder / "data")
        ways: dict[str, Any] = {"segkit": lambda out: run_segkit(folder / "data", out, given.steps, device, "cpu")}
        if device != "cpu":
            ways["segkit, backend=device"] = lambda out: run_segkit(folder / "data", out, given.steps, device, "device")
        for network in ("plain", "smp"):
            if network == "plain" or importlib.util.find_spec("segmentation_models_pytorch"):
                arguments = {
                    "data": str(folder / "data"), "network": network, "steps": given.steps, "device": device,
                    "workers": workers,
                }  # fmt: skip
                ways[network] = lambda _, arguments=arguments: run_child(arguments)
        results: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for number in range(given.rounds):
            for way, run in ways.items():
                results[way].append(run(folder / f"run{number}"))
                print(f"round {number + 1}: {way}: {results[way][-1]}", file=sys.stderr, flush=True)
    print(f"{machine()}; {device}; plain loops with {workers} workers; {given.steps} steps, {given.rounds} rounds\n")
    print("| | samples/s | of segkit's | share of time waiting for data |")
    print("|---|---|---|---|")
    first = statistics.median(one["rate"] for one in results["segkit"])
    for way, found in results.items():
        rate, waited = (statistics.median(one[key] for one in found) for key in ("rate", "waited"))
        print(f"| {way} | {rate:.2f} | {rate / first:.2f} | {waited:.1%} |")


def found_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def make_pictures(data: Path) -> None:
    """Write pictures of a slide as PNG, with a mask of what is dark in them, and a small one for validation."""
    import numpy as np
    from PIL import Image

    from segkit.geometry import Box
    from segkit.slides import open_slide

    for folder in ("images", "masks"):
        (data / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = ["image,split"]
    with open_slide(SLIDE) as slide:
        for number in range(IMAGES + 1):
            split, side = ("train", SIDE) if number < IMAGES else ("val", PATCH_PX)
            y, x = int(rng.integers(slide.height - SIDE)), int(rng.integers(slide.width - SIDE))
            pixels = np.repeat(slide.read(Box(y, x, side, side)), 3 // slide.channels, axis=2)
            mask = (pixels.mean(axis=2) < np.percentile(pixels.mean(axis=2), 25)).astype(np.uint8)
            Image.fromarray(pixels).save(data / "images" / f"{number}.png")
            Image.fromarray(mask * 255).save(data / "masks" / f"{number}.png")
            rows.append(f"{number},{split}")
    (data / "splits.csv").write_text("\n".join([*rows, ""]))


def run_segkit(data: Path, out: Path, steps: int, device: str, backend: str) -> dict[str, float]:
    """Return what `segkit train` says of its second epoch; the first, as short as the warm-up, is not looked at."""
    settings = {
        "model.base_channels": 32, "model.depth": 4, "patches.size_px": PATCH_PX, "patches.batch": BATCH,
        "augment.preset": "histology", "augment.backend": backend, "compute.device": device, "epochs": 2,
        "steps_per_epoch": max(steps, WARM_UP),
    }  # fmt: skip
    flags = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    run = out.with_name(f"{out.name}-{backend}")
    subprocess.run(
        [sys.executable, "-m", "segkit", "train", "--data", str(data), "--out", str(run), *flags],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as handle:
        row = list(csv.DictReader(handle))[-1]
    return {"rate": float(row["samples_per_second"]), "waited": float(row["data_wait_share"])}


def run_child(arguments: dict[str, Any]) -> dict[str, float]:
    ended = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps(arguments)], check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, float] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found


def train_plainly(data: str, network: str, steps: int, device: str, workers: int) -> dict[str, float]:
    """Train as tutorials do, and return samples per second and the share of time spent waiting for them."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations as A
    import cv2
    import numpy as np
    import torch
    from torch.nn import functional
    from torch.utils.data import DataLoader, Dataset

    # The strengths of segkit's preset `histology`, but for the stains. The crop comes first, which is fastest.
    changes = A.Compose(
        [
            A.RandomCrop(PATCH_PX, PATCH_PX),
            A.HorizontalFlip(p=0.5),
            A.VerticalFlip(p=0.5),
            A.Affine(rotate=(-180, 180), scale=(0.8, 1.25), shear=(-5, 5), border_mode=cv2.BORDER_REFLECT_101, p=1),
            A.ElasticTransform(alpha=30, sigma=8, p=1),
            A.ColorJitter(brightness=0.15, contrast=0.25, saturation=0.25, hue=10 / 360, p=1),
            A.RandomGamma(gamma_limit=(80, 125), p=1),
            A.GaussianBlur(sigma_limit=(0, 1.2), blur_limit=0, p=0.25),
            A.GaussNoise(std_range=(0, 0.06), p=0.5),
        ]
    )
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    class Pictures(Dataset[Any]):
        def __init__(self) -> None:
            self.names = [path.name for path in sorted(Path(data, "images").glob("*.png"))][:IMAGES]

        def __len__(self) -> int:
            return BATCH * (steps + WARM_UP)

        def __getitem__(self, number: int) -> Any:
            name = self.names[number % len(self.names)]
            image = cv2.cvtColor(cv2.imread(f"{data}/images/{name}"), cv2.COLOR_BGR2RGB)
            mask = cv2.imread(f"{data}/masks/{name}", cv2.IMREAD_GRAYSCALE) // 255
            changed = changes(image=image, mask=mask)
            pixels = torch.from_numpy(np.ascontiguousarray(changed["image"].transpose(2, 0, 1))).float() / 255
            return (pixels - mean) / std, torch.from_numpy(changed["mask"]).long()

    if network == "smp":
        from segkit.models.torchvision_door import torchvision_models

        torchvision_models()  # it can be imported after that, also where its native library cannot be loaded
        import segmentation_models_pytorch as smp

        model = smp.Unet("resnet34", encoder_weights=None, classes=2)
    else:
        from segkit.models.unet import UNet

        model = UNet(in_channels=3, num_classes=2, base_channels=32, depth=4, form="modern", dropout=0.0)
    model.to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = iter(DataLoader(Pictures(), BATCH, shuffle=True, num_workers=workers, pin_memory=device != "cpu"))
    waited = started = 0.0
    for step in range(steps + WARM_UP):
        if step == WARM_UP:
            waited, started = 0.0, time.perf_counter()
        asked = time.perf_counter()
        images, masks = (one.to(device, non_blocking=True) for one in next(batches))
        waited += time.perf_counter() - asked
        logits = model(images)
        share = logits.softmax(dim=1)[:, 1]
        overlap = (2 * (share * masks).sum() + 1) / (share.sum() + masks.sum() + 1)
        loss = functional.cross_entropy(logits, masks) + 1 - overlap
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()
    seconds = time.perf_counter() - started
    return {"rate": BATCH * steps / seconds, "waited": waited / seconds}


if __name__ == "__main__":
    main()
