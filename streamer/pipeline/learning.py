"""Which cameras' profiles are learned while they are watched, and what becomes of them.

Every few seconds the snapshot of a :class:`~streamer.pipeline.profile_learner.ProfileLearner` is written in the atomic
step of the frames; after a restart the frames behind it are replayed, so that none is missing or counted twice.
"""

from collections.abc import Mapping, Sequence
from typing import Final
from weakref import WeakKeyDictionary, WeakSet

import numpy as np
import structlog

from deploy.bundle import DEFAULT_BUNDLE, Bundle
from deploy.calibration import Calibration
from deploy.errors import ProfileCorrupt
from deploy.health import HealthChange, HealthState
from deploy.profile import Profile
from deploy.profile_learning import Normal, normal_size
from deploy.score_maps import Grid
from streamer.config import Settings, decision_times
from streamer.interfaces import Snapshot
from streamer.monitoring import Metrics
from streamer.pipeline.profile_learner import FOOTAGE_NAME, KnownLight, ProfileLearner
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
        self._one_light: WeakKeyDictionary[Profile, bool] = WeakKeyDictionary()

    def learns(self, camera_id: str) -> bool:
        """Whether the camera's profile is being learned: it has none of its own."""
        return self.enabled and self._profiles.get(camera_id) is None and not self._profiles.has_been_rejected(camera_id)

    def learns_light(self, camera_id: str) -> bool:
        """Whether a second light of the camera would be learned: it was learned live in one, and nobody froze its profile."""
        profile = self._profiles.get(camera_id)
        if not self.enabled or profile is None or profile.info.footage != (FOOTAGE_NAME,) or self._profiles.is_frozen(camera_id):
            return False
        if profile not in self._one_light:
            self._one_light[profile] = self._normal(profile).knows_one_light
        return self._one_light[profile]

    def needs_state(self, camera_id: str, health: HealthState) -> bool:
        """Whether a camera with this health is learned, so that the states of its frames are needed."""
        return self.learns(camera_id) or (_shows_unknown_light(health) and self.learns_light(camera_id))

    def advance(self, learners: Learners, outcome: Outcome, health: HealthState) -> LearningProgress | None:
        """Learn from a camera's next frame if it is being learned, unless its health is in doubt; how far it is learned.

        A camera with a profile is learned in a second light, while that is unknown. Raises RedisUnavailable as :meth:`add`.
        """
        in_unknown_light = _shows_unknown_light(health)
        if outcome.state is None or (outcome.profile is not None and not in_unknown_light):
            return None
        if health.is_trusted or in_unknown_light:
            return self.add(learners, outcome)
        learner = self._resumed(learners, outcome.info.camera_id)
        return LearningProgress(0.0, self._least_s) if learner is None else learner.progress()

    def end_light(self, learners: Learners, camera_id: str, changes: Sequence[HealthChange]) -> None:
        """Learn no more from a camera if its unknown light has ended with these changes; in the next night it goes on."""
        if any(change.kind == "end" and change.problem == "unknown_light" for change in changes):
            self.begin_anew(learners, camera_id)

    def add(self, learners: Learners, outcome: Outcome) -> LearningProgress:
        """Learn from a frame whose camera was being learned when it was scored, in its first light or in its second.

        Once all is learned, the camera's profile is stored, and the frames that are scored from then on have it.

        Raises RedisUnavailable if the profile was not stored; after a restart from the last snapshot it will be again.
        """
        camera_id = outcome.info.camera_id
        still_learned = self.learns(camera_id) if outcome.profile is None else self.learns_light(camera_id)
        if not still_learned:  # another profile came while the frame was scored
            learners[camera_id] = None
            return _LEARNED
        learner = self._resumed(learners, camera_id)
        if learner is None or not learner.goes_on_with(outcome):
            log.info("learning a camera", camera_id=camera_id, least_s=self._least_s, restarted=learner is not None)
            learner = learners[camera_id] = self.new_learner(camera_id)
        learner.add(outcome)
        if learner.calibration is None:
            return learner.progress()
        self._use(camera_id, learner, learner.calibration)
        learners[camera_id] = None
        return _LEARNED

    def _use(self, camera_id: str, learner: ProfileLearner, calibration: Calibration) -> None:
        """Serve a camera with what was learned."""
        before = self._profiles.get(camera_id)
        if before is None:
            profile = learner.profile(camera_id, self._head, calibration)
            self._profiles.adopt(profile)
            self._metrics.learned_profiles.inc()
        else:
            profile = learner.with_second_light(before, calibration)
            self._profiles.adopt_after(profile, before)
        log.info("camera learned", camera_id=camera_id, profile_id=profile.profile_id, frames=profile.info.frames)

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
        return {name: each if self.learns(name) or self.learns_light(name) else None for name, each in snapshots.items()}

    def _resumed(self, learners: Learners, camera_id: str) -> ProfileLearner | None:
        """A camera's learner, None if there is none yet."""
        learner = learners.get(camera_id)
        if isinstance(learner, Snapshot):
            learner = learners[camera_id] = self._restored(camera_id, learner)
        return learner

    def _restored(self, camera_id: str, snapshot: Snapshot) -> ProfileLearner:
        learner = self.new_learner(camera_id)
        try:
            learner.restore(snapshot)
        except ProfileCorrupt as error:
            log.warning("a camera is learned from the start again", camera_id=camera_id, reason=str(error))
        return learner

    def new_learner(self, camera_id: str) -> ProfileLearner:
        """The learner of a camera of which nothing is known yet, or nothing in its second light."""
        profile = self._profiles.get(camera_id)
        known = None if profile is None else KnownLight(self._normal(profile), profile.info.calibration)
        learner = ProfileLearner(self._model_id, self._grid, self._least_s, self._max_gap_ms, self._times, known)
        self._learners.add(learner)
        return learner

    def _normal(self, profile: Profile) -> Normal:
        return Normal.from_values(profile.values, self._grid.shape)


def _shows_unknown_light(health: HealthState) -> bool:
    """Whether a camera shows light that it was not learned in, and has for some time."""
    return health.problem == "unknown_light" and health.suspected_ms is None


def _is_enabled(bundle: Bundle, settings: Settings) -> bool:
    if settings.learning.enabled is not None:
        return settings.learning.enabled
    is_for_all = bundle.path == DEFAULT_BUNDLE or bundle.manifest.metrics.get("cameras", 1) > 1
    return is_for_all and bool(bundle.spec.profile_size)
