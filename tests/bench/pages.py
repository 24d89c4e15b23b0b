"""Whether the dashboard's memory is flat while many pages are open for long; prints one JSON object.

python tests/bench/pages.py [MINUTES] [PAGES]

Eight cameras with ten scores/s each, an event and a mark every ten seconds; each minute a tenth of the pages is closed and
opened again. The dashboard is a process of its own. The first fifth of the time is for filling what it keeps.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import linear_regression, mean

import httpx2

from streamer.config import Settings
from streamer.demo.embedded import embedded_redis
from streamer.redis.client import make_redis
from streamer.settings_file import settings_toml
from tests.harness.browser import Stack, answers, free_port, now_ms
from tests.harness.dashboard import wait_for

CAMERAS = tuple(f"camera-{number}" for number in range(8))
SAMPLE_S, EVENT_S, CHURN_S = 5.0, 10.0, 60.0
MIB = 1 << 20


class Pages:
    """Pages that are open: each reads all that comes, and keeps nothing."""

    def __init__(self, address: str, count: int) -> None:
        self._client = httpx2.AsyncClient(
            base_url=address, timeout=30, limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0)
        )
        self.bytes, self.ended = 0, 0
        self._tasks = [asyncio.create_task(self._read()) for _ in range(count)]

    async def _read(self) -> None:
        async with self._client.stream("GET", "/api/v1/stream") as answer:
            async for part in answer.aiter_raw():
                self.bytes += len(part)
        self.ended += 1

    async def change(self, share: float) -> None:
        """Close some, and open as many."""
        count = round(len(self._tasks) * share)
        for task in self._tasks[:count]:
            task.cancel()
        self._tasks = self._tasks[count:] + [asyncio.create_task(self._read()) for _ in range(count)]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()


def write(stack: Stack, number: int) -> None:
    """What a service writes within a tenth of a second."""
    for camera_id in CAMERAS:
        stack.score(camera_id, 0.5 + number % 10 / 20)
    if number % round(10 * EVENT_S) == 0:
        event_id, started_at_ms = f"{number:016x}", now_ms()
        for kind in ("start", "end"):
            stack.event(event_id, kind, CAMERAS[number % len(CAMERAS)], started_at_ms)
        mark = {"schema": "1", "event_id": event_id, "camera_id": CAMERAS[0], "kind": "true", "user": "bench", "at_ms": now_ms()}
        stack.redis.xadd(stack.settings.redis.marks_key, mark)


async def measure(stack: Stack, process: subprocess.Popen[bytes], minutes: float, count: int) -> dict[str, object]:
    """Memory of the dashboard in MiB over time, in MiB an hour, and what its pages got."""
    pages, samples, begin_s, number = Pages(stack.address, count), [], time.monotonic(), 0
    next_sample_s, next_churn_s = begin_s + SAMPLE_S, begin_s + CHURN_S
    while (now_s := time.monotonic()) < begin_s + minutes * 60:
        await asyncio.to_thread(write, stack, number)
        number += 1
        if now_s >= next_sample_s:
            samples.append((now_s - begin_s, resident_mib(process.pid)))
            next_sample_s += SAMPLE_S
        if now_s >= next_churn_s:
            await pages.change(0.1)
            next_churn_s += CHURN_S
        await asyncio.sleep(max(0.0, begin_s + number / 10 - time.monotonic()))
    async with httpx2.AsyncClient(base_url=stack.address) as client:
        still_open = (await client.get("/api/v1/system")).json()["dashboard"]["pages"]
    await pages.close()
    return {**found(samples), "cpu_share": cpu_s(process.pid) / (minutes * 60), "pages": still_open, "pages_ended": pages.ended,
            "received_mib": pages.bytes / MIB, "scores": number * len(CAMERAS)}  # fmt: skip


def found(samples: list[tuple[float, float]]) -> dict[str, object]:
    """The line through what was measured after the first fifth of the time."""
    settled = samples[len(samples) // 5 :]
    line = linear_regression(*zip(*settled, strict=True))
    tenth = max(1, len(settled) // 10)
    return {
        "mib_an_hour": line.slope * 3600,
        "begin_mib": mean(mib for _, mib in settled[:tenth]),
        "end_mib": mean(mib for _, mib in settled[-tenth:]),
        "highest_mib": max(mib for _, mib in samples),
    }


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def cpu_s(pid: int) -> float:
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def dashboard(folder: Path, settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """The command, until the block ends."""
    config = folder / "oddsight.toml"
    config.write_text(settings_toml(settings))
    command = [sys.executable, "-c", "from streamer.cli import main; main()", "dashboard", "--config", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{settings.dashboard.port}/"), 60)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()


def main() -> None:
    minutes, count = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0, int(sys.argv[2]) if len(sys.argv) > 2 else 100
    with tempfile.TemporaryDirectory() as name, embedded_redis() as url:
        settings = Settings.model_validate({"redis": {"url": url}, "dashboard": {"port": free_port()}})
        with make_redis(settings.redis) as client, dashboard(Path(name), settings) as process:
            result = asyncio.run(measure(Stack(settings, client), process, minutes, count))
    sys.stdout.write(json.dumps({"minutes": minutes, **result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
