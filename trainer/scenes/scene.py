"""A scene: one camera's view, its ground and routes, its light and its faults; and who passes there, ordinarily and not."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from trainer.scenes.actors import Actor, Driver, Fixture, Person, pole, surface_grain, tree
from trainer.scenes.backdrop import Band, Layout
from trainer.scenes.drawing import random_vehicle
from trainer.scenes.geometry import Floats, Pinhole, follow, make_track, random_view, turned_back, waiting
from trainer.scenes.people import random_looks

KINDS = ("plaza", "street", "park", "hall")
_RATES = (10, 25, 12, 8, 15, 20, 10, 5)  # frames per second
_OUTSIDE_M = 1.2  # beyond the edge of the picture, where people come from
_LEAD_S = 25.0  # before a clip begins, so that there are people at once
_WALK_M_S = (1.3, 0.2)  # mean and standard deviation


@dataclass(frozen=True, slots=True)
class Faults:
    """What a camera does to its pictures."""

    noise: float  # standard deviation in grey levels
    blur_px: float
    vignette: float  # how much darker the corners are
    gamma: float
    jpeg_quality: int | None
    flicker: float  # changes of the gain from frame to frame
    clouds: float  # slow changes of the light


@dataclass(frozen=True, slots=True)
class Scene:
    """One camera and its surroundings."""

    view: Pinhole
    layout: Layout
    fps: int
    routes: tuple[Floats, ...]  # of people, (n, 2) each
    lanes: tuple[Floats, ...]  # of vehicles
    lane_m_s: float
    people: float  # in the picture at a time, on average
    vehicle_every_s: float
    sun: tuple[float, float]
    shadow: float
    fixtures: tuple[Fixture, ...]
    faults: Faults
    one_way: bool = False  # everybody goes along a route from its first point to its last


def random_scene(number: int, rng: Generator) -> Scene:
    """The scene of a camera; kinds and frame rates take turns with the number."""
    kind = KINDS[number % len(KINDS)]
    view = random_view(rng, indoors=kind == "hall")
    layout, routes, lanes = _street(view, rng) if kind == "street" else _open_ground(kind, view, rng)
    sunny = kind != "hall" and rng.random() < 0.6
    angle = rng.uniform(0, 2 * np.pi)
    reach = rng.uniform(0.4, 1.2) if sunny else 0.12
    return Scene(
        view=view,
        layout=layout,
        fps=_RATES[number % len(_RATES)],
        routes=routes,
        lanes=lanes,
        lane_m_s=rng.uniform(6.0, 10.0),
        people=rng.uniform(2.0, 6.0),
        vehicle_every_s=rng.uniform(6.0, 15.0),
        sun=(float(reach * np.cos(angle)), float(reach * np.sin(angle))),
        shadow=rng.uniform(0.35, 0.6) if sunny else rng.uniform(0.15, 0.3),
        fixtures=tuple(_fixtures(kind, view, layout, routes, rng)),
        faults=_random_faults(kind, rng),
    )


def _random_faults(kind: str, rng: Generator) -> Faults:
    return Faults(
        noise=rng.uniform(1.0, 5.0),
        blur_px=float(rng.choice([0.0, 0.5, 0.7, 0.9])),
        vignette=rng.uniform(0.0, 0.3),
        gamma=rng.uniform(0.8, 1.25),
        jpeg_quality=int(rng.integers(55, 90)) if rng.random() < 0.5 else None,
        flicker=float(rng.choice([0.0, 0.003, 0.01])),
        clouds=0.01 if kind == "hall" else rng.uniform(0.02, 0.1),
    )


def _open_ground(kind: str, view: Pinhole, rng: Generator) -> tuple[Layout, tuple[Floats, ...], tuple[Floats, ...]]:
    middle = float(view.ground(view.width_px / 2, view.height_px / 2)[1])
    wall = middle * rng.uniform(1.5, 2.4)
    near, far = view.nearest_m, wall - 1.0
    routes = [_crossing(view, near + rng.uniform(0.12, 0.5) * (far - near), near + rng.uniform(0.3, 0.9) * (far - near), rng)]
    routes += [_corner(view, near, near + rng.uniform(0.5, 0.95) * (far - near), rng) for _ in range(int(rng.integers(1, 3)))]
    if kind != "park":
        routes.append(
            _crossing(view, near + rng.uniform(0.5, 1.0) * (far - near), near + rng.uniform(0.6, 1.0) * (far - near), rng)
        )
    paths = tuple(Band(route, rng.uniform(1.1, 1.7)) for route in routes) if kind == "park" else ()
    bed = _find_bed(view, (near, far), routes, rng) if kind == "plaza" else None
    return Layout(kind, wall, paths, bed=bed), tuple(routes), ()


def _street(view: Pinhole, rng: Generator) -> tuple[Layout, tuple[Floats, ...], tuple[Floats, ...]]:
    near = view.nearest_m
    half = rng.uniform(2.8, 3.4)
    middle = near + rng.uniform(2.4, 4.5) + half
    wall = middle + half + rng.uniform(2.5, 4.5)
    road = Band(_crossing(view, middle, middle, rng, bend_m=0.0), half)
    pavements = [near + rng.uniform(0.8, 1.4), middle - half - 0.9, middle + half + 1.0, wall - 0.9]
    routes = tuple(_crossing(view, place, place, rng, bend_m=0.15) for place in pavements)
    lanes = tuple(
        np.array(
            [
                [-side * (view.half_width_m(middle) + 6), middle + side * half / 2],
                [side * (view.half_width_m(middle) + 6), middle + side * half / 2],
            ]
        )
        for side in (-1, 1)
    )
    return Layout("street", wall, road=road), routes, lanes


def _crossing(view: Pinhole, left_m: float, right_m: float, rng: Generator, bend_m: float = 1.0) -> Floats:
    """A route from the left edge of the picture to the right one."""
    ends = [[-view.half_width_m(left_m) - _OUTSIDE_M, left_m], [view.half_width_m(right_m) + _OUTSIDE_M, right_m]]
    middle = [rng.uniform(-0.3, 0.3) * view.half_width_m(left_m), (left_m + right_m) / 2 + rng.uniform(-bend_m, bend_m)]
    return np.array([ends[0], middle, ends[1]])


def _corner(view: Pinhole, near_m: float, far_m: float, rng: Generator) -> Floats:
    """A route from below the picture to one of its sides."""
    side = float(rng.choice([-1.0, 1.0]))
    start = [rng.uniform(-0.7, 0.7) * view.half_width_m(near_m), near_m - 2.5]
    turn = [rng.uniform(-0.4, 0.4) * view.half_width_m(far_m), near_m + rng.uniform(0.55, 0.95) * (far_m - near_m)]
    return np.array([start, turn, [side * (view.half_width_m(far_m) + _OUTSIDE_M), far_m]])


def _find_bed(view: Pinhole, span_m: tuple[float, float], routes: Sequence[Floats], rng: Generator) -> Band | None:
    """Where nobody walks; None if people walk everywhere."""
    for _ in range(60):
        half = rng.uniform(0.8, 1.6)
        forward = rng.uniform(span_m[0] + 1.5, span_m[1] - 1.0)
        right = rng.uniform(-0.7, 0.7) * view.half_width_m(forward)
        line = np.array([[right - 1.2, forward], [right + 1.2, forward + rng.uniform(-0.4, 0.4)]])
        if all(_gap(line, route) > half + 1.1 for route in routes):
            return Band(line, half)
    return None


def _gap(line: Floats, route: Floats) -> float:
    band = Band(route, 0.0)
    points = np.linspace(line[0], line[-1], 9).astype(np.float32)
    return float(band.distance(points[:, 0], points[:, 1]).min())


def _fixtures(kind: str, view: Pinhole, layout: Layout, routes: Sequence[Floats], rng: Generator) -> Iterator[Fixture]:
    """Poles and trees beside the routes."""
    wanted = int(rng.integers(0, 3)) + (kind == "park")
    for _ in range(40):
        forward = rng.uniform(view.nearest_m + 1.0, layout.wall_m - 0.5)
        place = np.array([rng.uniform(-0.9, 0.9) * view.half_width_m(forward), forward])
        on_road = layout.road is not None and layout.road.distance(*place[:, None].astype(np.float32))[0] < 0.3
        if not wanted or on_road or min(_gap(np.stack([place, place]), route) for route in routes) < 0.9:
            continue
        wanted -= 1
        yield tree(place, rng) if kind != "hall" and forward > view.nearest_m + 4 and rng.random() < 0.6 else pole(place, rng)


# --- Who passes


def ordinary_actors(scene: Scene, seconds: float, rng: Generator) -> list[Actor]:
    """Everybody who passes in a clip of this length."""
    actors: list[Actor] = list(scene.fixtures)
    crossing_s = 2 * scene.view.half_width_m(scene.layout.wall_m * 0.6) / _WALK_M_S[0]
    time_s = -_LEAD_S
    while time_s < seconds:
        actors += _group(scene, time_s, rng)
        time_s += rng.exponential(1.4 * crossing_s / scene.people)
    for lane in scene.lanes:
        time_s = -_LEAD_S + rng.uniform(0, scene.vehicle_every_s)
        while time_s < seconds:
            points = follow(lane, scene.lane_m_s, 0.0, np.random.default_rng(0))
            actors.append(Driver(random_vehicle(rng), make_track(time_s, points), surface_grain(rng, scene.sun[0], 0.02)))
            time_s += 2.0 + rng.exponential(scene.vehicle_every_s)
    return actors


def _group(scene: Scene, start_s: float, rng: Generator) -> list[Actor]:
    """One to three people who walk together."""
    count = int(rng.choice([1, 2, 3], p=[0.72, 0.22, 0.06]))
    pace = float(np.clip(rng.normal(*_WALK_M_S), 0.8, 1.8))
    route = random_route(scene, rng)
    aside, at, stop_s = rng.normal(0, 0.35), rng.uniform(0.3, 0.7), rng.uniform(2, 9)
    waits, turns = rng.random() < 0.15, rng.random() < 0.04
    people: list[Actor] = []
    for member in range(count):
        points = follow(route, pace, aside + 0.55 * member, rng)
        if waits:
            points = waiting(points, at, stop_s, rng)
        elif turns and not scene.one_way:
            points = turned_back(points, at)
        people.append(random_person(scene, start_s + rng.uniform(0, 0.3), points, pace, rng))
    return people


def random_route(scene: Scene, rng: Generator) -> Floats:
    """One of the routes of people, in either direction unless there is but one."""
    route, back = scene.routes[int(rng.integers(len(scene.routes)))], rng.random() < 0.5
    return route[::-1] if back and not scene.one_way else route


def random_person(scene: Scene, start_s: float, points: list[Floats], pace_m_s: float, rng: Generator) -> Person:
    """Somebody who goes along these points."""
    return Person(
        looks=random_looks(rng),
        track=make_track(start_s, points),
        pace_m_s=pace_m_s,
        grain=surface_grain(rng, scene.sun[0], 0.07),
        first_phase=rng.uniform(0, 2 * np.pi),
        bag=(60.0, 50.0, 46.0) if rng.random() < 0.12 else None,
    )
