"""The dense forms of a patch CNN beside the naive scan of all windows: same weights, device, number format, threads.

    python benchmarks/sliding_window.py [--side 1024] [--forms dnn1 dnn2 modern] [--strides 1 2 4 8] [--threads 2]

*Naive* takes every window as a patch of its own, in batches (the faster of 64 and 256), channels last, batch norm
folded; at least 2,000 patches are timed. *Dense* runs the converted network over side x side windows, border included.
The two take turns, so that both see the same load of the machine; the medians are shown. The difference is the largest
one of the logits at windows that both have computed.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from segkit.memory import keep_freed_memory
from segkit.models.dense import DenseForm, DenseNetwork
from segkit.models.inference_form import inference_form
from segkit.models.patch_cnn import CIRESAN_PX, Form, PatchCNN, usual_base_channels, usual_depth

MODERN_PX = 64
TIMED_PATCHES = 2048
COMPARED = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1024, help="windows along each side of the image at stride 1")
    parser.add_argument("--forms", nargs="+", default=["dnn1", "dnn2", "modern"])
    parser.add_argument("--strides", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--methods", nargs="+", default=["atrous", "fragments"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device(given.device)
    print(f"{processor(device)}, {given.threads} threads, float32, torch {torch.__version__}, {given.side} px\n")
    print("| network | stride | naive windows/s | form | dense windows/s | MPix/s | times as fast | difference |")
    print("|---|---|---|---|---|---|---|---|")
    for form in given.forms:
        layers, patch_px = build(form, device)
        for stride in given.strides:
            for method in given.methods:
                print(row(form, layers, patch_px, stride, method, given.side, given.repeats, device), flush=True)


def build(form: Form, device: torch.device) -> tuple[nn.Sequential, int]:
    torch.manual_seed(0)
    patch_px = CIRESAN_PX if form in {"dnn1", "dnn2"} else MODERN_PX
    network = PatchCNN(
        in_channels=3,
        num_classes=2,
        form=form,
        patch_px=patch_px,
        base_channels=usual_base_channels(form),
        depth=usual_depth(form, patch_px),
    )
    layers = inference_form(network.layers, device, "float32")
    assert isinstance(layers, nn.Sequential)
    return layers, patch_px


@torch.inference_mode()
def row(
    form: Form,
    layers: nn.Sequential,
    patch_px: int,
    stride: int,
    method: DenseForm,
    side: int,
    repeats: int,
    device: torch.device,
) -> str:
    last = torch.channels_last
    image = torch.randn(1, 3, side + patch_px - 1, side + patch_px - 1, device=device).contiguous(memory_format=last)
    dense = DenseNetwork(layers, in_channels=3, patch_px=patch_px, stride=stride, form=method)
    dense = dense.to(memory_format=last)  # type: ignore[call-overload]
    batches = [
        image[..., :patch_px, :patch_px].expand(size, -1, -1, -1).contiguous(memory_format=last) for size in (64, 256)
    ]
    num_windows = (1 + (side - 1) // stride) ** 2
    logits = dense(image)
    naive_rates, dense_rates = [], []
    for _ in range(repeats):
        naive_rates.append(max(naive_rate(layers, patches, device) for patches in batches))
        dense_rates.append(num_windows / timed(lambda: dense(image), device))
    naive, found = statistics.median(naive_rates), statistics.median(dense_rates)
    times = statistics.median(d / n for d, n in zip(dense_rates, naive_rates, strict=True))
    difference = largest_difference(layers, image, logits, patch_px, stride)
    return (
        f"| {form} {patch_px} px | {stride} | {naive:,.0f} | {method} | {found:,.0f} | {found * stride**2 / 1e6:.2f} | "
        f"{times:,.0f} | {difference:.1g} |"
    )


def naive_rate(layers: nn.Sequential, patches: Tensor, device: torch.device) -> float:
    layers(patches)
    rounds = -(-TIMED_PATCHES // len(patches))
    return rounds * len(patches) / timed(lambda: [layers(patches) for _ in range(rounds)], device)


def timed(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def largest_difference(layers: nn.Sequential, image: Tensor, logits: Tensor, patch_px: int, stride: int) -> float:
    generator = torch.Generator().manual_seed(0)
    rows, columns = (torch.randint(size, (COMPARED,), generator=generator).tolist() for size in logits.shape[-2:])
    patches = torch.cat(
        [
            image[..., y * stride : y * stride + patch_px, x * stride : x * stride + patch_px]
            for y, x in zip(rows, columns, strict=True)
        ]
    ).contiguous(memory_format=torch.channels_last)
    naive = layers(patches).flatten(1)
    return float((naive - logits[0][:, rows, columns].T).abs().max())


def processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
