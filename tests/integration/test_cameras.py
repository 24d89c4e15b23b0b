"""Operators manage profiles with ``oddsight-stream cameras``, and the running service follows."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.bundle import Bundle
from deploy.health import learn_reference, measure
from deploy.profile import Profile, profile_bytes, write_profile
from streamer.cli import main
from streamer.config import RedisSettings, Settings
from streamer.interfaces import CameraState, Step
from streamer.redis.client import RedisProgressStore, make_redis
from streamer.redis.profiles import RedisProfileStore
from streamer.settings_file import settings_toml
from streamer.types import Partition
from tests.harness.brokers import EmbeddedBroker, unique_kafka_settings
from tests.harness.calibration import calibration_of
from tests.harness.pipeline import picture, profile_of
from tests.harness.recurrent_toy import OTHER_PROFILE, toy_spec, write_toy_bundle
from tests.harness.replay import produce
from tests.harness.service import Entry, Results, Service, running

OLD, NEW, YARD = profile_of("gate", 1, 0), profile_of("gate", 2, 0, enter=0.9, exit=0.8), profile_of("yard", 3, 0)
CALM, BRIGHT = 0.1, 0.5
BEFORE, AFTER = 8, 24
"""Frames of each camera before and after the profile is imported."""

Run = Callable[..., str]


@pytest.fixture
def config(tmp_path: Path, redis_settings: RedisSettings) -> Path:
    path = tmp_path / "oddsight.toml"
    settings = Settings.model_validate({"redis": redis_settings, "cameras": {"gate": {"exit": 0.3}}})
    path.write_text(settings_toml(settings))
    return path


@pytest.fixture
def run(config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``oddsight-stream cameras`` in this process; returns what it prints, with errors last."""

    def run(*arguments: str | Path, exit_code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["oddsight-stream", "cameras", *map(str, arguments), "--config", str(config)])
        with pytest.raises(SystemExit) as exited:
            main()
        out, error = capsys.readouterr()
        assert int(exited.value.code or 0) == exit_code, error
        return out + error

    return run


def written(folder: Path, profile: Profile) -> Path:
    path = folder / f"{profile.profile_id}.safetensors"
    write_profile(path, profile)
    return path


def cells(line: str) -> list[str]:
    return line.split("  ")


def test_imports_lists_and_rolls_back(run: Run, tmp_path: Path, redis_settings: RedisSettings) -> None:
    old, new, yard = (written(tmp_path, profile) for profile in (OLD, NEW, YARD))

    assert run("import", old, yard) == f"gate: default -> {OLD.profile_id}\nyard: default -> {YARD.profile_id}\n"
    assert run("import", new) == f"gate: {OLD.profile_id} -> {NEW.profile_id}\n"
    assert [cells(line)[:3] for line in run().splitlines()] == [
        ["camera", "state", "profile"],
        ["gate", "watching", NEW.profile_id],
        ["yard", "watching", YARD.profile_id],
    ]
    assert [cells(line)[:2] for line in run("show", "gate").splitlines()[1:]] == [
        ["current", NEW.profile_id],
        ["", OLD.profile_id],
    ]
    assert run("rollback", "gate") == f"gate: {OLD.profile_id}\n"
    assert run("rollback", "gate", "--to", NEW.profile_id) == f"gate: {NEW.profile_id}\n"
    assert run("freeze", "gate") == "gate: frozen\n"
    assert cells(run().splitlines()[1])[1] == "watching, frozen"
    assert run("freeze", "gate", "--off") == "gate: follows its scores\n"
    assert cells(run().splitlines()[1])[1] == "watching"
    with make_redis(redis_settings) as client:
        store = RedisProfileStore(client, redis_settings)
        store.put_reference("gate", learn_reference([measure(np.eye(16, dtype=np.uint8)[..., None] * 200)], 0))
        store.put_reference("yard", store.read_references()["gate"])
        store.delete_references(["yard", "none"])
        assert store.read_references().keys() == {"gate"}
        assert run("relearn", "gate") == "gate: default\n"
        assert store.read_references() == {}
    assert [cells(line)[0] for line in run().splitlines()] == ["camera", "yard"]
    assert run("rollback", "gate") == f"gate: {NEW.profile_id}\n"


