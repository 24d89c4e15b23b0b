"""``oddsight-stream cameras``: what each camera is served with, and the changes that operators make to it."""

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.bundle import read_bundle
from deploy.calibration import Thresholds
from deploy.errors import ConfigError, ProfileCorrupt, ProfileError
from deploy.health import HealthProblem
from deploy.profile import Profile, read_profile, require_profile_of, write_profile
from streamer.config import CameraSettings, Settings, camera_thresholds
from streamer.redis.client import RedisProgressStore, make_redis
from streamer.redis.profiles import RedisProfileStore
from streamer.redis.subscriber import ScoreEntry, count_events, newest_scores
from streamer.types import CAMERA_ID_RULE, is_camera_id

DEFAULT = "default"
_CAMERA_HEADINGS = (
    "camera",
    "state",
    "profile",
    "created",
    "frames",
    "enter",
    "exit",
    "false/day at most",
    "events/day",
    "last frame",
    "event for",
    "health",
    "problem",
)
_VERSION_HEADINGS = ("", "profile", "created", "frames", "enter", "exit", "false/day at most", "model", "problem")
_DAY_S = 86_400
_UNITS_S = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """A camera that has a profile or scores in Redis."""

    camera_id: str
    state: Literal["learning", "watching"]
    """``learning``: no events are raised, or only provisional ones."""
    learned_share: float | None
    """Share of the least time of learning that is over, 0 to 1; None while watching."""
    learning_left_s: float | None
    """The rest of that time; 0 while more certainty is waited for."""
    profile_id: str
    """``default`` for the bundle's default profile."""
    created_at: str | None
    """ISO 8601; None for the default profile, as the number of frames that it was learned from."""
    frames: int | None
    enter: float | None
    """Threshold in force; None if no frame was scored with the default yet."""
    exit: float | None
    """Threshold in force; None for the bundle's."""
    bound: float | None
    """False events a day at most, as in events; None for the bundle's."""
    observed_s: float | None
    """Duration of the footage that the bound rests on; None for the bundle's."""
    last_frame_ms: int | None
    """Capture time of the last frame with a score, in milliseconds since the Unix epoch."""
    problem: str | None
    """Why the profile is not what the camera's last frame was scored with."""
    frozen: bool = False
    """Whether its thresholds stay as they are, by ``freeze``."""
    events_day: int = 0
    """Events that were announced in the last 24 hours."""
    event_started_ms: int | None = None
    """Start of the camera's event, if one is going on."""
    health: HealthProblem | None = None
    """What is wrong with the camera or its picture."""


@contextmanager
def open_store(settings: Settings) -> Iterator[RedisProfileStore]:
    """The store of profiles in the settings' Redis."""
    with make_redis(settings.redis) as client:
        yield RedisProfileStore(client, settings.redis)


def list_cameras(settings: Settings, only: Collection[str] | None = None) -> list[CameraStatus]:
    """All cameras that have a profile or scores in Redis, by name, or ``only`` some. Raises RedisUnavailable."""
    with make_redis(settings.redis) as client:
        store = RedisProfileStore(client, settings.redis)
        current, frozen, scores = store.current(), store.frozen(), newest_scores(client, settings.redis)
        announced = count_events(client, settings.redis, round((time.time() - _DAY_S) * 1000))
        progress = RedisProgressStore(client, settings.redis, settings.kafka.consumer_group)
        states = progress.camera_states(settings.kafka.topic)
        events = {camera_id: state.event for camera_id, state in states.items() if state.event is not None}
        starts_ms = {name: event.started_at_ms for name, event in events.items() if event.announced_at_ms is not None}
        return [
            replace(
                _status(settings, store, camera_id, current.get(camera_id), scores.get(camera_id)),
                frozen=camera_id in frozen,
                events_day=announced[camera_id],
                event_started_ms=starts_ms.get(camera_id),
                health=states[camera_id].problem if camera_id in states else None,
            )
            for camera_id in sorted(current.keys() | scores.keys())
            if only is None or camera_id in only
        ]


