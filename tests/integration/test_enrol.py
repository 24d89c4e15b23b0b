"""Two views and one network: a camera that the network never saw is enrolled, evaluated and scored beside the other."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deploy.bundle import Bundle
from deploy.profile import read_profile
from deploy.profile_learning import Normal
from deploy.score_maps import Grid
from tests.harness.calibration import limits_of
from tests.harness.street import FAST_PX, SLOW_PX, quiet, street, write
from trainer.cli import main
from trainer.data.annotations import read_annotations
from trainer.enrol import enrol
from trainer.errors import TooLittleFootage
from trainer.evaluate import evaluate
from trainer.marks import learn_marks

FRAMES = 360


@pytest.fixture(scope="module")
def other_view(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The street upside down: training footage, and a test clip in which the blob speeds up half-way."""
    root = tmp_path_factory.mktemp("view")
    for number in range(6):
        write(root / "training" / "frames" / f"calm{number}", street(60, np.full(60, SLOW_PX), 20 + number)[:, ::-1])
    speed_px = np.r_[np.full(30, SLOW_PX), np.full(30, FAST_PX)]
    write(root / "testing" / "frames" / "rush", street(60, speed_px, 70)[:, ::-1])
    np.savez(root / "frame_labels.npz", rush=(speed_px > SLOW_PX).astype(np.uint8))
    return root


@pytest.fixture(autouse=True)
def _hardly_adapted(monkeypatch: pytest.MonkeyPatch) -> None:
    """In 800 steps it takes minutes."""
    monkeypatch.setattr("trainer.enrol.ADAPTATION_STEPS", 2)


@pytest.fixture
def oddsight_train(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The command in this process; the argument ``code`` is the exit code that it must end with."""

    def run(*arguments: object, code: int = 0) -> None:
        monkeypatch.setattr(sys, "argv", ["oddsight-train", *map(str, arguments)])
        with pytest.raises(SystemExit, match=str(code)):
            main()

    return run


def test_command_writes_a_profile_and_evaluate_takes_it(
    oddsight_train: Callable[..., None], video_ede_bundle: Bundle, other_view: Path, tmp_path: Path
) -> None:
    out = tmp_path / "gate.safetensors"
    data, bundle = ["--data", other_view], ["--bundle", video_ede_bundle.path]
    oddsight_train("enrol", *bundle, *data, "--camera-id", "gate", "--out", out)
    profile = read_profile(out)
    assert (profile.info.camera_id, profile.info.model_id) == ("gate", video_ede_bundle.model_id)
    assert (profile.info.frames, profile.info.height_px, profile.info.width_px) == (FRAMES, 64, 96)
    assert profile.values.shape == video_ede_bundle.default_profile.shape
    assert not np.array_equal(profile.values, video_ede_bundle.default_profile)

    given, learned = (
        evaluate(video_ede_bundle.path, other_view, "onnx", quiet(), budget=1.0, profile=path).model for path in (out, None)
    )
    np.testing.assert_allclose(given.output.scores["rush"], learned.output.scores["rush"], rtol=1e-3, atol=1e-3)
    assert given.output.normal.thresholds.enter == pytest.approx(limits_of(profile.info.calibration).enter)


def test_what_operators_called_normal_raises_no_event_and_real_events_are_found(
    oddsight_train: Callable[..., None],
    video_ede_bundle: Bundle,
    other_view: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    speed_px, out = np.r_[np.full(15, SLOW_PX), np.full(25, FAST_PX)], tmp_path / "gate.safetensors"
    for name, seed in (("near", 51), ("far", 55)):  # in rows that have nothing in common
        write(tmp_path / "marks" / name, street(40, speed_px, seed)[:, ::-1])
    rows = ["near,15,39,normal,,,,,gate", "far,15,39,anomaly,,,,,gate", "far,15,39,normal,,,,,yard"]
    header = "video,first_frame,last_frame,mark,x,y,width,height,camera"
    (tmp_path / "marks" / "marks.csv").write_text("\n".join([header, *rows]))
    options = ["--bundle", video_ede_bundle.path, "--data", other_view, "--camera-id", "gate", "--out", out]
    oddsight_train("enrol", *options, "--no-adapt", "--feedback", tmp_path / "marks")
    said = capsys.readouterr().err
    assert "2 of 3 marks are of gate" in said
    near, far = (next(line for line in said.splitlines() if line.split()[:1] == [f"{name},"]) for name in ("near", "far"))
    assert near.rstrip().endswith("no event  quiet now")
    assert near.count("no event") == 1
    assert far.rstrip().endswith("found")
    assert "no event" not in far

    profile = read_profile(out)
    assert profile.info.footage[-1] == "near"
    *marks, _ = read_annotations(tmp_path / "marks")
    again, changes = learn_marks(video_ede_bundle, profile, [each for each in marks if each.anomalous], quiet())
    assert np.array_equal(again.values, profile.values)
    assert [change.after.is_event for change in changes] == [True]


def test_day_and_night_have_pictures_and_ranges_of_their_own(
    video_ede_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By night everything is half as fast, and infrared makes dark what is bright by day."""
    monkeypatch.setattr("deploy.dwell.LEAST_OF_LIGHT_S", 20.0)  # at 10 frames a second
    monkeypatch.setattr("deploy.profile_learning.LEAST_OF_LIGHT", 32)
    places = np.kron(np.random.default_rng(3).uniform(-60, 60, (8, 12)), np.ones((8, 8)))
    for number in range(2):
        for name, speed_px, shown in (("day", SLOW_PX, places), ("night", SLOW_PX / 2, -places)):
            frames = street(150, np.full(150, speed_px), 20 + number) + shown
            write(tmp_path / f"{number}-{name}", np.clip(frames, 0, 255).astype(np.uint8))
    profile = enrol(video_ede_bundle, "gate", tmp_path, quiet(), adapt=False)
    normal = Normal.from_values(profile.values, Grid.of(video_ede_bundle).shape)
    assert not np.array_equal(*normal.background.pictures)
    day, night = normal.ranges
    assert day.speed != night.speed
    assert day.joint != night.joint


def test_too_little_footage(video_ede_bundle: Bundle, tmp_path: Path) -> None:
    write(tmp_path / "short", street(120, np.full(120, SLOW_PX), 1))
    with pytest.raises(TooLittleFootage, match="120 frames; a profile needs 300"):
        enrol(video_ede_bundle, "gate", tmp_path / "short", quiet())


def test_names_unreadable_frames(video_ede_bundle: Bundle, tmp_path: Path) -> None:
    write(tmp_path / "own", street(360, np.full(360, SLOW_PX), 1))
    for number in (5, 6, 200):
        (tmp_path / "own" / f"{number:03d}.jpg").write_bytes(b"no picture")
    screen = quiet()
    enrol(video_ede_bundle, "gate", tmp_path / "own", screen)
    said = screen.file.getvalue()
    assert "frames unreadable, skipped" in said
    assert all(f"{number:03d}.jpg" in said for number in (5, 6, 200))


def test_mistake_prints_one_line(
    oddsight_train: Callable[..., None],
    video_ede_bundle: Bundle,
    other_view: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--bundle", video_ede_bundle.path, "--data", other_view, "--camera-id", "gate", "--out", tmp_path]
    oddsight_train("enrol", *options, code=1)
    line = f"error: {tmp_path}: is a folder; give the name of a file, such as {tmp_path}/gate.safetensors\n"
    assert capsys.readouterr() == ("", line)
