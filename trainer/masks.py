"""Where in a test clip's frames the anomalies are: ground truth a pixel."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from deploy.errors import BadFrame
from deploy.frames import picture_size
from trainer.errors import BadLabels
from trainer.footage import natural_key


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
    """Masks as PNG pictures, one a frame, read when asked for; every value but 0 is anomalous."""

    pictures: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, frame: int) -> NDArray[np.bool_]:
        path = self.pictures[frame]
        try:
            encoded = path.read_bytes()
            picture_size(encoded)  # refuses what no decoder should meet
        except (OSError, BadFrame) as error:
            raise BadLabels(f"{path}: {error}; a mask is a PNG of its frame's size, 0 where nothing is anomalous") from error
        picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE)
        if picture is None:
            raise BadLabels(f"{path}: the mask does not decode: truncated or damaged; copy it again")
        return np.asarray(picture) > 0


def picture_masks(folder: Path) -> PictureMasks | None:
    """The PNG masks in ``folder``, in natural order of their names; None where there are none."""
    if not folder.is_dir():
        return None
    found = [entry for entry in folder.iterdir() if entry.suffix.lower() == ".png" and not entry.name.startswith(".")]
    return PictureMasks(tuple(sorted(found, key=lambda entry: natural_key(entry.name)))) if found else None