def import_profiles(settings: Settings, paths: Sequence[Path]) -> list[str]:
    """Make the profiles in files their cameras' current ones, after all were checked; returns a line for each.

    Raises:
        ProfileError: a file is no profile, two are of one camera, or one does not belong to ``engine.bundle``, if that is set.
        ConfigError: a threshold in the settings contradicts a profile's.
    """
    profiles = [_checked_profile(settings, path) for path in paths]
    ids = [profile.info.camera_id for profile in profiles]
    if twice := next((camera_id for camera_id in ids if ids.count(camera_id) > 1), None):
        raise ProfileError(f"several files are profiles of camera {twice!r}; import one of them")
    with open_store(settings) as store:
        before = store.current()
        for profile in profiles:
            store.put(profile)
    return [
        f"{camera_id}: {before.get(camera_id, DEFAULT)} -> {each.profile_id}"
        for camera_id, each in zip(ids, profiles, strict=True)
    ]


def export_profile(settings: Settings, camera_id: str, path: Path) -> str:
    """Write a camera's current profile to a new file; returns its profile_id. Raises ProfileError if the file exists."""
    if path.exists():
        raise ProfileError(f"{path}: exists already; give another --out")
    with open_store(settings) as store:
        profile_id = store.served(camera_id)
        profile = store.read(camera_id, profile_id)
    try:
        write_profile(path, profile)
    except OSError as error:
        raise ProfileError(f"{path}: {error.strerror}; give another --out") from error
    return profile_id


def print_cameras(cameras: Sequence[CameraStatus]) -> None:
    """Print a table, a line for each camera."""
    now_s = time.time()
    _print_rows(
        _CAMERA_HEADINGS,
        [
            (
                each.camera_id,
                _state(each),
                each.profile_id,
                *map(_cell, (each.created_at, each.frames, each.enter, each.exit)),
                _promise(each.bound, each.observed_s),
                str(each.events_day),
                _age(now_s, each.last_frame_ms),
                _age(now_s, each.event_started_ms),
                each.health or "well",
                _cell(each.problem),
            )
            for each in cameras
        ],
    )


@dataclass(frozen=True, slots=True)
class ProfileVersion:
    """One version of a camera's profile; of one that cannot be read only the id and the problem are known."""

    profile_id: str
    is_current: bool
    problem: str | None
    created_at: str | None = None
    frames: int | None = None
    enter: float | None = None
    exit: float | None = None
    bound: float | None = None
    observed_s: float | None = None
    model_id: str | None = None


def list_versions(settings: Settings, camera_id: str) -> list[ProfileVersion]:
    """The versions kept of a camera's profile, the one imported last first. Raises RedisUnavailable."""
    with open_store(settings) as store:
        current = store.current().get(camera_id)
        return [_version(settings, store, camera_id, each, current) for each in store.versions(camera_id)]


def print_versions(settings: Settings, camera_id: str) -> None:
    """Print the versions of a camera's profile, the one imported last first. Raises ProfileError if there are none."""
    versions = list_versions(settings, camera_id)
    if not versions:
        raise ProfileError(f"camera {camera_id!r} never had a profile of its own; see: oddsight-stream cameras")
    _print_rows(
        _VERSION_HEADINGS,
        [
            (
                "current" if each.is_current else "",
                each.profile_id,
                *map(_cell, (each.created_at, each.frames, each.enter, each.exit)),
                _promise(each.bound, each.observed_s),
                *map(_cell, (each.model_id, each.problem)),
            )
            for each in versions
        ],
    )


def _checked_profile(settings: Settings, path: Path) -> Profile:
    profile = read_profile(path)
    info = profile.info
    if not is_camera_id(info.camera_id):
        raise ProfileError(f"{path}: a camera_id must be {CAMERA_ID_RULE}, got {info.camera_id[:40]!r}; learn the profile again")
    if settings.engine.bundle is not None:
        require_profile_of(read_bundle(settings.engine.bundle, settings.engine.trusted_keys), profile)
    camera_thresholds(settings, info.camera_id, info.calibration)
    return profile


