"""Frames are scored in order and causally, by models with and without a state, and a state never leaves its clip of footage."""

from collections.abc import Iterator

import numpy as np
import pytest

from deploy.engine import Clips, Scores, State
from deploy.spec import ClipSpec
from tests.harness.fakes import BrightnessEngine, MeanBrightnessEngine
from trainer.data.footage import Footage
from trainer.evaluation.runner import SIDE_BY_SIDE, score_clips, score_footage, scored_frames

PLAIN = ClipSpec(length=3, height_px=16, width_px=16)
RECURRENT = ClipSpec(length=1, height_px=16, width_px=16, state_shape=MeanBrightnessEngine.state_shape, state_warmup_frames=24)


def footage(name: str, brightness: list[int], unreadable: int = 0) -> Footage:
    """Grey frames; the first ``unreadable`` of the source are missing."""
    frames = np.repeat(np.array(brightness, np.uint8), 256).reshape(-1, 16, 16, 1)
    return Footage(name, frames, np.arange(len(frames)) + unreadable, len(frames) + unreadable, ())


def mean_by_hand(brightness: list[int]) -> list[float]:
    means: list[float] = []
    total = weight = 0.0
    for value in brightness:
        total, weight = total / 2 + value / 255, weight / 2 + 1
        means.append(total / weight)
    return means


def test_a_state_goes_from_frame_to_frame() -> None:
    scored = list(scored_frames(MeanBrightnessEngine(RECURRENT), footage("a", [0, 255, 255, 51])))

    assert [place for place, _, _ in scored] == [0, 1, 2, 3]
    assert [score for _, score, _ in scored] == pytest.approx(mean_by_hand([0, 255, 255, 51]))
    assert scored[3][2] == pytest.approx(np.full((2, 2), 0.2))


@pytest.mark.parametrize("max_clips", [1, 4, 32])
def test_frames_of_a_stateless_model_are_scored_from_the_first_full_clip_on(max_clips: int) -> None:
    engine = BrightnessEngine(PLAIN, max_clips=max_clips)

    scored = list(scored_frames(engine, footage("a", list(range(10)), unreadable=2)))

    assert [(place, round(score * 255)) for place, score, _ in scored] == [(value + 2, value) for value in range(2, 10)]


def test_frames_are_scored_when_they_are_asked_for() -> None:
    engine = MeanBrightnessEngine(RECURRENT)
    scored = scored_frames(engine, footage("a", [0, 255]))
    next(scored)
    engine.close()

    with pytest.raises(Exception, match="closed"):
        next(scored)


@pytest.mark.parametrize("engine", [BrightnessEngine(PLAIN), MeanBrightnessEngine(RECURRENT)], ids=["stateless", "recurrent"])
def test_several_clips_side_by_side_give_what_each_gives_alone(engine: BrightnessEngine | MeanBrightnessEngine) -> None:
    rng = np.random.default_rng(3)
    lengths = [5, 0, 1, 12, 3, 7, 2, 9, 30, 4, 8]
    clips = [footage(str(n), rng.integers(0, 256, length).tolist(), unreadable=n % 3) for n, length in enumerate(lengths)]

    together = dict(score_clips(engine, iter(clips)))

    assert list(together) == [clip.name for clip in clips]
    for clip in clips:
        np.testing.assert_array_equal(together[clip.name], score_footage(engine, clip))


def test_clips_of_one_name_are_kept_apart() -> None:
    engine = MeanBrightnessEngine(RECURRENT)

    scored = score_clips(engine, [footage("a", [0]), footage("a", [255])])

    assert [(name, row.tolist()) for name, row in scored] == [("a", [0.0]), ("a", [1.0])]


class CountingEngine(MeanBrightnessEngine):
    """Remembers the sizes of its calls."""

    def __init__(self, spec: ClipSpec, max_clips: int = 32) -> None:
        super().__init__(spec, max_clips)
        self.calls: list[int] = []

    def _run(self, clips: Clips, state: State | None) -> Scores:
        self.calls.append(len(clips))
        return super()._run(clips, state)


@pytest.mark.parametrize(("max_clips", "at_once"), [(32, SIDE_BY_SIDE), (3, 3)])
def test_clips_share_calls_and_only_those_under_way_are_held(max_clips: int, at_once: int) -> None:
    engine, loaded = CountingEngine(RECURRENT, max_clips), list[int]()

    def clips() -> Iterator[Footage]:
        for number in range(2 * at_once):
            loaded.append(len(engine.calls))
            yield footage(str(number), [number] * 4)

    score_clips(engine, clips())

    assert engine.calls == [at_once] * 8
    assert loaded == [0] * at_once + [4] * at_once
