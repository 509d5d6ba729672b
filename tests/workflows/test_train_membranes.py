"""Learning membranes: the best epoch can be chosen by which cells are split or merged."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from segkit.errors import ConfigError
from segkit.evaluation.membrane_images import MembraneRules
from segkit.evaluation.membranes import thinned_scores
from segkit.inference.image_segmentation import segment_image
from segkit.inference.network import Predictor
from segkit.models.model_file import load_model
from segkit.training import validation
from segkit.workflows.folds import train_folds
from segkit.workflows.train import train
from tests.tiny import SPLITS, make_data, make_point_data, tiny_config, tiny_point_config
from tests.workflows.label_data import make_label_data

MEMBRANES = ("data.classes=[membrane, cell]", "best_by=v_rand")


def drawn_grid(gap: bool) -> NDArray[np.uint8]:
    """Return class indices of four cells between membranes, two of which are joined through a gap."""
    mask = np.ones((64, 64), np.uint8)
    mask[31:33] = mask[:, 31:33] = 0
    if gap:
        mask[10:13, 31:33] = 1
    return mask


def test_the_best_epoch_has_the_highest_v_rand_and_dice_stands_beside(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    result = train(tiny_config(data, *MEMBRANES, "average_best=3"), out=tmp_path / "run")
    with (result.run / "metrics.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    scores = [float(row["val_v_rand"]) for row in rows]
    assert all(0 < float(row["val_dice"]) <= 1 for row in rows)
    assert result.metric == "v_rand"
    assert scores[result.best_epoch - 1] == max(scores) <= result.score
    record = json.loads((result.run / "run.json").read_text())
    assert record["scores"] == {"v_rand": result.score, "v_rand/cell": result.score}
    assert load_model(result.run).spec.scores["v_rand"] == result.score
    # The same of what the model says, by the function that equals the challenge's script.
    model = load_model(result.run)
    predictor = Predictor([(model.unet, model.spec)], device=torch.device("cpu"), precision="float32", dihedral=False)
    values = []
    for number in (number for number, split in enumerate(SPLITS) if split == "val"):
        with Image.open(data / "images" / f"field{number}.png") as image:
            mask = segment_image(np.asarray(image), predictor)
        with Image.open(data / "masks" / f"field{number}.png") as truth:
            values.append(thinned_scores(mask != 0, np.asarray(truth) != 0).v_rand.score)
    assert result.score == pytest.approx(np.mean(np.array(values, np.float64)))


def test_a_gap_costs_more_than_its_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [validation.LabelledImage("grid", np.zeros((64, 64, 1), np.uint8), drawn_grid(gap=False))]

    predictor = cast(Predictor, SimpleNamespace(spec=SimpleNamespace(classes=("membrane", "cell"))))

    def score_of(mask: NDArray[np.uint8], membranes: MembraneRules | None = None) -> validation.PixelValidation:
        monkeypatch.setattr(validation, "segment_image", lambda _image, _predictor: mask)

        return validation.validate_pixels(images, predictor, membranes=membranes, on_image=lambda _done, _all: None)

    rules = MembraneRules(index=0)
    whole, torn = (score_of(drawn_grid(gap), membranes=rules) for gap in (False, True))
    assert whole.score == 1.0
    assert torn.score < 0.85
    assert torn.by_class == {"cell": torn.score}
    assert torn.beside["dice"] == score_of(drawn_grid(gap=True)).score > 0.99


def test_it_is_refused_where_there_are_no_membranes(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    with pytest.raises(ConfigError, match=r"best_by = v_rand: .* two classes, one of them called border.*background"):
        train(tiny_config(data, "best_by=v_rand"), out=tmp_path / "masks")
    points = make_point_data(tmp_path / "points")
    with pytest.raises(ConfigError, match="best_by = v_rand"):
        train(tiny_point_config(points, "best_by=v_rand"), out=tmp_path / "of-points")
    labels = make_label_data(tmp_path / "labels")
    with pytest.raises(ConfigError, match="best_by = v_rand"):
        train(tiny_config(labels, "best_by=v_rand"), out=tmp_path / "of-labels")


def test_folds_are_compared_by_it_too(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    result = train_folds(tiny_config(data, *MEMBRANES, "epochs=1", "steps_per_epoch=1"), 2, out=tmp_path / "folds")
    assert result.metric == "v_rand"
    assert (result.run / "folds.csv").read_text().startswith("fold,best_epoch,v_rand\n")
