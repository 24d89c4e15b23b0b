"""A synthetic data set for tests of training: a blob crosses a street, and speeds up half-way in two of the test clips."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from deploy.engine import EngineRequest
from deploy.image import encode_jpeg
from deploy.registry import load_engine
from trainer import fit as training
from trainer.fit import FitConfig
from trainer.models.base import ServingNetwork
from trainer.training.distributed import DistributedContext

HEIGHT_PX, WIDTH_PX, BLOB_PX = 64, 96, 16
SLOW_PX, FAST_PX = 1.0, 2.5
VIDEO_EDE_FIT = FitConfig(
    max_steps=60,
    max_minutes=10,
    batch_clips=8,
    validate_every_steps=10,
    network={"first": 4, "fine": 16, "coarse": 16, "width": 18, "latent": 4},
)
"""A narrow default model, trained briefly in both stages."""


def street(frames_n: int, speed_px: NDArray[np.float64], seed: int) -> NDArray[np.uint8]:
    """uint8 (frames_n, 64, 96): a textured blob that crosses a textured street again and again."""
    rng = np.random.default_rng(seed)
    road = np.random.default_rng(7).normal(110, 6, (HEIGHT_PX, WIDTH_PX))
    blob = np.kron(rng.uniform(30, 220, (8, 8)), np.ones((2, 2)))
    top, lefts = int(rng.integers(8, HEIGHT_PX - BLOB_PX - 8)), np.cumsum(speed_px) + rng.uniform(0, WIDTH_PX)
    return np.stack([_with_blob(road, blob, top, left % (WIDTH_PX - BLOB_PX - 1)) for left in lefts[:frames_n]])


def write(folder: Path, frames: NDArray[np.uint8]) -> None:
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        (folder / f"{number:03d}.jpg").write_bytes(encode_jpeg(frame, 95))


def write_data_set(root: Path) -> None:
    """Six calm training clips; two test clips in which the blob speeds up half-way, and one calm one."""
    for number in range(6):
        write(root / "training" / "frames" / f"calm{number}", street(60, np.full(60, SLOW_PX), number))
    speed_px = np.r_[np.full(30, SLOW_PX), np.full(30, FAST_PX)]
    for number in range(2):
        write(root / "testing" / "frames" / f"rush{number}", street(60, speed_px, 50 + number))
    write(root / "testing" / "frames" / "calm", street(60, np.full(60, SLOW_PX), 60))
    rush = (speed_px > SLOW_PX).astype(np.uint8)
    np.savez(root / "frame_labels.npz", rush0=rush, rush1=rush, calm=np.zeros(60, np.uint8))


def quiet() -> Console:
    return Console(file=StringIO(), width=200)


def train(data: Path, out: Path, config: FitConfig, screen: Console | None = None) -> tuple[ServingNetwork, dict[str, Any]]:
    """``fit`` without making the bundle."""
    screen = screen or quiet()
    context = DistributedContext(config.precision)
    return training.train(training.prepare(data, out, config, context, screen), context, screen)


@contextmanager
def made_without_graph() -> Iterator[None]:
    """For bundles of which only the weights are wanted: half the time of a fit goes into the graph, which follows from them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.export.export_onnx", lambda *_: b"")
        patch.setattr("trainer.export._CALIBRATING", EngineRequest("torch"))
        for module in ("trainer.holdout", "trainer.marks"):
            patch.setattr(f"{module}.load_engine", lambda bundle, _: load_engine(bundle, EngineRequest("torch")))
        yield


def _with_blob(road: NDArray[np.float64], blob: NDArray[np.float64], top: int, left: float) -> NDArray[np.uint8]:
    whole, part = int(left), left % 1
    frame = road.copy()
    frame[top : top + BLOB_PX, whole : whole + BLOB_PX + 1] = np.pad(blob, ((0, 0), (0, 1))) * (1 - part)
    frame[top : top + BLOB_PX, whole : whole + BLOB_PX + 1] += np.pad(blob, ((0, 0), (1, 0))) * part
    return frame.clip(0, 255).astype(np.uint8)