def test_export_writes_new_files_only(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    run("import", written(tmp_path, OLD))

    assert run("export", "gate", "--out", out) == f"gate: {OLD.profile_id} in {out}\n"
    assert out.read_bytes() == profile_bytes(OLD)
    assert run("export", "gate", "--out", out, exit_code=1) == f"error: {out}: exists already; give another --out\n"


def test_errors_say_what_to_do(run: Run, tmp_path: Path) -> None:
    rubbish, missing = tmp_path / "rubbish", tmp_path / "missing"
    rubbish.write_bytes(b"rubbish")
    unprintable = profile_of("gate\n", 1, 0)
    good, old, new = written(tmp_path, YARD), written(tmp_path, OLD), written(tmp_path, NEW)
    contradicts = written(tmp_path, profile_of("gate", 1, 0, enter=0.2, exit=0.1))
    write_profile(tmp_path / "unprintable", unprintable)
    expected = {
        ("import", good, rubbish): "rubbish: not a profile",
        ("import", missing): "no such file; make one: oddsight-train enrol",
        ("import", old, new): "several files are profiles of camera 'gate'; import one of them",
        ("import", tmp_path / "unprintable"): "a camera_id must be 1 to 128 printable characters",
        ("export", "gate", "--out", tmp_path / "x"): "'gate' has no profile of its own; see: oddsight-stream cameras",
        ("show", "gate"): "'gate' never had a profile of its own",
        ("rollback", "gate"): "'gate' has no earlier version of its profile",
        ("rollback", "gate", "--to", "x"): "'gate' has no version x; see: oddsight-stream cameras show gate",
        ("relearn", "gate"): "'gate' has no profile of its own",
    }

    for arguments, says in expected.items():
        printed = run(*arguments, exit_code=1)
        assert says in printed
        assert printed.startswith("error: ")
        assert printed.count("\n") == 1
    assert "cameras.gate.exit must be at most its enter threshold (0.2)" in run("import", contradicts, exit_code=2)
    assert run("--json") == '{\n  "cameras": []\n}\n'


def test_import_checks_the_bundle(run: Run, tmp_path: Path, config: Path, toy_bundle: Bundle) -> None:
    config.write_text(config.read_text().replace("# bundle is not set", f'bundle = "{toy_bundle.path}"'))

    assert f"the bundle {toy_bundle.path} has {toy_bundle.model_id}" in run("import", written(tmp_path, OLD), exit_code=1)


def test_lists_what_cameras_are_served_with(run: Run, tmp_path: Path, redis_settings: RedisSettings) -> None:
    run("import", written(tmp_path, NEW), written(tmp_path, YARD))
    event = {"event_id": "e", "started_at_ms": 900, "last_active_ms": 950, "peak_score": 2.0, "announced_at_ms": 950}
    state = CameraState.model_validate({"event": event, "health": {"problem": "dark", "since_ms": 5}})
    with make_redis(redis_settings) as client:
        progress = RedisProgressStore(client, redis_settings, "oddsight")
        starts = [{"camera_id": "gate", "kind": kind} for kind in ("start", "update", "start")]
        scores = [("gate", score(NEW.profile_id)), ("yard", score(None)), ("hall", score(None))]
        progress.apply(Step(Partition("frames", 0), None, 5, {"gate": state, "hall": CameraState()}, scores, starts))
        client.hset(f"{redis_settings.prefix}:profiles", "shed", "damaged")

    gate, hall, shed, yard = json.loads(run("--json"))["cameras"]

    assert gate == {
        "camera_id": "gate",
        "state": "watching",
        "learned_share": None,
        "learning_left_s": None,
        "frozen": False,
        "events_day": 2,
        "profile_id": NEW.profile_id,
        "created_at": "2026-11-28T12:00:00+00:00",
        "frames": 6000,
        "enter": 0.9,
        "exit": 0.3,
        "bound": None,  # nobody counted events with an exit threshold of one's own
        "observed_s": 86_400.0,
        "last_frame_ms": 1000,
        "event_started_ms": 900,
        "health": "dark",
        "problem": None,
    }
    assert (hall["profile_id"], hall["enter"], hall["exit"], hall["event_started_ms"]) == ("default", 0.5, None, None)
    assert (shed["profile_id"], shed["last_frame_ms"]) == ("damaged", None)
    assert shed["problem"] == "profile damaged of camera 'shed' in Redis: its content is missing; import the profile again"
    assert yard["problem"].startswith("last frame scored with default")


def score(profile_id: str | None) -> Entry:
    fields = {"captured_at_ms": "1000", "score": "0.25", "threshold": "0.5", "partition": "0", "offset": "4", "scored_at_ms": "2"}
    return fields if profile_id is None else {**fields, "profile_id": profile_id}


@pytest.fixture(scope="module")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    clips = np.random.default_rng(3).integers(0, 200, (4, 1, 16, 16, 1)).astype(np.uint8)
    calibration = calibration_of(enter=0.8, exit_=0.6)
    return write_toy_bundle(tmp_path_factory.mktemp("toy"), toy_spec(16, 16), clips, calibration)


def test_running_service_follows_import(
    tmp_path: Path, embedded_broker: EmbeddedBroker, redis_settings: RedisSettings, toy_bundle: Bundle
) -> None:
    kafka, results = unique_kafka_settings(embedded_broker.address), Results(redis_settings)
    sections: dict[str, Any] = {"engine": {"bundle": str(toy_bundle.path)}, "decision": {"min_duration_s": 0.1}}
    service = Service(tmp_path, kafka, redis_settings, **sections)
    brightness = [CALM] * (BEFORE + 4) + [BRIGHT] * 12
    cameras = {camera_id: [*map(picture, brightness)] for camera_id in ("gate", "yard")}
    profile = profile_of("gate", *OTHER_PROFILE, model_id=toy_bundle.model_id, enter=3.0, exit=2.0)

    with running(service):
        done = produce(kafka, cameras, 0, BEFORE)
        service.wait_until(lambda: results.next_offsets() == done, "scores with the default profile")
        command = [sys.executable, "-m", "streamer.cli", "cameras", "import", str(written(tmp_path, profile))]
        config = service.config_path
        subprocess.run([*command, "--config", str(config)], check=True, timeout=60)
        service.wait_until(lambda: "profile changed" in [line["event"] for line in service.log()], "change of the profile")
        done += produce(kafka, cameras, BEFORE, BEFORE + 8)
        service.wait_until(lambda: results.next_offsets() == done, "scores with the profile")
        service.kill()
        service.start()
        done += produce(kafka, cameras, BEFORE + 8, AFTER)
        service.wait_until(lambda: results.next_offsets() == done, "scores after a restart")
        assert "oddsight_camera_profiles 1.0" in service.get("/metrics")[1]

    gate, yard = (results.scores()[camera_id] for camera_id in ("gate", "yard"))
    factor, offset = OTHER_PROFILE
    for number, (own, default) in enumerate(zip(gate, yard, strict=True)):
        expected = float(default["score"])
        if number >= BEFORE:
            expected = factor * expected + offset / (1 - round(brightness[number] * 255) / 255)
        assert float(own["score"]) == pytest.approx(expected, rel=1e-4)
    assert [entry.get("profile_id") for entry in gate] == [None] * BEFORE + [profile.profile_id] * (AFTER - BEFORE)
    starts = {event["camera_id"]: event for event in results.events() if event["kind"] == "start"}
    assert (starts["gate"]["threshold"], starts["gate"]["profile_id"]) == ("3", profile.profile_id)
    assert starts["gate"]["calibration_id"] == profile.info.calibration.calibration_id
    assert (starts["yard"]["threshold"], starts["yard"].get("profile_id")) == ("0.8", None)
