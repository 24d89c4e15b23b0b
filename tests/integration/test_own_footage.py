"""One's own ordinary video to a bundle, and what the model makes of the last tenth, in which something hurries."""

import json
from io import StringIO
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from rich.console import Console

from deploy.bundle import Bundle, read_bundle
from tests.harness.calibration import limits_of
from tests.harness.street import made_without_graph
from trainer import fit as training
from trainer.fit import FitConfig
from trainer.holdout import VERDICTS
from trainer.training.distributed import DistributedContext

HEIGHT_PX, WIDTH_PX, BLOB_PX, FPS = 64, 96, 16, 10
FRAMES, RUSH = 800, range(750, 775)
FIT = FitConfig(
    model="video-ganomaly", max_steps=150, max_minutes=10, batch_clips=8, network={"width": 8, "length": 4, "latent_channels": 8}
)


def write_street(path: Path, speeds_px: np.ndarray, height_px: int = HEIGHT_PX) -> Path:
    """A textured blob that crosses a textured street again and again, at these speeds."""
    rng = np.random.default_rng(5)
    road, blob = rng.normal(110, 6, (height_px, WIDTH_PX)), np.kron(rng.uniform(30, 220, (8, 8)), np.ones((2, 2)))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, height_px, "gray"
        for left in np.cumsum(speeds_px) % (WIDTH_PX - BLOB_PX - 1):
            frame, part = road.copy(), left % 1
            frame[20 : 20 + BLOB_PX, int(left) : int(left) + BLOB_PX + 1] = (
                np.pad(blob, ((0, 0), (0, 1))) * (1 - part) + np.pad(blob, ((0, 0), (1, 0))) * part
            )
            picture = av.VideoFrame.from_ndarray(frame.clip(0, 255).astype(np.uint8), format="gray")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    speeds = np.ones(FRAMES)
    speeds[RUSH] = 3.0
    return write_street(tmp_path_factory.mktemp("own") / "gate.mkv", speeds)


@pytest.fixture(scope="module")
def fitted(video: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, str]:
    screen = Console(file=StringIO(), width=400)
    with made_without_graph():
        return training.fit(video, tmp_path_factory.mktemp("bundle"), FIT, screen), screen.file.getvalue()


def test_last_tenth_is_set_aside(video, tmp_path):
    run = training.prepare(video, tmp_path, FIT, DistributedContext(), Console(file=StringIO()))
    (learned,), (held_out,), (last,) = run.split.train, run.split.validation, run.split.holdout
    assert [part.index[[0, -1]].tolist() for part in (learned, held_out, last)] == [[0, 575], [576, 719], [720, 799]]


def test_fast_object_is_most_unusual(fitted):
    bundle, _ = fitted
    report = json.loads((bundle.path / "unusual.json").read_text())
    strangest = report["moments"][0]
    assert strangest["clip"] == "gate"
    assert strangest["peak_frame"] in range(RUSH.start, RUSH.stop + 4)
    assert strangest["peak_s"] == strangest["peak_frame"] / FPS
    assert all(moment["first_frame"] >= 720 for moment in report["moments"])
    assert (report["model_id"], report["threshold"]) == (bundle.model_id, limits_of(bundle.calibration).enter)


def test_moments_have_pictures(fitted):
    bundle, _ = fitted
    report = json.loads((bundle.path / "unusual.json").read_text())
    pictures = [cv2.imread(str(bundle.path / moment["picture"])) for moment in report["moments"]]
    assert {picture.shape for picture in pictures} == {(HEIGHT_PX * 6, WIDTH_PX * 6, 3)}
    assert {path.name for path in (bundle.path / "unusual").iterdir()} == {
        f"{number}.jpg" for number in range(1, len(pictures) + 1)
    }


def test_80_seconds_are_too_little(fitted):
    bundle, said = fitted
    enough = json.loads((bundle.path / "unusual.json").read_text())["enough"]
    assert enough["verdict"] == VERDICTS[2]
    assert enough["facts"]["calibration_s"] == bundle.calibration.observed_s == pytest.approx(7.0, abs=0.5)
    assert enough["facts"]["hours"] == pytest.approx(FRAMES / FPS / 3600)
    assert "the last 80 set aside" in said
    assert "was the footage enough? too little, because " in said
    assert "the threshold rests on 7 s" in said
    assert "1.3 minutes of footage" in said


def test_report_is_not_part_of_bundle(fitted):
    assert read_bundle(fitted[0].path).manifest.files.keys().isdisjoint({"unusual.json"})
