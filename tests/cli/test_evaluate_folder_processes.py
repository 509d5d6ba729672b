"""`segkit evaluate` as a process: what it refuses to leave out, and what it refuses to write over."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.processes import Running, Start, in_words, message_of, run, with_full_disk
from tests.tiny import save_png

PREDICTED = ("a", "b")


@pytest.fixture
def masks(tmp_path: Path) -> list[str]:
    """A data folder of three test images, one of them for training, and predictions of two; the command's arguments."""
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 5:20] = 1
    for name in ("a", "b", "c", "d"):
        save_png(tmp_path / "data" / "images" / f"{name}.png", np.zeros((20, 30, 3), np.uint8))
        save_png(tmp_path / "data" / "masks" / f"{name}.png", mask)
    for name in PREDICTED:
        save_png(tmp_path / "found" / f"{name}.png", mask.T.reshape(mask.shape))
    (tmp_path / "data" / "splits.csv").write_text("image,split\na,test\nb,train\nc,test\nd,test\n")
    return ["evaluate", "--pred", "found", "--truth", "data", "--out", "out", "--set", "bootstrap=20"]


def test_missing_predictions_are_refused_or_said_everywhere(start: Start, tmp_path: Path, masks: list[str]) -> None:
    ended = run(start, *masks, "--split", "test")
    assert ended.code == 3
    assert "2 of 3 images of the split `test` in data have no masks" in message_of(ended)
    assert message_of(ended).endswith("--set allow_missing=true, which the results will say:\n  - c\n  - d")
    ended = run(start, *masks, "--split", "test", "--set", "allow_missing=true", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["left_out"] == ["c", "d"]
    assert "2 of 3 images have no prediction and are left out of all numbers" in ended.err


def test_an_interrupted_training_is_not_written_over(start: Start, tmp_path: Path, masks: list[str]) -> None:
    (tmp_path / "out" / "checkpoints" / "step").mkdir(parents=True)
    (tmp_path / "out" / "metrics.csv").write_text("epoch,val_dice\n1,0.5\n")
    before = in_words(tmp_path / "out")
    ended = run(start, *masks, "--set", "allow_missing=true")
    assert ended.code == 2
    assert "out: is the folder of a training (checkpoints), maybe one that was interrupted" in message_of(ended)
    assert in_words(tmp_path / "out") == before


def test_what_a_full_disk_left_is_replaced(start: Start, tmp_path: Path, masks: list[str]) -> None:
    masks += ["--set", "allow_missing=true"]
    ended = Running(tmp_path, with_full_disk, "20000", *masks).wait()
    assert ended.code == 4
    assert (tmp_path / "out" / "metrics.csv").exists()  # it came so far, but not to the page
    assert not (tmp_path / "out" / "run.json").exists()
    ended = run(start, *masks)
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "out" / "run.json").read_text())["complete"] is True
