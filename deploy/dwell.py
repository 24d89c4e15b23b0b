"""How long each place of a camera's picture has shown something else than its background.

A thing that was left, somebody who stays, a car that stopped: none of them moves, and a network that looks at motion and at
single frames sees nothing unusual. The background is learned with the camera's profile, by day and, where pictures differ that
much, by night. A frame is compared with both after its brightness and contrast were fitted to theirs. Pictures are frames reduced
to places of 8 x 8 pixels: grey levels, float32 (N, a, b). The serving graph computes the same.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

PLACE_PX: Final = 8
DWELL_S: Final = 60.0
"""What a dwell of 1 stands for. Somebody who waits, or a car at a light, stays for some 10 s: what is left stays for longer."""
DWELL_UNIT: Final = 1 / 64
"""States hold dwells as multiples of this and what is left, see :func:`deploy.score_maps.dwell_of`."""
REFERENCES: Final = 2
LEAST_OF_LIGHT_S: Final = 300.0
"""Footage in a light from which on it has a picture of its own: in a few minutes a crowd looks like another light."""

FIT_STEPS: Final = 3
FIT_LEVELS: Final = 8.0
"""Grey levels that a place may differ from the background until it counts half in the fit of brightness and contrast."""
LEAST_CONTRAST, MOST_CONTRAST = 0.5, 2.0
"""Limits of the factor that fits the contrast of a picture."""
FOREGROUND_FROM, FOREGROUND_FULL = 3.0, 6.0
"""Multiples of the usual difference between which a place begins to be, and wholly is, foreground."""
CHANGED_FROM, CHANGED_FULL = 0.4, 0.5
"""Shares of the picture between which a change becomes one of the whole picture: no thing is in front of the background then."""
TINY: Final = 1e-6

_CHANGED = (FOREGROUND_FROM + FOREGROUND_FULL) / 2
_LEAST_DIFFERENCE = 1.5  # grey levels of noise in any picture
_NEVER = 1e4  # grey levels; more would not fit into 16 bits
_DEVIATIONS = 1.48  # of a normal distribution, from its median absolute value to its standard deviation
_LEAST_PICTURES = 8  # that a reference is learned from
_LEAST_SHARE = 0.1  # of all pictures, in each of two lights
_ROUNDS = 10  # most footage is divided after three

Map = NDArray[np.float32]
Lights = NDArray[np.intp]
"""(N,): the light of each frame, as the number of a picture of its camera's background."""


class Background(NamedTuple):
    """What a camera's picture usually shows."""

    pictures: Map  # (2, a, b): the same twice if there is no second one
    differences: Map  # (2, a, b), above 0: usual difference of each place from the picture, grey levels


def learn_background(pictures: Map, footage_s: float) -> Background:
    """The background of pictures (N, a, b), N > 0, that are spread evenly over so much footage: of one light, or of two."""
    first = _reference(pictures)
    references = [first] * REFERENCES
    is_second = _second_light(pictures, first[0])
    fewer = int(min(is_second.sum(), (~is_second).sum()))
    share = fewer / len(pictures)
    if fewer >= _LEAST_PICTURES and share >= _LEAST_SHARE and share * footage_s >= LEAST_OF_LIGHT_S:
        lights = [_reference(pictures[~is_second]), _reference(pictures[is_second])]
        pairs = zip(lights, reversed(lights), strict=True)
        if max(_changed_share(_differences(other[None], *own)) for own, (other, _) in pairs) > CHANGED_FROM:
            references = lights
    return Background(*(np.stack(parts) for parts in zip(*references, strict=True)))


def _second_light(pictures: Map, usual: Map) -> NDArray[np.bool_]:
    """Which pictures are of the second of two lights, (N,): two means, begun with the tenth least like the usual picture."""
    distances = _distances(pictures, usual)
    is_second: NDArray[np.bool_] = distances >= np.quantile(distances, 1 - _LEAST_SHARE)
    for _ in range(_ROUNDS):
        if is_second.all() or not is_second.any():
            break
        first, second = (np.median(pictures[part], axis=0).astype(np.float32) for part in (~is_second, is_second))
        before, is_second = is_second, _distances(pictures, second) < _distances(pictures, first)
        if np.array_equal(before, is_second):
            break
    return is_second


def lights_of(pictures: Map, background: Background) -> Lights:
    """In which light each of some pictures (N, a, b) is: the number of the picture of the background that it is nearest to."""
    relative = [_differences(pictures, *reference).mean(axis=(1, 2)) for reference in zip(*background, strict=True)]
    return np.asarray(np.argmin(relative, axis=0))  # of two that are the same, the first


def follow_background(background: Background, pictures: Map) -> Background:
    """The background halfway to what some hours of ordinary pictures (N, a, b) show; each of its two follows the nearest ones."""
    nearest = lights_of(pictures, background)
    followed = []
    for number, reference in enumerate(zip(*background, strict=True)):
        own = pictures[nearest == number]
        now = _reference(own) if len(own) >= _LEAST_PICTURES else reference
        followed.append([(before + after) / np.float32(2) for before, after in zip(reference, now, strict=True)])
    return Background(*(np.stack(parts) for parts in zip(*followed, strict=True)))


