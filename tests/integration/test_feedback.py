"""Training with annotations of operators, from their file to the bundle, in very few steps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from deploy.errors import ConfigError
from deploy.image import encode_jpeg
from tests.harness.street import quiet, train
from trainer import fit as training
from trainer.errors import BadFeedback, CheckpointUnusable
from trainer.fit import FitConfig
from trainer.training.callbacks import CHECKPOINT_FOLDER
from trainer.training.distributed import DistributedContext

HEIGHT_PX, WIDTH_PX = 64, 96
NETWORK = {"first": 4, "fine": 12, "coarse": 12, "width": 12, "latent": 4}
FIT = FitConfig(max_steps=3, max_minutes=10, batch_clips=4, network=NETWORK)
HEADER = "video,first_frame,last_frame,mark,x,y,width,height"


def write_walk(folder: Path, seed: int, frames: int = 60) -> None:
    """A person who walks along a street, back and forth."""
    road = np.random.default_rng(7).normal(110, 6, (HEIGHT_PX, WIDTH_PX)).astype(np.uint8)
    person = np.kron(np.random.default_rng(seed).integers(20, 235, (8, 6)), np.ones((2, 2))).astype(np.uint8)
    folder.mkdir(parents=True)
    for number in range(frames):
        frame, left = road.copy(), 4 + abs((number + 9 * seed) % 136 - 68)
        frame[20 + seed : 36 + seed, left : left + 12] = person
        (folder / f"{number}.jpg").write_bytes(encode_jpeg(frame, 95))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for seed in range(2):
        write_walk(tmp_path / "data" / "training" / f"day{seed}", seed)
    (tmp_path / "data" / "testing").mkdir()  # or the last tenth would be set aside
    write_walk(tmp_path / "marked" / "gate", 9)
    return tmp_path / "data"


def with_feedback(tmp_path: Path, *lines: str) -> FitConfig:
    path = tmp_path / "marked" / "marks.csv"
    path.write_text("\n".join([HEADER, *lines]))
    return FIT.model_copy(update={"feedback": path})


def train_bias(data: Path, out: Path, config: FitConfig, screen: Console | None = None) -> tuple[float, dict[str, Any]]:
    """A weight of the anomaly net, and the metrics for the bundle."""
    network, metrics = train(data, out, config, screen)
    return network.judge.strange.bias.item(), metrics


def test_annotations_change_anomaly_net(data, tmp_path):
    lines = ["gate,5,20,anomaly,0,16,96,40", "gate,5,20,anomaly,0,16,96,40", "gate,5,20,normal,0,16,96,40"]
    biases = [train_bias(data, tmp_path / str(number), with_feedback(tmp_path, line))[0] for number, line in enumerate(lines)]
    plain, metrics = train_bias(data, tmp_path / "plain", FIT)
    assert biases[0] == biases[1]
    assert len({*biases, plain}) == 3
    assert metrics["feedback"] is None


def test_feedback_in_output_and_bundle(data, tmp_path):
    screen = quiet()
    marks = with_feedback(tmp_path, "gate,5,20,anomaly,0,16,96,40", "gate,30,35,normal,,,,")
    feedback = train_bias(data, tmp_path / "out", marks, screen)[1]["feedback"]
    assert (feedback["anomaly"], feedback["normal"], len(feedback["sha256"])) == (1, 1, 64)
    assert "1 stretches of 16 frames marked anomaly, 1 stretches of 6 frames marked normal" in screen.file.getvalue()


def test_fit_tells_how_marked_events_score_and_the_next_fit_how_they_did_before(data, tmp_path, no_graph):
    config = with_feedback(tmp_path, "gate,5,20,anomaly,0,16,96,40", "gate,30,35,normal,,,,")
    screen, out = quiet(), tmp_path / "out"
    assert training.marks_before(training.prepare(data, out, config, DistributedContext(), quiet())) is None
    bundle = training.fit(data, out, config, screen)
    before = training.marks_before(training.prepare(data, out, config, DistributedContext(), quiet()))
    assert before.calibration == bundle.calibration
    said = screen.file.getvalue()
    for name, score in zip(("frames 5 to 20", "frames 30 to 35"), before.scores, strict=True):
        row = next(line for line in said.splitlines() if f"gate, {name}" in line)
        assert f" -       {score.peak:.3g} / {score.enter:.3g}" in row
    assert "thresholds: enter" in said


def test_rejects_checkpoint_of_other_feedback(data, tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    def killed(*_: object) -> None:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(training, "make_bundle", killed)
        config = with_feedback(tmp_path, "gate,5,20,anomaly,,,,").model_copy(update={"checkpoint_every_s": 0})
        with pytest.raises(Stopped):
            training.fit(data, tmp_path / "out", config, quiet())
    assert (tmp_path / "out" / CHECKPOINT_FOLDER).is_dir()
    with pytest.raises(CheckpointUnusable, match="was made with feedback = "):
        training.fit(data, tmp_path / "out", with_feedback(tmp_path, "gate,5,20,normal,,,,"), quiet())


def test_rejects_model_without_feedback(data, tmp_path):
    config = with_feedback(tmp_path, "gate,5,20,anomaly,,,,").model_copy(update={"model": "video-ganomaly", "network": {}})
    with pytest.raises(ConfigError, match="--feedback is for --model video-ede; video-ganomaly learns from normal footage alone"):
        training.prepare(data, tmp_path / "out", config, DistributedContext(), quiet())


def test_rejects_annotations_before_training(data, tmp_path):
    with pytest.raises(BadFeedback, match=r"marks\.csv: line 2: 'gate' has frames 0 to 59, the interval ends at 60"):
        training.prepare(data, tmp_path / "out", with_feedback(tmp_path, "gate,5,60,anomaly,,,,"), DistributedContext(), quiet())
