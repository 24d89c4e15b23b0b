"""From footage to bundle and evaluation, with a network that is trained briefly on generated footage."""

import json
import shutil
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from deploy.bundle import Bundle, read_bundle, read_golden
from deploy.engine import EngineRequest
from deploy.files import lock_file
from deploy.registry import load_engine
from deploy.spec import ClipSpec
from tests.harness.street import HEIGHT_PX, SLOW_PX, WIDTH_PX, quiet, street, train, write
from trainer import fit as training
from trainer.calibrate import calibrate
from trainer.cli import main
from trainer.data.clips import ClipDataset, alternate_blocks, split_by_video
from trainer.data.datasets import training_sources
from trainer.data.footage import load_all_footage
from trainer.errors import CheckpointUnusable, OutputRefused, TooLittleFootage
from trainer.evaluate import evaluate
from trainer.evaluation.metrics import frame_auc
from trainer.evaluation.result import as_json
from trainer.evaluation.runner import score_clips
from trainer.export import check_engines
from trainer.fit import FitConfig
from trainer.training.distributed import DistributedContext
from trainer.training.loop import TensorSamples

NETWORK = {"width": 8, "length": 4, "latent_channels": 8}
FIT = FitConfig(model="video-ganomaly", max_steps=150, max_minutes=10, batch_clips=8, network=NETWORK)


