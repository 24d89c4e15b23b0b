"""Learning the profile of a camera that the service has never seen, while the default profile scores its frames.

A learner goes through six phases: the background, usual speeds, anomalies and dwells, their ranges, the thresholds that each of
them would need by itself, the range of the three together, and thresholds. Each takes a share of the least time and sees only
frames that the phases before have not seen. A camera that is known in one light goes through the same phases in a second one.
"""

import base64
import json
import math
import zlib
from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from deploy.calibration import (
    DEFAULT_BUDGET,
    TAIL_PEAKS,
    Calibration,
    calibrate_scores,
    merge,
    split_at_gaps,
    thresholds,
)
from deploy.clock import ClockState
from deploy.decision import DecisionTimes
from deploy.dwell import dwell_step, empty_background, foreground, learn_background, update_dwell
from deploy.errors import ProfileCorrupt, first_line
from deploy.profile import Profile, ProfileInfo, ProfileValues, header_entry
from deploy.profile_learning import (
    MAX_MAXIMA,
    Maxima,
    Normal,
    Split,
    needed_threshold,
    replace_normal,
    thresholds_in_lights,
)
from deploy.score_maps import PLACE_CELLS, Grid, ScoreMaps, picture_of, place_grid, state_maps
from deploy.usual_maps import UsualMaps
from streamer.interfaces import Snapshot
from streamer.types import LATEST_MS, FrameInfo, LearningProgress, Outcome

FOOTAGE_NAME: Final = "live"  # stands in a profile in place of the names of clips
SNAPSHOT_EVERY_MS: Final = 5_000  # of capture time: what a restart replays at most

PHASES: Final = ("background", "usual", "ranges", "parts", "joint", "thresholds")
_PHASE_ENDS: Final = (0.2, 0.45, 0.55, 0.7, 0.75, 1.0)  # as shares of the least time
_MIN_FRAMES: Final = 100  # a phase ends after a multiple of this
_MAX_FRAMES: Final = (60_000, 60_000, MAX_MAXIMA, 60_000, MAX_MAXIMA, 100_000)  # of each phase; 16-bit counts hold 65,535 frames
_PICTURES: Final = 60  # of the background
_MOST_TIMES: Final = 3.0  # the least time, after which a camera is watched however uncertain its thresholds are
_ROW_COLUMNS: Final = (0, 0, 4, 4, 2, 2)  # of what each phase measures of a frame: the last one is its time
_LEAST_ENTER: Final = 0.1  # in normal ranges; the scores of a still picture may have a threshold of 0
_MAX_SNAPSHOT_BYTES: Final = 8 << 20
_COUNTS, _MODEL = "counts", "model_id"  # entries of a snapshot's header


_Count = Annotated[int, Field(ge=0, le=2**53)]


class KnownLight(NamedTuple):
    """What is known of a camera that is learned in a second light."""

    normal: Normal
    calibration: Calibration


@dataclass(slots=True)
class Counts:
    """How far a camera is learned."""

    offset: Annotated[int, Field(ge=-1)] = -1  # of the newest frame that was learned from
    clip_from: _Count | None = None  # its first frame needed to rebuild the state
    width_px: _Count = 0
    height_px: _Count = 0
    phase: Annotated[int, Field(ge=0, lt=len(PHASES))] = 0  # index into PHASES
    frames: _Count = 0
    phase_frames: _Count = 0
    observed_ms: _Count = 0  # time between consecutive frames, without gaps
    intervals: _Count = 0  # number of those times
    last_ms: Annotated[int, Field(ge=0, le=LATEST_MS)] = 0  # capture time of the newest frame
    pictured_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0  # observed time from which the next picture is taken
    is_second_light: bool = False


