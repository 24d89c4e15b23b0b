import json
from pathlib import Path

import av
import numpy as np
import pytest

DEMO_DATA = Path(__file__).parents[4] / "streamer/demo/data"
LABELS = dict(np.load(DEMO_DATA / "frame_labels.npz"))
GROUND_TRUTH = json.loads((DEMO_DATA / "stretches.json").read_text("utf-8"))
NORMAL_S = 5.0


def test_every_video_has_labels() -> None:
    assert LABELS.keys() == {path.stem for path in (DEMO_DATA / "testing/videos").iterdir()}


@pytest.mark.parametrize("camera_id", LABELS)
def test_every_frame_has_a_label(camera_id: str) -> None:
    labels = LABELS[camera_id]
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {0, 1}
    assert len(labels) == len(read_gray(DEMO_DATA / f"testing/videos/{camera_id}.mp4"))


def test_labels_equal_the_ground_truth() -> None:
    described = {camera_id: np.zeros_like(labels) for camera_id, labels in LABELS.items()}
    for stretch in GROUND_TRUTH["stretches"]:
        first, end = (round(stretch[key] * GROUND_TRUTH["fps"]) for key in ("start_s", "end_s"))
        described[stretch["camera_id"]][first:end] = 1
    assert all(np.array_equal(described[camera_id], labels) for camera_id, labels in LABELS.items())


def test_anomalies_start_after_normal_footage() -> None:
    stretches = GROUND_TRUTH["stretches"]
    assert min(stretch["start_s"] for stretch in stretches) >= NORMAL_S
    assert LABELS.keys() - {stretch["camera_id"] for stretch in stretches} == {"yard"}


def test_only_the_covered_lens_is_dark() -> None:
    labels = LABELS["path"].astype(bool)
    brightness = read_gray(DEMO_DATA / "testing/videos/path.mp4").mean(axis=(1, 2))
    assert brightness[~labels].min() > 80
    assert np.median(brightness[labels]) < 25


def test_footage_stays_small() -> None:
    videos = sum(path.stat().st_size for path in DEMO_DATA.rglob("*.mp4"))
    assert videos < 3_000_000


def read_gray(path: Path) -> np.ndarray:
    """uint8 (n, H, W)."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])
