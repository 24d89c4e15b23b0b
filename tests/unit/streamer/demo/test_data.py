import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest

from deploy.bundle import DEFAULT_BUNDLE, read_bundle
from deploy.profile import read_profile, require_profile_of

DEMO_DATA = Path(__file__).parents[4] / "streamer/demo/data"
VIDEOS = {path.stem: path for path in (DEMO_DATA / "videos").iterdir()}
PROFILES = {path.stem: path for path in (DEMO_DATA / "profiles").iterdir()}
ANOMALIES = json.loads((DEMO_DATA / "stretches.json").read_text("utf-8"))["stretches"]
UNKNOWN, QUIET = {"street"}, {"park"}
LEARNED_S = 46.0
"""When the unknown camera is on watch at the latest."""
APART_S = 1.0
"""So long after an anomaly an event may begin that is still of it."""


def test_one_camera_is_unknown_and_one_quiet() -> None:
    assert VIDEOS.keys() - PROFILES.keys() == UNKNOWN
    assert VIDEOS.keys() - {each["camera_id"] for each in ANOMALIES} == QUIET


@pytest.mark.parametrize("camera_id", PROFILES)
def test_profiles_fit_cameras_and_network(camera_id: str) -> None:
    profile = read_profile(PROFILES[camera_id])
    require_profile_of(read_bundle(DEFAULT_BUNDLE), profile)
    assert (profile.info.camera_id, (profile.info.width_px, profile.info.height_px)) == (camera_id, size_of(camera_id))


def test_every_view_is_another() -> None:
    assert len({first_picture(camera_id) for camera_id in VIDEOS}) == len(VIDEOS)


@pytest.mark.parametrize("anomaly", ANOMALIES, ids=[each["kind"] for each in ANOMALIES])
def test_anomalies_follow_ordinary_footage(anomaly: dict[str, Any]) -> None:
    camera_id, begin_s, end_s = anomaly["camera_id"], anomaly["start_s"], anomaly["end_s"]
    assert (LEARNED_S if camera_id in UNKNOWN else 10.0) < begin_s < end_s <= duration_s(camera_id)


def test_anomalies_of_a_camera_follow_one_another() -> None:
    for one, other in pairwise(ANOMALIES):
        assert one["camera_id"] != other["camera_id"] or one["end_s"] + APART_S < other["start_s"]


def test_demo_data_stay_small() -> None:
    assert sum(path.stat().st_size for path in DEMO_DATA.rglob("*") if path.is_file()) < 6_000_000


def size_of(camera_id: str) -> tuple[int, int]:
    with av.open(str(VIDEOS[camera_id])) as container:
        return container.streams.video[0].width, container.streams.video[0].height


def first_picture(camera_id: str) -> bytes:
    with av.open(str(VIDEOS[camera_id])) as container:
        return next(container.decode(video=0)).to_ndarray(format="gray").tobytes()


def duration_s(camera_id: str) -> float:
    with av.open(str(VIDEOS[camera_id])) as container:
        stream = container.streams.video[0]
        assert stream.average_rate is not None
        return float(stream.frames / stream.average_rate)
