"""Every kind of training by two processes: it ends, both say the same, and the scores are those of the model."""

import json
from pathlib import Path
from typing import Any

import pytest

from segkit.config import DataConfig, EvaluateConfig, TrainConfig, build_config, write_yaml
from segkit.models.model_file import load_model
from segkit.training.checkpoint import load_newest
from segkit.workflows.evaluate import evaluate
from segkit.workflows.train import train
from tests.ranks import Ranks
from tests.tiny import tiny_config, tiny_point_config
from tests.workflows.label_data import make_label_data
from tests.workflows.rank_trainings import train_run, train_two_folds


def by_two(config: TrainConfig, folder: Path) -> tuple[Path, list[dict[str, Any]]]:
    path = folder / "config.yaml"
    path.write_text(write_yaml(config))
    ranks = Ranks(folder / "ranks", train_run, path, folder / "run")
    results = ranks.results()
    assert results[0] == results[1]
    return folder / "run", results


KINDS: dict[str, tuple[str, ...]] = {
    "masks": ("average_best=2", "ema=0.5"),
    "thawing": ("model.deep_supervision=true", "model.depth=2", "transfer.freeze=encoder", "transfer.unfreeze_epoch=2"),
    "resnet18": ("model.encoder=resnet18", "compute.gradient_checkpointing=true", "compute.micro_batches=2"),
    "labels": ("loss.weight_map=true",),
    "patches": ("model.depth=2", "loss.name=focal"),
    "points": ("model.network=unet", "patches.size_px=32", "patches.batch=4", "augment.backend=device"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_what_is_measured(
    tiny_data: Path, tiny_point_data: Path, tmp_path: Path, kind: str
) -> None:
    data = {"patches": tiny_point_data, "points": tiny_point_data}.get(kind, tiny_data)
    if kind == "labels":
        data = make_label_data(tmp_path / "data")
    make_config = tiny_point_config if data == tiny_point_data else tiny_config
    config = make_config(data, "epochs=3", "steps_per_epoch=3", *KINDS[kind])
    run, results = by_two(config, tmp_path)
    state = load_newest(run / "checkpoints")[1]
    assert [row["epoch"] for row in state["history"]] == [1, 2, 3]
    record = json.loads((run / "run.json").read_text())
    assert record["model"]["sha256"] == load_model(run).sha256 == results[0]["sha256"]
    # The score is that of the model, all images measured by one process.
    if kind not in {"patches", "points"}:
        measured = measure(data, run, tmp_path / "measured")
        assert measured == pytest.approx(results[0]["score"], abs=1e-6)
    if kind != "masks":
        return
    # One process alone comes to about the same: batch norm sees other samples.
    alone = train(config, out=tmp_path / "alone")
    first = load_newest(alone.run / "checkpoints")[1]["history"][0]
    assert state["history"][0]["train_loss"] == pytest.approx(first["train_loss"], rel=0.1)


def measure(data: Path, run: Path, out: Path) -> float:
    assignments = ["bootstrap=20", "split=val", "dihedral=false", "compute.device=cpu", "compute.precision=float32"]
    evaluate(build_config(EvaluateConfig, assignments=assignments), data=DataConfig(dir=data), model=run, out=out)
    headline: float = json.loads((out / "metrics.json").read_text())["headline"]["value"]
    return headline


def test_two_processes_train_folds_in_one_folder(tiny_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(write_yaml(tiny_config(tiny_data, "epochs=1", "steps_per_epoch=2")))
    first, second = Ranks(tmp_path / "ranks", train_two_folds, path).results()
    assert first == second
    assert len({one["sha256"] for one in first}) == 2
    (folder,) = [path for path in (tmp_path / "ranks" / "runs").iterdir() if not path.is_symlink()]
    assert [one["run"] for one in first] == [f"runs/{folder.name}/fold-{number}" for number in (1, 2)]
    assert (folder / "folds.csv").exists()
    assert (folder / "models.json").exists()
