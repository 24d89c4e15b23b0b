"""One network for several cameras, rendered ones among them; and a network that is adapted to other footage."""

from pathlib import Path

import numpy as np
import pytest

from deploy.bundle import Bundle
from deploy.engines.torch import load_network
from deploy.errors import ConfigError
from deploy.spec import ClipSpec
from tests.harness.street import SLOW_PX, VIDEO_EDE_FIT, quiet, street, train, write
from trainer import fit as training
from trainer.data.datasets import is_plain_footage, labelled_clips, training_sources
from trainer.data.footage import footage_info, load_footage
from trainer.data.labels import check_labels
from trainer.errors import OutputRefused
from trainer.fit import FitConfig
from trainer.scenes.data_set import make_scenes
from trainer.training.distributed import DistributedContext

SPEC = ClipSpec(length=1, height_px=96, width_px=128)
ADAPT = FitConfig(max_steps=6, batch_clips=4, checkpoint_every_s=0.0)
NETWORK = {**VIDEO_EDE_FIT.network, "height_px": 64, "width_px": 96}
TWO_CAMERAS = VIDEO_EDE_FIT.model_copy(update={"max_steps": 3, "batch_clips": 2, "network": NETWORK})


@pytest.fixture
def adapt(video_ede_bundle: Bundle) -> FitConfig:
    return ADAPT.model_copy(update={"from_bundle": video_ede_bundle.path})


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain footage of another size."""
    folder = tmp_path_factory.mktemp("yard")
    write(folder / "monday", street(340, np.full(340, SLOW_PX), 3)[:, :, :80])
    return folder


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered plaza of 384 x 288 pixels."""
    (folder,) = make_scenes(tmp_path_factory.mktemp("scenes"), 1, 0.1, 0, quiet())
    return folder


def test_only_anomaly_network_is_adapted(video_ede_bundle, adapt, data, tmp_path):
    before = load_network(video_ede_bundle).state_dict()
    network, metrics = train(data, tmp_path, adapt)
    changes = {name: float((tensor - before[name]).abs().max()) for name, tensor in network.state_dict().items()}
    assert {name.partition(".")[0] for name, change in changes.items() if change} == {"judge"}
    assert max(changes.values()) < 0.1
    assert (metrics["steps"], metrics["from"]) == (6, video_ede_bundle.model_id)


def test_adapted_network_keeps_its_settings(video_ede_bundle, adapt, yard, tmp_path):
    run = training.prepare(yard, tmp_path, adapt, DistributedContext(), quiet())
    assert (run.spec, run.card) == (video_ede_bundle.spec, video_ede_bundle.manifest.model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "video-ganomaly"}, "holds a video-ede, and --model is video-ganomaly"),
        ({"network": {"height_px": 128}}, "height_px 64, which cannot become 128"),
    ],
)
def test_rejects_other_network(adapt, data, tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        training.prepare(data, tmp_path, adapt.model_copy(update=settings), DistributedContext(), quiet())


def test_several_cameras_need_profiles(data, yard, tmp_path):
    config = FitConfig(model="video-ganomaly")
    with pytest.raises(ConfigError, match="several --data are for --model video-ede"):
        training.prepare([data, yard], tmp_path, config, DistributedContext(), quiet())


def test_rendered_scene_is_a_data_set(scene):
    assert not is_plain_footage(scene)
    assert [source.name for source in training_sources(scene)] == ["01"]
    assert footage_info(training_sources(scene)).fps == 10.0
    clips = labelled_clips(scene)
    assert len(clips) == 8
    for clip in clips:
        check_labels(clip, load_footage(clip.source, SPEC))
        assert bool(clip.labels.any()) is (clip.source.name != "ordinary")


def test_people_move_in_it(scene):
    frames = load_footage(training_sources(scene)[0], SPEC).frames.astype(np.float32)
    assert len(frames) == 60
    moved = np.abs(frames[30] - frames[20]).max()
    noise = np.abs(frames[30] - frames[20]).mean()
    assert moved > 20 > 4 > noise


def test_one_network_for_two_cameras(data, scene, tmp_path, no_graph):
    """A camera that was rendered, and one of another size; each is split and named by itself."""
    screen = quiet()
    bundle = training.fit([data, scene], tmp_path / "out", TWO_CAMERAS, screen)
    assert "camera plaza-1: 1 videos, 384 x 288, 10 frames/s" in screen.file.getvalue()
    clips = list(bundle.manifest.metrics["footage"])
    assert [clips[0], clips[-1]] == [f"{data.name}/calm0", f"{scene.name}/01"]
    with pytest.raises(OutputRefused, match="trained on other footage"):
        training.fit(data, tmp_path / "out", TWO_CAMERAS, screen)
