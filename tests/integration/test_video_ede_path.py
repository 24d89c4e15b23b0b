"""The default model from footage to bundle and evaluation, trained briefly in both stages."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from deploy.bundle import Bundle
from deploy.engine import EngineRequest
from deploy.registry import load_engine
from deploy.spec import ClipSpec
from tests.harness.street import HEIGHT_PX, VIDEO_EDE_FIT, WIDTH_PX, quiet, train
from trainer.data.clips import alternate_blocks, split_by_video
from trainer.data.datasets import training_sources
from trainer.data.footage import load_all_footage
from trainer.evaluate import evaluate
from trainer.evaluation.result import as_json
from trainer.evaluation.runner import score_clips
from trainer.export import check_engines
from trainer.models.base import ServingNetwork
from trainer.models.video_ede.model import WARMUP_FRAMES
from trainer.pseudo_anomalies.samples import FlowSamples, PseudoAnomalySamples

SHORT = VIDEO_EDE_FIT.model_copy(update={"max_steps": 6, "checkpoint_every_s": 0.0})


@pytest.fixture
def bundle(video_ede_bundle: Bundle) -> Bundle:
    return video_ede_bundle


@pytest.fixture(scope="module")
def little(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the six training clips, and the test clips: for training in a few steps."""
    root = tmp_path_factory.mktemp("little")
    shutil.copytree(data / "testing", root / "testing")
    for name in ("calm0", "calm1"):
        shutil.copytree(data / "training" / "frames" / name, root / "training" / "frames" / name)
    return root


@pytest.fixture(scope="module")
def undisturbed(little: Path, tmp_path_factory: pytest.TempPathFactory) -> ServingNetwork:
    return train(little, tmp_path_factory.mktemp("undisturbed"), SHORT)[0]


def test_default_model_takes_frame_and_state(bundle):
    assert bundle.model_id.startswith("video-ede-")
    assert bundle.spec == ClipSpec(
        length=1,
        height_px=HEIGHT_PX,
        width_px=WIDTH_PX,
        colour="gray",
        fps=10.0,
        state_shape=bundle.spec.state_shape,
        state_warmup_frames=WARMUP_FRAMES,
        profile_size=len(bundle.default_profile),
    )
    assert bundle.manifest.metrics["steps"] == 60
    assert not (bundle.path / ".checkpoint").exists()


def test_engines_agree_on_golden_clips(bundle):
    lines = list(check_engines(bundle))
    assert [line.split(":")[0] for line in lines] == ["engine openvino", "engine onnx", "engine torch"]
    assert all("agrees on" in line for line in lines)


def test_detects_speeding_objects(bundle, data):
    figures = as_json(evaluate(bundle.path, data, "onnx", quiet(), budget=1.0))
    assert figures["streaming"]["frame_auc"] > 0.85
    assert figures["frames"] == 180
    assert figures["events"]["true"] == 2


def test_calibrates_on_validation_footage(bundle, data):
    """The scores of the bundle on every second block of the validation footage."""
    split = split_by_video(load_all_footage(training_sources(data), bundle.spec), bundle.spec.length)
    rows = dict(score_clips(load_engine(bundle, EngineRequest("torch")), split.validation))
    assert all(np.isfinite(row).all() for row in rows.values())
    scores = np.concatenate([rows[block.name][block.index] for block in alternate_blocks(split.validation)[1]])
    assert bundle.calibration.observed_s == pytest.approx(len(scores) / 10) == pytest.approx(3.0)
    assert bundle.calibration.median == pytest.approx(np.median(scores), rel=1e-3, abs=1e-3)


def test_test_clips_change_nothing(undisturbed, little, tmp_path):
    """Unreadable test clips beside the training footage: the weights are the same, bit for bit."""
    shutil.copytree(little / "training", tmp_path / "data" / "training")
    garbage = tmp_path / "data" / "testing" / "frames" / "rush0"
    garbage.mkdir(parents=True)
    for number in range(9):
        (garbage / f"{number}.jpg").write_bytes(b"no picture")
    alone, _ = train(tmp_path / "data", tmp_path / "out", SHORT)
    assert_same_weights(alone, undisturbed)


def assert_same_weights(one: ServingNetwork, other: ServingNetwork) -> None:
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize(
    ("samples", "drawn"),
    [(FlowSamples, 3), (PseudoAnomalySamples, 2), (PseudoAnomalySamples, 5)],
    ids=["during flow stage", "between stages", "during anomaly stage"],
)
def test_resumed_run_gives_same_weights(little, undisturbed, tmp_path, monkeypatch, samples, drawn):
    """Each stage draws twice before its first step: validation samples and training samples to compare."""
    real_draw, calls = samples.draw, []

    def interrupted_draw(self, numbers):
        calls.append(1)
        if len(calls) > drawn:
            raise KeyboardInterrupt
        return real_draw(self, numbers)

    monkeypatch.setattr(samples, "draw", interrupted_draw)
    with pytest.raises(KeyboardInterrupt):
        train(little, tmp_path, SHORT)
    monkeypatch.setattr(samples, "draw", real_draw)
    screen = quiet()
    resumed, metrics = train(little, tmp_path, SHORT, screen)
    assert "resumed at step" in screen.file.getvalue()
    assert metrics["steps"] == 6
    assert_same_weights(resumed, undisturbed)


def test_logs_both_stages_to_tensorboard(bundle):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for stage, losses, steps in (("flow", {"flow"}, 20), ("anomaly", {"anomaly", "latent_distance", "scene"}, 40)):
        log = EventAccumulator(str(bundle.path / "log" / stage))
        log.Reload()
        assert {f"loss/{name}" for name in (*losses, "validation")} == set(log.Tags()["scalars"])
        assert [scalar.step for scalar in log.Scalars(f"loss/{min(losses)}")] == list(range(10, steps + 1, 10))
        assert log.Images("input above reconstruction")[0].width > WIDTH_PX // 2