@pytest.fixture(scope="module")
def bundle(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return training.fit(data, tmp_path_factory.mktemp("bundle"), FIT, quiet())


@pytest.fixture(scope="module")
def figures(bundle: Bundle, data: Path) -> dict:
    return as_json(evaluate(bundle.path, data, "onnx", quiet(), budget=1.0))


def test_fit_writes_bundle_without_checkpoint(bundle):
    assert read_bundle(bundle.path).model_id.startswith("video-ganomaly-")
    assert bundle.spec == ClipSpec(length=4, height_px=HEIGHT_PX, width_px=WIDTH_PX, colour="gray", fps=10.0)
    assert bundle.manifest.metrics["steps"] == 150
    assert not (bundle.path / ".checkpoint").exists()


def test_engines_agree_with_network(bundle):
    lines = list(check_engines(bundle))
    assert [line.split(":")[0] for line in lines] == ["engine openvino", "engine onnx", "engine torch"]
    assert all("agrees on 8 clips" in line for line in lines)


def test_golden_clips_are_held_out(bundle, data):
    split = split_by_video(load_all_footage(training_sources(data), bundle.spec), bundle.spec.length)
    dataset = ClipDataset(split.validation, bundle.spec.length)
    held_out = {clip.tobytes() for clips in dataset.batches(16) for clip in clips}
    assert all(clip.tobytes() in held_out for clip in read_golden(bundle).clips)


def test_calibrates_on_held_out_footage(bundle, data):
    """Every second block, scored again from the bundle; the test split is no part of it."""
    split = split_by_video(load_all_footage(training_sources(data), bundle.spec), bundle.spec.length)
    rows = dict(score_clips(load_engine(bundle, EngineRequest("torch")), split.validation))
    scores = np.concatenate([rows[block.name][block.index] for block in alternate_blocks(split.validation)[1]])
    assert bundle.calibration.observed_s == pytest.approx(np.isfinite(scores).sum() / 10)
    assert bundle.calibration.median == pytest.approx(np.nanmedian(scores), rel=1e-4)


def test_test_clips_do_not_affect_training(data, tmp_path, no_graph):
    """Neither weights and stopping nor scale and thresholds: training footage alone gives the same bundle, bit for bit."""
    config = FIT.model_copy(update={"max_steps": 12, "validate_every_steps": 2})
    shutil.copytree(data / "training", tmp_path / "alone" / "training")
    (tmp_path / "alone" / "testing").mkdir()  # or the last tenth would be set aside
    with_test, alone = (training.fit(path, tmp_path / path.name / "out", config, quiet()) for path in (data, tmp_path / "alone"))
    assert with_test.model_id == alone.model_id
    assert with_test.calibration == alone.calibration
    assert with_test.manifest.metrics["validation_step"] == alone.manifest.metrics["validation_step"] > 0


def test_faster_blob_scores_higher(figures):
    assert figures["streaming"]["frame_auc"] > 0.9
    assert set(figures["streaming"]["clip_auc"]) == {"rush0", "rush1"}


def test_without_motion_input_it_does_not(data, tmp_path, no_graph):
    still = FIT.model_copy(update={"max_steps": 60, "network": {**NETWORK, "motion": False}})
    blind = training.fit(data, tmp_path, still, quiet())
    assert evaluate(blind.path, data, "torch", quiet(), budget=1.0).model.streaming.frame_auc < 0.75


def test_rushes_are_true_events(figures):
    assert figures["events"]["true"] == 2
    assert figures["events"]["false_per_camera_hour"] == pytest.approx(figures["events"]["false"] / (180 / 10 / 3600), abs=0.01)


def test_scores_from_first_full_clip(bundle, data):
    clips = load_all_footage(training_sources(data)[:1], bundle.spec)
    scores = dict(score_clips(load_engine(bundle, EngineRequest("onnx")), clips))["calm0"]
    assert scores.shape == (60,)
    assert np.flatnonzero(np.isnan(scores)).tolist() == [0, 1, 2]
    assert frame_auc({"calm0": scores}, {"calm0": np.zeros(60, np.uint8)}, 0.0) is None


def test_evaluate_json_and_report(bundle, data, tmp_path, monkeypatch, capfd):
    options = ["--bundle", bundle.path, "--data", data, "--report", tmp_path / "report"]
    monkeypatch.setattr(sys, "argv", ["oddsight-train", "evaluate", "--json", *map(str, options)])
    with pytest.raises(SystemExit, match="0"):
        main()
    result = json.loads(capfd.readouterr().out)
    assert bundle.model_id in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert {"streaming", "literature", "baselines", "events", "frames", "clips", "model_id", "engine"} <= set(result)
    assert {"frame_auc", "mean_clip_auc"} <= set(result["streaming"])
    assert 0.5 < result["baselines"]["flow_magnitude"]["streaming"]["frame_auc"] <= 1
    assert {"true", "found", "false", "false_per_camera_hour", "median_delay_s"} <= set(result["events"])
    assert result["baselines"]["steady_speed"]["streaming"]["pixel_auc"] is None  # there are no masks
    assert (result["frames"], result["clips"], result["model_id"]) == (180, 3, bundle.model_id)


def test_rejects_short_footage_before_training(tmp_path):
    write(tmp_path / "short", street(120, np.full(120, SLOW_PX), 1))
    with pytest.raises(TooLittleFootage, match="9 normal frames can be scored"):
        training.prepare(tmp_path / "short", tmp_path / "out", FIT, DistributedContext(), quiet())


def test_mistake_prints_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["oddsight-train", "fit", "--data", f"{tmp_path}/no", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="1"):
        main()
    assert capsys.readouterr().err.startswith("error: ")


def test_resumed_run_has_same_weights(data, tmp_path, monkeypatch):
    config = FIT.model_copy(update={"max_steps": 6, "checkpoint_every_s": 0.0})
    uninterrupted = train(data, tmp_path / "a", config)
    real_draw, calls = TensorSamples.draw, []

    def interrupted_draw(samples, numbers):
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return real_draw(samples, numbers)

    monkeypatch.setattr(TensorSamples, "draw", interrupted_draw)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "b", config)
    monkeypatch.setattr(TensorSamples, "draw", real_draw)
    screen = quiet()
    resumed, metrics = train(data, tmp_path / "b", config, screen)
    assert "resumed at step 3" in screen.file.getvalue()
    assert metrics["steps"] == 6
    for name, tensor in uninterrupted[0].state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    with pytest.raises(CheckpointUnusable, match="seed = 0, this run has 1"):
        train(data, tmp_path / "b", config.model_copy(update={"seed": 1}))


