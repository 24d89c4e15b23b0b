"""Frames are scored in order and causally, by models with and without a state, and a state never leaves its clip of footage."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deploy.dwell import DWELL_S
from deploy.engine import Inputs, Scores
from deploy.spec import ClipSpec
from tests.harness.fakes import BrightnessEngine, MeanBrightnessEngine
from trainer.data.footage import Footage, Source
from trainer.data.labels import LabelledClip
from trainer.evaluation.region_metrics import RegionMetrics
from trainer.evaluation.runner import (
    PARALLEL_CLIPS,
    NormalScores,
    all_frames,
    run_detectors,
    score_clips,
    score_footage,
    scored_frames,
)

PLAIN = ClipSpec(length=3, height_px=16, width_px=16)
RECURRENT = ClipSpec(length=1, height_px=16, width_px=16, state_shape=MeanBrightnessEngine.state_shape, state_warmup_frames=24)
NAN = np.nan


def footage(name: str, brightness: list[int], unreadable: int = 0) -> Footage:
    """Grey frames; the first ``unreadable`` of the source are missing."""
    frames = np.repeat(np.array(brightness, np.uint8), 256).reshape(-1, 16, 16, 1)
    return Footage(name, frames, np.arange(len(frames)) + unreadable, len(frames) + unreadable, ())


def expected_means(brightness: list[int]) -> list[float]:
    means: list[float] = []
    total = weight = 0.0
    for value in brightness:
        total, weight = total / 2 + value / 255, weight / 2 + 1
        means.append(total / weight)
    return means


def test_state_goes_from_frame_to_frame() -> None:
    scored = list(scored_frames(MeanBrightnessEngine(RECURRENT), footage("a", [0, 255, 255, 51])))
    assert [number for number, _, _ in scored] == [0, 1, 2, 3]
    assert [score for _, score, _ in scored] == pytest.approx(expected_means([0, 255, 255, 51]))
    assert scored[3][2] == pytest.approx(np.full((2, 2), 0.2))


@pytest.mark.parametrize("max_clips", [1, 4, 32])
def test_scores_start_at_the_first_full_clip(max_clips: int) -> None:
    scored = list(scored_frames(BrightnessEngine(PLAIN, max_clips=max_clips), footage("a", list(range(10)), unreadable=2)))
    assert [(number, round(score * 255)) for number, score, _ in scored] == [(value + 2, value) for value in range(2, 10)]


def test_frames_are_scored_lazily() -> None:
    engine = MeanBrightnessEngine(RECURRENT)
    scored = scored_frames(engine, footage("a", [0, 255]))
    next(scored)
    engine.close()
    with pytest.raises(Exception, match="closed"):
        next(scored)


@pytest.mark.parametrize("engine", [BrightnessEngine(PLAIN), MeanBrightnessEngine(RECURRENT)], ids=["stateless", "recurrent"])
def test_parallel_clips_equal_single_ones(engine: BrightnessEngine | MeanBrightnessEngine) -> None:
    rng = np.random.default_rng(3)
    lengths = [5, 0, 1, 12, 3, 7, 2, 9, 30, 4, 8]
    clips = [footage(str(n % 9), rng.integers(0, 256, length).tolist(), unreadable=n % 3) for n, length in enumerate(lengths)]
    scored = score_clips(engine, iter(clips))
    assert [name for name, _ in scored] == [clip.name for clip in clips]  # two names occur twice
    for (_, scores), clip in zip(scored, clips, strict=True):
        np.testing.assert_array_equal(scores, score_footage(engine, clip))


class CountingEngine(MeanBrightnessEngine):
    """Remembers the sizes of its batches."""

    def __init__(self, spec: ClipSpec, max_clips: int = 32) -> None:
        super().__init__(spec, max_clips)
        self.batches: list[int] = []

    def _run(self, inputs: Inputs) -> Scores:
        self.batches.append(len(inputs["clips"]))
        return super()._run(inputs)


@pytest.mark.parametrize("frames", [1, 95, 96, 97, 400, 1000])
def test_stretches_score_as_the_whole(frames: int) -> None:
    engine, advanced = MeanBrightnessEngine(RECURRENT), list[int]()
    clip = footage("long", np.random.default_rng(4).integers(0, 256, frames).tolist(), unreadable=2)
    found = score_footage(engine, clip, advanced.append)
    expected = [score for _, score, _ in scored_frames(engine, clip)]
    np.testing.assert_allclose(found[clip.index], expected, rtol=1e-6)
    assert sum(advanced) == frames


class DwellEngine(MeanBrightnessEngine):
    """The score is the number of seconds for which the picture has been bright, 60 at most, at the frame rate of its profile."""

    def __init__(self, profile_fps: float) -> None:
        super().__init__(RECURRENT.model_copy(update={"fps": 2.0, "profile_size": 2}))
        self._step = 1 / profile_fps

    def _run(self, inputs: Inputs) -> Scores:
        clips, state = inputs["clips"], inputs["state"]
        following = np.minimum(state + self._step, DWELL_S) * (clips[:, -1].max(axis=(1, 2, 3)) > 0).reshape(-1, 1, 1, 1)
        return Scores(following[:, 0, 0, 0], clips[:, -1, ::8, ::8, 0].astype(np.float32), following)


@pytest.mark.parametrize("fps", [None, 4.0])
def test_stretches_count_dwell_as_the_whole(fps: float | None) -> None:
    engine = DwellEngine(fps or 2.0)
    clip = footage("long", ([0] + [200] * 999) * 3)
    expected = [score for _, score, _ in scored_frames(engine, clip)]
    assert max(expected) == DWELL_S
    np.testing.assert_allclose(score_footage(engine, clip, fps=fps), expected, rtol=1e-6)


@pytest.mark.parametrize(("max_clips", "parallel"), [(32, PARALLEL_CLIPS), (3, 3)])
def test_clips_share_batches_and_are_loaded_late(max_clips: int, parallel: int) -> None:
    engine, loaded = CountingEngine(RECURRENT, max_clips), list[int]()

    def clips() -> Iterator[Footage]:
        for number in range(2 * parallel):
            loaded.append(len(engine.batches))
            yield footage(str(number), [number] * 4)

    score_clips(engine, clips())
    assert engine.batches == [parallel] * 8
    assert loaded == [0] * parallel + [4] * parallel


class CornerMasks:
    """Masks of 4 x 4 pixels in which the upper left one is anomalous where the label is 1."""

    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, frame: int) -> np.ndarray:
        mask = np.zeros((4, 4), bool)
        mask[0, 0] = self.labels[frame]
        return mask


def labelled(labels: list[int], *, masks: bool = True, name: str = "a") -> LabelledClip:
    row = np.asarray(labels, np.uint8)
    return LabelledClip(Source(name, Path(name)), row, CornerMasks(row) if masks else None)


def result(score: float) -> tuple[float, np.ndarray] | None:
    """All of the score at the upper left pixel."""
    heatmap = np.zeros((4, 4), np.float32)
    heatmap[0, 0] = score
    return None if np.isnan(score) else (score, heatmap)


def run(clips, *scores, median=0.0, advance=id):
    """One detector that gives these scores for every clip."""
    (output,) = run_detectors(clips, lambda _: ((result(score),) for score in scores), [NormalScores(median, None)], advance)
    return output


def test_skipped_frames_become_none() -> None:
    scored = [(2, *result(0.5)), (4, *result(0.7))]
    assert [None if one is None else one[0] for (one,) in all_frames(scored, 6)] == [None, None, 0.5, None, 0.7, None]


def test_output_has_scores_and_pixel_auc() -> None:
    steps: list[int] = []
    output = run([labelled([0, 1, 1])], NAN, 5.0, 6.0, median=1.0, advance=steps.append)
    assert output.scores["a"].tolist() == pytest.approx([NAN, 5.0, 6.0], nan_ok=True)
    assert (output.normal, output.pixel_auc, sum(steps)) == (NormalScores(1.0, None), 1.0, 3)


def test_detectors_run_side_by_side() -> None:
    frames = [(result(1.0), None), (result(2.0), (9.0, -result(9.0)[1]))]
    first, second = run_detectors([labelled([0, 1])], lambda _: iter(frames), [NormalScores(0.0, None)] * 2, id)
    assert first.scores["a"].tolist() == [1.0, 2.0]
    assert second.scores["a"].tolist() == pytest.approx([NAN, 9.0], nan_ok=True)
    assert first.pixel_auc == 1.0
    assert second.pixel_auc == pytest.approx(16 / 31)  # above the 16 pixels of the frame without a map, below 15 of its own


def test_region_metrics_need_thresholds(limits) -> None:
    frames = [(result(9.0), result(9.0)), (None, None)]
    normal = [NormalScores(1.0, limits), NormalScores(1.0, None)]
    first, second = run_detectors([labelled([1, 0]), labelled([1, 0], name="b")], lambda _: iter(frames), normal, id)
    assert first.region_metrics == RegionMetrics(rbdc=1.0, tbdc=1.0, regions=2, tracks=2)
    assert second.region_metrics is None


def test_pixel_auc_needs_masks_of_all_anomalous_clips(tmp_path, street, pictures) -> None:
    calm = LabelledClip(Source("calm", pictures(tmp_path / "calm", street(2, 1.0))), np.zeros(2, np.uint8))
    assert run([labelled([0, 1]), calm], 0.5, 2.0).pixel_auc is not None
    assert run([labelled([0, 1], masks=False), calm], 0.5, 2.0).pixel_auc is None