def _status(
    settings: Settings,
    store: RedisProfileStore,
    camera_id: str,
    profile_id: str | None,
    newest: ScoreEntry | None,
) -> CameraStatus:
    profile, problem = _read(store, camera_id, profile_id)
    if problem is None and newest is not None and newest.profile_id != profile_id:
        problem = f"last frame scored with {newest.profile_id or DEFAULT}; if this stays, see the service's log"
    own = settings.cameras.get(camera_id, CameraSettings())
    limits, problem = _thresholds(settings, profile, problem)
    learning = newest is not None and newest.learning is not None and newest.profile_id == profile_id
    return CameraStatus(
        camera_id=camera_id,
        state="learning" if learning else "watching",
        learned_share=newest.learning if newest is not None and learning else None,
        learning_left_s=newest.learning_left_s if newest is not None and learning else None,
        profile_id=profile_id or DEFAULT,
        created_at=None if profile is None else profile.info.created_at.isoformat(timespec="seconds"),
        frames=None if profile is None else profile.info.frames,
        enter=limits.enter if limits else own.enter if newest is None else newest.threshold,
        exit=limits.exit if limits else own.exit,
        bound=limits.bound if limits and isfinite(limits.bound) else None,
        observed_s=None if profile is None else profile.info.calibration.observed_s,
        last_frame_ms=None if newest is None else newest.captured_at_ms,
        problem=problem,
    )


def _read(store: RedisProfileStore, camera_id: str, profile_id: str | None) -> tuple[Profile | None, str | None]:
    """The profile, or why it cannot be read; neither for the default."""
    if profile_id is None:
        return None, None
    try:
        return store.read(camera_id, profile_id), None
    except ProfileCorrupt as error:
        return None, str(error)


def _thresholds(settings: Settings, profile: Profile | None, problem: str | None) -> tuple[Thresholds | None, str | None]:
    """The thresholds with a profile, and the problem or one that there is with them."""
    if profile is None:
        return None, problem
    try:
        return camera_thresholds(settings, profile.info.camera_id, profile.info.calibration), problem
    except ConfigError as error:
        return None, problem or str(error)


def _version(
    settings: Settings, store: RedisProfileStore, camera_id: str, profile_id: str, current: str | None
) -> ProfileVersion:
    profile, problem = _read(store, camera_id, profile_id)
    limits, problem = _thresholds(settings, profile, problem)
    if profile is None or limits is None:
        return ProfileVersion(profile_id, profile_id == current, problem)
    info = profile.info
    return ProfileVersion(
        profile_id=profile_id,
        is_current=profile_id == current,
        problem=None,
        created_at=info.created_at.isoformat(timespec="seconds"),
        frames=info.frames,
        enter=limits.enter,
        exit=limits.exit,
        bound=limits.bound if isfinite(limits.bound) else None,
        observed_s=info.calibration.observed_s,
        model_id=info.model_id,
    )


def _promise(bound: float | None, observed_s: float | None) -> str:
    if observed_s is None:
        return "-"
    return f"{'?' if bound is None else f'{bound:.2g}' if bound < 10 else f'{bound:,.0f}'} after {_span(round(observed_s))}"


def _state(camera: CameraStatus) -> str:
    if camera.learned_share is None:
        return "watching, frozen" if camera.frozen else camera.state
    left = f"{_span(round(camera.learning_left_s))} left" if camera.learning_left_s else "until certain"
    return f"learning {camera.learned_share:.0%}, {left}"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _age(now_s: float, since_ms: int | None) -> str:
    """Time since then in its largest unit."""
    return "-" if since_ms is None else _span(max(0, round(now_s - since_ms / 1000)))


def _span(seconds: int) -> str:
    unit, size = next(((unit, size) for unit, size in _UNITS_S if seconds >= size), _UNITS_S[-1])
    return f"{seconds // size} {unit}"


def _print_rows(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on a terminal, and lines of cells elsewhere."""
    console = Console()
    if not console.is_terminal:
        for row in (headings, *rows):
            typer.echo("  ".join(row))
        return
    table = Table(*headings)
    for row in rows:
        table.add_row(*map(Text, row))  # as Text: rich would read a camera_id like "gate[/]" as markup
    console.print(table)