def empty_background(shape: tuple[int, int]) -> Background:
    """The background of a camera of which nothing is known: nothing is foreground. ``shape``: (a, b)."""
    return Background(np.full((REFERENCES, *shape), 128, np.float32), np.full((REFERENCES, *shape), _NEVER, np.float32))


def foreground(pictures: Map, background: Background) -> Map:
    """How much each place shows something else than the background, (N, a, b): 0 to 1."""
    return _foreground(_least_differences(pictures, background))


def changed_all_over(picture: Map, background: Background) -> float:
    """The share of places of a picture (a, b) that show something else than the background in three of its quarters, at least.

    Another light changes places all over a picture, a thing only those that it hides. Brightness and contrast are fitted to each
    quarter by itself: somebody who hides half of the picture would spoil them for the rest.
    """
    middle, centre = picture.shape[0] // 2, picture.shape[1] // 2
    parts = [
        (picture[rows, columns], *(each[:, rows, columns] for each in background))
        for rows in (slice(middle), slice(middle, None))
        for columns in (slice(centre), slice(centre, None))
    ]
    return sorted(_changed_share(_least_differences(part[None], Background(*own))) for part, *own in parts)[1]


def dwell_step(fps: float) -> float:
    """By how much a frame of foreground adds to the dwell of its place, at this frame rate."""
    return 1.0 / (DWELL_S * fps)


def update_dwell(dwell: Map, shown: Map, step: float) -> Map:
    """The dwell of each place after a frame with this foreground, both (a, b); ``step``: see :func:`dwell_step`.

    n frames of foreground add n steps to it; it is at most the least foreground among them, and 1 at most.
    """
    return np.asarray(np.minimum(dwell + np.float32(step), shown), np.float32)


def reduce_frame(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A grey frame (H, W, 1) reduced to places, (a, b), rounded to grey levels."""
    height, width = frame.shape[0] // PLACE_PX, frame.shape[1] // PLACE_PX
    means = frame[: height * PLACE_PX, : width * PLACE_PX, 0].reshape(height, PLACE_PX, width, PLACE_PX).mean(axis=(1, 3))
    return np.asarray(np.round(means), np.uint8)


def _reference(pictures: Map) -> tuple[Map, Map]:
    """Picture and usual differences, (a, b)."""
    picture = np.median(pictures, axis=0).astype(np.float32)
    differences = np.median(np.abs(_fitted(pictures, picture) - picture), axis=0)
    return picture, np.asarray(_DEVIATIONS * differences + _LEAST_DIFFERENCE, np.float32)


def _distances(pictures: Map, picture: Map) -> Map:
    """Mean differences from a picture in grey levels, (N,)."""
    distances: Map = np.abs(_fitted(pictures, picture) - picture).mean(axis=(1, 2), dtype=np.float32)
    return distances


def _changed_share(relative: Map) -> float:
    """The share of places that show something else than the background, by their relative differences from it."""
    return float((relative > _CHANGED).mean())


def _least_differences(pictures: Map, background: Background) -> Map:
    """Differences from the nearer of the two pictures of the background, see :func:`_differences`."""
    first, second = zip(*background, strict=True)
    relative = _differences(pictures, *first)
    return relative if all(map(np.array_equal, first, second)) else np.minimum(relative, _differences(pictures, *second))


def _differences(pictures: Map, picture: Map, differences: Map) -> Map:
    """Differences from a reference, relative to the usual ones, as means of 3 x 3 places."""
    relative = np.abs(_fitted(pictures, picture) - picture) / differences
    height, width = relative.shape[1:]
    padded = np.pad(relative, ((0, 0), (1, 1), (1, 1)), mode="edge")
    parts = [padded[:, row : row + height, column : column + width] for row in range(3) for column in range(3)]
    return np.asarray(sum(parts) / np.float32(9), np.float32)


def _foreground(relative: Map) -> Map:
    shown = np.clip((relative - FOREGROUND_FROM) / (FOREGROUND_FULL - FOREGROUND_FROM), 0, 1)
    share = shown.mean(axis=(1, 2), keepdims=True)
    return np.asarray(shown * np.clip((CHANGED_FULL - share) / (CHANGED_FULL - CHANGED_FROM), 0, 1), np.float32)


def _fitted(pictures: Map, picture: Map) -> Map:
    """Pictures with brightness and contrast of the reference (a, b); places that differ much hardly count."""
    fitted, weights = pictures, np.ones_like(pictures)
    for _ in range(FIT_STEPS):
        total = weights.mean(axis=(1, 2), keepdims=True) + TINY
        mean, usual = ((weights * each).mean(axis=(1, 2), keepdims=True) / total for each in (pictures, picture))
        covariance = (weights * (pictures - mean) * (picture - usual)).mean(axis=(1, 2), keepdims=True)
        variance = (weights * np.square(pictures - mean)).mean(axis=(1, 2), keepdims=True)
        contrast = np.clip(covariance / (variance + np.float32(1)), LEAST_CONTRAST, MOST_CONTRAST)
        fitted = (pictures - mean) * contrast + usual
        weights = np.square(1 / (1 + np.square((fitted - picture) / np.float32(FIT_LEVELS))))
    return fitted
