"""What comes from Redis: progress, profiles, references, snapshots of learners, and the streams that subscribers follow."""

import base64
import io
import json
import zlib
from typing import Any, cast

import numpy as np
import redis
from rich.console import Console

from deploy.calibration import thresholds
from deploy.decision import DecisionTimes, OpenEvent
from deploy.errors import MemoryCorrupt, OddsightError, ProfileCorrupt
from deploy.health import (
    FaultState,
    HealthState,
    PictureWatch,
    advance,
    advance_fault,
    follow,
    learn_reference,
    measure,
    parse_reference,
    reference_text,
)
from deploy.memory import REMEMBERED_MAPS, pack_memory, unpack_memory, with_remembered
from deploy.profile import parse_profile, profile_bytes
from streamer.config import RedisSettings, Settings
from streamer.dashboard.timeline import make_timeline
from streamer.interfaces import CameraState, ProgressUnusable, Snapshot, Step, TopicVersion
from streamer.minutes import ScoreMinute
from streamer.pipeline.decide import Decider
from streamer.pipeline.profile_learner import ProfileLearner
from streamer.redis.minutes import minute_entries
from streamer.redis.profiles import RedisProfileStore
from streamer.redis.stored import parse_progress, progress_fields
from streamer.redis.subscriber import Subscriber, newest_scores
from streamer.types import FrameInfo, Outcome, Partition
from streamer.watch import Dashboard, event_cells, health_cells
from tests.fuzz.target import PLAIN_JSON, Layout, Target
from tests.fuzz.targets.bundles import join_tensors, profile_samples, split_tensors
from tests.harness.pipeline import BUNDLE
from tests.harness.stream_entries import EVENT, HEALTH
from tests.harness.video_bundle import GRID, SPEC

_PARTITION = Partition("frames", 0)
_INFO = FrameInfo(_PARTITION, 20, "gate", 1_700_000_000_000, 640, 480)


class _Damaged(OddsightError):
    """Something stored was left out, and is counted or told."""


_MINUTE = ScoreMinute(minute_at_ms=60_000, frames=2, total=0.75, highest=0.5, highest_at_ms=60_100, threshold=0.1 + 0.2)


def _as_text(content: bytes) -> str:
    """As the client of Redis gives it."""
    return content.decode(errors="replace")


def _as_hash(content: bytes) -> dict[str, str]:
    """Fields and values, which are text in Redis; what is no JSON object is one field's value."""
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        tree = _as_text(content)
    fields = tree if isinstance(tree, dict) else {"camera:gate": tree}
    return {_clean(name): _clean(value) for name, value in fields.items()}


