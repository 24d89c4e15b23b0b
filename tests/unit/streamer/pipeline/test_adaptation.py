"""Footage of cameras that are learned is kept within bounds, and a process of its own makes the profile that follows."""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.errors import ConfigError
from deploy.image import encode_jpeg
from deploy.profile import Profile, write_profile
from deploy.spec import ClipSpec
from streamer.config import Settings
from streamer.monitoring import Metrics
from streamer.pipeline.adaptation import CameraAdaptation, FootageRing
from streamer.pipeline.learning import CameraLearning
from streamer.pipeline.profiles import CameraProfiles
from streamer.types import FrameInfo, FrameMessage, Partition
from tests.harness.fakes import MemoryProfileStore
from tests.harness.pipeline import message, profile_of
from tests.harness.video_bundle import UNIT, VIDEO
from trainer.data.footage import count_frames, find_sources, footage_info, load_footage

P0 = Partition("frames", 0)
INFO = profile_of("gate", 1, 0).info
LIVE, ADAPTED = Profile(INFO.model_copy(update={"footage": ("live",)}), UNIT), Profile(INFO, UNIT + 1)
SAVES = "import shutil, sys; out = sys.argv[-1].removeprefix('--out='); shutil.copy({profile!r}, out)"
FAILS = "import sys; sys.exit('error: too dark')"


def image_message(number: int) -> tuple[FrameMessage, FrameInfo]:
    """The images are 125 ms apart, each of the next ten brighter than the one before."""
    at_ms = 1_000_000 + 125 * number
    image = encode_jpeg(np.full((16, 16), 25 * (number % 10), np.uint8), 95)
    return replace(message(0, number, "gate", 0, at_ms=at_ms), value=image), FrameInfo(P0, number, "gate", at_ms, 16, 16)


def record(ring: FootageRing, frames: range) -> None:
    for sent, info in map(image_message, frames):
        ring.add(sent.value or b"", info)
    ring.close()


class Watch:
    """An adaptation with a store and the profiles that it serves."""

    def __init__(self, root: Path, code: str) -> None:
        self.store, self.metrics = MemoryProfileStore(), Metrics()
        settings = Settings.model_validate({"learning": {"enabled": True, "footage_dir": root}})
        self.profiles = CameraProfiles(self.store, VIDEO, settings, self.metrics)
        learning = CameraLearning(VIDEO, settings, self.profiles, self.metrics)
        program = (sys.executable, "-c", code)
        self.adaptation = CameraAdaptation(VIDEO, settings, learning, self.profiles, self.store, self.metrics, program)
        self.profiles.load()

    def poll_until(self, done: Callable[[], bool]) -> None:
        for _ in range(2000):
            self.adaptation.poll()
            if done():
                return
            time.sleep(0.01)  # a process takes its time
        raise AssertionError("not done")

    def count(self, outcome: str) -> float:
        return self.metrics.registry.get_sample_value("oddsight_adaptations_total", {"outcome": outcome}) or 0.0


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    write_profile(tmp_path / "made", ADAPTED)
    return Watch(tmp_path / "footage", SAVES.format(profile=str(tmp_path / "made")))


def learn(watch: Watch, profile: Profile = LIVE) -> None:
    for number in range(40):
        watch.adaptation.record(*image_message(number))
    watch.store.put(profile)
    watch.profiles.load()


def test_videos_are_read_as_footage(tmp_path: Path) -> None:
    record(FootageRing(tmp_path, 1_000_000, 5000), range(100))
    sources = find_sources(tmp_path)
    assert [count_frames(source) for source in sources] == [100]
    assert footage_info(sources).fps == pytest.approx(8.0)
    spec = ClipSpec(length=1, height_px=16, width_px=16)
    (frame, *_) = load_footage(sources[0], spec).frames[[9]]
    assert frame.mean() == pytest.approx(225, abs=3)


def test_ring_is_bounded(tmp_path: Path) -> None:
    size = len(image_message(0)[0].value or b"")
    record(FootageRing(tmp_path, 320 * size, 5000), range(1000))
    paths = sorted(tmp_path.glob("*.mkv"))
    assert paths[0].stem != "000001"
    assert 200 <= sum(count_frames(source) for source in find_sources(tmp_path)) <= 400
    record(FootageRing(tmp_path, 320 * size, 5000), range(1000, 1030))
    assert max(tmp_path.glob("*.mkv")).stem > paths[-1].stem


def test_gap_begins_another_video(tmp_path: Path) -> None:
    ring = FootageRing(tmp_path, 1_000_000, 5000)
    record(ring, range(30))
    record(ring, range(200, 230))
    record(ring, range(600, 610))  # too few to tell their rate
    assert [count_frames(source) for source in find_sources(tmp_path)] == [30, 30]


def test_adapted_profile_follows_the_learned_one(watch: Watch) -> None:
    learn(watch)
    watch.poll_until(lambda: watch.count("done") == 1)
    assert watch.store.current() == {"gate": ADAPTED.profile_id}
    assert not list(watch.adaptation._root.iterdir())  # the footage is gone


def test_outage_of_redis_is_waited_out(watch: Watch) -> None:
    learn(watch)
    watch.adaptation.poll()
    watch.store.available = False
    watch.poll_until(lambda: watch.adaptation._job.process.poll() is not None)
    watch.adaptation.poll()
    assert watch.count("done") == 0
    watch.store.available = True
    watch.poll_until(lambda: watch.count("done") == 1)


def test_profile_of_an_operator_stays(watch: Watch) -> None:
    learn(watch, ADAPTED)
    watch.adaptation.poll()
    assert not list(watch.adaptation._root.iterdir())
    assert watch.count("done") == 0


def test_restart_takes_up_footage(watch: Watch, tmp_path: Path) -> None:
    learn(watch)
    watch.adaptation.close()
    again = Watch(tmp_path / "footage", SAVES.format(profile=str(tmp_path / "made")))
    again.store.put(LIVE)
    again.profiles.load()
    again.poll_until(lambda: again.count("done") == 1)


def test_only_one_service_adapts_to_a_camera(watch: Watch, tmp_path: Path) -> None:
    learn(watch)
    watch.adaptation.poll()
    other = Watch(tmp_path / "footage", FAILS)
    other.store.put(LIVE)
    other.profiles.load()
    other.adaptation.poll()
    assert other.adaptation._job is None
    watch.poll_until(lambda: watch.count("done") == 1)


def test_failure_keeps_the_learned_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch(tmp_path / "footage", FAILS)
    learn(watch)
    watch.poll_until(lambda: watch.count("failed") == 1)
    assert watch.store.current() == {"gate": LIVE.profile_id}
    assert "too dark" in capsys.readouterr().out
    assert not list((tmp_path / "footage").iterdir())


def test_images_of_another_format_are_not_kept(watch: Watch, capsys: pytest.CaptureFixture[str]) -> None:
    sent, info = image_message(0)
    for _ in range(2):
        watch.adaptation.record(replace(sent, value=b"\x89PNG"), info)
    assert capsys.readouterr().out.count("not all of its images are JPEGs") == 1


def test_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"learning\.footage_dir: .*file"):
        Watch(tmp_path / "file", FAILS)
