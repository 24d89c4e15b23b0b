"""People as jointed figures: where their joints are while they walk, run, cycle or fall, and how they look.

A figure is a set of limbs, each the hull of some balls; everything is in metres and scales with the person's height. Lengths and
widths of limbs follow Winter, "Biomechanics and Motor Control of Human Movement", 2009, figure 4.1; gait is a sine with the knee
bent in the swing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from trainer.scenes.geometry import Floats

Number = TypeVar("Number", bound=np.number[Any])
Colour = tuple[float, float, float]  # blue, green and red, 0 to 255

_THIGH, _SHANK, _FOOT, _TRUNK, _UPPER_ARM, _FOREARM = 0.245, 0.246, 0.11, 0.29, 0.172, 0.18  # of the height
_HIP_WIDTH, _SHOULDER_WIDTH, _ANKLE = 0.05, 0.098, 0.04
_CLOTHES: tuple[Colour, ...] = (
    (40, 36, 34), (62, 52, 46), (92, 66, 44), (110, 92, 84), (58, 60, 70), (150, 146, 140), (196, 196, 194), (52, 56, 112),
    (70, 84, 60), (60, 92, 118), (130, 150, 176), (84, 60, 92), (60, 44, 132), (128, 104, 66),
)  # fmt: skip
_SKIN: tuple[Colour, ...] = ((150, 172, 210), (120, 146, 190), (90, 112, 150), (58, 74, 104))
_HAIR: tuple[Colour, ...] = ((28, 28, 32), (40, 50, 66), (70, 96, 124), (120, 124, 128))


class Limb(NamedTuple):
    """The convex hull of balls."""

    centres: Floats  # (n, 3)
    radii: Floats  # (n,)
    colour: Colour


@dataclass(frozen=True, slots=True)
class Looks:
    """What a person looks like."""

    height_m: float
    build: float  # width of limbs, 1 on average
    top: Colour
    bottom: Colour
    skin: Colour
    hair: Colour
    coat: float  # how far a coat or skirt covers the thighs, 0 for none
    backpack: Colour | None


@dataclass(frozen=True, slots=True)
class Pose:
    """What a person does at a moment."""

    position: Floats  # of the feet on the ground, (2,)
    heading: float  # radians from the right to forward
    phase: float  # of the stride, radians
    swing: float  # of the legs, radians: 0 standing, 0.45 walking, 0.8 running
    cycling: bool = False
    fallen: float = 0.0  # 0 upright, 1 lying
    fall_to: float = 0.0  # direction relative to the heading
    carries: Colour | None = None  # the colour of a bag in the right hand


def random_looks(rng: Generator) -> Looks:
    """Somebody in everyday clothes."""
    tone = float(rng.uniform(0.75, 1.2))
    return Looks(
        height_m=float(np.clip(rng.normal(1.71, 0.09), 1.45, 1.95)),
        build=float(np.clip(rng.normal(1.08, 0.13), 0.85, 1.5)),
        top=shaded(_pick(_CLOTHES, rng), tone),
        bottom=shaded(_pick(_CLOTHES[:8], rng), float(rng.uniform(0.7, 1.05))),
        skin=_pick(_SKIN, rng),
        hair=_pick(_HAIR, rng),
        coat=float(rng.choice([0.0, 0.0, 0.0, 0.45, 0.85])),
        backpack=shaded(_pick(_CLOTHES, rng), 0.8) if rng.random() < 0.2 else None,
    )


def _pick(colours: Sequence[Colour], rng: Generator) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def shaded(colour: Colour, factor: float) -> Colour:
    """A colour with another brightness."""
    blue, green, red = colour
    return min(255.0, blue * factor), min(255.0, green * factor), min(255.0, red * factor)


def limbs(looks: Looks, pose: Pose) -> list[Limb]:
    """All limbs of a person in world coordinates."""
    body = list(_cyclist(looks, pose) if pose.cycling else _walker(looks, pose))
    centres = _placed(np.concatenate([limb.centres for limb in body]) * looks.height_m, pose)
    return moved(body, centres, looks.height_m)


def moved(parts: Sequence[Limb], centres: Floats, scale: float = 1.0) -> list[Limb]:
    """The limbs with other centres, given for all of them together (n, 3), and scaled radii."""
    places = split_rows(centres, [len(limb.radii) for limb in parts])
    return [Limb(place, limb.radii * scale, limb.colour) for limb, place in zip(parts, places, strict=True)]


def split_rows(rows: NDArray[Number], counts: Sequence[int]) -> list[NDArray[Number]]:
    """The first rows, as many as the first count says, then the next ones; ``np.split`` takes ten times as long."""
    ends = list(accumulate(counts))
    return [rows[end - count : end] for end, count in zip(ends, counts, strict=True)]


def _placed(points: Floats, pose: Pose) -> Floats:
    """From body coordinates (forward, left, up) to the world."""
    forward, left, up = points.T
    if pose.fallen > 0.0:
        angle = pose.fallen * np.radians(84)
        towards, aside = _turned(forward, left, -pose.fall_to)
        towards, up = towards * np.cos(angle) + up * np.sin(angle), up * np.cos(angle) - towards * np.sin(angle)
        forward, left = _turned(towards, aside, pose.fall_to)
        up = np.maximum(up, 0.02) + 0.1 * pose.fallen
    right, ahead = _turned(forward, left, pose.heading)
    return np.stack([right + pose.position[0], ahead + pose.position[1], up], axis=1)


def _turned(first: Floats, second: Floats, angle: float) -> tuple[Floats, Floats]:
    return first * np.cos(angle) - second * np.sin(angle), first * np.sin(angle) + second * np.cos(angle)


def _leg(swing: float, phase: float) -> tuple[Floats, Floats, Floats]:
    """Knee, ankle and toe relative to the hip, forward and up."""
    thigh = swing * np.cos(phase) + 0.12 * swing
    late = (phase - 1.4 * np.pi + np.pi) % (2 * np.pi) - np.pi
    bent = thigh - (0.06 + min(1.0, swing * 2.2) * (0.12 + 0.95 * np.exp(-((late / 1.05) ** 2))))
    knee = _THIGH * np.array([np.sin(thigh), -np.cos(thigh)])
    ankle = knee + _SHANK * np.array([np.sin(bent), -np.cos(bent)])
    toe = ankle + _FOOT * np.array([np.cos(bent * 0.7), np.sin(bent * 0.7) - 0.12])
    return knee, ankle, toe


def _walker(looks: Looks, pose: Pose) -> Iterator[Limb]:
    running = max(0.0, pose.swing - 0.5)
    legs = {side: _leg(pose.swing, pose.phase + (np.pi if side < 0 else 0.0)) for side in (-1, 1)}
    hip_up = _ANKLE - min(ankle[1] for _, ankle, _ in legs.values())
    lean = 0.03 + 0.5 * running
    shoulder = np.array([np.sin(lean), np.cos(lean)]) * _TRUNK + (0.0, hip_up)
    for side, joints in legs.items():
        hip = np.array([0.0, side * _HIP_WIDTH, hip_up])
        knee, ankle, toe = (hip + np.array([joint[0], 0.0, joint[1]]) for joint in joints)
        yield from _leg_limbs(looks, hip, knee, ankle, toe)
        yield from _arm_limbs(looks, pose, side, shoulder, running)
    yield from _trunk(looks, np.array([0.0, 0.0, hip_up]), np.array([shoulder[0], 0.0, shoulder[1]]), legs[1][0], legs[-1][0])


def _leg_limbs(looks: Looks, hip: Floats, knee: Floats, ankle: Floats, toe: Floats) -> Iterator[Limb]:
    build = looks.build
    yield Limb(np.array([hip, knee]), np.array([0.05, 0.034]) * build, shaded(looks.bottom, 0.94))
    yield Limb(np.array([knee, ankle]), np.array([0.034, 0.024]) * build, shaded(looks.bottom, 0.86))
    yield Limb(np.array([ankle - (0, 0, 0.015), toe - (0, 0, 0.01)]), np.array([0.024, 0.016]), (34, 34, 36))


def _arm_limbs(looks: Looks, pose: Pose, side: int, shoulder: Floats, running: float) -> Iterator[Limb]:
    swing = -0.75 * pose.swing * np.cos(pose.phase + (np.pi if side < 0 else 0.0)) + 0.05
    bend = swing + 0.2 + 0.3 * pose.swing + 4.0 * running
    start = np.array([shoulder[0], side * (_SHOULDER_WIDTH + 0.02) * looks.build**0.5, shoulder[1] - 0.015])
    elbow = start + _UPPER_ARM * np.array([np.sin(swing), 0.06 * side, -np.cos(swing)])
    hand = elbow + _FOREARM * np.array([np.sin(bend), 0.0, -np.cos(bend)])
    yield Limb(np.array([start, elbow]), np.array([0.032, 0.024]) * looks.build, shaded(looks.top, 0.9))
    yield Limb(np.array([elbow, hand]), np.array([0.024, 0.018]) * looks.build, shaded(looks.top, 0.84))
    yield Limb(hand[None], np.array([0.023]), looks.skin)
    if pose.carries is not None and side < 0:
        low = hand - (0, 0, 0.1)
        corners = low + np.array([[0.1, 0, -0.07], [-0.1, 0, -0.07], [0.1, 0, 0.07], [-0.1, 0, 0.07]])
        yield Limb(corners, np.full(4, 0.035), pose.carries)


def _trunk(looks: Looks, hip: Floats, shoulder: Floats, left_knee: Floats, right_knee: Floats) -> Iterator[Limb]:
    aside, hip_aside = np.array([0, _SHOULDER_WIDTH, 0]), np.array([0, _HIP_WIDTH, 0])
    build, waist = looks.build, hip + np.array([0, 0, 0.02])
    if looks.coat:
        hems = [hip + looks.coat * np.array([knee[0], 0.0, knee[1]]) for knee in (left_knee, right_knee)]
        centres = np.array([waist + hip_aside, waist - hip_aside, hems[0] + hip_aside, hems[1] - hip_aside])
        yield Limb(centres, np.array([0.055, 0.055, 0.045, 0.045]) * build, shaded(looks.top, 0.96))
    centres = np.array([shoulder + aside - (0, 0, 0.02), shoulder - aside - (0, 0, 0.02), waist + hip_aside, waist - hip_aside])
    yield Limb(centres, np.array([0.045, 0.045, 0.05, 0.05]) * build, looks.top)
    if looks.backpack is not None:
        back = (hip + shoulder) / 2 + (shoulder - hip) * 0.18 - (0.085, 0, 0)
        yield Limb(
            np.array([back - (shoulder - hip) * 0.28, back + (shoulder - hip) * 0.28]), np.array([0.075, 0.06]), looks.backpack
        )
    neck = shoulder + np.array([0.01, 0, 0.02])
    yield Limb(np.array([neck, neck + np.array([0.01, 0, 0.04])]), np.array([0.03, 0.03]), shaded(looks.skin, 0.85))
    head = shoulder + np.array([0.025, 0, 0.115])
    yield Limb(np.array([head - (0, 0, 0.022), head + np.array([0, 0, 0.015])]), np.array([0.05, 0.056]), looks.skin)
    yield Limb(
        np.array([head + np.array([-0.018, 0, 0.02]), head + np.array([-0.004, 0, 0.03])]), np.array([0.054, 0.052]), looks.hair
    )


def _cyclist(looks: Looks, pose: Pose) -> Iterator[Limb]:
    """A rider and the bicycle."""
    yield from _bicycle(looks.height_m)
    hip, shoulder = np.array([-0.1, 0.0, 0.56]), np.array([0.1, 0.0, 0.56 + _TRUNK * 0.87])
    knees = []
    for side in (-1, 1):
        turn = pose.phase + (np.pi if side < 0 else 0.0)
        ankle = np.array([0.02 + 0.09 * np.cos(turn), side * 0.06, 0.17 - 0.09 * np.sin(turn)])
        start = hip + np.array([0, side * _HIP_WIDTH, 0])
        knee = _bent_joint(start, ankle, _THIGH, _SHANK)
        knees.append(knee - hip)
        yield from _leg_limbs(looks, start, knee, ankle, ankle + np.array([_FOOT, 0, -0.02]))
        hand = np.array([0.36, side * 0.13, 0.60])
        first = shoulder + np.array([0, side * (_SHOULDER_WIDTH + 0.02), -0.015])
        elbow = (first + hand) / 2 - (0.0, 0.0, 0.03)
        yield Limb(np.array([first, elbow]), np.array([0.032, 0.024]), shaded(looks.top, 0.9))
        yield Limb(np.array([elbow, hand]), np.array([0.024, 0.02]), shaded(looks.top, 0.84))
    yield from _trunk(looks, hip, shoulder, knees[1][[0, 2]], knees[0][[0, 2]])


def _bent_joint(start: Floats, end: Floats, first: float, second: float) -> Floats:
    """The knee between a hip and an ankle, bent forward."""
    across = end - start
    distance = min(float(np.linalg.norm(across)), (first + second) * 0.999)
    along = (first**2 - second**2 + distance**2) / (2 * distance)
    off = np.sqrt(max(first**2 - along**2, 0.0))
    unit = across / np.linalg.norm(across)
    normal = np.array([-unit[2], 0.0, unit[0]])
    return np.asarray(start + unit * along + normal * off)


def _bicycle(height_m: float) -> Iterator[Limb]:
    radius, dark = 0.34 / height_m, (40.0, 40.0, 44.0)
    angles = np.linspace(0, 2 * np.pi, 13)
    for middle in (-0.33, 0.33):
        rim = np.stack([middle + radius * np.cos(angles), np.zeros(13), radius + radius * np.sin(angles)], axis=1)
        for one, other in pairwise(rim):
            yield Limb(np.array([one, other]), np.full(2, 0.011), dark)
    crank, saddle, bars = np.array([0.02, 0, 0.17]), np.array([-0.1, 0, 0.53]), np.array([0.27, 0, 0.56])
    hubs = (np.array([-0.33, 0, radius]), np.array([0.33, 0, radius]))
    for one, other in ((hubs[0], crank), (hubs[0], saddle), (crank, saddle), (crank, bars), (saddle, bars), (bars, hubs[1])):
        yield Limb(np.array([one, other]), np.full(2, 0.013), (60.0, 60.0, 120.0))