class ProfileLearner:
    """Learns one camera's profile from its outcomes, in bounded memory (about 1 MB, and 32 bytes for each frame of a phase)."""

    def __init__(
        self,
        model_id: str,
        grid: Grid,
        least_s: float,
        max_gap_ms: int,
        times: DecisionTimes,
        known: KnownLight | None = None,
    ) -> None:
        """``known``: of a camera that is learned in a second light, and learns nothing else."""
        self.counts = Counts(is_second_light=known is not None)
        self._known, self._light = known, int(known is not None)
        self.calibration: Calibration | None = None
        """Set when all is learned."""
        self._model_id = model_id
        self._grid, self._least_ms, self._max_gap_ms, self._times = grid, least_s * 1000, max_gap_ms, times
        self._usual = UsualMaps(grid.shape)
        places = place_grid(grid.shape)
        self._normal = Normal.without_ranges(self._usual, empty_background(places), 0.0) if known is None else known.normal
        self._pictures: list[NDArray[np.uint8]] = []
        """Spread over the phase of the background, (a, b)."""
        self._dwell = np.zeros(places, np.float32)
        """By the background as far as it is known: that of the network is not, the camera has no profile yet."""
        self._rows = array("d")
        """What the phase measured of each frame, one after the other."""
        self._snapshot_ms = -SNAPSHOT_EVERY_MS  # the first frame is stored at once: no restart can skip it
        self._clip_clock: ClockState | None = None
        """Of the camera before the frame at ``counts.clip_from``."""

    def progress(self) -> LearningProgress:
        """How much of the least time has been learned from."""
        left_ms = max(0.0, self._least_ms - self.counts.observed_ms)
        return LearningProgress(1.0 - left_ms / self._least_ms, left_ms / 1000)

    def add(self, outcome: Outcome) -> None:
        """Learn from the camera's next frame. A frame that was learned from before is passed over."""
        info, counts = outcome.info, self.counts
        if info.offset <= counts.offset or self.calibration is not None:
            return
        self._count(info, outcome.clip_from)
        self._clip_clock = outcome.clip_clock
        if outcome.state is None or outcome.picture is None:
            return
        picture = picture_of(outcome.state[None])
        shown = foreground(picture, self._normal.background)[0]
        self._dwell = update_dwell(self._dwell, shown, self._normal.dwell_step)
        maps = state_maps(outcome.state[None], self._dwell[None], np.array([self._light]), self._grid)
        # Averages of less than their full time are not normal; they follow every gap.
        if maps.observed[0, 0, 0] < 1.0:
            return
        counts.frames += 1
        counts.phase_frames += 1
        self._measure(maps, outcome.picture, info.captured_at_ms)
        due = counts.observed_ms >= _PHASE_ENDS[counts.phase] * self._least_ms and counts.phase_frames % _MIN_FRAMES == 0
        if due or counts.phase_frames >= _MAX_FRAMES[counts.phase]:
            self._end_phase()

    def _count(self, info: FrameInfo, clip_from: int | None) -> None:
        counts = self.counts
        between_ms = info.captured_at_ms - counts.last_ms
        if 0 < between_ms <= self._max_gap_ms:
            counts.observed_ms += between_ms
            counts.intervals += 1
        counts.last_ms, counts.offset, counts.clip_from = info.captured_at_ms, info.offset, clip_from
        counts.width_px, counts.height_px = info.width_px, info.height_px

    def _measure(self, maps: ScoreMaps, picture: NDArray[np.uint8], captured_at_ms: int) -> None:
        match PHASES[self.counts.phase]:
            case "background":
                self._keep(picture)
            case "usual":
                self._usual.add(maps)
                self._usual.add_dwells(maps.dwell[:, ::PLACE_CELLS, ::PLACE_CELLS])
            case "ranges":
                self._add_row(self._normal.part_maxima(maps), captured_at_ms)
            case "parts":
                self._add_row(self._normal.scaled_maxima(maps), captured_at_ms)
            case "joint":
                self._add_row(self._normal.joint_maxima(maps), captured_at_ms)
            case _:
                self._add_row(self._normal.score_maxima(maps), captured_at_ms)

    def _add_row(self, maxima: Maxima, captured_at_ms: int) -> None:
        self._rows.extend([*maxima.values[:, 0], captured_at_ms])

    def _measured_rows(self) -> NDArray[np.float64]:
        """The rows of the phase, (frames, columns); (0,) if there are none."""
        rows = np.array(self._rows)
        return rows.reshape(-1, _ROW_COLUMNS[self.counts.phase]) if rows.size else rows

    def _keep(self, picture: NDArray[np.uint8]) -> None:
        """Keep a picture of the background, if it is time for the next one."""
        if self.counts.observed_ms >= self.counts.pictured_ms and len(self._pictures) < _PICTURES:
            self._pictures.append(picture)
            self.counts.pictured_ms = self.counts.observed_ms + _PHASE_ENDS[0] * self._least_ms / _PICTURES

    def _end_phase(self) -> None:
        """Use what the phase measured. That of thresholds goes on until they are certain enough."""
        *columns, captured_at_ms = self._measured_rows().T if self._rows else np.empty((1, 0))
        measured = Maxima(np.array(columns, np.float32), np.full(len(captured_at_ms), self._light))
        split = partial(split_at_gaps, captured_at_ms.astype(np.int64), max_gap_ms=self._max_gap_ms)
        match PHASES[self.counts.phase]:
            case "background":
                background = learn_background(np.stack(self._pictures).astype(np.float32), self.counts.observed_ms / 1000)
                first = Normal.without_ranges(self._usual, background, dwell_step(self._fps()))
                self._normal = first if self._known is None else self._known.normal.with_second_picture(background)
            case "usual":
                self._normal = Normal.without_ranges(self._usual, self._normal.background, self._normal.dwell_step)
            case "ranges":
                self._normal = self._normal.with_ranges(measured, measured._replace(values=measured.values[2:]))
            case "parts":
                self._normal = self._normal.with_part_thresholds(thresholds_in_lights(measured, split, self._times))
            case "joint":
                self._normal = self._normal.with_joint_ranges(measured)
            case _:
                self._calibrate(measured.values[0], split)
                return
        if self._known is not None:
            self._normal = self._known.normal.with_second_light(self._normal)
        self._rows = array("d")
        self.counts.phase, self.counts.phase_frames = self.counts.phase + 1, 0

    def _calibrate(self, scores: NDArray[np.float32], split: Split) -> None:
        """Set the calibration if its tail is certain, or can be waited for no longer. ``scores``: of the phase's frames, (N,)."""
        calibration = calibrate_scores(split(scores), self._times)
        waited = self.counts.observed_ms >= _MOST_TIMES * self._least_ms or self.counts.phase_frames >= _MAX_FRAMES[-1]
        if len(calibration.peaks) < TAIL_PEAKS and not waited:
            return
        if self._known is not None:  # the second light is brought to the threshold of the first
            enter = max(_LEAST_ENTER, thresholds(self._known.calibration, DEFAULT_BUDGET, self._times).enter)
            factors = np.array([1.0, max(1.0, needed_threshold(calibration)) / enter], np.float32)
            self._normal = self._normal.with_joint_widened(factors)
            calibration = calibrate_scores(split(scores / factors[1]), self._times)
        self.calibration = calibration

    def goes_on_with(self, outcome: Outcome) -> bool:
        """Whether the camera's next frame is in the light that is learned, and of the size that was learned from."""
        counts, info = self.counts, outcome.info
        same_size = counts.offset < 0 or (info.width_px, info.height_px) == (counts.width_px, counts.height_px)
        return same_size and counts.is_second_light == (outcome.profile is not None)

    def profile(self, camera_id: str, head: ProfileValues, calibration: Calibration) -> Profile:
        """The profile; the same frames give the same one, whenever they are read. ``head``: its values before those of normal."""
        counts = self.counts
        info = ProfileInfo(
            camera_id=camera_id,
            model_id=self._model_id,
            created_at=datetime.fromtimestamp(counts.last_ms / 1000, UTC),
            footage=(FOOTAGE_NAME,),
            frames=counts.frames,
            fps=self._fps(),
            height_px=counts.height_px,
            width_px=counts.width_px,
            calibration=calibration,
        )
        return Profile(info, np.concatenate([head, self._normal.values()]))

    def with_second_light(self, profile: Profile, calibration: Calibration) -> Profile:
        """The camera's profile, with the light that was learned as its second one."""
        normal = Normal.from_values(profile.values, self._grid.shape).with_second_light(self._normal)
        info = profile.info.model_copy(
            update={
                "created_at": datetime.fromtimestamp(self.counts.last_ms / 1000, UTC),
                "frames": profile.info.frames + self.counts.frames,
                "calibration": merge(profile.info.calibration, calibration, math.inf),
            }
        )
        return Profile(info, replace_normal(profile.values, self._grid.shape, normal))

    def _fps(self) -> float:
        return max(self.counts.intervals, 1) * 1000 / max(self.counts.observed_ms, 1)

    def is_snapshot_due(self) -> bool:
        """Whether so much was learned since the last snapshot that it is time for another."""
        return self.counts.observed_ms - self._snapshot_ms >= SNAPSHOT_EVERY_MS

    def begin_anew(self) -> None:
        """Frames are left out: those before are not needed any more, which is to be stored at once."""
        if self.counts.clip_from is not None:
            self.counts.clip_from, self._clip_clock = None, None
            self._snapshot_ms = self.counts.observed_ms - SNAPSHOT_EVERY_MS

    def snapshot(self) -> Snapshot:
        """All that is needed to go on after a restart."""
        from safetensors.numpy import save

        self._snapshot_ms = self.counts.observed_ms
        arrays: dict[str, NDArray[Any]] = {
            **self._usual.arrays(),
            "normal": self._normal.values(),
            "dwell": self._dwell,
            "pictures": np.array(self._pictures, np.uint8).reshape(-1, *self._dwell.shape),
            "rows": self._measured_rows(),
        }
        header = {_COUNTS: json.dumps(asdict(self.counts)), _MODEL: self._model_id}
        packed = zlib.compress(save(arrays, header), level=1)
        content = base64.b64encode(packed).decode()
        return Snapshot(clip_from=self.counts.clip_from, content=content, clip_clock=self._clip_clock, offset=self.counts.offset)

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a snapshot. Raises ProfileCorrupt if it is not one of this network's."""
        arrays, counts, model_id = _unpacked(snapshot)
        expected = {**self._usual.arrays(), "normal": self._normal.values(), "dwell": self._dwell}
        if any(_kind(arrays.get(name)) != _kind(array) for name, array in expected.items()):
            raise ProfileCorrupt("not a snapshot of a learner (an array is missing or has another shape)")
        _check_measured(arrays, counts, self._dwell.shape)
        if model_id != self._model_id:
            raise ProfileCorrupt(f"the snapshot is of another network, {model_id}")
        if counts.is_second_light != self.counts.is_second_light:
            raise ProfileCorrupt("not a snapshot of a learner (of this light of the camera)")
        self._usual = UsualMaps(self._grid.shape, *(arrays[name].copy() for name in self._usual.arrays()))
        self._pictures, self._dwell = list(arrays["pictures"]), arrays["dwell"]
        self._normal = Normal.from_values(arrays["normal"], self._grid.shape)
        self._rows = array("d", arrays["rows"].ravel())
        # Without a frame to go on from, nothing behind the snapshot is replayed: the next one is due with the next frame.
        self.counts, self._snapshot_ms = counts, -SNAPSHOT_EVERY_MS if snapshot.clip_from is None else counts.observed_ms
        self._clip_clock = snapshot.clip_clock


