"""A frame in the memory of a GPU: what a decoder there hands to an engine there, with no copy on the host between them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class DeviceFrame:
    """A fitted frame on a device. It is complete, so that any stream may read it, and nobody writes to it any more."""

    pixels: Any
    """``torch.uint8`` (H, W, C), in memory of its own: it keeps no other frame alive."""

    def on_host(self) -> NDArray[np.uint8]:
        """uint8 (H, W, C), copied now. Raises whatever PyTorch raises where the device is lost."""
        copy: NDArray[np.uint8] = self.pixels.cpu().numpy()
        return copy
