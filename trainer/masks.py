"""Where in a test clip's frames the anomalies are: ground truth a pixel."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from deploy.errors import BadFrame
from trainer.errors import BadLabels
from trainer.footage import pictures_in
from trainer.pictures import read_mask


class Masks(Protocol):
    """The masks of one clip, one a frame of its source."""

    def __len__(self) -> int: ...

    def __getitem__(self, frame: int) -> NDArray[np.bool_]:
        """The mask of the frame at this place, bool (H, W) in the picture's own size, True = anomalous.

        Raises:
            BadLabels: it cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class PictureMasks:
    """Masks as pictures (PNG, BMP), one a frame, read when asked for; every value but 0 is anomalous."""

    pictures: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, frame: int) -> NDArray[np.bool_]:
        path = self.pictures[frame]
        try:
            return read_mask(path)
        except (OSError, BadFrame) as error:
            raise BadLabels(f"{path}: {error}; a mask is a picture of its frame's size, 0 where nothing is anomalous") from error


def picture_masks(folder: Path) -> PictureMasks | None:
    """The masks in ``folder``, in natural order of their names; None where there are none."""
    found = pictures_in(folder) if folder.is_dir() else []
    return PictureMasks(tuple(found)) if found else None
