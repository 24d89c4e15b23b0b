"""What operators' marks change: what was called normal becomes usual where it was, and how marked events score before and after.

Marks are chosen for their high scores, so they say what may happen and nothing of how often: neither ranges nor thresholds follow
from them. What a camera showed during a false alarm raises the usual values of the profile, at its place and of the part of the
score that had raised it, as far as it takes to keep it below the threshold at which events end.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy import ndimage

from deploy.bundle import Bundle
from deploy.calibration import DEFAULT_BUDGET, Calibration, Thresholds, count_events, scored_at_rate, thresholds
from deploy.console import counting_bar
from deploy.decision import DecisionTimes
from deploy.dwell import reduce_frame
from deploy.engine import Engine, EngineRequest
from deploy.profile import Profile, ProfileValues
from deploy.profile_learning import Normal, replace_normal
from deploy.registry import load_engine
from deploy.score_maps import Grid, ScoreMaps, dwell_of, picture_of, state_maps, to_cells
from trainer.data.annotations import (
    AnnotatedClip,
    Annotation,
    load_annotated_clips,
    read_annotations,
    require_apart,
)
from trainer.data.datasets import training_sources
from trainer.data.footage import load_footage
from trainer.evaluation.runner import lead_frames

_BELOW: Final = 1e-3
"""How far below the exit threshold that is which was called normal."""
_BLACK, _NOT_BLACK = 20, 40
"""Grey levels of a privacy mask at most, and of what it hides at least."""
_MASK_EDGE = 4  # cells around a mask that see it

Cells = NDArray[np.bool_]


class MarkedScore(NamedTuple):
    """How a marked stretch scores."""

    peak: float
    enter: float
    is_event: bool


class MarkChange(NamedTuple):
    """A marked stretch, and how it scored before and scores now."""

    name: str
    anomalous: bool
    before: MarkedScore | None
    """None if there is no before."""
    after: MarkedScore

    @property
    def is_lost(self) -> bool:
        """Whether it is a real event that was found."""
        return self.anomalous and self.before is not None and self.before.is_event and not self.after.is_event


class BundleMarks(NamedTuple):
    """How marked stretches score with a bundle's default profile."""

    calibration: Calibration
    scores: Sequence[MarkedScore]


class _Shown(NamedTuple):
    """The frames of a marked stretch, of which the cells under a privacy mask do not count."""

    scores: NDArray[np.float32]  # (N, h, w)
    maps: ScoreMaps
    counted: Cells  # (h, w)


class MarkScorer:
    """Scores marked stretches with an engine, a profile's values and thresholds."""

    def __init__(self, engine: Engine, grid: Grid, values: ProfileValues, calibration: Calibration) -> None:
        self._engine, self._grid, self._values = engine, grid, values
        self.limits = thresholds(calibration, DEFAULT_BUDGET, DecisionTimes())

    def show(self, clip: AnnotatedClip, fps: float) -> _Shown:
        """Scores and maps of a stretch. The frames before it build up the state, which may hold a minute."""
        first = max(0, clip.first - lead_frames(self._engine.spec, fps))
        normal = Normal.from_values(self._values, self._grid.shape)
        heatmaps, states, state = [], [], None
        for number in range(first, clip.last + 1):
            scored = self._engine.score(clip.footage.frames[number][None, None], state, self._values[None])
            state = scored.state
            if number >= clip.first and state is not None:
                heatmaps.append(scored.heatmap)
                states.append(state_maps(state, dwell_of(state), normal.lights_of(picture_of(state)), self._grid))
        maps = ScoreMaps(*(np.concatenate(parts) for parts in zip(*states, strict=True)))
        return _Shown(np.concatenate(heatmaps), maps, ~masked_cells(clip, normal.background.pictures))

    def judge(self, shown: _Shown, fps: float) -> MarkedScore:
        """Whether the service would raise an event."""
        scores = shown.scores[:, shown.counted].max(axis=1)
        part = scored_at_rate(scores, fps)
        events = count_events(part, self.limits.median, self.limits.enter, DecisionTimes())
        return MarkedScore(float(scores.max()), self.limits.enter, events > 0)


