"""The health of a camera: frozen, covered, dark, over-exposed, out of focus, moved, another view, or at another frame rate.

A :class:`Reference` says how the camera's picture looks when all is well; it is learned while it watches and follows it slowly.
Light changes the level and the contrast of a picture, but hardly where its edges are: by their correlation with those of the
reference a view is recognised, and by the best shift of them a turned camera. Without a reference only what is wrong with any
picture is told.
"""

import base64
import json
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from deploy.image import Frame

HealthProblem = Literal[
    "offline",
    "frozen",
    "covered",
    "dark",
    "overexposed",
    "defocused",
    "moved",
    "other_view",
    "exposure",
    "unknown_light",
    "rate",
    "damaged",
    "clock",
]
"""Not seen in a picture are ``offline``: there is none; ``damaged`` and ``clock``, which are told of a share of the frames; and
``rate``: frames come at another one than in the footage that the camera's profile was learned from, so that everything seems
faster or slower. ``exposure``: it keeps changing. ``unknown_light``: see :mod:`deploy.light`."""

CONFIRM_MS: Final = 2_000
"""How long a problem must last, and must be over, before it is told."""
REFERENCE_MEASURES: Final = 60
"""Measures that a reference is learned from."""
_OTHER_CONFIRM_MS: Final[Mapping[HealthProblem, int]] = {
    "other_view": 10_000,  # somebody may stand before the camera
    "unknown_light": 10_000,
    "frozen": 0,  # it has lasted already
    "exposure": 60_000,  # one step, or a cloud, is nothing to tell; but what is seen meanwhile is no evidence
}

_SIDE: Final = 4  # pixels of a cell of the reduced picture
_FINE_PX: Final = 2.0  # standard deviation of the blur that takes fine detail away
_BRIGHT: Final = 250
_MOST_BRIGHT_SHARE: Final = 0.5
_DARK_LEVEL: Final = 20.0
_DARK_SHARE: Final = 0.3  # of the level of the reference
_FLAT: Final = 3.0  # grey levels of contrast
_FLAT_SHARE: Final = 0.25
_DETAIL_SHARE: Final = 0.5
_SIMILARITY_SHARE: Final = 0.5  # of what the least similar pictures of the reference have
_LEAST_SHIFT: Final = 2  # cells
_SHIFT_GAIN: Final = 0.2  # in similarity; without it, a stripe would fit in many places
_MAX_PICTURE_BYTES: Final = 1 << 22
_STILL_MS: Final = 1_500
_STILL_TIMES: Final = 3  # the longest still time of the reference: noise-free pictures of an empty place do not change for long
_MEASURE_EVERY_MS: Final = 1_000
_CHANGE_STEP, _CHANGE_LEVELS = 8, 12.0  # every 8th pixel of every 8th row; mean difference of grey levels
_LEAST_LIGHT_STEP: Final = 0.05  # of the logarithm of the level
_LIGHT_RESIDUAL: Final = 0.25  # of the change, that one factor for all pixels may leave
_LEAST_LEVEL, _LEAST_LIT_PIXELS = 8, 100  # of pixels that tell of the light
MOST_RATE_RATIO: Final = 1.4
"""How much faster or more slowly than usual frames may come; twice as many make everything half as fast."""
_RATE_INTERVALS: Final = 5
_FAULT_FRAMES: Final = 50  # over which the share of frames with a fault is averaged
_MANY_FAULTS, _FEW_FAULTS = 0.1, 0.01  # shares from which, and below which, a fault is announced
_FOLLOW: Final = 0.01  # weight of a new picture in the reference

Map = NDArray[np.float32]


class Measures(NamedTuple):
    """What a picture shows of the camera's health, in grey levels."""

    level: float
    """Mean."""
    contrast: float
    """Standard deviation without fine detail."""
    detail: float
    """Standard deviation of fine detail, relative to the contrast."""
    bright_share: float
    """Share of pixels at the upper end."""
    picture: Map
    """(h, w), reduced to a quarter of each side."""


