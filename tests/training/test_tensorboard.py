"""What TensorBoard would show; with the library where it is installed, else with a stand-in for its writer."""

import errno
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from segkit.errors import ResourceError, UsageError
from segkit.training.tensorboard import TensorBoardLog

ROW = {"epoch": 3, "step": 30, "train_loss": 0.5, "val_loss": 0.6, "val_dice": 0.9, "val_dice/a": None, "seconds": 2.0}


class Writer:
    """Keeps what is written; `fault` is raised by the next flush."""

    made: ClassVar[list["Writer"]] = []
    fault: OSError | None = None

    def __init__(self, folder: str, **options: Any) -> None:
        self.folder, self.options, self.closed, self.flushed = folder, options, False, 0
        self.scalars: list[tuple[str, float, int]] = []
        self.images: list[tuple[str, Any, int]] = []
        Writer.made.append(self)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars.append((tag, value, step))

    def add_image(self, tag: str, pixels: Any, step: int, *, dataformats: str) -> None:
        assert dataformats == "HWC"
        self.images.append((tag, pixels, step))

    def flush(self) -> None:
        if self.fault is not None:
            raise self.fault
        self.flushed += 1

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> type[Writer]:
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(Writer, "made", [])
    monkeypatch.setattr(Writer, "fault", None)
    return Writer


def test_rows_become_scalars_and_are_flushed(writer: type[Writer], tmp_path: Path) -> None:
    with TensorBoardLog(tmp_path / "tb") as log:
        log.row(ROW)
        assert writer.made[0].flushed == 1
    (made,) = writer.made
    assert made.scalars == [("loss/train", 0.5, 3), ("loss/val", 0.6, 3), ("val_dice", 0.9, 3), ("seconds", 2.0, 3)]
    assert made.closed
    assert made.folder == str(tmp_path / "tb")


def test_a_resumed_training_hides_what_it_does_again(writer: type[Writer], tmp_path: Path) -> None:
    for first_epoch in (1, 4):
        TensorBoardLog(tmp_path, first_epoch=first_epoch)
    assert [made.options["purge_step"] for made in writer.made] == [None, 4]


def test_pictures_are_written_as_they_are(writer: type[Writer], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    with TensorBoardLog(tmp_path) as log:
        log.picture("curves", tmp_path / "p.png", 7)
    tag, drawn, step = writer.made[0].images[0]
    assert (tag, step) == ("curves", 7)
    np.testing.assert_array_equal(drawn, pixels)


def test_a_full_disk_is_told_as_everywhere(
    writer: type[Writer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with TensorBoardLog(tmp_path) as log:
        monkeypatch.setattr(writer, "fault", OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(ResourceError, match="the disk is full"):
            log.row(ROW)


def test_without_the_library_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # its import fails
    with pytest.raises(UsageError, match=r"TensorBoard is not installed.*pip install 'segkit\[tensorboard\]'"):
        TensorBoardLog(tmp_path / "tb")
    assert not (tmp_path / "tb").exists()


def test_what_the_library_writes_it_can_read(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for epochs in (range(1, 6), range(4, 5)):
        with TensorBoardLog(tmp_path, first_epoch=epochs[0]) as log:
            for epoch in epochs:
                log.row({**ROW, "epoch": epoch, "train_loss": 10.0 * epochs[0] + epoch})
    events = reader.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("loss/train")] == [(1, 11), (2, 12), (3, 13), (4, 44)]
