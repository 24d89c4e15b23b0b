from dataclasses import replace

import numpy as np
import pytest

from deploy.errors import ConfigError
from tests.harness.street import quiet
from trainer.errors import OutputRefused
from trainer.scenes.anomalies import kinds_for, make_anomaly
from trainer.scenes.backdrop import paint_backdrop
from trainer.scenes.data_set import label_frames, make_scenes, render
from trainer.scenes.scene import KINDS, Scene, ordinary_actors, random_scene


def some_scene(number: int, seed: int = 0) -> Scene:
    return random_scene(number, np.random.default_rng([seed, number]))


def frames_of(number: int, seed: int) -> np.ndarray:
    scene, rng = some_scene(number), np.random.default_rng(seed)
    backdrop = paint_backdrop(scene.view, scene.layout, rng)
    return np.stack(list(render(scene, backdrop, ordinary_actors(scene, 1.0, rng), 2, rng)))


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


def one_way_scene() -> Scene:
    return replace(some_scene(3), one_way=True)


def test_on_one_way_nobody_goes_the_other_way():
    scene, rng = one_way_scene(), np.random.default_rng(0)
    fixtures = len(scene.fixtures)
    for person in ordinary_actors(scene, 120.0, rng)[fixtures:]:
        ends = person.place(person.track.start_s), person.place(person.track.end_s)
        assert any(np.allclose(ends, route[[0, -1]], atol=3.0) for route in scene.routes)


def test_who_goes_the_wrong_way_ends_where_the_others_begin():
    scene = one_way_scene()
    walker = make_anomaly("wrong_way", scene, 2.0, np.random.default_rng(3)).culprit
    ends = walker.place(walker.track.start_s), walker.place(walker.track.end_s)
    assert "wrong_way" in kinds_for(scene)
    assert "wrong_way" not in kinds_for(some_scene(3))
    assert any(np.allclose(ends, route[[-1, 0]], atol=3.0) for route in scene.routes)


def test_a_trolley_is_ahead_of_who_pushes_it():
    anomaly = make_anomaly("trolley", some_scene(3), 2.0, np.random.default_rng(3))
    pusher, trolley = anomaly.actors
    moment = 2.0 + (pusher.track.end_s - 2.0) / 2
    assert np.linalg.norm(trolley.place(moment) - pusher.place(moment)) == pytest.approx(1.1)
    assert np.linalg.norm(trolley.place(moment) - pusher.place(moment + 0.8)) < 0.5


def test_refuses_folder_with_content(tmp_path):
    (tmp_path / "footage").mkdir()
    with pytest.raises(OutputRefused, match="has content"):
        make_scenes(tmp_path, 1, 0.1, 0, quiet())
    with pytest.raises(ConfigError, match="cameras must be 1 to 100"):
        make_scenes(tmp_path / "new", 0, 0.1, 0, quiet())
