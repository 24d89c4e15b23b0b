"""What is out of the ordinary in generated test clips. None of it ever happens in the training part of its scene."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.random import Generator

from trainer.scenes.actors import Actor, Bag, Driver, surface_grain
from trainer.scenes.drawing import random_vehicle
from trainer.scenes.geometry import Floats, follow, make_track, waiting
from trainer.scenes.scene import Scene, random_person, random_route
from trainer.scenes.trolley import Trolley

_RUN_M_S, _CYCLE_M_S, _DRIVE_M_S, _WALK_M_S = (3.4, 5.2), (3.2, 5.5), (2.0, 4.5), (1.1, 1.5)
_LIES_S = 60.0
_PUTS_DOWN_S = 2.5


@dataclass(frozen=True, slots=True)
class Anomaly:
    """Something out of the ordinary. Frames that show the culprit are anomalous, from ``begins_s`` on."""

    kind: str
    actors: tuple[Actor, ...]
    culprit: Actor
    begins_s: float = 0.0


def kinds_for(scene: Scene) -> list[str]:
    """The kinds of anomalies that can happen in a scene."""
    layout = scene.layout
    impossible = {"vehicle"} if layout.kind in ("street", "hall") else set()
    if not (layout.paths or layout.road or layout.bed):
        impossible.add("forbidden_ground")
    if not scene.one_way:
        impossible.add("wrong_way")
    return [kind for kind in _KINDS if kind not in impossible]


def make_anomaly(kind: str, scene: Scene, at_s: float, rng: Generator) -> Anomaly:
    """An anomaly of this kind that can be seen from about ``at_s`` on."""
    return _KINDS[kind](scene, at_s, rng)


def _runner(scene: Scene, at_s: float, rng: Generator) -> Anomaly:
    pace = rng.uniform(*_RUN_M_S)
    person = random_person(scene, at_s, follow(random_route(scene, rng), pace, rng.normal(0, 0.3), rng), pace, rng)
    return Anomaly("runner", (person,), person)


def _cyclist(scene: Scene, at_s: float, rng: Generator) -> Anomaly:
    pace = rng.uniform(*_CYCLE_M_S)
    points = follow(random_route(scene, rng), pace, rng.normal(0, 0.2), rng)
    person = replace(random_person(scene, at_s, points, pace, rng), cycling=True)
    return Anomaly("cyclist", (person,), person)


def _vehicle(scene: Scene, at_s: float, rng: Generator) -> Anomaly:
    points = follow(scene.routes[0], rng.uniform(*_DRIVE_M_S), 0.0, rng)
    driver = Driver(random_vehicle(rng), make_track(at_s, points), surface_grain(rng, scene.sun[0], 0.02))
    return Anomaly("vehicle", (driver,), driver)


def _fall(scene: Scene, at_s: float, rng: Generator) -> Anomaly:
    pace = rng.uniform(*_WALK_M_S)
    points, falls = _stopped(scene, pace, _LIES_S, rng)
    start_s = at_s - falls
    person = replace(
        random_person(scene, start_s, points, pace, rng), falls_s=at_s, fall_to=rng.choice([0.0, 0.4, -1.2, 1.2]), bag=None
    )
    return Anomaly("fall", (person,), person, at_s)


def _left_object(scene: Scene, at_s: float, rng: Generator) -> Anomaly:
    pace = rng.uniform(*_WALK_M_S)
    points, stops = _stopped(scene, pace, _PUTS_DOWN_S, rng)
    shade = float(rng.uniform(0.6, 1.4))
    colour = (52 * shade, 50 * shade, 62 * shade)
    carrier = replace(random_person(scene, at_s - stops - 1.2, points, pace, rng), bag=colour, drops_s=at_s)
    place = carrier.place(at_s) + np.array([0.35, -0.1])
    size = np.array([rng.uniform(0.4, 0.65), rng.uniform(0.25, 0.4), rng.uniform(0.35, 0.6)])
    bag = Bag(place, size, colour, at_s, surface_grain(rng, scene.sun[0], 0.04))
    return Anomaly("left_object", (carrier, bag), bag)


def _stopped(scene: Scene, pace_m_s: float, seconds: float, rng: Generator) -> tuple[list[Floats], float]:
    """Points of somebody who stops well inside the picture, and after how many seconds they stop."""
    route = random_route(scene, rng)
    points = follow(route, pace_m_s, rng.normal(0, 0.3), rng)
    inside = [number for number, point in enumerate(points) if _well_inside(scene, point)]
    number = inside[len(inside) // 2 + int(rng.integers(-2, 3)) * len(inside) // 8] if inside else len(points) // 2
    return waiting(points, number / len(points), seconds, rng), number * 0.2


def _well_inside(scene: Scene, point: Floats) -> bool:
    (across, down), _ = scene.view.project(np.array([*point, 0.0]))
    return bool(0.12 < across / scene.view.width_px < 0.88 and 0.3 < down / scene.view.height_px < 0.93)


def _trolley(scene: Scene, at_s: float, rng: Generator) -> Anomaly:
    pace = rng.uniform(*_WALK_M_S)
    person = random_person(scene, at_s, follow(random_route(scene, rng), pace, 0.0, rng), pace, rng)
    trolley = Trolley(person.track)
    return Anomaly("trolley", (person, trolley), trolley)


def _wrong_way(scene: Scene, at_s: float, rng: Generator) -> Anomaly:
    pace = rng.uniform(*_WALK_M_S)
    points = follow(random_route(scene, rng)[::-1], pace, rng.normal(0, 0.3), rng)
    person = random_person(scene, at_s, points, pace, rng)
    return Anomaly("wrong_way", (person,), person)


def _forbidden_ground(scene: Scene, at_s: float, rng: Generator) -> Anomaly:
    pace = rng.uniform(*_WALK_M_S)
    person = random_person(scene, at_s, follow(_forbidden_route(scene, rng), pace, 0.0, rng), pace, rng)
    return Anomaly("forbidden_ground", (person,), person)


def _forbidden_route(scene: Scene, rng: Generator) -> Floats:
    layout, view = scene.layout, scene.view
    if layout.road is not None:
        return layout.road.line[:: int(rng.choice([-1, 1]))]
    if layout.bed is not None:
        middle = layout.bed.line.mean(axis=0)
        side = float(np.sign(middle[0]) or 1.0) * (view.half_width_m(middle[1]) + 1.2)
        return np.array([[side, middle[1] + 0.5], middle, middle - (np.sign(side) * 1.0, 0.3), [side, middle[1] - 0.6]])
    return max((_random_line(scene, rng) for _ in range(40)), key=lambda line: _off_path_share(scene, line))


def _random_line(scene: Scene, rng: Generator) -> Floats:
    one, other = (rng.uniform(scene.view.nearest_m + 1.0, scene.layout.wall_m - 0.8) for _ in range(2))
    side = float(rng.choice([-1, 1]))
    ends = [[-side * (scene.view.half_width_m(one) + 1.2), one], [side * (scene.view.half_width_m(other) + 1.2), other]]
    return np.array([ends[0], np.mean(ends, axis=0), ends[1]])


def _off_path_share(scene: Scene, line: Floats) -> float:
    points = np.linspace(line[0], line[-1], 40).astype(np.float32)
    outside = np.min([path.distance(points[:, 0], points[:, 1]) for path in scene.layout.paths], axis=0)
    return float((outside > 0.3).mean())


_KINDS: Mapping[str, Callable[[Scene, float, Generator], Anomaly]] = MappingProxyType(
    {
        "runner": _runner,
        "fall": _fall,
        "cyclist": _cyclist,
        "forbidden_ground": _forbidden_ground,
        "left_object": _left_object,
        "vehicle": _vehicle,
        "trolley": _trolley,
        "wrong_way": _wrong_way,
    }
)
