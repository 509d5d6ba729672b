"""What TensorBoard shows of a training: the rows of metrics.csv as scalars, and its pictures.

Event files are logs: they grow, as log.txt does, and a cut one is read up to the cut. Nothing else depends on them.
"""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from segkit.errors import UsageError
from segkit.files import prepare_folder, translated_os_errors

_NOT_SCALARS = frozenset({"epoch", "step"})
_KEEP_SECONDS = 3600  # everything is flushed after each row; the library's own timer need not


class TensorBoardLog:
    """Writes event files, which TensorBoard reads, into a folder; they grow while a training runs.

    Parameters
    ----------
    folder
        Is made if it is not there; a resumed training writes another file beside the first.
    first_epoch
        The first epoch that will be written, counted from 1: what an interrupted training wrote of it and later ones
        is hidden.

    Raises
    ------
    UsageError
        TensorBoard is not installed, or the folder cannot be written.
    ResourceError
        The disk is full.
    """

    def __init__(self, folder: Path, *, first_epoch: int = 1) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError(
                f"TensorBoard is not installed, and {folder} was to be written for it. Install it by "
                "pip install 'segkit[tensorboard]', or leave it out: metrics.csv and figures/ hold the same."
            ) from error
        self._folder = prepare_folder(folder)
        with translated_os_errors(folder):
            open_writer: Any = SummaryWriter  # typed only where TensorBoard is installed
            self._writer = open_writer(
                str(folder), purge_step=first_epoch if first_epoch > 1 else None, flush_secs=_KEEP_SECONDS
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def row(self, row: Mapping[str, float | None]) -> None:
        """Write an epoch's row of metrics.csv, on disk when this returns; None leaves a gap.

        Columns `train_loss` and `val_loss` become `loss/train` and `loss/val`, in one group; `val_dice/NAME` becomes
        `val_dice/NAME`; the others keep their name.
        """
        epoch = int(row["epoch"] or 0)
        with translated_os_errors(self._folder):
            for column, value in row.items():
                if column not in _NOT_SCALARS and value is not None:
                    self._writer.add_scalar(_tag_of(column), float(value), epoch)
            self._writer.flush()

    def picture(self, name: str, path: Path, epoch: int) -> None:
        """Write a picture of a run's figures/ as it is after `epoch`."""
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        with translated_os_errors(self._folder):
            self._writer.add_image(name, pixels, epoch, dataformats="HWC")
            self._writer.flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        with translated_os_errors(self._folder):
            self._writer.close()


def _tag_of(column: str) -> str:
    return f"loss/{column.removesuffix('_loss')}" if column.endswith("_loss") else column