def _unpacked(snapshot: Snapshot) -> tuple[dict[str, NDArray[Any]], Counts, str]:
    """The arrays, the counts, and the model_id of the network that they belong to."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        content = zlib.decompressobj().decompress(base64.b64decode(snapshot.content), _MAX_SNAPSHOT_BYTES)
        counts = TypeAdapter(Counts).validate_json(header_entry(content, _COUNTS))
        return load(content), counts, header_entry(content, _MODEL)
    except (SafetensorError, zlib.error, KeyError, ValueError, TypeError, RecursionError) as error:
        raise ProfileCorrupt(f"not a snapshot of a learner ({first_line(error)})") from error


def _kind(array: NDArray[Any] | None) -> tuple[object, ...]:
    return () if array is None else (array.dtype, array.shape, bool(np.isfinite(array).all()))


def _check_measured(arrays: Mapping[str, NDArray[Any]], counts: Counts, places: tuple[int, ...]) -> None:
    """Raise ProfileCorrupt unless what a phase has measured can be what its counts say."""
    rows, pictures = arrays.get("rows"), arrays.get("pictures")
    if rows is None or pictures is None or pictures.dtype != np.uint8 or pictures.shape[1:] != places:
        raise ProfileCorrupt("not a snapshot of a learner (rows or pictures are missing or have another shape)")
    columns = _ROW_COLUMNS[counts.phase]
    expected = (counts.phase_frames, columns) if counts.phase_frames and columns else (0,)
    if rows.dtype != np.float64 or rows.shape != expected or not np.isfinite(rows).all():
        raise ProfileCorrupt(f"not a snapshot of a learner (the phase {PHASES[counts.phase]} has rows {rows.shape})")
    if counts.phase == 0 and not len(pictures) and (counts.phase_frames or counts.pictured_ms):
        raise ProfileCorrupt("not a snapshot of a learner (it has seen frames, but kept no picture)")
