"""A whole dashboard for tests in a browser: Redis, server, evidence, users, and what the service would write."""

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import av
import cv2
import numpy as np

from streamer.config import RedisSettings, Settings
from streamer.dashboard.server import run_dashboard
from streamer.dashboard.users import add_user
from streamer.demo.embedded import embedded_redis
from streamer.minutes import ScoreMinute
from streamer.redis.client import make_redis
from tests.harness.dashboard import wait_for
from tests.harness.stream_entries import EVENT, HEALTH

CHROMIUM = Path("/usr/bin/chromium")
PASSWORD = "correct horse battery"
HOSTILE = "<script>alert(1)</script>"
WIDTH, HEIGHT = 192, 144


def now_ms() -> int:
    return round(time.time() * 1000)


class Stack:
    """What the tests write to, and the server, which can be stopped and started again on its port."""

    def __init__(self, settings: Settings, client: Any) -> None:
        self.settings, self.redis = settings, client
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.settings.dashboard.port}"

    def start(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=run_dashboard, args=(self.settings, self._stop), name="dashboard")
        self._thread.start()
        wait_for(lambda: answers(self.address), 20)

    def stop(self) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join(10)
        assert not self._thread.is_alive()

    def score(self, camera_id: str, score: float, **more: object) -> None:
        """Write a score as the service does."""
        fields = {
            "captured_at_ms": now_ms(),
            "scored_at_ms": now_ms(),
            "score": score,
            "threshold": 1.5,
            "partition": 0,
            "offset": 1,
        }
        self._add(f"scores:{camera_id}", {**fields, **more})

    def minutes(self, camera_id: str, *minutes: ScoreMinute) -> None:
        """Write minutes of scores."""
        for minute in minutes:
            self._add(f"minutes:{camera_id}", minute.fields())

    def event(self, event_id: str, kind: str, camera_id: str, started_at_ms: int, **more: object) -> None:
        """Write an entry of an event."""
        told = {"channel": "speed", "text": "moves faster than things do there"} if kind != "end" else {"ended_at_ms": now_ms()}
        own = {
            "event_id": event_id,
            "kind": kind,
            "camera_id": camera_id,
            "started_at_ms": started_at_ms,
            "captured_at_ms": now_ms(),
        }
        self._add(
            "events",
            {**EVENT, "peak_score": 2.5, "threshold": 1.5, "bound": 1.4, "scored_at_ms": now_ms(), **own, **told, **more},
        )

    def health(self, camera_id: str, kind: str) -> None:
        """Write the start or the end of a covered lens."""
        self._add("health", {**HEALTH, "camera_id": camera_id, "kind": kind, "problem": "covered", "captured_at_ms": now_ms()})

    def picture(self, camera_id: str, captured_at_ms: int) -> None:
        """Write a camera's newest picture."""
        fields = {
            "captured_at_ms": captured_at_ms,
            "width_px": WIDTH,
            "height_px": HEIGHT,
            "jpeg": base64.b64encode(jpeg(90)).decode(),
        }
        self.redis.hset(f"{self.settings.redis.prefix}:picture:{camera_id}", mapping=fields)

    def _add(self, key: str, fields: Mapping[str, object]) -> None:
        self.redis.xadd(f"{self.settings.redis.prefix}:{key}", {name: str(value) for name, value in fields.items()})


def jpeg(level: int) -> bytes:
    """A grey picture with a white box."""
    picture = np.full((HEIGHT, WIDTH, 3), level, np.uint8)
    picture[40:80, 60:100] = 255
    return bytes(cv2.imencode(".jpg", picture)[1])


def write_evidence(root: Path, event_id: str, started_at_ms: int) -> None:
    """The evidence of an event, as ``oddsight-stream evidence`` writes it."""
    folder = root / time.strftime("%Y-%m-%d", time.gmtime(started_at_ms / 1000)) / event_id
    folder.mkdir(parents=True)
    (folder / "picture.jpg").write_bytes(jpeg(90))
    (folder / "usual.jpg").write_bytes(jpeg(60))
    cv2.imwrite(str(folder / "heatmap.png"), np.full((60, 90, 4), 120, np.uint8))
    with av.open(str(folder / "clip.mp4"), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for level in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH, 3), level * 8, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    description = {
        "schema": 1,
        "captured_at_ms": started_at_ms + 500,
        "width_px": WIDTH,
        "height_px": HEIGHT,
        "region": [60, 40, 40, 40],
        "clip": {"from_ms": started_at_ms - 1000, "to_ms": started_at_ms + 1000, "frames": 20},
        "missing": {},
        "scores": [[started_at_ms + 100 * step, 1 + step / 10, 1.5] for step in range(20)],
    }
    (folder / "evidence.json").write_text(json.dumps(description))


@contextmanager
def running_stack(folder: Path, **dashboard: object) -> Iterator[Stack]:
    """Redis and the dashboard with the users vic (viewer), olga (operator) and ada (admin), or with these settings of it."""
    if not dashboard:
        dashboard = {"users": folder / "users.json"}
        for name, role in (("vic", "viewer"), ("olga", "operator"), ("ada", "admin")):
            add_user(folder / "users.json", name, role, PASSWORD)  # type: ignore[arg-type]  # one of the roles
    with embedded_redis() as url, make_redis(RedisSettings(url=url)) as client:
        own = {"port": free_port(), **dashboard}
        content = {"redis": {"url": url}, "evidence": {"dir": folder / "evidence"}, "dashboard": own}
        stack = Stack(Settings.model_validate(content), client)
        stack.start()
        try:
            yield stack
        finally:
            stack.stop()


def answers(address: str) -> bool:
    """Whether a server answers there."""
    try:
        with urlopen(address) as answer:  # noqa: S310  our own server
            return bool(answer.status == 200)
    except OSError:
        return False


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
