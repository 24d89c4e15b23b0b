"""``oddsight-train panel``: a labelled scene and ordinary footage, learned by one recipe; a second run takes up what is there."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from deploy.bundle import Bundle
from tests.harness.street import SLOW_PX, street
from trainer.cli import main
from trainer.panel import run
from trainer.panel.faults import FAULTS
from trainer.scenes.data_set import write_video

KEPT = ("cover", "shake_1px", "triple_speed")


@pytest.fixture
def scenes(data: Path, tmp_path: Path) -> Path:
    root = tmp_path / "scenes"
    root.mkdir()
    (root / "street").symlink_to(data, target_is_directory=True)
    for number in range(4):
        images = street(150, np.full(150, SLOW_PX), 40 + number)[..., None].repeat(3, axis=3)
        write_video(root / "evening" / "training" / "videos" / f"hour{number}.mp4", images, fps=20)
    (root / "empty").mkdir()
    return root


@pytest.mark.timeout(200)
def test_panel_measures_all_scenes_and_resumes(
    scenes: Path,
    video_ede_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("trainer.enrol.ADAPTATION_STEPS", 2)
    monkeypatch.setattr(run, "FAULTS", tuple(fault for fault in FAULTS if fault.name in KEPT))

    def panel(*options: str) -> tuple[str, str]:
        command = ["oddsight-train", "panel", scenes, "--bundle", video_ede_bundle.path, "--out", tmp_path / "out", *options]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        with pytest.raises(SystemExit, match="0"):
            main()
        return capsys.readouterr()

    printed, said = panel("--json")
    found = json.loads(printed)
    assert found["scenes"].keys() == {"street", "evening"}
    assert "empty is left out" in said
    labelled, ordinary = found["scenes"]["street"], found["scenes"]["evening"]["ordinary"]
    assert 0 <= labelled["streaming"]["frame_auc"] <= 1
    assert labelled["events"]["true"] == 2
    assert {"frame_difference", "flow_magnitude"} <= labelled["baselines"].keys()
    assert found["faults"].keys() == set(KEPT)
    assert {each["trials"] for each in found["faults"].values()} == {2}
    covered = found["faults"]["cover"]
    assert (covered["with_health"], covered["with_event"]) == (2, 0)
    assert 1.9 <= covered["latest_health_s"] <= 4.5
    assert found["faults"]["shake_1px"]["with_health"] == 0
    assert ordinary["observed_s"] == pytest.approx(15.0)  # by the camera's rate, not the network's
    assert ordinary["events_day_bound"] >= ordinary["events_day"]
    assert found["mean"]["frame_auc"] == labelled["streaming"]["frame_auc"]

    monkeypatch.setattr(run, "enrol", None)  # nothing is learned or measured a second time
    monkeypatch.setattr(run, "evaluate", None)
    tables, _ = panel()
    assert "street" in tables
    assert "shake_1px" in tables