def test_finished_training_is_not_repeated(data, tmp_path):
    """What an interruption of the export leaves behind: all steps, though the time for a checkpoint had not come."""
    config = FIT.model_copy(update={"max_steps": 6})
    trained = train(data, tmp_path, config)[0]
    screen = quiet()
    resumed = train(data, tmp_path, config, screen)[0]
    assert "resumed at step 6" in screen.file.getvalue()
    for name, tensor in trained.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_resumed_run_decodes_nothing_again(data, tmp_path, monkeypatch):
    config = FIT.model_copy(update={"max_steps": 2})
    training.prepare(data, tmp_path, config, DistributedContext(), quiet())
    monkeypatch.setattr("trainer.data.clips.decode_frames", None)
    run = training.prepare(data, tmp_path, config, DistributedContext(), quiet())
    assert sum(len(video.frames) for video in (*run.split.train, *run.split.validation)) == 360


def test_tensorboard_log(bundle):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(bundle.path / "log" / "training"))
    log.Reload()
    assert {"loss/contextual", "loss/encoder", "loss/validation"} <= set(log.Tags()["scalars"])
    assert [scalar.step for scalar in log.Scalars("loss/contextual")] == list(range(10, 151, 10))
    assert log.Images("input above reconstruction")[0].width > WIDTH_PX


def test_unreadable_frames_are_skipped(tmp_path, no_graph):
    frames = street(120, np.full(120, SLOW_PX), 3)
    write(tmp_path / "own" / "one", frames)
    write(tmp_path / "own" / "two", frames[::-1])
    for number in (5, 6):
        (tmp_path / "own" / "one" / f"{number:03d}.jpg").write_bytes(b"no picture")
    screen = quiet()
    bundle = training.fit(tmp_path / "own", tmp_path / "out", FIT.model_copy(update={"max_steps": 2}), screen)
    output = " ".join(screen.file.getvalue().split())
    assert "one: 2 of 120 frames unreadable, skipped" in output
    assert "005.jpg" in output
    assert "2 unreadable frames skipped in total" in output
    assert bundle.manifest.metrics["unreadable_frames"] == 2
    assert bundle.manifest.metrics["validation_loss"] is None  # two steps are too few for one


def test_recalibration_keeps_model(bundle, data, tmp_path):
    copy = Path(shutil.copytree(bundle.path, tmp_path / "copy"))
    write(tmp_path / "own", street(80, np.full(80, 1.1), 90))
    again = calibrate(copy, tmp_path / "own")
    assert again.model_id == bundle.model_id
    assert again.calibration.observed_s == pytest.approx(7.7)
    assert again.calibration.calibration_id != bundle.calibration.calibration_id
    write(tmp_path / "short", street(20, np.full(20, 1.0), 91))
    with pytest.raises(TooLittleFootage, match="17 normal frames can be scored"):
        calibrate(copy, tmp_path / "short")


def test_refuses_calibration_on_another_view(bundle, tmp_path):
    copy = Path(shutil.copytree(bundle.path, tmp_path / "copy"))
    noise = np.random.default_rng(0).integers(0, 256, (80, HEIGHT_PX, WIDTH_PX), dtype=np.uint8)
    write(tmp_path / "other", noise)
    with pytest.raises(OutputRefused, match=r"threshold would change from .* Check that .*other shows it"):
        calibrate(copy, tmp_path / "other")
    assert read_bundle(copy).calibration == bundle.calibration


def test_refuses_bundle_of_other_footage(bundle, data, tmp_path):
    copy = Path(shutil.copytree(bundle.path, tmp_path / "copy"))
    write(tmp_path / "own", street(80, np.full(80, SLOW_PX), 90))
    with pytest.raises(OutputRefused, match=r"trained on other footage \(calm0, calm1, calm2 \.\.\.\)"):
        training.fit(tmp_path / "own", copy, FIT, quiet())
    with pytest.raises(OutputRefused, match="cannot be written"):
        training.fit(data, copy / "bundle.json" / "below", FIT, quiet())
    assert not (copy / ".checkpoint").exists()
    with (
        closing(lock_file(copy / ".checkpoint" / "lock")),
        pytest.raises(OutputRefused, match="another run is writing to it; wait for its end"),
    ):
        training.fit(data, copy, FIT, quiet())
    screen = quiet()
    training.require_free(copy, training_sources(data), screen)
    assert f"replacing the bundle {bundle.model_id}" in screen.file.getvalue()
