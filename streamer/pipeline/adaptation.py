"""Adapts the network to cameras that were learned live, from footage that is kept on disk while they are learned.

``oddsight-train enrol`` does it, in a process of its own with the lowest priority, one camera at a time. Until it is done, and if
it fails, a camera is served with the profile that was learned live. The footage is deleted afterwards.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote, unquote

import structlog

from deploy.bundle import Bundle
from deploy.errors import ConfigError, ProfileError
from deploy.files import lock_file
from deploy.profile import Profile, read_profile
from deploy.video import JpegRecording
from streamer.config import Settings
from streamer.interfaces import ProfileStore, RedisUnavailable
from streamer.monitoring import Metrics
from streamer.pipeline.learning import CameraLearning
from streamer.pipeline.profile_learner import FOOTAGE_NAME
from streamer.pipeline.profiles import CameraProfiles
from streamer.types import FrameInfo, FrameMessage

log = structlog.get_logger("oddsight.adaptation")

ENROL: Final = (sys.executable, "-m", "trainer.cli", "enrol")
_JPEG: Final = b"\xff\xd8\xff"
_RATE_IMAGES: Final = 20  # that tell the rate of a video, which stands at its beginning
_PART_MS: Final = 60_000
_PARTS: Final = 8  # that a ring has at least when it is full, so that little is lost with the oldest
_LOWEST_PRIORITY: Final = 19
_FOLDER: Final = "camera-"
_RESULT, _SAID, _LOCK = "adapted.safetensors", "enrol.log", ".lock"  # files beside the footage


class FootageRing:
    """Keeps the newest images of one camera in a folder, as videos of up to a minute. Every method may raise OSError."""

    def __init__(self, folder: Path, max_bytes: int, max_gap_ms: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._max_bytes, self._max_gap_ms = folder, max_bytes, max_gap_ms
        self._number = max((int(path.stem) for path in self._parts()), default=0)
        self._recording: JpegRecording | None = None
        self._pending: list[tuple[bytes, FrameInfo]] = []
        """The first images of a part, until there are enough to tell its rate."""
        self._bytes = 0
        self._first: FrameInfo | None = None
        self._newest: FrameInfo | None = None

    def add(self, image: bytes, info: FrameInfo) -> None:
        """Add the camera's next image, a JPEG."""
        if not self._continues(info):
            self.close()
        self._first, self._newest = self._first or info, info
        self._pending.append((image, info))
        if self._recording is None and len(self._pending) == _RATE_IMAGES:
            self._open(self._first, info)
        if self._recording is not None:
            self._write(self._recording, self._first)

    def close(self) -> None:
        """End the present video."""
        recording, self._recording, self._first, self._newest = self._recording, None, None, None
        self._pending, self._bytes = [], 0
        if recording is not None:
            recording.close()

    def _continues(self, info: FrameInfo) -> bool:
        if self._first is None or self._newest is None or self._bytes > self._max_bytes // _PARTS:
            return False
        same_size = (info.width_px, info.height_px) == (self._first.width_px, self._first.height_px)
        follows = 0 < info.captured_at_ms - self._newest.captured_at_ms <= self._max_gap_ms
        return same_size and follows and info.captured_at_ms - self._first.captured_at_ms < _PART_MS

    def _open(self, first: FrameInfo, newest: FrameInfo) -> None:
        oldest = self._parts()
        sizes = [path.stat().st_size for path in oldest]
        while oldest and sum(sizes) > self._max_bytes * (_PARTS - 1) // _PARTS:
            oldest.pop(0).unlink()
            sizes.pop(0)
        self._number += 1
        fps = (_RATE_IMAGES - 1) * 1000 / (newest.captured_at_ms - first.captured_at_ms)
        self._recording = JpegRecording(self._folder / f"{self._number:06d}.mkv", first.width_px, first.height_px, fps)

    def _write(self, recording: JpegRecording, first: FrameInfo) -> None:
        for image, info in self._pending:
            recording.add(image, info.captured_at_ms - first.captured_at_ms)
            self._bytes += len(image)
        self._pending = []

    def _parts(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*.mkv") if path.stem.isdecimal())


@dataclass(frozen=True, slots=True)
class _Job:
    """The enrolment of one camera that is going on."""

    camera_id: str
    folder: Path
    before: str
    """The profile_id that the result replaces."""
    process: subprocess.Popen[bytes]
    lock: IO[str]
    """Held until the end: services may share the folder of footage."""

    def read_result(self) -> Profile:
        """The profile, once the process has ended. Raises ProfileError if it failed."""
        if self.process.returncode:
            said = (self.folder / _SAID).read_text(errors="replace").strip().splitlines()
            raise ProfileError(said[-1] if said else f"exit code {self.process.returncode}")
        return read_profile(self.folder / _RESULT)


class CameraAdaptation:
    """Keeps footage of the cameras that are learned, and has the network adapted to them; or does nothing."""

    def __init__(
        self,
        bundle: Bundle,
        settings: Settings,
        learning: CameraLearning,
        profiles: CameraProfiles,
        store: ProfileStore,
        metrics: Metrics,
        program: Sequence[str] = ENROL,
    ) -> None:
        """Raises ConfigError if there is a folder, but no PyTorch to adapt with, or the folder cannot be written to."""
        self._root = settings.learning.footage_dir if learning.enabled else None
        self._bundle, self._learning, self._profiles, self._store, self._metrics = bundle, learning, profiles, store, metrics
        self._max_bytes, self._max_gap_ms = settings.learning.footage_mb * 1_000_000, round(settings.decision.max_gap_s * 1000)
        self._program = program
        self._rings: dict[str, FootageRing | None] = {}
        """None for a camera whose footage cannot be kept."""
        self._job: _Job | None = None
        if self._root is not None:
            _check_folder(self._root)

    def record(self, message: FrameMessage, info: FrameInfo) -> None:
        """Keep a frame as it was received, if its camera is being learned."""
        camera_id, image = info.camera_id, message.value
        if self._root is None or image is None or not self._learning.learns(camera_id):
            return
        if not image.startswith(_JPEG):
            self._keep_no_footage(camera_id, "not all of its images are JPEGs")
            return
        try:
            if camera_id not in self._rings:
                self._rings[camera_id] = FootageRing(_folder(self._root, camera_id), self._max_bytes, self._max_gap_ms)
            if (ring := self._rings[camera_id]) is not None:
                ring.add(image, info)
        except OSError as error:
            self._keep_no_footage(camera_id, str(error))

    def _keep_no_footage(self, camera_id: str, reason: str) -> None:
        if self._rings.get(camera_id, self) is not None:
            log.warning("no footage is kept, so the network will not be adapted", camera_id=camera_id, reason=reason)
        self._rings[camera_id] = None

    def poll(self) -> None:
        """About once a second: begin the next adaptation, or take up the result of the one that is going on."""
        if self._root is None:
            return
        for camera_id in [name for name in self._rings if not self._learning.learns(name)]:
            self._close_ring(camera_id)
        if self._job is None:
            self._job = next((job for folder in sorted(self._root.glob(f"{_FOLDER}*")) if (job := self._begin(folder))), None)
        elif self._job.process.poll() is not None and self._has_finished(self._job):
            self._job = None

    def forget(self, camera_ids: Collection[str]) -> None:
        """End the videos of cameras; a later frame begins another one."""
        for camera_id in camera_ids:
            if camera_id in self._rings:
                self._close_ring(camera_id)

    def delete_footage(self, camera_ids: Collection[str]) -> None:
        """Delete the footage of forgotten cameras, unless the network is still to be adapted to them."""
        if self._root is None:
            return
        for camera_id in camera_ids:
            if self._profiles.get(camera_id) is None:
                shutil.rmtree(_folder(self._root, camera_id), ignore_errors=True)

    def close(self) -> None:
        """End what is going on; footage and unfinished adaptations are taken up by the next start."""
        for camera_id in list(self._rings):
            self._close_ring(camera_id)
        if self._job is not None:
            self._job.process.terminate()
            self._job.process.wait()
            self._job.lock.close()

    def _close_ring(self, camera_id: str) -> None:
        if (ring := self._rings.pop(camera_id)) is not None:
            with suppress(OSError):
                ring.close()

    def _begin(self, folder: Path) -> _Job | None:
        """Begin to adapt to the camera with this folder; None if it is still learned, or has another profile, or is in work."""
        camera_id = unquote(folder.name.removeprefix(_FOLDER))
        profile = self._profiles.get(camera_id)
        if profile is None or camera_id in self._rings:
            return None
        if profile.info.footage != (FOOTAGE_NAME,):
            shutil.rmtree(folder, ignore_errors=True)
            return None
        try:
            return self._start(camera_id, folder, profile)
        except BlockingIOError:
            return None
        except OSError as error:
            self._give_up(camera_id, folder, str(error))
            return None

    def _start(self, camera_id: str, folder: Path, profile: Profile) -> _Job:
        """Raises BlockingIOError if another service adapts to the camera, and OSError if the process cannot be started."""
        with ExitStack() as failed:
            lock = failed.enter_context(lock_file(folder / _LOCK))
            process = self._run_enrol(camera_id, folder)
            failed.pop_all()
        log.info("adapting the network to a camera", camera_id=camera_id)
        return _Job(camera_id, folder, profile.profile_id, process, lock)

    def _run_enrol(self, camera_id: str, folder: Path) -> subprocess.Popen[bytes]:
        result = folder / _RESULT
        result.unlink(missing_ok=True)
        options = [f"--bundle={self._bundle.path}", f"--camera-id={camera_id}", f"--data={folder}", f"--out={result}"]
        with (folder / _SAID).open("wb") as said:
            process = subprocess.Popen(  # noqa: S603  our own command; names are parts of options
                [*self._program, *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                # Ctrl-C is for the service, which ends this process itself. Not a session of its own: Linux gives each session
                # the same share of the processors, whatever the priorities in it.
                process_group=0,
            )
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, process.pid, _LOWEST_PRIORITY)
        return process

    def _has_finished(self, job: _Job) -> bool:
        """Take up the result; False to try again when Redis is back."""
        try:
            profile = job.read_result()
            stored = self._store.put_after(profile, job.before)
        except RedisUnavailable:
            return False
        except ProfileError as error:
            self._give_up(job.camera_id, job.folder, str(error))
        else:
            self._metrics.adaptations.labels("done" if stored else "dropped").inc()
            text = "network adapted to a camera" if stored else "adaptation dropped: the camera got another profile meanwhile"
            log.info(text, camera_id=job.camera_id, profile_id=profile.profile_id)
            shutil.rmtree(job.folder, ignore_errors=True)
        job.lock.close()
        return True

    def _give_up(self, camera_id: str, folder: Path, reason: str) -> None:
        self._metrics.adaptations.labels("failed").inc()
        log.warning(
            "the network could not be adapted to a camera; it is watched as it was learned", camera_id=camera_id, reason=reason
        )
        shutil.rmtree(folder, ignore_errors=True)


def _folder(root: Path, camera_id: str) -> Path:
    return root / (_FOLDER + quote(camera_id, safe=""))


def _check_folder(folder: Path) -> None:
    if find_spec("torch") is None:
        raise ConfigError("learning.footage_dir is set, but adapting needs PyTorch: pip install 'oddsight[train]', or unset it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"learning.footage_dir: {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"learning.footage_dir: {folder}: cannot be written to")
