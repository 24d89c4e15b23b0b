"""Region-based and track-based detection criterion (RBDC, TBDC): does the heat map point at the anomalies?

Ramachandra and Jones, "Street Scene: A new dataset and evaluation protocol for video anomaly detection", WACV 2020. Predicted
regions are the connected components of the heat map above a threshold, true regions those of the mask. A true region is detected
if a predicted one overlaps it with an IoU of at least ``BETA``, a track (one anomaly through the frames of a clip) if at least
``ALPHA`` of its regions are. A predicted region that overlaps no true one that much is a false positive. Both criteria are areas
under the curve of the detection rate over false positive regions per frame, from 0 to 1.
"""

from dataclasses import dataclass
from itertools import count

import cv2
import numpy as np
from numpy.typing import NDArray

from deploy.calibration import Thresholds

ALPHA = 0.1
"""Least share of a track's regions that must be detected."""
BETA = 0.1
"""Least IoU of a true and a predicted region."""

# Heights of the thresholds above the median of normal scores, in units of the calibrated threshold's height. Geometric above it
# (4 per octave, up to 64), evenly spaced around the normal scores, where the rate of false positives goes from 0 to beyond 1.
_HEIGHTS = np.concatenate([2.0 ** np.arange(6, 0, -1 / 4), np.arange(1.0, -1.0 - 1 / 32, -1 / 16)])


@dataclass(frozen=True, slots=True)
class RegionMetrics:
    """RBDC and TBDC, and what they were measured on."""

    rbdc: float
    tbdc: float
    regions: int
    """True regions: connected components of the masks, counted in every frame."""
    tracks: int
    """True regions linked from frame to frame."""


@dataclass(frozen=True, slots=True)
class TrueRegions:
    """The R true regions of one frame, which have P pixels together."""

    shape: tuple[int, int]
    """(H, W) of the mask."""
    pixels: NDArray[np.int64]
    """int64 (P,): flat indices of the anomalous pixels."""
    numbers: NDArray[np.int64]
    """int64 (P,): the region of each of these pixels, from 0."""
    areas: NDArray[np.int64]
    """int64 (R,): pixels of each region."""
    tracks: tuple[int, ...]
    """Track number of each region."""


class TrackLinker:
    """Finds the true regions in the masks of clips, and links them to tracks, because data sets have masks but no tracks.

    A region continues the track of the region of the previous frame that it shares most pixels with; of several candidates the
    one that shares most continues the track, and the others start tracks.
    """

    def __init__(self) -> None:
        self._numbers = count()
        self._previous: TrueRegions | None = None

    def start_clip(self) -> None:
        """Forget the last frame: tracks end with their clip."""
        self._previous = None

    def next_frame(self, mask: NDArray[np.bool_]) -> TrueRegions:
        """The regions of the next frame's mask, bool (H, W)."""
        regions, components = _components(mask)
        tracks: list[int | None] = [None] * regions
        if self._previous is not None:
            shared = _overlaps(components, self._previous)
            for region, previous in sorted(shared, key=lambda pair: -shared[pair]):
                track = self._previous.tracks[previous]
                if tracks[region] is None and track not in tracks:
                    tracks[region] = track
        pixels = np.flatnonzero(components)
        numbers = components.ravel()[pixels].astype(np.int64) - 1
        self._previous = TrueRegions(
            shape=(mask.shape[0], mask.shape[1]),
            pixels=pixels,
            numbers=numbers,
            areas=np.bincount(numbers, minlength=regions),
            tracks=tuple(next(self._numbers) if track is None else track for track in tracks),
        )
        return self._previous


class RegionCounter:
    """Counts detected regions and false positives of one detector at 57 thresholds; heat maps are not kept."""

    def __init__(self, normal: Thresholds, frames: int) -> None:
        """``frames``: number of frames that will be added."""
        spread = normal.enter - normal.median
        self._thresholds = (normal.median + spread * _HEIGHTS).astype(np.float32)
        self._false_positives = np.zeros(len(_HEIGHTS), np.int64)
        self._detected: list[NDArray[np.bool_]] = []
        self._tracks: list[int] = []
        self._frames = frames

    def add(self, heatmap: NDArray[np.float32] | None, true: TrueRegions) -> None:
        """Count one frame. ``heatmap``: float32 (h, w), resized bilinearly to the mask; None predicts no region."""
        detected = np.zeros((len(true.tracks), len(_HEIGHTS)), np.bool_)
        self._detected.append(detected)
        self._tracks += true.tracks
        if heatmap is None:
            return
        resized = np.asarray(cv2.resize(heatmap, true.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
        # A threshold that already has over one false positive per frame lies outside the curve.
        for level in np.flatnonzero((self._thresholds <= resized.max()) & (self._false_positives <= self._frames)):
            predictions, components = _components(resized >= self._thresholds[level])
            matched = set()
            for (predicted, region), shared in _overlaps(components, true).items():
                union = np.count_nonzero(components == predicted + 1) + true.areas[region] - shared
                if shared / union >= BETA:
                    matched.add(predicted)
                    detected[region, level] = True
            self._false_positives[level] += predictions - len(matched)

    def metrics(self) -> RegionMetrics | None:
        """The metrics of all frames; None without a true region."""
        if not self._tracks:
            return None
        detected, tracks = np.concatenate(self._detected), np.array(self._tracks)
        numbers, track_index, lengths = np.unique(tracks, return_inverse=True, return_counts=True)
        per_track = np.zeros((len(numbers), len(_HEIGHTS)))
        np.add.at(per_track, track_index, detected)
        false_positive_rate = self._false_positives / self._frames
        return RegionMetrics(
            rbdc=area_under_curve(false_positive_rate, detected.mean(axis=0)),
            tbdc=area_under_curve(false_positive_rate, (per_track / lengths[:, None] >= ALPHA).mean(axis=0)),
            regions=len(tracks),
            tracks=len(numbers),
        )


def area_under_curve(false_positive_rate: NDArray[np.float64], detection_rate: NDArray[np.float64]) -> float:
    """Area up to one false positive region per frame, in [0, 1], by trapezoids from (0, 0).

    A lower threshold may join regions, so neither rate is monotone: at each false positive rate the best detection rate counts
    that a threshold with no more false positives has. Beyond the last point below 1 the curve is level.
    """
    order = np.argsort(false_positive_rate, kind="stable")
    usable = order[false_positive_rate[order] <= 1]
    x = np.concatenate([[0.0], false_positive_rate[usable], [1.0]])
    y = np.maximum.accumulate(np.concatenate([[0.0], detection_rate[usable], [0.0]]))
    return float(np.trapezoid(y, x))


def _components(mask: NDArray[np.bool_]) -> tuple[int, NDArray[np.int32]]:
    """Number of 8-connected components, and an int32 (H, W) map with 0 outside and n + 1 inside component n."""
    labels, components = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    return labels - 1, np.asarray(components, np.int32)


def _overlaps(components: NDArray[np.int32], regions: TrueRegions) -> dict[tuple[int, int], int]:
    """Shared pixels of each pair of a component and a region that overlap, by their numbers."""
    labels = components.ravel()[regions.pixels]
    inside = labels > 0
    codes = (labels[inside] - 1).astype(np.int64) * len(regions.areas) + regions.numbers[inside]
    pairs, counts = np.unique(codes, return_counts=True)
    return {divmod(pair, len(regions.areas)): shared for pair, shared in zip(pairs.tolist(), counts.tolist(), strict=True)}