class Reference(NamedTuple):
    """How a camera's picture looks when all is well."""

    picture: Map  # (h, w)
    level: float
    contrast: float
    detail: float
    similarity: float
    """Correlation of edges that all but the least similar pictures had with this one, 0 to 1."""
    still_ms: float
    """Longest time that it did not change at all."""


class HealthState(BaseModel):
    """What is stored of a camera's health between two measures. Its field names are part of the format in Redis."""

    model_config = ConfigDict(frozen=True)

    problem: HealthProblem | None = None
    """That is announced and lasts."""
    since_ms: int = 0
    """Since when it lasts."""
    suspected: HealthProblem | None = None
    """What the newest measure shows, if that is something else."""
    suspected_ms: int | None = None
    """Since when it shows that; None if it shows nothing else."""

    @property
    def is_trusted(self) -> bool:
        """Whether what the camera shows may start events."""
        return self.problem is None and self.suspected_ms is None


class FaultState(BaseModel):
    """What is stored of a fault that single frames of a camera have. Its field names are part of the format in Redis."""

    model_config = ConfigDict(frozen=True)

    share: float = 0.0
    """Of the camera's last frames, those with the fault; 0 to 1."""
    since_ms: int | None = None
    """Since when it is announced; None if it is not."""


class HealthChange(NamedTuple):
    """The start or the end of a problem."""

    kind: Literal["start", "end"]
    problem: HealthProblem
    since_ms: int


class Look(NamedTuple):
    """What a measured picture shows."""

    problem: HealthProblem | None
    seen: Measures
    still_ms: int
    """How long the picture has not changed at all."""


class PictureWatch:
    """Measures pictures of one camera about once a second, and at once when all of the picture changes."""

    def __init__(self, reference: Reference | None) -> None:
        self.reference = reference
        self._measured_ms = -(10**12)
        self._thumbnail: NDArray[np.int16] | None = None
        """Of the last measured picture."""
        self._checksum, self._changed_ms = 0, 0

    def is_due(self, now_ms: int) -> bool:
        """Whether the next picture is measured however little it has changed."""
        return abs(now_ms - self._measured_ms) >= _MEASURE_EVERY_MS

    def look(self, frame: Frame, now_ms: int) -> Look | None:
        """``frame``: uint8 (H, W, C), captured at ``now_ms``; None if it is not measured."""
        thumbnail = frame[::_CHANGE_STEP, ::_CHANGE_STEP].astype(np.int16)
        changed = self._thumbnail is not None and np.abs(thumbnail - self._thumbnail).mean() > _CHANGE_LEVELS
        relit = self._thumbnail is not None and _is_relit(self._thumbnail, thumbnail)
        if not self.is_due(now_ms) and not changed and not relit:
            return None
        self._measured_ms, self._thumbnail = now_ms, thumbnail
        checksum = zlib.crc32(frame.tobytes())
        if checksum != self._checksum or now_ms < self._changed_ms:
            self._checksum, self._changed_ms = checksum, now_ms
        seen, still_ms = measure(frame), now_ms - self._changed_ms
        if self.reference is not None and self.reference.picture.shape != seen.picture.shape:
            self.reference = None  # of a model that takes frames of another size
        problem = find_problem(seen, self.reference, still_ms)
        return Look("exposure" if problem is None and relit else problem, seen, still_ms)


class RateWatch:
    """Compares the rate at which a camera's frames were captured with the usual one."""

    def __init__(self) -> None:
        self._times_ms: deque[int] = deque(maxlen=_RATE_INTERVALS + 1)

    def is_usual(self, now_ms: int, fps: float, max_gap_ms: int) -> bool:
        """Whether the last frames, the newest captured at ``now_ms``, come at about ``fps`` frames a second.

        A longer gap than ``max_gap_ms``, or a step back, is no rate: what follows is judged by itself.
        """
        if self._times_ms and not 0 <= now_ms - self._times_ms[-1] <= max_gap_ms:
            self._times_ms.clear()
        self._times_ms.append(now_ms)
        if len(self._times_ms) <= _RATE_INTERVALS:
            return True
        ratio = (now_ms - self._times_ms[0]) / _RATE_INTERVALS * fps / 1000
        return 1 / MOST_RATE_RATIO <= ratio <= MOST_RATE_RATIO


