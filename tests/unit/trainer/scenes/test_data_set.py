from pathlib import Path

import numpy as np
import pytest

from deploy.errors import ConfigError
from deploy.spec import ClipSpec
from tests.harness.street import quiet
from trainer.data.datasets import is_plain_footage, labelled_clips, training_sources
from trainer.data.footage import footage_info, load_footage
from trainer.data.labels import check_labels
from trainer.errors import OutputRefused
from trainer.scenes.anomalies import kinds_for, make_anomaly
from trainer.scenes.backdrop import paint_backdrop
from trainer.scenes.data_set import make_scenes
from trainer.scenes.render import label_frames, render
from trainer.scenes.scene import KINDS, Scene, ordinary_actors, random_scene

SPEC = ClipSpec(length=1, height_px=96, width_px=128)


@pytest.fixture(scope="module")
def plaza(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (folder,) = make_scenes(tmp_path_factory.mktemp("scenes") / "new", 1, 0.1, 0, quiet())
    return folder


def some_scene(number: int, seed: int = 0) -> Scene:
    return random_scene(number, np.random.default_rng([seed, number]))


def frames_of(number: int, seed: int) -> np.ndarray:
    scene, rng = some_scene(number), np.random.default_rng(seed)
    backdrop = paint_backdrop(scene.view, scene.layout, rng)
    return np.stack(list(render(scene, backdrop, ordinary_actors(scene, 1.0, rng), 2, rng)))


def test_is_a_data_set(plaza):
    assert not is_plain_footage(plaza)
    assert [source.name for source in training_sources(plaza)] == ["01"]
    assert footage_info(training_sources(plaza)).fps == 10.0
    clips = labelled_clips(plaza)
    assert {clip.source.name for clip in clips} == {"ordinary", *kinds_for(some_scene(0))}
    for clip in clips:
        check_labels(clip, load_footage(clip.source, SPEC))
        assert bool(clip.labels.any()) is (clip.source.name != "ordinary")


def test_people_move(plaza):
    frames = load_footage(training_sources(plaza)[0], SPEC).frames.astype(np.float32)
    assert len(frames) == 60
    moved = np.abs(frames[30] - frames[20]).max()
    noise = np.abs(frames[30] - frames[20]).mean()
    assert moved > 20 > 4 > noise


def test_same_seed_gives_same_frames():
    assert np.array_equal(frames_of(3, seed=5), frames_of(3, seed=5))
    assert some_scene(3).view != some_scene(3, seed=1).view


@pytest.mark.parametrize("number", range(4), ids=KINDS)
def test_anomalies_are_labelled_from_their_begin(number):
    scene = some_scene(number)
    for kind in kinds_for(scene):
        anomaly = make_anomaly(kind, scene, 2.0, np.random.default_rng(3))
        labels = label_frames(scene, anomaly, 10 * scene.fps)
        assert labels.any(), kind
        assert not labels[: 2 * scene.fps].any(), kind


def test_kinds_suit_the_place():
    assert "vehicle" not in kinds_for(some_scene(1))
    assert "forbidden_ground" not in kinds_for(some_scene(3))
    assert some_scene(1).lanes
    assert not some_scene(0).lanes


def test_refuses_folder_with_content(plaza, tmp_path):
    with pytest.raises(OutputRefused, match="has content"):
        make_scenes(plaza, 1, 0.1, 0, quiet())
    with pytest.raises(ConfigError, match="cameras must be 1 to 100"):
        make_scenes(tmp_path, 0, 0.1, 0, quiet())
