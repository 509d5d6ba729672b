"""The batch at which a training diverged, for looking at."""

from pathlib import Path

from safetensors.torch import load_file, save_file

from segkit import files
from segkit.training.samples import Batch


def save_batch(run: Path, step: int, batch: Batch) -> Path:
    """Write the batch of a step (counted from 0) into the run's folder, and return the file's path."""
    path = run / f"diverged_step_{step + 1}.safetensors"
    tensors = {"images": batch.images.cpu().contiguous(), "targets": batch.targets.cpu().contiguous()}
    with files.atomic_path(path) as temporary:
        save_file(tensors, temporary)
    return path


def load_batch(path: Path) -> Batch:
    """Return a batch that `save_batch` has written."""
    tensors = load_file(path)
    return Batch(tensors["images"], tensors["targets"])