def measure(frame: Frame) -> Measures:
    """``frame``: uint8 (H, W, C)."""
    grey = np.ascontiguousarray(frame[..., 0] if frame.shape[-1] == 1 else cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY))
    values = grey.astype(np.float32)
    coarse = cv2.GaussianBlur(values, (0, 0), _FINE_PX)
    contrast = float(coarse.std())
    size = (grey.shape[1] // _SIDE, grey.shape[0] // _SIDE)
    return Measures(
        level=float(values.mean()),
        contrast=contrast,
        detail=float((values - coarse).std()) / max(contrast, 1.0),
        bright_share=float((grey >= _BRIGHT).mean()),
        picture=np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), np.float32),
    )


def learn_reference(seen: Sequence[Measures], still_ms: float) -> Reference:
    """The reference of measures of a camera at which all is well; ``still_ms``: the longest time without any change."""
    picture = np.median([each.picture for each in seen], axis=0).astype(np.float32)
    similarity = float(np.quantile([_similarity(_edges(each.picture), _edges(picture)) for each in seen], 0.05))
    level, contrast, detail = (
        float(np.median([getattr(each, name) for each in seen])) for name in ("level", "contrast", "detail")
    )
    return Reference(picture, level, contrast, detail, max(similarity, 0.1), still_ms)


def reference_text(reference: Reference) -> str:
    """A reference as JSON; the picture is rounded to grey levels."""
    picture = np.clip(np.round(reference.picture), 0, 255).astype(np.uint8)
    packed = base64.b64encode(zlib.compress(picture.tobytes())).decode()
    return json.dumps({**reference._asdict(), "picture": packed, "shape": picture.shape})


def parse_reference(text: str) -> Reference | None:
    """The reference of :func:`reference_text`; None for any other text."""
    try:
        fields = json.loads(text)
        height, width = fields.pop("shape")
        packed = zlib.decompressobj().decompress(base64.b64decode(fields.pop("picture")), _MAX_PICTURE_BYTES)
        picture = np.frombuffer(packed, np.uint8).reshape(height, width).astype(np.float32)
        reference = Reference(picture, **{name: float(value) for name, value in fields.items()})
        return reference if np.isfinite(reference[1:]).all() else None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, zlib.error, RecursionError):
        return None


def follow(reference: Reference, seen: Measures) -> Reference:
    """The reference, a little closer to what a healthy camera shows now."""
    picture = reference.picture + _FOLLOW * (seen.picture - reference.picture)
    level, contrast, detail = (
        before + _FOLLOW * (now - before)
        for before, now in ((reference.level, seen.level), (reference.contrast, seen.contrast), (reference.detail, seen.detail))
    )
    return Reference(np.asarray(picture, np.float32), level, contrast, detail, *reference[4:])


def find_problem(seen: Measures, reference: Reference | None, still_ms: int) -> HealthProblem | None:
    """What is wrong with a picture that has not changed at all for ``still_ms``."""
    if (problem := _look_at(seen, reference)) is not None:
        return problem
    longest_ms = 0.0 if reference is None else reference.still_ms
    return "frozen" if still_ms >= max(_STILL_MS, _STILL_TIMES * longest_ms) else None


def _look_at(seen: Measures, reference: Reference | None) -> HealthProblem | None:
    if seen.bright_share > _MOST_BRIGHT_SHARE:
        return "overexposed"
    if reference is None:
        return "covered" if seen.contrast < _FLAT else "dark" if seen.level < _DARK_LEVEL else None
    return _difference(seen, reference)


def _difference(seen: Measures, reference: Reference) -> HealthProblem | None:
    edges, usual = _edges(seen.picture), _edges(reference.picture)
    least, similarity = _SIMILARITY_SHARE * reference.similarity, _similarity(edges, usual)
    if seen.contrast < max(_FLAT, _FLAT_SHARE * reference.contrast):
        return "covered" if similarity < least else "dark"
    if seen.level < _DARK_SHARE * reference.level:
        return "dark"
    if seen.detail < _DETAIL_SHARE * reference.detail:
        return "defocused"
    if _shifted_similarity(edges, usual) > max(least, similarity + _SHIFT_GAIN):
        return "moved"
    return "other_view" if similarity < least else None