def learn_marks(
    bundle: Bundle, profile: Profile, annotations: Sequence[Annotation], screen: Console
) -> tuple[Profile, list[MarkChange]]:
    """The profile in which what operators called normal is usual, and what that changes for all marked stretches.

    Real events change nothing: they show whether they are still found.

    Raises:
        BadFeedback: a stretch does not fit its clip.
        OddsightError: no usable engine.
    """
    grid, fps, calibration = Grid.of(bundle), profile.info.fps, profile.info.calibration
    normal = Normal.from_values(profile.values, grid.shape)
    before, after = [], []
    with (
        closing(load_engine(bundle, EngineRequest())) as engine,
        counting_bar(screen, "marked events", 2 * len(annotations)) as advance,
    ):
        scorer = MarkScorer(engine, grid, profile.values, calibration)
        for clip in _clips(annotations, bundle):
            shown = scorer.show(clip, fps)
            before.append(scorer.judge(shown, fps))
            normal = normal if clip.anomalous else _made_usual(normal, shown, clip, scorer.limits)
            advance(1)
        values = replace_normal(profile.values, grid.shape, normal)
        scorer = MarkScorer(engine, grid, values, calibration)
        for clip, earlier in zip(_clips(annotations, bundle), before, strict=True):
            after.append(MarkChange(_name(clip), clip.anomalous, earlier, scorer.judge(scorer.show(clip, fps), fps)))
            advance(1)
    learned = tuple(each.source.name for each in annotations if not each.anomalous)
    info = profile.info.model_copy(update={"footage": (*profile.info.footage, *learned)})
    return Profile(info, values), after


def score_marks(bundle: Bundle, clips: Iterable[AnnotatedClip]) -> BundleMarks:
    """Raises ProfileIncompatible if the model takes no profiles."""
    grid, fps = Grid.of(bundle), bundle.spec.fps
    with closing(load_engine(bundle, EngineRequest())) as engine:
        scorer = MarkScorer(engine, grid, np.asarray(bundle.default_profile), bundle.calibration)
        return BundleMarks(bundle.calibration, [scorer.judge(scorer.show(clip, fps), fps) for clip in clips])


def bundle_changes(clips: Sequence[AnnotatedClip], before: BundleMarks | None, after: BundleMarks) -> list[MarkChange]:
    """What changed for marked stretches from one bundle to another."""
    earlier = [None] * len(clips) if before is None else before.scores
    return [
        MarkChange(_name(clip), clip.anomalous, old, new) for clip, old, new in zip(clips, earlier, after.scores, strict=True)
    ]


def camera_marks(path: Path, camera_id: str, data: Path, screen: Console) -> list[Annotation]:
    """The marks of one camera, and those that name none. Raises BadFeedback if an anomaly lies in ``data``, or a line is bad."""
    annotations = read_annotations(path)
    own = [each for each in annotations if each.camera_id in {None, camera_id}]
    require_apart(own, training_sources(data))
    unknown = sum(each.camera_id == "" for each in annotations)
    rest = f"; {unknown} do not say of which, and are left out" if unknown else ""
    screen.print(f"feedback: {len(own)} of {len(annotations)} marks are of {camera_id}{rest}", markup=False, highlight=False)
    return own


def _clips(annotations: Sequence[Annotation], bundle: Bundle) -> Iterator[AnnotatedClip]:
    """One after the other: all of them together may not fit into memory."""
    for annotation in annotations:
        yield from load_annotated_clips([annotation], (), bundle.spec, load_footage)


def _made_usual(normal: Normal, shown: _Shown, clip: AnnotatedClip, limits: Thresholds) -> Normal:
    most = limits.exit - _BELOW * (1 + abs(limits.exit))
    hot = (normal.heat_maps(shown.maps) > most) & shown.counted
    return normal.with_usual(shown.maps, cells_of_region(hot, clip), most)


def cells_of_region(hot: Cells, clip: AnnotatedClip) -> Cells:
    """The hot cells, (N, h, w), of what passes through the marked region: it moves, and the region is that of one moment."""
    if clip.region is None:
        return hot
    (height_px, width_px), (height, width), box = clip.footage.frames.shape[1:3], hot.shape[1:], clip.region
    rows = slice(box.y * height // height_px, -(-(box.y + box.height) * height // height_px))
    columns = slice(box.x * width // width_px, -(-(box.x + box.width) * width // width_px))
    things, _ = ndimage.label(hot, np.ones((3, 3, 3)))
    inside: Cells = np.isin(things, np.setdiff1d(things[:, rows, columns], 0))
    return inside


def masked_cells(clip: AnnotatedClip, usual: NDArray[np.float32]) -> Cells:
    """Cells that are black in all of the stretch, and never otherwise: clips of events hide what is under a privacy mask."""
    brightest = reduce_frame(clip.footage.frames[clip.first : clip.last + 1].max(axis=0))
    black = to_cells((brightest <= _BLACK) & (usual.min(axis=0) >= _NOT_BLACK))
    masked = ndimage.binary_dilation(black, np.ones((3, 3)), _MASK_EDGE)
    return np.zeros_like(masked) if masked.all() else masked


def _name(clip: AnnotatedClip) -> str:
    first, last = clip.footage.index[[clip.first, clip.last]].tolist()
    return f"{clip.footage.name}, frames {first} to {last}"