def _clean(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode(errors="replace").decode()


def progress() -> Target:
    """A partition's progress, and the next frame of each of its cameras."""
    open_event = OpenEvent(event_id="e", started_at_ms=1, last_active_ms=2, peak_score=0.9, announced_at_ms=1)
    state = CameraState(
        clip_from=3,
        event=open_event,
        health=HealthState(problem="dark", since_ms=7),
        damaged=FaultState(share=0.5),
        minute=_MINUTE,
    )
    snapshot = Snapshot(clip_from=3, content="AAAA")
    step = Step(
        _PARTITION,
        None,
        9,
        {"gate": state},
        learners={"gate": snapshot},
        memories={"gate": snapshot},
        topic=TopicVersion(topic_id="a", partitions=2),
    )
    decider = Decider(Settings(), BUNDLE, "fuzz", lambda: 1_700_000_000.0)

    def parse(content: bytes) -> None:
        stored = parse_progress(_as_hash(content), "key")
        for camera_id, each in stored.cameras.items():
            for score in (0.9, 0.1):
                outcome = Outcome(_INFO, each.clip_from, None, score)
                decision = decider.decide(each, outcome)
                for event in decision.events:
                    event.fields()
                if decision.state.minute is not None:
                    decision.state.minute.fields()
            advance(each.health, None, _INFO.captured_at_ms)
            advance_fault(each.damaged, "damaged", _INFO.captured_at_ms, has_fault=True)
            progress_fields(Step(_PARTITION, stored.next_offset, 10, {camera_id: decision.state}, topic=stored.topic))
        if stored.damaged:
            raise _Damaged

    valid = [json.dumps({**progress_fields(step), "next_offset": "9", "step_id": "f"}).encode()]
    return Target("progress", parse, (ProgressUnusable, _Damaged), valid, layout=PLAIN_JSON, share=2)


class _Hash:
    """A client of Redis that knows one text."""

    def __init__(self) -> None:
        self.text = ""

    def hstrlen(self, *_: object) -> int:
        return len(self.text)

    def hget(self, *_: object) -> str:
        return self.text


def stored_profiles() -> Target:
    """A profile in Redis, where it is base64."""
    client = _Hash()
    store = RedisProfileStore(cast("redis.Redis", client), RedisSettings())
    whole = [parse_profile(content, "fuzz") for content in profile_samples()]

    def parse(content: bytes) -> None:
        client.text = _as_text(content)
        own = whole[len(content) % 2]
        profile = store.read(own.info.camera_id, own.profile_id)
        thresholds(profile.info.calibration, 1.0, DecisionTimes())

    def split(content: bytes) -> tuple[bytes, bytes]:
        return split_tensors(base64.b64decode(content))

    def join(header: bytes, tensors: bytes) -> bytes:
        return base64.b64encode(join_tensors(header, tensors))

    valid = [base64.b64encode(profile_bytes(profile)) for profile in whole]
    return Target("stored-profiles", parse, (ProfileCorrupt,), valid, layout=Layout(split, join), share=2)


def references() -> Target:
    """How a camera's picture looks, compared with its next picture."""
    frame = np.tile(np.arange(0, 240, 4, np.uint8), (48, 1))[..., None]

    def parse(content: bytes) -> None:
        reference = parse_reference(_as_text(content))
        watch = PictureWatch(reference)
        look = watch.look(frame, 1_000)
        if watch.reference is None or look is None:
            raise _Damaged
        reference_text(follow(watch.reference, look.seen))

    valid = [reference_text(learn_reference([measure(frame)] * 3, 500.0)).encode()]
    return Target("references", parse, (_Damaged,), valid, layout=PLAIN_JSON, share=2)


def _learner() -> ProfileLearner:
    return ProfileLearner("video-0", GRID, 60.0, 5_000, DecisionTimes())


def _seen(offset: int) -> Outcome:
    state = np.full(SPEC.state_shape or (), 5.0, np.float32)
    info = FrameInfo(_PARTITION, offset, "gate", 1_700_000_000_000 + 100 * offset, 24, 16)
    return Outcome(info, offset - 1, None, 0.5, state=state, picture=np.zeros((2, 3), np.uint8))


def learners() -> Target:
    """A learner's snapshot, from which it goes on with the next frames."""

    def parse(content: bytes) -> None:
        learner = _learner()
        learner.restore(Snapshot(clip_from=None, content=_as_text(content)))
        for offset in (1_000_000, 1_000_001):
            learner.add(_seen(offset))
        learner.progress()
        learner.snapshot()

    valid = []
    for frames in (3, 130):
        learner = _learner()
        for offset in range(frames):
            learner.add(_seen(offset))
        valid.append(learner.snapshot().content.encode())

    def split(content: bytes) -> tuple[bytes, bytes]:
        return split_tensors(zlib.decompress(base64.b64decode(content)))

    def join(header: bytes, tensors: bytes) -> bytes:
        return base64.b64encode(zlib.compress(join_tensors(header, tensors), 1))

    return Target("learners", parse, (ProfileCorrupt,), valid, layout=Layout(split, join), share=0.4)


def memories() -> Target:
    """What is stored of a model's state."""

    def parse(content: bytes) -> None:
        with_remembered(np.zeros((40, *GRID.shape), np.float32), unpack_memory(_as_text(content), GRID.shape))

    maps = np.linspace(0, 1, REMEMBERED_MAPS * GRID.shape[0] * GRID.shape[1], dtype=np.float32)
    valid = [pack_memory(each.reshape(-1, *GRID.shape)).encode() for each in (maps, np.zeros_like(maps))]

    def split(content: bytes) -> tuple[bytes, bytes]:
        return b"{}", zlib.decompress(base64.b64decode(content))  # there is no JSON

    def join(_: bytes, planes: bytes) -> bytes:
        return base64.b64encode(zlib.compress(planes, 1))

    return Target("memories", parse, (MemoryCorrupt,), valid, layout=Layout(split, join), share=0.4)


class _Streams:
    """A client of Redis whose three streams each hold one entry."""

    def __init__(self) -> None:
        self.fields: dict[str, str] = {}

    def scan_iter(self, **_: object) -> list[str]:
        return ["oddsight:scores:gate"]

    def xrevrange(self, *_: object, **__: object) -> list[tuple[str, dict[str, str]]]:
        return [("1-0", self.fields)]

    def xread(self, *_: object, **__: object) -> list[tuple[str, list[tuple[str, dict[str, str]]]]]:
        return [(key, [("2-0", self.fields)]) for key in ("oddsight:events", "oddsight:health", "oddsight:scores:gate")]


_ENTRIES: list[dict[str, str]] = [
    EVENT,
    {"captured_at_ms": "1", "score": "0.25", "threshold": "0.5", "scored_at_ms": "2", "learning": "0.1", "learning_left_s": "9"},
    HEALTH,
    _MINUTE.fields(),
]


def streams() -> Target:
    """Entries of the streams of events, health, scores and minutes, as ``watch``, ``cameras`` and the timeline read them."""
    client, settings = _Streams(), RedisSettings()
    console = Console(file=io.StringIO(), width=100)

    def parse(content: bytes) -> None:
        client.fields = _as_hash(content)
        follower = Subscriber(cast("redis.Redis", client), settings, from_start=False)
        dashboard = Dashboard()
        dashboard.recall(follower.recent())
        updates = follower.poll(0.0)
        dashboard.update(updates)
        for cells in (*map(event_cells, updates.events), *map(health_cells, updates.health)):
            assert all(isinstance(cell, str) for cell in cells)
        console.print(dashboard.render())
        console.file = io.StringIO()
        newest_scores(cast("redis.Redis", client), settings)
        minutes = list(minute_entries(client.fields))
        make_timeline(minutes, [], None)
        if not (updates.scores or updates.events or updates.health or minutes):
            raise _Damaged

    valid = [json.dumps(entry).encode() for entry in _ENTRIES]
    return Target("streams", parse, (_Damaged,), valid, layout=PLAIN_JSON, share=0.2)