def _is_relit(before: NDArray[np.int16], now: NDArray[np.int16]) -> bool:
    """Whether the light or the exposure has changed, by one factor for all pixels, (h, w, C)."""
    lit = (before >= _LEAST_LEVEL) & (now >= _LEAST_LEVEL) & (now < _BRIGHT) & (before < _BRIGHT)
    if lit.sum() < max(_LEAST_LIT_PIXELS, lit.size / 2):
        return False
    steps = np.log(now[lit] / before[lit])
    step = float(np.median(steps))
    return abs(step) > _LEAST_LIGHT_STEP and float(np.median(np.abs(steps - step))) < _LIGHT_RESIDUAL * abs(step)


def advance(state: HealthState, found: HealthProblem | None, now_ms: int) -> tuple[HealthState, tuple[HealthChange, ...]]:
    """The state after a measure in which ``found`` was seen, and what is to be told."""
    if found == state.problem:
        return state.model_copy(update={"suspected": None, "suspected_ms": None}), ()
    since_ms = now_ms if state.suspected_ms is None or found != state.suspected else state.suspected_ms
    confirm_ms = CONFIRM_MS if found is None else _OTHER_CONFIRM_MS.get(found, CONFIRM_MS)
    if abs(now_ms - since_ms) < confirm_ms:
        return state.model_copy(update={"suspected": found, "suspected_ms": since_ms}), ()
    return _changed(state, found, since_ms)


def advance_fault(
    state: FaultState, problem: HealthProblem, now_ms: int, *, has_fault: bool
) -> tuple[FaultState, tuple[HealthChange, ...]]:
    """The state after a frame, and what is to be told: that many frames have a fault, or hardly any has it still."""
    if not has_fault and not state.share:
        return state, ()
    share = round(state.share + (has_fault - state.share) / _FAULT_FRAMES, 4)
    if state.since_ms is None and share >= _MANY_FAULTS:
        return FaultState(share=share, since_ms=now_ms), (HealthChange("start", problem, now_ms),)
    if share >= _FEW_FAULTS:
        return FaultState(share=share, since_ms=state.since_ms), ()
    return FaultState(), () if state.since_ms is None else (HealthChange("end", problem, state.since_ms),)


def go_offline(state: HealthState, since_ms: int) -> tuple[HealthState, tuple[HealthChange, ...]]:
    """The state of a camera without frames since then, and what is to be told."""
    return _changed(state, "offline", since_ms)


def _changed(state: HealthState, problem: HealthProblem | None, since_ms: int) -> tuple[HealthState, tuple[HealthChange, ...]]:
    ended = () if state.problem is None else (HealthChange("end", state.problem, state.since_ms),)
    started = () if problem is None else (HealthChange("start", problem, since_ms),)
    return HealthState(problem=problem, since_ms=since_ms), (*ended, *started)


def _edges(picture: Map) -> Map:
    """Strength of edges with the mean 0, (h, w)."""
    across, down = cv2.Sobel(picture, cv2.CV_32F, 1, 0), cv2.Sobel(picture, cv2.CV_32F, 0, 1)
    strength = np.sqrt(across * across + down * down)
    return np.asarray(strength - strength.mean(), np.float32)


def _similarity(one: Map, other: Map) -> float:
    return float((one * other).sum() / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-6))


def _shifted_similarity(edges: Map, usual: Map) -> float:
    """How similar the middle of the picture is to another part of the reference, if that is where it fits best; else 0."""
    rows, columns = edges.shape[0] // 5, edges.shape[1] // 5
    middle = np.ascontiguousarray(edges[rows : edges.shape[0] - rows, columns : edges.shape[1] - columns])
    _, best, _, (x, y) = cv2.minMaxLoc(cv2.matchTemplate(usual, middle, cv2.TM_CCOEFF_NORMED))
    return float(best) if max(abs(x - columns), abs(y - rows)) >= _LEAST_SHIFT else 0.0
