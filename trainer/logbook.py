"""What a run writes down for TensorBoard: losses, learning, and pictures of what the model makes of held-out footage."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

FOLDER_NAME = "log"
PICTURES = 8


class Logbook:
    """Event files in a folder; ``tensorboard --logdir`` shows them."""

    def __init__(self, folder: Path, step: int) -> None:
        # Imported here: it takes a second, and nobody but a training run needs it.
        from torch.utils.tensorboard import SummaryWriter

        # What a killed run wrote after its last checkpoint is written again.
        self._writer = SummaryWriter(str(folder), purge_step=step)

    def losses(self, step: int, losses: Mapping[str, float]) -> None:
        """Write down the loss terms of a step."""
        for name, value in losses.items():
            self._writer.add_scalar(f"loss/{name}", value, step)

    def validation(self, step: int, loss: float) -> None:
        """Write down the loss of held-out normal samples."""
        self._writer.add_scalar("loss/validation", loss, step)

    def pictures(self, step: int, seen: Tensor, made: Tensor) -> None:
        """Write down pictures (N, C, h, w) in [-1, 1] above what the model made of them, a column for each channel of each."""
        rows = [torch.cat(list(part[:PICTURES].clamp(-1, 1).flatten(0, 1)), dim=1) for part in (seen, made)]
        self._writer.add_image("seen above made", (torch.cat(rows)[None] + 1) / 2, step)

    def close(self) -> None:
        """Write out everything."""
        self._writer.close()
