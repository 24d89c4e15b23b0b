"""What marks change: which cells are made usual, and what is told of it."""

from collections.abc import Sequence

import numpy as np
import pytest
from rich.console import Console

from deploy.calibration import Calibration
from deploy.decision import DecisionTimes
from tests.harness.street import quiet
from trainer.data.annotations import AnnotatedClip, Region
from trainer.data.footage import Footage
from trainer.mark_report import print_changes
from trainer.marks import BundleMarks, MarkChange, MarkedScore, bundle_changes, cells_of_region, masked_cells

EVENT, NONE = MarkedScore(3.0, 1.5, is_event=True), MarkedScore(0.5, 1.5, is_event=False)
BEFORE = Calibration(median=0.0, peaks=(1.0, 0.9), observed_s=3600, times=DecisionTimes())
NOW = BEFORE.model_copy(update={"peaks": (1.2, 0.9)})


def clip_of(frames: np.ndarray, region: Region | None = None, *, anomalous: bool = False) -> AnnotatedClip:
    footage = Footage("gate.mp4", frames, np.arange(len(frames)), len(frames), ())
    return AnnotatedClip(footage, 0, len(frames) - 1, anomalous, region, "marks.csv: line 2")


def told(changes: Sequence[MarkChange], before: Calibration | None = BEFORE, after: Calibration = BEFORE) -> str:
    screen: Console = quiet()
    print_changes(screen, changes, before, after)
    return screen.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


def test_what_passes_through_the_region_counts_wherever_it_goes_and_nothing_else_does():
    hot = np.zeros((4, 8, 12), bool)
    for number in range(4):
        hot[number, 2, 2 * number : 2 * number + 3] = True  # moves to the right
    hot[:, 7, 10] = True
    chosen = cells_of_region(hot, clip_of(np.zeros((4, 32, 48, 1), np.uint8), Region(0, 8, 4, 4)))
    assert np.array_equal(chosen[:, :7], hot[:, :7])
    assert not chosen[:, 7].any()
    assert np.array_equal(cells_of_region(hot, clip_of(np.zeros((4, 32, 48, 1), np.uint8))), hot)


def test_what_a_privacy_mask_hides_does_not_count():
    frames = np.full((3, 160, 160, 1), 100, np.uint8)
    frames[:, :32, :32] = 5
    frames[0, 96:, 96:] = 0  # black for a moment
    usual = np.full((2, 20, 20), 90, np.float32)
    hidden = masked_cells(clip_of(frames), usual)
    assert hidden[:10, :10].all()
    assert not hidden[14:].any()
    assert not hidden[:, 14:].any()
    usual[:, :4, :4] = 10  # it is always dark there
    assert not masked_cells(clip_of(frames), usual).any()


@pytest.mark.parametrize(
    ("anomalous", "before", "after", "verdict"),
    [
        (True, EVENT, EVENT, "found"),
        (True, EVENT, NONE, "LOST"),
        (True, NONE, NONE, "not found"),
        (True, None, NONE, "not found"),
        (False, EVENT, NONE, "quiet now"),
        (False, EVENT, EVENT, "still an event"),
        (False, NONE, NONE, "quiet"),
    ],
)
def test_each_marked_event_says_what_became_of_it(anomalous, before, after, verdict):
    said = told([MarkChange("gate.mp4, frames 0 to 2", anomalous, before, after)])
    row = next(line for line in said.splitlines() if "gate.mp4" in line)
    assert row.rstrip().endswith(f"  {verdict}")
    assert ("1 real events are found no more" in said) == (verdict == "LOST")


def test_thresholds_and_promises_are_told_before_and_now():
    assert "enter 1.5, at most" not in told([], None)
    assert "marks do not change them" in told([])
    changed = told([], BEFORE, NOW)
    assert changed.count("false events a day") == 2
    assert "before; now enter" in changed


def test_of_another_bundle_only_scores_are_compared():
    clips = [clip_of(np.zeros((3, 8, 8, 1), np.uint8), anomalous=True)]
    (change,) = bundle_changes(clips, BundleMarks(BEFORE, [EVENT]), BundleMarks(NOW, [NONE]))
    assert (change.name, change.is_lost) == ("gate.mp4, frames 0 to 2", True)
    (change,) = bundle_changes(clips, None, BundleMarks(NOW, [NONE]))
    assert (change.before, change.is_lost) == (None, False)
