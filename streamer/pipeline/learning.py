"""Which cameras' profiles are learned while they are watched, and what becomes of them.

Every few seconds the snapshot of a :class:`~streamer.pipeline.profile_learner.ProfileLearner` is written in the atomic
step of the frames; after a restart the frames behind it are replayed, so that none is missing or counted twice.
"""

from collections.abc import Mapping
from typing import Final
from weakref import WeakSet

import numpy as np
import structlog

from deploy.bundle import DEFAULT_BUNDLE, Bundle
from deploy.errors import ProfileCorrupt
from deploy.profile_learning import normal_size
from deploy.score_maps import Grid
from streamer.config import Settings, decision_times
from streamer.interfaces import Snapshot
from streamer.monitoring import Metrics
from streamer.pipeline.profile_learner import ProfileLearner
from streamer.pipeline.profiles import CameraProfiles
from streamer.types import LearningProgress, Outcome

log = structlog.get_logger("oddsight.learning")

_LEARNED: Final = LearningProgress(share=1.0, left_s=0.0)

Learners = dict[str, ProfileLearner | Snapshot | None]
"""camera_id -> learner, or its snapshot until the camera's next frame; None if it is learned, until the snapshot is dropped."""


class CameraLearning:
    """Which cameras are learned, and what becomes of their profiles."""

    def __init__(self, bundle: Bundle, settings: Settings, profiles: CameraProfiles, metrics: Metrics) -> None:
        """Raises ProfileIncompatible if ``learning.enabled`` is set for a model that learns no profiles from its states."""
        self.enabled = _is_enabled(bundle, settings)
        self._model_id, self._profiles, self._metrics = bundle.model_id, profiles, metrics
        self._least_s, self._times = settings.learning.min_minutes * 60, decision_times(settings)
        self._max_gap_ms = round(settings.decision.max_gap_s * 1000)
        self._grid = Grid.of(bundle) if self.enabled else Grid((1, 1), 1, 0.0, 0.1)
        default = np.empty(0, np.float32) if bundle.default_profile is None else bundle.default_profile
        self._head = default[: len(default) - normal_size(self._grid.shape)]
        self._learners: WeakSet[ProfileLearner] = WeakSet()

    def learns(self, camera_id: str) -> bool:
        """Whether the camera's profile is being learned: it has none of its own."""
        return self.enabled and self._profiles.get(camera_id) is None and not self._profiles.has_been_rejected(camera_id)

    def add(self, learners: Learners, outcome: Outcome) -> LearningProgress:
        """Learn from a frame that was scored with the default profile because its camera was being learned.

        Once all is learned, the camera's profile is stored, and the frames that are scored from then on have it.

        Raises RedisUnavailable if the profile was not stored; after a restart from the last snapshot it will be again.
        """
        camera_id = outcome.info.camera_id
        if not self.learns(camera_id):  # another profile came while the frame was scored
            learners[camera_id] = None
            return _LEARNED
        learner = self._resumed(learners, camera_id)
        if learner is None or learner.sees_another_size(outcome.info):
            log.info("learning a camera", camera_id=camera_id, least_s=self._least_s, restarted=learner is not None)
            learner = learners[camera_id] = self.new_learner()
        learner.add(outcome)
        if learner.calibration is None:
            return learner.progress()
        profile = learner.profile(camera_id, self._head, learner.calibration)
        self._profiles.adopt(profile)
        self._metrics.learned_profiles.inc()
        log.info("camera learned", camera_id=camera_id, profile_id=profile.profile_id, frames=profile.info.frames)
        learners[camera_id] = None
        return _LEARNED

    def progress(self, learners: Learners, camera_id: str) -> LearningProgress:
        """How far a camera is learned; nothing is learned from the present frame."""
        learner = self._resumed(learners, camera_id)
        return LearningProgress(0.0, self._least_s) if learner is None else learner.progress()

    def begin_anew(self, learners: Learners, camera_id: str) -> None:
        """Frames of the camera are left out, after which it starts with a new clip."""
        learner = learners.get(camera_id)
        if isinstance(learner, ProfileLearner):
            learner.begin_anew()

    def snapshots(self, learners: Learners, *, everyone: bool = False) -> dict[str, Snapshot | None]:
        """What the next step is to store: snapshots that are due, or those of ``everyone``; None for cameras that are learned."""
        self._metrics.learning_cameras.set(len(self._learners))
        ended = [camera_id for camera_id, learner in learners.items() if learner is None]
        for camera_id in ended:
            del learners[camera_id]
        awake = {name: each for name, each in learners.items() if isinstance(each, ProfileLearner)}
        return {
            **dict.fromkeys(ended),
            **{name: each.snapshot() for name, each in awake.items() if everyone or each.is_snapshot_due()},
        }

    def shelved(self, learners: Learners, camera_id: str) -> Snapshot | None:
        """The snapshot that can take the learner's place while the camera is silent; None if it has none in memory.

        No frame is needed to go on from it: after the silence the camera starts with a new clip.
        """
        learner = learners.get(camera_id)
        return learner.snapshot().model_copy(update={"clip_from": None}) if isinstance(learner, ProfileLearner) else None

    def restore(self, snapshots: Mapping[str, Snapshot]) -> Learners:
        """The learners of cameras with snapshots: None for one that is not to be learned any more."""
        return {name: snapshot if self.learns(name) else None for name, snapshot in snapshots.items()}

    def _resumed(self, learners: Learners, camera_id: str) -> ProfileLearner | None:
        """A camera's learner, None if there is none yet."""
        learner = learners.get(camera_id)
        if isinstance(learner, Snapshot):
            learner = learners[camera_id] = self._restored(camera_id, learner)
        return learner

    def _restored(self, camera_id: str, snapshot: Snapshot) -> ProfileLearner:
        learner = self.new_learner()
        try:
            learner.restore(snapshot)
        except ProfileCorrupt as error:
            log.warning("a camera is learned from the start again", camera_id=camera_id, reason=str(error))
        return learner

    def new_learner(self) -> ProfileLearner:
        """The learner of a camera of which nothing is known yet."""
        learner = ProfileLearner(self._model_id, self._grid, self._least_s, self._max_gap_ms, self._times)
        self._learners.add(learner)
        return learner


def _is_enabled(bundle: Bundle, settings: Settings) -> bool:
    if settings.learning.enabled is not None:
        return settings.learning.enabled
    is_for_all = bundle.path == DEFAULT_BUNDLE or bundle.manifest.metrics.get("cameras", 1) > 1
    return is_for_all and bool(bundle.spec.profile_size)
