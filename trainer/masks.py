"""Where in a test clip's frames the anomalies are: ground truth a pixel."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Masks(Protocol):
    """The masks of one clip, one a frame of its source."""

    def __len__(self) -> int: ...

    def __getitem__(self, frame: int) -> NDArray[np.bool_]:
        """The mask of the frame at this place, bool (H, W) in the picture's own size, True = anomalous.

        Raises:
            BadLabels: it cannot be read.
        """
        ...
